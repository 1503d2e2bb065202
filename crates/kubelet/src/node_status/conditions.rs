//! The node's conditions, with upstream's reasons and messages.

use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as ApiTime;
use meta::Time;

use super::{HostFacts, Settings, find};

/// What the node is short of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

/// What is said of one kind of pressure: with it and without it, reason, message and event.
struct Words {
    type_: &'static str,
    under: [&'static str; 3],
    well: [&'static str; 3],
}

const MEMORY: Words = Words {
    type_: "MemoryPressure",
    under: [
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
        "NodeHasInsufficientMemory",
    ],
    well: [
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
        "NodeHasSufficientMemory",
    ],
};
const DISK: Words = Words {
    type_: "DiskPressure",
    under: ["KubeletHasDiskPressure", "kubelet has disk pressure", "NodeHasDiskPressure"],
    well: ["KubeletHasNoDiskPressure", "kubelet has no disk pressure", "NodeHasNoDiskPressure"],
};
const PID: Words = Words {
    type_: "PIDPressure",
    under: ["KubeletHasInsufficientPID", "kubelet has insufficient PID available", "NodeHasInsufficientPID"],
    well: ["KubeletHasSufficientPID", "kubelet has sufficient PID available", "NodeHasSufficientPID"],
};

/// The kubelet's conditions, `Ready` last; those of others stay.
pub(super) fn conditions(
    last: Option<&[NodeCondition]>,
    facts: &HostFacts,
    settings: &Settings,
    now: Time,
    events: &mut Vec<&'static str>,
) -> Vec<NodeCondition> {
    let last = last.unwrap_or_default();
    let own = [MEMORY.type_, DISK.type_, PID.type_, "Ready"];
    let mut all: Vec<NodeCondition> =
        last.iter().filter(|c| !own.contains(&c.type_.as_str())).cloned().collect();
    let Conditions { memory, disk, pid } = facts.pressure;
    for (words, under) in [(MEMORY, memory), (DISK, disk), (PID, pid)] {
        let [reason, message, event] = if under { words.under } else { words.well };
        let (condition, changed) = condition(last, words.type_, under, reason, message, now);
        if changed {
            events.push(event);
        }
        all.push(condition);
    }
    let known = !last.is_empty() && find(last, "Ready").is_some();
    let errors = errors(facts, settings);
    let (ready, changed) = match &errors {
        None => condition(last, "Ready", true, "KubeletReady", "kubelet is posting ready status", now),
        Some(message) => condition(last, "Ready", false, "KubeletNotReady", message, now),
    };
    // the first status of a node is no change
    if changed && known {
        events.push(if errors.is_none() { "NodeReady" } else { "NodeNotReady" });
    }
    all.push(ready);
    all
}

/// A condition of now, and whether its status is another than in the last status.
fn condition(
    last: &[NodeCondition],
    type_: &str,
    is_true: bool,
    reason: &str,
    message: &str,
    now: Time,
) -> (NodeCondition, bool) {
    let status = if is_true { "True" } else { "False" };
    let before = find(last, type_).filter(|condition| condition.status == status);
    let since = before.and_then(|condition| condition.last_transition_time.clone());
    let condition = NodeCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: Some(ApiTime(now)),
        last_transition_time: Some(since.unwrap_or(ApiTime(now))),
    };
    (condition, before.is_none())
}

/// Why the node is not ready, in the form of Go's aggregated errors.
fn errors(facts: &HostFacts, settings: &Settings) -> Option<String> {
    let runtime = [&facts.runtime.runtime_error, &facts.runtime.network_error];
    let mut all: Vec<&str> = runtime.into_iter().flatten().map(String::as_str).collect();
    all.extend(settings.errors.iter().map(String::as_str));
    match all.as_slice() {
        [] => None,
        [one] => Some((*one).to_owned()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node_status::Disk;

    fn healthy() -> HostFacts {
        HostFacts {
            memory_bytes: 8 << 30,
            memory_available_bytes: 4 << 30,
            node_fs: Disk { capacity_bytes: 100, available_bytes: 50, inodes: 100, inodes_free: 50 },
            max_pids: 1000,
            running_pids: 10,
            ..HostFacts::default()
        }
    }

    fn at(text: &str) -> Time {
        text.parse().unwrap()
    }

    #[test]
    fn a_node_that_is_short_of_something_says_so() {
        let mut facts = healthy();
        facts.pressure.disk = true;
        let mut events = Vec::new();
        let all = conditions(None, &facts, &Settings::default(), at("2026-06-01T00:00:00Z"), &mut events);
        let disk = all.iter().find(|c| c.type_ == "DiskPressure").unwrap();
        assert_eq!((disk.status.as_str(), disk.reason.as_deref()), ("True", Some("KubeletHasDiskPressure")));
        assert!(events.contains(&"NodeHasDiskPressure"));
    }

    #[test]
    fn ready_follows_the_runtime_and_its_transition_time_stays() {
        let settings = Settings::default();
        let mut events = Vec::new();
        let first = conditions(None, &healthy(), &settings, at("2026-06-01T00:00:00Z"), &mut events);
        assert_eq!(events, ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]);
        let ready = first.last().unwrap();
        assert_eq!((ready.type_.as_str(), ready.status.as_str()), ("Ready", "True"));
        assert_eq!(ready.message.as_deref(), Some("kubelet is posting ready status"));

        events.clear();
        let second = conditions(Some(&first), &healthy(), &settings, at("2026-06-01T00:01:00Z"), &mut events);
        let ready = second.last().unwrap();
        assert_eq!(ready.last_transition_time, Some(ApiTime(at("2026-06-01T00:00:00Z"))));
        assert_eq!(ready.last_heartbeat_time, Some(ApiTime(at("2026-06-01T00:01:00Z"))));
        assert!(events.is_empty());

        let mut facts = healthy();
        facts.runtime.runtime_error = Some("container runtime is down".into());
        facts.runtime.network_error = Some("no network".into());
        let third = conditions(Some(&second), &facts, &settings, at("2026-06-01T00:02:00Z"), &mut events);
        let ready = third.last().unwrap();
        assert_eq!(ready.message.as_deref(), Some("[container runtime is down, no network]"));
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("KubeletNotReady")));
        assert_eq!(ready.last_transition_time, Some(ApiTime(at("2026-06-01T00:02:00Z"))));
        assert_eq!(events, ["NodeNotReady"]);
    }
}
