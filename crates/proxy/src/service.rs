//! What of a Service and its EndpointSlices matters for traffic. Pure.

use k8s_openapi::api::core::v1::{Service, ServicePort as ApiPort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn parse(s: Option<&str>) -> Self {
        match s {
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            _ => Self::Tcp,
        }
    }

    /// As nft and conntrack write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub ip: Ipv4Addr,
    pub port: u16,
    /// On this node.
    pub local: bool,
}

/// Where this proxy is: what hints of endpoints are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub node: String,
    /// The node's label `topology.kubernetes.io/zone`; empty without one.
    pub zone: String,
}

/// One port of a Service with the endpoints that serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub namespace: String,
    pub service: String,
    /// Empty for an unnamed port.
    pub name: String,
    pub protocol: Protocol,
    pub cluster_ip: Ipv4Addr,
    pub port: u16,
    pub node_port: Option<u16>,
    pub external_ips: Vec<Ipv4Addr>,
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// Who may reach the load balancer's addresses; empty: everybody.
    pub source_ranges: Vec<String>,
    /// Seconds a client stays with its endpoint; None without session affinity.
    pub affinity_seconds: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Ready endpoints, of them those hinted for this node or its zone where all have hints (KEP-2433, KEP-3015);
    /// where none is ready, those that still serve while they terminate (KEP-1669).
    pub endpoints: BTreeSet<Endpoint>,
    /// The same choice among this node's endpoints alone.
    pub local_endpoints: BTreeSet<Endpoint>,
}

/// The ports of a service, or none where it has no cluster IP (headless, ExternalName) or another proxy
/// takes care of it (label `service.kubernetes.io/service-proxy-name`).
pub fn ports(service: &Service, slices: &[Arc<EndpointSlice>], place: &Place) -> Vec<ServicePort> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let labels = service.metadata.labels.as_ref();
    if spec.type_.as_deref() == Some("ExternalName")
        || labels.is_some_and(|l| l.contains_key("service.kubernetes.io/service-proxy-name"))
    {
        return Vec::new();
    }
    let Some(cluster_ip) = ipv4_cluster_ip(service) else { return Vec::new() };
    let external = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let affinity_seconds = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let configured =
            spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
        configured.and_then(|s| u32::try_from(s).ok()).unwrap_or(DEFAULT_AFFINITY_SECONDS)
    });
    let load_balancer_ips = service
        .status
        .iter()
        .flat_map(|s| s.load_balancer.iter().flat_map(|l| l.ingress.iter().flatten()))
        .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|i| i.ip.as_deref()?.parse().ok())
        .collect::<Vec<_>>();
    let one = |port: &ApiPort| {
        let name = port.name.clone().unwrap_or_default();
        let protocol = Protocol::parse(port.protocol.as_deref());
        let all = candidates(slices, &name, protocol, place);
        Some(ServicePort {
            namespace: service.metadata.namespace.clone().unwrap_or_default(),
            service: service.metadata.name.clone().unwrap_or_default(),
            protocol,
            cluster_ip,
            port: u16::try_from(port.port).ok()?,
            node_port: port
                .node_port
                .filter(|_| external)
                .and_then(|p| u16::try_from(p).ok())
                .filter(|p| *p != 0),
            external_ips: spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect(),
            load_balancer_ips: load_balancer_ips.clone(),
            source_ranges: spec
                .load_balancer_source_ranges
                .iter()
                .flatten()
                .map(|r| r.trim().to_owned())
                .filter(|r| !r.contains(':'))
                .collect(),
            affinity_seconds,
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: external && spec.external_traffic_policy.as_deref() == Some("Local"),
            endpoints: choose(near(&all).into_iter()),
            local_endpoints: choose(all.iter().filter(|c| c.endpoint.local)),
            name,
        })
    };
    spec.ports.iter().flatten().filter_map(one).collect()
}

/// API reference, ClientIPConfig: the default is three hours.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

fn ipv4_cluster_ip(service: &Service) -> Option<Ipv4Addr> {
    let spec = service.spec.as_ref()?;
    let listed = spec.cluster_ips.iter().flatten().find_map(|ip| ip.parse().ok());
    listed.or_else(|| spec.cluster_ip.as_deref()?.parse().ok())
}

struct Candidate {
    endpoint: Endpoint,
    ready: bool,
    serving_and_terminating: bool,
    for_nodes: Hint,
    for_zones: Hint,
}

/// Whom an endpoint is meant for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hint {
    /// It says nothing.
    None,
    /// This node, or its zone.
    Us,
    Others,
}

impl Hint {
    fn of<'a>(mut names: impl Iterator<Item = &'a str>, ours: &str) -> Self {
        match names.next() {
            None => Self::None,
            Some(first) if first == ours || names.any(|name| name == ours) => Self::Us,
            Some(_) => Self::Others,
        }
    }
}

/// The candidates that hints leave to this node: where each ready one has a hint, and one of them for this node, or
/// else for its zone, those. Otherwise all.
fn near(all: &[Candidate]) -> Vec<&Candidate> {
    let hints: [fn(&Candidate) -> Hint; 2] = [|c| c.for_nodes, |c| c.for_zones];
    let heeded = hints.into_iter().find(|hint| {
        let mut ready = all.iter().filter(|c| c.ready).map(hint);
        ready.clone().any(|h| h == Hint::Us) && ready.all(|h| h != Hint::None)
    });
    match heeded {
        Some(hint) => all.iter().filter(|c| !c.ready || hint(c) == Hint::Us).collect(),
        None => all.iter().collect(),
    }
}

fn choose<'a>(candidates: impl Iterator<Item = &'a Candidate> + Clone) -> BTreeSet<Endpoint> {
    let ready: BTreeSet<_> = candidates.clone().filter(|c| c.ready).map(|c| c.endpoint.clone()).collect();
    if !ready.is_empty() {
        return ready;
    }
    candidates.filter(|c| c.serving_and_terminating).map(|c| c.endpoint.clone()).collect()
}

fn candidates(
    slices: &[Arc<EndpointSlice>],
    port: &str,
    protocol: Protocol,
    place: &Place,
) -> Vec<Candidate> {
    let mut found = Vec::new();
    for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
        let numbers: Vec<u16> = slice
            .ports
            .iter()
            .flatten()
            .filter(|p| {
                p.name.as_deref().unwrap_or("") == port && Protocol::parse(p.protocol.as_deref()) == protocol
            })
            .filter_map(|p| u16::try_from(p.port?).ok())
            .collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            let terminating = conditions.terminating.unwrap_or(false);
            let serving = conditions.serving.unwrap_or(ready);
            let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            let local = endpoint.node_name.as_deref() == Some(place.node.as_str());
            let hints = endpoint.hints.iter();
            let nodes = hints.clone().flat_map(|h| h.for_nodes.iter().flatten()).map(|n| n.name.as_str());
            let zones = hints.flat_map(|h| h.for_zones.iter().flatten()).map(|z| z.name.as_str());
            let (for_nodes, for_zones) = (Hint::of(nodes, &place.node), Hint::of(zones, &place.zone));
            found.extend(numbers.iter().map(|port| Candidate {
                endpoint: Endpoint { ip, port: *port, local },
                ready,
                serving_and_terminating: serving && terminating,
                for_nodes,
                for_zones,
            }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {"type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]}
        }))
        .unwrap()
    }

    fn slice(endpoints: serde_json::Value) -> Vec<Arc<EndpointSlice>> {
        vec![Arc::new(
            serde_json::from_value(json!({
                "metadata": {"namespace": "default", "name": "web-1"}, "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints
            }))
            .unwrap(),
        )]
    }

    fn chosen(endpoints: serde_json::Value) -> Vec<String> {
        let ports = ports(&service(), &slice(endpoints), &Place { node: "n1".into(), zone: "a".into() });
        ports[0].endpoints.iter().map(|e| format!("{}:{}", e.ip, e.port)).collect()
    }

    #[test]
    fn only_ready_endpoints_get_traffic() {
        let got = chosen(json!([
            {"addresses": ["10.244.0.2"], "conditions": {"ready": true}},
            {"addresses": ["10.244.0.3"], "conditions": {"ready": false}},
            {"addresses": ["10.244.0.4"]}
        ]));
        assert_eq!(got, ["10.244.0.2:8080", "10.244.0.4:8080"]);
    }

    #[test]
    fn when_none_is_ready_those_that_still_serve_while_terminating_do() {
        let got = chosen(json!([
            {"addresses": ["10.244.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.244.0.3"], "conditions": {"ready": false, "serving": false, "terminating": true}}
        ]));
        assert_eq!(got, ["10.244.0.2:8080"]);
    }

    #[test]
    fn hints_keep_traffic_near_where_all_endpoints_have_them() {
        // address, whether it is ready, and the nodes and zones it is meant for
        #[track_caller]
        fn check(endpoints: &[(&str, bool, &[&str], &[&str])], expect: &[&str]) {
            let named = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
            let one = |(ip, ready, nodes, zones): &(&str, bool, &[&str], &[&str])| {
                json!({"addresses": [ip], "conditions": {"ready": ready},
                    "hints": {"forNodes": named(nodes), "forZones": named(zones)}})
            };
            let got = chosen(endpoints.iter().map(one).collect());
            assert_eq!(got, expect.iter().map(|ip| format!("{ip}:8080")).collect::<Vec<_>>());
        }
        let (here, there) = ("10.0.0.1", "10.0.0.2");
        check(&[(here, true, &[], &["a"]), (there, true, &[], &["b"])], &[here]);
        check(&[(here, true, &[], &["b", "a"]), (there, true, &[], &["a"])], &[here, there]);
        // the node goes before the zone
        check(&[(here, true, &["n1"], &["a"]), (there, true, &["n2"], &["a"])], &[here]);
        check(&[(here, true, &["n2"], &["a"]), (there, true, &["n3"], &["b"])], &[here]);
        // one without a hint, or none for us: all
        check(&[(here, true, &[], &["a"]), (there, true, &[], &[])], &[here, there]);
        check(&[(here, true, &[], &["c"]), (there, true, &[], &["b"])], &[here, there]);
        // those that are not ready do not count
        check(&[(here, true, &[], &["a"]), (there, false, &[], &[])], &[here]);
    }

    #[test]
    fn headless_and_external_name_services_are_not_proxied() {
        for spec in [json!({"clusterIP": "None"}), json!({"type": "ExternalName", "externalName": "x.y"})] {
            let s = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
            assert_eq!(ports(&s, &[], &Place::default()), []);
        }
    }
}
