//! Objects of the cluster's own add-ons, applied at start: the DNS service and what its server may read.

use anyhow::Context;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr};

/// Field manager of what we apply.
const MANAGER: &str = "ironclad";
/// Name the DNS service has had since kube-dns.
const DNS: &str = "kube-dns";

/// User and groups the DNS server acts as: CoreDNS' service account, with the rights CoreDNS asks for.
pub const DNS_USER: &str = "system:serviceaccount:kube-system:coredns";
pub const DNS_GROUPS: [&str; 2] = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
const DNS_ROLE: &str = "system:coredns";

/// Lets the DNS server read what it answers from.
pub async fn allow_dns(client: kube::Client) -> anyhow::Result<()> {
    let labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": DNS_ROLE, "labels": labels},
        "rules": [
            {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": DNS_ROLE, "labels": labels},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": DNS_ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
    });
    let apply = PatchParams::apply(MANAGER).force();
    Api::<ClusterRole>::all(client.clone())
        .patch(DNS_ROLE, &apply, &Patch::Apply(&role))
        .await
        .context("the role of the DNS server")?;
    Api::<ClusterRoleBinding>::all(client)
        .patch(DNS_ROLE, &apply, &Patch::Apply(&binding))
        .await
        .context("the role of the DNS server")?;
    Ok(())
}

/// The DNS service at its usual address, with this node's server behind it.
pub async fn apply_dns(
    client: kube::Client,
    address: Ipv4Addr,
    node: &str,
    node_ip: IpAddr,
    port: u16,
) -> anyhow::Result<()> {
    let labels =
        json!({"k8s-app": DNS, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
    let ports = |number: u16, target: bool| {
        let one = |name: &str, protocol: &str| {
            let mut port = json!({"name": name, "protocol": protocol, "port": number});
            if target {
                port["targetPort"] = 53.into();
            }
            port
        };
        json!([one("dns", "UDP"), one("dns-tcp", "TCP")])
    };
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": DNS, "namespace": "kube-system", "labels": labels},
        "spec": {"clusterIP": address, "ports": ports(53, true)},
    });
    // without a selector no controller writes slices: this one is ours
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{DNS}-{node}"), "namespace": "kube-system",
            "labels": {
                "kubernetes.io/service-name": DNS,
                "endpointslice.kubernetes.io/managed-by": MANAGER,
            },
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [node_ip], "conditions": {"ready": true}, "nodeName": node}],
        "ports": ports(port, false),
    });
    let apply = PatchParams::apply(MANAGER).force();
    Api::<Service>::namespaced(client.clone(), "kube-system")
        .patch(DNS, &apply, &Patch::Apply(&service))
        .await
        .context("the DNS service")?;
    Api::<EndpointSlice>::namespaced(client, "kube-system")
        .patch(&format!("{DNS}-{node}"), &apply, &Patch::Apply(&slice))
        .await
        .context("the DNS service's endpoints")?;
    Ok(())
}
