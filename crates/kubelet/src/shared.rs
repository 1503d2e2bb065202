//! What all pods of a kubelet share.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Informer, Recorder};
use cri::RuntimeApi;
use k8s_openapi::api::core::v1::{Node as ApiNode, ObjectReference, Pod, Service};
use kube::Client;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::container_config::Node;
use crate::eviction::Pressure;
use crate::housekeeping::ImageGc;
use crate::images::{ImageEvent, Images};
use crate::metrics::Metrics;
use crate::sync::ContainerKind;
use crate::tokens::Tokens;
use crate::watched::Watched;

/// The kubelet's connections and facts. Cheap to share, never locked across a wait.
pub struct Shared {
    pub config: Config,
    pub client: Client,
    pub runtime: Arc<dyn RuntimeApi>,
    pub images: Images,
    pub recorder: Recorder,
    pub watched: Watched,
    pub tokens: Tokens,
    pub services: Informer<Service>,
    pub node: Node,
    /// `containerd`, the prefix of container ids.
    pub runtime_name: String,
    /// The node as the API has it, once it is known.
    pub api_node: RwLock<Option<Arc<ApiNode>>>,
    pub cgroups: Arc<dyn PodCgroups>,
    pub metrics: Metrics,
    pub image_gc: ImageGc,
    /// What the node is short of.
    pub pressure: Arc<Pressure>,
    /// The node's status is to be written before its time.
    pub node_changed: tokio::sync::Notify,
    pub started: std::time::Instant,
    /// The end of this kubelet: its pods' actors end with it, their containers do not.
    pub stop: CancellationToken,
}

/// The cgroups that pods run in.
pub trait PodCgroups: Send + Sync + 'static {
    /// Makes the pod's cgroup and sets its limits; returns the cgroup parent for the runtime.
    ///
    /// # Errors
    /// What the kernel says.
    fn ensure(&self, pod: &Pod) -> std::io::Result<String>;
    /// The cgroup parent without touching anything.
    fn parent(&self, pod: &Pod) -> String;
    /// Removes the cgroup of a pod that has ended.
    ///
    /// # Errors
    /// What the kernel says, for instance that a process is left.
    fn remove(&self, pod: &Pod) -> std::io::Result<()>;
    /// Gives the burstable pods together what they request of the CPU.
    ///
    /// # Errors
    /// What the kernel says.
    fn share(&self, pods: &[&Pod]) -> std::io::Result<()>;
}

/// No cgroups of our own: the runtime uses its default parent.
pub struct NoCgroups;

impl PodCgroups for NoCgroups {
    fn ensure(&self, _: &Pod) -> std::io::Result<String> {
        Ok(String::new())
    }

    fn parent(&self, _: &Pod) -> String {
        String::new()
    }

    fn remove(&self, _: &Pod) -> std::io::Result<()> {
        Ok(())
    }

    fn share(&self, _: &[&Pod]) -> std::io::Result<()> {
        Ok(())
    }
}

impl Shared {
    /// What the node has for pods, by resource.
    pub fn allocatable(&self) -> BTreeMap<String, String> {
        let node = self.api_node.read();
        let status = node.as_ref().and_then(|n| n.status.as_ref());
        let list = status.and_then(|s| s.allocatable.as_ref());
        list.into_iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
    }

    /// Records an event about a pod, or about one of its containers.
    pub fn event(
        &self,
        pod: &Pod,
        container: Option<(ContainerKind, &str)>,
        warning: bool,
        reason: &str,
        message: impl Into<String>,
    ) {
        let about = reference(pod, container);
        self.recorder.event(&about, if warning { "Warning" } else { "Normal" }, reason, message);
    }

    /// Records an event about an image that a container needs.
    pub fn image_event(&self, pod: &Pod, container: (ContainerKind, &str), event: ImageEvent) {
        self.event(pod, Some(container), event.warning, event.reason, event.message);
    }
}

/// The object of events about a pod or, with a field path, about one of its containers.
fn reference(pod: &Pod, container: Option<(ContainerKind, &str)>) -> ObjectReference {
    let field_path = container.map(|(kind, name)| {
        let list = match kind {
            ContainerKind::Init => "initContainers",
            ContainerKind::Regular => "containers",
            ContainerKind::Ephemeral => "ephemeralContainers",
        };
        format!("spec.{list}{{{name}}}")
    });
    ObjectReference { field_path, ..client::events::reference(pod) }
}
