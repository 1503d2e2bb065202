//! Starts one container: image, configuration, creation, start, hook.

use std::path::Path;

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Secret};

use crate::container_config::{ContainerInput, container_config, pod_log_dir};
use crate::dns::{host_network_hosts_file, hostname_and_domain, hosts_file};
use crate::env::{EnvInput, environment};
use crate::execute::{Kill, Round, Sandbox, blocking};
use crate::images::{ReadyImage, Request, StartError};
use crate::lifecycle::run_hook;
use crate::sync::{ContainerKind, DEFAULT_GRACE_SECONDS};
use crate::volumes::container_mounts;

const HOSTS_PATH: &str = "/etc/hosts";
/// Where log collectors look by name of pod and container.
const LEGACY_LOGS: &str = "/var/log/containers";

/// A configuration that cannot be made.
fn config_error(message: impl ToString) -> StartError {
    StartError::new("CreateContainerConfigError", message.to_string())
}

impl Round {
    /// Pulls, creates and starts a container and runs its hook; records events.
    ///
    /// # Errors
    /// The state in which the container waits.
    pub(crate) async fn start_container(
        &mut self,
        kind: ContainerKind,
        container: &Container,
    ) -> Result<(), StartError> {
        let about = (kind, container.name.as_str());
        let sandbox = self.current_sandbox()?;
        let image = container.image.as_deref().unwrap_or_default();
        let ready = self.ensure_image(about, image, container.image_pull_policy.as_deref(), &sandbox).await?;
        let fail = |round: &Self, e: StartError| {
            round.shared.event(&round.pod, Some(about), true, "Failed", format!("Error: {}", e.message));
            e
        };
        self.mount_images(about, container, &sandbox).await?;
        let config = match self.configure(kind, container, &sandbox, &ready).await {
            Ok(config) => config,
            Err(e) => return Err(fail(self, e)),
        };
        let log_path = Path::new(&sandbox.config.log_directory).join(&config.log_path);
        let runtime = self.shared.runtime.clone();
        let created = runtime.create_container(&sandbox.id, config, sandbox.config.clone()).await;
        let id = created.map_err(|e| fail(self, StartError::new("CreateContainerError", e.message())))?;
        self.note_actuated(&id, container);
        self.shared.event(&self.pod, Some(about), false, "Created", "Container created");
        if let Err(e) = runtime.start_container(&id).await {
            return Err(fail(self, StartError::new("RunContainerError", e.message())));
        }
        self.shared.event(&self.pod, Some(about), false, "Started", "Container started");
        self.shared.metrics.container_started(kind);
        self.link_log(container, &id, &log_path);
        self.post_start(kind, container, &id, &sandbox).await
    }

    fn current_sandbox(&self) -> Result<Sandbox, StartError> {
        if let Some(sandbox) = &self.sandbox {
            return Ok(sandbox.clone());
        }
        let seen = self.observed.sandboxes.iter().find(|s| s.ready);
        let seen = seen.ok_or_else(|| config_error("the pod's sandbox is not ready"))?;
        let (config, _) = self.sandbox_config(seen.attempt).map_err(config_error)?;
        Ok(Sandbox { id: seen.id.clone(), ips: seen.ips.clone(), config })
    }

    /// The image, pulled if need be; events are recorded.
    pub(crate) async fn ensure_image(
        &self,
        about: (ContainerKind, &str),
        image: &str,
        policy: Option<&str>,
        sandbox: &Sandbox,
    ) -> Result<ReadyImage, StartError> {
        let names = self.pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()).map(|s| &s.name);
        let (mut secrets, mut missing): (Vec<&Secret>, Vec<&str>) = (Vec::new(), Vec::new());
        for name in names.filter(|n| !n.is_empty()) {
            match self.prepared.as_ref().and_then(|p| p.objects.secret(name)) {
                Some(secret) => secrets.push(secret),
                None => missing.push(name),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.shared.event(&self.pod, None, true, "FailedToRetrieveImagePullSecret", message);
        }
        let default = if image.ends_with(":latest") { "Always" } else { "IfNotPresent" };
        let request = Request {
            pod_uid: self.uid(),
            image,
            policy: policy.unwrap_or(default),
            secrets: &secrets,
            sandbox: sandbox.config.clone(),
        };
        let tell = |event| self.shared.image_event(&self.pod, about, event);
        let result = self.shared.images.ensure(&request, client::now(), &tell).await;
        result.inspect_err(|e| {
            let message = format!("Error: {}", e.reason);
            self.shared.event(&self.pod, Some(about), true, "Failed", message);
        })
    }

    /// The configuration, with everything on the host that it points to.
    async fn configure(
        &self,
        kind: ContainerKind,
        container: &Container,
        sandbox: &Sandbox,
        ready: &ReadyImage,
    ) -> Result<v1::ContainerConfig, StartError> {
        let prepared =
            self.prepared.as_ref().ok_or_else(|| config_error("the pod's volumes are not ready"))?;
        if !self.shared.services.has_synced() {
            return Err(config_error(
                "services have not yet been read at least once, cannot construct envvars",
            ));
        }
        let ips = if sandbox.ips.is_empty() { self.ips() } else { sandbox.ips.clone() };
        let allocatable = self.shared.allocatable();
        let input = EnvInput {
            pod: &self.pod,
            pod_ips: &ips,
            host_ips: &self.host_ips,
            objects: &prepared.objects,
            allocatable: &allocatable,
        };
        let env = environment(&input, container).map_err(config_error)?;
        let dir = self.shared.config.pod_dir(self.uid());
        let mut mounts = {
            let (dir, container, volumes, env) =
                (dir.clone(), container.clone(), prepared.volumes.clone(), env.clone());
            let made =
                tokio::task::spawn_blocking(move || container_mounts(&dir, &container, &volumes, &env));
            made.await.map_err(config_error)?.map_err(config_error)?
        };
        if !mounts.iter().any(|m| m.container_path == HOSTS_PATH) {
            mounts.extend(self.hosts_mount(&dir, &ips)?);
        }
        mounts.extend(termination_mount(&dir, container));
        let restart_count = self.restart_count(container);
        let target_id = self.target_id(kind, &container.name)?;
        let input = ContainerInput {
            pod: &self.pod,
            container,
            restart_count,
            image_ref: &ready.id,
            image_user: &ready.user,
            env,
            mounts,
            target_id: target_id.as_deref(),
            node: &self.shared.node,
        };
        let config = container_config(input).map_err(config_error)?;
        let log_dir = Path::new(&sandbox.config.log_directory).join(&container.name);
        blocking(move || std::fs::create_dir_all(log_dir)).await.map_err(|e| {
            config_error(format!(
                "create container log directory for container {} failed: {e}",
                container.name
            ))
        })?;
        Ok(config)
    }

    fn restart_count(&self, container: &Container) -> i32 {
        if let Some(seen) = self.observed.find(&container.name) {
            return seen.restart_count + 1;
        }
        let meta = &self.pod.metadata;
        let text = |v: &Option<String>| v.clone().unwrap_or_default();
        let root = &self.shared.config.pod_logs_dir;
        let dir =
            pod_log_dir(root, &text(&meta.namespace), &text(&meta.name), self.uid()).join(&container.name);
        crate::logs::restarts_from_logs(&dir)
    }

    /// The container whose processes an ephemeral container wants to see.
    fn target_id(&self, kind: ContainerKind, name: &str) -> Result<Option<String>, StartError> {
        if kind != ContainerKind::Ephemeral {
            return Ok(None);
        }
        let ephemeral = self.pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
        let target = ephemeral.filter(|e| e.name == name).find_map(|e| e.target_container_name.clone());
        let Some(target) = target.filter(|t| !t.is_empty()) else { return Ok(None) };
        match self.observed.find(&target) {
            Some(seen) => Ok(Some(seen.id.clone())),
            None => Err(config_error(format!("unable to find target container {target}"))),
        }
    }

    fn hosts_mount(&self, dir: &Path, ips: &[String]) -> Result<Option<v1::Mount>, StartError> {
        let spec = self.pod.spec.as_ref();
        let host_network = spec.and_then(|s| s.host_network) == Some(true);
        if ips.is_empty() && !host_network {
            return Ok(None);
        }
        let aliases = spec.and_then(|s| s.host_aliases.clone()).unwrap_or_default();
        let text = if host_network {
            let node = std::fs::read_to_string(HOSTS_PATH).map_err(config_error)?;
            host_network_hosts_file(&node, &aliases)
        } else {
            let domain = &self.shared.config.cluster_domain;
            let (name, domain) = hostname_and_domain(&self.pod, domain).map_err(config_error)?;
            hosts_file(ips, &name, &domain, &aliases)
        };
        let path = dir.join("etc-hosts");
        write_with_mode(&path, text.as_bytes(), 0o644).map_err(config_error)?;
        Ok(Some(v1::Mount {
            container_path: HOSTS_PATH.into(),
            host_path: path.to_string_lossy().into_owned(),
            ..Default::default()
        }))
    }

    /// Links the log under the name collectors know.
    fn link_log(&self, container: &Container, id: &str, log: &Path) {
        if self.shared.config.pod_logs_dir != Path::new("/var/log/pods") {
            return;
        }
        let text = |v: &Option<String>| v.clone().unwrap_or_default();
        let meta = &self.pod.metadata;
        let name = format!("{}_{}_{}-{id}.log", text(&meta.name), text(&meta.namespace), container.name);
        let made = std::fs::create_dir_all(LEGACY_LOGS)
            .and_then(|()| std::os::unix::fs::symlink(log, Path::new(LEGACY_LOGS).join(name)));
        if let Err(e) = made {
            tracing::debug!(error = %e, "a log cannot be linked");
        }
    }

    async fn post_start(
        &self,
        kind: ContainerKind,
        container: &Container,
        id: &str,
        sandbox: &Sandbox,
    ) -> Result<(), StartError> {
        let Some(handler) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else {
            return Ok(());
        };
        let ips = if sandbox.ips.is_empty() { self.ips() } else { sandbox.ips.clone() };
        let ip = ips.first().map_or("", String::as_str);
        let tell = |text| self.shared.event(&self.pod, None, true, "LifecycleHTTPFallback", text);
        let done = run_hook(&*self.shared.runtime, id, &self.pod, container, ip, handler, tell).await;
        let Err(message) = done else { return Ok(()) };
        // the output of a hook may be secret
        let about = Some((kind, container.name.as_str()));
        self.shared.event(&self.pod, about, true, "FailedPostStartHook", "PostStartHook failed");
        let grace = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
        let kill = Kill {
            id: id.to_owned(),
            name: container.name.clone(),
            message: "FailedPostStartHook".into(),
            grace_seconds: grace.unwrap_or(DEFAULT_GRACE_SECONDS),
        };
        let _ = self.kill_container(kill, Some(container), None).await;
        Err(StartError::new("PostStartHookError", message))
    }
}

/// A file of its own for each start of the container, in which it leaves its last words.
fn termination_mount(dir: &Path, container: &Container) -> Option<v1::Mount> {
    let path = container.termination_message_path.as_deref().filter(|p| !p.is_empty())?;
    let file = dir.join("containers").join(&container.name).join(format!("{:08x}", rand::random::<u32>()));
    let made = match file.parent() {
        Some(parent) => std::fs::create_dir_all(parent).and_then(|()| write_with_mode(&file, b"", 0o666)),
        None => Ok(()),
    };
    if let Err(e) = made {
        tracing::warn!(error = %e, path = %file.display(), "a termination log cannot be made");
        return None;
    }
    let container_path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Some(v1::Mount { container_path, host_path: file.to_string_lossy().into_owned(), ..Default::default() })
}

/// Writes a file whose mode does not depend on this process' mask.
fn write_with_mode(path: &Path, data: &[u8], mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, data)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
}
