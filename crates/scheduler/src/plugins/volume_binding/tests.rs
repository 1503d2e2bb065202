use super::progress::progress;
use crate::cycle::{Turn, schedule};
use crate::framework::{Event, Plugin};
use crate::plugins::{default_profile, node_volume_limits::NodeVolumeLimits, volume_binding::VolumeBinding};
use crate::pod::PodInfo;
use crate::preemption::Room;
use crate::snapshot::Snapshot;
use crate::testing::{merge, node, pod, pod_with};
use client::Key;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use meta::volumes as rules;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

fn object<T: DeserializeOwned>(mut base: Value, patch: Value) -> Arc<T> {
    merge(&mut base, patch);
    Arc::new(serde_json::from_value(base).unwrap())
}

/// A cluster of the nodes a and b with classes: `local` of volumes made by hand, `made` of such as a driver
/// makes, both for the first consumer, and `now`.
fn cluster() -> Snapshot {
    let mut c = Snapshot::new();
    for name in ["a", "b"] {
        c.set_node(node(name, json!({"metadata": {"labels": {"zone": name}}})));
    }
    let class = |provisioner: &str, mode: &str| {
        Some(object(json!({"provisioner": provisioner, "volumeBindingMode": mode}), json!({})))
    };
    c.volumes
        .set_class("local", class(rules::NO_PROVISIONER, "WaitForFirstConsumer").map(|c| named(c, "local")));
    c.volumes.set_class("made", class("csi.example.com", "WaitForFirstConsumer").map(|c| named(c, "made")));
    c.volumes.set_class("now", class("csi.example.com", "Immediate").map(|c| named(c, "now")));
    c
}

fn named(
    class: Arc<k8s_openapi::api::storage::v1::StorageClass>,
    name: &str,
) -> Arc<k8s_openapi::api::storage::v1::StorageClass> {
    let mut class = (*class).clone();
    class.metadata.name = Some(name.to_owned());
    Arc::new(class)
}

fn claim(c: &mut Snapshot, name: &str, patch: Value) {
    let base = json!({"metadata": {"namespace": "default", "name": name, "uid": format!("uid-{name}"), "resourceVersion": "1"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    c.volumes.set_claim(&Key::new("default", name), Some(object::<PersistentVolumeClaim>(base, patch)));
}

fn volume(c: &mut Snapshot, name: &str, at: &str, patch: Value) {
    let base = json!({"metadata": {"name": name, "resourceVersion": "1"}, "status": {"phase": "Available"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "zone", "operator": "In", "values": [at]}]}]}}}});
    c.volumes.set_volume(name, Some(object::<PersistentVolume>(base, patch)));
}

fn bound(volume: &str) -> Value {
    json!({"metadata": {"annotations": {rules::BIND_COMPLETED: "yes"}}, "spec": {"volumeName": volume}})
}

fn with_claims(name: &str, claims: &[&str]) -> Arc<PodInfo> {
    let volumes: Vec<Value> =
        claims.iter().map(|c| json!({"name": c, "persistentVolumeClaim": {"claimName": c}})).collect();
    pod(name, json!({"volumes": volumes}))
}

/// Where the pod goes, or why nowhere, up to what preemption says.
fn check(c: &Snapshot, pod: &PodInfo, expect: &str) {
    let got = match schedule(&default_profile(), c, pod, Turn::default()) {
        Ok(p) => p.node,
        Err(e) => {
            let message = e.message();
            let (why, _) = message.split_once(" no new claims").expect("preemption has a say");
            why.trim_start_matches("0/2 nodes are available: ").to_owned()
        }
    };
    assert_eq!(got, expect);
}

#[test]
fn a_pod_waits_for_its_claims() {
    let mut c = cluster();
    let p = with_claims("p", &["c"]);
    check(&c, &p, "persistentvolumeclaim \"c\" not found.");
    claim(&mut c, "c", json!({"spec": {"storageClassName": "now"}}));
    check(&c, &p, "pod has unbound immediate PersistentVolumeClaims.");
    claim(&mut c, "c", json!({"spec": {"storageClassName": "", "volumeName": "v"}}));
    check(&c, &p, "pod has unbound immediate PersistentVolumeClaims.");
    claim(&mut c, "c", json!({"status": {"phase": "Lost"}, "spec": {"volumeName": "v"}}));
    check(&c, &p, "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\".");
    claim(&mut c, "c", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    check(&c, &p, "persistentvolumeclaim \"c\" is being deleted.");
    claim(&mut c, "c", bound("v"));
    check(&c, &p, "persistentvolume \"v\" not found.");
    volume(&mut c, "v", "b", json!({}));
    check(&c, &p, "b");
    volume(&mut c, "v", "c", json!({}));
    check(&c, &p, "2 node(s) didn't match PersistentVolume's node affinity.");
    volume(&mut c, "v", "b", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z"}}}));
    c.set_node(node("b", json!({"metadata": {"labels": {"zone": "b", "topology.kubernetes.io/zone": "y"}}})));
    check(
        &c,
        &p,
        "1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) had no available volume zone.",
    );
}

#[test]
fn an_ephemeral_volume_has_a_claim_of_its_own() {
    let mut c = cluster();
    let p = pod("p", json!({"volumes": [{"name": "v", "ephemeral": {}}]}));
    check(&c, &p, "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\".");
    claim(&mut c, "p-v", json!({"spec": {"storageClassName": "made"}}));
    check(&c, &p, "PVC default/p-v was not created for pod default/p (pod is not owner).");
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "uid-p", "controller": true}]);
    claim(
        &mut c,
        "p-v",
        json!({"metadata": {"ownerReferences": owner}, "spec": {"storageClassName": "made"}}),
    );
    assert!(schedule(&default_profile(), &c, &p, Turn::default()).is_ok());
}

fn reserve(c: &Snapshot, pod: &PodInfo, node: &str) -> (Vec<String>, Vec<String>) {
    let reservation = default_profile().reserve(pod, c, node);
    let volumes = reservation.volumes.iter().map(|v| {
        let to = rules::claim_ref(v).and_then(|r| r.name.clone()).unwrap_or_default();
        format!("{}={to}", v.metadata.name.as_deref().unwrap_or(""))
    });
    let claims = reservation.claims.iter().map(|c| {
        let node = rules::annotation(&c.metadata, rules::SELECTED_NODE).unwrap_or("");
        format!("{}@{node}", c.metadata.name.as_deref().unwrap_or(""))
    });
    (volumes.collect(), claims.collect())
}

#[test]
fn volumes_are_chosen_with_the_node() {
    let mut c = cluster();
    let p = with_claims("p", &["large", "small"]);
    claim(&mut c, "small", json!({"spec": {"storageClassName": "local"}}));
    claim(
        &mut c,
        "large",
        json!({"spec": {"storageClassName": "local", "resources": {"requests": {"storage": "5Gi"}}}}),
    );
    check(&c, &p, "2 node(s) didn't find available persistent volumes to bind.");
    volume(&mut c, "a1", "a", json!({"spec": {"capacity": {"storage": "8Gi"}}}));
    volume(&mut c, "b1", "b", json!({"spec": {"capacity": {"storage": "5Gi"}}}));
    volume(&mut c, "b2", "b", json!({}));
    check(&c, &p, "b");
    assert_eq!(reserve(&c, &p, "b"), (vec!["b2=small".to_owned(), "b1=large".to_owned()], vec![]));
    // what is promised to one is not promised to another
    let reservation = default_profile().reserve(&p, &c, "b");
    c.volumes.assume(&reservation);
    let q = with_claims("q", &["other"]);
    claim(&mut c, "other", json!({"spec": {"storageClassName": "local"}}));
    check(&c, &q, "a");
    // and the same claims still go with the same volumes
    check(&c, &p, "b");
    c.volumes.forget(&reservation);
    volume(&mut c, "a1", "a", json!({"status": {"phase": "Released"}}));
    check(&c, &q, "b");
}

#[test]
fn volumes_are_made_where_the_pod_goes() {
    let mut c = cluster();
    let p = with_claims("p", &["c"]);
    claim(&mut c, "c", json!({"spec": {"storageClassName": "made"}}));
    let topology = |zone: &str| json!([{"matchLabelExpressions": [{"key": "zone", "values": [zone]}]}]);
    let class = json!({"metadata": {"name": "made"}, "provisioner": "csi.example.com", "volumeBindingMode": "WaitForFirstConsumer"});
    c.volumes.set_class("made", Some(object(class.clone(), json!({"allowedTopologies": topology("b")}))));
    check(&c, &p, "b");
    assert_eq!(reserve(&c, &p, "b"), (vec![], vec!["c@b".to_owned()]));
    c.volumes.set_class("made", Some(object(class.clone(), json!({"allowedTopologies": topology("x")}))));
    check(&c, &p, "2 node(s) didn't find available persistent volumes to bind.");
    // a driver that counts its room
    c.volumes.set_class("made", Some(object(class, json!({}))));
    c.volumes
        .set_driver("csi.example.com", Some(object(json!({"spec": {"storageCapacity": true}}), json!({}))));
    check(&c, &p, "2 node(s) did not have enough free storage.");
    let room = json!({"metadata": {"name": "r"}, "storageClassName": "made", "capacity": "2Gi",
        "nodeTopology": {"matchLabels": {"zone": "a"}}});
    c.volumes.set_capacity(&Key::new("ns", "r"), Some(object(room, json!({}))));
    check(&c, &p, "a");
    // whom the scheduler sent to a node stays there
    claim(
        &mut c,
        "c",
        json!({"metadata": {"annotations": {rules::SELECTED_NODE: "b"}}, "spec": {"storageClassName": "made"}}),
    );
    check(
        &c,
        &p,
        "1 node(s) did not have enough free storage, 1 node(s) didn't find available persistent volumes to bind.",
    );
}

#[test]
fn a_binding_comes_true_or_fails() {
    let mut c = cluster();
    let p = with_claims("p", &["l", "m"]);
    claim(&mut c, "l", json!({"spec": {"storageClassName": "local"}}));
    claim(&mut c, "m", json!({"spec": {"storageClassName": "made"}}));
    volume(&mut c, "v", "a", json!({}));
    let mut written = default_profile().reserve(&p, &c, "a");
    c.assume(p.clone(), "a");
    Arc::make_mut(&mut written.volumes[0]).metadata.resource_version = Some("10".to_owned());
    Arc::make_mut(&mut written.claims[0]).metadata.resource_version = Some("10".to_owned());
    let said = |c: &Snapshot| progress(c, &p, "a", &written);
    assert_eq!(said(&c), Ok(false));
    let claimed = json!({"metadata": {"resourceVersion": "11"}, "spec": {"claimRef": {"namespace": "default", "name": "l", "uid": "uid-l"}}});
    volume(&mut c, "v", "a", claimed.clone());
    assert_eq!(said(&c), Ok(false));
    claim(&mut c, "l", bound("v"));
    assert_eq!(said(&c), Ok(false));
    let made = |node: Value| json!({"metadata": {"resourceVersion": "12", "annotations": {rules::SELECTED_NODE: node, rules::BIND_COMPLETED: "yes"}}, "spec": {"volumeName": "w"}});
    claim(&mut c, "m", made(json!("b")));
    assert_eq!(said(&c), Err("provisioning failed for PVC \"m\"".to_owned()));
    claim(&mut c, "m", made(json!("a")));
    assert_eq!(said(&c), Ok(false));
    volume(&mut c, "w", "b", json!({}));
    assert_eq!(
        said(&c),
        Err("pv \"w\" node affinity doesn't match node \"a\": no matching NodeSelectorTerms".to_owned())
    );
    volume(&mut c, "w", "a", json!({}));
    assert_eq!(said(&c), Ok(true));
    volume(&mut c, "v", "a", json!({"metadata": {"resourceVersion": "13"}}));
    assert_eq!(said(&c), Err("ClaimRef got reset for pv \"v\"".to_owned()));
    c.remove_pod(&p.key);
    assert!(said(&c).unwrap_err().starts_with("pod does not exist any more"));
}

#[test]
fn one_pod_uses_a_claim_that_is_for_one_pod() {
    let mut c = cluster();
    let once = json!({"spec": {"accessModes": ["ReadWriteOncePod"], "storageClassName": "made"}});
    claim(&mut c, "c", once);
    let (p, q) = (with_claims("p", &["c"]), with_claims("q", &["c"]));
    c.assume(p.clone(), "a");
    check(
        &c,
        &q,
        "2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod.",
    );
    // who is less important goes
    let vip = pod(
        "vip",
        json!({"priority": 5, "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}),
    );
    let error = schedule(&default_profile(), &c, &vip, Turn::default()).unwrap_err();
    assert!(matches!(error.room, Room::Made(c) if c.node == "a"));
    c.remove_pod(&p.key);
    assert!(schedule(&default_profile(), &c, &q, Turn::default()).is_ok());
}

#[test]
fn a_node_attaches_so_many_volumes() {
    let mut c = cluster();
    let csi = |handle: &str| json!({"spec": {"nodeAffinity": null, "csi": {"driver": "d", "volumeHandle": handle}}});
    for name in ["1", "2", "3"] {
        volume(&mut c, &format!("v{name}"), "a", csi(name));
        claim(&mut c, &format!("c{name}"), bound(&format!("v{name}")));
    }
    let limit = |n: i32| {
        object::<k8s_openapi::api::storage::v1::CSINode>(
            json!({"spec": {"drivers": [{"name": "d", "nodeID": "n", "allocatable": {"count": n}}]}}),
            json!({}),
        )
    };
    c.volumes.set_csi_node("a", Some(limit(2)));
    c.volumes.set_csi_node("b", Some(limit(0)));
    c.assume(with_claims("p", &["c1"]), "a");
    check(&c, &with_claims("q", &["c1", "c2"]), "a");
    check(&c, &with_claims("q", &["c2", "c3"]), "2 node(s) exceed max volume count.");
    let attached = object(
        json!({"metadata": {"name": "x"}, "spec": {"attacher": "d", "nodeName": "a", "source": {"persistentVolumeName": "v2"}}}),
        json!({}),
    );
    c.volumes.set_attachment(&attached, false);
    check(&c, &with_claims("q", &["c3"]), "2 node(s) exceed max volume count.");
    c.volumes.set_attachment(&attached, true);
    check(&c, &with_claims("q", &["c3"]), "a");
    let helps = |now: i32, was: i32| {
        NodeVolumeLimits
            .could_help(&with_claims("q", &["c3"]), &Event::CsiNode(&limit(now), Some(&limit(was))))
    };
    assert_eq!((helps(3, 2), helps(2, 2), helps(1, 2)), (true, false, false));
}

#[test]
fn a_pod_is_woken_by_its_claims_and_by_volumes() {
    let p = with_claims("p", &["c"]);
    let of = |namespace: &str, name: &str| {
        object::<PersistentVolumeClaim>(
            json!({"metadata": {"namespace": namespace, "name": name}}),
            json!({}),
        )
    };
    let helps =
        |claim: &PersistentVolumeClaim| VolumeBinding.could_help(&p, &Event::Claim(claim, Some(claim)));
    assert_eq!(
        [helps(&of("default", "c")), helps(&of("default", "d")), helps(&of("ns", "c"))],
        [true, false, false]
    );
    let owned = pod_with("e", json!({"spec": {"volumes": [{"name": "v", "ephemeral": {}}]}}));
    assert!(VolumeBinding.could_help(&owned, &Event::Claim(&of("default", "e-v"), None)));
}
