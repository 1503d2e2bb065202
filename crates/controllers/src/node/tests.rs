//! Nodes that fall silent, and what becomes of their pods.

use super::eviction::{Tolerated, tolerated};
use super::*;
use crate::serviceaccount::{RootCa, ServiceAccounts};
use crate::sim::Sim;
use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};

fn seconds(n: i64) -> SignedDuration {
    SignedDuration::from_secs(n)
}

fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]},
    })
}

fn pod(name: &str, node: &str, tolerations: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "ns", "name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c"}], "tolerations": tolerations},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn taints(sim: &Sim, name: &str) -> Vec<String> {
    let n = sim.api.get("nodes", "", name).unwrap();
    let all = n["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let mut all: Vec<_> = all
        .iter()
        .map(|t| format!("{}:{}", t["key"].as_str().unwrap(), t["effect"].as_str().unwrap()))
        .collect();
    all.sort();
    all
}

fn ready(sim: &Sim, plural: &str, ns: &str, name: &str) -> String {
    let o = sim.api.get(plural, ns, name).unwrap();
    let c =
        o["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").cloned().unwrap();
    c["status"].as_str().unwrap().to_owned()
}

/// A sign of life.
fn beat(sim: &Sim, name: &str) {
    let stamp = sim.now.to_string();
    sim.api.put(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"namespace": "kube-node-lease", "name": name},
        "spec": {"renewTime": stamp},
    }));
}

#[test]
fn a_silent_node_loses_its_pods_and_comes_back() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed);
        sim.add(NodeLifecycle::default());
        sim.add(TaintEviction::default());
        sim.api.put(node("a"));
        sim.api.put(node("b"));
        let patient = json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
        sim.api.put(pod("patient", "a", patient));
        sim.api.put(pod("hasty", "a", json!([])));
        sim.api.put(pod("steadfast", "a", json!([{"operator": "Exists"}])));
        sim.api.put(pod("elsewhere", "b", json!([])));
        for _ in 0..6 {
            sim.settle(seconds(10));
            sim.now += seconds(10);
            beat(&sim, "b");
        }
        sim.settle(seconds(0));
        assert_eq!(ready(&sim, "nodes", "", "a"), "Unknown", "seed {seed}");
        assert_eq!(ready(&sim, "nodes", "", "b"), "True");
        assert_eq!(
            taints(&sim, "a"),
            [format!("{UNREACHABLE}:NoExecute"), format!("{UNREACHABLE}:NoSchedule")]
        );
        assert!(taints(&sim, "b").is_empty());
        assert_eq!(ready(&sim, "pods", "ns", "elsewhere"), "True");
        assert_eq!(ready(&sim, "pods", "ns", "patient"), "False");
        assert!(sim.api.get("pods", "ns", "hasty").is_none());
        assert!(sim.notes.iter().any(|n| n == "NodeNotReady: Node a status is now: NodeNotReady"));
        for _ in 0..31 {
            sim.settle(seconds(10));
            sim.now += seconds(10);
            beat(&sim, "b");
        }
        sim.settle(seconds(0));
        assert!(sim.api.get("pods", "ns", "patient").is_none());
        assert!(sim.api.get("pods", "ns", "steadfast").is_some());
        // The kubelet is back.
        let stamp = sim.now.to_string();
        sim.api.edit("nodes", "", "a", |n| {
            n["status"] = node("a")["status"].clone();
            n["status"]["conditions"][0]["lastHeartbeatTime"] = json!(stamp);
        });
        beat(&sim, "a");
        sim.settle(seconds(0));
        assert!(taints(&sim, "a").is_empty(), "seed {seed}: {:?}", taints(&sim, "a"));
    }
}

#[test]
fn nothing_is_evicted_when_every_node_is_silent() {
    let mut sim = Sim::new(1);
    sim.add(NodeLifecycle::default());
    sim.add(TaintEviction::default());
    sim.api.put(node("a"));
    sim.api.put(pod("p", "a", json!([])));
    sim.settle(seconds(300));
    assert_eq!(taints(&sim, "a"), [format!("{UNREACHABLE}:NoSchedule")]);
    assert!(sim.api.get("pods", "ns", "p").is_some());
}

#[test]
fn nodes_are_emptied_one_by_one_and_not_where_most_are_silent() {
    let emptied = |silent: &[&str], alive: &[&str]| {
        let mut sim = Sim::new(4);
        sim.add(NodeLifecycle::default());
        silent.iter().chain(alive).for_each(|name| sim.api.put(node(name)));
        let mut counts = Vec::new();
        for _ in 0..10 {
            sim.settle(seconds(0));
            let empty = silent.iter().filter(|n| taints(&sim, n).iter().any(|t| t.ends_with("NoExecute")));
            counts.push(empty.count());
            alive.iter().for_each(|name| beat(&sim, name));
            sim.settle(seconds(0));
            sim.now += seconds(8);
        }
        counts
    };
    // silent after 50 seconds, then a node each 10
    assert_eq!(emptied(&["a", "b"], &["c", "d"]), [0, 0, 0, 0, 0, 0, 0, 1, 1, 2]);
    assert_eq!(emptied(&["a", "b", "c"], &["d"]), [0; 10], "three of four");
}

#[test]
fn conditions_and_cordons_taint() {
    let mut sim = Sim::new(2);
    sim.add(NodeLifecycle::default());
    let mut n = node("a");
    n["spec"]["unschedulable"] = json!(true);
    n["spec"]["taints"] = json!([{"key": "mine", "effect": "NoSchedule"}]);
    n["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "DiskPressure", "status": "True"}));
    sim.api.put(n);
    sim.settle(seconds(0));
    assert_eq!(
        taints(&sim, "a"),
        [
            "mine:NoSchedule",
            "node.kubernetes.io/disk-pressure:NoSchedule",
            "node.kubernetes.io/unschedulable:NoSchedule",
        ]
    );
}

#[test]
fn a_pods_time_runs_once_from_when_it_came_under_a_taint() {
    let mut sim = Sim::new(5);
    sim.add(TaintEviction::default());
    let taint = |key: &str, added: Option<Time>| {
        let mut taint = json!({"key": key, "effect": "NoExecute"});
        if let Some(added) = added {
            taint["timeAdded"] = json!(added.to_string());
        }
        taint
    };
    let set = |sim: &Sim, taints: Value| sim.api.edit("nodes", "", "a", |n| n["spec"]["taints"] = taints);
    let long_ago = sim.now - seconds(3600);
    sim.api.put(node("a"));
    set(&sim, json!([taint("old", Some(long_ago))]));
    let tolerations = |seconds: i64| {
        json!([{"key": "old", "operator": "Exists", "tolerationSeconds": seconds},
            {"key": "new", "operator": "Exists", "tolerationSeconds": seconds}])
    };
    let mut late = pod("late", "a", tolerations(100));
    late["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": sim.now.to_string()}));
    sim.api.put(late);
    sim.settle(seconds(60));
    sim.now += seconds(60);
    assert!(sim.api.get("pods", "ns", "late").is_some(), "it came after the taint");
    // another taint in its place
    set(&sim, json!([taint("new", Some(sim.now))]));
    sim.settle(seconds(0));
    sim.now += seconds(39);
    sim.settle(seconds(0));
    assert!(sim.api.get("pods", "ns", "late").is_some());
    sim.settle(seconds(2));
    assert!(sim.api.get("pods", "ns", "late").is_none(), "100 seconds in all");

    sim.api.put(pod("lucky", "a", tolerations(1000)));
    sim.settle(seconds(1));
    set(&sim, json!([]));
    sim.settle(seconds(1));
    let of = |what: &str| sim.notes.iter().filter(|n| n.contains(what)).count();
    assert_eq!(of("TaintManagerEviction: Cancelling deletion of Pod ns/lucky"), 1);
    assert_eq!((of("Cancelling deletion of Pod ns/late"), of("Marking for deletion Pod ns/late")), (0, 1));
}

#[test]
fn tolerations_and_their_time() {
    let check = |tolerations: Value, expect| {
        let taint = json!([{"key": "k", "value": "v", "effect": "NoExecute"}]);
        let got = tolerated(
            &serde_json::from_value::<Vec<_>>(taint).unwrap(),
            &serde_json::from_value::<Vec<_>>(tolerations.clone()).unwrap(),
        );
        assert_eq!(got, expect, "{tolerations}");
    };
    check(json!([]), Tolerated::No);
    check(json!([{"operator": "Exists"}]), Tolerated::Forever);
    check(json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 5}]), Tolerated::For(seconds(5)));
    check(json!([{"key": "k", "value": "v"}]), Tolerated::Forever);
    check(json!([{"key": "k", "value": "w"}]), Tolerated::No);
    check(json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]), Tolerated::No);
}

#[test]
fn nodes_get_networks_of_their_own() {
    for seed in 0..5 {
        let mut sim = Sim::new(seed);
        sim.add(NodeIpam { cluster: "10.244.0.0/22".parse().unwrap(), node_prefix: 24 });
        for n in ["a", "b", "c", "d", "e"] {
            sim.api.put(node(n));
        }
        sim.settle(seconds(0));
        let cidrs = |sim: &Sim| {
            let mut all: Vec<_> = sim
                .api
                .list("nodes")
                .iter()
                .filter_map(|n| n["spec"]["podCIDR"].as_str().map(str::to_owned))
                .collect();
            all.sort();
            all
        };
        let all = ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"];
        assert_eq!(cidrs(&sim), all);
        assert!(sim.notes.iter().any(|n| n.ends_with("status is now: CIDRNotAvailable")));
        let first = sim.api.list("nodes").iter().find(|n| n["spec"]["podCIDR"].is_string()).unwrap()["metadata"]["name"].clone();
        sim.api.remove("nodes", "", first.as_str().unwrap());
        sim.settle(seconds(0));
        assert_eq!(cidrs(&sim), all, "the freed network is given again");
    }
}

#[test]
fn pods_of_a_node_that_is_gone_are_removed_after_a_while() {
    let mut sim = Sim::new(3);
    sim.add(PodGc::default());
    sim.api.put(node("a"));
    sim.api.put(pod("p", "a", json!([])));
    sim.settle(seconds(0));
    sim.api.remove("nodes", "", "a");
    sim.settle(seconds(30));
    assert!(sim.api.get("pods", "ns", "p").is_some());
    sim.settle(seconds(60));
    assert!(sim.api.get("pods", "ns", "p").is_none());
}

#[test]
fn every_namespace_gets_its_account_and_certificate() {
    let mut sim = Sim::new(4);
    sim.add(ServiceAccounts);
    sim.add(RootCa { certificate: "pem".into() });
    sim.api.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}, "status": {"phase": "Active"}}));
    sim.settle(seconds(0));
    assert!(sim.api.get("serviceaccounts", "ns", "default").is_some());
    assert_eq!(sim.api.get("configmaps", "ns", "kube-root-ca.crt").unwrap()["data"]["ca.crt"], "pem");
    sim.api.remove("serviceaccounts", "ns", "default");
    sim.api.edit("configmaps", "ns", "kube-root-ca.crt", |c| c["data"]["ca.crt"] = json!("forged"));
    sim.settle(seconds(0));
    assert!(sim.api.get("serviceaccounts", "ns", "default").is_some());
    assert_eq!(sim.api.get("configmaps", "ns", "kube-root-ca.crt").unwrap()["data"]["ca.crt"], "pem");
}
