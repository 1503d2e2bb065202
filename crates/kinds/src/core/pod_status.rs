//! What `/status` may change (upstream's `ValidatePodStatusUpdate`).

use super::pod_update::{spec_of, validate_annotation_changes};
use crate::support::{check_ip, parse_ip_sloppy, text};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus};
use meta::validation::{is_dns1123_subdomain, is_qualified_name};
use meta::{FieldError, FieldErrors, Json, Path};

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
    use crate::core::pod_update::tests::pod;
    use crate::support::testing::lines;
    use serde_json::{Value, json};

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
