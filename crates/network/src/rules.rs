//! The node's table: what leaves the pod network is masqueraded, host ports lead to their pods. Pure.

use k8s_openapi::api::core::v1::Pod;
use netfilter::{Family, Fragment, Table};
use std::net::Ipv4Addr;

const HOST_PORTS: &str = "host-ports";
const HOST_PORTS_AT: &str = "host-ports-at";
const HAIRPIN: &str = "hairpin-connections";

/// `pod_cidr`: this node's pods; `cluster_cidr`: all pods, which see each other's own addresses.
pub fn table(pod_cidr: &str, cluster_cidr: &str) -> Table {
    let mut base = Fragment::default();
    base.map(HOST_PORTS, "type inet_proto . inet_service : ipv4_addr . inet_service;")
        .map(HOST_PORTS_AT, "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;");
    base.set(HAIRPIN, "type ipv4_addr . ipv4_addr;");
    let host_ports = || {
        vec![
            format!("dnat ip to ip daddr . meta l4proto . th dport map @{HOST_PORTS_AT}"),
            format!("fib daddr type local dnat ip to meta l4proto . th dport map @{HOST_PORTS}"),
        ]
    };
    base.hook("prerouting", "type nat hook prerouting priority dstnat + 10;", host_ports())
        .hook("output", "type nat hook output priority -90;", host_ports())
        .hook(
            "postrouting",
            "type nat hook postrouting priority srcnat;",
            vec![
                format!("ip saddr {pod_cidr} ip daddr != {cluster_cidr} ip daddr != 224.0.0.0/4 masquerade fully-random"),
                // a pod that reaches itself through its host port
                format!("ip saddr . ip daddr @{HAIRPIN} masquerade"),
            ],
        );
    Table { family: Family::Ip, name: "ironclad-network", base }
}

/// The host ports of a pod; None where it has none, no address yet, or has ended.
pub fn host_ports(pod: &Pod) -> Option<Fragment> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref()?;
    if spec.host_network == Some(true) || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let ip: Ipv4Addr = status.pod_ip.as_deref()?.parse().ok()?;
    let mut fragment = Fragment::default();
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    for port in spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten()) {
        let Some(host_port) = port.host_port.filter(|p| *p > 0) else { continue };
        let proto = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        let to = format!("{ip} . {}", port.container_port);
        match port.host_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "0.0.0.0") {
            Some(at) if at.parse::<Ipv4Addr>().is_ok() => {
                fragment.mapping(HOST_PORTS_AT, format!("{at} . {proto} . {host_port}"), to);
            }
            Some(_) => {}
            None => {
                fragment.mapping(HOST_PORTS, format!("{proto} . {host_port}"), to);
            }
        }
    }
    if fragment.elements.is_empty() {
        return None;
    }
    fragment.element(HAIRPIN, format!("{ip} . {ip}"));
    Some(fragment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ports(pod: serde_json::Value) -> Vec<String> {
        let fragment = host_ports(&serde_json::from_value(pod).unwrap()).unwrap_or_default();
        let maps =
            fragment.elements.into_iter().filter_map(|((map, k), v)| Some(format!("{map} {k} -> {}", v?)));
        maps.collect()
    }

    #[test]
    fn host_ports_lead_to_the_pod_while_it_runs() {
        let pod = |phase: &str| {
            json!({"spec": {"containers": [{"name": "c", "ports": [
                    {"containerPort": 80, "hostPort": 8080, "protocol": "TCP"},
                    {"containerPort": 53, "hostPort": 53, "hostIP": "192.0.2.1", "protocol": "UDP"},
                    {"containerPort": 90}]}]},
                "status": {"podIP": "10.244.0.5", "phase": phase}})
        };
        assert_eq!(
            ports(pod("Running")),
            [
                "host-ports tcp . 8080 -> 10.244.0.5 . 80",
                "host-ports-at 192.0.2.1 . udp . 53 -> 10.244.0.5 . 53"
            ]
        );
        assert_eq!(ports(pod("Succeeded")), [""; 0]);
    }
}
