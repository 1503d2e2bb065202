//! The rules of a service port: a fragment of the table, in the layout upstream's nftables mode has (KEP-3866),
//! with the endpoints of a service in one map instead of a chain each.

use crate::service::{Endpoint, Protocol, ServicePort};
use netfilter::{Family, Fragment, Table};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Mark of packets whose source address is replaced on their way out.
pub const MASQUERADE_MARK: u32 = 0x4000;

const SERVICE_IPS: &str = "service-ips";
const NODE_PORTS: &str = "service-nodeports";
const NO_ENDPOINTS: &str = "no-endpoint-services";
const NO_ENDPOINT_NODE_PORTS: &str = "no-endpoint-nodeports";
const HAIRPIN: &str = "hairpin-connections";
const NODE_PORT_IPS: &str = "nodeport-ips";
const SOURCES: &str = "service-sources";

/// The table with what is always in it.
///
/// `pods`: the cluster's pod addresses (CIDR): traffic to a service from elsewhere is masqueraded.
/// `node_ips`: addresses that answer on node ports.
pub fn table(node_ips: &[Ipv4Addr], services: &str) -> Table {
    let mut base = Fragment::default();
    let by_address = "type ipv4_addr . inet_proto . inet_service : verdict;";
    let by_port = "type inet_proto . inet_service : verdict;";
    base.map(SERVICE_IPS, by_address)
        .map(NO_ENDPOINTS, by_address)
        .map(NODE_PORTS, by_port)
        .map(NO_ENDPOINT_NODE_PORTS, by_port)
        .map(SOURCES, by_address)
        .set(HAIRPIN, "type ipv4_addr . ipv4_addr;")
        .set(NODE_PORT_IPS, "type ipv4_addr;");
    for ip in node_ips {
        base.element(NODE_PORT_IPS, ip.to_string());
    }
    let look_up = |map: &str| format!("ip daddr . meta l4proto . th dport vmap @{map}");
    let look_up_port = |map: &str| format!("ip daddr @{NODE_PORT_IPS} meta l4proto . th dport vmap @{map}");
    let dispatch = || vec![look_up(SERVICE_IPS), look_up_port(NODE_PORTS)];
    let refuse = || {
        vec![
            format!("ct state new {}", look_up(SOURCES)),
            format!("ct state new {}", look_up(NO_ENDPOINTS)),
            format!("ct state new {}", look_up_port(NO_ENDPOINT_NODE_PORTS)),
        ]
    };
    // an address of the service range that no service has would otherwise be routed away
    let unused = format!("ct state new ip daddr {services} drop comment \"no such service\"");
    base.chain("mark-for-masquerade", vec![format!("meta mark set meta mark or {MASQUERADE_MARK:#x}")])
        .chain("reject-chain", vec!["reject".to_owned()])
        .hook("nat-prerouting", "type nat hook prerouting priority dstnat;", dispatch())
        .hook("nat-output", "type nat hook output priority -100;", dispatch())
        .hook(
            "nat-postrouting",
            "type nat hook postrouting priority srcnat;",
            vec![
                format!("ip saddr . ip daddr @{HAIRPIN} masquerade"),
                format!(
                    "meta mark and {MASQUERADE_MARK:#x} != 0 meta mark set meta mark xor {MASQUERADE_MARK:#x} masquerade fully-random"
                ),
            ],
        )
        // before DNAT: a service without endpoints is refused at once, not timed out
        .hook("filter-prerouting", "type filter hook prerouting priority dstnat - 10;", refuse())
        .hook("filter-output", "type filter hook output priority -110;", refuse())
        .hook("filter-forward", "type filter hook forward priority filter;", vec![unused]);
    Table { family: Family::Ip, name: "kube-proxy", base }
}

/// `namespace/service:port`: the owner of the fragment.
pub fn owner(p: &ServicePort) -> String {
    format!("{}/{}:{}/{}", p.namespace, p.service, p.name, p.protocol.as_str())
}

/// Chain names say which service they serve, with a hash in front against names that are too long.
fn chain(kind: &str, p: &ServicePort) -> String {
    let full = format!("{}/{}/{}/{}", p.namespace, p.service, p.protocol.as_str(), p.name);
    let hash = Sha256::digest(full.as_bytes());
    let short: String = hash.iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("{kind}-{short}-{}", full.chars().take(MAX_NAME_CHARS).collect::<String>())
}

/// nft allows 255 bytes; this leaves room for the longest kind and its suffixes.
const MAX_NAME_CHARS: usize = 200;

/// Everything one service port adds to the table.
pub fn fragment(p: &ServicePort, pods: &str) -> Fragment {
    let mut f = Fragment::default();
    let proto = p.protocol.as_str();
    let address = |ip: &Ipv4Addr, port: u16| format!("{ip} . {proto} . {port}");
    let cluster = chain("service", p);
    let local = chain("local", p);
    let external = chain("external", p);

    let internal_endpoints = if p.internal_local { &p.local_endpoints } else { &p.endpoints };
    let external_endpoints = if p.external_local { &p.local_endpoints } else { &p.endpoints };
    let outside: Vec<&Ipv4Addr> = p.external_ips.iter().chain(&p.load_balancer_ips).collect();
    let exposed = p.node_port.is_some() || !outside.is_empty();

    for e in p.endpoints.iter().chain(&p.local_endpoints) {
        f.element(HAIRPIN, format!("{ip} . {ip}", ip = e.ip));
    }
    if internal_endpoints.is_empty() {
        // Local policy without an endpoint here: dropped, since another node's may serve (KEP-2086)
        let verdict = if p.internal_local && !p.endpoints.is_empty() { "drop" } else { "goto reject-chain" };
        f.mapping(NO_ENDPOINTS, address(&p.cluster_ip, p.port), verdict);
    } else {
        let (chain, endpoints) =
            if p.internal_local { (&local, &p.local_endpoints) } else { (&cluster, &p.endpoints) };
        let mut rules = vec![format!(
            "ip daddr {} {proto} dport {} ip saddr != {pods} jump mark-for-masquerade",
            p.cluster_ip, p.port
        )];
        rules.extend(to_endpoints(p, endpoints, chain, &mut f));
        f.chain(chain.clone(), rules);
        f.mapping(SERVICE_IPS, address(&p.cluster_ip, p.port), format!("goto {chain}"));
    }
    if !exposed {
        return f;
    }
    if external_endpoints.is_empty() {
        let verdict = if p.external_local && !p.endpoints.is_empty() { "drop" } else { "goto reject-chain" };
        for ip in &outside {
            f.mapping(NO_ENDPOINTS, address(ip, p.port), verdict);
        }
        if let Some(port) = p.node_port {
            f.mapping(NO_ENDPOINT_NODE_PORTS, format!("{proto} . {port}"), verdict);
        }
        return f;
    }
    let mut rules = Vec::new();
    let (target, endpoints) =
        if p.external_local { (&local, &p.local_endpoints) } else { (&cluster, &p.endpoints) };
    if p.external_local {
        // pods of this cluster take any endpoint, as if they had used the cluster IP
        if f.chains.contains_key(&cluster) {
            rules.push(format!("ip saddr {pods} goto {cluster}"));
        }
        // the node's own traffic too, but its source address is no pod's
        rules.push("fib saddr type local jump mark-for-masquerade".to_owned());
    } else {
        rules.push("jump mark-for-masquerade".to_owned());
    }
    rules.push(format!("goto {target}"));
    if !f.chains.contains_key(target) {
        let to = to_endpoints(p, endpoints, target, &mut f);
        f.chain(target.clone(), to);
    }
    f.chain(external.clone(), rules);
    for ip in &outside {
        f.mapping(SERVICE_IPS, address(ip, p.port), format!("goto {external}"));
    }
    if let Some(port) = p.node_port {
        f.mapping(NODE_PORTS, format!("{proto} . {port}"), format!("goto {external}"));
    }
    if !p.source_ranges.is_empty() && !p.load_balancer_ips.is_empty() {
        let firewall = chain("firewall", p);
        f.chain(firewall.clone(), vec![format!("ip saddr != {{ {} }} drop", p.source_ranges.join(", "))]);
        for ip in &p.load_balancer_ips {
            f.mapping(SOURCES, address(ip, p.port), format!("goto {firewall}"));
        }
    }
    f
}

/// Rules that send a connection to one of the endpoints, adding what affinity needs to `f`.
fn to_endpoints(
    p: &ServicePort,
    endpoints: &BTreeSet<Endpoint>,
    chain: &str,
    f: &mut Fragment,
) -> Vec<String> {
    let l4 = format!("meta l4proto {}", p.protocol.as_str());
    let choice = |to: &dyn Fn(&Endpoint) -> String| {
        endpoints.iter().enumerate().map(|(i, e)| format!("{i} : {}", to(e))).collect::<Vec<_>>().join(", ")
    };
    let Some(seconds) = p.affinity_seconds else {
        return match endpoints.first() {
            Some(e) if endpoints.len() == 1 => vec![format!("{l4} dnat to {}:{}", e.ip, e.port)],
            _ => vec![format!(
                "{l4} dnat ip to numgen random mod {} map {{ {} }}",
                endpoints.len(),
                choice(&|e| format!("{} . {}", e.ip, e.port))
            )],
        };
    };
    let name = |kind: &str, e: &Endpoint| format!("{kind}-{chain}-{}/{}", e.ip, e.port);
    let mut rules = Vec::new();
    for e in endpoints {
        let (set, to) = (name("affinity", e), name("endpoint", e));
        f.set(set.clone(), format!("type ipv4_addr; flags dynamic,timeout; timeout {seconds}s;"));
        f.chain(
            to.clone(),
            vec![format!("update @{set} {{ ip saddr }}"), format!("{l4} dnat to {}:{}", e.ip, e.port)],
        );
        rules.push(format!("ip saddr @{set} goto {to}"));
    }
    rules.push(format!(
        "numgen random mod {} vmap {{ {} }}",
        endpoints.len(),
        choice(&|e| format!("goto {}", name("endpoint", e)))
    ));
    rules
}

/// Addresses at which UDP clients may hold on to an endpoint through conntrack.
pub fn udp_destinations(p: &ServicePort) -> Vec<(Ipv4Addr, u16)> {
    if p.protocol != Protocol::Udp {
        return Vec::new();
    }
    let outside = p.external_ips.iter().chain(&p.load_balancer_ips);
    outside.chain([&p.cluster_ip]).map(|ip| (*ip, p.port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: &str = "10.244.0.0/16";

    fn port(endpoints: &[(&str, bool)]) -> ServicePort {
        let all: BTreeSet<_> = endpoints
            .iter()
            .map(|(ip, local)| Endpoint { ip: ip.parse().unwrap(), port: 8080, local: *local })
            .collect();
        ServicePort {
            namespace: "default".into(),
            service: "web".into(),
            name: "http".into(),
            protocol: Protocol::Tcp,
            cluster_ip: "10.96.0.7".parse().unwrap(),
            port: 80,
            node_port: None,
            external_ips: vec![],
            load_balancer_ips: vec![],
            source_ranges: vec![],
            affinity_seconds: None,
            internal_local: false,
            external_local: false,
            local_endpoints: all.iter().filter(|e| e.local).cloned().collect(),
            endpoints: all,
        }
    }

    fn rules<'a>(f: &'a Fragment, kind: &str) -> Vec<&'a str> {
        let chain =
            f.chains.iter().find(|(n, _)| n.starts_with(kind)).unwrap_or_else(|| panic!("no {kind} chain")).1;
        chain.rules.iter().map(String::as_str).collect()
    }

    fn verdict(f: &Fragment, map: &str, key: &str) -> Option<String> {
        f.elements.get(&(map.to_owned(), key.to_owned())).cloned().flatten()
    }

    #[test]
    fn connections_are_spread_over_the_endpoints() {
        let f = fragment(&port(&[("10.244.0.2", true), ("10.244.0.3", true)]), PODS);
        assert_eq!(
            rules(&f, "service-"),
            [
                "ip daddr 10.96.0.7 tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade",
                "meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.0.2 . 8080, 1 : 10.244.0.3 . 8080 }"
            ]
        );
        assert!(verdict(&f, SERVICE_IPS, "10.96.0.7 . tcp . 80").unwrap().starts_with("goto service-"));
    }

    #[test]
    fn a_service_without_endpoints_is_refused_at_once() {
        let f = fragment(&ServicePort { node_port: Some(30080), ..port(&[]) }, PODS);
        assert_eq!(verdict(&f, NO_ENDPOINTS, "10.96.0.7 . tcp . 80").unwrap(), "goto reject-chain");
        assert_eq!(verdict(&f, NO_ENDPOINT_NODE_PORTS, "tcp . 30080").unwrap(), "goto reject-chain");
        assert!(f.chains.is_empty());
    }

    #[test]
    fn a_local_policy_keeps_the_client_address_and_this_nodes_endpoints() {
        let p = ServicePort {
            node_port: Some(30080),
            external_local: true,
            ..port(&[("10.244.0.2", true), ("10.244.1.3", false)])
        };
        let f = fragment(&p, PODS);
        assert_eq!(rules(&f, "local-"), ["meta l4proto tcp dnat to 10.244.0.2:8080"]);
        let external = rules(&f, "external-");
        assert!(!external.contains(&"jump mark-for-masquerade"), "{external:?}");
        let elsewhere =
            ServicePort { external_local: true, node_port: Some(1), ..port(&[("10.244.1.3", false)]) };
        assert_eq!(verdict(&fragment(&elsewhere, PODS), NO_ENDPOINT_NODE_PORTS, "tcp . 1").unwrap(), "drop");
    }

    #[test]
    fn affinity_remembers_the_client_for_each_endpoint() {
        let p =
            ServicePort { affinity_seconds: Some(60), ..port(&[("10.244.0.2", true), ("10.244.0.3", true)]) };
        let f = fragment(&p, PODS);
        assert_eq!(f.sets.len(), 2);
        assert!(f.sets.values().all(|d| d.ends_with("timeout 60s;")));
        assert_eq!(rules(&f, "service-").len(), 4);
    }
}
