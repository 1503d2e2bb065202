//! Validation of a Service (upstream's `ValidateService*`).

use super::{
    CLUSTER_IP_NONE, cluster_ip, cluster_ips, externally_accessible, ingress, ip_families, is_headless,
    is_load_balancer, needs_health_check_port, ports, spec, type_of,
};
use crate::support::{
    check_cidr, check_endpoint_ip, check_ip, check_protocol, json, parse_ip_sloppy, push_invalid, text,
};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meta::{FieldError, FieldErrors, Path, validation as rules};
use std::collections::BTreeSet;

/// One day.
const MAX_CLIENT_IP_AFFINITY_SECONDS: i32 = 86_400;
const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";
const NOT_EXTERNAL_NAME: &str = "may not be set for ExternalName services";
const ONCE_SET: &str = "may not change once set";

pub(super) fn validate_create(service: &Service) -> FieldErrors {
    validate(service, None)
}

pub(super) fn validate_update(new: &Service, old: &Service) -> FieldErrors {
    let mut errors = changed_cluster_ips(spec(new), spec(old));
    errors.extend(changed_families(spec(new), spec(old)));
    errors.extend(load_balancer_class(spec(new), Some(spec(old))));
    if needs_health_check_port(spec(old))
        && needs_health_check_port(spec(new))
        && spec(old).health_check_node_port != spec(new).health_check_node_port
    {
        let path = Path::new("spec").child("healthCheckNodePort");
        errors.push(FieldError::forbidden(&path, "field is immutable"));
    }
    errors.extend(validate(new, Some(old)));
    errors
}

pub(super) fn validate_status(new: &Service, old: &Service) -> FieldErrors {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let mut errors = Vec::new();
    if !is_load_balancer(spec(new)) && !ingress(new).is_empty() {
        errors.push(FieldError::forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'"));
        return errors;
    }
    let stored: Vec<String> = ingress(old).iter().filter_map(|i| i.ip.clone()).collect();
    for (i, ingress) in ingress(new).iter().enumerate() {
        let path = path.index(i);
        let ip = text(ingress.ip.as_ref());
        if !ip.is_empty() {
            errors.extend(check_ip(&path.child("ip"), ip, &stored));
        }
        let mode_path = path.child("ipMode");
        match ingress.ip_mode.as_deref() {
            None if !ip.is_empty() => {
                errors.push(FieldError::required(&mode_path, "must be specified when `ip` is set"));
            }
            Some(_) if ip.is_empty() => {
                errors.push(FieldError::forbidden(&mode_path, "may not be specified when `ip` is not set"));
            }
            None | Some("VIP" | "Proxy") => {}
            Some(other) => errors.push(FieldError::not_supported(&mode_path, other, &["Proxy", "VIP"])),
        }
        let hostname = text(ingress.hostname.as_ref());
        if !hostname.is_empty() {
            let path = path.child("hostname");
            push_invalid(&mut errors, &path, hostname, rules::is_dns1123_subdomain(hostname));
            if parse_ip_sloppy(hostname).is_some() {
                errors.push(FieldError::invalid(&path, hostname, "must be a DNS name, not an IP address"));
            }
        }
    }
    errors
}

fn validate(service: &Service, old: Option<&Service>) -> FieldErrors {
    let mut errors = Vec::new();
    let is = spec(service);
    let path = Path::new("spec");
    let annotation = |name: &str| service.metadata.annotations.as_ref().and_then(|a| a.get(name));
    if let (Some(mode), Some(hints)) = (annotation(TOPOLOGY_MODE), annotation(TOPOLOGY_HINTS))
        && mode != hints
    {
        errors.push(FieldError::invalid(
            &Path::new("metadata").child("annotations").key(TOPOLOGY_MODE),
            mode,
            format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified"),
        ));
    }
    if ports(is).is_empty() && !is_headless(is) && type_of(is) != "ExternalName" {
        errors.push(FieldError::required(&path.child("ports"), ""));
    }
    errors.extend(of_type(is, &path));

    let mut names = BTreeSet::new();
    for (i, port) in ports(is).iter().enumerate() {
        errors.extend(service_port(port, ports(is).len() > 1, &mut names, &path.child("ports").index(i)));
    }
    if let Some(selector) = &is.selector {
        errors.extend(rules::validate_labels(selector, &path.child("selector")));
    }
    errors.extend(session_affinity(is, &path));
    errors.extend(validate_cluster_ips(service, old));

    let stored = old.and_then(|o| spec(o).external_ips.as_deref()).unwrap_or_default();
    for (i, ip) in is.external_ips.iter().flatten().enumerate() {
        let path = path.child("externalIPs").index(i);
        let wrong = check_ip(&path, ip, stored);
        errors.extend(if wrong.is_empty() { check_endpoint_ip(&path, ip) } else { wrong });
    }
    match type_of(is) {
        "" => errors.push(FieldError::required(&path.child("type"), "")),
        "ClusterIP" | "ExternalName" | "LoadBalancer" | "NodePort" => {}
        other => errors.push(FieldError::not_supported(
            &path.child("type"),
            other,
            &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        )),
    }
    errors.extend(port_numbers(is, &path.child("ports")));
    errors.extend(source_ranges(service, old, &path));
    if !is_load_balancer(is) && is.allocate_load_balancer_node_ports.is_some() {
        errors.push(FieldError::forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY_LOAD_BALANCER));
    }
    if is_load_balancer(is) && is.allocate_load_balancer_node_ports.is_none() {
        errors.push(FieldError::required(&Path::new("allocateLoadBalancerNodePorts"), ""));
    }
    errors.extend(load_balancer_class(is, None));
    errors.extend(traffic_policies(is, &path));
    errors
}

fn of_type(is: &ServiceSpec, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    match type_of(is) {
        kind @ ("LoadBalancer" | "NodePort") if is_headless(is) => errors.push(FieldError::invalid(
            &path.child("clusterIPs").index(0),
            CLUSTER_IP_NONE,
            format!("may not be set to 'None' for {kind} services"),
        )),
        "ExternalName" => {
            if !cluster_ips(is).is_empty() {
                errors.push(FieldError::forbidden(&path.child("clusterIPs"), NOT_EXTERNAL_NAME));
            }
            if !ip_families(is).is_empty() {
                errors.push(FieldError::forbidden(&path.child("ipFamilies"), NOT_EXTERNAL_NAME));
            }
            if is.ip_family_policy.is_some() {
                errors.push(FieldError::forbidden(&path.child("ipFamilyPolicy"), NOT_EXTERNAL_NAME));
            }
            let path = path.child("externalName");
            let name = text(is.external_name.as_ref());
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                errors.push(FieldError::required(&path, ""));
            } else {
                push_invalid(&mut errors, &path, name, rules::is_dns1123_subdomain(name));
            }
        }
        _ => {}
    }
    errors
}

fn service_port<'a>(
    port: &'a ServicePort,
    named: bool,
    names: &mut BTreeSet<&'a str>,
    path: &Path,
) -> FieldErrors {
    let mut errors = Vec::new();
    let name = text(port.name.as_ref());
    if name.is_empty() {
        if named {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
    } else {
        push_invalid(&mut errors, &path.child("name"), name, rules::is_dns1123_label(name));
        if !names.insert(name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
    }
    for message in rules::is_valid_port_num(port.port) {
        errors.push(FieldError::invalid(&path.child("port"), port.port, message));
    }
    errors.extend(check_protocol(&path.child("protocol"), port.protocol.as_deref()));
    match &port.target_port {
        Some(IntOrString::String(name)) => {
            push_invalid(&mut errors, &path.child("targetPort"), name, rules::is_valid_port_name(name));
        }
        number => {
            let number = if let Some(IntOrString::Int(n)) = number { *n } else { 0 };
            for message in rules::is_valid_port_num(number) {
                errors.push(FieldError::invalid(&path.child("targetPort"), number, message));
            }
        }
    }
    if let Some(protocol) = &port.app_protocol {
        push_invalid(&mut errors, &path.child("appProtocol"), protocol, rules::is_qualified_name(protocol));
    }
    errors
}

fn session_affinity(is: &ServiceSpec, path: &Path) -> FieldErrors {
    let config_path = path.child("sessionAffinityConfig");
    match text(is.session_affinity.as_ref()) {
        "" => vec![FieldError::required(&path.child("sessionAffinity"), "")],
        "None" if is.session_affinity_config.is_some() => {
            vec![FieldError::forbidden(&config_path, "must not be set when session affinity is None")]
        }
        "None" => Vec::new(),
        "ClientIP" => {
            const WHEN: &str = "when session affinity type is ClientIP";
            let Some(config) = &is.session_affinity_config else {
                return vec![FieldError::required(&config_path, WHEN)];
            };
            let path = config_path.child("clientIP");
            let Some(client_ip) = &config.client_ip else { return vec![FieldError::required(&path, WHEN)] };
            let path = path.child("timeoutSeconds");
            match client_ip.timeout_seconds {
                None => vec![FieldError::required(&path, WHEN)],
                Some(seconds) if seconds <= 0 || seconds > MAX_CLIENT_IP_AFFINITY_SECONDS => {
                    vec![FieldError::invalid(
                        &path,
                        seconds,
                        format!("must be greater than 0 and less than {MAX_CLIENT_IP_AFFINITY_SECONDS}"),
                    )]
                }
                Some(_) => Vec::new(),
            }
        }
        other => {
            vec![FieldError::not_supported(&path.child("sessionAffinity"), other, &["ClientIP", "None"])]
        }
    }
}

fn port_numbers(is: &ServiceSpec, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let node_port = |p: &ServicePort| p.node_port.filter(|n| *n != 0);
    if type_of(is) == "ClusterIP" {
        for (i, _) in ports(is).iter().enumerate().filter(|(_, p)| node_port(p).is_some()) {
            let path = path.index(i).child("nodePort");
            errors.push(FieldError::forbidden(&path, "may not be used when `type` is 'ClusterIP'"));
        }
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports(is).iter().enumerate() {
        if let Some(number) = node_port(port)
            && !seen.insert((text(port.protocol.as_ref()), number))
        {
            errors.push(FieldError::duplicate(&path.index(i).child("nodePort"), number));
        }
    }
    seen.clear();
    for (i, port) in ports(is).iter().enumerate() {
        let protocol = text(port.protocol.as_ref());
        if !seen.insert((protocol, port.port)) {
            let key = serde_json::json!({
                "name": "", "protocol": protocol, "appProtocol": null, "port": port.port, "targetPort": 0, "nodePort": 0
            });
            errors.push(FieldError::duplicate(&path.index(i), key));
        }
    }
    errors
}

fn source_ranges(service: &Service, old: Option<&Service>, path: &Path) -> FieldErrors {
    let is = spec(service);
    let mut errors = Vec::new();
    let ranges = is.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let annotation =
        |s: &Service| s.metadata.annotations.as_ref().and_then(|a| a.get(SOURCE_RANGES_ANNOTATION)).cloned();
    if !ranges.is_empty() {
        let path = path.child("LoadBalancerSourceRanges");
        if !is_load_balancer(is) {
            errors.push(FieldError::forbidden(&path, ONLY_LOAD_BALANCER));
        }
        let stored: Vec<String> = old
            .and_then(|o| spec(o).load_balancer_source_ranges.as_ref())
            .map(|r| r.iter().map(|v| v.trim().to_owned()).collect())
            .unwrap_or_default();
        for (i, range) in ranges.iter().enumerate() {
            errors.extend(check_cidr(&path.index(i), range.trim(), &stored));
        }
    } else if let Some(value) = annotation(service) {
        let path = Path::new("metadata").child("annotations").key(SOURCE_RANGES_ANNOTATION);
        if !is_load_balancer(is) {
            errors.push(FieldError::forbidden(&path, ONLY_LOAD_BALANCER));
        }
        if old.and_then(annotation).as_deref() != Some(value.as_str()) && !value.trim().is_empty() {
            errors.extend(value.split(',').flat_map(|range| check_cidr(&path, range.trim(), &[])));
        }
    }
    errors
}

fn load_balancer_class(is: &ServiceSpec, was: Option<&ServiceSpec>) -> FieldErrors {
    let path = Path::new("spec").child("loadBalancerClass");
    let mut errors = Vec::new();
    if let Some(was) = was
        && is_load_balancer(was)
        && is_load_balancer(is)
        && was.load_balancer_class != is.load_balancer_class
    {
        errors.push(FieldError::invalid(
            &path,
            is.load_balancer_class.as_deref().map(str::to_owned),
            ONCE_SET,
        ));
    }
    if let Some(class) = &is.load_balancer_class {
        if is_load_balancer(is) {
            push_invalid(&mut errors, &path, class, rules::is_qualified_name(class));
        } else {
            errors.push(FieldError::forbidden(&path, ONLY_LOAD_BALANCER));
        }
    }
    errors
}

fn traffic_policies(is: &ServiceSpec, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let external_path = path.child("externalTrafficPolicy");
    match (externally_accessible(is), text(is.external_traffic_policy.as_ref())) {
        (false, "") | (true, "Cluster" | "Local") => {}
        (false, policy) => errors.push(FieldError::invalid(
            &external_path,
            policy,
            "may only be set for externally-accessible services",
        )),
        (true, "") => errors.push(FieldError::required(&external_path, "")),
        (true, other) => errors.push(FieldError::not_supported(&external_path, other, &["Cluster", "Local"])),
    }
    let health_path = path.child("healthCheckNodePort");
    match (needs_health_check_port(is), is.health_check_node_port.unwrap_or(0)) {
        (false, 0) => {}
        (false, port) => errors.push(FieldError::invalid(
            &health_path,
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        )),
        (true, 0) => errors.push(FieldError::required(&health_path, "")),
        (true, port) => {
            for message in rules::is_valid_port_num(port) {
                errors.push(FieldError::invalid(&health_path, port, message));
            }
        }
    }
    let internal_path = path.child("internalTrafficPolicy");
    match is.internal_traffic_policy.as_deref() {
        None if matches!(type_of(is), "NodePort" | "LoadBalancer" | "ClusterIP") => {
            errors.push(FieldError::required(&internal_path, ""));
        }
        None | Some("Cluster" | "Local") => {}
        Some(other) => errors.push(FieldError::not_supported(&internal_path, other, &["Cluster", "Local"])),
    }
    const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
    if let Some(other) = is.traffic_distribution.as_deref().filter(|d| !DISTRIBUTIONS.contains(d)) {
        errors.push(FieldError::not_supported(&path.child("trafficDistribution"), other, DISTRIBUTIONS));
    }
    errors
}

fn validate_ip_families(errors: &mut FieldErrors, spec: &ServiceSpec, path: &Path) {
    let mut seen = BTreeSet::new();
    for (i, family) in ip_families(spec).iter().enumerate() {
        let path = path.child("ipFamilies").index(i);
        if !matches!(family.as_str(), "IPv4" | "IPv6") {
            errors.push(FieldError::not_supported(&path, family, &["IPv4", "IPv6"]));
        }
        if !seen.insert(family) {
            errors.push(FieldError::duplicate(&path, family));
        }
    }
    const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    if let Some(other) = spec.ip_family_policy.as_deref().filter(|p| !POLICIES.contains(p)) {
        errors.push(FieldError::not_supported(&path.child("ipFamilyPolicy"), other, POLICIES));
    }
}

/// Errors of `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` among themselves.
pub(super) fn validate_cluster_ips(service: &Service, old: Option<&Service>) -> FieldErrors {
    let is = spec(service);
    if type_of(is) == "ExternalName" {
        return Vec::new();
    }
    let path = Path::new("spec");
    let ips_path = path.child("clusterIPs");
    let ips = cluster_ips(is);
    let mut errors = Vec::new();
    match (cluster_ip(is), ips.first()) {
        ("", None) => {}
        ("", Some(_)) => errors.push(FieldError::invalid(
            &ips_path,
            json(&ips),
            "must be empty when `clusterIP` is not specified",
        )),
        (_, None) => errors.push(FieldError::required(&ips_path, "")),
        (one, Some(first)) if one == first => {}
        _ => errors.push(FieldError::invalid(&ips_path, json(&ips), "first value must match `clusterIP`")),
    }
    validate_ip_families(&mut errors, is, &path);
    let stored = old.map(|o| cluster_ips(spec(o))).unwrap_or_default();
    let mut wrong = false;
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == CLUSTER_IP_NONE {
            if ips.len() > 1 {
                wrong = true;
                errors.push(FieldError::invalid(
                    &ips_path,
                    json(&ips),
                    "'None' must be the first and only value",
                ));
            }
            continue;
        }
        let found = check_ip(&ips_path.index(i), ip, stored);
        wrong |= !found.is_empty();
        errors.extend(found);
    }
    if ips.len() > 2 {
        errors.push(FieldError::invalid(&ips_path, json(&ips), "may only hold up to 2 values"));
    }
    // further errors would be about addresses that are refused already
    if wrong {
        return errors;
    }
    let is_v6 = |ip: &String| parse_ip_sloppy(ip).is_some_and(|i| i.is_ipv6());
    if ips.len() > 1 && ips.iter().all(is_v6) | !ips.iter().any(is_v6) {
        errors.push(FieldError::invalid(
            &ips_path,
            json(&ips),
            "may specify no more than one IP for each IP family",
        ));
    }
    if !is_headless(is) {
        for (i, (ip, family)) in ips.iter().zip(ip_families(is)).enumerate() {
            if matches!((family.as_str(), is_v6(ip)), ("IPv4", true) | ("IPv6", false)) {
                errors.push(FieldError::invalid(
                    &ips_path.index(i),
                    ip,
                    format!("expected an {family} value as indicated by `ipFamilies[{i}]`"),
                ));
            }
        }
    }
    errors
}

fn changed_cluster_ips(is: &ServiceSpec, was: &ServiceSpec) -> FieldErrors {
    if type_of(is) == "ExternalName"
        || type_of(was) == "ExternalName"
        || (is_headless(is) && is_headless(was))
    {
        return Vec::new();
    }
    let path = Path::new("spec").child("clusterIPs");
    let (new, old) = (cluster_ips(is), cluster_ips(was));
    let refuse = |i: usize, why: &str| FieldError::invalid(&path.index(i), json(&new), why);
    let mut errors = Vec::new();
    if old.len() == new.len() {
        errors.extend((0..old.len()).filter(|&i| old[i] != new[i]).map(|i| refuse(i, ONCE_SET)));
        return errors;
    }
    if let ([first_old, ..], [first_new, ..]) = (old, new)
        && first_old != first_new
    {
        errors.push(refuse(0, ONCE_SET));
    }
    if old.len() > new.len() {
        if new.is_empty() {
            errors.insert(0, refuse(0, "primary clusterIP can not be unset"));
        }
        if new.len() == 1 {
            errors.extend(must_be_single_stack(is, "secondary clusterIP"));
        }
    }
    errors
}

fn must_be_single_stack(is: &ServiceSpec, what: &str) -> Option<FieldError> {
    (is.ip_family_policy.as_deref() != Some("SingleStack")).then(|| {
        FieldError::invalid(
            &Path::new("spec").child("ipFamilyPolicy"),
            is.ip_family_policy.clone(),
            format!("must be set to 'SingleStack' when releasing the {what}"),
        )
    })
}

fn changed_families(is: &ServiceSpec, was: &ServiceSpec) -> FieldErrors {
    if type_of(is) == "ExternalName"
        || type_of(was) == "ExternalName"
        || is_headless(is) != is_headless(was)
        || is_headless(is)
    {
        return Vec::new();
    }
    let path = Path::new("spec").child("ipFamilies").index(0);
    let (new, old) = (ip_families(is), ip_families(was));
    let mut errors = Vec::new();
    if old.len() == new.len() {
        let changed = old.iter().zip(new).filter(|(o, n)| o != n);
        errors.extend(changed.map(|_| FieldError::invalid(&path, json(&new), ONCE_SET)));
        return errors;
    }
    if old.len() > new.len() && cluster_ips(is).is_empty() {
        errors.push(FieldError::invalid(&path, json(&new), "primary ipFamily can not be unset"));
    }
    if let ([first_old, ..], [first_new, ..]) = (old, new)
        && first_old != first_new
    {
        errors.push(FieldError::invalid(&path, json(&cluster_ips(is)), ONCE_SET));
    }
    if old.len() > new.len() && new.len() == 1 {
        errors.extend(must_be_single_stack(is, "secondary ipFamily"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnyKind;
    use crate::Object;
    use crate::service::SERVICE;
    use crate::support::testing::{lines, object};
    use serde_json::{Value, json};

    fn prepared(value: Value) -> Object {
        let mut service: Object = Box::new(object::<Service>(value));
        SERVICE.default(&mut service);
        SERVICE.prepare_create(&mut service);
        service
    }

    #[test]
    fn refusals_of_a_new_service() {
        let check = |spec: Value, expect: &[&str]| {
            let service = prepared(json!({"metadata": {"name": "demo"}, "spec": spec}));
            assert_eq!(lines(&SERVICE.validate_create(&service)), expect);
        };
        let port = json!([{"port": 80}]);
        check(json!({"ports": port}), &[]);
        check(json!({}), &["spec.ports: Required value"]);
        check(json!({"clusterIP": "None"}), &[]);
        check(
            json!({"ports": [{"port": 0}]}),
            &[
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        );
        check(
            json!({"ports": [{"port": 80}, {"port": 81, "name": "x", "protocol": "ICMP"}]}),
            &[
                "spec.ports[0].name: Required value",
                "spec.ports[1].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        );
        check(
            json!({"ports": [{"port": 80, "name": "x"}, {"port": 81, "name": "x"}]}),
            &["spec.ports[1].name: Duplicate value: \"x\""],
        );
        check(
            json!({"ports": [{"port": 80, "nodePort": 30000}]}),
            &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        );
        check(
            json!({"ports": port, "type": "Best"}),
            &[
                "spec.type: Unsupported value: \"Best\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        );
        check(
            json!({"ports": port, "clusterIP": "10.0.0"}),
            &[
                "spec.clusterIPs[0]: Invalid value: \"10.0.0\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        );
        check(
            json!({"ports": port, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}),
            &["spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`"],
        );
        check(
            json!({"ports": port, "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
            &[
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
            ],
        );
        check(json!({"type": "ExternalName"}), &["spec.externalName: Required value"]);
        check(
            json!({"ports": port, "externalTrafficPolicy": "Local"}),
            &[
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        );
        check(
            json!({"ports": port, "externalIPs": ["127.0.0.1"]}),
            &[
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        );
        check(
            json!({"ports": port, "type": "NodePort", "clusterIP": "None"}),
            &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
        );
    }

    #[test]
    fn the_cluster_ip_stays() {
        let old = prepared(
            json!({"spec": {"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "ports": [{"port": 80}]}}),
        );
        let check = |spec: Value, expect: &[&str]| {
            let mut new: Object = Box::new(object::<Service>(json!({"spec": spec})));
            SERVICE.default(&mut new);
            SERVICE.prepare_update(&mut new, &old, "");
            assert_eq!(lines(&SERVICE.validate_update(&new, &old, "")), expect);
        };
        check(json!({"ipFamilies": ["IPv4"], "ports": [{"port": 81}]}), &[]);
        check(
            json!({"clusterIP": "10.0.0.2", "ipFamilies": ["IPv4"], "ports": [{"port": 80}]}),
            &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"],
        );
    }
}
