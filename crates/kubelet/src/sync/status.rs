//! The pod's status: what `kubectl get pod -o yaml` shows below `status`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStateTerminated, ContainerStatus, HostIP, Pod, PodCondition, PodIP,
    PodStatus, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as ApiTime;
use meta::Time;

use super::actions::sandbox_changed;
use super::conditions::conditions;
use super::containers::{Probed, api_statuses, mark_probed};
use super::phase::phase;
use super::{
    ContainerKind, ContainerState, Failure, PodState, RuntimePod, Waiting, container_names, containers,
    ephemeral_containers, init_containers, is_sidecar,
};
use crate::admission::{limits, quantities, requests};
use crate::qos::qos_class;

/// What a status is made from.
#[derive(Clone, Copy)]
pub(super) struct StatusInput<'a> {
    pub pod: &'a Pod,
    pub observed: &'a RuntimePod,
    pub state: &'a PodState,
    pub now: Time,
    pub failure: Option<&'a Failure>,
    /// Nothing will be restarted any more.
    pub terminal: bool,
}

/// The status as it is now (upstream's `generateAPIPodStatus`).
pub(super) fn build_status(input: &StatusInput<'_>, waiting: &BTreeMap<String, Waiting>) -> PodStatus {
    let StatusInput { pod, observed, state, now, .. } = *input;
    let api = pod.status.clone().unwrap_or_default();
    let old = state.last_status.clone().unwrap_or_else(|| api.clone());
    let regular = containers(pod).to_vec();
    let inits = init_containers(pod).to_vec();
    let ephemeral = ephemeral_containers(pod);
    let statuses = |list, kind, before: &Option<Vec<ContainerStatus>>| {
        let before = before.as_deref().unwrap_or_default();
        api_statuses(input, waiting, list, kind, before)
    };
    let mut container_statuses = statuses(&regular, ContainerKind::Regular, &old.container_statuses);
    let mut init_statuses = statuses(&inits, ContainerKind::Init, &old.init_container_statuses);
    let ephemeral_statuses =
        statuses(&ephemeral, ContainerKind::Ephemeral, &old.ephemeral_container_statuses);
    for (list, specs) in [(&mut container_statuses, &regular), (&mut init_statuses, &inits)] {
        for status in list.iter_mut() {
            let Some(spec) = specs.iter().find(|c| c.name == status.name) else { continue };
            let kind =
                if std::ptr::eq(specs, &inits) && !is_sidecar(spec) { Probed::No } else { Probed::Yes };
            mark_probed(status, spec, kind, state);
        }
    }
    let all = [init_statuses.clone(), container_statuses.clone()].concat();

    let names = container_names(pod);
    let active = observed.containers.iter().any(|c| {
        names.contains(c.name.as_str()) && matches!(c.state, ContainerState::Running | ContainerState::Exited)
    });
    let terminal_phase = |s: &PodStatus| s.phase.clone().filter(|p| p == "Succeeded" || p == "Failed");
    let computed = phase(pod, &all, input.terminal, active).to_owned();
    let mut phase = match terminal_phase(&api).or_else(|| terminal_phase(&old)) {
        // nothing leaves a terminal phase
        Some(fixed) => fixed,
        None => computed,
    };
    let (mut reason, mut message) = (None, None);
    if Some(&phase) == old.phase.as_ref() {
        reason = old.reason.clone().or_else(|| api.reason.clone());
        message = old.message.clone().or_else(|| api.message.clone());
    }
    if let Some(failure) = input.failure.filter(|_| terminal_phase(&api).is_none()) {
        phase = "Failed".into();
        reason = Some(failure.reason.clone());
        message = Some(failure.message.clone());
    }

    let has_sandbox = sandbox_changed(pod, observed).is_none();
    let before = old.conditions.as_deref().unwrap_or_default();
    let resize = super::resize::conditions(pod, observed, state, before, now);
    let mut conditions = conditions(pod, &all, &phase, has_sandbox, before, resize, now);
    if let Some(failure) = input.failure.filter(|f| f.disrupts) {
        mark_disrupted(&mut conditions, pod, failure, now);
    }
    let (host_ip, host_ips, pod_ip, pod_ips) = addresses(input, &old);
    // of the pod as a whole
    let whole = ResourceRequirements {
        claims: None,
        requests: quantities(&requests(pod)),
        limits: quantities(&limits(pod)),
    };
    let none_if_empty = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    PodStatus {
        conditions: Some(conditions),
        container_statuses: none_if_empty(container_statuses),
        init_container_statuses: none_if_empty(init_statuses),
        ephemeral_container_statuses: none_if_empty(ephemeral_statuses),
        host_ip,
        host_ips,
        pod_ip,
        pod_ips,
        phase: Some(phase),
        reason,
        message,
        observed_generation: pod.metadata.generation,
        qos_class: Some(qos_class(pod).to_owned()),
        start_time: old.start_time.or(api.start_time).or(Some(ApiTime(now))),
        nominated_node_name: api.nominated_node_name,
        resource_claim_statuses: api.resource_claim_statuses,
        extended_resource_claim_status: api.extended_resource_claim_status,
        allocated_resources: whole.requests.clone(),
        resources: (whole.requests.is_some() || whole.limits.is_some()).then_some(whole),
        ..PodStatus::default()
    }
}

type Addresses = (Option<String>, Option<Vec<HostIP>>, Option<String>, Option<Vec<PodIP>>);

fn addresses(input: &StatusInput<'_>, old: &PodStatus) -> Addresses {
    let hosts = &input.state.host_ips;
    let host_network = input.pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
    let mut ips: Vec<String> = if host_network { hosts.clone() } else { input.observed.ips().to_vec() };
    if ips.is_empty() && input.terminal {
        // what an ended pod's address was stays known
        ips = old.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect();
    }
    let some = |list: &[String]| (!list.is_empty()).then_some(());
    (
        hosts.first().cloned(),
        some(hosts).map(|()| hosts.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        ips.first().cloned(),
        some(&ips).map(|()| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
    )
}

/// The condition that tells others that the pod did not fail by itself.
fn mark_disrupted(conditions: &mut Vec<PodCondition>, pod: &Pod, failure: &Failure, now: Time) {
    const TYPE: &str = "DisruptionTarget";
    let before = conditions.iter().position(|c| c.type_ == TYPE).map(|at| conditions.remove(at));
    let since = before.filter(|c| c.status == "True").and_then(|c| c.last_transition_time);
    conditions.push(PodCondition {
        type_: TYPE.into(),
        status: "True".into(),
        reason: Some("TerminationByKubelet".into()),
        message: Some(failure.message.clone()),
        last_transition_time: since.or(Some(ApiTime(now))),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    });
}

/// The last touch when nothing of the pod runs (upstream's `TerminatePod`): containers without an end
/// get one, the phase becomes terminal.
pub(super) fn finalize_terminated(pod: &Pod, status: &mut PodStatus) {
    if was_initialized(pod, status) {
        for s in status.container_statuses.iter_mut().flatten() {
            mark_lost(s);
        }
    }
    if let Some(inits) = &mut status.init_container_statuses {
        let ran = |s: &ContainerStatus| {
            s.state.as_ref().is_none_or(|s| s.waiting.is_none())
                || s.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
        };
        let count = inits.iter().rposition(ran).map_or(1, |i| i + 1);
        inits.iter_mut().take(count).for_each(mark_lost);
    }
    if !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        status.phase = Some("Failed".into());
    }
}

fn mark_lost(status: &mut ContainerStatus) {
    if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        return;
    }
    status.started = Some(false);
    status.ready = false;
    status.state = Some(ApiState { terminated: Some(lost()), ..ApiState::default() });
}

fn lost() -> ContainerStateTerminated {
    ContainerStateTerminated {
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("The container could not be located when the pod was terminated".into()),
        exit_code: 137,
        ..ContainerStateTerminated::default()
    }
}

fn was_initialized(pod: &Pod, status: &PodStatus) -> bool {
    if init_containers(pod).is_empty() {
        return true;
    }
    let terminated = |s: &Option<ApiState>| s.as_ref().and_then(|s| s.terminated.clone());
    let moved = |s: &ContainerStatus| {
        terminated(&s.last_state).is_some() || s.state.as_ref().is_none_or(|s| s.waiting.is_none())
    };
    if status.container_statuses.iter().flatten().any(moved) {
        return true;
    }
    let Some(last) = status.init_container_statuses.as_ref().and_then(|l| l.last()) else { return false };
    let sidecar = init_containers(pod).iter().any(|c| c.name == last.name && is_sidecar(c));
    if sidecar {
        return last.started == Some(true) && last.state.as_ref().is_some_and(|s| s.running.is_some());
    }
    [&last.state, &last.last_state].into_iter().any(|s| terminated(s).is_some_and(|t| t.exit_code == 0))
}
