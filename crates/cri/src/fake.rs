//! A container runtime in memory, for the tests of whatever stands on [`RuntimeApi`].
//!
//! Containers run when started and end when stopped or when the test says so. Every call is
//! recorded; a test can make the next call of a name fail.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use k8s_cri::v1 as pb;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::api::{EventStream, ImageApi, RuntimeApi};
use crate::{ContainerEvent, ContainerEventKind, Error, Result};

/// How many events a slow reader may lag behind.
const EVENT_BUFFER: usize = 1024;
/// The exit code of a process that SIGTERM ended.
const SIGTERM_EXIT_CODE: i32 = 143;

/// The runtime; clones share their state.
#[derive(Clone, Debug)]
pub struct FakeRuntime {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<ContainerEvent>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    now_ns: i64,
    calls: Vec<String>,
    failures: BTreeMap<String, VecDeque<Error>>,
    sandboxes: BTreeMap<String, pb::PodSandboxStatus>,
    containers: BTreeMap<String, Held>,
    images: BTreeMap<String, pb::Image>,
    exec_answers: BTreeMap<String, pb::ExecSyncResponse>,
    registry: BTreeMap<String, pb::Image>,
    network_not_ready: Option<String>,
}

#[derive(Debug, Clone)]
struct Held {
    sandbox_id: String,
    config: pb::ContainerConfig,
    status: pb::ContainerStatus,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeRuntime {
    pub fn new() -> Self {
        let state = State { now_ns: 1_700_000_000_000_000_000, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), events: broadcast::channel(EVENT_BUFFER).0 }
    }

    /// Puts an image on the node.
    pub fn add_image(&self, name: &str) {
        self.state.lock().images.insert(name.to_owned(), image(name));
    }

    /// Puts an image into the registry, so that a pull of it succeeds.
    pub fn add_to_registry(&self, name: &str) {
        self.state.lock().registry.insert(name.to_owned(), image(name));
    }

    /// Makes the next call of this name (as `"StartContainer"`) fail.
    pub fn fail_next(&self, call: &str, error: Error) {
        self.state.lock().failures.entry(call.to_owned()).or_default().push_back(error);
    }

    /// The answer of `exec_sync` for a command, by its words joined with blanks; without one it is
    /// exit code 0 and no output.
    pub fn answer_exec(&self, command: &str, exit_code: i32, stdout: &str) {
        let answer =
            pb::ExecSyncResponse { exit_code, stdout: stdout.as_bytes().to_vec(), ..Default::default() };
        self.state.lock().exec_answers.insert(command.to_owned(), answer);
    }

    /// What the runtime says of its network: ready, or the reason why not.
    pub fn set_network_not_ready(&self, message: Option<&str>) {
        self.state.lock().network_not_ready = message.map(str::to_owned);
    }

    /// Moves the runtime's clock.
    pub fn set_now_ns(&self, now_ns: i64) {
        self.state.lock().now_ns = now_ns;
    }

    /// Ends a running container as if its process had exited.
    pub fn exit_container(&self, id: &str, exit_code: i32) {
        self.end(id, exit_code, if exit_code == 0 { "Completed" } else { "Error" });
    }

    /// Ends a running container as if the kernel had killed it for memory.
    pub fn oom_container(&self, id: &str) {
        self.end(id, 137, "OOMKilled");
    }

    /// Ends the newest running container of this name; returns its id.
    pub fn exit_named(&self, name: &str, exit_code: i32) -> Option<String> {
        let id = self.running(name)?;
        self.exit_container(&id, exit_code);
        Some(id)
    }

    /// The id of the newest running container of this name.
    pub fn running(&self, name: &str) -> Option<String> {
        let state = self.state.lock();
        let running = pb::ContainerState::ContainerRunning as i32;
        let mut found = state.containers.values().filter(|c| named(c, name) && c.status.state == running);
        found.next_back().map(|c| c.status.id.clone())
    }

    /// Takes the calls made so far, as `"StartContainer app"`: the call and the name of what it is about.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().calls)
    }

    /// The configuration a container was created with.
    pub fn container_config(&self, id: &str) -> Option<pb::ContainerConfig> {
        self.state.lock().containers.get(id).map(|c| c.config.clone())
    }

    fn end(&self, id: &str, exit_code: i32, reason: &str) {
        let mut state = self.state.lock();
        let now = state.now_ns;
        let Some(held) = state.containers.get_mut(id) else { return };
        if held.status.state != pb::ContainerState::ContainerRunning as i32 {
            return;
        }
        held.status.state = pb::ContainerState::ContainerExited as i32;
        held.status.exit_code = exit_code;
        held.status.finished_at = now;
        reason.clone_into(&mut held.status.reason);
        drop(state);
        self.emit(id, ContainerEventKind::Stopped);
    }

    fn emit(&self, id: &str, kind: ContainerEventKind) {
        // nobody may be listening
        let _ = self.events.send(ContainerEvent { container_id: id.to_owned(), kind, pod_uid: None });
    }

    fn enter(&self, call: &str, about: &str) -> Result<()> {
        let mut state = self.state.lock();
        state.calls.push(if about.is_empty() { call.to_owned() } else { format!("{call} {about}") });
        match state.failures.get_mut(call).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn name_of(&self, id: &str) -> String {
        let state = self.state.lock();
        let container =
            state.containers.get(id).and_then(|c| c.config.metadata.as_ref()).map(|m| m.name.clone());
        let sandbox = || state.sandboxes.get(id).and_then(|s| s.metadata.as_ref()).map(|m| m.name.clone());
        container.or_else(sandbox).unwrap_or_else(|| id.to_owned())
    }
}

fn named(held: &Held, name: &str) -> bool {
    held.config.metadata.as_ref().is_some_and(|m| m.name == name)
}

fn image(name: &str) -> pb::Image {
    pb::Image {
        id: format!("sha256:{name}"),
        repo_tags: vec![name.to_owned()],
        repo_digests: vec![format!("{}@sha256:{name}", name.rsplit_once(':').map_or(name, |(n, _)| n))],
        size: 1024,
        ..Default::default()
    }
}

fn no_container(id: &str) -> Error {
    Error::NotFound { message: format!("an error occurred when try to find container {id:?}: not found") }
}

fn no_sandbox(id: &str) -> Error {
    Error::NotFound { message: format!("an error occurred when try to find sandbox {id:?}: not found") }
}

fn matches(
    labels: &std::collections::HashMap<String, String>,
    want: &std::collections::HashMap<String, String>,
) -> bool {
    want.iter().all(|(name, value)| labels.get(name) == Some(value))
}

#[async_trait]
impl RuntimeApi for FakeRuntime {
    async fn version(&self) -> Result<pb::VersionResponse> {
        Ok(pb::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "1.0.0".into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self, _verbose: bool) -> Result<pb::StatusResponse> {
        let failed = self.state.lock().network_not_ready.clone();
        let condition = |r#type: &str, message: Option<String>| pb::RuntimeCondition {
            r#type: r#type.to_owned(),
            status: message.is_none(),
            reason: message.as_ref().map(|_| "NetworkPluginNotReady".to_owned()).unwrap_or_default(),
            message: message.unwrap_or_default(),
        };
        let conditions = vec![condition("RuntimeReady", None), condition("NetworkReady", failed)];
        Ok(pb::StatusResponse { status: Some(pb::RuntimeStatus { conditions }), ..Default::default() })
    }

    async fn update_runtime_config(&self, _pod_cidr: &str) -> Result<()> {
        Ok(())
    }

    async fn run_pod_sandbox(&self, config: pb::PodSandboxConfig, runtime_handler: &str) -> Result<String> {
        let metadata = config.metadata.clone().unwrap_or_default();
        self.enter("RunPodSandbox", &metadata.name)?;
        let mut state = self.state.lock();
        state.next_id += 1;
        let id = format!("sandbox{:04}", state.next_id);
        let ip = format!("10.88.0.{}", state.next_id % 250 + 1);
        let status = pb::PodSandboxStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: pb::PodSandboxState::SandboxReady as i32,
            created_at: state.now_ns,
            network: Some(pb::PodSandboxNetworkStatus { ip, additional_ips: vec![] }),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: runtime_handler.to_owned(),
            ..Default::default()
        };
        state.sandboxes.insert(id.clone(), status);
        drop(state);
        self.emit(&id, ContainerEventKind::Started);
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        self.enter("StopPodSandbox", &self.name_of(id))?;
        let inside: Vec<String> = {
            let mut state = self.state.lock();
            if let Some(sandbox) = state.sandboxes.get_mut(id) {
                sandbox.state = pb::PodSandboxState::SandboxNotready as i32;
            }
            state.containers.values().filter(|c| c.sandbox_id == id).map(|c| c.status.id.clone()).collect()
        };
        for container in inside {
            self.end(&container, 137, "Error");
        }
        self.emit(id, ContainerEventKind::Stopped);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        self.enter("RemovePodSandbox", &self.name_of(id))?;
        let mut state = self.state.lock();
        state.sandboxes.remove(id);
        state.containers.retain(|_, c| c.sandbox_id != id);
        drop(state);
        self.emit(id, ContainerEventKind::Deleted);
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<pb::PodSandboxStatus> {
        self.state.lock().sandboxes.get(id).cloned().ok_or_else(|| no_sandbox(id))
    }

    async fn list_pod_sandboxes(&self, filter: Option<pb::PodSandboxFilter>) -> Result<Vec<pb::PodSandbox>> {
        let filter = filter.unwrap_or_default();
        let state = self.state.lock();
        let wanted = |s: &&pb::PodSandboxStatus| {
            (filter.id.is_empty() || s.id == filter.id)
                && filter.state.is_none_or(|f| f.state == s.state)
                && matches(&s.labels, &filter.label_selector)
        };
        let item = |s: &pb::PodSandboxStatus| pb::PodSandbox {
            id: s.id.clone(),
            metadata: s.metadata.clone(),
            state: s.state,
            created_at: s.created_at,
            labels: s.labels.clone(),
            annotations: s.annotations.clone(),
            runtime_handler: s.runtime_handler.clone(),
        };
        Ok(state.sandboxes.values().filter(wanted).map(item).collect())
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: pb::ContainerConfig,
        _sandbox: pb::PodSandboxConfig,
    ) -> Result<String> {
        let metadata = config.metadata.clone().unwrap_or_default();
        self.enter("CreateContainer", &metadata.name)?;
        let mut state = self.state.lock();
        if !state.sandboxes.contains_key(sandbox_id) {
            return Err(no_sandbox(sandbox_id));
        }
        state.next_id += 1;
        let id = format!("container{:04}", state.next_id);
        let image = config.image.clone().unwrap_or_default();
        let status = pb::ContainerStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: pb::ContainerState::ContainerCreated as i32,
            created_at: state.now_ns,
            image_ref: image.image.clone(),
            image_id: image.image.clone(),
            image: Some(image),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: config.log_path.clone(),
            ..Default::default()
        };
        state.containers.insert(id.clone(), Held { sandbox_id: sandbox_id.to_owned(), config, status });
        drop(state);
        self.emit(&id, ContainerEventKind::Created);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        self.enter("StartContainer", &self.name_of(id))?;
        let mut state = self.state.lock();
        let now = state.now_ns;
        let held = state.containers.get_mut(id).ok_or_else(|| no_container(id))?;
        held.status.state = pb::ContainerState::ContainerRunning as i32;
        held.status.started_at = now;
        drop(state);
        self.emit(id, ContainerEventKind::Started);
        Ok(())
    }

    async fn stop_container(&self, id: &str, _timeout_seconds: i64) -> Result<()> {
        self.enter("StopContainer", &self.name_of(id))?;
        self.end(id, SIGTERM_EXIT_CODE, "Error");
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.enter("RemoveContainer", &self.name_of(id))?;
        self.state.lock().containers.remove(id);
        self.emit(id, ContainerEventKind::Deleted);
        Ok(())
    }

    async fn list_containers(&self, filter: Option<pb::ContainerFilter>) -> Result<Vec<pb::Container>> {
        let filter = filter.unwrap_or_default();
        let state = self.state.lock();
        let wanted = |c: &&Held| {
            (filter.id.is_empty() || c.status.id == filter.id)
                && (filter.pod_sandbox_id.is_empty() || c.sandbox_id == filter.pod_sandbox_id)
                && filter.state.is_none_or(|f| f.state == c.status.state)
                && matches(&c.status.labels, &filter.label_selector)
        };
        let item = |c: &Held| pb::Container {
            id: c.status.id.clone(),
            pod_sandbox_id: c.sandbox_id.clone(),
            metadata: c.status.metadata.clone(),
            image: c.status.image.clone(),
            image_ref: c.status.image_ref.clone(),
            state: c.status.state,
            created_at: c.status.created_at,
            labels: c.status.labels.clone(),
            annotations: c.status.annotations.clone(),
            image_id: c.status.image_id.clone(),
        };
        Ok(state.containers.values().filter(wanted).map(item).collect())
    }

    async fn container_status(&self, id: &str) -> Result<pb::ContainerStatus> {
        self.state.lock().containers.get(id).map(|c| c.status.clone()).ok_or_else(|| no_container(id))
    }

    async fn update_container_resources(
        &self,
        id: &str,
        _resources: pb::LinuxContainerResources,
    ) -> Result<()> {
        self.enter("UpdateContainerResources", &self.name_of(id))
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        self.enter("ReopenContainerLog", &self.name_of(id))
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        _timeout_seconds: i64,
    ) -> Result<pb::ExecSyncResponse> {
        self.enter("ExecSync", &self.name_of(id))?;
        let state = self.state.lock();
        if !state.containers.contains_key(id) {
            return Err(no_container(id));
        }
        Ok(state.exec_answers.get(&command.join(" ")).cloned().unwrap_or_default())
    }

    async fn exec(&self, request: pb::ExecRequest) -> Result<String> {
        self.enter("Exec", &self.name_of(&request.container_id))?;
        Ok(format!("http://127.0.0.1:0/exec/{}", request.container_id))
    }

    async fn attach(&self, request: pb::AttachRequest) -> Result<String> {
        self.enter("Attach", &self.name_of(&request.container_id))?;
        Ok(format!("http://127.0.0.1:0/attach/{}", request.container_id))
    }

    async fn port_forward(&self, sandbox_id: &str, _ports: &[i32]) -> Result<String> {
        self.enter("PortForward", &self.name_of(sandbox_id))?;
        Ok(format!("http://127.0.0.1:0/portforward/{sandbox_id}"))
    }

    async fn container_stats(&self, id: &str) -> Result<pb::ContainerStats> {
        let state = self.state.lock();
        let held = state.containers.get(id).ok_or_else(|| no_container(id))?;
        let attributes = pb::ContainerAttributes {
            id: id.to_owned(),
            metadata: held.status.metadata.clone(),
            labels: held.status.labels.clone(),
            annotations: held.status.annotations.clone(),
        };
        Ok(pb::ContainerStats { attributes: Some(attributes), ..Default::default() })
    }

    async fn list_container_stats(
        &self,
        _filter: Option<pb::ContainerStatsFilter>,
    ) -> Result<Vec<pb::ContainerStats>> {
        let ids: Vec<String> = self.state.lock().containers.keys().cloned().collect();
        let mut all = Vec::new();
        for id in ids {
            all.push(self.container_stats(&id).await?);
        }
        Ok(all)
    }

    async fn events(&self) -> Result<EventStream> {
        let receiver = self.events.subscribe();
        let stream = futures::stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(event) => Some((Ok(event), receiver)),
                Err(broadcast::error::RecvError::Closed) => None,
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let message = "the reader of the events was too slow".to_owned();
                    Some((Err(Error::Unavailable { message }), receiver))
                }
            }
        });
        Ok(stream.boxed())
    }
}

#[async_trait]
impl ImageApi for FakeRuntime {
    async fn list_images(&self) -> Result<Vec<pb::Image>> {
        Ok(self.state.lock().images.values().cloned().collect())
    }

    async fn image_status(&self, image: pb::ImageSpec) -> Result<Option<pb::Image>> {
        self.enter("ImageStatus", &image.image)?;
        let state = self.state.lock();
        let by_id = || state.images.values().find(|i| i.id == image.image);
        Ok(state.images.get(&image.image).or_else(by_id).cloned())
    }

    async fn pull_image(
        &self,
        image: pb::ImageSpec,
        _auth: Option<pb::AuthConfig>,
        _sandbox: Option<pb::PodSandboxConfig>,
    ) -> Result<String> {
        self.enter("PullImage", &image.image)?;
        let mut state = self.state.lock();
        let Some(found) = state.registry.get(&image.image).cloned() else {
            let name = &image.image;
            let message = format!(
                "failed to pull and unpack image {name:?}: failed to resolve reference {name:?}: {name}: not found"
            );
            return Err(Error::NotFound { message });
        };
        let reference = found.id.clone();
        state.images.insert(image.image, found);
        Ok(reference)
    }

    async fn remove_image(&self, image: pb::ImageSpec) -> Result<()> {
        self.enter("RemoveImage", &image.image)?;
        self.state.lock().images.remove(&image.image);
        Ok(())
    }

    async fn image_fs_info(&self) -> Result<pb::ImageFsInfoResponse> {
        let usage = pb::FilesystemUsage {
            timestamp: self.state.lock().now_ns,
            fs_id: Some(pb::FilesystemIdentifier { mountpoint: "/".into() }),
            used_bytes: Some(pb::UInt64Value { value: 0 }),
            inodes_used: Some(pb::UInt64Value { value: 0 }),
        };
        Ok(pb::ImageFsInfoResponse { image_filesystems: vec![usage], container_filesystems: vec![] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_container_runs_and_ends_and_says_so() {
        let runtime = FakeRuntime::new();
        let mut events = runtime.events().await.unwrap();
        let sandbox = runtime.run_pod_sandbox(pb::PodSandboxConfig::default(), "").await.unwrap();
        let metadata = Some(pb::ContainerMetadata { name: "app".into(), attempt: 0 });
        let config = pb::ContainerConfig { metadata, ..Default::default() };
        let id = runtime.create_container(&sandbox, config, pb::PodSandboxConfig::default()).await.unwrap();
        runtime.start_container(&id).await.unwrap();
        assert_eq!(runtime.exit_named("app", 3), Some(id.clone()));
        assert_eq!(runtime.container_status(&id).await.unwrap().exit_code, 3);
        let mut kinds = Vec::new();
        while kinds.last() != Some(&ContainerEventKind::Stopped) {
            kinds.push(events.next().await.unwrap().unwrap().kind);
        }
        use ContainerEventKind::{Created, Started, Stopped};
        assert_eq!(kinds, [Started, Created, Started, Stopped]);
        runtime.fail_next("StartContainer", no_container("x"));
        assert!(runtime.start_container(&id).await.unwrap_err().is_not_found());
    }
}
