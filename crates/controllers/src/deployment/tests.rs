//! Rollouts played to their end, with every controller seeing the world late, in many interleavings.

use super::*;
use crate::replicaset::ReplicaSets;
use crate::sim::Sim;
use client::testing::FakeApi;
use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};

const SEEDS: std::ops::Range<u64> = 0..25;
const MINUTE: SignedDuration = SignedDuration::from_secs(60);

fn deployment(replicas: i32, strategy: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": "ns", "name": "web", "annotations": {"kubernetes.io/change-cause": "first"}},
        "spec": {
            "replicas": replicas, "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": strategy,
            "template": template("one"),
        },
    })
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn sim(seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    sim.add(Deployments);
    sim.add(ReplicaSets);
    sim
}

fn set_image(sim: &Sim, image: &str) {
    sim.api.edit("deployments", "ns", "web", |d| {
        d["spec"]["template"] = template(image);
        d["metadata"]["generation"] = json!(d["metadata"]["generation"].as_i64().unwrap() + 1);
    });
}

fn set(sim: &Sim, field: &str, value: Value) {
    sim.api.edit("deployments", "ns", "web", |d| {
        d["spec"][field] = value;
        d["metadata"]["generation"] = json!(d["metadata"]["generation"].as_i64().unwrap() + 1);
    });
}

/// Images and numbers of the pods that live.
fn running(api: &FakeApi) -> Vec<(String, usize)> {
    let mut counts = std::collections::BTreeMap::new();
    for p in api.list("pods").iter().filter(|p| p["metadata"].get("deletionTimestamp").is_none()) {
        *counts.entry(p["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    counts.into_iter().collect()
}

fn condition(api: &FakeApi, kind: &str) -> String {
    let d = api.get("deployments", "ns", "web").unwrap();
    let all = d["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let c = all.iter().find(|c| c["type"] == kind);
    c.map(|c| format!("{} {}", c["status"].as_str().unwrap(), c["reason"].as_str().unwrap()))
        .unwrap_or_default()
}

fn status(api: &FakeApi) -> Value {
    let d = api.get("deployments", "ns", "web").unwrap();
    let s = &d["status"];
    json!([
        s["replicas"],
        s["updatedReplicas"],
        s["readyReplicas"],
        s["availableReplicas"],
        s["unavailableReplicas"]
    ])
}

fn revision(api: &FakeApi) -> String {
    let d = api.get("deployments", "ns", "web").unwrap();
    d["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str().unwrap_or("").to_owned()
}

fn available(api: &FakeApi) -> usize {
    let pods = api.list("pods");
    pods.iter()
        .filter(|p| p["metadata"].get("deletionTimestamp").is_none() && p["status"]["phase"] == "Running")
        .count()
}

#[test]
fn a_deployment_starts_and_says_so() {
    for seed in SEEDS {
        let mut sim = sim(seed);
        sim.api.put(deployment(3, rolling(json!("25%"), json!("25%"))));
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api), [("one".into(), 3)], "seed {seed}");
        assert_eq!(status(&sim.api), json!([3, 3, 3, 3, null]));
        assert_eq!(condition(&sim.api, "Available"), "True MinimumReplicasAvailable");
        assert_eq!(condition(&sim.api, "Progressing"), "True NewReplicaSetAvailable");
        assert_eq!(revision(&sim.api), "1");
        let sets = sim.api.list("replicasets");
        let name = sets[0]["metadata"]["name"].as_str().unwrap();
        assert_eq!(sets[0]["metadata"]["annotations"]["kubernetes.io/change-cause"], "first");
        let scaled = format!("ScalingReplicaSet: Scaled up replica set {name} from 0 to 3");
        assert!(sim.notes.contains(&scaled), "{:?}", sim.notes);
        assert_eq!(
            sim.notes.iter().filter(|n| n.starts_with("SuccessfulCreate: Created pod: web-")).count(),
            3
        );
    }
}

#[test]
fn a_rolling_update_keeps_its_bounds() {
    // (replicas, surge, unavailable) -> pods asked for at most, pods that are available at least.
    for (replicas, surge, unavailable, most, least) in [
        (4, json!(1), json!(0), 5, 4),
        (4, json!(0), json!(1), 4, 3),
        (10, json!("30%"), json!("20%"), 13, 8),
        (1, json!("25%"), json!("25%"), 2, 1),
    ] {
        for seed in SEEDS {
            let mut sim = sim(seed);
            sim.api.put(deployment(replicas, rolling(surge.clone(), unavailable.clone())));
            sim.settle(MINUTE);
            sim.invariant = Some(Box::new(move |api| {
                // What is asked for: pods that are to go may take their time.
                let all: i64 =
                    api.list("replicasets").iter().map(|s| s["spec"]["replicas"].as_i64().unwrap()).sum();
                assert!(all <= most, "seed {seed}: {all} pods of at most {most}");
                let up = available(api);
                assert!(up >= least, "seed {seed}: {up} available of at least {least}");
            }));
            set_image(&sim, "two");
            sim.settle(MINUTE);
            assert_eq!(running(&sim.api), [("two".into(), replicas as usize)], "seed {seed}");
            assert_eq!(revision(&sim.api), "2");
            assert_eq!(condition(&sim.api, "Progressing"), "True NewReplicaSetAvailable");
        }
    }
}

#[test]
fn recreate_never_runs_two_templates() {
    for seed in SEEDS {
        let mut sim = sim(seed);
        sim.api.put(deployment(3, json!({"type": "Recreate"})));
        sim.settle(MINUTE);
        sim.invariant = Some(Box::new(move |api| {
            let mut images: Vec<_> =
                api.list("pods").iter().map(|p| p["spec"]["containers"][0]["image"].clone()).collect();
            images.dedup();
            assert!(images.len() <= 1, "seed {seed}: {images:?}");
        }));
        set_image(&sim, "two");
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api), [("two".into(), 3)], "seed {seed}");
    }
}

#[test]
fn changes_of_mind_converge_and_history_is_kept() {
    for seed in SEEDS {
        let mut sim = sim(seed);
        sim.api.put(deployment(4, rolling(json!(2), json!(1))));
        sim.play(40);
        for (i, image) in ["two", "three", "four", "five"].iter().enumerate() {
            set_image(&sim, image);
            sim.play(30 + i * 20);
        }
        set(&sim, "replicas", json!(7));
        sim.play(25);
        set_image(&sim, "one");
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api), [("one".into(), 7)], "seed {seed}");
        assert_eq!(status(&sim.api), json!([7, 7, 7, 7, null]));
        let old = sim.api.list("replicasets").len() - 1;
        assert!(old <= 2, "seed {seed}: {old} old replica sets");
        let revisions: Vec<i64> = sim
            .api
            .list("replicasets")
            .iter()
            .map(|s| revision_of(&serde_json::from_value(s.clone()).unwrap()))
            .collect();
        assert_eq!(revisions.iter().max().unwrap().to_string(), revision(&sim.api));
    }
}

#[test]
fn undo_takes_the_old_replica_set_up_again() {
    let mut sim = sim(1);
    sim.api.put(deployment(2, rolling(json!(1), json!(0))));
    sim.settle(MINUTE);
    set_image(&sim, "two");
    sim.settle(MINUTE);
    set_image(&sim, "one");
    sim.settle(MINUTE);
    assert_eq!(running(&sim.api), [("one".into(), 2)]);
    assert_eq!((sim.api.list("replicasets").len(), revision(&sim.api).as_str()), (2, "3"));
    let sets = sim.api.list("replicasets");
    let current = sets.iter().find(|s| s["spec"]["replicas"] == 2).unwrap();
    assert_eq!(current["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn a_rollout_that_cannot_progress_times_out() {
    let mut sim = sim(3);
    sim.api.put(deployment(4, rolling(json!(1), json!(1))));
    sim.settle(MINUTE);
    set_image(&sim, "broken");
    sim.settle(MINUTE);
    assert_eq!(condition(&sim.api, "Progressing"), "True ReplicaSetUpdated");
    assert_eq!(running(&sim.api), [("broken".into(), 2), ("one".into(), 3)]);
    sim.settle(SignedDuration::from_secs(700));
    assert_eq!(condition(&sim.api, "Progressing"), "False ProgressDeadlineExceeded");
    assert_eq!(condition(&sim.api, "Available"), "True MinimumReplicasAvailable");
    // Going back is possible from there.
    set_image(&sim, "one");
    sim.settle(MINUTE);
    assert_eq!(running(&sim.api), [("one".into(), 4)]);
    assert_eq!(condition(&sim.api, "Progressing"), "True NewReplicaSetAvailable");
}

#[test]
fn a_pause_holds_the_rollout_and_scaling_stays_proportional() {
    let mut sim = sim(4);
    sim.api.put(deployment(10, rolling(json!(3), json!(2))));
    sim.settle(MINUTE);
    set_image(&sim, "broken");
    sim.settle(MINUTE);
    assert_eq!(running(&sim.api), [("broken".into(), 5), ("one".into(), 8)]);
    set(&sim, "paused", json!(true));
    set(&sim, "replicas", json!(15));
    sim.settle(MINUTE);
    assert_eq!(condition(&sim.api, "Progressing"), "Unknown DeploymentPaused");
    // 18 pods in the proportion of 8 to 5.
    assert_eq!(running(&sim.api), [("broken".into(), 7), ("one".into(), 11)]);
    set_image(&sim, "two");
    set(&sim, "paused", json!(false));
    sim.settle(MINUTE);
    assert_eq!(running(&sim.api), [("two".into(), 15)]);
}

#[test]
fn pods_and_replica_sets_without_owner_are_adopted() {
    let mut sim = sim(5);
    let labels = json!({"app": "web"});
    sim.api.put(json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"namespace": "ns", "name": "lone", "labels": labels},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template("one")},
    }));
    sim.api.put(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "ns", "name": "stray", "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "one"}]},
    }));
    sim.api.put(deployment(2, rolling(json!(1), json!(0))));
    sim.settle(MINUTE);
    assert_eq!(running(&sim.api), [("one".into(), 2)]);
    let owner = |plural, name| {
        sim.api.get(plural, "ns", name).unwrap()["metadata"]["ownerReferences"][0]["name"].clone()
    };
    assert_eq!(owner("replicasets", "lone"), "web");
    assert_eq!(owner("pods", "stray"), "lone");
    // A pod whose labels no longer match is let go, and replaced.
    sim.api.edit("pods", "ns", "stray", |p| p["metadata"]["labels"] = json!({"app": "other"}));
    sim.settle(MINUTE);
    let stray = sim.api.get("pods", "ns", "stray").unwrap();
    assert_eq!(stray["metadata"]["ownerReferences"], json!([]));
    assert_eq!(sim.api.list("pods").len(), 3);
}

#[test]
fn pods_count_as_available_after_their_time() {
    let mut sim = sim(6);
    let mut d = deployment(2, rolling(json!(1), json!(0)));
    d["spec"]["minReadySeconds"] = json!(30);
    sim.api.put(d);
    sim.settle(SignedDuration::from_secs(10));
    assert_eq!(status(&sim.api), json!([2, 2, 2, null, 2]));
    assert_eq!(condition(&sim.api, "Available"), "False MinimumReplicasUnavailable");
    sim.settle(MINUTE);
    assert_eq!(status(&sim.api), json!([2, 2, 2, 2, null]));
}

#[test]
fn a_replica_set_that_cannot_be_created_is_told() {
    for (deadline, says_so) in [(json!(600), 1), (Value::Null, 0)] {
        let world = World::detached();
        let key = Key::new("ns", "web");
        let mut d = deployment(2, rolling(json!(1), json!(0)));
        d["spec"]["progressDeadlineSeconds"] = deadline.clone();
        world.apply("deployments", &key, Some(d));
        let mut plan = Deployments.reconcile(&key, &world, Time::UNIX_EPOCH);
        let creation = plan.steps.remove(0);
        let event = &creation.ops[0].otherwise[0];
        assert_eq!((event.kind, event.reason), ("Warning", "ReplicaSetCreateError"));
        assert!(event.message.starts_with("Failed to create new replica set \"web-"), "{}", event.message);
        let failure = crate::plan::Failure { code: 403, reason: "Forbidden".into(), message: "no".into() };
        let status = creation.on_failure.expect("a status for it")(&failure);
        assert_eq!(status.len(), says_so, "{deadline}");
    }
}
