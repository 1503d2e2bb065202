//! Claims, volumes and their classes of attributes that are in use outlive their deletion until they no longer are: a finalizer holds them, which
//! admission puts there and these controllers take away.

use crate::controller::{Controller, Watches};
use crate::plan::{Action, Op, Plan, Target};
use crate::refs::controller_of;
use crate::world::{BY_CLAIM, World};
use client::{Delta, Key};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use meta::Time;
use serde::Serialize;

const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
const OF_VOLUMES: &str = "kubernetes.io/pv-protection";
const OF_CLASSES: &str = "kubernetes.io/vac-protection";

/// The name of the claim a pod's volume is of, where it is of one.
fn claim_of<'a>(pod: &Pod, volume: &'a Volume) -> Option<std::borrow::Cow<'a, str>> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.as_str().into()),
        (None, Some(_)) => {
            let pod = pod.metadata.name.as_deref().unwrap_or("");
            Some(meta::volumes::ephemeral_claim_name(pod, &volume.name).into())
        }
        (None, None) => None,
    }
}

/// The claims of a pod, as `namespace/name`.
pub(crate) fn claims_of(pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|v| Some(format!("{namespace}/{}", claim_of(pod, v)?))).collect()
}

/// Ended, and nothing of it is left on its node.
fn is_shut_down(pod: &Pod) -> bool {
    let m = &pod.metadata;
    m.deletion_timestamp.is_some() && m.deletion_grace_period_seconds == Some(0)
}

/// Whether a pod keeps the claim of this name, which the pod of this uid controls, from going. Kubelets start no pod
/// whose claim is being deleted: only those that are bound count.
pub(crate) fn uses(pod: &Pod, claim: &str, controller: Option<&str>) -> bool {
    let Some(spec) = pod.spec.as_ref().filter(|s| s.node_name.as_ref().is_some_and(|n| !n.is_empty())) else {
        return false;
    };
    spec.volumes.iter().flatten().any(|v| {
        let own = || pod.metadata.uid.as_deref().is_some_and(|uid| controller == Some(uid));
        claim_of(pod, v).is_some_and(|c| c == claim)
            && (v.persistent_volume_claim.is_some() || !is_shut_down(pod) && own())
    })
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == finalizer)
}

/// Whether the finalizer is due to be put there or taken away.
fn is_due(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.deletion_timestamp.is_some() == has(meta, finalizer)
}

fn due<K: Resource>(delta: &Delta<K>, finalizer: &str) -> Vec<Key> {
    let new = delta.new.as_ref().map(|n| n.meta());
    new.filter(|m| is_due(m, finalizer)).map(|_| delta.key.clone()).into_iter().collect()
}

/// Puts the finalizer there, or takes it away.
fn toggle<K: Resource<DynamicType = ()> + Serialize + Clone>(object: &K, finalizer: &str) -> Op {
    let mut object = object.clone();
    let finalizers = object.meta_mut().finalizers.get_or_insert_default();
    let before = finalizers.len();
    finalizers.retain(|f| f != finalizer);
    if finalizers.len() == before {
        finalizers.push(finalizer.into());
    }
    Op::replace(&object)
}

pub struct ClaimProtection;

impl Controller for ClaimProtection {
    const NAME: &'static str = "persistentvolumeclaim-protection-controller";
    const QUEUE: &'static str = "pvcprotection";

    fn watches(w: &mut Watches) {
        w.on(|w| &w.claims, |delta, _| due(delta, OF_CLAIMS)).on(|w| &w.pods, of_pod);
    }

    fn reconcile(&self, key: &Key, world: &World, _: Time) -> Plan {
        let Some(claim) = world.claims.get(key).filter(|c| is_due(&c.metadata, OF_CLAIMS)) else {
            return Plan::idle("the claim is gone, or its finalizer as it should be");
        };
        let mut plan = Plan::default();
        if claim.metadata.deletion_timestamp.is_some() {
            let controller = controller_of(&claim.metadata).map(|r| r.uid.clone());
            let pods = world.pods.by_index(BY_CLAIM, &key.to_string());
            if let Some(user) = pods.iter().find(|p| uses(p, &key.name, controller.as_deref())) {
                plan.because(format!("{} uses the claim", Key::of(&**user)));
                return plan;
            }
            // A pod that is just being bound may not be in the cache.
            plan.op(Op::at(Target::of::<Pod>(), key.clone(), Action::VerifyUnused { controller }));
        }
        plan.op(toggle::<PersistentVolumeClaim>(&claim, OF_CLAIMS).tolerating(&[crate::plan::NOT_FOUND]));
        plan
    }
}

/// The claims of a pod that is gone, or as good as.
fn of_pod(delta: &Delta<Pod>, world: &World) -> Vec<Key> {
    let gone = match (&delta.old, &delta.new) {
        (Some(old), None) => old,
        (old, Some(new)) if is_shut_down(new) && old.as_ref().is_none_or(|o| !is_shut_down(o)) => new,
        _ => return Vec::new(),
    };
    let volumes = gone.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let keys = volumes.filter_map(|v| Some(Key::new(&delta.key.namespace, claim_of(gone, v)?)));
    keys.filter(|k| world.claims.get(k).is_some_and(|c| is_due(&c.metadata, OF_CLAIMS))).collect()
}

pub struct VolumeProtection;

impl Controller for VolumeProtection {
    const NAME: &'static str = "persistentvolume-protection-controller";
    const QUEUE: &'static str = "pvprotection";

    fn watches(w: &mut Watches) {
        w.on(|w| &w.volumes, |delta, _| due(delta, OF_VOLUMES));
    }

    fn reconcile(&self, key: &Key, world: &World, _: Time) -> Plan {
        let Some(volume) = world.volumes.get(key).filter(|v| is_due(&v.metadata, OF_VOLUMES)) else {
            return Plan::idle("the volume is gone, or its finalizer as it should be");
        };
        let bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        if volume.metadata.deletion_timestamp.is_some() && bound {
            return Plan::idle("a claim is bound to the volume");
        }
        let mut plan = Plan::default();
        plan.op(toggle::<PersistentVolume>(&volume, OF_VOLUMES).tolerating(&[crate::plan::NOT_FOUND]));
        plan
    }
}

pub struct ClassProtection;

impl Controller for ClassProtection {
    const NAME: &'static str = "volumeattributesclass-protection-controller";
    const QUEUE: &'static str = "vacprotection";

    fn watches(w: &mut Watches) {
        w.on(|w| &w.attributes_classes, |delta, _| due(delta, OF_CLASSES))
            .on(|w| &w.claims, |delta, _| let_go(delta, classes_of_claim))
            .on(|w| &w.volumes, |delta, _| let_go(delta, class_of_volume));
    }

    fn reconcile(&self, key: &Key, world: &World, _: Time) -> Plan {
        let Some(class) = world.attributes_classes.get(key).filter(|c| is_due(&c.metadata, OF_CLASSES))
        else {
            return Plan::idle("the class is gone, or its finalizer as it should be");
        };
        let mut plan = Plan::default();
        if class.metadata.deletion_timestamp.is_some() {
            let named = |names: Vec<&str>| names.contains(&&*key.name);
            if let Some(claim) = world.claims.list().iter().find(|c| named(classes_of_claim(c))) {
                plan.because(format!("the claim {} is of the class", Key::of(&**claim)));
                return plan;
            }
            if let Some(volume) = world.volumes.list().iter().find(|v| named(class_of_volume(v))) {
                plan.because(format!("the volume {} is of the class", Key::of(&**volume)));
                return plan;
            }
        }
        plan.op(toggle::<VolumeAttributesClass>(&class, OF_CLASSES).tolerating(&[crate::plan::NOT_FOUND]));
        plan
    }
}

/// The class a claim asks for, the one it has, and the one it is being given.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<&str> {
    let status = claim.status.as_ref();
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let current = status.and_then(|s| s.current_volume_attributes_class_name.as_deref());
    let target = status.and_then(|s| s.modify_volume_status.as_ref());
    let target = target.and_then(|m| m.target_volume_attributes_class_name.as_deref());
    [wanted, current, target].into_iter().flatten().collect()
}

fn class_of_volume(volume: &PersistentVolume) -> Vec<&str> {
    let class = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    class.into_iter().collect()
}

/// The classes an object was of and no longer is.
fn let_go<K>(delta: &Delta<K>, classes: fn(&K) -> Vec<&str>) -> Vec<Key> {
    let now = delta.new.as_deref().map(classes).unwrap_or_default();
    let before = delta.old.as_deref().map(classes).unwrap_or_default();
    before.into_iter().filter(|class| !now.contains(class)).map(|class| Key::new("", class)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Sim;
    use k8s_openapi::jiff::SignedDuration;
    use serde_json::{Value, json};

    fn check(pod: Value, expect: bool) {
        let what = pod.to_string();
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(uses(&pod, "a-data", Some("u")), expect, "{what}");
    }

    #[test]
    fn a_bound_pod_uses_its_claims() {
        let pod = |node: &str, uid: &str, volume: Value| {
            json!({
                "metadata": {"name": "a", "uid": uid},
                "spec": {"nodeName": node, "containers": [], "volumes": [volume]},
            })
        };
        let claim = |name: &str| json!({"name": "data", "persistentVolumeClaim": {"claimName": name}});
        let ephemeral = json!({"name": "data", "ephemeral": {}});
        check(pod("n", "x", claim("a-data")), true);
        check(pod("", "x", claim("a-data")), false);
        check(pod("n", "x", claim("other")), false);
        check(pod("n", "u", ephemeral.clone()), true);
        check(pod("n", "x", ephemeral.clone()), false);
        let mut going = pod("n", "u", ephemeral);
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        going["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        check(going, false);
    }

    #[test]
    fn a_claim_goes_once_no_pod_uses_it() {
        let mut sim = Sim::new(1);
        sim.add(ClaimProtection);
        sim.api.put(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"namespace": "ns", "name": "c"},
        }));
        sim.api.put(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "ns", "name": "p"},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "broken"}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]},
        }));
        let minute = SignedDuration::from_secs(60);
        sim.settle(minute);
        let claim = |sim: &Sim| sim.api.get("persistentvolumeclaims", "ns", "c");
        assert_eq!(claim(&sim).unwrap()["metadata"]["finalizers"], json!([OF_CLAIMS]));
        let path = "/api/v1/namespaces/ns/persistentvolumeclaims/c";
        sim.api.call(&http::Method::DELETE, path, "application/json", b"{}");
        sim.settle(minute);
        assert!(claim(&sim).is_some());
        sim.api.remove("pods", "ns", "p");
        sim.settle(minute);
        assert_eq!(claim(&sim), None);
    }

    #[test]
    fn a_class_of_attributes_goes_once_no_claim_is_of_it() {
        let mut sim = Sim::new(1);
        sim.add(ClassProtection);
        sim.api.put(json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": "gold"},
            "driverName": "d", "parameters": {"iops": "1"},
        }));
        sim.api.put(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"namespace": "ns", "name": "c"},
            "spec": {"volumeAttributesClassName": "gold"},
        }));
        let minute = SignedDuration::from_secs(60);
        sim.settle(minute);
        let class = |sim: &Sim| sim.api.get("volumeattributesclasses", "", "gold");
        assert_eq!(class(&sim).unwrap()["metadata"]["finalizers"], json!([OF_CLASSES]));
        let path = "/apis/storage.k8s.io/v1/volumeattributesclasses/gold";
        sim.api.call(&http::Method::DELETE, path, "application/json", b"{}");
        sim.settle(minute);
        assert!(class(&sim).is_some());
        sim.api.remove("persistentvolumeclaims", "ns", "c");
        sim.settle(minute);
        assert_eq!(class(&sim), None);
    }
}
