//! The node object: registered at the start, its status kept, its lease renewed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeStatus, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::node_status;
use crate::shared::Shared;

/// The namespace of node leases.
const LEASES: &str = "kube-node-lease";
/// Pause after a failed registration, doubling up to the limit.
const RETRY: Duration = Duration::from_millis(200);
const MAX_RETRY: Duration = Duration::from_secs(7);
/// How often the status is computed; it is written only if it changed.
const STATUS_PERIOD: Duration = Duration::from_secs(10);
/// ... and while the node is not ready.
const UNREADY_PERIOD: Duration = Duration::from_millis(500);

/// Where the node's status comes from.
pub trait StatusSource: Send + Sync + 'static {
    /// The status now, and what to say about it. `previous` is what the API has, for times of transition.
    fn report(&self, previous: &NodeStatus, now: meta::Time) -> BoxFuture<'_, node_status::Report>;
}

/// The node as it registers itself.
pub fn initial_node(config: &Config, status: NodeStatus) -> Node {
    let mut labels: BTreeMap<String, String> = config.node_labels.iter().cloned().collect();
    let arch = cri::image::architecture();
    for (key, value) in [
        (meta::labels::HOSTNAME, config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ] {
        labels.insert(key.into(), value.into());
    }
    let mut node = Node::default();
    node.metadata.name = Some(config.node_name.clone());
    node.metadata.labels = Some(labels);
    node.metadata.annotations =
        Some([("volumes.kubernetes.io/controller-managed-attach-detach".into(), "true".into())].into());
    let mut spec = k8s_openapi::api::core::v1::NodeSpec::default();
    if !config.register_with_taints.is_empty() {
        spec.taints = Some(config.register_with_taints.clone());
    }
    spec.provider_id.clone_from(&config.provider_id);
    node.spec = Some(spec);
    node.status = Some(status);
    node
}

/// Registers the node, or brings the labels of the one that is there up to date; tries until it works.
/// `None` if told to stop.
pub async fn register(client: &Client, node: &Node, shutdown: &CancellationToken) -> Option<Node> {
    let mut pause = RETRY;
    loop {
        match try_register(client, node).await {
            Ok(node) => return Some(node),
            Err(e) => tracing::warn!(error = %e, "the node cannot be registered yet"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(MAX_RETRY),
        }
    }
}

async fn try_register(client: &Client, node: &Node) -> Result<Node, kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    match nodes.create(&PostParams::default(), node).await {
        Ok(node) => return Ok(node),
        Err(e) if client::is_already_exists(&e) => {}
        Err(e) => return Err(e),
    }
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let existing = nodes.get(name).await?;
    let labels = existing.metadata.labels.clone().unwrap_or_default();
    let wanted = node.metadata.labels.clone().unwrap_or_default();
    let missing: BTreeMap<_, _> = wanted.into_iter().filter(|(k, v)| labels.get(k) != Some(v)).collect();
    if missing.is_empty() {
        return Ok(existing);
    }
    let patch = json!({"metadata": {"labels": missing}});
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
}

/// Keeps the node's status written: at once when it changes, and now and then in any case.
pub async fn keep_status(shared: Arc<Shared>, source: Arc<dyn StatusSource>, shutdown: CancellationToken) {
    let nodes: Api<Node> = Api::all(shared.client.clone());
    let name = shared.config.node_name.clone();
    let mut written: Option<tokio::time::Instant> = None;
    loop {
        let known = shared.api_node.read().clone();
        let previous = known.as_ref().and_then(|n| n.status.clone()).unwrap_or_default();
        let report = source.report(&previous, client::now()).await;
        let due = written.is_none_or(|at| at.elapsed() >= shared.config.node_status_report_frequency);
        if due || node_status::differs(&previous, &report.status) {
            let patch = Patch::Strategic(status_patch(&previous, &report.status));
            match nodes.patch_status(&name, &PatchParams::default(), &patch).await {
                Ok(node) => {
                    tell(&shared, &node, &report);
                    *shared.api_node.write() = Some(Arc::new(node));
                    written = Some(tokio::time::Instant::now());
                }
                Err(e) => tracing::warn!(error = %e, "the node's status cannot be written"),
            }
        }
        let conditions = report.status.conditions.as_deref().unwrap_or_default();
        let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = shared.node_changed.notified() => {}
            () = tokio::time::sleep(if ready { STATUS_PERIOD } else { UNREADY_PERIOD }) => {}
        }
    }
}

/// The node as events name it. Upstream's kubelet gives the node's name as its uid there, and `kubectl describe
/// node` looks for that.
pub(crate) fn reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        name: Some(name.to_owned()),
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

/// Events about the node itself.
fn tell(shared: &Shared, node: &Node, report: &node_status::Report) {
    let name = node.metadata.name.clone().unwrap_or_default();
    let about = reference(&name);
    for reason in &report.events {
        shared.recorder.normal(&about, reason, format!("Node {name} status is now: {reason}"));
    }
    if let Some(boot_id) = &report.rebooted {
        shared.recorder.warning(
            &about,
            "Rebooted",
            format!("Node {name} has been rebooted, boot id: {boot_id}"),
        );
    }
}

/// The whole status; conditions of others stay, because conditions are merged by type. Addresses are
/// replaced.
fn status_patch(old: &NodeStatus, new: &NodeStatus) -> Value {
    let mut status = serde_json::to_value(new).unwrap_or_default();
    let replaces = old.addresses.as_ref().is_some_and(|a| !a.is_empty());
    if let Some(addresses) = status.get_mut("addresses").and_then(Value::as_array_mut).filter(|_| replaces) {
        addresses.push(json!({"$patch": "replace"}));
    }
    json!({"status": status})
}

/// Renews the node's lease at a quarter of its duration.
pub async fn keep_lease(client: Client, config: Config, node_uid: String, shutdown: CancellationToken) {
    let leases: Api<Lease> = Api::namespaced(client, LEASES);
    let seconds = i32::try_from(config.lease_duration.as_secs()).unwrap_or(40);
    let period = config.lease_duration / 4;
    let mut lease: Option<Lease> = None;
    let mut pause = RETRY;
    loop {
        let result = renew(&leases, &config.node_name, &node_uid, seconds, lease.take()).await;
        let wait = match result {
            Ok(renewed) => {
                lease = Some(renewed);
                pause = RETRY;
                period
            }
            Err(e) => {
                tracing::warn!(error = %e, "the node's lease cannot be renewed");
                let wait = pause;
                pause = (pause * 2).min(MAX_RETRY);
                wait
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn renew(
    leases: &Api<Lease>,
    name: &str,
    node_uid: &str,
    seconds: i32,
    lease: Option<Lease>,
) -> Result<Lease, kube::Error> {
    let now = Some(MicroTime(client::now()));
    let existing = match lease {
        Some(lease) => Some(lease),
        None => leases.get_opt(name).await?,
    };
    let holder = Some(name.to_owned());
    let Some(mut lease) = existing else {
        let mut lease = Lease::default();
        lease.metadata.name = Some(name.to_owned());
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.to_owned(),
            uid: node_uid.to_owned(),
            ..OwnerReference::default()
        }]);
        lease.spec = Some(LeaseSpec {
            holder_identity: holder,
            lease_duration_seconds: Some(seconds),
            renew_time: now,
            ..LeaseSpec::default()
        });
        return leases.create(&PostParams::default(), &lease).await;
    };
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = holder;
    spec.lease_duration_seconds = Some(seconds);
    spec.renew_time = now;
    leases.replace(name, &PostParams::default(), &lease).await
}
