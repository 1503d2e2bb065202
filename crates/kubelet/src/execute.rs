//! Carries a plan's actions out: the shell around [`crate::sync::plan`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri::v1;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use meta::Time;
use tokio::sync::watch;

use crate::container_config::{pod_log_dir, sandbox_config};
use crate::lifecycle::run_hook;
use crate::objects::Objects;
use crate::resizing::{read_allocation, write_allocation};
use crate::shared::Shared;
use crate::sync::resize::{Allocation, Amounts};
use crate::sync::{
    Action, ContainerKind, ContainerState, DEFAULT_GRACE_SECONDS, MINIMUM_GRACE_SECONDS, RuntimePod, Waiting,
    containers, find_container, init_containers, is_sidecar, kind_of, later,
};
use crate::volumes::{self, Context, Mounted};

/// How soon something that failed for the whole pod is tried again, in seconds.
const RETRY_SECONDS: i64 = 2;
/// How soon a container that could not be configured or created is tried again, in seconds (upstream's
/// `backOffPeriod`).
pub(crate) const CONTAINER_RETRY_SECONDS: i64 = 10;

/// What came of a round of actions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Why containers wait.
    pub waiting: BTreeMap<String, Waiting>,
    pub started: Vec<String>,
    /// When containers that failed may be tried again.
    pub not_before: BTreeMap<String, Time>,
    /// When the whole pod may be tried again.
    pub retry_at: Option<Time>,
    /// When a token of the pod is due.
    pub tokens_due: Option<Time>,
    /// What containers were given, by id.
    pub actuated: BTreeMap<String, Amounts>,
    /// What came of a resize: why it failed, or that it did not.
    pub resize_error: Option<Option<String>>,
    pub resize_not_before: Option<Time>,
    pub torn_down: bool,
    pub removed: bool,
    pub deleted: bool,
}

/// One round for one pod.
pub struct Round {
    pub shared: Arc<Shared>,
    pub pod: Arc<Pod>,
    pub observed: RuntimePod,
    pub host_ips: Vec<String>,
    /// Why the last resize failed.
    pub resize_error: Option<String>,
    mounted: bool,
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) prepared: Option<Prepared>,
    pub(crate) outcome: Outcome,
}

/// The sandbox that containers are put into.
#[derive(Clone)]
pub(crate) struct Sandbox {
    pub id: String,
    pub ips: Vec<String>,
    pub config: v1::PodSandboxConfig,
}

/// Volumes and objects, ready.
pub(crate) struct Prepared {
    pub objects: Objects,
    pub volumes: BTreeMap<String, Mounted>,
}

/// A step that failed; the reason has been recorded.
pub(crate) struct Stop;

impl Round {
    /// `mounted`: the volumes were set up before; only their contents may have to follow.
    pub fn new(
        shared: Arc<Shared>,
        pod: Arc<Pod>,
        observed: RuntimePod,
        host_ips: Vec<String>,
        mounted: bool,
    ) -> Self {
        Self {
            shared,
            pod,
            observed,
            host_ips,
            resize_error: None,
            mounted,
            sandbox: None,
            prepared: None,
            outcome: Outcome::default(),
        }
    }

    pub(crate) fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Carries the actions out in order; a failure that concerns those behind it ends the round.
    pub async fn run(mut self, actions: Vec<Action>) -> Outcome {
        for action in actions {
            if self.step(action).await.is_err() {
                break;
            }
        }
        self.outcome
    }

    async fn step(&mut self, action: Action) -> Result<(), Stop> {
        match action {
            Action::KillPod { grace_seconds } => self.kill_pod(grace_seconds).await,
            Action::PurgeInitContainers => self.purge_init_containers().await,
            Action::KillContainer { id, name, message, grace_seconds } => {
                let container = kind_of(&self.pod, &name).and_then(|k| find_container(&self.pod, k, &name));
                let kill = Kill { id, name, message, grace_seconds };
                self.kill_container(kill, container.as_ref(), None).await.map_err(|_| self.retry())
            }
            Action::Resize { updates } => self.resize(&updates).await,
            Action::Prepare => self.prepare().await,
            Action::CreateSandbox { attempt } => self.create_sandbox(attempt).await,
            Action::StartContainer { kind, name } => self.start_one(kind, &name).await,
            Action::Teardown => self.teardown().await,
            Action::RemoveFromRuntime => self.remove_from_runtime().await,
            Action::DeleteFromApi => self.delete_from_api().await,
        }
    }

    async fn start_one(&mut self, kind: ContainerKind, name: &str) -> Result<(), Stop> {
        let Some(container) = find_container(&self.pod, kind, name) else { return Ok(()) };
        let now = client::now();
        match self.start_container(kind, &container).await {
            Ok(()) => {
                self.outcome.started.push(name.to_owned());
                Ok(())
            }
            Err(e) => {
                let uid = self.uid().to_owned();
                let image = container.image.clone().unwrap_or_default();
                let next = self.shared.images.retry_at(&uid, &image, now);
                let pause = later(now, CONTAINER_RETRY_SECONDS);
                let at = if e.reason == "ImagePullBackOff" { next.unwrap_or(pause) } else { pause };
                self.outcome.not_before.insert(name.to_owned(), at);
                let waiting = Waiting { reason: e.reason.to_owned(), message: e.message };
                self.outcome.waiting.insert(name.to_owned(), waiting);
                // what comes after a failed init container waits for it
                if kind == ContainerKind::Init && !is_sidecar(&container) { Err(Stop) } else { Ok(()) }
            }
        }
    }

    /// The whole pod is tried again soon.
    pub(crate) fn retry(&mut self) -> Stop {
        self.outcome.retry_at = Some(later(client::now(), RETRY_SECONDS));
        Stop
    }

    /// Directories, the cgroup and volumes.
    async fn prepare(&mut self) -> Result<(), Stop> {
        let dir = self.shared.config.pod_dir(self.uid());
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        let made = blocking(move || {
            use std::os::unix::fs::DirBuilderExt;
            for path in [dir.clone(), dir.join("volumes"), dir.join("plugins")] {
                std::fs::DirBuilder::new().recursive(true).mode(0o750).create(path)?;
            }
            if read_allocation(&dir).is_none() {
                write_allocation(&dir, &Allocation::of(&pod))?;
            }
            shared.cgroups.ensure(&pod).map(drop)
        });
        if let Err(e) = made.await {
            let message = format!("error making pod data directories: {e}");
            self.shared.event(&self.pod, None, true, "Failed", message);
            return Err(self.retry());
        }
        let prepared = self.mount_volumes().await.map_err(|_| self.retry())?;
        self.prepared = Some(prepared);
        Ok(())
    }

    /// Reads the pod's objects and brings its volumes up to date.
    pub(crate) async fn mount_volumes(&mut self) -> Result<Prepared, Stop> {
        let fail = |message: String| {
            self.shared.event(&self.pod, None, true, "FailedMount", message);
            Stop
        };
        let mut objects = self.shared.watched.read(&self.pod).await.map_err(|e| fail(e.to_string()))?;
        if self.shared.services.has_synced() {
            objects.services = self.shared.services.list();
        }
        let tokens = self.shared.tokens.of_pod(&self.pod, client::now()).await;
        let token_error = match tokens {
            Ok((tokens, due)) => {
                objects.tokens = tokens;
                self.outcome.tokens_due = due;
                None
            }
            Err(e) => Some(e.to_string()),
        };
        let dir = self.shared.config.pod_dir(self.uid());
        let allocatable = self.shared.allocatable();
        let ips = self.ips();
        let env = crate::env::EnvInput {
            pod: &self.pod,
            pod_ips: &ips,
            host_ips: &self.host_ips,
            objects: &objects,
            allocatable: &allocatable,
        };
        let context = Context { env, pod_dir: &dir, node_name: &self.shared.config.node_name };
        let (mounted, mut failed) = volumes::plan_volumes(&context);
        // what a container wrote into a volume is not touched again
        for (name, plan) in mounted.iter().filter(|(_, plan)| plan.live || !self.mounted) {
            let ops = plan.ops.clone();
            let done = tokio::task::spawn_blocking(move || volumes::execute(&ops)).await;
            match done {
                Ok(Ok(())) => {}
                Ok(Err(e)) => drop(failed.insert(name.clone(), e)),
                Err(e) => drop(failed.insert(name.clone(), volumes::VolumeError(e.to_string()))),
            }
        }
        if failed.is_empty() {
            return Ok(Prepared { objects, volumes: mounted });
        }
        for (name, error) in failed {
            let cause = match &token_error {
                Some(e) if error.0.starts_with("failed to fetch token") => {
                    format!("failed to fetch token: {e}")
                }
                _ => error.0,
            };
            let _ = fail(format!("MountVolume.SetUp failed for volume {name:?} : {cause}"));
        }
        Err(Stop)
    }

    /// The pod's addresses as far as they are known.
    pub(crate) fn ips(&self) -> Vec<String> {
        if self.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true) {
            return self.host_ips.clone();
        }
        match &self.sandbox {
            Some(sandbox) => sandbox.ips.clone(),
            None => self.observed.ips().to_vec(),
        }
    }

    async fn create_sandbox(&mut self, attempt: u32) -> Result<(), Stop> {
        let started = Instant::now();
        let result = self.run_sandbox(attempt).await;
        match result {
            Ok(sandbox) => {
                self.shared.metrics.sandbox_started(started.elapsed());
                self.sandbox = Some(sandbox);
                Ok(())
            }
            Err(e) => {
                let message = format!("Failed to create pod sandbox: {e}");
                self.shared.event(&self.pod, None, true, "FailedCreatePodSandBox", message);
                Err(self.retry())
            }
        }
    }

    async fn run_sandbox(&self, attempt: u32) -> Result<Sandbox, String> {
        let text = |e: cri::Error| e.to_string();
        let (config, notes) = self.sandbox_config(attempt)?;
        for note in notes {
            self.shared.event(&self.pod, None, true, "DNSConfigForming", note);
        }
        std::fs::create_dir_all(&config.log_directory)
            .map_err(|e| format!("create pod log directory: {e}"))?;
        let handler = self.runtime_handler().await?;
        let runtime = &self.shared.runtime;
        let id = runtime.run_pod_sandbox(config.clone(), &handler).await.map_err(text)?;
        let status = runtime.pod_sandbox_status(&id).await.map_err(text)?;
        let network = status.network.unwrap_or_default();
        let mut ips: Vec<_> = Some(network.ip).filter(|ip| !ip.is_empty()).into_iter().collect();
        ips.extend(network.additional_ips.into_iter().map(|ip| ip.ip));
        Ok(Sandbox { id, ips, config })
    }

    pub(crate) fn sandbox_config(&self, attempt: u32) -> Result<(v1::PodSandboxConfig, Vec<String>), String> {
        let parent = self.shared.cgroups.parent(&self.pod);
        sandbox_config(&self.pod, attempt, &parent, &self.shared.node).map_err(|e| e.to_string())
    }

    async fn runtime_handler(&self) -> Result<String, String> {
        let spec = self.pod.spec.as_ref();
        if spec.and_then(|s| s.host_users) == Some(false) {
            // a pod that asks to be fenced off must not run without the fence
            return Err("can't set `spec.hostUsers: false`, runtime does not support user namespaces".into());
        }
        let Some(name) = spec.and_then(|s| s.runtime_class_name.as_deref()).filter(|n| !n.is_empty()) else {
            return Ok(String::new());
        };
        let classes: Api<RuntimeClass> = Api::all(self.shared.client.clone());
        match classes.get(name).await {
            Ok(class) => Ok(class.handler),
            Err(e) => Err(format!("failed to get RuntimeClass {name:?}: {e}")),
        }
    }

    /// Stops every container, sidecars after the others, then the sandboxes.
    async fn kill_pod(&mut self, grace_seconds: Option<i64>) -> Result<(), Stop> {
        let own = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
        let grace_seconds = grace_seconds.or(own).unwrap_or(DEFAULT_GRACE_SECONDS);
        let running: Vec<_> = self
            .observed
            .containers
            .iter()
            .filter(|c| matches!(c.state, ContainerState::Running | ContainerState::Unknown))
            .cloned()
            .collect();
        let names: BTreeSet<String> = running.iter().map(|c| c.name.clone()).collect();
        let (left, _) = watch::channel(names);
        let this = &*self;
        let kills = running.iter().map(|seen| {
            let container =
                kind_of(&this.pod, &seen.name).and_then(|k| find_container(&this.pod, k, &seen.name));
            let kill =
                Kill { id: seen.id.clone(), name: seen.name.clone(), message: String::new(), grace_seconds };
            let left = &left;
            async move {
                let done = this.kill_container(kill, container.as_ref(), Some(left)).await;
                left.send_if_modified(|names| names.remove(&seen.name));
                done
            }
        });
        let failed = join_all(kills).await.into_iter().any(|r| r.is_err());
        for sandbox in &self.observed.sandboxes {
            if let Err(e) = self.shared.runtime.stop_pod_sandbox(&sandbox.id).await {
                tracing::warn!(pod = ?self.pod.metadata.name, sandbox = sandbox.id, error = %e, "a sandbox does not stop");
                return Err(self.retry());
            }
        }
        if failed {
            let _ = self.retry();
            return Err(Stop);
        }
        Ok(())
    }

    /// Runs the hook, waits for the container's turn, and stops it.
    pub(crate) async fn kill_container(
        &self,
        kill: Kill,
        container: Option<&Container>,
        left: Option<&watch::Sender<BTreeSet<String>>>,
    ) -> Result<(), Stop> {
        let kind = kind_of(&self.pod, &kill.name).unwrap_or(ContainerKind::Regular);
        let about = Some((kind, kill.name.as_str()));
        let message = if kill.message.is_empty() {
            format!("Stopping container {}", kill.name)
        } else {
            kill.message.clone()
        };
        self.shared.event(&self.pod, about, false, "Killing", message);
        let deadline = Instant::now() + Duration::from_secs(u64::try_from(kill.grace_seconds).unwrap_or(0));
        let hook = container.and_then(|c| Some((c, c.lifecycle.as_ref()?.pre_stop.as_ref()?)));
        if let Some((container, handler)) = hook.filter(|_| kill.grace_seconds > 0) {
            let ip = self.ips().first().cloned().unwrap_or_default();
            let tell = |text| self.shared.event(&self.pod, None, true, "LifecycleHTTPFallback", text);
            let run = run_hook(&*self.shared.runtime, &kill.id, &self.pod, container, &ip, handler, tell);
            match tokio::time::timeout(deadline.saturating_duration_since(Instant::now()), run).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(e)) => {
                    tracing::info!(pod = ?self.pod.metadata.name, container = kill.name, error = e, "preStop hook failed");
                    // the output of a hook may be secret
                    self.shared.event(&self.pod, about, true, "FailedPreStopHook", "PreStopHook failed");
                }
            }
        }
        if let Some(left) = left.filter(|_| kill.grace_seconds > 0) {
            let before = stops_before(&self.pod, &kill.name);
            let mut names = left.subscribe();
            let turn = names.wait_for(|names| !names.iter().any(|n| before.contains(n.as_str())));
            let _ = tokio::time::timeout(deadline.saturating_duration_since(Instant::now()), turn).await;
        }
        let rest =
            i64::try_from(deadline.saturating_duration_since(Instant::now()).as_secs_f64().ceil() as u64);
        let grace = rest.unwrap_or(0).max(MINIMUM_GRACE_SECONDS);
        match self.shared.runtime.stop_container(&kill.id, grace).await {
            Ok(()) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => {
                tracing::warn!(pod = ?self.pod.metadata.name, container = kill.name, error = %e, "a container does not stop");
                Err(Stop)
            }
        }
    }

    async fn purge_init_containers(&mut self) -> Result<(), Stop> {
        let inits = init_containers(&self.pod);
        for seen in &self.observed.containers {
            if inits.iter().any(|c| c.name == seen.name)
                && let Err(e) = self.shared.runtime.remove_container(&seen.id).await
            {
                tracing::warn!(container = seen.name, error = %e, "an init container cannot be removed");
                return Err(self.retry());
            }
        }
        Ok(())
    }

    async fn teardown(&mut self) -> Result<(), Stop> {
        let dir = self.shared.config.pod_dir(self.uid());
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        let done = blocking(move || {
            volumes::undo_pod(&dir)?;
            shared.cgroups.remove(&pod)
        });
        if let Err(e) = done.await {
            tracing::warn!(pod = ?self.pod.metadata.name, error = %e, "a pod's directory cannot be removed yet");
            return Err(self.retry());
        }
        self.shared.watched.forget(self.uid());
        self.shared.tokens.forget(self.uid());
        self.outcome.torn_down = true;
        Ok(())
    }

    async fn remove_from_runtime(&mut self) -> Result<(), Stop> {
        // the logs go first: while a sandbox is there, so is what tells whose they are
        let meta = &self.pod.metadata;
        let text = |v: &Option<String>| v.clone().unwrap_or_default();
        let root = &self.shared.config.pod_logs_dir;
        let logs = pod_log_dir(root, &text(&meta.namespace), &text(&meta.name), self.uid());
        let _ = blocking(move || std::fs::remove_dir_all(logs)).await;
        for sandbox in &self.observed.sandboxes {
            if let Err(e) = self.shared.runtime.remove_pod_sandbox(&sandbox.id).await {
                tracing::warn!(sandbox = sandbox.id, error = %e, "a sandbox cannot be removed");
                return Err(self.retry());
            }
        }
        for container in &self.observed.containers {
            // most went with their sandbox
            let _ = self.shared.runtime.remove_container(&container.id).await;
        }
        self.shared.images.forget_pod(self.uid());
        self.outcome.removed = true;
        Ok(())
    }

    async fn delete_from_api(&mut self) -> Result<(), Stop> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = self.pod.metadata.name.as_deref().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(self.shared.client.clone(), namespace);
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: self.pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        match pods.delete(name, &params).await {
            Ok(_) => {}
            // it is gone, or another one of that name is there
            Err(e) if client::is_not_found(&e) || client::is_conflict(&e) => {}
            Err(e) => {
                tracing::warn!(pod = name, error = %e, "a pod cannot be deleted from the API yet");
                return Err(self.retry());
            }
        }
        self.outcome.deleted = true;
        Ok(())
    }
}

/// A container to stop.
pub(crate) struct Kill {
    pub id: String,
    pub name: String,
    pub message: String,
    pub grace_seconds: i64,
}

/// The containers that end before this one: for a sidecar the regular ones and the sidecars behind it.
fn stops_before<'a>(pod: &'a Pod, name: &str) -> BTreeSet<&'a str> {
    let inits = init_containers(pod);
    let Some(at) = inits.iter().position(|c| c.name == name && is_sidecar(c)) else { return BTreeSet::new() };
    let later = inits[at + 1..].iter().filter(|c| is_sidecar(c));
    containers(pod).iter().chain(later).map(|c| c.name.as_str()).collect()
}

/// Runs file system work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(std::io::Error::other(e)),
    }
}
