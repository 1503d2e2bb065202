//! CRI v1 over a unix socket.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{self as pb};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::api::{EventStream, ImageApi, RuntimeApi};
use crate::{Error, Result, events};

/// Bound of an ordinary call: the kubelet's `runtimeRequestTimeout`.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// Bound of a pull: a registry may be slow, but a pull that hangs must end.
pub const PULL_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// What `StopContainer` may take beyond the container's own grace period.
pub const STOP_GRACE: Duration = DEFAULT_REQUEST_TIMEOUT;
/// What `ExecSync` may take beyond the command's own bound.
pub const EXEC_SYNC_GRACE: Duration = DEFAULT_REQUEST_TIMEOUT;
/// The largest message taken from the runtime, upstream's `maxMsgSize`.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Bound of connecting to the socket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The runtime behind a unix socket. Cheap to clone; connects on the first call and again whenever
/// the connection is lost.
#[derive(Clone, Debug)]
pub struct Runtime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
    timeout: Duration,
}

impl Runtime {
    /// A client of the runtime at `endpoint`: a path or `unix://` and a path, the form of the
    /// kubelet's `--container-runtime-endpoint`. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// `InvalidArgument` if the endpoint is neither.
    pub fn new(endpoint: &str) -> Result<Self> {
        Self::with_timeout(endpoint, DEFAULT_REQUEST_TIMEOUT)
    }

    /// As [`Runtime::new`], with another bound for ordinary calls.
    ///
    /// # Errors
    /// `InvalidArgument` if the endpoint is not a unix socket.
    pub fn with_timeout(endpoint: &str, timeout: Duration) -> Result<Self> {
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        if !Path::new(path).is_absolute() {
            let message = format!(
                "container runtime endpoint {endpoint:?} is not a unix socket: expected unix:///path"
            );
            return Err(Error::InvalidArgument { message });
        }
        let channel = Endpoint::from_shared(format!("unix://{path}"))
            .map_err(|e| Error::InvalidArgument {
                message: format!("container runtime endpoint {endpoint:?}: {e}"),
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .connect_lazy();
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            channel,
            timeout,
        })
    }

    async fn call<R, F>(
        &self,
        name: &'static str,
        make: impl FnOnce(RuntimeServiceClient<Channel>) -> F,
    ) -> Result<R>
    where
        F: Future<Output = std::result::Result<Response<R>, Status>>,
    {
        bounded(name, Some(self.timeout), make(self.runtime.clone())).await
    }
}

/// Awaits one call within `limit`; dropping it cancels the call at the runtime.
async fn bounded<R>(
    call: &'static str,
    limit: Option<Duration>,
    future: impl Future<Output = std::result::Result<Response<R>, Status>>,
) -> Result<R> {
    let answer = match limit {
        Some(after) => {
            tokio::time::timeout(after, future).await.map_err(|_| Error::DeadlineExceeded { call, after })?
        }
        None => future.await,
    };
    answer.map(Response::into_inner).map_err(|status| Error::from_status(call, limit, &status))
}

fn missing(what: &str) -> Error {
    Error::Other { code: "Internal", message: format!("the runtime answered without {what}") }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

#[async_trait]
impl RuntimeApi for Runtime {
    async fn version(&self) -> Result<pb::VersionResponse> {
        // the argument is the kubelet's own API version, upstream always says "0.1.0"
        let request = pb::VersionRequest { version: "0.1.0".into() };
        self.call("Version", |mut c| async move { c.version(request).await }).await
    }

    async fn status(&self, verbose: bool) -> Result<pb::StatusResponse> {
        self.call("Status", |mut c| async move { c.status(pb::StatusRequest { verbose }).await }).await
    }

    async fn update_runtime_config(&self, pod_cidr: &str) -> Result<()> {
        let network_config = Some(pb::NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let request =
            pb::UpdateRuntimeConfigRequest { runtime_config: Some(pb::RuntimeConfig { network_config }) };
        self.call("UpdateRuntimeConfig", |mut c| async move { c.update_runtime_config(request).await })
            .await?;
        Ok(())
    }

    async fn run_pod_sandbox(&self, config: pb::PodSandboxConfig, runtime_handler: &str) -> Result<String> {
        let request =
            pb::RunPodSandboxRequest { config: Some(config), runtime_handler: runtime_handler.to_owned() };
        let mut client = self.runtime.clone();
        // twice the ordinary bound, as upstream: the network plugin takes part
        let answer =
            bounded("RunPodSandbox", Some(self.timeout * 2), client.run_pod_sandbox(request)).await?;
        if answer.pod_sandbox_id.is_empty() {
            return Err(missing("a sandbox id"));
        }
        Ok(answer.pod_sandbox_id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = pb::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call("StopPodSandbox", |mut c| async move { c.stop_pod_sandbox(request).await }).await?;
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = pb::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call("RemovePodSandbox", |mut c| async move { c.remove_pod_sandbox(request).await }).await?;
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<pb::PodSandboxStatus> {
        let request = pb::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer =
            self.call("PodSandboxStatus", |mut c| async move { c.pod_sandbox_status(request).await }).await?;
        answer.status.ok_or_else(|| missing("a sandbox status"))
    }

    async fn list_pod_sandboxes(&self, filter: Option<pb::PodSandboxFilter>) -> Result<Vec<pb::PodSandbox>> {
        let request = pb::ListPodSandboxRequest { filter };
        Ok(self.call("ListPodSandbox", |mut c| async move { c.list_pod_sandbox(request).await }).await?.items)
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: pb::ContainerConfig,
        sandbox: pb::PodSandboxConfig,
    ) -> Result<String> {
        let request = pb::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox),
        };
        let answer =
            self.call("CreateContainer", |mut c| async move { c.create_container(request).await }).await?;
        if answer.container_id.is_empty() {
            return Err(missing("a container id"));
        }
        Ok(answer.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let request = pb::StartContainerRequest { container_id: id.to_owned() };
        self.call("StartContainer", |mut c| async move { c.start_container(request).await }).await?;
        Ok(())
    }

    async fn stop_container(&self, id: &str, timeout_seconds: i64) -> Result<()> {
        let request = pb::StopContainerRequest { container_id: id.to_owned(), timeout: timeout_seconds };
        let mut client = self.runtime.clone();
        let limit = STOP_GRACE + seconds(timeout_seconds);
        bounded("StopContainer", Some(limit), client.stop_container(request)).await?;
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let request = pb::RemoveContainerRequest { container_id: id.to_owned() };
        self.call("RemoveContainer", |mut c| async move { c.remove_container(request).await }).await?;
        Ok(())
    }

    async fn list_containers(&self, filter: Option<pb::ContainerFilter>) -> Result<Vec<pb::Container>> {
        let request = pb::ListContainersRequest { filter };
        Ok(self
            .call("ListContainers", |mut c| async move { c.list_containers(request).await })
            .await?
            .containers)
    }

    async fn container_status(&self, id: &str) -> Result<pb::ContainerStatus> {
        let request = pb::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer =
            self.call("ContainerStatus", |mut c| async move { c.container_status(request).await }).await?;
        answer.status.ok_or_else(|| missing("a container status"))
    }

    async fn update_container_resources(
        &self,
        id: &str,
        resources: pb::LinuxContainerResources,
    ) -> Result<()> {
        let request = pb::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            ..Default::default()
        };
        self.call(
            "UpdateContainerResources",
            |mut c| async move { c.update_container_resources(request).await },
        )
        .await?;
        Ok(())
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let request = pb::ReopenContainerLogRequest { container_id: id.to_owned() };
        self.call("ReopenContainerLog", |mut c| async move { c.reopen_container_log(request).await }).await?;
        Ok(())
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout_seconds: i64,
    ) -> Result<pb::ExecSyncResponse> {
        let request = pb::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: timeout_seconds,
        };
        let mut client = self.runtime.clone();
        let limit = (timeout_seconds > 0).then(|| EXEC_SYNC_GRACE + seconds(timeout_seconds));
        bounded("ExecSync", limit, client.exec_sync(request)).await
    }

    async fn exec(&self, request: pb::ExecRequest) -> Result<String> {
        let url = self.call("Exec", |mut c| async move { c.exec(request).await }).await?.url;
        if url.is_empty() { Err(missing("a URL")) } else { Ok(url) }
    }

    async fn attach(&self, request: pb::AttachRequest) -> Result<String> {
        let url = self.call("Attach", |mut c| async move { c.attach(request).await }).await?.url;
        if url.is_empty() { Err(missing("a URL")) } else { Ok(url) }
    }

    async fn port_forward(&self, sandbox_id: &str, ports: &[i32]) -> Result<String> {
        let request = pb::PortForwardRequest { pod_sandbox_id: sandbox_id.to_owned(), port: ports.to_vec() };
        let url = self.call("PortForward", |mut c| async move { c.port_forward(request).await }).await?.url;
        if url.is_empty() { Err(missing("a URL")) } else { Ok(url) }
    }

    async fn container_stats(&self, id: &str) -> Result<pb::ContainerStats> {
        let request = pb::ContainerStatsRequest { container_id: id.to_owned() };
        let answer =
            self.call("ContainerStats", |mut c| async move { c.container_stats(request).await }).await?;
        answer.stats.ok_or_else(|| missing("container stats"))
    }

    async fn list_container_stats(
        &self,
        filter: Option<pb::ContainerStatsFilter>,
    ) -> Result<Vec<pb::ContainerStats>> {
        let request = pb::ListContainerStatsRequest { filter };
        Ok(self
            .call("ListContainerStats", |mut c| async move { c.list_container_stats(request).await })
            .await?
            .stats)
    }

    async fn events(&self) -> Result<EventStream> {
        match bounded(
            "GetContainerEvents",
            Some(self.timeout),
            self.runtime.clone().get_container_events(Request::new(pb::GetEventsRequest {})),
        )
        .await
        {
            Ok(stream) => Ok(events::from_cri(stream)),
            // containerd 1.6: no CRI events, but its own event service says the same
            Err(Error::Unimplemented { .. }) => {
                events::from_containerd(self.channel.clone(), self.clone()).await
            }
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl ImageApi for Runtime {
    async fn list_images(&self) -> Result<Vec<pb::Image>> {
        let mut client = self.images.clone();
        let request = pb::ListImagesRequest { filter: None };
        Ok(bounded("ListImages", Some(self.timeout), client.list_images(request)).await?.images)
    }

    async fn image_status(&self, image: pb::ImageSpec) -> Result<Option<pb::Image>> {
        let mut client = self.images.clone();
        let request = pb::ImageStatusRequest { image: Some(image), verbose: false };
        Ok(bounded("ImageStatus", Some(self.timeout), client.image_status(request)).await?.image)
    }

    async fn pull_image(
        &self,
        image: pb::ImageSpec,
        auth: Option<pb::AuthConfig>,
        sandbox: Option<pb::PodSandboxConfig>,
    ) -> Result<String> {
        let mut client = self.images.clone();
        let request = pb::PullImageRequest { image: Some(image), auth, sandbox_config: sandbox };
        let reference = bounded("PullImage", Some(PULL_TIMEOUT), client.pull_image(request)).await?.image_ref;
        if reference.is_empty() { Err(missing("an image reference")) } else { Ok(reference) }
    }

    async fn remove_image(&self, image: pb::ImageSpec) -> Result<()> {
        let mut client = self.images.clone();
        let request = pb::RemoveImageRequest { image: Some(image) };
        bounded("RemoveImage", Some(self.timeout), client.remove_image(request)).await?;
        Ok(())
    }

    async fn image_fs_info(&self) -> Result<pb::ImageFsInfoResponse> {
        let mut client = self.images.clone();
        bounded("ImageFsInfo", Some(self.timeout), client.image_fs_info(pb::ImageFsInfoRequest {})).await
    }
}
