//! Eviction: pods that use more of the node than it has to spare, or more local storage than they may, are ended,
//! so that the node and the other pods go on. What is decided is in [`state`], [`rank`] and [`threshold`]; here it is
//! looked at and carried out.

mod rank;
pub mod state;
pub mod threshold;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cri::ImageApi;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::pods::Pods;
use crate::qos::qos_class;
use crate::server::PodSource;
use crate::server::stats::{Collector, NodeStats, Summary};
use crate::shared::Shared;
use crate::sync::Failure;
use state::State;
use threshold::{Condition, Observation, Observations, Signal};

/// How often the node is looked at (upstream's `evictionMonitoringPeriod`).
const PERIOD: Duration = Duration::from_secs(10);
/// How long an evicted pod is waited for before the next look.
const CLEANUP: Duration = Duration::from_secs(30);
const CLEANUP_LOOK: Duration = Duration::from_secs(1);
/// Time to end when the node cannot wait, in seconds.
const IMMEDIATE_GRACE_SECONDS: i64 = 1;
const REASON: &str = "Evicted";
/// From this priority on a pod is critical and never evicted (`system-cluster-critical`).
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// What the node is short of, for those who admit pods and report the node.
#[derive(Default)]
pub struct Pressure(RwLock<BTreeSet<Condition>>);

impl Pressure {
    pub fn has(&self, condition: Condition) -> bool {
        self.0.read().contains(&condition)
    }

    /// Why no such pod may start now; `None` if it may.
    pub fn refuses(&self, pod: &Pod) -> Option<String> {
        let conditions = self.0.read();
        if conditions.is_empty() || is_critical(pod) {
            return None;
        }
        let memory_alone = conditions.iter().eq([&Condition::Memory]);
        if memory_alone && (qos_class(pod) != "BestEffort" || tolerates_memory_pressure(pod)) {
            return None;
        }
        let names: Vec<_> = conditions.iter().map(|c| c.as_str()).collect();
        Some(format!("The node had condition: [{}]. ", names.join(" ")))
    }
}

fn is_critical(pod: &Pod) -> bool {
    let source = pod.metadata.annotations.as_ref().and_then(|a| a.get("kubernetes.io/config.source"));
    source.is_some_and(|s| s != "api")
        || pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= CRITICAL_PRIORITY)
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    let fits = |t: &Toleration| {
        let (key, effect) = (text(&t.key), text(&t.effect));
        let exists = t.operator.as_deref() == Some("Exists");
        (key.is_empty() && exists || key == "node.kubernetes.io/memory-pressure")
            && (effect.is_empty() || effect == "NoSchedule")
            && (exists || text(&t.value).is_empty())
    };
    pod.spec.iter().flat_map(|s| s.tolerations.iter().flatten()).any(fits)
}

/// What is evicted with.
pub struct Manager {
    pub shared: Arc<Shared>,
    pub pods: Arc<Pods>,
    pub images: Arc<dyn ImageApi>,
    pub collector: Arc<Collector>,
}

impl Manager {
    /// Looks and acts until told to stop.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut state = State::default();
        loop {
            let evicted = self.look(&mut state).await;
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.ended(&evicted), if !evicted.is_empty() => {}
                () = tokio::time::sleep(PERIOD), if evicted.is_empty() => {}
            }
        }
    }

    /// Returns when the pods have ended, or after a while.
    async fn ended(&self, uids: &[String]) {
        let end = tokio::time::Instant::now() + CLEANUP;
        let busy = || {
            uids.iter().filter_map(|uid| self.pods.get(uid)).any(|h| h.view.borrow().observed.is_running())
        };
        loop {
            tokio::time::sleep(CLEANUP_LOOK).await;
            if !busy() || tokio::time::Instant::now() >= end {
                return;
            }
        }
    }

    async fn summary(&self) -> Summary {
        self.collector.summary(&PodSource::pods(&*self.pods), client::now()).await
    }

    /// One look; the uids of the pods that were evicted.
    async fn look(&self, state: &mut State) -> Vec<String> {
        let config = &self.shared.config;
        let summary = self.summary().await;
        let seen = observe(&summary.node);
        let transition = i64::try_from(config.eviction_transition.as_secs()).unwrap_or(i64::MAX);
        *state = state::next(state, &config.eviction, &seen, transition, client::now());
        let changed = {
            let mut conditions = self.shared.pressure.0.write();
            let changed = *conditions != state.conditions;
            conditions.clone_from(&state.conditions);
            changed
        };
        if changed {
            self.shared.node_changed.notify_one();
        }
        let active = self.active();
        let stats: rank::Stats<'_> = summary.pods.iter().map(|s| (s.pod_ref.uid.as_str(), s)).collect();
        let own_image_fs = summary.node.own_image_fs;
        let mut evicted = Vec::new();
        for pod in &active {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let over = stats.get(uid).and_then(|s| rank::over_limit(pod, s, own_image_fs));
            if let Some(message) = over
                && self.evict(pod, message, BTreeMap::new(), IMMEDIATE_GRACE_SECONDS, false)
            {
                evicted.push(uid.to_owned());
            }
        }
        if !evicted.is_empty() {
            return evicted;
        }
        let Some(threshold) = state.to_reclaim() else { return evicted };
        self.tell_node(threshold.signal.resource());
        if threshold.signal.condition() == Condition::Disk && self.reclaim(&active).await {
            return evicted;
        }
        let mut ranked = active;
        rank::rank(&mut ranked, &stats, threshold.signal, own_image_fs);
        for pod in &ranked {
            let own = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
            let grace = match threshold.grace_seconds {
                0 => IMMEDIATE_GRACE_SECONDS,
                _ => own.map_or(config.eviction_max_grace_seconds, |own| {
                    own.min(config.eviction_max_grace_seconds)
                }),
            };
            let (message, annotations) = rank::message(pod, &stats, &threshold, &state.met, &seen);
            if self.evict(pod, message, annotations, grace, true) {
                // one at a time: it may be enough
                return vec![pod.metadata.uid.clone().unwrap_or_default()];
            }
        }
        tracing::warn!(
            resource = threshold.signal.resource(),
            "the node is short, and no pod can be evicted"
        );
        Vec::new()
    }

    /// Pods that have not ended and are not about to.
    fn active(&self) -> Vec<Arc<Pod>> {
        let list = self.pods.list().into_iter().filter(|(_, view)| {
            let phase = view.status.as_ref().and_then(|s| s.phase.as_deref());
            !view.finished && !matches!(phase, Some("Succeeded" | "Failed"))
        });
        list.map(|(pod, _)| pod).filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }

    /// Frees what belongs to nobody; whether that was enough.
    async fn reclaim(&self, active: &[Arc<Pod>]) -> bool {
        for pod in active {
            if let Some(handle) = pod.metadata.uid.as_deref().and_then(|uid| self.pods.get(uid)) {
                handle.wake.collect();
            }
        }
        crate::housekeeping::remove_unused_images(&self.shared, &self.pods, &*self.images).await;
        let seen = observe(&self.summary().await.node);
        state::met(&self.shared.config.eviction, &seen, true).is_empty()
    }

    fn tell_node(&self, resource: &str) {
        let about = crate::node::reference(&self.shared.config.node_name);
        self.shared.recorder.warning(
            &about,
            "EvictionThresholdMet",
            format!("Attempting to reclaim {resource}"),
        );
    }

    /// Ends a pod; false if it must not be.
    fn evict(
        &self,
        pod: &Pod,
        message: String,
        annotations: BTreeMap<String, String>,
        grace_seconds: i64,
        disrupts: bool,
    ) -> bool {
        if is_critical(pod) {
            return false;
        }
        let Some(uid) = pod.metadata.uid.as_deref() else { return false };
        tracing::info!(pod = ?pod.metadata.name, message, ?annotations, "a pod is evicted");
        self.shared.event(pod, None, true, REASON, message.clone());
        let reason = REASON.to_owned();
        self.pods.evict(uid, Failure { reason, message, grace_seconds: Some(grace_seconds), disrupts });
        true
    }
}

/// What there is of everything that can run short.
fn observe(node: &NodeStats) -> Observations {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let mut seen = Observations::new();
    let mut put = |signal, available: u64, capacity: u64| {
        if capacity > 0 {
            let (available, capacity) = (signed(available), signed(capacity));
            seen.insert(signal, Observation { available, capacity });
        }
    };
    if let Some((memory, available)) = node.memory.as_ref().and_then(|m| Some((m, m.available_bytes?))) {
        put(Signal::MemoryAvailable, available, available.saturating_add(memory.working_set_bytes));
    }
    if let Some(fs) = &node.fs {
        put(Signal::NodeFsAvailable, fs.available_bytes, fs.capacity_bytes);
        put(Signal::NodeFsInodesFree, fs.inodes_free, fs.inodes);
    }
    if let Some(fs) = node.runtime.as_ref().map(|r| &r.image_fs) {
        put(Signal::ImageFsAvailable, fs.available_bytes, fs.capacity_bytes);
        put(Signal::ImageFsInodesFree, fs.inodes_free, fs.inodes);
    }
    if let Some(limit) = &node.rlimit {
        put(Signal::PidAvailable, limit.maxpid.saturating_sub(limit.curproc), limit.maxpid);
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_under_pressure_takes_only_what_it_must() {
        #[track_caller]
        fn check(conditions: &[Condition], spec: serde_json::Value, expect: Option<&str>) {
            let mut spec = spec;
            if spec.get("containers").is_none() {
                spec["containers"] = json!([{"name": "c"}]);
            }
            let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
            let pressure = Pressure(RwLock::new(conditions.iter().copied().collect()));
            assert_eq!(pressure.refuses(&pod).as_deref(), expect);
        }
        let memory = [Condition::Memory];
        check(&[], json!({}), None);
        check(&memory, json!({}), Some("The node had condition: [MemoryPressure]. "));
        let burstable = json!([{"name": "c", "resources": {"requests": {"cpu": "1"}}}]);
        check(&memory, json!({ "containers": burstable }), None);
        let toleration = json!([{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]);
        check(&memory, json!({ "tolerations": toleration }), None);
        check(
            &[Condition::Disk, Condition::Memory],
            json!({ "containers": burstable }),
            Some("The node had condition: [MemoryPressure DiskPressure]. "),
        );
        check(&[Condition::Disk], json!({"priority": 2_000_000_000}), None);
    }
}
