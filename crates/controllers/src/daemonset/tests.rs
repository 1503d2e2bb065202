//! Daemon sets played to rest, with the controller seeing the world late, in many interleavings.

use super::*;
use crate::sim::Sim;
use client::testing::FakeApi;
use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};

const SEEDS: std::ops::Range<u64> = 0..20;
const MINUTE: SignedDuration = SignedDuration::from_secs(60);

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn daemons(strategy: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"namespace": "ns", "name": "agent", "annotations": {"kubernetes.io/change-cause": "first"}},
        "spec": {
            "revisionHistoryLimit": 2, "selector": {"matchLabels": {"app": "agent"}},
            "updateStrategy": strategy, "template": template("one"),
        },
    })
}

fn rolling(unavailable: Value, surge: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}})
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"os": "linux"}}})
}

fn sim(seed: u64, nodes: usize, set: Value) -> Sim {
    let mut sim = Sim::new(seed);
    sim.add(DaemonSets::default());
    for i in 0..nodes {
        sim.api.put(node(&format!("n{i}")));
    }
    sim.api.put(set);
    sim.settle(MINUTE);
    sim
}

fn edit(sim: &Sim, f: impl FnOnce(&mut Value)) {
    sim.api.edit("daemonsets", "ns", "agent", |d| {
        f(&mut d["spec"]);
        d["metadata"]["generation"] = json!(d["metadata"]["generation"].as_i64().unwrap() + 1);
    });
}

/// Living pods as `node image`.
fn running(api: &FakeApi) -> Vec<String> {
    let pods = api.list("pods");
    let living = pods.iter().filter(|p| p["metadata"].get("deletionTimestamp").is_none());
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    let mut all: Vec<_> = living
        .map(|p| format!("{} {}", text(&p["spec"]["nodeName"]), text(&p["spec"]["containers"][0]["image"])))
        .collect();
    all.sort();
    all
}

/// Desired, current, ready, up to date, available, misscheduled.
fn counts(api: &FakeApi) -> [i64; 6] {
    let set = api.get("daemonsets", "ns", "agent").unwrap();
    let fields = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberMisscheduled",
    ];
    fields.map(|f| set["status"][f].as_i64().unwrap_or(0))
}

fn revisions(api: &FakeApi) -> Vec<i64> {
    let mut all: Vec<_> =
        api.list("controllerrevisions").iter().map(|r| r["revision"].as_i64().unwrap()).collect();
    all.sort_unstable();
    all
}

fn serving(api: &FakeApi) -> usize {
    let ready = |p: &&Value| p["status"]["conditions"][0]["status"] == "True";
    let pods = api.list("pods");
    pods.iter().filter(|p| p["metadata"].get("deletionTimestamp").is_none()).filter(ready).count()
}

#[test]
fn an_update_rolls_within_its_bounds_and_back() {
    for seed in SEEDS {
        let mut sim = sim(seed, 5, daemons(rolling(json!(2), json!(0))));
        assert_eq!(running(&sim.api), ["n0 one", "n1 one", "n2 one", "n3 one", "n4 one"], "seed {seed}");
        assert_eq!(counts(&sim.api), [5, 5, 5, 5, 5, 0], "seed {seed}");
        let pod = &sim.api.list("pods")[0];
        assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(6));
        sim.invariant = Some(Box::new(move |api| {
            assert!(serving(api) >= 3, "seed {seed}: {} serve", serving(api));
            assert!(api.list("pods").len() <= 5, "seed {seed}");
        }));
        edit(&sim, |s| s["template"] = template("two"));
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api), ["n0 two", "n1 two", "n2 two", "n3 two", "n4 two"], "seed {seed}");
        assert_eq!((counts(&sim.api), revisions(&sim.api)), ([5, 5, 5, 5, 5, 0], vec![1, 2]));
        edit(&sim, |s| s["template"] = template("one"));
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api).join(",").matches("one").count(), 5, "seed {seed}");
        assert_eq!(revisions(&sim.api), [2, 3], "seed {seed}: an undo takes the old revision up again");
    }
}

#[test]
fn with_surge_no_node_is_without_a_daemon() {
    for seed in SEEDS {
        let mut set = daemons(rolling(json!(0), json!("25%")));
        set["spec"]["minReadySeconds"] = json!(5);
        let mut sim = sim(seed, 4, set);
        sim.invariant = Some(Box::new(move |api| {
            assert!(serving(api) >= 4, "seed {seed}: {} serve", serving(api));
            let living = running(api).len();
            assert!(living <= 5, "seed {seed}: {living} live");
        }));
        edit(&sim, |s| s["template"] = template("two"));
        sim.settle(MINUTE);
        assert_eq!(running(&sim.api), ["n0 two", "n1 two", "n2 two", "n3 two"], "seed {seed}");
    }
}

#[test]
fn a_new_template_waits_for_deletions_if_asked_to() {
    let mut sim = sim(1, 2, daemons(json!({"type": "OnDelete"})));
    edit(&sim, |s| s["template"] = template("two"));
    sim.settle(MINUTE);
    assert_eq!(running(&sim.api), ["n0 one", "n1 one"]);
    assert_eq!(counts(&sim.api), [2, 2, 2, 0, 2, 0]);
    let pods = sim.api.list("pods");
    sim.api.remove("pods", "ns", pods[0]["metadata"]["name"].as_str().unwrap());
    sim.settle(MINUTE);
    assert_eq!(running(&sim.api).join(",").matches("two").count(), 1);
}

#[test]
fn daemons_follow_the_nodes() {
    let mut sim = sim(2, 2, daemons(rolling(json!(1), json!(0))));
    let taint = |effect: &str| json!([{"key": "mine", "effect": effect}]);
    sim.api.edit("nodes", "", "n1", |n| n["spec"]["taints"] = taint("NoSchedule"));
    sim.settle(MINUTE);
    assert_eq!((running(&sim.api).len(), counts(&sim.api)), (2, [1, 1, 1, 1, 1, 1]));
    sim.api.edit("nodes", "", "n1", |n| n["spec"]["taints"] = taint("NoExecute"));
    sim.settle(MINUTE);
    assert_eq!((running(&sim.api), counts(&sim.api)), (vec!["n0 one".into()], [1, 1, 1, 1, 1, 0]));
    sim.api.edit("nodes", "", "n1", |n| n["spec"]["taints"] = json!([]));
    sim.api.put(node("n2"));
    sim.settle(MINUTE);
    assert_eq!(running(&sim.api), ["n0 one", "n1 one", "n2 one"]);
    edit(&sim, |s| s["template"]["spec"]["nodeSelector"] = json!({"os": "windows"}));
    sim.settle(MINUTE);
    assert_eq!((running(&sim.api).len(), counts(&sim.api)), (0, [0; 6]));
    sim.api.edit("nodes", "", "n1", |n| n["metadata"]["labels"] = json!({"os": "windows"}));
    sim.settle(MINUTE);
    assert_eq!(running(&sim.api), ["n1 one"]);
}

#[test]
fn failed_daemons_are_replaced_and_told_of() {
    let mut sim = sim(3, 1, daemons(rolling(json!(1), json!(0))));
    for _ in 0..3 {
        let name = sim.api.list("pods")[0]["metadata"]["name"].as_str().unwrap().to_owned();
        sim.api.edit("pods", "ns", &name, |p| p["status"] = json!({"phase": "Failed"}));
        sim.settle(MINUTE);
        assert_eq!((running(&sim.api), counts(&sim.api)), (vec!["n0 one".into()], [1, 1, 1, 1, 1, 0]));
        let event =
            format!("FailedDaemonPod: Found failed daemon pod ns/{name} on node n0, will try to kill it");
        assert_eq!(sim.notes.iter().filter(|n| **n == event).count(), 1, "{:?}", sim.notes);
    }
}

#[test]
fn history_keeps_what_its_limit_says_and_the_causes() {
    let mut sim = sim(4, 1, daemons(rolling(json!(1), json!(0))));
    for image in ["two", "three", "four", "five"] {
        edit(&sim, |s| s["template"] = template(image));
        sim.settle(MINUTE);
    }
    assert_eq!(revisions(&sim.api), [3, 4, 5]);
    let newest = sim.api.list("controllerrevisions").into_iter().find(|r| r["revision"] == 5).unwrap();
    assert_eq!(newest["metadata"]["annotations"]["kubernetes.io/change-cause"], "first");
    assert_eq!(newest["data"]["spec"]["template"]["spec"]["containers"][0]["image"], "five");
    let hash = &sim.api.list("pods")[0]["metadata"]["labels"][HASH_LABEL];
    assert_eq!(newest["metadata"]["labels"][HASH_LABEL], *hash);
}
