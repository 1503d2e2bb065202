//! What the scheduler counts, under upstream's names (`scheduler_*`), in the Prometheus text form.

use crate::core::Core;
use crate::framework::{Point, Probe, Status};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

type Labels = Vec<(&'static str, String)>;

/// Attempts of a pod from which on they are counted together (upstream's `getAttemptsLabel`).
const MANY_ATTEMPTS: u32 = 15;

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Scheduled,
    Unschedulable,
    Error,
}

impl Outcome {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Scheduled, "scheduled"), (Self::Unschedulable, "unschedulable"), (Self::Error, "error")];
}

/// One outcome's count and duration.
struct Attempts {
    count: Counter,
    seconds: Histogram,
}

/// Cloning shares it. One serves a scheduler for life, however often it leads.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    /// By [`Outcome::ALL`].
    attempts: [Attempts; 3],
    algorithm: Histogram,
    points: Family<Labels, Histogram, fn() -> Histogram>,
    /// Those of `points` that there are, by [`Point::ALL`] and [`Status::ALL`].
    known_points: [[OnceLock<Histogram>; Status::ALL.len()]; Point::ALL.len()],
    victims: Histogram,
    preemptions: Counter,
    sli: Family<Labels, Histogram, fn() -> Histogram>,
    pod_attempts: Histogram,
    incoming: Family<Labels, Counter>,
    pending: Family<Labels, Gauge>,
    unschedulable: Family<Labels, Gauge>,
    cache: Family<Labels, Gauge>,
    profile: String,
    /// The scheduler's state while it leads: what is a level and not a count is read from it when asked.
    core: Mutex<Weak<Mutex<Core>>>,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

fn sli_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 2.0, 20))
}

impl Metrics {
    pub fn new(profile: &str) -> Self {
        let mut registry = Registry::with_prefix("scheduler");
        let of = |labels: &[(&'static str, &str)]| -> Labels {
            labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect()
        };
        let attempts = Family::<Labels, Counter>::default();
        let attempt_seconds = Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(seconds);
        let points = Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.0001, 2.0, 12))
        });
        let inner = Inner {
            attempts: Outcome::ALL.map(|(_, result)| {
                let labels = of(&[("result", result), ("profile", profile)]);
                Attempts {
                    count: attempts.get_or_create(&labels).clone(),
                    seconds: attempt_seconds.get_or_create(&labels).clone(),
                }
            }),
            points: points.clone(),
            known_points: Default::default(),
            algorithm: seconds(),
            victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            preemptions: Counter::default(),
            sli: Family::new_with_constructor(sli_seconds),
            pod_attempts: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            incoming: Family::default(),
            pending: Family::default(),
            unschedulable: Family::default(),
            cache: Family::default(),
            profile: profile.to_owned(),
            core: Mutex::default(),
            registry: Mutex::default(),
        };
        registry.register(
            "schedule_attempts",
            "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem",
            attempts,
        );
        registry.register(
            "scheduling_attempt_duration_seconds",
            "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
            attempt_seconds,
        );
        registry.register(
            "scheduling_algorithm_duration_seconds",
            "Scheduling algorithm latency in seconds",
            inner.algorithm.clone(),
        );
        registry.register(
            "framework_extension_point_duration_seconds",
            "Latency for running all plugins of a specific extension point",
            points,
        );
        registry.register(
            "preemption_victims",
            "Number of selected preemption victims",
            inner.victims.clone(),
        );
        registry.register(
            "preemption_attempts",
            "Total preemption attempts in the cluster till now",
            inner.preemptions.clone(),
        );
        registry.register(
            "pod_scheduling_sli_duration_seconds",
            "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts",
            inner.sli.clone(),
        );
        registry.register(
            "pod_scheduling_attempts",
            "Number of attempts to successfully schedule a pod",
            inner.pod_attempts.clone(),
        );
        registry.register(
            "queue_incoming_pods",
            "Number of pods added to scheduling queues by event and queue type",
            inner.incoming.clone(),
        );
        registry.register(
            "pending_pods",
            "Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated",
            inner.pending.clone(),
        );
        registry.register(
            "unschedulable_pods",
            "The number of unschedulable pods broken down by plugin name. A pod will increment the gauge for all plugins that caused it to not schedule and so this metric have meaning only when broken down by plugin",
            inner.unschedulable.clone(),
        );
        registry.register(
            "cache_size",
            "Number of nodes, pods, and assumed (bound) pods in the scheduler cache",
            inner.cache.clone(),
        );
        *inner.registry.lock() = registry;
        Self(Arc::new(inner))
    }

    pub(crate) fn leads(&self, core: &Arc<Mutex<Core>>) {
        *self.0.core.lock() = Arc::downgrade(core);
    }

    /// An attempt ended, `took` after it began.
    pub(crate) fn attempted(&self, outcome: Outcome, took: Duration) {
        for (i, (of, _)) in Outcome::ALL.iter().enumerate() {
            if *of == outcome {
                self.0.attempts[i].count.inc();
                self.0.attempts[i].seconds.observe(took.as_secs_f64());
            }
        }
    }

    /// A pod is bound after so many attempts, `waited` after it came.
    pub(crate) fn bound(&self, attempts: u32, waited: Duration) {
        self.0.pod_attempts.observe(f64::from(attempts));
        let label =
            if attempts >= MANY_ATTEMPTS { format!("{MANY_ATTEMPTS}+") } else { attempts.to_string() };
        self.0.sli.get_or_create(&vec![("attempts", label)]).observe(waited.as_secs_f64());
    }

    pub(crate) fn decided(&self, took: Duration) {
        self.0.algorithm.observe(took.as_secs_f64());
    }

    /// Preemption looked for room; `victims` where it found some.
    pub(crate) fn preempted(&self, victims: Option<usize>) {
        self.0.preemptions.inc();
        if let Some(victims) = victims {
            self.0.victims.observe(victims as f64);
        }
    }

    pub(crate) fn ended(&self, point: Point, status: Status, took: Duration) {
        let known = self.0.known_points[point as usize][status as usize].get_or_init(|| {
            let labels = vec![
                ("extension_point", Point::ALL[point as usize].1.to_owned()),
                ("status", Status::ALL[status as usize].1.to_owned()),
                ("profile", self.0.profile.clone()),
            ];
            self.0.points.get_or_create(&labels).clone()
        });
        known.observe(took.as_secs_f64());
    }

    /// Times the extension points of one decision.
    pub(crate) fn stopwatch(&self) -> Stopwatch<'_> {
        Stopwatch { metrics: self, since: Instant::now() }
    }

    /// The text that `/metrics` answers.
    pub fn render(&self) -> String {
        if let Some(core) = self.0.core.lock().upgrade() {
            self.read(&mut core.lock());
        }
        let mut out = String::new();
        // writing into a String cannot fail
        let _ = prometheus_client::encoding::text::encode(&mut out, &self.0.registry.lock());
        out
    }

    fn read(&self, core: &mut Core) {
        let counts = core.queue.counts();
        let queues = [
            ("active", counts.active),
            ("backoff", counts.backoff),
            ("unschedulable", counts.unschedulable),
            ("gated", counts.gated),
        ];
        for (queue, n) in queues {
            self.0.pending.get_or_create(&vec![("queue", queue.to_owned())]).set(n as i64);
        }
        self.0.unschedulable.clear();
        for (plugin, n) in core.queue.refusals() {
            let labels = vec![("plugin", plugin.to_owned()), ("profile", self.0.profile.clone())];
            self.0.unschedulable.get_or_create(&labels).set(n as i64);
        }
        for ((queue, event), n) in core.queue.take_incoming() {
            let labels = vec![("queue", queue.to_owned()), ("event", event.to_owned())];
            self.0.incoming.get_or_create(&labels).inc_by(n);
        }
        let (pods, assumed) = core.snapshot.pod_counts();
        for (what, n) in [("nodes", core.snapshot.node_count()), ("pods", pods), ("assumed_pods", assumed)] {
            self.0.cache.get_or_create(&vec![("type", what.to_owned())]).set(n as i64);
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("profile", &self.0.profile).finish_non_exhaustive()
    }
}

pub(crate) struct Stopwatch<'a> {
    metrics: &'a Metrics,
    since: Instant,
}

impl Probe for Stopwatch<'_> {
    fn begins(&mut self) {
        self.since = Instant::now();
    }

    fn ends(&mut self, point: Point, status: Status) {
        self.metrics.ended(point, status, self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::default_profile;
    use crate::testing::{node, pod};
    use serde_json::json;

    #[test]
    fn what_the_scheduler_counts() {
        let metrics = Metrics::new("default-scheduler");
        let core = Arc::new(Mutex::new(Core::new(default_profile(), "default-scheduler")));
        metrics.leads(&core);
        let now = Instant::now();
        {
            let mut core = core.lock();
            core.on_node(None, Some(&node("a", json!({}))), now);
            for (name, spec) in [
                ("fits", json!({})),
                ("waits", json!({"nodeSelector": {"disk": "ssd"}})),
                ("gated", json!({"schedulingGates": [{"name": "g"}]})),
            ] {
                let pod = pod(name, spec);
                core.on_pod(&pod.key, Some(pod.pod.clone()), now);
            }
            for _ in 0..2 {
                core.next_probed(0, now, &mut metrics.stopwatch()).expect("a pod waits");
            }
            let fits =
                core.queue.pod(&client::Key::new("default", "fits")).cloned().expect("it is in flight");
            let (attempts, waited) = core.bound(&fits, now + Duration::from_secs(2)).expect("it was tried");
            metrics.bound(attempts, waited);
        }
        metrics.attempted(Outcome::Scheduled, Duration::from_millis(5));
        metrics.preempted(None);
        metrics.preempted(Some(3));
        let text = metrics.render();
        for line in [
            "scheduler_schedule_attempts_total{result=\"scheduled\",profile=\"default-scheduler\"} 1",
            "scheduler_schedule_attempts_total{result=\"error\",profile=\"default-scheduler\"} 0",
            "scheduler_scheduling_attempt_duration_seconds_count{result=\"scheduled\",profile=\"default-scheduler\"} 1",
            "scheduler_pod_scheduling_sli_duration_seconds_sum{attempts=\"1\"} 2.0",
            "scheduler_pod_scheduling_attempts_sum 1.0",
            "scheduler_preemption_attempts_total 2",
            "scheduler_preemption_victims_sum 3.0",
            "scheduler_pending_pods{queue=\"active\"} 0",
            "scheduler_pending_pods{queue=\"unschedulable\"} 1",
            "scheduler_pending_pods{queue=\"gated\"} 1",
            "scheduler_unschedulable_pods{plugin=\"NodeAffinity\",profile=\"default-scheduler\"} 1",
            "scheduler_queue_incoming_pods_total{queue=\"active\",event=\"UnschedulablePodAdd\"} 2",
            "scheduler_queue_incoming_pods_total{queue=\"unschedulable\",event=\"ScheduleAttemptFailure\"} 1",
            "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"Filter\",status=\"Success\",profile=\"default-scheduler\"} 2",
            "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"PostFilter\",status=\"Unschedulable\",profile=\"default-scheduler\"} 1",
            "scheduler_cache_size{type=\"nodes\"} 1",
            "scheduler_cache_size{type=\"assumed_pods\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        // who no longer leads has no pods that wait, but keeps its counts
        drop(core);
        assert!(metrics.render().contains("scheduler_schedule_attempts_total"));
    }
}
