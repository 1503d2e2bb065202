//! Jobs played to rest, with the controller seeing the world late, in many interleavings.

use super::*;
use crate::sim::Sim;
use client::testing::FakeApi;
use k8s_openapi::jiff::SignedDuration;
use serde_json::Value;

const SEEDS: std::ops::Range<u64> = 0..20;
const LONG: SignedDuration = SignedDuration::from_hours(24);

/// A job whose pods end as their image says.
fn job(image: &str, more: Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"namespace": "ns", "name": "work"},
        "spec": {
            "parallelism": 1, "completions": 1, "backoffLimit": 6, "suspend": false,
            "completionMode": "NonIndexed", "podReplacementPolicy": "TerminatingOrFailed",
            "selector": {"matchLabels": {"job": "work"}},
            "template": {
                "metadata": {"labels": {"job": "work"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": image}]},
            },
        },
    });
    job["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    job
}

fn sim(seed: u64, job: Value) -> Sim {
    let mut sim = Sim::new(seed);
    sim.add(Jobs::default());
    sim.add(TrackedPods);
    sim.api.put(job);
    // What a user must never see, at any moment.
    sim.invariant = Some(Box::new(|api| {
        let Some(job) = api.get("jobs", "ns", "work") else { return };
        let n = |f: &str| job["status"][f].as_i64().unwrap_or(0);
        let wanted = job["spec"]["completions"].as_i64();
        assert!(wanted.is_none_or(|w| n("succeeded") <= w), "{}", job["status"]);
        assert!(n("ready") <= n("active"), "{}", job["status"]);
        if told(&job).iter().any(|c| c == "Complete" || c == "Failed") {
            assert_eq!((n("active"), n("terminating")), (0, 0), "{}", job["status"]);
        }
    }));
    sim
}

/// The conditions that are true.
fn told(job: &Value) -> Vec<String> {
    let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let of = |c: &Value| c["type"].as_str().unwrap().to_owned();
    conditions.iter().filter(|c| c["status"] == "True").map(of).collect()
}

fn status(api: &FakeApi) -> Value {
    api.get("jobs", "ns", "work").unwrap()["status"].clone()
}

/// What a job comes to: its last condition with the reason, succeeded, failed, completed and failed indexes; and how
/// many pods were made for it.
fn check(job: Value, expect: &str, [least, most]: [usize; 2]) {
    for seed in SEEDS {
        let mut sim = sim(seed, job.clone());
        sim.settle(LONG);
        let s = status(&sim.api);
        let last = s["conditions"].as_array().and_then(|c| c.last()).cloned().unwrap_or_default();
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let n = |f: &str| s[f].as_i64().unwrap_or(0);
        let got = format!(
            "{} {} {}/{} [{}] [{}]",
            text(&last["type"]),
            text(&last["reason"]),
            n("succeeded"),
            n("failed"),
            text(&s["completedIndexes"]),
            text(&s["failedIndexes"])
        );
        assert_eq!(got, expect, "seed {seed}: {s}");
        assert_eq!(s["uncountedTerminatedPods"], json!({}), "seed {seed}");
        let made = sim.notes.iter().filter(|n| n.starts_with("SuccessfulCreate")).count();
        assert!((least..=most).contains(&made), "seed {seed}: {made} pods");
        let held = sim
            .api
            .list("pods")
            .iter()
            .any(|p| p["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()));
        assert!(!held, "seed {seed}: a pod kept its finalizer");
    }
}

#[test]
fn a_job_ends_when_enough_of_its_pods_have() {
    let done = "Complete CompletionsReached";
    check(job("succeeds", json!({})), &format!("{done} 1/0 [] []"), [1, 1]);
    check(job("succeeds", json!({"completions": 7, "parallelism": 3})), &format!("{done} 7/0 [] []"), [7, 7]);
    check(job("succeeds", json!({"completions": 0})), &format!("{done} 0/0 [] []"), [0, 0]);
    let indexed = json!({"completions": 7, "parallelism": 3, "completionMode": "Indexed"});
    check(job("succeeds", indexed), &format!("{done} 7/0 [0-6] []"), [7, 7]);
}

#[test]
fn a_work_queue_ends_with_its_first_success() {
    for seed in SEEDS {
        let mut sim = sim(seed, job("succeeds", json!({"completions": null, "parallelism": 3})));
        sim.settle(LONG);
        let s = status(&sim.api);
        assert_eq!(told(&json!({"status": s})), ["SuccessCriteriaMet", "Complete"], "seed {seed}");
        assert!((1..=3).contains(&s["succeeded"].as_i64().unwrap()), "{s}");
    }
}

#[test]
fn failures_are_retried_with_pauses_and_have_a_limit() {
    check(job("fails", json!({"backoffLimit": 3})), "Failed BackoffLimitExceeded 0/4 [] []", [4, 4]);
    check(job("fails", json!({"backoffLimit": 0})), "Failed BackoffLimitExceeded 0/1 [] []", [1, 1]);
    let mut sim = sim(1, job("fails", json!({"backoffLimit": 3})));
    let start = sim.now;
    sim.settle(LONG);
    // 10, 20 and 40 seconds
    assert!((70..80).contains(&sim.now.duration_since(start).as_secs()), "{}", sim.now);
    assert!(
        sim.notes.contains(&"BackoffLimitExceeded: Job has reached the specified backoff limit".to_owned())
    );
}

#[test]
fn policies_tell_failures_apart() {
    let rules = |action: &str| json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [1]}}]});
    let with = |action: &str, more: Value| {
        let mut spec = json!({"podFailurePolicy": rules(action), "podReplacementPolicy": "Failed"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        job("fails", spec)
    };
    check(with("FailJob", json!({})), "Failed PodFailurePolicy 0/1 [] []", [1, 1]);
    check(with("Count", json!({"backoffLimit": 1})), "Failed BackoffLimitExceeded 0/2 [] []", [2, 2]);
    // ignored failures go on until the deadline
    check(
        with("Ignore", json!({"backoffLimit": 0, "activeDeadlineSeconds": 100})),
        "Failed DeadlineExceeded 0/0 [] []",
        [3, 5],
    );
}

#[test]
fn indexes_fail_on_their_own() {
    let of = |more: Value| {
        let mut spec = json!({"completions": 5, "parallelism": 5, "completionMode": "Indexed", "backoffLimit": i32::MAX,
            "backoffLimitPerIndex": 1});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        job("fails-if-odd", spec)
    };
    check(of(json!({})), "Failed FailedIndexes 3/4 [0,2,4] [1,3]", [7, 7]);
    check(
        of(
            json!({"successPolicy": {"rules": [{"succeededIndexes": "0,2", "succeededCount": 1}]}, "completions": 3, "parallelism": 1}),
        ),
        "Complete SuccessPolicy 1/0 [0] []",
        [1, 2],
    );
    for seed in SEEDS {
        let mut sim = sim(seed, of(json!({"maxFailedIndexes": 0})));
        sim.settle(LONG);
        let s = status(&sim.api);
        assert_eq!(s["conditions"][1]["reason"], "MaxFailedIndexesExceeded", "seed {seed}: {s}");
    }
}

#[test]
fn a_suspended_job_rests_and_its_time_begins_anew() {
    for seed in SEEDS {
        let mut sim =
            sim(seed, job("runs", json!({"parallelism": 3, "completions": 3, "activeDeadlineSeconds": 600})));
        sim.settle(SignedDuration::from_secs(60));
        assert_eq!(status(&sim.api)["active"], 3, "seed {seed}");
        let edit = |sim: &Sim, suspend: bool, image: &str| {
            sim.api.edit("jobs", "ns", "work", |j| {
                j["spec"]["suspend"] = json!(suspend);
                j["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
            });
        };
        edit(&sim, true, "runs");
        sim.settle(SignedDuration::from_secs(60));
        let s = status(&sim.api);
        assert_eq!(told(&json!({"status": s})), ["Suspended"], "seed {seed}");
        assert_eq!(
            (&s["active"], &s["startTime"], &s["failed"]),
            (&Value::Null, &Value::Null, &Value::Null),
            "{s}"
        );
        assert_eq!(sim.api.list("pods"), Vec::<Value>::new());
        edit(&sim, false, "succeeds");
        sim.settle(LONG);
        let s = status(&sim.api);
        assert_eq!(told(&json!({"status": s})), ["SuccessCriteriaMet", "Complete"], "seed {seed}");
        assert_eq!((&s["succeeded"], &s["failed"]), (&json!(3), &Value::Null), "{s}");
        for note in ["Suspended: Job suspended", "Resumed: Job resumed", "Completed: Job completed"] {
            assert_eq!(sim.notes.iter().filter(|n| *n == note).count(), 1, "seed {seed}: {note}");
        }
    }
}

#[test]
fn a_job_that_takes_too_long_fails() {
    let slow = json!({"activeDeadlineSeconds": 30, "parallelism": 2, "completions": 2});
    check(job("runs", slow), "Failed DeadlineExceeded 0/2 [] []", [2, 2]);
}

#[test]
fn a_job_grows_shrinks_and_goes() {
    for seed in SEEDS {
        let mut sim = sim(seed, job("runs", json!({"parallelism": 4, "completions": 9})));
        sim.settle(LONG);
        sim.api.edit("jobs", "ns", "work", |j| j["spec"]["parallelism"] = json!(2));
        sim.settle(LONG);
        let s = status(&sim.api);
        assert_eq!((&s["active"], &s["failed"], &s["ready"]), (&json!(2), &Value::Null, &json!(2)), "{s}");
        // a pod that somebody deletes counts as failed and is replaced
        let name = sim.api.list("pods")[0]["metadata"]["name"].as_str().unwrap().to_owned();
        sim.api.edit("pods", "ns", &name, |p| {
            p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")
        });
        sim.settle(LONG);
        let s = status(&sim.api);
        assert_eq!((&s["active"], &s["failed"]), (&json!(2), &json!(1)), "seed {seed}: {s}");
        sim.api.remove("jobs", "ns", "work");
        sim.settle(LONG);
        let held = sim.api.list("pods").iter().filter(|p| p["metadata"]["finalizers"] != json!([])).count();
        assert_eq!(held, 0, "seed {seed}");
    }
}

#[test]
fn pods_of_indexes_are_told_their_index() {
    let mut sim = sim(
        1,
        job(
            "runs",
            json!({"completions": 3, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 2}),
        ),
    );
    sim.settle(LONG);
    let mut pods = sim.api.list("pods");
    pods.sort_by_key(|p| p["spec"]["hostname"].as_str().unwrap().to_owned());
    for (i, pod) in pods.iter().enumerate() {
        let m = &pod["metadata"];
        assert!(m["name"].as_str().unwrap().starts_with(&format!("work-{i}-")));
        assert_eq!(
            (&m["labels"][INDEX], &m["annotations"][INDEX]),
            (&json!(i.to_string()), &json!(i.to_string()))
        );
        assert_eq!(m["annotations"][INDEX_FAILURES], "0");
        assert_eq!(pod["spec"]["hostname"], format!("work-{i}"));
        let from = &pod["spec"]["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["fieldPath"];
        assert_eq!(from, "metadata.labels['batch.kubernetes.io/job-completion-index']");
    }
    assert_eq!(pods.len(), 2);
}

#[test]
fn what_jobs_come_to_is_counted() {
    let counts = |job: Value, expect: &[&str]| {
        let mut sim = sim(1, job);
        sim.settle(LONG);
        let text = sim.metrics.render();
        for line in expect {
            let line = format!("job_controller_{line}");
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    };
    counts(
        job("succeeds", json!({"completions": 3, "parallelism": 3})),
        &[
            "jobs_finished_total{completion_mode=\"NonIndexed\",result=\"succeeded\",reason=\"CompletionsReached\"} 1",
            "job_pods_finished_total{completion_mode=\"NonIndexed\",result=\"succeeded\"} 3",
            "job_pods_finished_total{completion_mode=\"NonIndexed\",result=\"failed\"} 0",
            "job_pods_creation_total{reason=\"new\",status=\"succeeded\"} 3",
            "terminated_pods_tracking_finalizer_total{event=\"add\"} 3",
            "terminated_pods_tracking_finalizer_total{event=\"delete\"} 3",
            "job_syncs_total{completion_mode=\"NonIndexed\",result=\"success\",action=\"pods_created\"} 1",
        ],
    );
    let rules = json!([{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1]}}]);
    counts(
        job(
            "fails",
            json!({"backoffLimit": 0, "activeDeadlineSeconds": 15, "podFailurePolicy": {"rules": rules},
                "podReplacementPolicy": "Failed"}),
        ),
        &[
            "jobs_finished_total{completion_mode=\"NonIndexed\",result=\"failed\",reason=\"DeadlineExceeded\"} 1",
            "job_pods_finished_total{completion_mode=\"NonIndexed\",result=\"failed\"} 0",
            "pod_failures_handled_by_failure_policy_total{action=\"Ignore\"} 2",
        ],
    );
    counts(
        job(
            "fails-if-odd",
            json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": i32::MAX,
                "backoffLimitPerIndex": 0}),
        ),
        &[
            "jobs_finished_total{completion_mode=\"Indexed\",result=\"failed\",reason=\"FailedIndexes\"} 1",
            "job_finished_indexes_total{status=\"succeeded\",backoffLimit=\"perIndex\"} 1",
            "job_finished_indexes_total{status=\"failed\",backoffLimit=\"perIndex\"} 1",
        ],
    );
    counts(
        job("runs", json!({"managedBy": "example.com/queue"})),
        &["jobs_by_external_controller_total{controller_name=\"example.com/queue\"} 1"],
    );
}

#[test]
fn pods_that_change_together_are_looked_at_together() {
    // of a small job each change is looked at
    let mut small = sim(0, job("succeeds", json!({"completions": 2, "parallelism": 2})));
    let start = small.now;
    small.settle(LONG);
    assert!(small.now.duration_since(start).as_secs() < 1, "{}", small.now);
    for seed in SEEDS {
        let mut sim = sim(seed, job("succeeds", json!({"completions": 40, "parallelism": 40})));
        let start = sim.now;
        sim.settle(LONG);
        let writes = sim.api.log(0).iter().filter(|c| c.plural == "jobs").count();
        assert!(writes <= 12, "seed {seed}: {writes} writes of the status");
        assert!(sim.now.duration_since(start).as_secs() <= 6, "seed {seed}: {}", sim.now);
    }
}
