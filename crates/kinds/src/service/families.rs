//! Cluster IPs and IP families of a service: what the two forms of the field mean together, what an update
//! that leaves allocated values out keeps, and which families a service gets
//! (upstream's `registry/core/service/storage`). Pure: the API server allocates between
//! [`init`] and validation.

use super::{
    CLUSTER_IP_NONE, cluster_ip, cluster_ips, ip_families, needs_cluster_ip, needs_health_check_port,
    needs_node_ports, node_ports, ports, spec, type_of, validate,
};
use crate::support::{json, parse_ip_sloppy, text};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use meta::{FieldError, FieldErrors, Path};
use std::collections::BTreeMap;

pub const IPV4: &str = "IPv4";
pub const IPV6: &str = "IPv6";
const SINGLE_STACK: &str = "SingleStack";

/// The family of an address: `IPv4` or `IPv6`.
pub fn family_of(ip: &str) -> &'static str {
    if parse_ip_sloppy(ip).is_some_and(|i| i.is_ipv6()) { IPV6 } else { IPV4 }
}

fn same_cluster_ips(a: &ServiceSpec, b: &ServiceSpec) -> bool {
    cluster_ip(a) == cluster_ip(b) && cluster_ips(a) == cluster_ips(b)
}

/// Brings `clusterIP` and `clusterIPs` together where a client set or changed only one of them.
pub fn normalize(new: &mut Service, old: Option<&Service>) {
    let is = new.spec.get_or_insert_default();
    let Some(old) = old else {
        if !cluster_ip(is).is_empty() && cluster_ips(is).is_empty() {
            is.cluster_ips = Some(vec![cluster_ip(is).to_owned()]);
        }
        return;
    };
    let was = spec(old);
    if !cluster_ips(was).is_empty() && cluster_ips(is).is_empty() && cluster_ip(was) == cluster_ip(is) {
        is.cluster_ips = was.cluster_ips.clone();
    }
    if cluster_ip(was) != cluster_ip(is) && cluster_ips(was) == cluster_ips(is) {
        is.cluster_ips = match cluster_ip(is) {
            "" if !cluster_ip(was).is_empty() => None,
            one => Some(vec![one.to_owned()]),
        };
    }
}

/// Keeps what was allocated where an update leaves it out: a manifest applied again does not give its
/// addresses and ports away.
pub fn keep_allocated(new: &mut Service, old: &Service) {
    let was = spec(old);
    let is = new.spec.get_or_insert_default();
    if needs_cluster_ip(was) && needs_cluster_ip(is) {
        if cluster_ip(is).is_empty() {
            is.cluster_ip = was.cluster_ip.clone();
        }
        if cluster_ips(is).is_empty() && !cluster_ips(was).is_empty() {
            is.cluster_ips = was.cluster_ips.clone();
        }
    }
    if needs_node_ports(was) && needs_node_ports(is) {
        let still_used: Vec<i32> = node_ports(was).intersection(&node_ports(is)).copied().collect();
        let by_name: BTreeMap<&str, Option<i32>> =
            ports(was).iter().map(|p| (text(p.name.as_ref()), p.node_port)).collect();
        for port in is.ports.iter_mut().flatten() {
            if port.node_port.unwrap_or(0) != 0 {
                continue;
            }
            if let Some(Some(before)) = by_name.get(text(port.name.as_ref()))
                && !still_used.contains(before)
            {
                port.node_port = Some(*before);
            }
        }
    }
    if needs_health_check_port(was)
        && needs_health_check_port(is)
        && is.health_check_node_port.unwrap_or(0) == 0
    {
        is.health_check_node_port = was.health_check_node_port;
    }
}

/// Fills `ipFamilyPolicy` and `ipFamilies` from what the client asked for and from the families the cluster
/// has, in their order; the first is the default. Errors say what the cluster cannot do.
pub fn init(new: &mut Service, old: Option<&Service>, cluster: &[&'static str]) -> FieldErrors {
    if !needs_cluster_ip(spec(new)) || unchanged_prefer_dual_stack(spec(new), old.map(spec)) {
        return Vec::new();
    }
    let is = new.spec.get_or_insert_default();
    let selectorless = is.selector.as_ref().is_none_or(|s| s.is_empty());
    let headless_selectorless = cluster_ip(is) == CLUSTER_IP_NONE && selectorless;
    if is.ip_family_policy.is_none() {
        let before = old.and_then(|o| spec(o).ip_family_policy.clone());
        let otherwise = if headless_selectorless { "RequireDualStack" } else { SINGLE_STACK };
        is.ip_family_policy = Some(before.unwrap_or_else(|| otherwise.to_owned()));
    }
    let errors = validate::validate_cluster_ips(new, old);
    if !errors.is_empty() {
        return errors;
    }
    let is = new.spec.get_or_insert_default();
    let policy = text(is.ip_family_policy.as_ref()).to_owned();
    let errors = match old.map(spec) {
        Some(was) => release_secondary(is, was, &policy),
        None => Vec::new(),
    };
    let errors =
        [errors, refuse_two_of_a_single_stack(is, &policy), families_of_cluster_ips(is, cluster)].concat();
    if !errors.is_empty() {
        return errors;
    }
    // what has no endpoints of its own may have families that the cluster has not
    if !headless_selectorless {
        let errors = refuse_unconfigured(is, &policy, cluster);
        if !errors.is_empty() {
            return errors;
        }
    }
    let families = is.ip_families.get_or_insert_default();
    if families.is_empty() {
        families.push(cluster.first().copied().unwrap_or(IPV4).to_owned());
    }
    let dual = policy != SINGLE_STACK && (headless_selectorless || cluster.len() == 2);
    if dual && families.len() == 1 {
        families.push(if families[0] == IPV4 { IPV6 } else { IPV4 }.to_owned());
    }
    Vec::new()
}

fn refuse_policy(policy: &str, why: &str) -> FieldError {
    FieldError::invalid(&Path::new("spec").child("ipFamilyPolicy"), policy, why)
}

/// A service that becomes single-stack gives up what is second, where the client leaves that as it was; another
/// may not give it up.
fn release_secondary(is: &mut ServiceSpec, was: &ServiceSpec, policy: &str) -> FieldErrors {
    if policy == SINGLE_STACK {
        if same_cluster_ips(was, is) {
            is.cluster_ips.iter_mut().for_each(|c| c.truncate(1));
        }
        if ip_families(was) == ip_families(is) {
            is.ip_families.iter_mut().for_each(|f| f.truncate(1));
        }
        return Vec::new();
    }
    let mut errors = Vec::new();
    if reduced(cluster_ips(was), cluster_ips(is)) {
        errors.push(refuse_policy(policy, "must be 'SingleStack' to release the secondary cluster IP"));
    }
    if reduced(ip_families(was), ip_families(is)) {
        errors.push(refuse_policy(policy, "must be 'SingleStack' to release the secondary IP family"));
    }
    errors
}

fn refuse_two_of_a_single_stack(is: &ServiceSpec, policy: &str) -> FieldErrors {
    if policy != SINGLE_STACK {
        return Vec::new();
    }
    [("cluster IPs", cluster_ips(is)), ("IP families", ip_families(is))]
        .into_iter()
        .filter(|(_, values)| values.len() == 2)
        .map(|(what, _)| {
            let why =
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            refuse_policy(policy, &why)
        })
        .collect()
}

/// Fills the families that given addresses imply.
fn families_of_cluster_ips(is: &mut ServiceSpec, cluster: &[&'static str]) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, ip) in cluster_ips(is).to_vec().iter().enumerate() {
        if ip == CLUSTER_IP_NONE {
            break;
        }
        let family = family_of(ip);
        if i < ip_families(is).len() {
            continue;
        }
        if cluster.contains(&family) {
            is.ip_families.get_or_insert_default().push(family.to_owned());
        } else {
            errors.push(FieldError::invalid(
                &Path::new("spec").child("clusterIPs").index(i),
                json(&is.cluster_ips),
                format!("{family} is not configured on this cluster"),
            ));
        }
    }
    errors
}

fn refuse_unconfigured(is: &ServiceSpec, policy: &str, cluster: &[&'static str]) -> FieldErrors {
    let mut errors = Vec::new();
    if policy == "RequireDualStack" && cluster.len() < 2 {
        errors.push(refuse_policy(policy, "this cluster is not configured for dual-stack services"));
    }
    for (i, family) in ip_families(is).iter().enumerate() {
        if !cluster.contains(&family.as_str()) {
            let path = Path::new("spec").child("ipFamilies").index(i);
            errors.push(FieldError::invalid(&path, family, "not configured on this cluster"));
        }
    }
    errors
}

fn reduced(was: &[String], is: &[String]) -> bool {
    if is.is_empty() || was.is_empty() {
        return false;
    }
    was.len() == 2 && is.len() == 1 && was[0] == is[0]
}

fn unchanged_prefer_dual_stack(is: &ServiceSpec, was: Option<&ServiceSpec>) -> bool {
    let Some(was) = was else { return false };
    is.ip_family_policy.as_deref() == Some("PreferDualStack")
        && was.ip_family_policy.as_deref().is_none_or(|p| p == "PreferDualStack")
        && type_of(is) == type_of(was)
        && same_cluster_ips(is, was)
        && ip_families(is) == ip_families(was)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::{Value, json};

    #[test]
    fn families_of_a_new_service() {
        let check =
            |value: Value, cluster: &[&'static str], policy: &str, families: &[&str], errors: &[&str]| {
                let mut service = object(json!({"spec": value}));
                normalize(&mut service, None);
                assert_eq!(lines(&init(&mut service, None, cluster)), errors);
                let spec = service.spec.unwrap();
                assert_eq!(spec.ip_family_policy.as_deref(), Some(policy));
                assert_eq!(ip_families(&spec), families);
            };
        check(json!({"type": "ClusterIP"}), &[IPV4], "SingleStack", &[IPV4], &[]);
        check(
            json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"}),
            &[IPV4],
            "PreferDualStack",
            &[IPV4],
            &[],
        );
        check(
            json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"}),
            &[IPV6, IPV4],
            "PreferDualStack",
            &[IPV6, IPV4],
            &[],
        );
        check(
            json!({"type": "ClusterIP", "clusterIP": "None", "selector": {"a": "b"}}),
            &[IPV4],
            "SingleStack",
            &[IPV4],
            &[],
        );
        check(
            json!({"type": "ClusterIP", "clusterIP": "None"}),
            &[IPV4],
            "RequireDualStack",
            &[IPV4, IPV6],
            &[],
        );
        check(
            json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack"}),
            &[IPV4],
            "RequireDualStack",
            &[],
            &[
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ],
        );
        check(
            json!({"type": "ClusterIP", "ipFamilies": ["IPv6"]}),
            &[IPV4],
            "SingleStack",
            &[IPV6],
            &["spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"],
        );
    }

    #[test]
    fn an_applied_manifest_keeps_what_was_allocated() {
        let old: Service = object(
            json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"],
            "ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30081}]}}),
        );
        let mut new: Service = object(json!({"spec": {"type": "NodePort",
            "ports": [{"name": "b", "port": 81}, {"name": "a", "port": 82}, {"name": "c", "port": 83}]}}));
        keep_allocated(&mut new, &old);
        normalize(&mut new, Some(&old));
        let spec = new.spec.unwrap();
        assert_eq!((cluster_ip(&spec), cluster_ips(&spec)), ("10.0.0.9", &["10.0.0.9".to_owned()][..]));
        let allocated: Vec<_> = ports(&spec).iter().map(|p| p.node_port).collect();
        assert_eq!(allocated, [Some(30081), Some(30080), None]);
    }
}
