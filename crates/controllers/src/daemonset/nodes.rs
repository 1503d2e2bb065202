//! What each node lacks and has too much of.

use super::rolling::allows_surge;
use super::{Daemons, Failures};
use crate::history::{self, HASH_LABEL};
use crate::plan::{Note, Plan};
use crate::pods::{is_ready, node_name, phase};
use client::Key;
use client::events::reference;
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashSet;
use std::sync::Arc;

/// Nodes that are to get a daemon, and daemons that are to go.
#[derive(Default)]
pub(super) struct Work {
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
}

impl Work {
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.delete.is_empty()
    }
}

impl Daemons<'_> {
    /// One daemon on every node that wants one, none elsewhere.
    pub(super) fn manage(&self, failures: &Failures, key: &Key, plan: &mut Plan) -> Work {
        let mut work = Work::default();
        for (node, wanted) in self.nodes.iter().zip(&self.wanted) {
            let name = node.metadata.name.as_deref().unwrap_or("");
            let pods = self.on(node);
            if pods.is_empty() {
                if wanted.run {
                    work.create.push(name.into());
                }
            } else if wanted.stay {
                let running = self.sort_out_ended(name, pods, failures, key, plan, &mut work);
                if !allows_surge(self.spec) {
                    work.delete.extend(running.into_iter().skip(1));
                } else if running.is_empty() && wanted.run {
                    work.create.push(name.into());
                } else if running.len() > 1 {
                    self.sort_out_surge(running, &mut work);
                }
            } else {
                let living = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none());
                work.delete.extend(living.cloned());
            }
        }
        // Nobody else would: they are never bound, and so not collected as a node's.
        let known: HashSet<_> = self.nodes.iter().filter_map(|n| n.metadata.name.as_deref()).collect();
        let lost = self.pods.iter().filter(|(node, _)| !known.contains(node.as_str()));
        let lost = lost.flat_map(|(_, pods)| pods).filter(|p| node_name(p).is_empty());
        work.delete.extend(lost.filter(|p| p.metadata.deletion_timestamp.is_none()).cloned());
        work
    }

    /// Those that run; those that ended are deleted, so that others can take their place.
    fn sort_out_ended(
        &self,
        node: &str,
        pods: &[Arc<Pod>],
        failures: &Failures,
        key: &Key,
        plan: &mut Plan,
        work: &mut Work,
    ) -> Vec<Arc<Pod>> {
        let mut running = Vec::new();
        for pod in pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none()) {
            let about = reference(self.set);
            let who = format!("{} on node {node}", Key::of(&**pod));
            match phase(pod) {
                "Failed" => {
                    if let Err(until) = failures.may_replace(key, self.set, node, self.now) {
                        plan.because(format!("the failed pod {who} is left until {until}"));
                        plan.wake(until);
                        continue;
                    }
                    let message = format!("Found failed daemon pod {who}, will try to kill it");
                    plan.note(Note::warning(about, "FailedDaemonPod", message));
                    work.delete.push(pod.clone());
                }
                "Succeeded" => {
                    let message = format!("Found succeeded daemon pod {who}, will try to delete it");
                    plan.note(Note::normal(about, "SucceededDaemonPod", message));
                    work.delete.push(pod.clone());
                }
                _ => running.push(pod.clone()),
            }
        }
        running
    }

    /// While a node's daemon is replaced there are two: an old one that is ready, and a new one that is not yet
    /// available.
    fn sort_out_surge(&self, running: Vec<Arc<Pod>>, work: &mut Work) {
        let (mut new, mut old) = (None, None);
        for pod in running {
            let is_new = history::label(&pod.metadata, HASH_LABEL) == self.hash;
            let slot = if is_new { &mut new } else { &mut old };
            match slot {
                None => *slot = Some(pod),
                Some(_) => work.delete.push(pod),
            }
        }
        if let (Some(new), Some(old)) = (new, old)
            && (!is_ready(&old) || self.is_available(&new))
        {
            work.delete.push(old);
        }
    }
}
