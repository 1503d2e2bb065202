//! The `workqueue_*` metrics, in the Prometheus text form.

use client::{Key, WorkQueue};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// What the controllers count. Cloning shares it.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<BTreeMap<&'static str, Entry>>>);

struct Entry {
    queue: WorkQueue<Key>,
    worked: u64,
    worked_time: Duration,
}

impl Metrics {
    pub(crate) fn register(&self, name: &'static str, queue: WorkQueue<Key>) {
        self.0.lock().insert(name, Entry { queue, worked: 0, worked_time: Duration::ZERO });
    }

    pub(crate) fn worked(&self, name: &'static str, time: Duration) {
        if let Some(e) = self.0.lock().get_mut(name) {
            e.worked += 1;
            e.worked_time += time;
        }
    }

    /// The text that `/metrics` answers.
    pub fn render(&self) -> String {
        let entries = self.0.lock();
        let mut out = String::new();
        let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Entry) -> String| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            let sample = if kind == "summary" { "_sum" } else { "" };
            for (queue, e) in entries.iter() {
                let _ = writeln!(out, "{name}{sample}{{name=\"{queue}\"}} {}", value(e));
                if kind == "summary" {
                    let _ = writeln!(out, "{name}_count{{name=\"{queue}\"}} {}", e.worked);
                }
            }
        };
        family("workqueue_adds_total", "counter", "Total number of adds handled by workqueue", &|e| {
            e.queue.stats().adds.to_string()
        });
        family("workqueue_depth", "gauge", "Current depth of workqueue", &|e| {
            e.queue.stats().depth.to_string()
        });
        family("workqueue_retries_total", "counter", "Total number of retries handled by workqueue", &|e| {
            e.queue.stats().retries.to_string()
        });
        family(
            "workqueue_work_duration_seconds",
            "summary",
            "How long in seconds processing an item from workqueue takes.",
            &|e| e.worked_time.as_secs_f64().to_string(),
        );
        out
    }
}
