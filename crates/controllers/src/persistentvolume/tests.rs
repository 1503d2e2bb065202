use super::*;
use crate::sim::Sim;
use k8s_openapi::jiff::SignedDuration;
use meta::volumes::WAIT_FOR_FIRST_CONSUMER;
use serde_json::{Value, json};

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(k, v)| merge(into.entry(k).or_insert(Value::Null), v));
        }
        (into, from) => *into = from,
    }
}

fn volume(name: &str, patch: Value) -> Value {
    let mut v = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"},
            "persistentVolumeReclaimPolicy": "Retain"}});
    merge(&mut v, patch);
    v
}

fn claim(name: &str, patch: Value) -> Value {
    let mut c = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"namespace": "ns", "name": name}, "status": {"phase": "Pending"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}});
    merge(&mut c, patch);
    c
}

fn class(name: &str, provisioner: &str, mode: &str, default: bool) -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": provisioner, "volumeBindingMode": mode,
        "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": default.to_string()}}})
}

fn binder(objects: impl IntoIterator<Item = Value>) -> Sim {
    let mut sim = Sim::new(1);
    sim.add(Binder);
    objects.into_iter().for_each(|o| sim.api.put(o));
    settle(&mut sim);
    sim
}

fn settle(sim: &mut Sim) {
    sim.settle(SignedDuration::from_secs(60));
}

/// A claim as `phase volume`, a volume as `phase claim`.
fn of_claim(sim: &Sim, name: &str) -> String {
    let c = sim.api.get("persistentvolumeclaims", "ns", name).unwrap();
    let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
    format!("{} {}", text(&c["status"]["phase"]), text(&c["spec"]["volumeName"]))
}

fn of_volume(sim: &Sim, name: &str) -> String {
    let v = sim.api.get("persistentvolumes", "", name).unwrap();
    let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
    format!("{} {}", text(&v["status"]["phase"]), text(&v["spec"]["claimRef"]["name"]))
}

fn edit(sim: &mut Sim, plural: &str, name: &str, change: impl FnOnce(&mut Value)) {
    let namespace = if plural == "persistentvolumes" { "" } else { "ns" };
    sim.api.edit(plural, namespace, name, change);
    settle(sim);
}

#[test]
fn a_claim_and_a_volume_find_each_other_whoever_comes_first() {
    for claim_first in [true, false] {
        let mut objects = [
            volume("v", json!({})),
            volume("large", json!({"spec": {"capacity": {"storage": "9Gi"}}})),
            claim("c", json!({})),
        ];
        if claim_first {
            objects.reverse();
        }
        let sim = binder(objects);
        assert_eq!((of_claim(&sim, "c"), of_volume(&sim, "v")), ("Bound v".to_owned(), "Bound c".to_owned()));
        assert_eq!(of_volume(&sim, "large"), "Available -");
        let c = sim.api.get("persistentvolumeclaims", "ns", "c").unwrap();
        let v = sim.api.get("persistentvolumes", "", "v").unwrap();
        assert_eq!(
            c["metadata"]["annotations"],
            json!({rules::BIND_COMPLETED: "yes", rules::BOUND_BY_CONTROLLER: "yes"})
        );
        assert_eq!(v["metadata"]["annotations"], json!({rules::BOUND_BY_CONTROLLER: "yes"}));
        assert_eq!(v["spec"]["claimRef"]["uid"], c["metadata"]["uid"]);
        assert_eq!(
            (&c["status"]["capacity"], &c["status"]["accessModes"]),
            (&json!({"storage": "1Gi"}), &json!(["ReadWriteOnce"]))
        );
    }
}

#[test]
fn many_claims_and_volumes_pair_off() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed);
        sim.add(Binder);
        for i in 0..6 {
            sim.api.put(volume(&format!("v{i}"), json!({})));
            sim.api.put(claim(&format!("c{i}"), json!({})));
            sim.play(3);
        }
        settle(&mut sim);
        let mut bound: Vec<String> = (0..6).map(|i| of_claim(&sim, &format!("c{i}"))).collect();
        bound.sort();
        let all: Vec<String> = (0..6).map(|i| format!("Bound v{i}")).collect();
        assert_eq!(bound, all, "seed {seed}");
        for i in 0..6 {
            let v = sim.api.get("persistentvolumes", "", &format!("v{i}")).unwrap();
            let owner = v["spec"]["claimRef"]["name"].as_str().unwrap();
            assert_eq!(of_claim(&sim, owner), format!("Bound v{i}"), "seed {seed}");
        }
    }
}

#[test]
fn either_side_may_choose_the_other() {
    // by the claim
    let sim = binder([
        volume("a", json!({})),
        volume("b", json!({})),
        claim("c", json!({"spec": {"volumeName": "b"}})),
    ]);
    assert_eq!((of_claim(&sim, "c"), of_volume(&sim, "a")), ("Bound b".to_owned(), "Available -".to_owned()));
    let c = sim.api.get("persistentvolumeclaims", "ns", "c").unwrap();
    assert_eq!(c["metadata"]["annotations"], json!({rules::BIND_COMPLETED: "yes"}));
    // by the volume, also though another one fits better
    let set_aside =
        json!({"spec": {"capacity": {"storage": "9Gi"}, "claimRef": {"namespace": "ns", "name": "c"}}});
    let sim = binder([
        volume("a", json!({})),
        volume("b", set_aside),
        claim("other", json!({})),
        claim("c", json!({})),
    ]);
    assert_eq!((of_claim(&sim, "c"), of_claim(&sim, "other")), ("Bound b".to_owned(), "Bound a".to_owned()));
    let b = sim.api.get("persistentvolumes", "", "b").unwrap();
    assert_eq!(b["metadata"]["annotations"], Value::Null);
    // a volume that the claim names and that is not what it asks for
    let small = json!({"spec": {"volumeName": "a", "resources": {"requests": {"storage": "2Gi"}}}});
    let sim = binder([volume("a", json!({})), claim("c", small)]);
    assert_eq!(of_claim(&sim, "c"), "Pending a");
    assert!(sim.notes.contains(
        &"VolumeMismatch: Cannot bind to requested volume \"a\": requested PV is too small".to_owned()
    ));
    // or another's
    let taken = volume("a", json!({"spec": {"claimRef": {"namespace": "ns", "name": "x"}}}));
    let sim = binder([taken, claim("c", json!({"spec": {"volumeName": "a"}}))]);
    assert_eq!(
        (of_claim(&sim, "c"), of_volume(&sim, "a")),
        ("Pending a".to_owned(), "Available x".to_owned())
    );
    assert!(
        sim.notes.contains(&"FailedBinding: volume \"a\" already bound to a different claim.".to_owned())
    );
}

#[test]
fn who_waits_is_told_for_what() {
    let check = |objects: Vec<Value>, expect: &str| {
        let sim = binder(objects);
        assert_eq!(of_claim(&sim, "c"), "Pending -");
        assert!(sim.notes.iter().any(|n| n == expect), "{:?} lack {expect}", sim.notes);
    };
    let of = |class: Value| claim("c", json!({"spec": {"storageClassName": class}}));
    check(
        vec![of(json!(""))],
        "FailedBinding: no persistent volumes available for this claim and no storage class is set",
    );
    check(
        vec![of(Value::Null)],
        "FailedBinding: no persistent volumes available for this claim and no storage class is set",
    );
    check(vec![of(json!("a"))], "ProvisioningFailed: storageclass.storage.k8s.io \"a\" not found");
    let wait = |provisioner: &str| class("a", provisioner, WAIT_FOR_FIRST_CONSUMER, false);
    check(
        vec![wait("x"), of(json!("a"))],
        "WaitForFirstConsumer: waiting for first consumer to be created before binding",
    );
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "ns", "name": "p"},
        "spec": {"containers": [{"name": "c", "image": "broken"}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
    check(vec![wait("x"), pod, of(json!("a"))], "WaitForPodScheduled: waiting for pod p to be scheduled");
    let now = |provisioner: &str| class("a", provisioner, "Immediate", false);
    check(
        vec![now(rules::NO_PROVISIONER), of(json!("a"))],
        "ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner",
    );
    check(
        vec![now("csi.example.com"), of(json!("a"))],
        "ExternalProvisioning: Waiting for a volume to be created either by the external provisioner 'csi.example.com' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.",
    );
}

#[test]
fn the_first_consumer_decides() {
    let mut sim = binder([
        class("a", "csi.example.com", WAIT_FOR_FIRST_CONSUMER, false),
        volume("v", json!({"spec": {"storageClassName": "a"}})),
        claim("c", json!({"spec": {"storageClassName": "a"}})),
        claim("d", json!({"spec": {"storageClassName": "a"}})),
    ]);
    assert_eq!(
        (of_claim(&sim, "c"), of_volume(&sim, "v")),
        ("Pending -".to_owned(), "Available -".to_owned())
    );
    // as the scheduler binds ...
    let uid = sim.api.get("persistentvolumeclaims", "ns", "c").unwrap()["metadata"]["uid"].clone();
    edit(&mut sim, "persistentvolumes", "v", |v| {
        v["spec"]["claimRef"] = json!({"namespace": "ns", "name": "c", "uid": uid});
        v["metadata"]["annotations"] = json!({rules::BOUND_BY_CONTROLLER: "yes"});
    });
    assert_eq!((of_claim(&sim, "c"), of_volume(&sim, "v")), ("Bound v".to_owned(), "Bound c".to_owned()));
    // ... or has a volume made
    edit(&mut sim, "persistentvolumeclaims", "d", |c| {
        c["metadata"]["annotations"] = json!({rules::SELECTED_NODE: "n"})
    });
    let d = sim.api.get("persistentvolumeclaims", "ns", "d").unwrap();
    assert_eq!(d["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"], "csi.example.com");
    assert_eq!(
        d["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-provisioner"],
        "csi.example.com"
    );
}

#[test]
fn a_default_class_helps_also_when_it_comes_late() {
    let mut sim = binder([claim("c", json!({"spec": {"storageClassName": null}}))]);
    assert_eq!(of_claim(&sim, "c"), "Pending -");
    sim.api.put(class("std", "csi.example.com", "Immediate", true));
    settle(&mut sim);
    let c = sim.api.get("persistentvolumeclaims", "ns", "c").unwrap();
    assert_eq!(c["spec"]["storageClassName"], "std");
    assert_eq!(c["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"], "csi.example.com");
}

#[test]
fn a_volume_outlives_its_claim() {
    let check = |patch: Value, phase: &str, note: &str| {
        let mut sim = binder([volume("v", patch), claim("c", json!({}))]);
        assert_eq!(of_volume(&sim, "v"), "Bound c");
        sim.api.remove("persistentvolumeclaims", "ns", "c");
        // another one of the same name does not get it
        sim.api.put(claim("c", json!({})));
        settle(&mut sim);
        assert_eq!(
            (of_volume(&sim, "v"), of_claim(&sim, "c")),
            (format!("{phase} c"), "Pending -".to_owned())
        );
        assert!(note.is_empty() || sim.notes.iter().any(|n| n == note), "{:?} lack {note}", sim.notes);
    };
    let policy = |p: &str, more: Value| {
        let mut v = json!({"spec": {"persistentVolumeReclaimPolicy": p}});
        merge(&mut v, more);
        v
    };
    check(json!({}), "Released", "");
    check(
        policy("Delete", json!({})),
        "Failed",
        "VolumeFailedDelete: host_path deleter only supports /tmp/.+ but received provided /data",
    );
    check(
        policy("Delete", json!({"spec": {"hostPath": null, "local": {"path": "/x"}}})),
        "Failed",
        "VolumeFailedDelete: error getting deleter volume plugin for volume \"v\": no volume plugin matched",
    );
    check(
        policy("Delete", json!({"spec": {"hostPath": null, "csi": {"driver": "d", "volumeHandle": "h"}}})),
        "Released",
        "",
    );
    check(
        policy(
            "Delete",
            json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "csi.example.com"}}}),
        ),
        "Released",
        "",
    );
    check(
        policy("Recycle", json!({})),
        "Failed",
        "VolumeFailedRecycle: No recycler plugin found for the volume!",
    );
}

#[test]
fn what_is_lost_is_said() {
    let mut sim = binder([volume("v", json!({})), claim("c", json!({}))]);
    sim.api.remove("persistentvolumes", "", "v");
    settle(&mut sim);
    assert_eq!(of_claim(&sim, "c"), "Lost v");
    assert!(sim.notes.contains(
        &"ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!".to_owned()
    ));
    // a volume that two claims say is theirs
    let bound =
        json!({"metadata": {"annotations": {rules::BIND_COMPLETED: "yes"}}, "spec": {"volumeName": "v"}});
    let sim = binder([volume("v", json!({})), claim("c", json!({})), claim("d", bound)]);
    let (c, d) = (of_claim(&sim, "c"), of_claim(&sim, "d"));
    assert!((c == "Bound v" && d == "Lost v") || (c == "Pending -" && d == "Bound v"), "{c}, {d}");
    // a binding that came to nothing is taken back
    let mut sim = binder([volume("v", json!({})), claim("c", json!({}))]);
    let uid = sim.api.get("persistentvolumeclaims", "ns", "c").unwrap()["metadata"]["uid"].clone();
    let claimed = json!({"spec": {"claimRef": {"namespace": "ns", "name": "c", "uid": uid}},
        "metadata": {"annotations": {rules::BOUND_BY_CONTROLLER: "yes"}}});
    sim.api.put(volume("w", claimed));
    settle(&mut sim);
    assert_eq!(of_volume(&sim, "w"), "Available -");
}
