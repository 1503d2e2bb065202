//! Priority: a pod's priority is its class's; only one class is everyone's.

use crate::request::{typed, typed_mut};
use crate::{Mutator, Operation, Request, Validator};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kinds::Object;
use meta::ApiError;

const GROUP: &str = "scheduling.k8s.io";
const RESOURCE: &str = "priorityclasses";
const PREEMPT: &str = "PreemptLowerPriority";

pub const MUTATOR: Mutator = Mutator { name: "Priority", handles: handles_pod, admit };
pub const VALIDATOR: Validator = Validator { name: "Priority", handles: handles_class, validate };

fn handles_pod(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    matches!(operation, Operation::Create | Operation::Update)
        && group.is_empty()
        && resource == "pods"
        && subresource.is_empty()
}

fn handles_class(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    matches!(operation, Operation::Create | Operation::Update)
        && group == GROUP
        && resource == RESOURCE
        && subresource.is_empty()
}

/// The class of pods that name none; the lowest, where a race made several.
fn default_class(r: &Request<'_>) -> Option<PriorityClass> {
    let all: Vec<PriorityClass> = r.all(GROUP, RESOURCE, "");
    all.into_iter().filter(|c| c.global_default == Some(true)).min_by_key(|c| c.value)
}

/// The system's classes, known before they are stored.
fn built_in(name: &str) -> Option<i32> {
    match name {
        "system-node-critical" => Some(2_000_001_000),
        "system-cluster-critical" => Some(2_000_000_000),
        _ => None,
    }
}

fn admit(r: &Request<'_>, mut object: Option<&mut Object>) -> Result<(), ApiError> {
    let Some(spec) = typed_mut::<Pod>(object.as_deref_mut()).and_then(|p| p.spec.as_mut()) else {
        return Ok(());
    };
    if r.operation == Operation::Update {
        if let Some(old) = r.old.and_then(typed::<Pod>).and_then(|p| p.spec.as_ref()) {
            spec.priority = spec.priority.or(old.priority);
            if spec.preemption_policy.is_none() {
                spec.preemption_policy.clone_from(&old.preemption_policy);
            }
        }
        return Ok(());
    }
    let named = spec.priority_class_name.clone().filter(|n| !n.is_empty());
    let (name, value, policy) = match named {
        None => match default_class(r) {
            Some(class) => (class.metadata.name, class.value.unwrap_or_default(), class.preemption_policy),
            None => (None, 0, Some(PREEMPT.to_owned())),
        },
        Some(name) => match r.find::<PriorityClass>(GROUP, RESOURCE, "", &name) {
            Some(class) => (Some(name), class.value.unwrap_or_default(), class.preemption_policy),
            None => match built_in(&name) {
                Some(value) => (Some(name), value, Some(PREEMPT.to_owned())),
                None => {
                    let why = format!("no PriorityClass with name {name} was found");
                    return Err(r.forbidden(object.as_deref(), why));
                }
            },
        },
    };
    let given = spec.priority.filter(|p| *p != value);
    let given_policy = spec.preemption_policy.clone().filter(|p| policy.as_ref().is_some_and(|c| c != p));
    if let Some(given) = given {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        );
        return Err(r.forbidden(object.as_deref(), why));
    }
    if let Some(given) = given_policy {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {} from the given PriorityClass name",
            policy.unwrap_or_default()
        );
        return Err(r.forbidden(object.as_deref(), why));
    }
    spec.priority_class_name = name;
    spec.priority = Some(value);
    if policy.is_some() {
        spec.preemption_policy = policy;
    }
    Ok(())
}

fn validate(r: &Request<'_>, object: Option<&Object>) -> Result<(), ApiError> {
    let Some(class) = object.and_then(typed::<PriorityClass>) else { return Ok(()) };
    if class.global_default != Some(true) {
        return Ok(());
    }
    match default_class(r) {
        Some(other) if r.operation == Operation::Create || other.metadata.name != class.metadata.name => {
            let why = format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other.metadata.name.unwrap_or_default()
            );
            Err(r.forbidden(object, why))
        }
        _ => Ok(()),
    }
}
