//! Host ports that the pod asks for must be free on the node.

use crate::framework::{Event, Filter, Plugin, PreFilter, Refusal, Verdict, wakes};
use crate::node::NodeInfo;
use crate::pod::{HostPort, PodInfo};
use crate::snapshot::Snapshot;

pub struct NodePorts;

#[derive(Clone)]
struct Free<'a>(&'a [HostPort]);

impl<'a> Filter<'a> for Free<'a> {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if self.0.iter().any(|want| node.host_ports.iter().any(|have| want.conflicts(have))) {
            return Err(Refusal::preemptible("node(s) didn't have free ports for the requested pod ports"));
        }
        Ok(())
    }
}

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn wakes(&self) -> u32 {
        wakes::NODE_ADDED | wakes::POD_GONE
    }

    fn could_help(&self, pod: &PodInfo, event: &Event<'_>) -> bool {
        match event {
            Event::NodeAdded(_) => true,
            Event::PodGone(gone) => {
                pod.host_ports.iter().any(|want| gone.host_ports.iter().any(|had| want.conflicts(had)))
            }
            _ => false,
        }
    }

    fn pre_filter<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        if pod.host_ports.is_empty() { PreFilter::Skip } else { PreFilter::run(Free(&pod.host_ports)) }
    }
}
