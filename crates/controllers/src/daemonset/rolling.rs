//! Rolling updates: old daemons give way to new ones, no more at a time than the strategy allows.

use super::nodes::Work;
use super::{Daemons, is_rolling};
use crate::children::scaled;
use k8s_openapi::api::apps::v1::{DaemonSetSpec, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;
use std::sync::Arc;

fn strategy(spec: &DaemonSetSpec) -> Option<&RollingUpdateDaemonSet> {
    if is_rolling(spec) { spec.update_strategy.as_ref()?.rolling_update.as_ref() } else { None }
}

fn max_surge(spec: &DaemonSetSpec, nodes: i32) -> i32 {
    scaled(strategy(spec).and_then(|s| s.max_surge.as_ref()), nodes, true)
}

/// Whether a node may have two daemons for a while.
pub(super) fn allows_surge(spec: &DaemonSetSpec) -> bool {
    max_surge(spec, 1) > 0
}

/// A node's living daemons in a rolling update.
enum State<'a> {
    /// More than one of a kind: to be sorted out first.
    Excess,
    Pair {
        new: Option<&'a Arc<Pod>>,
        old: Option<&'a Arc<Pod>>,
    },
}

impl Daemons<'_> {
    pub(super) fn roll(&self) -> Work {
        let mut nodes: BTreeMap<&str, &[Arc<Pod>]> =
            self.pods.iter().map(|(node, pods)| (node.as_str(), pods.as_slice())).collect();
        let mut desired = 0;
        for (node, _) in self.nodes.iter().zip(&self.wanted).filter(|(_, w)| w.run) {
            desired += 1;
            nodes.entry(node.metadata.name.as_deref().unwrap_or("")).or_default();
        }
        let surge = max_surge(self.spec, desired);
        let mut unavailable =
            scaled(strategy(self.spec).and_then(|s| s.max_unavailable.as_ref()), desired, true);
        if desired > 0 && unavailable == 0 && surge == 0 {
            unavailable = 1;
        }
        let states = nodes.into_iter().map(|(node, pods)| (node, self.state(pods)));
        if surge == 0 { self.replace(states, unavailable) } else { self.surge(states, surge, desired) }
    }

    fn state<'a>(&self, pods: &'a [Arc<Pod>]) -> State<'a> {
        let (mut new, mut old) = (None, None);
        for pod in pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none()) {
            let slot = if self.is_updated(pod) { &mut new } else { &mut old };
            if slot.replace(pod).is_some() {
                return State::Excess;
            }
        }
        State::Pair { new, old }
    }

    /// Without surge: deletes old daemons, those first that serve nobody; the next look creates the new.
    fn replace<'a>(&self, nodes: impl Iterator<Item = (&'a str, State<'a>)>, max_unavailable: i32) -> Work {
        let mut unavailable = 0;
        let (mut idle, mut serving) = (Vec::new(), Vec::new());
        for (_, state) in nodes {
            match state {
                State::Pair { new: Some(new), old: None } => {
                    unavailable += i32::from(!self.is_available(new));
                }
                State::Pair { new: None, old: Some(old) } if self.is_available(old) => {
                    serving.push(old.clone());
                }
                State::Pair { new: None, old: Some(old) } => {
                    unavailable += 1;
                    idle.push(old.clone());
                }
                State::Pair { .. } | State::Excess => unavailable += 1,
            }
        }
        let room = usize::try_from(max_unavailable - unavailable).unwrap_or(0);
        idle.extend(serving.into_iter().take(room));
        Work { create: Vec::new(), delete: idle }
    }

    /// With surge: creates new daemons beside the old, which go once the new are available.
    fn surge<'a>(
        &self,
        nodes: impl Iterator<Item = (&'a str, State<'a>)>,
        max_surge: i32,
        desired: i32,
    ) -> Work {
        let mut work = Work::default();
        let (mut surging, mut available) = (0, 0);
        let (mut candidates, mut unwanted) = (Vec::new(), Vec::new());
        for (node, state) in nodes {
            let State::Pair { new, old } = state else {
                surging += 1;
                continue;
            };
            available += i32::from(old.or(new).is_some_and(|p| self.is_available(p)));
            match (new, old) {
                (_, None) => {}
                (None, Some(old)) => match (self.runs_on(node), self.is_available(old)) {
                    (false, false) => work.delete.push(old.clone()),
                    (false, true) => unwanted.push(old.clone()),
                    (true, false) => work.create.push(node.into()),
                    (true, true) => candidates.push(node.to_owned()),
                },
                (Some(new), Some(_)) if !self.is_available(new) => surging += 1,
                (Some(_), Some(old)) => work.delete.push(old.clone()),
            }
        }
        // Where the nodes meant have changed, an old daemon goes only once a new one serves in its place.
        let spare = usize::try_from(available - desired).unwrap_or(0);
        work.delete.extend(unwanted.into_iter().take(spare));
        let room = usize::try_from(max_surge - surging).unwrap_or(0);
        work.create.extend(candidates.into_iter().take(room));
        work
    }

    fn runs_on(&self, node: &str) -> bool {
        let at = self.nodes.iter().position(|n| n.metadata.name.as_deref() == Some(node));
        at.is_some_and(|i| self.wanted[i].run)
    }
}
