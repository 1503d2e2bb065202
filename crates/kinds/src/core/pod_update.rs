//! What may change in a pod through each of its paths (upstream's `ValidatePod*Update`).

use super::spec_diff::unified_diff;
use crate::pod_spec::validate::{
    validate_pod_annotations, validate_pod_only, validate_pod_spec_of, validate_profiles_match,
};
use crate::strategy::semantic_eq;
use crate::support::{check_ip, parse_ip_sloppy, text};
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, NodeAffinity, NodeSelectorTerm, Pod, PodSpec, PodStatus,
    ResourceRequirements, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use meta::pod::{compute_qos_class, is_sidecar, qos_class};
use meta::validation::{is_dns1123_subdomain, is_qualified_name};
use meta::{FieldError, FieldErrors, Json, Path};
use std::collections::BTreeMap;

const MIRROR_POD: &str = "kubernetes.io/config.mirror";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const CHANGEABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const ONLY_CPU_AND_MEMORY: &str = "only cpu and memory resources are mutable";

fn spec_of(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

fn annotations(pod: &Pod) -> impl Iterator<Item = (&String, &String)> {
    pod.metadata.annotations.iter().flatten()
}

/// A pod's spec and annotations, whoever wrote them and when.
fn validate_pod(pod: &Pod) -> FieldErrors {
    let spec = spec_of(pod);
    let path = Path::new("spec");
    let mut errors = Vec::new();
    if let Some(map) = &pod.metadata.annotations {
        validate_pod_annotations(&mut errors, map, spec, &Path::new("metadata.annotations"));
    }
    validate_pod_spec_of(&mut errors, spec, Some(&pod.metadata), &path);
    validate_pod_only(&mut errors, spec, &path);
    errors
}

pub(super) fn validate_pod_create(pod: &Pod) -> FieldErrors {
    let mut errors = validate_pod(pod);
    let spec = spec_of(pod);
    let path = Path::new("spec");
    if spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty()) {
        errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    let gated = spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
    if gated && !text(spec.node_name.as_ref()).is_empty() {
        let why = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&path.child("nodeName"), why));
    }
    validate_profiles_match(&mut errors, &pod.metadata, spec, &path);
    errors
}

fn validate_annotation_changes(errors: &mut FieldErrors, new: &Pod, old: &Pod) {
    let path = Path::new("metadata.annotations");
    let special = |key: &str| key.starts_with(APP_ARMOR) || key == MIRROR_POD;
    let what = |key: &str| if key == MIRROR_POD { "mirror pod annotation" } else { "AppArmor annotations" };
    let empty = BTreeMap::new();
    let after = new.metadata.annotations.as_ref().unwrap_or(&empty);
    let before = old.metadata.annotations.as_ref().unwrap_or(&empty);
    for (key, _) in annotations(old).filter(|(k, v)| special(k) && after.get(*k) != Some(*v)) {
        errors.push(FieldError::forbidden(&path.key(key), format!("may not remove or update {}", what(key))));
    }
    for (key, _) in annotations(new).filter(|(k, _)| special(k) && !before.contains_key(*k)) {
        errors.push(FieldError::forbidden(&path.key(key), format!("may not add {}", what(key))));
    }
}

/// A change through the pod itself.
pub(super) fn validate_update(new: &Pod, old: &Pod) -> FieldErrors {
    let mut errors = validate_pod(new);
    validate_annotation_changes(&mut errors, new, old);
    let (after, before) = (spec_of(new), spec_of(old));
    let path = Path::new("spec");
    let init = |s: &'_ PodSpec| s.init_containers.clone().unwrap_or_default();
    let (init_after, init_before) = (init(after), init(before));
    let lists = [
        ("containers", after.containers.as_slice(), before.containers.as_slice()),
        ("initContainers", init_after.as_slice(), init_before.as_slice()),
    ];
    for (name, after, before) in lists {
        if after.len() != before.len() {
            errors.push(FieldError::forbidden(
                &path.child(name),
                "pod updates may not add or remove containers",
            ));
            return errors;
        }
        for (i, container) in after.iter().enumerate() {
            let image = text(container.image.as_ref());
            let at = || path.child(name).index(i).child("image");
            if image.is_empty() {
                errors.push(FieldError::required(&at(), ""));
            }
            if image.trim().len() != image.len() {
                errors.push(FieldError::invalid(
                    &at(),
                    image,
                    "must not have leading or trailing whitespace",
                ));
            }
        }
    }
    let deadline = path.child("activeDeadlineSeconds");
    match (after.active_deadline_seconds, before.active_deadline_seconds) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            let why = meta::validation::inclusive_range_error(0, i64::from(i32::MAX));
            errors.push(FieldError::invalid(&deadline, new, why));
            return errors;
        }
        (Some(new), Some(old)) if old < new => {
            errors.push(FieldError::invalid(&deadline, new, "must be less than or equal to previous value"));
            return errors;
        }
        (None, Some(_)) => {
            let why = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(&deadline, None::<i64>, why));
        }
        _ => {}
    }
    validate_tolerations_kept(&mut errors, after, before, &path.child("tolerations"));
    validate_gates_only_removed(&mut errors, after, before, &path.child("schedulingGates"));
    if semantic_eq(after, before) {
        return errors;
    }
    let masked = with_changeable_taken_back(&mut errors, after, before, &path);
    if !semantic_eq(&masked, before) {
        let diff = unified_diff(before, &masked);
        let why = format!("pod updates may not change fields other than {CHANGEABLE}\n{diff}");
        errors.push(FieldError::forbidden(&path, why));
    }
    errors
}

fn validate_tolerations_kept(errors: &mut FieldErrors, after: &PodSpec, before: &PodSpec, path: &Path) {
    let without_seconds = |t: &Toleration| Toleration { toleration_seconds: None, ..t.clone() };
    let new: Vec<Toleration> = after.tolerations.iter().flatten().map(without_seconds).collect();
    if before.tolerations.iter().flatten().any(|old| !new.contains(&without_seconds(old))) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(path, why));
    }
}

fn validate_gates_only_removed(errors: &mut FieldErrors, after: &PodSpec, before: &PodSpec, path: &Path) {
    for (i, gate) in after.scheduling_gates.iter().flatten().enumerate() {
        if !before.scheduling_gates.iter().flatten().any(|g| g.name == gate.name) {
            let why = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            errors.push(FieldError::forbidden(&path.index(i).child("name"), why));
        }
    }
}

/// The new spec with every field that may change as it was before.
fn with_changeable_taken_back(
    errors: &mut FieldErrors,
    after: &PodSpec,
    before: &PodSpec,
    path: &Path,
) -> PodSpec {
    let mut masked = after.clone();
    for (new, old) in masked.containers.iter_mut().zip(&before.containers) {
        new.image.clone_from(&old.image);
    }
    for (new, old) in masked.init_containers.iter_mut().flatten().zip(before.init_containers.iter().flatten())
    {
        new.image.clone_from(&old.image);
    }
    masked.active_deadline_seconds = before.active_deadline_seconds;
    masked.scheduling_gates.clone_from(&before.scheduling_gates);
    masked.tolerations.clone_from(&before.tolerations);
    if before.termination_grace_period_seconds.is_some_and(|s| s < 0)
        && masked.termination_grace_period_seconds == Some(1)
    {
        masked.termination_grace_period_seconds = before.termination_grace_period_seconds;
    }
    if before.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()) {
        take_back_gated(errors, &mut masked, before, path);
    }
    masked
}

/// A pod that no scheduler has seen yet may be narrowed down: node selector and node affinity may grow.
fn take_back_gated(errors: &mut FieldErrors, masked: &mut PodSpec, before: &PodSpec, path: &Path) {
    let empty = BTreeMap::new();
    let new = masked.node_selector.as_ref().unwrap_or(&empty);
    if before.node_selector.iter().flatten().any(|(k, v)| new.get(k) != Some(v)) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid(&path.child("nodeSelector"), Json(new), why));
    }
    masked.node_selector.clone_from(&before.node_selector);
    let old = before.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let new = masked.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    if old == new {
        return;
    }
    validate_node_affinity_grows(errors, new, old, &path.child("affinity").child("nodeAffinity"));
    let old = old.cloned();
    match &mut masked.affinity {
        None => {
            masked.affinity =
                Some(k8s_openapi::api::core::v1::Affinity { node_affinity: old, ..Default::default() })
        }
        Some(a) if before.affinity.is_none() && a.pod_affinity.is_none() && a.pod_anti_affinity.is_none() => {
            masked.affinity = None;
        }
        Some(a) => a.node_affinity = old,
    }
}

fn validate_node_affinity_grows(
    errors: &mut FieldErrors,
    new: Option<&NodeAffinity>,
    old: Option<&NodeAffinity>,
    path: &Path,
) {
    let terms = |a: Option<&NodeAffinity>| -> Vec<NodeSelectorTerm> {
        let required = a.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        required.map(|r| r.node_selector_terms.clone()).unwrap_or_default()
    };
    let (old, new) = (terms(old), terms(new));
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
    if !old.is_empty() && old.len() != new.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(FieldError::invalid(&path, Json(&new), why));
        return;
    }
    for (i, (old, new)) in old.iter().zip(&new).enumerate() {
        let grows = |old: &Option<Vec<_>>, new: &Option<Vec<_>>| {
            let old: &[k8s_openapi::api::core::v1::NodeSelectorRequirement] =
                old.as_deref().unwrap_or_default();
            new.as_deref().unwrap_or_default().starts_with(old)
        };
        let is_empty = |t: &NodeSelectorTerm| {
            t.match_expressions.as_ref().is_none_or(Vec::is_empty)
                && t.match_fields.as_ref().is_none_or(Vec::is_empty)
        };
        let ok = grows(&old.match_expressions, &new.match_expressions)
            && grows(&old.match_fields, &new.match_fields)
            && (!is_empty(old) || is_empty(new));
        if !ok {
            let why = "only additions are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(&path.index(i), Json(new), why));
        }
    }
}

fn is_static(pod: &Pod) -> bool {
    annotations(pod).any(|(k, _)| k == MIRROR_POD)
}

pub(super) fn validate_ephemeral_containers_update(new: &Pod, old: &Pod) -> FieldErrors {
    if is_static(old) {
        return vec![FieldError::forbidden(
            &Path::new(""),
            "static pods do not support ephemeral containers",
        )];
    }
    let mut errors = validate_pod(new);
    validate_annotation_changes(&mut errors, new, old);
    let path = Path::new("spec.ephemeralContainers");
    let after = spec_of(new).ephemeral_containers.as_deref().unwrap_or_default();
    for before in spec_of(old).ephemeral_containers.iter().flatten() {
        match after.iter().rev().find(|c| c.name == before.name) {
            None => {
                let why = format!("existing ephemeral containers {:?} may not be removed\n", before.name);
                errors.push(FieldError::forbidden(&path, why));
            }
            Some(after) if !semantic_eq(after, before) => {
                let diff = unified_diff(before, after);
                let why =
                    format!("existing ephemeral containers {:?} may not be changed\n{diff}", before.name);
                errors.push(FieldError::forbidden(&path, why));
            }
            Some(_) => {}
        }
    }
    errors
}

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
    let init = |s: &PodSpec| s.init_containers.clone().unwrap_or_default();
    let (init_after, init_before) = (init(after), init(before));
    for (i, (new, old)) in
        init_after.iter().zip(&init_before).enumerate().filter(|(_, (_, old))| is_sidecar(old))
    {
        let path = path.child("initContainers").index(i).child("resources");
        validate_not_removed(&mut errors, new.resources.as_ref(), old.resources.as_ref(), &path, "resource");
    }
    for (i, (new, old)) in after.containers.iter().zip(&before.containers).enumerate() {
        let path = path.child("containers").index(i).child("resources");
        validate_not_removed(&mut errors, new.resources.as_ref(), old.resources.as_ref(), &path, "resource");
    }
    let changed = |new: &Container, old: &Container| {
        let masked = Container {
            resources: Some(masked_resources(new.resources.as_ref(), old.resources.as_ref())),
            ..new.clone()
        };
        let old = Container { resources: Some(normal(old.resources.as_ref())), ..old.clone() };
        !semantic_eq(&masked, &old)
    };
    for (new, old) in after.containers.iter().zip(&before.containers) {
        if changed(new, old) {
            errors.push(FieldError::forbidden(&path, ONLY_CPU_AND_MEMORY));
        }
    }
    for (i, (new, old)) in init_after.iter().zip(&init_before).enumerate() {
        if is_sidecar(new) && changed(new, old) {
            let why = "only cpu and memory resources for init or sidecar containers are mutable";
            errors.push(FieldError::forbidden(&path.child("initContainers").index(i), why));
        } else if !is_sidecar(new) && !semantic_eq(new, old) {
            errors.push(FieldError::forbidden(
                &path,
                "resources for non-sidecar init containers are immutable",
            ));
        }
    }
    errors
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
    let init = |s: &PodSpec| s.init_containers.clone().unwrap_or_default();
    let lists = [
        ("containers", after.containers.clone(), before.containers.clone()),
        ("initContainers", init(after), init(before)),
    ];
    for (name, after, before) in lists {
        if after.len() != before.len() {
            let why = format!("{name} may not be added or removed on resize");
            errors.push(FieldError::forbidden(&path.child(name), why));
            continue;
        }
        for (i, _) in after.iter().zip(&before).enumerate().filter(|(_, (a, b))| a.name != b.name) {
            let why = format!("{name} may not be renamed or reordered on resize");
            errors.push(FieldError::forbidden(&path.child(name).index(i).child("name"), why));
        }
    }
    errors.len() == found
}

/// A change through `/status`.
pub(super) fn validate_status_update(new: &Pod, old: &Pod) -> FieldErrors {
    let mut errors = Vec::new();
    validate_annotation_changes(&mut errors, new, old);
    let path = Path::new("status");
    let empty = PodStatus::default();
    let after = new.status.as_ref().unwrap_or(&empty);
    let before = old.status.as_ref().unwrap_or(&empty);
    let spec = spec_of(old);
    for (i, condition) in after.conditions.iter().flatten().enumerate() {
        let at = || path.child("conditions").index(i);
        if let Some(generation) = condition.observed_generation.filter(|g| *g < 0) {
            let at = at().child("observedGeneration");
            errors.push(FieldError::invalid(&at, generation, "must be a non-negative integer"));
        }
        if !matches!(condition.type_.as_str(), "PodScheduled" | "Ready" | "Initialized") {
            let messages = is_qualified_name(&condition.type_).into_iter();
            errors.extend(messages.map(|m| FieldError::invalid(&at().child("Type"), &condition.type_, m)));
        }
    }
    validate_nominated_node(&mut errors, after, before, spec, &path.child("nominatedNodeName"));
    if let Some(generation) = after.observed_generation.filter(|g| *g < 0) {
        let at = path.child("observedGeneration");
        errors.push(FieldError::invalid(&at, generation, "must be a non-negative integer"));
    }
    let (class, stored) = (text(after.qos_class.as_ref()), text(before.qos_class.as_ref()));
    if class != stored {
        errors.push(FieldError::invalid(&path.child("qosClass"), class, "field is immutable"));
    }
    let no_containers = Vec::new();
    let init = spec.init_containers.as_ref().unwrap_or(&no_containers);
    let lists = [
        ("containerStatuses", &after.container_statuses, &before.container_statuses, Some(&spec.containers)),
        (
            "initContainerStatuses",
            &after.init_container_statuses,
            &before.init_container_statuses,
            Some(init),
        ),
        (
            "ephemeralContainerStatuses",
            &after.ephemeral_container_statuses,
            &before.ephemeral_container_statuses,
            None,
        ),
    ];
    for (name, after, before, containers) in lists {
        let (after, before) = (after.as_deref().unwrap_or_default(), before.as_deref().unwrap_or_default());
        validate_transitions(&mut errors, after, before, spec, containers, &path.child(name));
    }
    let ips = |list: Vec<&String>| list.into_iter().cloned().collect::<Vec<String>>();
    let pod_ips = |s: &PodStatus| ips(s.pod_ips.iter().flatten().map(|ip| &ip.ip).collect());
    let host_ips = |s: &PodStatus| ips(s.host_ips.iter().flatten().map(|ip| &ip.ip).collect());
    validate_ips(&mut errors, &pod_ips(after), &pod_ips(before), Json(&after.pod_ips), &path.child("podIPs"));
    let hosts = host_ips(after);
    if hosts.first().is_some_and(|first| first != text(after.host_ip.as_ref())) {
        let at = path.child("hostIPs").index(0).child("ip");
        errors.push(FieldError::invalid(&at, &hosts[0], "must be equal to `hostIP`"));
    }
    validate_ips(&mut errors, &hosts, &host_ips(before), Json(&after.host_ips), &path.child("hostIPs"));
    errors
}

fn validate_nominated_node(
    errors: &mut FieldErrors,
    after: &PodStatus,
    before: &PodStatus,
    spec: &PodSpec,
    path: &Path,
) {
    let name = text(after.nominated_node_name.as_ref());
    if name.is_empty() || name == text(before.nominated_node_name.as_ref()) {
        return;
    }
    errors.extend(is_dns1123_subdomain(name).into_iter().map(|m| FieldError::invalid(path, name, m)));
    if !text(spec.node_name.as_ref()).is_empty() {
        errors.push(FieldError::forbidden(path, "may not be set on pods that are already bound to a node"));
    }
}

/// A container that has ended for good may not come back to life. `containers`: those of the spec, or None for
/// ephemeral ones, which never restart.
fn validate_transitions(
    errors: &mut FieldErrors,
    after: &[ContainerStatus],
    before: &[ContainerStatus],
    spec: &PodSpec,
    containers: Option<&Vec<Container>>,
    path: &Path,
) {
    if containers.is_some() && all_containers_could_restart(spec) {
        return;
    }
    let end = |s: &ContainerStatus| s.state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    for (i, old) in before.iter().enumerate() {
        let Some(code) = end(old) else { continue };
        let Some(new) = after.iter().find(|s| s.name == old.name) else { continue };
        let container = containers.and_then(|c| c.iter().find(|c| c.name == old.name));
        if end(new).is_none() && !container.is_some_and(|c| should_restart(c, spec, code)) {
            let why = "may not be transitioned to non-terminated state";
            errors.push(FieldError::forbidden(&path.index(i).child("state"), why));
        }
    }
}

fn all_containers_could_restart(spec: &PodSpec) -> bool {
    let rules =
        |c: &Container| c.restart_policy_rules.iter().flatten().any(|r| r.action == "RestartAllContainers");
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(rules)
}

/// Whether the kubelet starts the container again after it ended with `code` (KEP-5307 for rules).
fn should_restart(container: &Container, spec: &PodSpec, code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        if let Some(codes) = &rule.exit_codes {
            let listed = codes.values.iter().flatten().any(|v| *v == code);
            let applies = (codes.operator == "In" && listed) || (codes.operator == "NotIn" && !listed);
            if applies && rule.action == "Restart" {
                return true;
            }
        }
    }
    let policy = container.restart_policy.as_ref().or(spec.restart_policy.as_ref());
    match text(policy) {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

fn validate_ips<T: serde::Serialize>(
    errors: &mut FieldErrors,
    ips: &[String],
    stored: &[String],
    shown: Json<'_, T>,
    path: &Path,
) {
    for (i, ip) in ips.iter().enumerate() {
        errors.extend(check_ip(&path.index(i), ip, stored));
    }
    let parsed: Vec<_> = ips.iter().filter_map(|ip| parse_ip_sloppy(ip)).collect();
    let dual = parsed.iter().any(|ip| ip.is_ipv4()) && parsed.iter().any(|ip| ip.is_ipv6());
    if ips.len() > 2 || (ips.len() == 2 && !dual) {
        errors.push(FieldError::invalid(path, shown, "may specify no more than one IP for each IP family"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_spec::default_pod;
    use crate::support::testing::{lines, object};
    use serde_json::{Value, json};

    fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut value = json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "nginx:1", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"qosClass": "Burstable"},
        });
        change(&mut value);
        let mut pod = object(value);
        default_pod(&mut pod);
        pod
    }

    #[test]
    fn images_deadlines_and_tolerations_may_change() {
        let old = pod(|_| ());
        let check = |change: fn(&mut Value), expect: &[&str]| {
            assert_eq!(lines(&validate_update(&pod(change), &old)), expect);
        };
        check(|p| p["spec"]["containers"][0]["image"] = json!("nginx:2"), &[]);
        check(|p| p["spec"]["activeDeadlineSeconds"] = json!(60), &[]);
        check(|p| p["spec"]["tolerations"] = json!([{"operator": "Exists"}]), &[]);
        check(
            |p| p["spec"]["containers"] = json!([]),
            &[
                "spec.containers: Required value",
                "spec.containers: Forbidden: pod updates may not add or remove containers",
            ],
        );
    }

    #[test]
    fn the_refusal_shows_the_difference() {
        let old = pod(|_| ());
        let got = lines(&validate_update(&pod(|p| p["spec"]["nodeName"] = json!("m")), &old));
        let [one] = got.as_slice() else { panic!("one error: {got:?}") };
        assert!(one.starts_with(&format!(
            "spec: Forbidden: pod updates may not change fields other than {CHANGEABLE}\n@@ "
        )));
        assert!(one.contains("\n- \"nodeName\": \"n\",\n+ \"nodeName\": \"m\",\n"), "{one}");
    }

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

    #[test]
    fn what_ended_for_good_stays_ended() {
        let status = |state: Value| json!({"qosClass": "Burstable", "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]});
        let check = |policy: &str, code: i32, expect: &[&str]| {
            let with = |state: Value| {
                pod(|p| {
                    p["spec"]["restartPolicy"] = json!(policy);
                    p["status"] = status(state);
                })
            };
            let old = with(json!({"terminated": {"exitCode": code}}));
            let new = with(json!({"running": {}}));
            assert_eq!(lines(&validate_status_update(&new, &old)), expect);
        };
        let refused =
            ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"];
        check("Always", 0, &[]);
        check("OnFailure", 1, &[]);
        check("OnFailure", 0, &refused);
        check("Never", 1, &refused);
    }
}
