//! What `/resize` may change: cpu and memory of a running pod (KEP-1287; upstream's `ValidatePodResize`).

use super::pod_update::{init_of, is_static, spec_of, validate_pod};
use crate::strategy::semantic_eq;
use crate::support::text;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use meta::pod::{compute_qos_class, is_sidecar, qos_class};
use meta::{FieldError, FieldErrors, Path};
use std::collections::BTreeMap;

const ONLY_CPU_AND_MEMORY: &str = "only cpu and memory resources are mutable";

type ApiResources = BTreeMap<String, ApiQuantity>;

/// `new` with the amounts of cpu and memory that `old` has.
fn with_old_cpu_and_memory(new: Option<&ApiResources>, old: Option<&ApiResources>) -> Option<ApiResources> {
    let mut list = new.cloned().unwrap_or_default();
    for name in ["cpu", "memory"] {
        list.remove(name);
        if let Some(quantity) = old.and_then(|o| o.get(name)) {
            list.insert(name.to_owned(), quantity.clone());
        }
    }
    Some(list).filter(|l| !l.is_empty())
}

fn masked_resources(
    new: Option<&ResourceRequirements>,
    old: Option<&ResourceRequirements>,
) -> ResourceRequirements {
    ResourceRequirements {
        claims: None,
        limits: with_old_cpu_and_memory(
            new.and_then(|r| r.limits.as_ref()),
            old.and_then(|r| r.limits.as_ref()),
        ),
        requests: with_old_cpu_and_memory(
            new.and_then(|r| r.requests.as_ref()),
            old.and_then(|r| r.requests.as_ref()),
        ),
    }
}

fn normal(resources: Option<&ResourceRequirements>) -> ResourceRequirements {
    let mut r = resources.cloned().unwrap_or_default();
    r.limits = r.limits.filter(|l| !l.is_empty());
    r.requests = r.requests.filter(|l| !l.is_empty());
    r
}

fn removed(new: Option<&ApiResources>, old: Option<&ApiResources>) -> bool {
    old.into_iter().flatten().any(|(name, _)| new.is_none_or(|n| !n.contains_key(name)))
}

fn validate_not_removed(
    errors: &mut FieldErrors,
    new: Option<&ResourceRequirements>,
    old: Option<&ResourceRequirements>,
    path: &Path,
    what: &str,
) {
    let list = |r: Option<&'_ ResourceRequirements>, requests: bool| {
        r.and_then(|r| if requests { r.requests.clone() } else { r.limits.clone() })
    };
    for (name, requests) in [("requests", true), ("limits", false)] {
        if removed(list(new, requests).as_ref(), list(old, requests).as_ref()) {
            errors.push(FieldError::forbidden(&path.child(name), format!("{what} {name} cannot be removed")));
        }
    }
}

/// A change of the resources of a running pod (KEP-1287).
pub(super) fn validate_resize(new: &Pod, old: &Pod) -> FieldErrors {
    let nowhere = Path::new("");
    if is_static(old) {
        return vec![FieldError::forbidden(&nowhere, "static pods cannot be resized")];
    }
    let (after, before) = (spec_of(new), spec_of(old));
    if before.os.as_ref().is_some_and(|os| os.name == "windows") {
        return vec![FieldError::forbidden(&nowhere, "windows pods cannot be resized")];
    }
    let mut errors = validate_pod(new);
    let path = Path::new("spec");
    if qos_class(old) != compute_qos_class(after) {
        let why = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(
            &path,
            text(new.status.as_ref().and_then(|s| s.qos_class.as_ref())),
            why,
        ));
    }
    let statuses = old.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    let running = statuses.iter().find(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()));
    if running.is_some_and(|c| c.resources.is_none()) {
        errors.push(FieldError::forbidden(&path, "Pod running on node without support for resize"));
    }
    validate_pod_level_resize(&mut errors, after, before, &path);
    if !same_order(&mut errors, after, before, &path) {
        return errors;
    }
    let (init_after, init_before) = (init_of(after), init_of(before));
    for (i, (new, old)) in init_after.iter().zip(init_before).enumerate() {
        let path = path.child("initContainers").index(i).child("resources");
        validate_not_removed(&mut errors, new.resources.as_ref(), old.resources.as_ref(), &path, "resource");
    }
    for (i, (new, old)) in after.containers.iter().zip(&before.containers).enumerate() {
        let path = path.child("containers").index(i).child("resources");
        validate_not_removed(&mut errors, new.resources.as_ref(), old.resources.as_ref(), &path, "resource");
    }
    validate_rest_kept(&mut errors, after, before, &path);
    errors
}

/// Whether more than CPU and memory differs.
fn rest_changed(new: &Container, old: &Container) -> bool {
    let resources = masked_resources(new.resources.as_ref(), old.resources.as_ref());
    let masked = Container { resources: Some(resources), ..new.clone() };
    let old = Container { resources: Some(normal(old.resources.as_ref())), ..old.clone() };
    !semantic_eq(&masked, &old)
}

fn validate_rest_kept(errors: &mut FieldErrors, after: &PodSpec, before: &PodSpec, path: &Path) {
    for (new, old) in after.containers.iter().zip(&before.containers) {
        if rest_changed(new, old) {
            errors.push(FieldError::forbidden(path, ONLY_CPU_AND_MEMORY));
        }
    }
    for (i, (new, old)) in init_of(after).iter().zip(init_of(before)).enumerate() {
        let at = || path.child("initContainers").index(i);
        if rest_changed(new, old) {
            let why = "only cpu and memory resources for init or sidecar containers are mutable";
            errors.push(FieldError::forbidden(&at(), why));
        }
        let restarts = new.resize_policy.iter().flatten().any(|p| p.restart_policy == "RestartContainer");
        if restarts && !is_sidecar(new) && !semantic_eq(new, old) {
            let why =
                "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            errors.push(FieldError::forbidden(&at(), why));
        }
    }
}

fn validate_pod_level_resize(errors: &mut FieldErrors, after: &PodSpec, before: &PodSpec, path: &Path) {
    let at = path.child("resources");
    match (&after.resources, &before.resources) {
        (None, None) => {}
        (None, Some(_)) => errors.push(FieldError::forbidden(&at, "pod-level resources cannot be removed")),
        (Some(new), old) => {
            validate_not_removed(errors, Some(new), old.as_ref(), &at, "pod-level resource");
            let masked = ResourceRequirements {
                claims: new.claims.clone(),
                ..masked_resources(Some(new), old.as_ref())
            };
            if !semantic_eq(&masked, &normal(old.as_ref())) {
                errors.push(FieldError::forbidden(
                    path,
                    "only cpu and memory resources are mutable at pod-level",
                ));
            }
        }
    }
}

fn same_order(errors: &mut FieldErrors, after: &PodSpec, before: &PodSpec, path: &Path) -> bool {
    let found = errors.len();
    let lists = [
        ("containers", after.containers.as_slice(), before.containers.as_slice()),
        ("initContainers", init_of(after), init_of(before)),
    ];
    for (name, after, before) in lists {
        if after.len() != before.len() {
            let why = format!("{name} may not be added or removed on resize");
            errors.push(FieldError::forbidden(&path.child(name), why));
            continue;
        }
        for (i, _) in after.iter().zip(before).enumerate().filter(|(_, (a, b))| a.name != b.name) {
            let why = format!("{name} may not be renamed or reordered on resize");
            errors.push(FieldError::forbidden(&path.child(name).index(i).child("name"), why));
        }
    }
    errors.len() == found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::pod_update::tests::pod;
    use crate::support::testing::lines;
    use serde_json::{Value, json};

    #[test]
    fn only_cpu_and_memory_are_resized() {
        let old = pod(|_| ());
        let check = |change: fn(&mut Value), expect: &[&str]| {
            assert_eq!(lines(&validate_resize(&pod(change), &old)), expect);
        };
        check(|p| p["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "2"}}), &[]);
        check(
            |p| p["spec"]["containers"][0]["resources"] = json!({"requests": {"memory": "1Gi"}}),
            &["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"],
        );
        check(
            |p| {
                p["spec"]["containers"][0]["resources"] =
                    json!({"requests": {"cpu": "1", "ephemeral-storage": "1"}})
            },
            &["spec: Forbidden: only cpu and memory resources are mutable"],
        );
    }
}
