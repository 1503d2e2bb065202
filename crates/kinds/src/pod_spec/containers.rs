//! Main, init and ephemeral containers.

use super::environment::{validate_env, validate_env_from};
use super::probes::{validate_lifecycle, validate_probes};
use super::resources::validate_container_resources;
use super::security::validate_security_context;
use super::validate::Context;
use super::volume_mounts::{validate_volume_devices, validate_volume_mounts};
use super::{one_of, refuse_each, required};
use crate::support::text;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerResizePolicy, ContainerRestartRule, PodSpec,
};
use meta::pod::is_sidecar;
use meta::validation::{is_dns1123_label, is_valid_port_name, is_valid_port_num};
use meta::{FieldError, FieldErrors, Path};

const MAX_RESTART_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const NOT_FOR_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";
const ONLY_FOR_SIDECARS: &str = "may not be set for init containers without restartPolicy=Always";

pub(super) fn validate_containers(
    errors: &mut FieldErrors,
    spec: &PodSpec,
    context: &Context<'_>,
    path: &Path,
) {
    if spec.containers.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    for (i, container) in spec.containers.iter().enumerate() {
        let path = path.index(i);
        validate_common(errors, container, context, &path);
        if spec.containers[..i].iter().any(|c| c.name == container.name) {
            errors.push(FieldError::duplicate(&path.child("name"), &container.name));
        }
        validate_lifecycle(errors, container, context, &path);
        validate_probes(errors, container, context, &path);
        validate_restart_policy(errors, container, &path);
    }
    validate_host_ports(errors, &spec.containers, path);
}

pub(super) fn validate_init_containers(
    errors: &mut FieldErrors,
    spec: &PodSpec,
    context: &Context<'_>,
    path: &Path,
) {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (i, container) in init.iter().enumerate() {
        let path_of_list = path;
        let path = path.index(i);
        validate_common(errors, container, context, &path);
        if container.restart_policy.is_some() {
            validate_restart_policy(errors, container, &path);
        } else if container.restart_policy_rules.as_ref().is_some_and(|r| !r.is_empty()) {
            let why = "must specify restartPolicy when restart rules are used";
            errors.push(FieldError::required(&path.child("restartPolicy"), why));
        }
        let name = &container.name;
        let earlier = spec.containers.iter().chain(&init[..i]);
        if earlier.filter(|c| !c.name.is_empty()).any(|c| c.name == *name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        validate_host_ports(errors, std::slice::from_ref(container), path_of_list);
        if is_sidecar(container) {
            validate_lifecycle(errors, container, context, &path);
            validate_probes(errors, container, context, &path);
            continue;
        }
        for (name, set) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if set {
                errors.push(FieldError::forbidden(&path.child(name), ONLY_FOR_SIDECARS));
            }
        }
        for (j, policy) in container.resize_policy.iter().flatten().enumerate() {
            if policy.restart_policy == "RestartContainer" {
                let at = path.child("resizePolicy").index(j).child("restartPolicy");
                let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                errors.push(FieldError::invalid(&at, &policy.restart_policy, why));
            }
        }
    }
}

pub(super) fn validate_ephemeral_containers(
    errors: &mut FieldErrors,
    spec: &PodSpec,
    context: &Context<'_>,
    path: &Path,
) {
    let ephemeral = spec.ephemeral_containers.as_deref().unwrap_or_default();
    for (i, container) in ephemeral.iter().enumerate() {
        let path = path.index(i);
        let plain = meta::pod::as_container(container);
        validate_common(errors, &plain, context, &path);
        validate_image_trimmed(errors, &plain, &path);
        let others = || spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| &c.name);
        let earlier = ephemeral[..i].iter().map(|c| &c.name);
        if others().chain(earlier).any(|n| *n == container.name) {
            errors.push(FieldError::duplicate(&path.child("name"), &container.name));
        }
        let target = text(container.target_container_name.as_ref());
        if !target.is_empty() && !others().any(|n| n == target) {
            errors.push(FieldError::not_found(&path.child("targetContainerName"), target));
        }
        validate_ephemeral_fields(errors, &plain, &path);
    }
}

/// Debugging needs no ports, probes, hooks or resources of its own.
fn validate_ephemeral_fields(errors: &mut FieldErrors, c: &Container, path: &Path) {
    let listed = |empty: Option<bool>| empty == Some(false);
    let resources = c.resources.as_ref().is_some_and(|r| {
        let any =
            |list: &Option<std::collections::BTreeMap<_, _>>| list.as_ref().is_some_and(|l| !l.is_empty());
        any(&r.limits) || any(&r.requests) || r.claims.as_ref().is_some_and(|c| !c.is_empty())
    });
    for (name, set) in [
        ("ports", listed(c.ports.as_ref().map(Vec::is_empty))),
        ("resources", resources),
        ("resizePolicy", listed(c.resize_policy.as_ref().map(Vec::is_empty))),
        ("restartPolicy", c.restart_policy.is_some()),
        ("restartPolicyRules", listed(c.restart_policy_rules.as_ref().map(Vec::is_empty))),
        ("livenessProbe", c.liveness_probe.is_some()),
        ("readinessProbe", c.readiness_probe.is_some()),
        ("startupProbe", c.startup_probe.is_some()),
        ("lifecycle", c.lifecycle.is_some()),
    ] {
        if set {
            errors.push(FieldError::forbidden(&path.child(name), NOT_FOR_EPHEMERAL));
        }
    }
    for (i, mount) in c.volume_mounts.iter().flatten().enumerate() {
        for (name, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if !text(value.as_ref()).is_empty() {
                let at = path.child("volumeMounts").index(i).child(name);
                errors.push(FieldError::forbidden(&at, NOT_FOR_EPHEMERAL));
            }
        }
    }
}

/// A rule for pods, not for templates.
pub(super) fn validate_image_trimmed(errors: &mut FieldErrors, container: &Container, path: &Path) {
    let image = text(container.image.as_ref());
    if image.trim().len() != image.len() {
        errors.push(FieldError::invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
}

fn validate_common(errors: &mut FieldErrors, container: &Container, context: &Context<'_>, path: &Path) {
    if container.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        refuse_each(errors, || path.child("name"), &container.name, is_dns1123_label(&container.name));
    }
    required(errors, || path.child("image"), text(container.image.as_ref()));
    one_of(
        errors,
        || path.child("terminationMessagePolicy"),
        text(container.termination_message_policy.as_ref()),
        &["File", "FallbackToLogsOnError"],
    );
    validate_ports(errors, container.ports.as_deref().unwrap_or_default(), path);
    validate_env(errors, container, path);
    validate_env_from(errors, container, path);
    validate_volume_mounts(errors, container, context, path);
    validate_volume_devices(errors, container, context, path);
    one_of(
        errors,
        || path.child("imagePullPolicy"),
        text(container.image_pull_policy.as_ref()),
        &["Always", "IfNotPresent", "Never"],
    );
    if let Some(resources) = &container.resources {
        validate_container_resources(errors, resources, context, path);
    }
    validate_resize_policy(errors, container.resize_policy.as_deref().unwrap_or_default(), context, path);
    if let Some(security) = &container.security_context {
        validate_security_context(errors, security, context, path);
    }
}

fn validate_ports(errors: &mut FieldErrors, ports: &[ContainerPort], path: &Path) {
    for (i, port) in ports.iter().enumerate() {
        let at = |name: &str| path.child("ports").index(i).child(name);
        let name = text(port.name.as_ref());
        if !name.is_empty() {
            let messages = is_valid_port_name(name);
            if messages.is_empty() && ports[..i].iter().any(|p| p.name.as_deref() == Some(name)) {
                errors.push(FieldError::duplicate(&at("name"), name));
            }
            refuse_each(errors, || at("name"), name, messages);
        }
        let numbers = [("containerPort", Some(port.container_port)), ("hostPort", port.host_port)];
        for (field, number) in numbers {
            match number.unwrap_or(0) {
                0 if field == "containerPort" => errors.push(FieldError::required(&at(field), "")),
                0 => {}
                number => {
                    for message in is_valid_port_num(number) {
                        errors.push(FieldError::invalid(&at(field), number, message));
                    }
                }
            }
        }
        one_of(errors, || at("protocol"), text(port.protocol.as_ref()), &["SCTP", "TCP", "UDP"]);
    }
}

/// No two ports of these containers may ask for the same one of the host.
fn validate_host_ports(errors: &mut FieldErrors, containers: &[Container], path: &Path) {
    let mut seen: Vec<String> = Vec::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|p| *p != 0) else { continue };
            let ip = text(port.host_ip.as_ref());
            let key = format!("{}/{ip}/{number}", text(port.protocol.as_ref()));
            if seen.contains(&key) {
                let at = path.index(i).child("ports").index(j).child("hostPort");
                errors.push(FieldError::duplicate(&at, key));
            } else {
                seen.push(key);
            }
        }
    }
}

fn validate_resize_policy(
    errors: &mut FieldErrors,
    policies: &[ContainerResizePolicy],
    context: &Context<'_>,
    path: &Path,
) {
    for (i, policy) in policies.iter().enumerate() {
        let at = || path.child("resizePolicy");
        if policies[..i].iter().any(|p| p.resource_name == policy.resource_name) {
            errors.push(FieldError::duplicate(&at().index(i), &policy.resource_name));
        }
        one_of(errors, at, &policy.resource_name, &["cpu", "memory"]);
        one_of(errors, at, &policy.restart_policy, &["NotRequired", "RestartContainer"]);
        if context.restart_policy == "Never" && policy.restart_policy != "NotRequired" {
            let why = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(&at(), &policy.restart_policy, why));
        }
    }
}

/// A container's own restart policy and its rules (KEP-5307).
fn validate_restart_policy(errors: &mut FieldErrors, container: &Container, path: &Path) {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    let at = || path.child("restartPolicy");
    match container.restart_policy.as_deref() {
        None if rules.is_empty() => return,
        None => {
            errors.push(FieldError::required(&at(), "must specify restartPolicy when restart rules are used"))
        }
        Some("Always" | "Never" | "OnFailure") => {}
        Some(other) => {
            errors.push(FieldError::not_supported(&at(), other, &["Always", "Never", "OnFailure"]))
        }
    }
    if rules.len() > MAX_RESTART_RULES {
        errors.push(FieldError::too_many(&path.child("restartPolicyRules"), rules.len(), MAX_RESTART_RULES));
    }
    for (i, rule) in rules.iter().enumerate() {
        validate_restart_rule(errors, rule, &path.child("restartPolicyRules").index(i));
    }
}

fn validate_restart_rule(errors: &mut FieldErrors, rule: &ContainerRestartRule, path: &Path) {
    let actions = ["Restart", "RestartAllContainers"];
    if !actions.contains(&rule.action.as_str()) {
        errors.push(FieldError::not_supported(&path.child("action"), &rule.action, &actions));
    }
    let at = path.child("exitCodes");
    match &rule.exit_codes {
        None => errors.push(FieldError::required(&at, "must be specified")),
        Some(codes) => {
            if !matches!(codes.operator.as_str(), "In" | "NotIn") {
                errors.push(FieldError::not_supported(
                    &at.child("operator"),
                    &codes.operator,
                    &["In", "NotIn"],
                ));
            }
            let count = codes.values.as_ref().map_or(0, Vec::len);
            if count > MAX_EXIT_CODES {
                errors.push(FieldError::too_many(&at.child("values"), count, MAX_EXIT_CODES));
            }
        }
    }
}
