//! What becomes of cron jobs and their jobs.

use super::*;
use serde_json::{Value, json};

const NOW: &str = "2026-01-01T10:00:05Z";
/// Of the time that is due at that moment.
const MINUTE: i64 = 29_454_360;

struct Case {
    cron: Value,
    world: World,
    controller: CronJobs,
}

impl Case {
    fn new(spec: Value) -> Self {
        let mut cron = json!({
            "metadata": {"namespace": "ns", "name": "c", "uid": "c", "creationTimestamp": "2026-01-01T09:30:00Z"},
            "spec": {"schedule": "0 * * * *", "jobTemplate": {
                "metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}}, "spec": {"template": {}}}},
            "status": {},
        });
        cron["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        Self { cron, world: World::detached(), controller: CronJobs::default() }
    }

    /// A job of the cron job: running, or with this condition and completion time.
    fn job(self, name: &str, condition: Option<&str>, more: Value) -> Self {
        let mut job = json!({
            "metadata": {"namespace": "ns", "name": name, "uid": name, "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": "c", "controller": true}]},
            "spec": {"template": {}}, "status": {},
        });
        if let Some(kind) = condition {
            job["status"]["conditions"] = json!([{"type": kind, "status": "True"}]);
        }
        for (k, v) in more.as_object().unwrap() {
            job[k].as_object_mut().unwrap().extend(v.as_object().unwrap().clone());
        }
        self.world.jobs.put(serde_json::from_value(job).unwrap());
        self
    }

    fn active(mut self, names: &[&str]) -> Self {
        let refs: Vec<Value> =
            names.iter().map(|n| json!({"namespace": "ns", "name": n, "uid": n})).collect();
        self.cron["status"]["active"] = json!(refs);
        self
    }

    /// What is done, in order, and what is told.
    fn run(&self) -> Vec<String> {
        self.world.cron_jobs.put(serde_json::from_value(self.cron.clone()).unwrap());
        let plan = self.controller.reconcile(&Key::new("ns", "c"), &self.world, NOW.parse().unwrap());
        let mut out: Vec<String> = plan
            .ops()
            .map(|op| match &op.action {
                Action::Create(body) => {
                    let job: Value = serde_json::from_slice(body).unwrap();
                    let m = &job["metadata"];
                    format!("create {} {} {}", m["name"].as_str().unwrap(), m["labels"], m["annotations"])
                }
                Action::Delete { propagation, .. } => format!("delete {} {}", op.key, propagation.unwrap()),
                Action::VerifyAbsent => format!("verify {}", op.key),
                Action::Replace(body) => {
                    let cron: Value = serde_json::from_slice(body).unwrap();
                    let s = &cron["status"];
                    let active = s["active"].as_array().cloned().unwrap_or_default();
                    let active: Vec<&str> = active.iter().map(|a| a["name"].as_str().unwrap()).collect();
                    let time = |f: &str| s[f].as_str().map_or("-", |t| &t[11..19]).to_owned();
                    format!(
                        "status {} {} {}",
                        active.join(","),
                        time("lastScheduleTime"),
                        time("lastSuccessfulTime")
                    )
                }
                other => panic!("{other:?}"),
            })
            .collect();
        out.extend(plan.notes.iter().map(|n| format!("{}: {}", n.reason, n.message)));
        out.extend(plan.wake_at.map(|t| format!("wake {}", &t.to_string()[11..19])));
        out
    }

    fn check(self, expect: &[&str]) {
        assert_eq!(self.run(), expect);
    }
}

fn scheduled() -> Value {
    json!({"metadata": {"annotations": {SCHEDULED: "2026-01-01T10:00:00Z"}}})
}

#[test]
fn a_job_is_created_once_for_each_time() {
    let create = format!(
        "create c-{MINUTE} {{\"a\":\"b\"}} {{\"batch.kubernetes.io/cronjob-scheduled-timestamp\":\"2026-01-01T10:00:00Z\",\"x\":\"y\"}}"
    );
    Case::new(json!({})).check(&[&create, "wake 11:00:00"]);
    let name = format!("c-{MINUTE}");
    let mut case = Case::new(json!({})).job(&name, None, scheduled());
    assert_eq!(case.run(), [&format!("status {name} 10:00:00 -"), "wake 11:00:00"]);
    case = case.active(&[&name]);
    case.cron["status"]["lastScheduleTime"] = json!("2026-01-01T10:00:00Z");
    case.check(&["wake 11:00:00"]);
    // already over when it is seen
    Case::new(json!({}))
        .job(&name, Some("Complete"), json!({"metadata": scheduled()["metadata"], "status": {"completionTime": "2026-01-01T10:00:03Z"}}))
        .check(&["status  10:00:00 10:00:03", "wake 11:00:00"]);
    // in another zone
    let tokyo = Case::new(json!({"timeZone": "Asia/Tokyo", "schedule": "0 19 * * *"})).run();
    assert!(tokyo[0].contains("2026-01-01T19:00:00+09:00"), "{tokyo:?}");
}

#[test]
fn what_cannot_start_is_told() {
    Case::new(json!({"suspend": true})).check(&[]);
    Case::new(json!({"startingDeadlineSeconds": 3})).check(&["wake 11:00:00"]);
    Case::new(json!({"timeZone": "Mars"}))
        .check(&["UnknownTimeZone: invalid timeZone: \"Mars\": unknown time zone Mars"]);
    Case::new(json!({"schedule": "x"})).check(&[
        "UnparseableSchedule: unparseable schedule: \"x\" : expected exactly 5 fields, found 1: [x]",
    ]);
    // a schedule that changes is not made up for
    let mut case = Case::new(json!({"schedule": "0 0 * * *"}));
    case.check_then(&["wake 00:00:00"]);
    case.cron["spec"]["schedule"] = json!("45 * * * *");
    case.check(&["wake 10:45:00"]);
}

impl Case {
    fn check_then(&self, expect: &[&str]) {
        assert_eq!(self.run(), expect);
    }
}

#[test]
fn jobs_that_still_run_are_met_as_the_policy_says() {
    let name = format!("c-{}", MINUTE - 60);
    let old = || json!({"metadata": {"annotations": {SCHEDULED: "2026-01-01T09:00:00Z"}}});
    let running = |policy: &str| {
        let mut case =
            Case::new(json!({"concurrencyPolicy": policy})).job(&name, None, old()).active(&[&name]);
        case.cron["status"]["lastScheduleTime"] = json!("2026-01-01T09:00:00Z");
        case.run()
    };
    assert!(running("Allow")[0].starts_with(&format!("create c-{MINUTE}")));
    assert_eq!(
        running("Forbid"),
        [
            "JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid",
            "wake 11:00:00"
        ]
    );
    let replaced = running("Replace");
    assert_eq!(replaced[..2], [format!("delete ns/{name} Background"), "status  09:00:00 -".into()]);
    assert!(replaced[2].starts_with(&format!("create c-{MINUTE}")), "{replaced:?}");
}

#[test]
fn jobs_that_ended_are_seen_and_the_oldest_go() {
    let ended = |at: &str| json!({"status": {"startTime": at, "completionTime": at}});
    let mut case =
        Case::new(json!({"successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0, "suspend": true}))
            .job("new", Some("Complete"), ended("2026-01-01T09:45:00Z"))
            .job("old", Some("Complete"), ended("2026-01-01T09:40:00Z"))
            .job("bad", Some("Failed"), json!({}))
            .job("manual", None, json!({}))
            .active(&["new", "lost"]);
    case.cron["status"]["lastScheduleTime"] = json!("2026-01-01T09:00:00Z");
    case.check(&[
        "delete ns/old Background",
        "delete ns/bad Background",
        "verify ns/lost",
        "status  09:00:00 09:45:00",
        "SawCompletedJob: Saw completed job: new, condition: Complete",
        "UnexpectedJob: Saw a job that the controller did not create or forgot: manual",
        "MissingJob: Active job went missing: lost",
    ]);
}
