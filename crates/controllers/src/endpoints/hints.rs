//! For whom an endpoint is near.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForNode, ForZone};

const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const TOPOLOGY_AWARE_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const PREFER_CLOSE: &str = "PreferClose";
const PREFER_SAME_ZONE: &str = "PreferSameZone";
const PREFER_SAME_NODE: &str = "PreferSameNode";

/// How near a service's clients want their endpoints (`trafficDistribution`, KEP-3015); None where they do not mind, or
/// the service asks in the older way by annotation.
pub(super) fn distribution(service: &Service) -> Option<&str> {
    let annotated =
        |name| service.metadata.annotations.as_ref().and_then(|a| a.get(name)).map(String::as_str);
    let by_annotation = annotated(TOPOLOGY_AWARE_HINTS).or_else(|| annotated(TOPOLOGY_MODE));
    if matches!(by_annotation, Some("Auto" | "auto")) {
        return None;
    }
    let wanted = service.spec.as_ref()?.traffic_distribution.as_deref();
    wanted.filter(|d| matches!(*d, PREFER_CLOSE | PREFER_SAME_ZONE | PREFER_SAME_NODE))
}

/// For whom a proxy should use an endpoint, where others are as good: those in its zone, or on its node.
pub(super) fn hints(distribution: Option<&str>, endpoint: &Endpoint) -> Option<EndpointHints> {
    let ready = endpoint.conditions.as_ref().is_some_and(|c| c.ready == Some(true));
    let distribution = distribution.filter(|_| ready)?;
    let node = endpoint.node_name.clone().filter(|_| distribution == PREFER_SAME_NODE);
    let for_zones = endpoint.zone.clone().map(|name| vec![ForZone { name }]);
    let for_nodes = node.map(|name| vec![ForNode { name }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}
