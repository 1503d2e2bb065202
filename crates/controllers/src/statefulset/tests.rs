//! Stateful sets played to rest, with the controller seeing the world late, in many interleavings.

use super::*;
use crate::sim::Sim;
use client::testing::FakeApi;
use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};

const SEEDS: std::ops::Range<u64> = 0..20;
const MINUTE: SignedDuration = SignedDuration::from_secs(60);

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn set(replicas: i32, more: Value) -> Value {
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"namespace": "ns", "name": "db"},
        "spec": {
            "replicas": replicas, "revisionHistoryLimit": 2, "serviceName": "peers",
            "selector": {"matchLabels": {"app": "db"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": template("one"),
        },
    });
    set["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    set
}

fn sim(seed: u64, set: Value) -> Sim {
    let mut sim = Sim::new(seed);
    sim.add(StatefulSets);
    sim.api.put(set);
    sim
}

fn edit(sim: &Sim, f: impl FnOnce(&mut Value)) {
    sim.api.edit("statefulsets", "ns", "db", |d| {
        f(&mut d["spec"]);
        d["metadata"]["generation"] = json!(d["metadata"]["generation"].as_i64().unwrap() + 1);
    });
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"][0]["status"] == "True" && pod["metadata"].get("deletionTimestamp").is_none()
}

/// Pods as `name image`, by ordinal.
fn running(api: &FakeApi) -> Vec<String> {
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    let all = api.list("pods");
    let mut all: Vec<_> = all
        .iter()
        .map(|p| format!("{} {}", text(&p["metadata"]["name"]), text(&p["spec"]["containers"][0]["image"])))
        .collect();
    all.sort();
    all
}

/// Replicas, ready, available, current, updated; and whether the current revision is the one to update to.
fn status(api: &FakeApi) -> ([i64; 5], bool) {
    let set = api.get("statefulsets", "ns", "db").unwrap();
    let s = &set["status"];
    let fields = ["replicas", "readyReplicas", "availableReplicas", "currentReplicas", "updatedReplicas"];
    (fields.map(|f| s[f].as_i64().unwrap_or(0)), s["currentRevision"] == s["updateRevision"])
}

fn claims(api: &FakeApi) -> Vec<String> {
    let owner = |c: &Value| {
        let refs = c["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        refs.iter().map(|r| format!(" {}", r["name"].as_str().unwrap())).collect::<String>()
    };
    let all = api.list("persistentvolumeclaims");
    all.iter().map(|c| format!("{}{}", c["metadata"]["name"].as_str().unwrap(), owner(c))).collect()
}

#[test]
fn members_come_and_go_in_order() {
    for seed in SEEDS {
        let mut sim = sim(seed, set(4, json!({})));
        sim.invariant = Some(Box::new(move |api| {
            let pods = api.list("pods");
            let waiting = pods.iter().filter(|p| !is_ready(p)).count();
            assert!(waiting <= 1, "seed {seed}: one at a time, {:?}", running(api));
            for (i, pod) in pods.iter().enumerate() {
                assert_eq!(pod["metadata"]["name"], format!("db-{i}"), "seed {seed}: no gaps");
            }
        }));
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api), ["db-0 one", "db-1 one", "db-2 one", "db-3 one"], "seed {seed}");
        assert_eq!(status(&sim.api), ([4, 4, 4, 4, 4], true), "seed {seed}");
        edit(&sim, |s| s["replicas"] = json!(1));
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api), ["db-0 one"], "seed {seed}");
        edit(&sim, |s| s["replicas"] = json!(3));
        sim.settle(MINUTE);
        assert_eq!((running(&sim.api).len(), status(&sim.api)), (3, ([3, 3, 3, 3, 3], true)));
    }
    let pods = {
        let mut sim = sim(0, set(1, json!({"ordinals": {"start": 5}})));
        sim.settle(MINUTE);
        sim.api.list("pods")
    };
    let (m, s) = (&pods[0]["metadata"], &pods[0]["spec"]);
    assert_eq!(
        (&m["name"], &s["hostname"], &s["subdomain"]),
        (&json!("db-5"), &json!("db-5"), &json!("peers"))
    );
    assert_eq!(m["labels"]["statefulset.kubernetes.io/pod-name"], "db-5");
    assert_eq!(m["labels"]["apps.kubernetes.io/pod-index"], "5");
}

#[test]
fn an_update_goes_from_the_last_to_the_partition_and_back() {
    for seed in SEEDS {
        let mut sim = sim(seed, set(3, json!({})));
        sim.settle(MINUTE);
        sim.invariant = Some(Box::new(move |api| {
            let serving = api.list("pods").iter().filter(|p| is_ready(p)).count();
            assert!(serving >= 2, "seed {seed}: {:?}", running(api));
        }));
        edit(&sim, |s| {
            s["template"] = template("two");
            s["updateStrategy"]["rollingUpdate"]["partition"] = json!(1);
        });
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api), ["db-0 one", "db-1 two", "db-2 two"], "seed {seed}");
        assert_eq!(status(&sim.api), ([3, 3, 3, 1, 2], false), "seed {seed}");
        // A member below the partition comes back as what it was.
        sim.invariant = None;
        sim.api.remove("pods", "ns", "db-0");
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api)[0], "db-0 one", "seed {seed}");
        edit(&sim, |s| s["updateStrategy"]["rollingUpdate"]["partition"] = json!(0));
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api), ["db-0 two", "db-1 two", "db-2 two"], "seed {seed}");
        assert_eq!(status(&sim.api), ([3, 3, 3, 3, 3], true), "seed {seed}");
        edit(&sim, |s| s["template"] = template("one"));
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api), ["db-0 one", "db-1 one", "db-2 one"], "seed {seed}");
        let revisions = sim.api.list("controllerrevisions");
        assert_eq!((revisions.len(), revisions.iter().filter(|r| r["revision"] == 3).count()), (2, 1));
    }
}

#[test]
fn a_member_that_does_not_come_up_holds_the_others() {
    let mut sim = sim(1, set(3, json!({})));
    sim.settle(MINUTE);
    edit(&sim, |s| s["template"] = template("broken"));
    sim.settle(MINUTE);
    assert_eq!(running(&sim.api), ["db-0 one", "db-1 one", "db-2 broken"]);
    // As upstream: going back needs the pod deleted.
    edit(&sim, |s| s["template"] = template("one"));
    sim.settle(MINUTE);
    assert_eq!(running(&sim.api)[2], "db-2 broken");
    sim.api.remove("pods", "ns", "db-2");
    sim.settle(MINUTE);
    assert_eq!((running(&sim.api)[2].as_str(), status(&sim.api)), ("db-2 one", ([3, 3, 3, 3, 3], true)));
    // One that ended is replaced, whatever its exit code.
    sim.api.edit("pods", "ns", "db-1", |p| p["status"] = json!({"phase": "Succeeded"}));
    sim.settle(MINUTE);
    assert_eq!(status(&sim.api).0, [3, 3, 3, 3, 3]);
}

#[test]
fn a_parallel_set_waits_for_nobody() {
    for seed in SEEDS {
        let mut sim =
            sim(seed, set(3, json!({"podManagementPolicy": "Parallel", "template": template("broken")})));
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api), ["db-0 broken", "db-1 broken", "db-2 broken"], "seed {seed}");
        edit(&sim, |s| s["replicas"] = json!(0));
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api).len(), 0, "seed {seed}");
        let created = sim.notes.iter().filter(|n| n.starts_with("SuccessfulCreate: Create Pod db-")).count();
        assert_eq!(created, 3, "{:?}", sim.notes);
    }
}

#[test]
fn claims_are_made_and_kept_or_deleted_as_the_policy_says() {
    let data = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]);
    for seed in SEEDS {
        let mut sim = sim(seed, set(2, json!({"volumeClaimTemplates": data})));
        sim.settle(MINUTE);
        assert_eq!(claims(&sim.api), ["data-db-0", "data-db-1"], "seed {seed}");
        let volumes = &sim.api.get("pods", "ns", "db-1").unwrap()["spec"]["volumes"];
        assert_eq!(*volumes, json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-1"}}]));
        let policy = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
        edit(&sim, |s| s["persistentVolumeClaimRetentionPolicy"] = policy);
        sim.settle(MINUTE);
        assert_eq!(claims(&sim.api), ["data-db-0 db", "data-db-1 db"], "seed {seed}");
        edit(&sim, |s| s["replicas"] = json!(1));
        sim.settle(MINUTE);
        assert_eq!(claims(&sim.api), ["data-db-0 db", "data-db-1 db-1"], "seed {seed}: goes with its pod");
        // The member returns only once the claim of its predecessor is gone.
        edit(&sim, |s| s["replicas"] = json!(2));
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api).len(), 1, "seed {seed}");
        sim.api.remove("persistentvolumeclaims", "ns", "data-db-1");
        sim.settle(MINUTE);
        assert_eq!((running(&sim.api).len(), claims(&sim.api).len()), (2, 2), "seed {seed}");
    }
}

#[test]
fn a_member_serves_once_it_has_been_ready_long_enough() {
    let mut sim = sim(7, set(2, json!({"minReadySeconds": 30})));
    sim.settle(SignedDuration::from_secs(10));
    assert_eq!((running(&sim.api).len(), status(&sim.api)), (1, ([1, 1, 0, 1, 1], true)));
    sim.settle(MINUTE);
    sim.settle(MINUTE);
    assert_eq!(status(&sim.api), ([2, 2, 2, 2, 2], true));
}
