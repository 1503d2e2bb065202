//! What the controllers of slices count, under upstream's names.

use super::hints::distribution;
use super::slices::{MANAGED_BY, MAX_PER_SLICE, label, port_key};
use crate::metrics::{Buckets, Levels, Metric, Sample};
use crate::plan::Measure;
use crate::world::World;
use meta::labels::SERVICE_NAME;
use std::collections::{BTreeMap, HashMap};

/// Of endpoints and addresses in one sync.
const NUMBERS: Buckets = Buckets::Exponential { first: 2.0, factor: 2.0, count: 15 };

const fn number(name: &'static str, help: &'static str) -> Metric {
    Metric::histogram(name, &[], NUMBERS, help)
}

static CHANGES: Metric =
    Metric::counter("endpoint_slice_controller_changes", &["operation"], "Number of EndpointSlice changes");
static SYNCS: Metric =
    Metric::counter("endpoint_slice_controller_syncs", &["result"], "Number of EndpointSlice syncs");
static CHANGED_PER_SYNC: Metric = Metric::histogram(
    "endpoint_slice_controller_endpointslices_changed_per_sync",
    &["topology", "traffic_distribution"],
    // the Prometheus client's defaults
    Buckets::Of(&[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]),
    "Number of EndpointSlices changed on each Service sync",
);
static ADDED: Metric = number(
    "endpoint_slice_controller_endpoints_added_per_sync",
    "Number of endpoints added on each Service sync",
);
static REMOVED: Metric = number(
    "endpoint_slice_controller_endpoints_removed_per_sync",
    "Number of endpoints removed on each Service sync",
);
static SERVICES: Metric = Metric::gauge(
    "endpoint_slice_controller_services_count_by_traffic_distribution",
    &["traffic_distribution"],
    "Number of Services using some specific trafficDistribution",
);
static SLICES: [Metric; 3] = [
    Metric::gauge("endpoint_slice_controller_num_endpoint_slices", &[], "Number of EndpointSlices"),
    Metric::gauge(
        "endpoint_slice_controller_desired_endpoint_slices",
        &[],
        "Number of EndpointSlices that would exist with perfect endpoint allocation",
    ),
    Metric::gauge("endpoint_slice_controller_endpoints_desired", &[], "Number of endpoints desired"),
];

pub(super) const ALL: &[&Metric] = &[&CHANGES, &SYNCS, &CHANGED_PER_SYNC, &ADDED, &REMOVED];

static MIRRORED_CHANGES: Metric = Metric::counter(
    "endpoint_slice_mirroring_controller_changes",
    &["operation"],
    "Number of EndpointSlice changes",
);
static MIRRORED_ADDED: Metric = number(
    "endpoint_slice_mirroring_controller_endpoints_added_per_sync",
    "Number of endpoints added on each Endpoints sync",
);
static MIRRORED_UPDATED: Metric = number(
    "endpoint_slice_mirroring_controller_endpoints_updated_per_sync",
    "Number of endpoints updated on each Endpoints sync",
);
static MIRRORED_REMOVED: Metric = number(
    "endpoint_slice_mirroring_controller_endpoints_removed_per_sync",
    "Number of endpoints removed on each Endpoints sync",
);
static SKIPPED: Metric = number(
    "endpoint_slice_mirroring_controller_addresses_skipped_per_sync",
    "Number of addresses skipped on each Endpoints sync due to being invalid or exceeding MaxEndpointsPerSubset",
);
static SYNC_SECONDS: Metric = Metric::histogram(
    "endpoint_slice_mirroring_controller_endpoints_sync_duration",
    &[],
    Buckets::Exponential { first: 0.001, factor: 2.0, count: 15 },
    "Duration of syncEndpoints() in seconds",
);
static MIRRORED_SLICES: [Metric; 3] = [
    Metric::gauge("endpoint_slice_mirroring_controller_num_endpoint_slices", &[], "Number of EndpointSlices"),
    Metric::gauge(
        "endpoint_slice_mirroring_controller_desired_endpoint_slices",
        &[],
        "Number of EndpointSlices that would exist with perfect endpoint allocation",
    ),
    Metric::gauge(
        "endpoint_slice_mirroring_controller_endpoints_desired",
        &[],
        "Number of endpoints desired",
    ),
];

pub(super) const ALL_MIRRORED: &[&Metric] =
    &[&MIRRORED_CHANGES, &MIRRORED_ADDED, &MIRRORED_UPDATED, &MIRRORED_REMOVED, &SKIPPED, &SYNC_SECONDS];

/// A slice is created, updated or deleted.
pub(super) fn changed(operation: &str) -> Sample {
    CHANGES.one([operation])
}

/// The same of a mirrored one.
pub(super) fn mirrored(operation: &str) -> Sample {
    MIRRORED_CHANGES.one([operation])
}

/// What a look at a service came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    pub added: usize,
    pub updated: usize,
    pub removed: usize,
}

/// A service was looked at that prefers endpoints that are near in this way. `of_types`: what changed for each type of addresses. `slices`: how many slices are written.
pub(super) fn synced(distribution: Option<&str>, of_types: &[Differences], slices: usize) -> Measure {
    let mut samples: Vec<Sample> = of_types
        .iter()
        .flat_map(|d| [ADDED.of(d.added as f64, []), REMOVED.of(d.removed as f64, [])])
        .collect();
    let changed = CHANGED_PER_SYNC.of(slices as f64, ["Disabled", distribution.unwrap_or("")]);
    Box::new(move |outcome| {
        if outcome.failure.is_none() {
            samples.push(changed);
        }
        samples.push(SYNCS.one([if outcome.failure.is_some() { "error" } else { "success" }]));
        samples
    })
}

/// There was nothing to do about a service.
pub(super) fn idle() -> Measure {
    Box::new(|_| vec![SYNCS.one(["success"])])
}

/// Endpoints were looked at. None where they are not mirrored.
pub(super) fn mirrored_sync(looked: Option<(Differences, usize)>) -> Measure {
    Box::new(move |outcome| {
        let mut samples = vec![SYNC_SECONDS.of(outcome.took.as_secs_f64(), [])];
        if let Some((d, skipped)) = looked {
            samples.push(MIRRORED_ADDED.of(d.added as f64, []));
            samples.push(MIRRORED_UPDATED.of(d.updated as f64, []));
            samples.push(MIRRORED_REMOVED.of(d.removed as f64, []));
            samples.push(SKIPPED.of(skipped as f64, []));
        }
        samples
    })
}

pub(super) fn levels(world: &World, me: &str, levels: &mut Levels) {
    slices(world, me, &SLICES, levels);
    let mut by_distribution: BTreeMap<String, usize> = BTreeMap::new();
    for service in world.services.list() {
        if let Some(kind) = distribution(&service) {
            *by_distribution.entry(kind.to_owned()).or_default() += 1;
        }
    }
    for (kind, n) in by_distribution {
        levels.set(&SERVICES, [&kind], n as f64);
    }
}

pub(super) fn mirrored_levels(world: &World, me: &str, levels: &mut Levels) {
    slices(world, me, &MIRRORED_SLICES, levels);
}

/// The slices of a controller: how many there are, how few would do, and the endpoints in them.
fn slices(world: &World, me: &str, [there, enough, endpoints]: &'static [Metric; 3], levels: &mut Levels) {
    let mut count = 0;
    let mut groups: HashMap<_, usize> = HashMap::new();
    for slice in world.endpoint_slices.list().iter().filter(|s| label(s, MANAGED_BY) == Some(me)) {
        count += 1;
        let of = (
            slice.metadata.namespace.clone(),
            label(slice, SERVICE_NAME).map(str::to_owned),
            slice.address_type.clone(),
            port_key(slice.ports.as_deref().unwrap_or_default()),
        );
        *groups.entry(of).or_default() += slice.endpoints.as_ref().map_or(0, Vec::len);
    }
    levels.set(there, [], f64::from(count));
    levels.set(enough, [], groups.values().map(|n| n.div_ceil(MAX_PER_SLICE)).sum::<usize>() as f64);
    levels.set(endpoints, [], groups.values().sum::<usize>() as f64);
}
