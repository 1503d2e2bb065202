//! RuntimeClass: what a class costs and where it runs goes into the pods that name it.

use crate::request::{typed, typed_mut};
use crate::{Mutator, Operation, Request, Validator};
use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use kinds::Object;
use meta::{ApiError, Quantity};
use std::collections::BTreeMap;

pub const MUTATOR: Mutator = Mutator { name: "RuntimeClass", handles, admit };
pub const VALIDATOR: Validator = Validator { name: "RuntimeClass", handles, validate };

type Resources = BTreeMap<String, ApiQuantity>;

fn handles(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    operation == Operation::Create && group.is_empty() && resource == "pods" && subresource.is_empty()
}

fn same(a: &Resources, b: &Resources) -> bool {
    a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| Quantity::of(v) == Quantity::of(w)))
}

/// The class a pod names; the error where there is none of that name.
fn class(r: &Request<'_>, pod: &Pod) -> Result<Option<RuntimeClass>, String> {
    let Some(name) = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_ref()) else { return Ok(None) };
    let found = r.find::<RuntimeClass>("node.k8s.io", "runtimeclasses", "", name);
    found.map(Some).ok_or_else(|| format!("pod rejected: RuntimeClass {name:?} not found"))
}

fn apply(pod: &mut Pod, class: RuntimeClass) -> Result<(), String> {
    let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
    if let Some(overhead) = class.overhead {
        let fixed = overhead.pod_fixed.unwrap_or_default();
        if spec.overhead.as_ref().is_some_and(|o| !o.is_empty() && !same(o, &fixed)) {
            return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        spec.overhead = Some(fixed);
    }
    if let Some(scheduling) = class.scheduling {
        for (key, value) in scheduling.node_selector.unwrap_or_default() {
            let selector = spec.node_selector.get_or_insert_default();
            if let Some(have) = selector.get(&key).filter(|have| **have != value) {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {have}"
                ));
            }
            selector.insert(key, value);
        }
        for toleration in scheduling.tolerations.unwrap_or_default() {
            let list: &mut Vec<Toleration> = spec.tolerations.get_or_insert_default();
            if !list.contains(&toleration) {
                list.push(toleration);
            }
        }
    }
    Ok(())
}

fn admit(r: &Request<'_>, mut object: Option<&mut Object>) -> Result<(), ApiError> {
    let Some(pod) = typed_mut::<Pod>(object.as_deref_mut()) else { return Ok(()) };
    let outcome = class(r, pod).and_then(|c| c.map_or(Ok(()), |c| apply(pod, c)));
    outcome.map_err(|why| r.forbidden(object.as_deref(), why))
}

fn validate(r: &Request<'_>, object: Option<&Object>) -> Result<(), ApiError> {
    let Some(pod) = object.and_then(typed::<Pod>) else { return Ok(()) };
    let overhead = pod.spec.as_ref().and_then(|s| s.overhead.as_ref());
    let wanted =
        class(r, pod).map_err(|why| r.forbidden(object, why))?.and_then(|c| c.overhead).map(|o| o.pod_fixed);
    let why = match (wanted, overhead) {
        (Some(Some(fixed)), have) if same(&fixed, have.unwrap_or(&BTreeMap::new())) => return Ok(()),
        (Some(None), None) => return Ok(()),
        (Some(_), _) => "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        (None, None) => return Ok(()),
        (None, Some(_)) => {
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
        }
    };
    Err(r.forbidden(object, why))
}
