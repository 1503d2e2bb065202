//! Pods that were to be disrupted and were not: the condition that says so is taken back.

use super::DELETION_TIMEOUT;
use crate::controller::{Controller, Watches};
use crate::plan::{NOT_FOUND, Op, Plan};
use crate::pods::{condition, is_terminal};
use crate::world::World;
use client::Key;
use k8s_openapi::api::core::v1::Pod;
use meta::Time;
use serde_json::json;

const CONDITION: &str = "DisruptionTarget";
/// The kubelet's own: it may take any time until the pod goes.
const BY_KUBELET: &str = "TerminationByKubelet";

pub struct StaleDisruptions;

impl Controller for StaleDisruptions {
    const NAME: &'static str = "stale-pod-disruption-controller";
    const QUEUE: &'static str = "stale_pod_disruption";

    fn watches(w: &mut Watches) {
        w.on(
            |w| &w.pods,
            |delta, _| {
                let waits = delta.new.as_ref().is_some_and(|p| stale_at(p).is_some());
                if waits { vec![delta.key.clone()] } else { Vec::new() }
            },
        );
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        let Some((pod, at)) = world.pods.get(key).and_then(|p| stale_at(&p).map(|at| (p, at))) else {
            return Plan::idle("nothing stale is said of the pod");
        };
        let mut plan = Plan::default();
        if now < at {
            plan.wake(at);
            return plan;
        }
        let m = &pod.metadata;
        let taken_back = json!({
            "type": CONDITION, "status": "False", "reason": null, "message": null, "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        let patch = json!({
            "metadata": {"uid": m.uid, "resourceVersion": m.resource_version},
            "status": {"conditions": [taken_back]},
        });
        plan.op(Op::strategic_patch(&*pod, &patch).subresource("status").tolerating(&[NOT_FOUND]));
        plan
    }
}

/// When it is clear that a pod stays which is said to go; None where nothing is said, or the pod goes.
fn stale_at(pod: &Pod) -> Option<Time> {
    if pod.metadata.deletion_timestamp.is_some() || is_terminal(pod) {
        return None;
    }
    let c = condition(pod, CONDITION)?;
    let stale = c.status == "True" && c.reason.as_deref() != Some(BY_KUBELET);
    let since = c.last_transition_time.as_ref().map_or(Time::UNIX_EPOCH, |t| t.0);
    stale.then(|| since + DELETION_TIMEOUT)
}
