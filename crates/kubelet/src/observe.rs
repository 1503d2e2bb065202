//! What the runtime shows of a pod.

use std::collections::HashMap;
use std::path::Path;

use cri::{RuntimeApi, v1};
use k8s_openapi::jiff::Timestamp;
use meta::Time;

use crate::container_config::labels;
use crate::sync::{ContainerState, ObservedContainer, ObservedResources, ObservedSandbox, RuntimePod};

/// Bytes of a termination message (API reference: terminationMessagePath).
const MAX_MESSAGE_BYTES: usize = 4096;
/// With `FallbackToLogsOnError`: this much of the log's end, in bytes and lines.
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;

fn selector(uid: &str) -> HashMap<String, String> {
    [(labels::POD_UID.to_owned(), uid.to_owned())].into()
}

/// Statuses that do not change any more, by container id, so that they are read once.
#[derive(Debug, Default)]
pub struct Seen(HashMap<String, (i32, ObservedContainer)>);

/// The pod's sandboxes and containers, newest first.
///
/// # Errors
/// What the runtime answers.
pub async fn observe(runtime: &dyn RuntimeApi, uid: &str, seen: &mut Seen) -> cri::Result<RuntimePod> {
    let sandbox_filter = v1::PodSandboxFilter { label_selector: selector(uid), ..Default::default() };
    let container_filter = v1::ContainerFilter { label_selector: selector(uid), ..Default::default() };
    let (sandboxes, containers) = tokio::join!(
        runtime.list_pod_sandboxes(Some(sandbox_filter)),
        runtime.list_containers(Some(container_filter))
    );
    let mut sandboxes = sandboxes?;
    let mut containers = containers?;
    sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at));
    containers.sort_by_key(|c| std::cmp::Reverse(c.created_at));
    let mut pod = RuntimePod::default();
    for sandbox in sandboxes {
        match runtime.pod_sandbox_status(&sandbox.id).await {
            Ok(status) => pod.sandboxes.push(sandbox_of(status)),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    seen.0.retain(|id, _| containers.iter().any(|c| &c.id == id));
    for container in containers {
        if let Some((state, known)) = seen.0.get(&container.id).filter(|(state, _)| *state == container.state)
        {
            debug_assert_eq!(*state, container.state);
            pod.containers.push(known.clone());
            continue;
        }
        match runtime.container_status(&container.id).await {
            Ok(status) => {
                let state = status.state;
                let observed = container_of(status);
                if state == container.state {
                    seen.0.insert(container.id.clone(), (state, observed.clone()));
                }
                pod.containers.push(observed);
            }
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(pod)
}

fn sandbox_of(status: v1::PodSandboxStatus) -> ObservedSandbox {
    let network = status.network.unwrap_or_default();
    let mut ips: Vec<String> = Some(network.ip).filter(|ip| !ip.is_empty()).into_iter().collect();
    ips.extend(network.additional_ips.into_iter().map(|ip| ip.ip));
    let options = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options).unwrap_or_default();
    ObservedSandbox {
        id: status.id,
        attempt: status.metadata.map_or(0, |m| m.attempt),
        ready: status.state == v1::PodSandboxState::SandboxReady as i32,
        host_network: options.network == v1::NamespaceMode::Node as i32,
        ips,
    }
}

fn time(nanoseconds: i64) -> Option<Time> {
    if nanoseconds <= 0 {
        return None;
    }
    // the API's times have whole seconds; what is compared with them must not be finer
    Timestamp::from_second(nanoseconds / 1_000_000_000).ok()
}

fn container_of(status: v1::ContainerStatus) -> ObservedContainer {
    let state = match status.state() {
        v1::ContainerState::ContainerCreated => ContainerState::Created,
        v1::ContainerState::ContainerRunning => ContainerState::Running,
        v1::ContainerState::ContainerExited => ContainerState::Exited,
        v1::ContainerState::ContainerUnknown => ContainerState::Unknown,
    };
    let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    let exited = state == ContainerState::Exited;
    let message = if exited { termination_message(&status) } else { String::new() };
    let name = status.labels.get(labels::CONTAINER_NAME).cloned();
    ObservedContainer {
        name: name.or_else(|| status.metadata.as_ref().map(|m| m.name.clone())).unwrap_or_default(),
        image: status.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
        image_ref: status.image_ref.clone(),
        hash: u64::from_str_radix(&annotation(labels::CONTAINER_HASH), 16).unwrap_or(0),
        restart_count: annotation(labels::RESTART_COUNT).parse().unwrap_or(0),
        state,
        created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        started_at: if state == ContainerState::Created { None } else { time(status.started_at) },
        finished_at: if exited { time(status.finished_at) } else { None },
        exit_code: if exited { status.exit_code } else { 0 },
        reason: if exited { status.reason.clone() } else { String::new() },
        message,
        resources: status.resources.as_ref().and_then(|r| r.linux.as_ref()).map(resources_of),
        user: status
            .user
            .as_ref()
            .and_then(|u| u.linux.as_ref())
            .map(|u| (u.uid, u.gid, u.supplemental_groups.clone())),
        id: status.id,
    }
}

fn resources_of(linux: &v1::LinuxContainerResources) -> ObservedResources {
    let positive = |v: i64| (v > 0).then_some(v);
    ObservedResources {
        // rounded up: a request became shares by rounding down (upstream's `SharesToMilliCPU`)
        cpu_request_millis: positive(linux.cpu_shares).map(|s| (s * 1000 + 1023) / 1024),
        cpu_limit_millis: positive(linux.cpu_period)
            .and_then(|period| positive(linux.cpu_quota).map(|quota| quota * 1000 / period)),
        memory_limit_bytes: positive(linux.memory_limit_in_bytes),
    }
}

/// What the container left behind as its last words (upstream's `getTerminationMessage`).
fn termination_message(status: &v1::ContainerStatus) -> String {
    let annotation = |key: &str| status.annotations.get(key).map(String::as_str).unwrap_or_default();
    let path = annotation(labels::TERMINATION_PATH);
    let fallback = annotation(labels::TERMINATION_POLICY) == "FallbackToLogsOnError" && status.exit_code != 0;
    let mount = status.mounts.iter().find(|m| !path.is_empty() && m.container_path == path);
    let mut message = match mount.map(|m| read_head(Path::new(&m.host_path), MAX_MESSAGE_BYTES)) {
        Some(Ok(text)) => text,
        Some(Err(e)) => {
            return format!("Error on reading termination log {}: {e}", mount.map_or("", |m| &m.host_path));
        }
        None => String::new(),
    };
    if message.is_empty() && fallback {
        message =
            crate::logs::tail(Path::new(&status.log_path), MAX_LOG_BYTES, MAX_LOG_LINES).unwrap_or_default();
    }
    // the runtime's own message counts too, if nothing else was said
    match (status.message.is_empty(), message.is_empty()) {
        (true, _) => message,
        (false, true) => status.message.clone(),
        (false, false) => format!("{}: {message}", status.message),
    }
}

fn read_head(path: &Path, limit: usize) -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(u64::try_from(limit).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::cpu_shares;

    #[test]
    fn a_request_comes_back_from_the_runtime_as_it_went_there() {
        for millis in [3, 10, 19, 20, 21, 22, 35, 100, 250, 999, 1000, 1500] {
            let linux = v1::LinuxContainerResources { cpu_shares: cpu_shares(millis), ..Default::default() };
            assert_eq!(resources_of(&linux).cpu_request_millis, Some(millis));
        }
    }
}
