//! What budgets allow, and what is said of pods that stay.

use super::*;
use crate::plan::Action;
use serde_json::{Value, json};

fn now() -> Time {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn put(world: &World, plural: &str, mut object: Value) {
    object["metadata"]["namespace"] = json!("ns");
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    object["metadata"]["uid"] = json!(format!("{plural}/{name}"));
    world.apply(plural, &Key::new("ns", name), Some(object));
}

fn pod(name: &str, owner: &str, ready: bool) -> Value {
    let refs = owner.split_once('/').map(|(kind, name)| {
        let (version, plural) = match kind {
            "ReplicationController" => ("v1", "replicationcontrollers"),
            "ReplicaSet" => ("apps/v1", "replicasets"),
            "StatefulSet" => ("apps/v1", "statefulsets"),
            "Job" => ("batch/v1", "jobs"),
            _ => ("example.com/v1", "things"),
        };
        json!([{"apiVersion": version, "kind": kind, "name": name, "uid": format!("{plural}/{name}"), "controller": true}])
    });
    json!({
        "metadata": {"name": name, "labels": {"app": "a"}, "ownerReferences": refs},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    })
}

/// Two replica sets of one deployment of 4, and a stateful set and a replication controller of 3.
fn workloads(world: &World) {
    let set = |name: &str| {
        json!({"metadata": {"name": name, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "deployments/web", "controller": true}]},
            "spec": {"replicas": 9, "selector": {}}})
    };
    put(world, "replicasets", set("web-1"));
    put(world, "replicasets", set("web-2"));
    put(
        world,
        "deployments",
        json!({"metadata": {"name": "web"}, "spec": {"replicas": 4, "selector": {}, "template": {}}}),
    );
    put(
        world,
        "replicasets",
        json!({"metadata": {"name": "alone"}, "spec": {"replicas": 2, "selector": {}}}),
    );
    let db = json!({"metadata": {"name": "db"}, "spec": {"replicas": 3, "selector": {}, "serviceName": "", "template": {}}});
    put(world, "statefulsets", db);
    put(world, "replicationcontrollers", json!({"metadata": {"name": "rc"}, "spec": {"replicas": 3}}));
}

fn budget(spec: Value, status: Value) -> Value {
    let mut spec = spec;
    if spec.get("selector").is_none() {
        spec["selector"] = json!({"matchLabels": {"app": "a"}});
    }
    json!({"metadata": {"name": "b", "generation": 2}, "spec": spec, "status": status})
}

fn plan(world: &World) -> Plan {
    Disruptions.reconcile(&Key::new("ns", "b"), world, now())
}

fn status(plan: &Plan) -> Value {
    let Some(op) = plan.ops().next() else { return Value::Null };
    let Action::Replace(body) = &op.action else { panic!("{op:?}") };
    assert_eq!(op.subresource, "status");
    serde_json::from_slice::<Value>(body).unwrap()["status"].clone()
}

fn said(plan: &Plan) -> Vec<String> {
    plan.notes.iter().map(|n| format!("{}: {}", n.reason, n.message)).collect()
}

/// Pods as (name, owner, ready); healthy now, healthy wanted, expected, evictions allowed.
fn check(spec: Value, pods: &[(&str, &str, bool)], expect: [i64; 4]) {
    let world = World::detached();
    workloads(&world);
    for (name, owner, ready) in pods {
        put(&world, "pods", pod(name, owner, *ready));
    }
    put(&world, "poddisruptionbudgets", budget(spec.clone(), json!({})));
    let s = status(&plan(&world));
    let got = ["currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed"];
    assert_eq!(got.map(|f| s[f].as_i64().unwrap()), expect, "{spec}");
    let c = &s["conditions"][0];
    let (status, reason) =
        if expect[3] > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    assert_eq!(
        (&c["type"], &c["status"], &c["reason"]),
        (&json!("DisruptionAllowed"), &json!(status), &json!(reason))
    );
    assert_eq!((&s["observedGeneration"], &c["observedGeneration"]), (&json!(2), &json!(2)));
}

#[test]
fn a_budget_allows_what_is_healthy_beyond_what_is_asked_for() {
    let web =
        [("a", "ReplicaSet/web-1", true), ("b", "ReplicaSet/web-2", true), ("c", "ReplicaSet/web-2", true)];
    check(json!({"minAvailable": 1}), &web, [3, 1, 3, 2]);
    // of the deployment's 4, not of its sets' 9
    check(json!({"minAvailable": "50%"}), &web, [3, 2, 4, 1]);
    check(json!({"maxUnavailable": 1}), &web, [3, 3, 4, 0]);
    check(json!({"maxUnavailable": "30%"}), &web, [3, 2, 4, 1]);
    check(json!({"maxUnavailable": 9}), &web, [3, 0, 4, 3]);
    // several workloads under one budget
    let many = [
        ("d", "StatefulSet/db", true),
        ("e", "ReplicationController/rc", false),
        ("f", "ReplicaSet/alone", true),
    ];
    check(json!({"maxUnavailable": "50%"}), &many, [2, 4, 8, 0]);
    check(json!({"minAvailable": 0}), &many, [2, 0, 3, 2]);
    // no pods, no eviction
    check(json!({"minAvailable": 0}), &[], [0, 0, 0, 0]);
    // pods on their own count only where the budget is a number
    check(json!({"minAvailable": 1}), &[("x", "", true), ("y", "", true)], [2, 1, 2, 1]);
    check(json!({"maxUnavailable": 1}), &[("x", "", true)], [1, 0, 0, 0]);
    check(json!({"minAvailable": 0, "selector": {}}), &[("x", "", true)], [1, 0, 1, 1]);
}

#[test]
fn what_is_odd_is_told() {
    let check = |owner: &str, expect: &[&str]| {
        let world = World::detached();
        workloads(&world);
        if !owner.is_empty() {
            put(&world, "pods", pod("p", owner.trim(), true));
        }
        put(
            &world,
            "poddisruptionbudgets",
            budget(json!({"minAvailable": "50%"}), json!({"disruptionsAllowed": 3})),
        );
        let plan = plan(&world);
        assert_eq!(said(&plan), expect);
        status(&plan)["conditions"][0].clone()
    };
    check("", &["NoPods: No matching pods found"]);
    check(
        " ",
        &[
            "UnmanagedPods: Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{app: a,},MatchExpressions:[]LabelSelectorRequirement{},}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
        ],
    );
    for (owner, why) in [
        ("ReplicaSet/gone", "found no controllers for pod \"p\""),
        ("Job/x", "jobs.batch does not implement the scale subresource"),
        ("Thing/x", "no matches for kind \"Thing\" in version \"example.com/v1\""),
    ] {
        let event = format!(
            "CalculateExpectedPodCountFailed: Failed to calculate the number of expected pods: {why}"
        );
        let c = check(owner, &[&event]);
        assert_eq!(
            (&c["status"], &c["reason"], &c["message"]),
            (&json!("False"), &json!("SyncFailed"), &json!(why))
        );
    }
    // which no eviction can get by
    let world = World::detached();
    put(&world, "pods", pod("p", "", true));
    put(&world, "poddisruptionbudgets", budget(json!({"minAvailable": 1}), json!({})));
    let mut other = budget(json!({"minAvailable": 1}), json!({}));
    other["metadata"]["name"] = json!("c");
    put(&world, "poddisruptionbudgets", other);
    let event = "MultiplePodDisruptionBudgets: Pod \"ns\"/\"p\" matches multiple PodDisruptionBudgets.  Chose \"b\" arbitrarily.";
    assert_eq!(said(&plan(&world)), [event]);
}

#[test]
fn an_evicted_pod_counts_as_gone_until_it_overstays() {
    let check = |since: &str, healthy: i64, awaited: bool, wake: Option<&str>, told: &[&str]| {
        let world = World::detached();
        for name in ["p", "q"] {
            put(&world, "pods", pod(name, "", true));
        }
        let evicted = json!({"disruptedPods": {"p": since, "gone": since}});
        put(&world, "poddisruptionbudgets", budget(json!({"minAvailable": 1}), evicted));
        let plan = plan(&world);
        let s = status(&plan);
        assert_eq!((&s["currentHealthy"], &s["disruptionsAllowed"]), (&json!(healthy), &json!(healthy - 1)));
        let left: Vec<&String> =
            s["disruptedPods"].as_object().map(|m| m.keys().collect()).unwrap_or_default();
        assert_eq!(left, if awaited { vec!["p"] } else { vec![] });
        assert_eq!(plan.wake_at, wake.map(|w| w.parse().unwrap()));
        assert_eq!(said(&plan), told);
    };
    check("2026-01-01T00:09:00Z", 1, true, Some("2026-01-01T00:11:00Z"), &[]);
    let told = "NotDeleted: Pod was expected by PDB ns/b to be deleted but it wasn't";
    check("2026-01-01T00:08:00Z", 2, false, None, &[told]);
}

#[test]
fn a_status_is_written_once() {
    let world = World::detached();
    put(&world, "pods", pod("p", "", true));
    put(&world, "poddisruptionbudgets", budget(json!({"minAvailable": 0}), json!({})));
    let first = status(&plan(&world));
    put(&world, "poddisruptionbudgets", budget(json!({"minAvailable": 0}), first));
    assert_eq!(status(&plan(&world)), Value::Null);
}

#[test]
fn a_disruption_that_does_not_come_is_taken_back() {
    let check = |change: fn(&mut Value), expect: Option<&str>| {
        let world = World::detached();
        let mut p = pod("p", "", true);
        p["status"]["conditions"].as_array_mut().unwrap().push(json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "m",
            "lastTransitionTime": "2026-01-01T00:08:00Z",
        }));
        change(&mut p);
        put(&world, "pods", p);
        let plan = StaleDisruptions.reconcile(&Key::new("ns", "p"), &world, now());
        let patched = plan.ops().next().map(|op| {
            let Action::StrategicPatch(body) = &op.action else { panic!("{op:?}") };
            let c = serde_json::from_slice::<Value>(body).unwrap()["status"]["conditions"][0].clone();
            assert_eq!(
                (&c["type"], &c["status"], &c["reason"]),
                (&json!("DisruptionTarget"), &json!("False"), &json!(null))
            );
            "now".to_owned()
        });
        let when = patched.or(plan.wake_at.map(|t| t.to_string()));
        assert_eq!(when.as_deref(), expect);
    };
    check(|_| (), Some("now"));
    check(
        |p| p["status"]["conditions"][1]["lastTransitionTime"] = json!("2026-01-01T00:09:30Z"),
        Some("2026-01-01T00:11:30Z"),
    );
    check(|p| p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"), None);
    check(|p| p["status"]["conditions"][1]["reason"] = json!("TerminationByKubelet"), None);
    check(|p| p["status"]["phase"] = json!("Failed"), None);
}
