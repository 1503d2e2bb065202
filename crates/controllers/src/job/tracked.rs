//! Pods that still carry the finalizer of a job that is gone or finished: nobody counts them any more.

use super::{TRACKING, has_finalizer, is_managed_elsewhere, untrack};
use crate::controller::{Controller, Watches};
use crate::plan::{Op, Plan};
use crate::refs::controller_of;
use crate::world::{BY_CONTROLLER, World};
use client::{Delta, Key};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kinds::batch::is_finished;
use meta::Time;

/// Keys are pods.
pub struct TrackedPods;

impl Controller for TrackedPods {
    const NAME: &'static str = "job-orphan-pod-controller";
    const QUEUE: &'static str = "job_orphan_pod";

    fn watches(w: &mut Watches) {
        w.on(
            |w| &w.pods,
            |delta, world| {
                let orphan = delta.new.as_ref().is_some_and(|p| is_orphan(p, world));
                if orphan { vec![delta.key.clone()] } else { Vec::new() }
            },
        )
        .on(|w| &w.jobs, of_job);
    }

    fn reconcile(&self, key: &Key, world: &World, _: Time) -> Plan {
        let Some(pod) = world.pods.get(key).filter(|p| is_orphan(p, world)) else {
            return Plan::idle("the pod is gone, or its job counts it");
        };
        let mut plan = Plan::default();
        plan.because(format!("no job takes {TRACKING} off"));
        if let Some(owner) = controller_of(&pod.metadata)
            && world.jobs.find(&key.namespace, &owner.name).is_none()
        {
            // The cache may be behind: a pod that its job never counts would be made again.
            plan.op(Op::verify_absent::<Job>(Key::new(&key.namespace, &owner.name)));
        }
        plan.op(untrack(&pod));
        plan
    }
}

fn is_orphan(pod: &Pod, world: &World) -> bool {
    if !has_finalizer(pod) {
        return false;
    }
    let Some(owner) = controller_of(&pod.metadata) else { return true };
    if owner.kind != "Job" || owner.api_version != "batch/v1" {
        return false;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    let job = world.jobs.find(namespace, &owner.name);
    job.filter(|j| j.metadata.uid.as_ref() == Some(&owner.uid)).is_none_or(|j| {
        let elsewhere = j.spec.as_ref().is_some_and(is_managed_elsewhere);
        !elsewhere && is_finished(&j)
    })
}

/// The pods of a job that is gone or finished now.
fn of_job(delta: &Delta<Job>, world: &World) -> Vec<Key> {
    let over = delta.new.as_ref().is_none_or(|j| is_finished(j));
    let job = delta.new.as_ref().or(delta.old.as_ref()).filter(|_| over);
    let Some(uid) = job.and_then(|j| j.metadata.uid.as_deref()) else { return Vec::new() };
    let pods = world.pods.by_index(BY_CONTROLLER, uid);
    pods.iter().filter(|p| has_finalizer(p)).map(|p| Key::of(&**p)).collect()
}
