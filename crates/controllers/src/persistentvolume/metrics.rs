//! What the binder counts, under upstream's names.

use super::phase_of;
use crate::metrics::{Levels, Metric};
use crate::plan::Op;
use crate::world::World;
use k8s_openapi::api::core::v1::PersistentVolume;
use meta::volumes as rules;
use std::collections::BTreeMap;

static RETROACTIVE: Metric = Metric::counter(
    "retroactive_storageclass_total",
    &[],
    "Total number of retroactive StorageClass assignments to persistent volume claim",
);
static RETROACTIVE_ERRORS: Metric = Metric::counter(
    "retroactive_storageclass_errors_total",
    &[],
    "Total number of failed retroactive StorageClass assignments to persistent volume claim",
);

pub(super) const ALL: &[&Metric] = &[&RETROACTIVE, &RETROACTIVE_ERRORS];

const CLAIM_LABELS: &[&str] = &["namespace", "storage_class", "volume_attributes_class"];

static VOLUMES: Metric = Metric::gauge(
    "pv_collector_total_pv_count",
    &["plugin_name", "volume_mode"],
    "Gauge measuring total number of persistent volumes",
);
static BOUND_VOLUMES: Metric = Metric::gauge(
    "pv_collector_bound_pv_count",
    &["storage_class"],
    "Gauge measuring number of persistent volume currently bound",
);
static UNBOUND_VOLUMES: Metric = Metric::gauge(
    "pv_collector_unbound_pv_count",
    &["storage_class"],
    "Gauge measuring number of persistent volume currently unbound",
);
static BOUND_CLAIMS: Metric = Metric::gauge(
    "pv_collector_bound_pvc_count",
    CLAIM_LABELS,
    "Gauge measuring number of persistent volume claim currently bound",
);
static UNBOUND_CLAIMS: Metric = Metric::gauge(
    "pv_collector_unbound_pvc_count",
    CLAIM_LABELS,
    "Gauge measuring number of persistent volume claim currently unbound",
);

/// A claim without a class gets the default one.
pub(super) fn retroactive(op: Op) -> Op {
    op.count(RETROACTIVE.one([])).count_failure(RETROACTIVE.one([])).count_failure(RETROACTIVE_ERRORS.one([]))
}

/// By the plugins that upstream's controller manager has.
fn plugin(volume: &PersistentVolume) -> String {
    let Some(spec) = &volume.spec else { return "N/A".into() };
    let known = [
        (spec.host_path.is_some(), "kubernetes.io/host-path"),
        (spec.nfs.is_some(), "kubernetes.io/nfs"),
        (spec.fc.is_some(), "kubernetes.io/fc"),
        (spec.iscsi.is_some(), "kubernetes.io/iscsi"),
    ];
    match (&spec.csi, known.iter().find(|(is, _)| *is)) {
        (Some(csi), _) => format!("kubernetes.io/csi:{}", csi.driver),
        (None, Some((_, name))) => (*name).into(),
        (None, None) => "N/A".into(),
    }
}

pub(super) fn levels(world: &World, levels: &mut Levels) {
    let mut kinds: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut volumes: BTreeMap<(bool, String), usize> = BTreeMap::new();
    for volume in world.volumes.list() {
        let mode = volume.spec.as_ref().and_then(|s| s.volume_mode.clone()).unwrap_or_default();
        *kinds.entry((plugin(&volume), mode)).or_default() += 1;
        let class = rules::volume_class(&volume).to_owned();
        *volumes.entry((phase_of(&volume) == "Bound", class)).or_default() += 1;
    }
    let mut claims: BTreeMap<(bool, [String; 3]), usize> = BTreeMap::new();
    for claim in world.claims.list() {
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let spec = claim.spec.as_ref();
        let labels = [
            claim.metadata.namespace.clone().unwrap_or_default(),
            rules::claim_class(&claim).unwrap_or("").to_owned(),
            spec.and_then(|s| s.volume_attributes_class_name.clone()).unwrap_or_default(),
        ];
        *claims.entry((bound, labels)).or_default() += 1;
    }
    for ((plugin, mode), n) in &kinds {
        levels.set(&VOLUMES, [plugin, mode], *n as f64);
    }
    for ((bound, class), n) in &volumes {
        levels.set(if *bound { &BOUND_VOLUMES } else { &UNBOUND_VOLUMES }, [class], *n as f64);
    }
    for ((bound, [namespace, class, attributes]), n) in &claims {
        let metric = if *bound { &BOUND_CLAIMS } else { &UNBOUND_CLAIMS };
        levels.set(metric, [namespace, class, attributes], *n as f64);
    }
}
