//! Generic ephemeral volumes: each gets a claim of its own, which its pod owns and which goes with it.

use crate::controller::{Controller, Watches};
use crate::metrics::Metric;
use crate::plan::{Note, Op, Plan};
use crate::refs::{controller_ref, is_controlled_by};
use crate::world::{BY_CLAIM, World};
use client::{Delta, Key};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::Time;

static CREATIONS: Metric = Metric::counter(
    "ephemeral_volume_controller_create_total",
    &[],
    "Number of PersistentVolumeClaim creation requests",
);
static CREATION_FAILURES: Metric = Metric::counter(
    "ephemeral_volume_controller_create_failures_total",
    &[],
    "Number of PersistentVolumeClaim creation requests",
);

pub struct EphemeralVolumes;

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let all = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    all.filter(|v| v.ephemeral.is_some())
}

fn has_some(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && volumes(pod).next().is_some()
}

impl Controller for EphemeralVolumes {
    const NAME: &'static str = "ephemeral-volume-controller";
    const QUEUE: &'static str = "ephemeral_volume";
    const METRICS: &'static [&'static Metric] = &[&CREATIONS, &CREATION_FAILURES];

    fn watches(w: &mut Watches) {
        w.on(|w| &w.pods, of_pod).on(|w| &w.claims, of_claim);
    }

    fn reconcile(&self, key: &Key, world: &World, _: Time) -> Plan {
        let Some(pod) = world.pods.get(key).filter(|p| has_some(p)) else {
            return Plan::idle("the pod is gone, or going");
        };
        let mut plan = Plan::default();
        for volume in volumes(&pod) {
            let name = meta::volumes::ephemeral_claim_name(&key.name, &volume.name);
            match world.claims.find(&key.namespace, &name) {
                None => drop(plan.op(create(&pod, volume, &name))),
                Some(claim) if is_controlled_by(&claim.metadata, &pod.metadata) => {}
                Some(_) => {
                    let why = format!(
                        "PVC {}/{name} was not created for pod {key} (pod is not owner)",
                        key.namespace
                    );
                    plan.note(failed(&pod, volume, &why));
                    plan.retry = Some(format!("pod {key}, ephemeral volume {}: {why}", volume.name));
                    // upstream stops at the first, too
                    break;
                }
            }
        }
        plan
    }
}

/// The volumes of a pod never change.
fn of_pod(delta: &Delta<Pod>, _: &World) -> Vec<Key> {
    let new = delta.new.as_ref().filter(|p| delta.old.is_none() && has_some(p));
    new.map(|_| delta.key.clone()).into_iter().collect()
}

/// A claim that someone deleted is made again while its pod lives.
fn of_claim(delta: &Delta<PersistentVolumeClaim>, world: &World) -> Vec<Key> {
    if delta.new.is_some() {
        return Vec::new();
    }
    let pods = world.pods.by_index(BY_CLAIM, &delta.key.to_string());
    pods.iter().filter(|p| has_some(p)).map(|p| Key::of(&**p)).collect()
}

fn failed(pod: &Pod, volume: &Volume, why: &str) -> Note {
    let message = format!("ephemeral volume {}: {why}", volume.name);
    Note::warning(client::events::reference(pod), "FailedBinding", message)
}

fn create(pod: &Pod, volume: &Volume, name: &str) -> Op {
    let template =
        volume.ephemeral.as_ref().and_then(|e| e.volume_claim_template.clone()).unwrap_or_default();
    let given = template.metadata.unwrap_or_default();
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta {
            namespace: pod.metadata.namespace.clone(),
            name: Some(name.to_owned()),
            annotations: given.annotations,
            labels: given.labels,
            owner_references: Some(vec![controller_ref(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec),
        status: None,
    };
    Op::create(&claim)
        .otherwise(failed(pod, volume, &format!("create PVC {name}: {{error}}")))
        .count(CREATIONS.one([]))
        .count_failure(CREATIONS.one([]))
        .count_failure(CREATION_FAILURES.one([]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Sim;
    use k8s_openapi::jiff::SignedDuration;
    use serde_json::{Value, json};

    #[test]
    fn a_claim_for_each_volume_of_a_pod() {
        let mut sim = Sim::new(1);
        sim.add(EphemeralVolumes);
        let template = json!({"metadata": {"labels": {"a": "b"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        sim.api.put(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "ns", "name": "p"},
            "spec": {"containers": [{"name": "c", "image": "broken"}], "volumes": [
                {"name": "data", "ephemeral": {"volumeClaimTemplate": template}},
                {"name": "other", "emptyDir": {}}]}}));
        let minute = SignedDuration::from_secs(60);
        sim.settle(minute);
        let claim = |sim: &Sim| sim.api.get("persistentvolumeclaims", "ns", "p-data");
        let made = claim(&sim).unwrap();
        let pod = sim.api.get("pods", "ns", "p").unwrap();
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], pod["metadata"]["uid"]);
        assert_eq!(made["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(made["spec"], template["spec"]);
        assert_eq!(sim.api.list("persistentvolumeclaims").len(), 1);
        // deleted by mistake
        sim.api.remove("persistentvolumeclaims", "ns", "p-data");
        sim.settle(minute);
        assert_ne!(claim(&sim).unwrap()["metadata"]["uid"], made["metadata"]["uid"]);
    }

    #[test]
    fn anothers_claim_is_not_taken() {
        let world = World::detached();
        let object = |v: Value| serde_json::from_value(v).unwrap();
        world.pods.put(
            serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "v", "ephemeral": {}}]}}))
            .unwrap(),
        );
        world.claims.put(object(json!({"metadata": {"namespace": "ns", "name": "p-v"}})));
        let plan = EphemeralVolumes.reconcile(&Key::new("ns", "p"), &world, Time::UNIX_EPOCH);
        assert_eq!(plan.ops().count(), 0);
        assert_eq!(
            plan.notes[0].message,
            "ephemeral volume v: PVC ns/p-v was not created for pod ns/p (pod is not owner)"
        );
        assert!(plan.retry.is_some());
    }
}
