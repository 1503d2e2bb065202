//! A cordoned node takes only pods that tolerate it.

use crate::framework::{Event, Filter, Plugin, PreFilter, Refusal, Verdict, wakes};
use crate::node::NodeInfo;
use crate::plugins::taint_toleration::tolerates;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use k8s_openapi::api::core::v1::Taint;

const TAINT: &str = "node.kubernetes.io/unschedulable";

pub struct NodeUnschedulable;

#[derive(Clone)]
struct Schedulable;

impl<'a> Filter<'a> for Schedulable {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if !node.is_unschedulable() {
            return Ok(());
        }
        Err(Refusal::lasting("node(s) were unschedulable"))
    }
}

fn tolerated(pod: &PodInfo) -> bool {
    let taint = Taint { key: TAINT.to_owned(), effect: "NoSchedule".to_owned(), ..Default::default() };
    tolerates(pod.tolerations(), &taint)
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn wakes(&self) -> u32 {
        wakes::NODE | wakes::POD_CHANGED
    }

    fn could_help(&self, _: &PodInfo, event: &Event<'_>) -> bool {
        let unschedulable = |n: &k8s_openapi::api::core::v1::Node| {
            n.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false)
        };
        match event {
            Event::NodeAdded(n) => !unschedulable(n),
            Event::NodeChanged(now, was) => !unschedulable(now) && unschedulable(was),
            Event::PodChanged(now, _) => tolerated(now),
            _ => false,
        }
    }

    fn pre_filter<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        if tolerated(pod) { PreFilter::Skip } else { PreFilter::run(Schedulable) }
    }
}
