//! v1 Service. The addresses and ports of a service are allocated by the API server; the rules about
//! families and about what an update may leave out are in [`families`], pure.

pub mod families;
mod validate;

use crate::kind::{
    Cell, Column, Kind, NameRule, Names, Scope, Selectable, StatusAccess, Strategy, Subresource, Validate,
};
use crate::object::Registered;
use crate::strategy::plain;
use crate::support::{age, column, format_labels, or, text, wide};
use k8s_openapi::api::core::v1::{
    ClientIPConfig, LoadBalancerIngress, LoadBalancerStatus, Service, ServicePort, ServiceSpec,
    SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meta::GroupVersionKind;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// The `clusterIP` of a headless service.
pub const CLUSTER_IP_NONE: &str = "None";
/// Three hours.
const DEFAULT_CLIENT_IP_AFFINITY_SECONDS: i32 = 10_800;
/// Longest load balancer address shown without `-o wide`, in bytes.
const LOAD_BALANCER_WIDTH: usize = 16;

const COLUMNS: &[Column<Service>] = &[
    column(
        "Type",
        "type determines how the Service is exposed. Defaults to ClusterIP. Valid options are ExternalName, ClusterIP, NodePort, and LoadBalancer.",
        |s| Cell::str(type_of(spec(s))),
    ),
    column(
        "Cluster-IP",
        "clusterIP is the IP address of the service and is usually assigned randomly.",
        |s| Cell::str(cluster_ips(spec(s)).first().map_or("<none>", String::as_str)),
    ),
    column(
        "External-IP",
        "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service.",
        |s| Cell::str(external_ip(s)),
    ),
    column(
        "Port(s)",
        "The list of ports that are exposed by this service. More info: https://kubernetes.io/docs/concepts/services-networking/service/#virtual-ips-and-service-proxies",
        |s| Cell::str(or(&port_list(ports(spec(s))), "<none>")),
    ),
    age(),
    wide(
        "Selector",
        "Route service traffic to pods with label keys and values matching this selector.",
        |s| Cell::str(format_labels(spec(s).selector.iter().flatten())),
    ),
];

const SELECTABLE: &[Selectable<Service>] = &[
    Selectable { path: "spec.clusterIP", value: |s| cluster_ip(spec(s)).to_owned() },
    Selectable { path: "spec.type", value: |s| type_of(spec(s)).to_owned() },
];

const SUBRESOURCES: &[Subresource<Service>] = &[
    Subresource::Connect(crate::kind::Connect {
        name: "proxy",
        gvk: GroupVersionKind::of("", "v1", "ServiceProxyOptions"),
        verbs: &["create", "delete", "get", "patch", "update"],
    }),
    Subresource::Status(StatusAccess {
        prepare: |new, old| new.spec = old.spec.clone(),
        validate: validate::validate_status,
    }),
];

pub static SERVICE: Registered<Service> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "Service"),
    names: Names { plural: "services", singular: "service", short: &["svc"], categories: &["all"] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.Service",
    storage: "services/specs",
    name_rule: NameRule::DnsLabel,
    default,
    validate: Validate { create: validate::validate_create, update: validate::validate_update },
    strategy: Strategy {
        warnings: |new, _| crate::warnings::objects::service(new),
        prepare_create: |s| {
            s.status = Some(empty_status());
            families::normalize(s, None);
        },
        prepare_update: |new, old| {
            new.status = old.status.clone();
            families::keep_allocated(new, old);
            families::normalize(new, Some(old));
            drop_what_the_type_has_not(new, old);
        },
        create_on_update: true,
        ..plain()
    },
    subresources: SUBRESOURCES,
    selectable: SELECTABLE,
    columns: COLUMNS,
});

fn spec(service: &Service) -> &ServiceSpec {
    static EMPTY: LazyLock<ServiceSpec> = LazyLock::new(ServiceSpec::default);
    service.spec.as_ref().unwrap_or(&EMPTY)
}

fn empty_status() -> k8s_openapi::api::core::v1::ServiceStatus {
    k8s_openapi::api::core::v1::ServiceStatus {
        load_balancer: Some(LoadBalancerStatus::default()),
        ..Default::default()
    }
}

fn type_of(spec: &ServiceSpec) -> &str {
    text(spec.type_.as_ref())
}

fn cluster_ip(spec: &ServiceSpec) -> &str {
    text(spec.cluster_ip.as_ref())
}

fn cluster_ips(spec: &ServiceSpec) -> &[String] {
    spec.cluster_ips.as_deref().unwrap_or_default()
}

fn ip_families(spec: &ServiceSpec) -> &[String] {
    spec.ip_families.as_deref().unwrap_or_default()
}

fn ports(spec: &ServiceSpec) -> &[ServicePort] {
    spec.ports.as_deref().unwrap_or_default()
}

fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref())
        .and_then(|l| l.ingress.as_deref())
        .unwrap_or_default()
}

/// No virtual address: DNS answers with the endpoints.
pub fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(cluster_ips(spec), [one] if one == CLUSTER_IP_NONE)
}

fn is_load_balancer(spec: &ServiceSpec) -> bool {
    type_of(spec) == "LoadBalancer"
}

/// Whether a service of this type has a cluster IP (`None` counts).
pub fn needs_cluster_ip(spec: &ServiceSpec) -> bool {
    type_of(spec) != "ExternalName"
}

/// Whether a service of this type may have node ports.
pub fn needs_node_ports(spec: &ServiceSpec) -> bool {
    matches!(type_of(spec), "NodePort" | "LoadBalancer")
}

/// Whether a health check node port belongs to the service.
pub fn needs_health_check_port(spec: &ServiceSpec) -> bool {
    is_load_balancer(spec) && spec.external_traffic_policy.as_deref() == Some("Local")
}

fn externally_accessible(spec: &ServiceSpec) -> bool {
    match type_of(spec) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => spec.external_ips.as_ref().is_some_and(|e| !e.is_empty()),
        _ => false,
    }
}

/// Upstream's `SetDefaults_Service`.
fn default(service: &mut Service) {
    let spec = service.spec.get_or_insert_default();
    let affinity =
        spec.session_affinity.take().filter(|a| !a.is_empty()).unwrap_or_else(|| "None".to_owned());
    match affinity.as_str() {
        "None" => spec.session_affinity_config = None,
        "ClientIP" => {
            let config = spec.session_affinity_config.get_or_insert_default();
            if config.client_ip.as_ref().is_none_or(|c| c.timeout_seconds.is_none()) {
                *config = SessionAffinityConfig {
                    client_ip: Some(ClientIPConfig {
                        timeout_seconds: Some(DEFAULT_CLIENT_IP_AFFINITY_SECONDS),
                    }),
                };
            }
        }
        _ => {}
    }
    spec.session_affinity = Some(affinity);
    if type_of(spec).is_empty() {
        spec.type_ = Some("ClusterIP".to_owned());
    }
    for port in spec.ports.iter_mut().flatten() {
        if text(port.protocol.as_ref()).is_empty() {
            port.protocol = Some("TCP".to_owned());
        }
        let unset = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(s)) => s.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    if externally_accessible(spec) && text(spec.external_traffic_policy.as_ref()).is_empty() {
        spec.external_traffic_policy = Some("Cluster".to_owned());
    }
    if spec.internal_traffic_policy.is_none()
        && matches!(type_of(spec), "NodePort" | "LoadBalancer" | "ClusterIP")
    {
        spec.internal_traffic_policy = Some("Cluster".to_owned());
    }
    let load_balancer = is_load_balancer(spec);
    if load_balancer {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    let status = service.status.get_or_insert_default().load_balancer.get_or_insert_default();
    if load_balancer {
        for ingress in status.ingress.iter_mut().flatten() {
            if !text(ingress.ip.as_ref()).is_empty() {
                ingress.ip_mode.get_or_insert_with(|| "VIP".to_owned());
            }
        }
    }
}

/// On a change of type: clears the fields that the new type has not, that the server may have filled, and
/// that the client left as they were. What the client did change is left for validation to refuse.
fn drop_what_the_type_has_not(new: &mut Service, old: &Service) {
    let was = spec(old);
    let is = new.spec.get_or_insert_default();
    if needs_cluster_ip(was) && !needs_cluster_ip(is) {
        if cluster_ip(is) == cluster_ip(was) && cluster_ips(is) == cluster_ips(was) {
            is.cluster_ip = None;
            is.cluster_ips = None;
        }
        if ip_families(is) == ip_families(was) {
            is.ip_families = None;
        }
        if text(is.ip_family_policy.as_ref()) == text(was.ip_family_policy.as_ref()) {
            is.ip_family_policy = None;
        }
    }
    if needs_node_ports(was) && !needs_node_ports(is) && node_ports(was).is_superset(&node_ports(is)) {
        for port in is.ports.iter_mut().flatten() {
            port.node_port = None;
        }
    }
    if needs_health_check_port(was)
        && !needs_health_check_port(is)
        && was.health_check_node_port.unwrap_or(0) == is.health_check_node_port.unwrap_or(0)
    {
        is.health_check_node_port = None;
    }
    if is_load_balancer(was) && !is_load_balancer(is) {
        if is.allocate_load_balancer_node_ports == was.allocate_load_balancer_node_ports {
            is.allocate_load_balancer_node_ports = None;
        }
        if is.load_balancer_class == was.load_balancer_class {
            is.load_balancer_class = None;
        }
    }
    if externally_accessible(was)
        && !externally_accessible(is)
        && is.external_traffic_policy == was.external_traffic_policy
    {
        is.external_traffic_policy = None;
    }
    if !is_load_balancer(is) {
        new.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus::default());
    }
}

fn node_ports(spec: &ServiceSpec) -> BTreeSet<i32> {
    ports(spec).iter().filter_map(|p| p.node_port).filter(|p| *p != 0).collect()
}

fn external_ip(service: &Service) -> String {
    let spec = spec(service);
    let external = spec.external_ips.as_deref().unwrap_or_default();
    match type_of(spec) {
        "ClusterIP" | "NodePort" if external.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => external.join(","),
        "LoadBalancer" => {
            let mut addresses = load_balancer_addresses(ingress(service));
            if external.is_empty() {
                return if addresses.is_empty() { "<pending>".to_owned() } else { addresses };
            }
            for ip in external {
                if !addresses.is_empty() {
                    addresses.push(',');
                }
                addresses.push_str(ip);
            }
            addresses
        }
        "ExternalName" => text(spec.external_name.as_ref()).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn load_balancer_addresses(ingress: &[LoadBalancerIngress]) -> String {
    let addresses: BTreeSet<&str> = ingress
        .iter()
        .map(|i| or(text(i.ip.as_ref()), text(i.hostname.as_ref())))
        .filter(|a| !a.is_empty())
        .collect();
    let all = addresses.into_iter().collect::<Vec<_>>().join(",");
    shorten(all)
}

/// Cuts a list of addresses to what a table shows.
pub(crate) fn shorten(addresses: String) -> String {
    if addresses.len() <= LOAD_BALANCER_WIDTH {
        return addresses;
    }
    let mut end = LOAD_BALANCER_WIDTH - 3;
    while !addresses.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &addresses[..end])
}

fn port_list(ports: &[ServicePort]) -> String {
    let one = |p: &ServicePort| {
        let protocol = text(p.protocol.as_ref());
        match p.node_port {
            Some(node) if node > 0 => format!("{}:{node}/{protocol}", p.port),
            _ => format!("{}/{protocol}", p.port),
        }
    };
    ports.iter().map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::object;
    use crate::{AnyKind, Object};
    use serde_json::{Value, json};

    fn defaulted(value: Value) -> Service {
        let mut service = object(value);
        default(&mut service);
        service
    }

    #[test]
    fn defaults_as_upstream() {
        let service = defaulted(
            json!({"spec": {"ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}]}}),
        );
        assert_eq!(
            serde_json::to_value(&service).unwrap(),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {},
                "spec": {"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                    "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80},
                              {"port": 53, "protocol": "UDP", "targetPort": "dns"}]},
                "status": {"loadBalancer": {}}})
        );
        let service = defaulted(
            json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]}}),
        );
        let spec = service.spec.unwrap();
        assert_eq!(spec.allocate_load_balancer_node_ports, Some(true));
        assert_eq!(spec.external_traffic_policy.as_deref(), Some("Cluster"));
        let timeout = spec.session_affinity_config.unwrap().client_ip.unwrap().timeout_seconds;
        assert_eq!(timeout, Some(10_800));
    }

    #[test]
    fn a_change_of_type_gives_back_what_was_allocated() {
        let old = defaulted(
            json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"],
            "ports": [{"port": 80, "nodePort": 30080}]}}),
        );
        let mut new = old.clone();
        new.spec.as_mut().unwrap().type_ = Some("ClusterIP".to_owned());
        let mut new: Object = Box::new(new);
        SERVICE.prepare_update(&mut new, &(Box::new(old) as Object), "");
        let spec = new.downcast::<Service>().unwrap().spec.clone().unwrap();
        assert_eq!(spec.ports.unwrap()[0].node_port, None);
        assert_eq!(spec.external_traffic_policy, None);
        assert_eq!(spec.cluster_ip.as_deref(), Some("10.0.0.9"));
    }

    #[test]
    fn the_table_row() {
        let cells = |value| {
            let object: Object = Box::new(defaulted(value));
            SERVICE
                .cells(&object)
                .into_iter()
                .filter_map(|c| if let Cell::Value(v) = c { Some(v) } else { None })
                .collect::<Vec<_>>()
        };
        assert_eq!(
            cells(json!({"spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "type": "NodePort",
                "selector": {"app": "demo"}, "ports": [{"port": 80, "nodePort": 30080}, {"port": 443}]}})),
            ["NodePort", "10.0.0.1", "<none>", "80:30080/TCP,443/TCP", "app=demo"]
        );
        assert_eq!(
            cells(json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
                "status": {"loadBalancer": {"ingress": [{"hostname": "a-long-name.example.com"}]}}})),
            ["LoadBalancer", "<none>", "a-long-name.e...", "80/TCP", "<none>"]
        );
        assert_eq!(
            cells(json!({"spec": {"type": "ExternalName", "externalName": "example.com"}})),
            ["ExternalName", "<none>", "example.com", "<none>", "<none>"]
        );
    }
}
