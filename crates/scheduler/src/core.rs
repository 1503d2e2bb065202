//! The scheduler's state and its steps: what it hears of the cluster, and what is to be done next. Pure.

use crate::cycle::{Placement, Profile, Turn, schedule_probed};
use crate::framework::{Event, Point, Probe, Status};
use crate::pod::PodInfo;
use crate::preemption::Room;
use crate::queue::{Failure, Queue};
use crate::snapshot::Snapshot;
use crate::volumes::Reservation;
use client::{Delta, Key};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The cluster as it is known, the pods that wait, and the rules by which they are placed.
pub struct Core {
    pub profile: Profile,
    pub snapshot: Snapshot,
    pub queue: Queue,
    scheduler_name: String,
    start: usize,
}

/// What is to be done for a pod.
pub enum Step {
    Bind { pod: Arc<PodInfo>, placement: Placement, reservation: Reservation },
    Explain(Explanation),
}

/// Why a pod is not scheduled: for its status and an event.
pub struct Explanation {
    pub pod: Arc<PodInfo>,
    pub message: String,
    /// Room that can be made for it.
    pub room: Room,
    /// Less important pods that lose the room kept for them there: they find another sooner.
    pub displaced: Vec<Arc<PodInfo>>,
    /// Whether room was looked for.
    pub tried_preemption: bool,
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

impl Core {
    pub fn new(profile: Profile, scheduler_name: impl Into<String>) -> Self {
        Self {
            profile,
            snapshot: Snapshot::new(),
            queue: Queue::new(),
            scheduler_name: scheduler_name.into(),
            start: 0,
        }
    }

    fn event(&mut self, event: &Event<'_>, now: Instant) {
        self.queue.on_event(&self.profile, event, now);
    }

    /// A pod appeared, changed or went (`new` is None).
    pub fn on_pod(&mut self, key: &Key, new: Option<Arc<Pod>>, now: Instant) {
        let Some(pod) = new.filter(|p| !is_over(p)) else { return self.pod_gone(key, now) };
        let pod = Arc::new(PodInfo::new(pod));
        if self.snapshot.pod(key).is_some_and(|known| known.uid != pod.uid) {
            self.pod_gone(key, now);
        }
        match pod.node_name().map(str::to_owned) {
            Some(node) => self.pod_on_node(pod, &node, now),
            None => self.pod_waits(pod, now),
        }
    }

    fn pod_on_node(&mut self, pod: Arc<PodInfo>, node: &str, now: Instant) {
        self.queue.remove(&pod.key);
        let assumed = self.snapshot.is_assumed(&pod.key);
        let was = self.snapshot.pod(&pod.key).cloned();
        self.snapshot.confirm(pod.clone(), node);
        match was {
            Some(was) if !assumed => self.event(&Event::PlacedPodChanged(&pod, &was), now),
            _ => self.event(&Event::PodPlaced(&pod), now),
        }
    }

    fn pod_waits(&mut self, pod: Arc<PodInfo>, now: Instant) {
        if pod.scheduler_name() != self.scheduler_name || self.snapshot.is_assumed(&pod.key) {
            return;
        }
        if pod.is_terminating() {
            return self.pod_gone(&pod.key.clone(), now);
        }
        match (pod.nominated_node(), self.queue.pod(&pod.key).and_then(|p| p.nominated_node())) {
            (Some(node), _) => self.snapshot.nominate(pod.clone(), node),
            (None, Some(_)) => drop(self.snapshot.denominate(&pod.key)),
            // a nomination of our own may be on its way to the status
            (None, None) => {}
        }
        self.queue.put(pod, &self.profile, now);
    }

    fn pod_gone(&mut self, key: &Key, now: Instant) {
        self.queue.remove(key);
        let gave_room = self.snapshot.remove_pod(key).or_else(|| self.snapshot.denominate(key));
        self.snapshot.denominate(key);
        if let Some(pod) = gave_room {
            self.event(&Event::PodGone(&pod), now);
        }
    }

    /// A node appeared, changed or went.
    pub fn on_node(&mut self, old: Option<&Arc<Node>>, new: Option<&Arc<Node>>, now: Instant) {
        match (old, new) {
            (_, Some(new)) => {
                self.snapshot.set_node(new.clone());
                match old {
                    None => self.event(&Event::NodeAdded(new), now),
                    // heartbeats help nobody
                    Some(old) if matters(old, new) => self.event(&Event::NodeChanged(new, old), now),
                    Some(_) => {}
                }
            }
            (Some(old), None) => {
                self.snapshot.remove_node(old.metadata.name.as_deref().unwrap_or(""));
                self.event(&Event::NodeRemoved(old), now);
            }
            (None, None) => {}
        }
    }

    /// A namespace appeared or has other labels; None where it went.
    pub fn on_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>, now: Instant) {
        match labels {
            None => self.snapshot.remove_namespace(name),
            Some(labels) if *self.snapshot.namespace_labels(name) != labels => {
                self.snapshot.set_namespace(name, labels);
                self.event(&Event::NamespaceChanged, now);
            }
            Some(_) => {}
        }
    }

    /// Each `on_*` of what volumes need takes a change and wakes the pods that it could help. What went helps nobody.
    pub fn on_claim(&mut self, d: &Delta<PersistentVolumeClaim>, now: Instant) {
        let old = self.snapshot.volumes.set_claim(&d.key, d.new.clone());
        if let Some(new) = &d.new {
            self.event(&Event::Claim(new, old.as_deref()), now);
        }
    }

    pub fn on_volume(&mut self, d: &Delta<PersistentVolume>, now: Instant) {
        let old = self.snapshot.volumes.set_volume(&d.key.name, d.new.clone());
        if let Some(new) = &d.new {
            self.event(&Event::Volume(new, old.as_deref()), now);
        }
    }

    pub fn on_storage_class(&mut self, d: &Delta<StorageClass>, now: Instant) {
        let old = self.snapshot.volumes.set_class(&d.key.name, d.new.clone());
        if let Some(new) = &d.new {
            self.event(&Event::StorageClass(new, old.as_deref()), now);
        }
    }

    pub fn on_csi_node(&mut self, d: &Delta<CSINode>, now: Instant) {
        let old = self.snapshot.volumes.set_csi_node(&d.key.name, d.new.clone());
        if let Some(new) = &d.new {
            self.event(&Event::CsiNode(new, old.as_deref()), now);
        }
    }

    pub fn on_csi_driver(&mut self, d: &Delta<CSIDriver>, now: Instant) {
        let old = self.snapshot.volumes.set_driver(&d.key.name, d.new.clone());
        if let Some(new) = &d.new {
            self.event(&Event::CsiDriver(new, old.as_deref()), now);
        }
    }

    pub fn on_csi_storage_capacity(&mut self, d: &Delta<CSIStorageCapacity>, now: Instant) {
        let old = self.snapshot.volumes.set_capacity(&d.key, d.new.clone());
        if let Some(new) = &d.new {
            self.event(&Event::CsiStorageCapacity(new, old.as_deref()), now);
        }
    }

    /// An attachment that went makes room on its node.
    pub fn on_attachment(&mut self, d: &Delta<VolumeAttachment>, now: Instant) {
        match (&d.old, &d.new) {
            (_, Some(new)) => self.snapshot.volumes.set_attachment(new, false),
            (Some(old), None) => {
                self.snapshot.volumes.set_attachment(old, true);
                self.event(&Event::AttachmentGone(old), now);
            }
            (None, None) => {}
        }
    }

    /// Decides about the next pod; None where none is to be tried now. `dice` chooses among equals.
    pub fn next(&mut self, dice: u64, now: Instant) -> Option<Step> {
        self.next_probed(dice, now, &mut ())
    }

    /// As [`next`](Self::next); `probe` hears of the extension points.
    pub fn next_probed(&mut self, dice: u64, now: Instant, probe: &mut dyn Probe) -> Option<Step> {
        let pod = self.queue.pop(&self.profile, now)?;
        let nodes = self.snapshot.node_count();
        let turn = Turn { start: self.start % nodes.max(1), dice };
        let error = match schedule_probed(&self.profile, &self.snapshot, &pod, turn, probe) {
            Ok(placement) => {
                self.start = (self.start + placement.evaluated) % nodes.max(1);
                probe.begins();
                let reservation = self.profile.reserve(&pod, &self.snapshot, &placement.node);
                self.snapshot.volumes.assume(&reservation);
                self.snapshot.assume(pod.clone(), &placement.node);
                probe.ends(Point::Reserve, Status::Success);
                return Some(Step::Bind { pod, placement, reservation });
            }
            Err(error) => *error,
        };
        let mut displaced = Vec::new();
        match &error.room {
            Room::Made(candidate) => {
                displaced = self.snapshot.displace(&candidate.node, pod.priority);
                self.snapshot.nominate(pod.clone(), &candidate.node);
            }
            Room::NotSought => {}
            Room::None => drop(self.snapshot.denominate(&pod.key)),
        }
        let message = error.message();
        let tried_preemption = error.all_nodes > 0 && error.pre_filter.is_none();
        self.queue.failed(&pod.key, &pod.uid, Failure::Unschedulable(error.plugins), now);
        Some(Step::Explain(Explanation { pod, message, room: error.room, displaced, tried_preemption }))
    }

    /// The API server has been told why the pod was refused.
    pub fn explained(&mut self, pod: &PodInfo) {
        self.queue.explained(&pod.key, &pod.uid);
    }

    /// The API server has the binding. How often the pod was tried, and how long it waited; None where it was
    /// seen on its node before.
    pub fn bound(&mut self, pod: &PodInfo, now: Instant) -> Option<(u32, Duration)> {
        let waited = self.queue.waited(&pod.key, &pod.uid, now);
        self.queue.remove(&pod.key);
        waited
    }

    /// The API server refused the binding, or one of the writes before it; `gone`: because there is no such pod.
    pub fn not_bound(&mut self, pod: &Arc<PodInfo>, reservation: &Reservation, gone: bool, now: Instant) {
        self.snapshot.volumes.forget(reservation);
        // by now a pod of the same name may be on its way to a node
        if self.snapshot.pod(&pod.key).is_some_and(|p| p.uid == pod.uid) {
            self.snapshot.forget(&pod.key);
        }
        if gone && self.queue.pod(&pod.key).is_some_and(|p| p.uid == pod.uid) {
            self.queue.remove(&pod.key);
        } else if !gone {
            self.queue.failed(&pod.key, &pod.uid, Failure::Error, now);
        }
        self.event(&Event::PodGone(pod), now);
    }
}

/// Whether a node changed in what plugins look at.
fn matters(old: &Node, new: &Node) -> bool {
    let spec = |n: &Node| {
        n.spec.as_ref().map(|s| (s.unschedulable.unwrap_or(false), s.taints.clone().unwrap_or_default()))
    };
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    old.metadata.labels != new.metadata.labels
        || spec(old) != spec(new)
        || allocatable(old) != allocatable(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::default_profile;
    use crate::testing::{node, pod, pod_with};
    use serde_json::{Value, json};

    fn core() -> Core {
        Core::new(default_profile(), "default-scheduler")
    }

    fn asks(cpu: &str) -> Value {
        json!({"containers": [{"resources": {"requests": {"cpu": cpu}}}]})
    }

    /// What the core does next; what it explains is written at once.
    fn next(core: &mut Core, now: Instant) -> String {
        match core.next(0, now) {
            None => "nothing".to_owned(),
            Some(Step::Bind { pod, placement, .. }) => format!("{} to {}", pod.key.name, placement.node),
            Some(Step::Explain(e)) => {
                core.explained(&e.pod);
                format!("{}: {}", e.pod.key.name, e.message)
            }
        }
    }

    #[test]
    fn a_pod_waits_for_room_and_takes_it() {
        let (mut c, t) = (core(), Instant::now());
        let a = node("a", json!({}));
        let (p, q) = (pod("p", asks("3")), pod("q", asks("3")));
        c.on_pod(&p.key, Some(p.pod.clone()), t);
        assert_eq!(next(&mut c, t), "p: no nodes available to schedule pods");
        c.on_node(None, Some(&a), t);
        assert_eq!(next(&mut c, t), "p to a");
        c.on_pod(&q.key, Some(q.pod.clone()), t);
        assert!(next(&mut c, t).starts_with(
            "q: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption:"
        ));
        assert_eq!(next(&mut c, t), "nothing");
        assert_eq!(c.bound(&p, t).map(|(attempts, _)| attempts), Some(2));
        let bound =
            pod("p", json!({"nodeName": "a", "containers": [{"resources": {"requests": {"cpu": "3"}}}]}));
        c.on_pod(&p.key, Some(bound.pod.clone()), t);
        assert_eq!(next(&mut c, t), "nothing");
        c.on_pod(&p.key, None, t);
        assert_eq!(next(&mut c, t), "q to a");
    }

    #[test]
    fn a_refused_binding_gives_the_room_back_and_is_tried_again() {
        let (mut c, t) = (core(), Instant::now());
        c.on_node(None, Some(&node("a", json!({}))), t);
        let p = pod("p", asks("3"));
        c.on_pod(&p.key, Some(p.pod.clone()), t);
        assert_eq!(next(&mut c, t), "p to a");
        c.not_bound(&p, &Reservation::default(), false, t);
        assert_eq!(c.snapshot.node("a").unwrap().requested.milli_cpu, 0);
        assert_eq!(next(&mut c, t), "nothing");
        let due = c.queue.next_wake().unwrap();
        assert_eq!(next(&mut c, due), "p to a");
    }

    #[test]
    fn a_late_refusal_leaves_a_pod_of_the_same_name_alone() {
        let (mut c, t) = (core(), Instant::now());
        c.on_node(None, Some(&node("a", json!({}))), t);
        let (old, new) = (pod("p", asks("1")), pod_with("p", json!({"metadata": {"uid": "another"}})));
        c.on_pod(&old.key, Some(old.pod.clone()), t);
        assert_eq!(next(&mut c, t), "p to a");
        c.on_pod(&old.key, None, t);
        c.on_pod(&new.key, Some(new.pod.clone()), t);
        assert_eq!(next(&mut c, t), "p to a");
        c.not_bound(&old, &Reservation::default(), true, t);
        assert!(c.snapshot.is_assumed(&new.key) && c.queue.pod(&new.key).is_some());
    }

    #[test]
    fn a_more_important_pod_takes_the_room_of_a_lesser() {
        let (mut c, t) = (core(), Instant::now());
        c.on_node(None, Some(&node("a", json!({}))), t);
        let asking = |name: &str, priority: i32| {
            pod(
                name,
                json!({"priority": priority, "containers": [{"resources": {"requests": {"cpu": "3"}}}]}),
            )
        };
        let victim = pod(
            "v",
            json!({"nodeName": "a", "priority": 1, "containers": [{"resources": {"requests": {"cpu": "3"}}}]}),
        );
        c.on_pod(&victim.key, Some(victim.pod.clone()), t);
        let mut explain = |pod: &Arc<PodInfo>| {
            c.on_pod(&pod.key, Some(pod.pod.clone()), t);
            let Some(Step::Explain(e)) = c.next(0, t) else { panic!("there is no room yet") };
            c.explained(&e.pod);
            let displaced: Vec<String> = e.displaced.iter().map(|p| p.key.name.to_string()).collect();
            (matches!(e.room, Room::Made(_)), displaced)
        };
        assert_eq!(explain(&asking("lesser", 5)), (true, Vec::new()));
        assert_eq!(explain(&asking("more", 9)), (true, vec!["lesser".to_owned()]));
        assert_eq!(c.snapshot.nominated("a", 0, &victim.key).len(), 1);
    }

    #[test]
    fn other_schedulers_pods_and_ended_ones_are_left_alone() {
        let (mut c, t) = (core(), Instant::now());
        c.on_node(None, Some(&node("a", json!({}))), t);
        for p in [
            pod("other", json!({"schedulerName": "mine"})),
            pod_with("done", json!({"status": {"phase": "Succeeded"}})),
            pod_with("going", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
        ] {
            c.on_pod(&p.key, Some(p.pod.clone()), t);
        }
        assert_eq!(next(&mut c, t), "nothing");
    }

    #[test]
    fn preemption_nominates_and_the_pod_follows() {
        let (mut c, t) = (core(), Instant::now());
        c.on_node(None, Some(&node("a", json!({}))), t);
        let victim = pod(
            "v",
            json!({"nodeName": "a", "priority": 1, "containers": [{"resources": {"requests": {"cpu": "4"}}}]}),
        );
        c.on_pod(&victim.key, Some(victim.pod.clone()), t);
        let p = pod("p", json!({"priority": 9, "containers": [{"resources": {"requests": {"cpu": "2"}}}]}));
        c.on_pod(&p.key, Some(p.pod.clone()), t);
        let Some(Step::Explain(e)) = c.next(0, t) else { panic!("there is no room yet") };
        c.explained(&e.pod);
        assert_eq!(e.message, "0/1 nodes are available: 1 Insufficient cpu.");
        let Room::Made(candidate) = e.room else { panic!("{}", e.message) };
        assert_eq!(candidate.victims[0].key, victim.key);
        // while the victim takes its time, it is asked again, and the room stays its own
        let mut leaving = (*victim.pod).clone();
        leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        leaving.status = serde_json::from_value(json!({"conditions":
            [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]}))
        .unwrap();
        c.on_pod(&victim.key, Some(Arc::new(leaving)), t);
        let other = pod("o", json!({"nodeName": "a", "containers": []}));
        c.on_pod(&other.key, Some(other.pod.clone()), t);
        c.on_pod(&other.key, None, t);
        let t = t + crate::queue::BACKOFF_MAX;
        assert!(next(&mut c, t).contains("terminating pod on the nominated node"));
        c.on_pod(&victim.key, None, t);
        // a less important pod does not take the room
        let lesser = pod("z", asks("3"));
        c.on_pod(&lesser.key, Some(lesser.pod.clone()), t);
        assert!(next(&mut c, t).starts_with("z: 0/1"));
        assert_eq!(next(&mut c, t), "p to a");
    }
}
