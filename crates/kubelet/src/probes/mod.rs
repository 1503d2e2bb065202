//! Probes: whether a container has started, lives and is ready.
//!
//! [`Tally`] decides what a series of outcomes means; [`check`] makes one attempt; [`Prober`] runs one
//! light task for each probe of a running container and tells the pod's actor when a result changes.

mod check;
mod grpc;
mod http;
mod tally;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use rand::Rng;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

pub use check::{Outcome, Target, check};
pub use http::{HOOK_AGENT, HttpGet, HttpResult, NO_TLS, get as http_get, resolve_port};
pub use tally::{ProbeKind, Tally};

/// A probe's new result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeUpdate {
    pub container_id: String,
    pub kind: ProbeKind,
    pub result: bool,
}

/// Something to say about a probe in an event.
pub type Complaint = Arc<dyn Fn(&str, String) + Send + Sync>;

/// The probes of one pod's running containers. Dropping it ends them.
#[derive(Default)]
pub struct Prober {
    tasks: HashMap<(String, ProbeKind), AbortHandle>,
}

impl Drop for Prober {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

/// What a probe's task needs to know.
pub struct ProbeJob {
    pub target: Target,
    pub container: Container,
    pub kind: ProbeKind,
    pub probe: Probe,
    /// How long the container has been running.
    pub age: Duration,
    /// The kubelet has just started: spread the first attempts.
    pub jitter: bool,
    pub updates: mpsc::UnboundedSender<ProbeUpdate>,
    pub complain: Complaint,
}

impl Prober {
    /// Whether a task for this probe was started for this container.
    pub fn knows(&self, container_id: &str, kind: ProbeKind) -> bool {
        self.tasks.contains_key(&(container_id.to_owned(), kind))
    }

    /// Starts a probe.
    pub fn start(&mut self, job: ProbeJob) {
        let key = (job.target.container_id.clone(), job.kind);
        let task = tokio::spawn(run(job)).abort_handle();
        if let Some(old) = self.tasks.insert(key, task) {
            old.abort();
        }
    }

    /// Ends the probes of containers that are not kept.
    pub fn retain(&mut self, keep: impl Fn(&str, ProbeKind) -> bool) {
        self.tasks.retain(|(id, kind), task| {
            let kept = keep(id, *kind);
            if !kept {
                task.abort();
            }
            kept
        });
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default))
}

async fn run(job: ProbeJob) {
    let ProbeJob { target, container, kind, probe, age, jitter, updates, complain } = job;
    let period = seconds(probe.period_seconds, 10);
    let timeout = seconds(probe.timeout_seconds, 1);
    let delay =
        Duration::from_secs(probe.initial_delay_seconds.and_then(|v| u64::try_from(v).ok()).unwrap_or(0));
    let mut wait = delay.saturating_sub(age);
    if jitter {
        wait += period.mul_f64(rand::rng().random::<f64>());
    }
    let start = tokio::time::Instant::now() + wait;
    let mut ticks = tokio::time::interval_at(start, period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tally = Tally::new(kind, &probe);
    loop {
        ticks.tick().await;
        let ok = match check(&target, &container, &probe, timeout).await {
            Outcome::Success => true,
            Outcome::Warning(text) => {
                complain("ProbeWarning", format!("{} probe warning: {text}", kind.title()));
                true
            }
            Outcome::Failure(text) => {
                complain("Unhealthy", format!("{} probe failed: {text}", kind.title()));
                false
            }
            Outcome::Unknown(error) => {
                complain(
                    "Unhealthy",
                    format!("{} probe errored and resulted in unknown state: {error}", kind.title()),
                );
                continue;
            }
        };
        let Some(result) = tally.record(ok) else { continue };
        let update = ProbeUpdate { container_id: target.container_id.clone(), kind, result };
        if updates.send(update).is_err() || tally.is_over() {
            return;
        }
    }
}
