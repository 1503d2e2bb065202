//! Jobs that say how long they may stay after they have ended, and have stayed that long.

use crate::controller::{Controller, Watches};
use crate::metrics::{Buckets, Metric};
use crate::plan::{Action, Op, Plan};
use crate::world::World;
use client::Key;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::jiff::SignedDuration;
use meta::Time;

static DELETION_SECONDS: Metric = Metric::histogram(
    "ttl_after_finished_controller_job_deletion_duration_seconds",
    &[],
    Buckets::Exponential { first: 0.1, factor: 2.0, count: 14 },
    "The time it took to delete the job since it became eligible for deletion",
);

pub struct TtlAfterFinished;

impl Controller for TtlAfterFinished {
    const NAME: &'static str = "ttl-after-finished-controller";
    const QUEUE: &'static str = "ttl_jobs_to_delete";
    const METRICS: &'static [&'static Metric] = &[&DELETION_SECONDS];

    fn watches(w: &mut Watches) {
        w.on(
            |w| &w.jobs,
            |delta, _| {
                let waits = delta.new.as_ref().is_some_and(|j| expires_at(j).is_some());
                if waits { vec![delta.key.clone()] } else { Vec::new() }
            },
        );
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        let Some((job, at)) = world.jobs.get(key).and_then(|j| expires_at(&j).map(|at| (j, at))) else {
            return Plan::idle("the job does not expire");
        };
        let mut plan = Plan::default();
        if now < at {
            plan.wake(at);
            return plan;
        }
        let mut op = Op::delete(&*job);
        if let Action::Delete { version, propagation, .. } = &mut op.action {
            // As it is known here: its time to live may have been changed since.
            version.clone_from(&job.metadata.resource_version);
            *propagation = Some("Foreground");
        }
        plan.op(op.count(DELETION_SECONDS.since(at, [])));
        plan
    }
}

/// None where the job has not ended, or stays.
fn expires_at(job: &Job) -> Option<Time> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.as_deref().unwrap_or_default();
    let ended =
        conditions.iter().find(|c| matches!(&*c.type_, "Complete" | "Failed") && c.status == "True")?;
    let since = ended.last_transition_time.as_ref()?.0;
    job.metadata.deletion_timestamp.is_none().then(|| since + SignedDuration::from_secs(ttl.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_job_goes_when_its_time_is_over() {
        let check = |change: fn(&mut Value), expect: &str| {
            let mut job = json!({
                "metadata": {"namespace": "ns", "name": "j", "uid": "u", "resourceVersion": "7"},
                "spec": {"ttlSecondsAfterFinished": 60, "template": {}},
                "status": {"conditions": [{"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            });
            change(&mut job);
            let world = World::detached();
            world.jobs.put(serde_json::from_value(job).unwrap());
            let now = "2026-01-01T00:01:00Z".parse().unwrap();
            let plan = TtlAfterFinished.reconcile(&Key::new("ns", "j"), &world, now);
            let deleted = plan.ops().next().map(|op| {
                let Action::Delete { uid, version, propagation, .. } = &op.action else { panic!("{op:?}") };
                assert_eq!(
                    (uid.as_deref(), version.as_deref(), *propagation),
                    (Some("u"), Some("7"), Some("Foreground"))
                );
                "deleted".to_owned()
            });
            let what = deleted.or(plan.wake_at.map(|t| t.to_string())).unwrap_or_default();
            assert_eq!(what, expect);
        };
        check(|_| (), "deleted");
        check(|j| j["spec"]["ttlSecondsAfterFinished"] = json!(61), "2026-01-01T00:01:01Z");
        check(|j| j["spec"]["ttlSecondsAfterFinished"] = json!(null), "");
        check(|j| j["status"]["conditions"][0]["type"] = json!("FailureTarget"), "");
        check(|j| j["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"), "");
    }
}
