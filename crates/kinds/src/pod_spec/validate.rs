//! Validation of a pod spec as a whole (upstream's `ValidatePodSpec`).

use super::affinity::validate_affinity;
use super::containers::{
    validate_containers, validate_ephemeral_containers, validate_image_trimmed, validate_init_containers,
};
use super::resources::{validate_overhead, validate_pod_level_resources};
use super::scheduling::{validate_spread_constraints, validate_tolerations};
use super::security::{
    validate_annotation_profiles, validate_app_armor_matches, validate_os, validate_pod_security_context,
    validate_seccomp_matches, validate_windows_host_process,
};
use super::volumes::validate_volumes;
use super::{one_of, refuse_each};
use crate::support::{check_ip, text};
use k8s_openapi::api::core::v1::{Container, PodDNSConfig, PodSpec, PodTemplateSpec, Toleration, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::validation::{
    is_dns1123_label, is_dns1123_subdomain, is_dns1123_subdomain_with_underscore, is_qualified_name,
    validate_annotations, validate_labels,
};
use meta::{FieldError, FieldErrors, Json, Path};
use std::collections::BTreeMap;

const MAX_DNS_NAMESERVERS: usize = 3;
const MAX_DNS_SEARCH_PATHS: usize = 32;
const MAX_DNS_SEARCH_CHARACTERS: usize = 2048;
const MAX_HOSTNAME_BYTES: usize = 64;
const MIRROR_POD: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";

/// What the checks of one container need to know of its pod.
pub(super) struct Context<'a> {
    /// Those without an error of their own.
    pub volumes: Vec<&'a Volume>,
    /// Names in `spec.resourceClaims`.
    pub claims: Vec<&'a str>,
    pub grace_seconds: Option<i64>,
    pub restart_policy: &'a str,
    pub os: Option<&'a str>,
    pub host_users: bool,
}

/// Calls `f` for every container with the path of its list's entry: init, main, ephemeral.
pub(super) fn each_container(spec: &PodSpec, path: &Path, mut f: impl FnMut(&Container, &dyn Fn() -> Path)) {
    for (i, c) in spec.init_containers.iter().flatten().enumerate() {
        f(c, &|| path.child("initContainers").index(i));
    }
    for (i, c) in spec.containers.iter().enumerate() {
        f(c, &|| path.child("containers").index(i));
    }
    for (i, c) in spec.ephemeral_containers.iter().flatten().enumerate() {
        f(&meta::pod::as_container(c), &|| path.child("ephemeralContainers").index(i));
    }
}

/// A template as it stands in a PodTemplate or a workload.
pub fn validate_pod_template(template: &PodTemplateSpec, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let empty = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&empty);
    let no_meta = ObjectMeta::default();
    let meta = template.metadata.as_ref().unwrap_or(&no_meta);
    if let Some(labels) = &meta.labels {
        errors.extend(validate_labels(labels, &path.child("labels")));
    }
    if let Some(annotations) = &meta.annotations {
        let path = path.child("annotations");
        errors.extend(validate_annotations(annotations, &path));
        validate_pod_annotations(&mut errors, annotations, spec, &path);
    }
    let path = path.child("spec");
    validate_pod_spec_of(&mut errors, spec, None, &path);
    validate_profiles_match(&mut errors, meta, spec, &path);
    if spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty()) {
        let why = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), why));
    }
    errors
}

/// Fields and deprecated annotations that say the same thing must agree.
pub(crate) fn validate_profiles_match(
    errors: &mut FieldErrors,
    meta: &ObjectMeta,
    spec: &PodSpec,
    path: &Path,
) {
    if let Some(annotations) = meta.annotations.as_ref().filter(|a| !a.is_empty()) {
        validate_seccomp_matches(errors, annotations, spec, path);
        validate_app_armor_matches(errors, annotations, spec, path);
    }
}

/// Annotations that mean something to pods.
pub(crate) fn validate_pod_annotations(
    errors: &mut FieldErrors,
    annotations: &BTreeMap<String, String>,
    spec: &PodSpec,
    path: &Path,
) {
    if let Some(value) = annotations.get(MIRROR_POD)
        && text(spec.node_name.as_ref()).is_empty()
    {
        let why = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(FieldError::invalid(&path.key(MIRROR_POD), value, why));
    }
    if let Some(value) = annotations.get(TOLERATIONS).filter(|v| !v.is_empty()) {
        match serde_json::from_str::<Vec<Toleration>>(value) {
            Ok(list) => validate_tolerations(errors, &list, &path.child(TOLERATIONS)),
            Err(e) => errors.push(FieldError::invalid(path, TOLERATIONS, e.to_string())),
        }
    }
    if let Some(value) = annotations.get(DELETION_COST) {
        let digits = value.strip_prefix('-').unwrap_or(value);
        let canonical = digits == "0" && !value.starts_with('-') || !digits.starts_with(['0', '+']);
        if value.parse::<i32>().is_err() || !canonical {
            errors.push(FieldError::invalid(&path.key(DELETION_COST), value, "must be a 32bit integer"));
        }
    }
    validate_annotation_profiles(errors, annotations, spec, path);
}

/// Rules for pods that templates do not have to keep.
pub(crate) fn validate_pod_only(errors: &mut FieldErrors, spec: &PodSpec, path: &Path) {
    if text(spec.service_account_name.as_ref()).is_empty() {
        for (i, volume) in spec.volumes.iter().flatten().enumerate() {
            let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
            for (j, source) in sources.enumerate() {
                if source.service_account_token.is_some() {
                    let at = path.child("volumes").index(i).child("projected").child("sources").index(j);
                    let why = "must not be specified when serviceAccountName is not set";
                    errors.push(FieldError::forbidden(&at.child("serviceAccountToken"), why));
                }
            }
        }
    }
    let lists = [("containers", Some(&spec.containers)), ("initContainers", spec.init_containers.as_ref())];
    for (name, list) in lists {
        for (i, container) in list.into_iter().flatten().enumerate() {
            let image = text(container.image.as_ref());
            if image.trim().len() != image.len() {
                validate_image_trimmed(errors, container, &path.child(name).index(i));
            }
        }
    }
}

/// `meta`: of the pod the spec belongs to; None for a template.
pub(crate) fn validate_pod_spec_of(
    errors: &mut FieldErrors,
    spec: &PodSpec,
    meta: Option<&ObjectMeta>,
    path: &Path,
) {
    if spec.termination_grace_period_seconds.is_none() {
        errors.push(FieldError::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let claims = spec.resource_claims.as_deref().unwrap_or_default();
    let context = Context {
        volumes: validate_volumes(errors, spec, meta, &path.child("volumes")),
        claims: claims.iter().map(|c| c.name.as_str()).filter(|n| !n.is_empty()).collect(),
        grace_seconds: spec.termination_grace_period_seconds,
        restart_policy: text(spec.restart_policy.as_ref()),
        os: spec.os.as_ref().map(|os| os.name.as_str()),
        host_users: spec.host_users.unwrap_or(true),
    };
    super::resources::validate_resource_claims(errors, claims, meta, &path.child("resourceClaims"));
    validate_containers(errors, spec, &context, &path.child("containers"));
    if spec.init_containers.is_some() {
        validate_init_containers(errors, spec, &context, &path.child("initContainers"));
    }
    if spec.ephemeral_containers.is_some() {
        validate_ephemeral_containers(errors, spec, &context, &path.child("ephemeralContainers"));
    }
    validate_pod_level_resources(errors, spec, path);
    validate_host_network_ports(errors, spec, meta.is_some(), path);
    one_of(errors, || path.child("restartPolicy"), context.restart_policy, &["Always", "OnFailure", "Never"]);
    let dns_policy = text(spec.dns_policy.as_ref());
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(errors, || path.child("dnsPolicy"), dns_policy, &policies);
    if let Some(selector) = &spec.node_selector {
        errors.extend(validate_labels(selector, &path.child("nodeSelector")));
    }
    if let Some(security) = &spec.security_context {
        validate_pod_security_context(errors, security, spec, &path.child("securityContext"));
    }
    if let Some(affinity) = &spec.affinity {
        validate_affinity(errors, affinity, &path.child("affinity"));
    }
    validate_dns(errors, spec.dns_config.as_ref(), dns_policy, path);
    validate_readiness_and_scheduling_gates(errors, spec, path);
    if let Some(constraints) = &spec.topology_spread_constraints {
        validate_spread_constraints(errors, constraints, &path.child("topologySpreadConstraints"));
    }
    validate_windows_host_process(errors, spec, path);
    validate_host_users(errors, spec, path);
    validate_hostname_override(errors, spec, path);
    let objects = [("serviceAccountName", &spec.service_account_name), ("nodeName", &spec.node_name)];
    validate_names(errors, path, &objects, is_dns1123_subdomain);
    if let Some(seconds) = spec.active_deadline_seconds.filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        let why = meta::validation::inclusive_range_error(1, i64::from(i32::MAX));
        errors.push(FieldError::invalid(&path.child("activeDeadlineSeconds"), seconds, why));
    }
    let own = [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)];
    validate_names(errors, path, &own, is_dns1123_label);
    if let Some(tolerations) = &spec.tolerations {
        validate_tolerations(errors, tolerations, &path.child("tolerations"));
    }
    validate_host_aliases(errors, spec, path);
    validate_names(errors, path, &[("priorityClassName", &spec.priority_class_name)], is_dns1123_subdomain);
    if let Some(class) = &spec.runtime_class_name {
        refuse_each(errors, || path.child("runtimeClassName"), class, is_dns1123_subdomain(class));
    }
    if let Some(policy) = spec.preemption_policy.as_deref() {
        one_of(errors, || path.child("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
    if let Some(overhead) = &spec.overhead {
        validate_overhead(errors, overhead, &path.child("overhead"));
    }
    validate_os(errors, spec, path);
    validate_scheduling_group(errors, spec, path);
    validate_file_key_volumes(errors, spec, path);
}

fn validate_readiness_and_scheduling_gates(errors: &mut FieldErrors, spec: &PodSpec, path: &Path) {
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let kind = &gate.condition_type;
        let at = || path.child("readinessGates").index(i).child("conditionType");
        refuse_each(errors, at, kind, is_qualified_name(kind));
    }
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    for (i, gate) in gates.iter().enumerate() {
        let at = || path.child("schedulingGates").index(i);
        refuse_each(errors, at, &gate.name, is_qualified_name(&gate.name));
        if gates[..i].iter().any(|g| g.name == gate.name) {
            errors.push(FieldError::duplicate(&at(), &gate.name));
        }
    }
}

fn validate_host_aliases(errors: &mut FieldErrors, spec: &PodSpec, path: &Path) {
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let at = path.child("hostAliases").index(i);
        errors.extend(check_ip(&at.child("ip"), &alias.ip, &[]));
        for (j, name) in alias.hostnames.iter().flatten().enumerate() {
            refuse_each(errors, || at.child("hostnames").index(j), name, is_dns1123_subdomain(name));
        }
    }
}

fn validate_scheduling_group(errors: &mut FieldErrors, spec: &PodSpec, path: &Path) {
    let Some(group) = &spec.scheduling_group else { return };
    let at = || path.child("schedulingGroup").child("podGroupName");
    match group.pod_group_name.as_deref() {
        None => {
            errors.push(FieldError::invalid(&at(), None::<String>, "must specify one of: `podGroupName`"))
        }
        Some(name) => refuse_each(errors, at, name, is_dns1123_subdomain(name)),
    }
}

/// Names that must be of a form where they are set.
fn validate_names(
    errors: &mut FieldErrors,
    path: &Path,
    names: &[(&str, &Option<String>)],
    rule: fn(&str) -> Vec<String>,
) {
    for (field, name) in names {
        let name = text(name.as_ref());
        if !name.is_empty() {
            refuse_each(errors, || path.child(field), name, rule(name));
        }
    }
}

fn validate_hostname_override(errors: &mut FieldErrors, spec: &PodSpec, path: &Path) {
    let Some(name) = &spec.hostname_override else { return };
    let at = path.child("hostnameOverride");
    if spec.set_hostname_as_fqdn == Some(true) {
        errors.push(FieldError::forbidden(&at, "may not be specified when setHostnameAsFQDN is true"));
    }
    if spec.host_network == Some(true) {
        errors.push(FieldError::forbidden(&at, "may not be specified when hostNetwork is true"));
    }
    if name.len() > MAX_HOSTNAME_BYTES {
        errors.push(FieldError::too_long(&at, MAX_HOSTNAME_BYTES));
    }
    refuse_each(errors, || at.clone(), name, is_dns1123_subdomain(name));
}

fn validate_host_network_ports(errors: &mut FieldErrors, spec: &PodSpec, is_pod: bool, path: &Path) {
    if spec.host_network != Some(true) {
        return;
    }
    for (i, container) in spec.containers.iter().enumerate() {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let host = port.host_port.unwrap_or(0);
            if (is_pod || host != 0) && host != port.container_port {
                let at = path.child("containers").index(i).child("ports").index(j).child("hostPort");
                errors.push(FieldError::invalid(
                    &at,
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                ));
            }
        }
    }
}

fn validate_dns(errors: &mut FieldErrors, config: Option<&PodDNSConfig>, policy: &str, path: &Path) {
    let Some(config) = config else {
        if policy == "None" {
            let why = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(&path.child("dnsConfig"), why));
        }
        return;
    };
    let path = path.child("dnsConfig");
    let servers = config.nameservers.as_deref().unwrap_or_default();
    if policy == "None" && servers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(&path.child("nameservers"), why));
        return;
    }
    if servers.len() > MAX_DNS_NAMESERVERS {
        let why = format!("must not have more than {MAX_DNS_NAMESERVERS} nameservers");
        errors.push(FieldError::invalid(&path.child("nameservers"), Json(servers), why));
    }
    for (i, server) in servers.iter().enumerate() {
        errors.extend(check_ip(&path.child("nameservers").index(i), server, &[]));
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    if searches.len() > MAX_DNS_SEARCH_PATHS {
        let why = format!("must not have more than {MAX_DNS_SEARCH_PATHS} search paths");
        errors.push(FieldError::invalid(&path.child("searches"), Json(searches), why));
    }
    let characters = searches.iter().map(String::len).sum::<usize>() + searches.len().saturating_sub(1);
    if characters > MAX_DNS_SEARCH_CHARACTERS {
        let why = format!(
            "must not have more than {MAX_DNS_SEARCH_CHARACTERS} characters (including spaces) in the search list"
        );
        errors.push(FieldError::invalid(&path.child("searches"), Json(searches), why));
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, s)| *s != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        let messages = is_dns1123_subdomain_with_underscore(search);
        refuse_each(errors, || path.child("searches").index(i), search, messages);
    }
    for (i, option) in config.options.iter().flatten().enumerate() {
        if text(option.name.as_ref()).is_empty() {
            errors.push(FieldError::required(&path.child("options").index(i), "must not be empty"));
        }
    }
}

/// A pod with users of its own shares no other namespace with the host.
fn validate_host_users(errors: &mut FieldErrors, spec: &PodSpec, path: &Path) {
    const WHY: &str = "when `hostUsers` is false";
    if spec.host_users != Some(false) {
        return;
    }
    for (name, set) in
        [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)]
    {
        if set == Some(true) {
            errors.push(FieldError::forbidden(&path.child(name), WHY));
        }
    }
    each_container(spec, path, |c, at| {
        if c.volume_devices.as_ref().is_some_and(|d| !d.is_empty()) {
            errors.push(FieldError::forbidden(&at().child("volumeDevices"), WHY));
        }
    });
}

/// Files that hold environment variables are read from emptyDir volumes only (KEP-3721).
fn validate_file_key_volumes(errors: &mut FieldErrors, spec: &PodSpec, path: &Path) {
    let uses = |c: &Container| {
        c.env.iter().flatten().any(|e| e.value_from.as_ref().is_some_and(|v| v.file_key_ref.is_some()))
    };
    let ephemeral = spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty());
    if !ephemeral && !spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(uses) {
        return;
    }
    each_container(spec, path, |c, at| {
        for (j, env) in c.env.iter().flatten().enumerate() {
            let Some(reference) = env.value_from.as_ref().and_then(|v| v.file_key_ref.as_ref()) else {
                continue;
            };
            let name = &reference.volume_name;
            let at = || at().child("env").index(j).child("valueFrom").child("fileKeyRef").child("volumeName");
            match spec.volumes.iter().flatten().rev().find(|v| v.name == *name) {
                None => errors.push(FieldError::not_found(&at(), name)),
                Some(v) if v.empty_dir.is_none() => {
                    errors.push(FieldError::invalid(
                        &at(),
                        name,
                        "referenced volume must be of type emptyDir",
                    ));
                }
                Some(_) => {}
            }
        }
    });
}
