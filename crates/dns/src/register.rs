//! The DNS service at its usual address, with this server behind it.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Field manager of what is applied here.
const MANAGER: &str = "ironclad";
/// The name the DNS service has had since kube-dns.
const SERVICE: &str = "kube-dns";
const NAMESPACE: &str = "kube-system";
/// Waits between attempts.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Where pods ask, and where what they ask comes to.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Address of the DNS service: 10.96.0.10.
    pub service_ip: Ipv4Addr,
    /// The node this server runs on.
    pub node: String,
    pub node_ip: IpAddr,
    /// Port of this server, UDP and TCP.
    pub port: u16,
}

impl Registration {
    /// Applies the service and this server's slice of it, as often as it takes.
    pub async fn apply(&self, client: &kube::Client) {
        let mut wait = FIRST_WAIT;
        while let Err(error) = self.try_apply(client).await {
            tracing::warn!(%error, retry_in = ?wait, "the DNS service {NAMESPACE}/{SERVICE} cannot be applied");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn try_apply(&self, client: &kube::Client) -> kube::Result<()> {
        let apply = PatchParams::apply(MANAGER).force();
        Api::<Service>::namespaced(client.clone(), NAMESPACE)
            .patch(SERVICE, &apply, &Patch::Apply(self.service()))
            .await?;
        Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE)
            .patch(&self.slice_name(), &apply, &Patch::Apply(self.slice()))
            .await?;
        Ok(())
    }

    fn service(&self) -> Value {
        let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": 53, "targetPort": 53});
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": NAMESPACE, "labels": {
                "k8s-app": SERVICE, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
            }},
            "spec": {"clusterIP": self.service_ip, "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")]},
        })
    }

    fn slice_name(&self) -> String {
        format!("{SERVICE}-{}", self.node)
    }

    /// Without a selector no controller writes slices: this one is ours.
    fn slice(&self) -> Value {
        let port =
            |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": self.port});
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": self.slice_name(), "namespace": NAMESPACE, "labels": {
                "kubernetes.io/service-name": SERVICE,
                "endpointslice.kubernetes.io/managed-by": MANAGER,
            }},
            "addressType": if self.node_ip.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": [self.node_ip], "conditions": {"ready": true}, "nodeName": self.node}],
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        })
    }
}
