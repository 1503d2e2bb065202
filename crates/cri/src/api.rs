//! The Container Runtime Interface as the kubelet uses it.

use async_trait::async_trait;
use futures::stream::BoxStream;
use k8s_cri::v1::{
    AttachRequest, AuthConfig, Container, ContainerConfig, ContainerFilter, ContainerStats,
    ContainerStatsFilter, ContainerStatus, ExecRequest, ExecSyncResponse, Image, ImageFsInfoResponse,
    ImageSpec, LinuxContainerResources, PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStatus,
    StatusResponse, VersionResponse,
};

use crate::{ContainerEvent, Result};

/// Container events as they happen. It ends with an error when the runtime goes away; whoever reads
/// it lists everything again and subscribes anew.
pub type EventStream = BoxStream<'static, Result<ContainerEvent>>;

/// Sandboxes and containers. Every call is bounded in time and may be repeated.
#[async_trait]
pub trait RuntimeApi: Send + Sync + 'static {
    /// The runtime's name and version.
    async fn version(&self) -> Result<VersionResponse>;
    /// The conditions `RuntimeReady` and `NetworkReady`; `verbose` adds the runtime's configuration.
    async fn status(&self, verbose: bool) -> Result<StatusResponse>;
    /// Tells the runtime the node's pod CIDR.
    async fn update_runtime_config(&self, pod_cidr: &str) -> Result<()>;

    /// Creates and starts a sandbox; returns its id. An empty handler is the default one.
    async fn run_pod_sandbox(&self, config: PodSandboxConfig, runtime_handler: &str) -> Result<String>;
    /// Stops the sandbox, its containers and its network. Succeeds also when it is stopped or gone.
    async fn stop_pod_sandbox(&self, id: &str) -> Result<()>;
    /// Removes the sandbox and all its containers, by force. Succeeds also when it is gone.
    async fn remove_pod_sandbox(&self, id: &str) -> Result<()>;
    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus>;
    async fn list_pod_sandboxes(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>>;

    /// Creates a container in a sandbox; returns its id.
    async fn create_container(
        &self,
        sandbox_id: &str,
        config: ContainerConfig,
        sandbox: PodSandboxConfig,
    ) -> Result<String>;
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Sends the stop signal and, after `timeout_seconds`, SIGKILL; returns when the container ended.
    async fn stop_container(&self, id: &str, timeout_seconds: i64) -> Result<()>;
    /// Removes a container, running or not. Succeeds also when it is gone.
    async fn remove_container(&self, id: &str) -> Result<()>;
    async fn list_containers(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>>;
    async fn container_status(&self, id: &str) -> Result<ContainerStatus>;
    async fn update_container_resources(&self, id: &str, resources: LinuxContainerResources) -> Result<()>;
    /// Tells the runtime that the log file was moved away, so that it opens a new one.
    async fn reopen_container_log(&self, id: &str) -> Result<()>;

    /// Runs a command to its end and returns its output; `timeout_seconds` 0 means no bound.
    async fn exec_sync(&self, id: &str, command: &[String], timeout_seconds: i64)
    -> Result<ExecSyncResponse>;
    /// Prepares an exec; returns the URL of the stream server where it takes place.
    async fn exec(&self, request: ExecRequest) -> Result<String>;
    /// Prepares an attach; returns the URL of the stream server where it takes place.
    async fn attach(&self, request: AttachRequest) -> Result<String>;
    /// Prepares port forwarding into a sandbox; returns the URL of the stream server.
    async fn port_forward(&self, sandbox_id: &str, ports: &[i32]) -> Result<String>;

    async fn container_stats(&self, id: &str) -> Result<ContainerStats>;
    async fn list_container_stats(&self, filter: Option<ContainerStatsFilter>)
    -> Result<Vec<ContainerStats>>;

    /// Subscribes to container events. What a delivered event says, the other calls already show.
    async fn events(&self) -> Result<EventStream>;
}

/// Images of the runtime.
#[async_trait]
pub trait ImageApi: Send + Sync + 'static {
    async fn list_images(&self) -> Result<Vec<Image>>;
    /// The image, or `None` if it is not on this node.
    async fn image_status(&self, image: ImageSpec) -> Result<Option<Image>>;
    /// Pulls an image; returns its reference, by digest.
    async fn pull_image(
        &self,
        image: ImageSpec,
        auth: Option<AuthConfig>,
        sandbox: Option<PodSandboxConfig>,
    ) -> Result<String>;
    /// Removes an image. Succeeds also when it is gone.
    async fn remove_image(&self, image: ImageSpec) -> Result<()>;
    /// Usage of the file systems that hold images and containers.
    async fn image_fs_info(&self) -> Result<ImageFsInfoResponse>;
}
