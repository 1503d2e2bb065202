//! The conditions the kubelet owns, with upstream's reasons and messages.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

use super::{container_names, containers, go_list, init_containers, is_sidecar};

/// Conditions that are the kubelet's; all others in the status are somebody else's and stay.
pub(super) const OWNED: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    super::resize::PENDING,
    super::resize::IN_PROGRESS,
];

fn condition(type_: &str, status: bool, reason: &str, message: String) -> PodCondition {
    PodCondition {
        type_: type_.into(),
        status: if status { "True" } else { "False" }.into(),
        reason: (!reason.is_empty()).then(|| reason.into()),
        message: (!message.is_empty()).then_some(message),
        ..PodCondition::default()
    }
}

fn renamed(mut condition: PodCondition, type_: &str) -> PodCondition {
    condition.type_ = type_.into();
    condition
}

fn trouble(unknown: &[&str], other: &[&str], word: &str) -> String {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: {}", go_list(unknown)));
    }
    if !other.is_empty() {
        parts.push(format!("containers with {word} status: {}", go_list(other)));
    }
    parts.join(", ")
}

fn containers_ready(pod: &Pod, statuses: &[ContainerStatus], phase: &str) -> PodCondition {
    const TYPE: &str = "ContainersReady";
    let sidecars = init_containers(pod).iter().filter(|c| is_sidecar(c));
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for c in sidecars.chain(containers(pod)) {
        match statuses.iter().find(|s| s.name == c.name) {
            None => unknown.push(c.name.as_str()),
            Some(s) if !s.ready => unready.push(c.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return condition(TYPE, false, "PodCompleted", String::new());
    }
    if phase == "Failed" {
        return condition(TYPE, false, "PodFailed", String::new());
    }
    let message = trouble(&unknown, &unready, "unready");
    if message.is_empty() {
        condition(TYPE, true, "", String::new())
    } else {
        condition(TYPE, false, "ContainersNotReady", message)
    }
}

fn ready(pod: &Pod, containers_ready: &PodCondition, foreign: &[PodCondition]) -> PodCondition {
    if containers_ready.status != "True" {
        return renamed(containers_ready.clone(), "Ready");
    }
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_deref()).unwrap_or_default();
    let messages: Vec<String> = gates
        .iter()
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match foreign.iter().find(|c| &c.type_ == name) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate {name:?} does not exist."))
                }
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate {name:?} is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if messages.is_empty() {
        condition("Ready", true, "", String::new())
    } else {
        condition("Ready", false, "ReadinessGatesNotReady", messages.join(", "))
    }
}

fn initialized(pod: &Pod, statuses: &[ContainerStatus], phase: &str) -> PodCondition {
    const TYPE: &str = "Initialized";
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for c in init_containers(pod) {
        match statuses.iter().find(|s| s.name == c.name) {
            None => unknown.push(c.name.as_str()),
            Some(s) => {
                let done = if is_sidecar(c) { s.started == Some(true) } else { s.ready };
                if !done {
                    incomplete.push(c.name.as_str());
                }
            }
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return condition(TYPE, true, "PodCompleted", String::new());
    }
    let names = container_names(pod);
    let started = statuses.iter().any(|s| {
        let state = s.state.as_ref();
        names.contains(s.name.as_str())
            && state.is_some_and(|s| s.running.is_some() || s.terminated.is_some())
    });
    let message = trouble(&unknown, &incomplete, "incomplete");
    if started || message.is_empty() {
        condition(TYPE, true, "", String::new())
    } else {
        condition(TYPE, false, "ContainersNotInitialized", message)
    }
}

/// All conditions of the status: foreign ones as they are, then the kubelet's. Times of transition are
/// taken from `old` where the status did not change.
pub(super) fn conditions(
    pod: &Pod,
    statuses: &[ContainerStatus],
    phase: &str,
    has_sandbox: bool,
    old: &[PodCondition],
    resize: Vec<PodCondition>,
    now: meta::Time,
) -> Vec<PodCondition> {
    let current = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let foreign: Vec<_> = current.iter().filter(|c| !OWNED.contains(&c.type_.as_str())).cloned().collect();
    let containers_ready = containers_ready(pod, statuses, phase);
    let mut own = vec![
        condition("PodReadyToStartContainers", has_sandbox, "", String::new()),
        initialized(pod, statuses, phase),
        ready(pod, &containers_ready, &foreign),
        containers_ready,
        condition("PodScheduled", true, "", String::new()),
    ];
    for c in &mut own {
        let before = old.iter().chain(current).find(|o| o.type_ == c.type_);
        c.last_transition_time = match before {
            Some(o) if o.status == c.status && o.last_transition_time.is_some() => {
                o.last_transition_time.clone()
            }
            _ => Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now)),
        };
        c.observed_generation = pod.metadata.generation;
    }
    [foreign, own, resize].concat()
}
