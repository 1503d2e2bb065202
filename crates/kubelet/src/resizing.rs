//! Carries a resize out: first the pod's cgroup makes room for both the old and the new, then the containers
//! change, then the pod's cgroup becomes what it is to be.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::container_config::linux_resources;
use crate::execute::{CONTAINER_RETRY_SECONDS, Round, Stop, blocking};
use crate::sync::resize::{Allocation, Amounts, Update, event_message, widest};
use crate::sync::{find_container, kind_of, later};

/// What a pod was granted, and what its containers were given last, in its directory: so that a kubelet that
/// starts anew knows.
const ALLOCATED: &str = "allocated.json";
const ACTUATED: &str = "actuated.json";

/// What a pod was granted, if that was noted.
pub fn read_allocation(pod_dir: &Path) -> Option<Allocation> {
    serde_json::from_slice(&std::fs::read(pod_dir.join(ALLOCATED)).ok()?).ok()
}

/// Notes what a pod was granted; a pod without a directory has nothing to be remembered yet.
///
/// # Errors
/// What the file system says.
pub fn write_allocation(pod_dir: &Path, allocation: &Allocation) -> io::Result<()> {
    write(pod_dir, ALLOCATED, &serde_json::to_vec(allocation)?)
}

/// What containers were given last, by id.
pub fn read_actuated(pod_dir: &Path) -> BTreeMap<String, Amounts> {
    let bytes = std::fs::read(pod_dir.join(ACTUATED)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Notes what containers were given.
///
/// # Errors
/// What the file system says.
pub fn write_actuated(pod_dir: &Path, actuated: &BTreeMap<String, Amounts>) -> io::Result<()> {
    write(pod_dir, ACTUATED, &serde_json::to_vec(actuated)?)
}

fn write(dir: &Path, name: &str, data: &[u8]) -> io::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    let next = dir.join(format!("{name}.new"));
    std::fs::write(&next, data)?;
    std::fs::rename(next, dir.join(name))
}

impl Round {
    /// Gives running containers what they were granted; says so in an event if that fails.
    pub(crate) async fn resize(&mut self, updates: &[Update]) -> Result<(), Stop> {
        let Err(error) = self.try_resize(updates).await else {
            self.outcome.resize_error = Some(None);
            return Ok(());
        };
        tracing::info!(pod = ?self.pod.metadata.name, error, "a pod is not resized yet");
        let message = event_message("Pod resize error", &self.pod, self.pod.metadata.generation, &error);
        if self.resize_error.as_deref() != Some(&error) {
            self.shared.event(&self.pod, None, true, "ResizeError", message);
        }
        self.outcome.resize_error = Some(Some(error));
        self.outcome.resize_not_before = Some(later(client::now(), CONTAINER_RETRY_SECONDS));
        Err(Stop)
    }

    async fn try_resize(&mut self, updates: &[Update]) -> Result<(), String> {
        self.check_memory(updates).await?;
        self.set_pod_cgroup(widest(&self.pod, updates)).await?;
        for update in updates {
            let container =
                kind_of(&self.pod, &update.name).and_then(|k| find_container(&self.pod, k, &update.name));
            let Some(container) = container else { continue };
            let mut resources = linux_resources(&self.pod, &container, &self.shared.node);
            // the kernel's choice of what to kill is made once, at the start
            resources.oom_score_adj = 0;
            let done = self.shared.runtime.update_container_resources(&update.id, resources).await;
            done.map_err(|e| e.to_string())?;
            self.outcome.actuated.insert(update.id.clone(), update.to);
        }
        self.set_pod_cgroup(Pod::clone(&self.pod)).await
    }

    async fn set_pod_cgroup(&self, pod: Pod) -> Result<(), String> {
        let shared = self.shared.clone();
        blocking(move || shared.cgroups.ensure(&pod).map(drop)).await.map_err(|e| e.to_string())
    }

    /// A limit below what is used now would kill the container.
    async fn check_memory(&self, updates: &[Update]) -> Result<(), String> {
        let mut errors = Vec::new();
        for update in updates.iter().filter(|u| u.from.lowers_memory(u.to)) {
            let name = &update.name;
            let stats = self.shared.runtime.container_stats(&update.id).await;
            let memory = stats.ok().and_then(|s| s.memory);
            // older runtimes tell the working set alone
            let used = memory.and_then(|m| m.usage_bytes.or(m.working_set_bytes)).map(|v| v.value);
            let limit = u64::try_from(update.to.memory_limit_bytes).unwrap_or(u64::MAX);
            match used {
                None => errors.push(format!("missing container {name:?} memory usage")),
                Some(used) if used >= limit => errors.push(format!(
                    "attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
                )),
                Some(_) => {}
            }
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(format!("cannot decrease memory limits: {one}")),
            many => Err(format!("cannot decrease memory limits: [{}]", many.join(", "))),
        }
    }

    /// What a container that was just created was given.
    pub(crate) fn note_actuated(&mut self, id: &str, container: &Container) {
        self.outcome.actuated.insert(id.to_owned(), Amounts::of(&self.pod, container));
    }
}
