//! Services: their number, their load balancers and their node ports.

use super::{Usage, one, units};
use k8s_openapi::api::core::v1::Service;
use meta::Quantity;

/// Whether a quota may limit it by this name.
pub fn tracks(name: &str) -> bool {
    matches!(name, "count/services" | "services" | "services.nodeports" | "services.loadbalancers")
}

/// The type, where it uses more than a cluster IP.
pub fn counted_type(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    spec.type_.as_deref().filter(|t| matches!(*t, "NodePort" | "LoadBalancer"))
}

/// Ports are counted by intent: they are charged before they are allocated.
pub fn usage(service: &Service) -> Usage {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let allocates = service.spec.as_ref().and_then(|s| s.allocate_load_balancer_node_ports) != Some(false);
    let explicit = || ports.iter().filter(|p| p.node_port.is_some_and(|n| n != 0)).count();
    let (node_ports, balancers) = match counted_type(service) {
        Some("NodePort") => (units(ports.len()), Quantity::ZERO),
        Some(_) => (units(if allocates { ports.len() } else { explicit() }), one()),
        None => (Quantity::ZERO, Quantity::ZERO),
    };
    Usage::from([
        ("count/services".to_owned(), one()),
        ("services".to_owned(), one()),
        ("services.nodeports".to_owned(), node_ports),
        ("services.loadbalancers".to_owned(), balancers),
    ])
}
