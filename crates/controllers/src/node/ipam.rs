//! Gives each node a part of the cluster's pod network.

use super::{name, reference};
use crate::controller::{Controller, Watches};
use crate::metrics::{Buckets, Levels, Metric};
use crate::plan::{Note, Op, Plan};
use crate::world::World;
use client::Key;
use meta::Time;
use serde_json::json;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    pub address: IpAddr,
    /// Bits.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("{s:?} is not a network in CIDR notation");
        let (address, prefix) = s.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let prefix = prefix.parse().map_err(|_| bad())?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        if prefix > max { Err(bad()) } else { Ok(Self { address, prefix }) }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Cidr {
    /// The networks of `prefix` bits within this one, in order.
    pub fn parts(self, prefix: u8) -> impl Iterator<Item = Self> {
        let bits = if self.address.is_ipv4() { 32u32 } else { 128 };
        let base = match self.address {
            IpAddr::V4(a) => u128::from(u32::from(a)),
            IpAddr::V6(a) => u128::from(a),
        };
        let count = 1u128.checked_shl(u32::from(prefix.saturating_sub(self.prefix))).unwrap_or(u128::MAX);
        let step = 1u128.checked_shl(bits - u32::from(prefix).min(bits)).unwrap_or(0);
        let v4 = self.address.is_ipv4();
        (0..count).map(move |i| {
            let n = base.wrapping_add(i.wrapping_mul(step));
            let address = if v4 {
                IpAddr::V4(Ipv4Addr::from(u32::try_from(n & 0xffff_ffff).unwrap_or(0)))
            } else {
                IpAddr::V6(Ipv6Addr::from(n))
            };
            Self { address, prefix }
        })
    }
}

static ALLOCATIONS: Metric = Metric::counter(
    "node_ipam_controller_cidrset_cidrs_allocations_total",
    &["clusterCIDR"],
    "Counter measuring total number of CIDR allocations.",
);
static TRIES: Metric = Metric::histogram(
    "node_ipam_controller_cidrset_allocation_tries_per_request",
    &["clusterCIDR"],
    Buckets::Exponential { first: 1.0, factor: 5.0, count: 5 },
    "Number of CIDRs that were found taken before a free one",
);
// the name is upstream's
static MAX_CIDRS: Metric = Metric::gauge(
    "node_ipam_controller_cirdset_max_cidrs",
    &["clusterCIDR"],
    "Maximum number of CIDRs that can be allocated.",
);
static USAGE: Metric = Metric::gauge(
    "node_ipam_controller_cidrset_usage_cidrs",
    &["clusterCIDR"],
    "Share of the CIDRs that are allocated, of 1.",
);

/// Must run with one worker: two must not give the same network away.
pub struct NodeIpam {
    pub cluster: Cidr,
    /// Bits of a node's network (`--node-cidr-mask-size`).
    pub node_prefix: u8,
}

impl Controller for NodeIpam {
    const NAME: &'static str = "node-ipam-controller";
    const QUEUE: &'static str = "cidrallocator_node";
    const METRICS: &'static [&'static Metric] = &[&ALLOCATIONS, &TRIES];

    fn watches(w: &mut Watches) {
        // A node that goes frees its network for one that waits.
        w.on(
            |w| &w.nodes,
            |delta, world| {
                let waits = |n: &&std::sync::Arc<k8s_openapi::api::core::v1::Node>| pod_cidr(n).is_none();
                match delta.new {
                    Some(_) => vec![delta.key.clone()],
                    None => world.nodes.list().iter().filter(waits).map(|n| Key::of(&**n)).collect(),
                }
            },
        );
    }

    fn reconcile(&self, key: &Key, world: &World, _: Time) -> Plan {
        let Some(node) = world.nodes.get(key) else { return Plan::idle("the node is gone") };
        if pod_cidr(&node).is_some() {
            return Plan::idle("the node has its network");
        }
        let nodes = world.nodes.list();
        let taken: HashSet<String> = nodes.iter().filter_map(|n| pod_cidr(n)).collect();
        let mut plan = Plan::default();
        let mut parts = self.cluster.parts(self.node_prefix).map(|c| c.to_string()).enumerate();
        match parts.find(|(_, c)| !taken.contains(c)) {
            Some((tries, free)) => {
                let patch = json!({
                    "metadata": {"uid": node.metadata.uid},
                    "spec": {"podCIDR": free, "podCIDRs": [free]},
                });
                let cluster = self.cluster.to_string();
                let op = Op::strategic_patch(&*node, &patch)
                    .count(ALLOCATIONS.one([&cluster]))
                    .count(TRIES.of(tries as f64, [&cluster]));
                plan.op(op);
            }
            None => {
                let message = format!("Node {} status is now: CIDRNotAvailable", name(&node));
                plan.note(Note::normal(reference(&node), "CIDRNotAvailable", message));
            }
        }
        plan
    }

    fn levels(&self, world: &World, levels: &mut Levels) {
        let cluster = self.cluster.to_string();
        let most = 2f64.powi(i32::from(self.node_prefix.saturating_sub(self.cluster.prefix)));
        let taken = world.nodes.list().iter().filter(|n| pod_cidr(n).is_some()).count();
        levels.set(&MAX_CIDRS, [&cluster], most);
        levels.set(&USAGE, [&cluster], taken as f64 / most);
    }
}

fn pod_cidr(node: &k8s_openapi::api::core::v1::Node) -> Option<String> {
    node.spec.as_ref()?.pod_cidr.clone().filter(|c| !c.is_empty())
}
