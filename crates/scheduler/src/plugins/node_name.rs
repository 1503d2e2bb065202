//! A pod that names its node goes to that node only.

use crate::framework::{Event, Filter, Plugin, PreFilter, Refusal, Verdict, wakes};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

pub struct NodeName;

#[derive(Clone)]
struct Named<'a>(&'a str);

impl<'a> Filter<'a> for Named<'a> {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if node.name == self.0 {
            return Ok(());
        }
        Err(Refusal::lasting("node(s) didn't match the requested node name"))
    }
}

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn wakes(&self) -> u32 {
        wakes::NODE_ADDED
    }

    fn could_help(&self, pod: &PodInfo, event: &Event<'_>) -> bool {
        event.node().is_some_and(|n| n.metadata.name.as_deref() == pod.node_name())
    }

    fn pre_filter<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        pod.node_name().map_or(PreFilter::Skip, |name| PreFilter::run(Named(name)))
    }
}
