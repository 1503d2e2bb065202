//! apps/v1 ReplicaSet.

use super::common::*;
use crate::kind::{
    Cell, Column, Kind, NameRule, Names, ScaleAccess, Scope, Selectable, Subresource, Validate,
};
use crate::object::Registered;
use crate::pod_spec::default_pod_template;
use crate::strategy::{spec_and_status, status_access};
use crate::support::{age, format_selector, typed_column, wide};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::PodSpec;
use meta::{FieldErrors, GroupVersionKind, Path};

const SUBRESOURCES: &[Subresource<ReplicaSet>] = &[
    Subresource::Status(status_access!(ReplicaSet, validate_status)),
    Subresource::Scale(ScaleAccess {
        spec_replicas: desired,
        set_spec_replicas: |r, replicas| r.spec.get_or_insert_default().replicas = Some(replicas),
        status_replicas: current,
        selector: |r| r.spec.as_ref().map(|s| selector_text(&s.selector)).unwrap_or_default(),
    }),
];

const SELECTABLE: &[Selectable<ReplicaSet>] =
    &[Selectable { path: "status.replicas", value: |r| current(r).to_string() }];

const COLUMNS: &[Column<ReplicaSet>] = &[
    typed_column(
        "Desired",
        "integer",
        "Replicas is the number of desired pods. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
        |r| Cell::int(desired(r)),
    ),
    typed_column(
        "Current",
        "integer",
        "Replicas is the most recently observed number of non-terminating pods. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
        |r| Cell::int(current(r)),
    ),
    typed_column(
        "Ready",
        "integer",
        "The number of non-terminating pods targeted by this ReplicaSet with a Ready Condition.",
        |r| Cell::int(r.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)),
    ),
    age(),
    wide("Containers", NAMES_OF_CONTAINERS, |r| Cell::str(container_names(pod_spec(r)))),
    wide("Images", IMAGES_OF_CONTAINERS, |r| Cell::str(container_images(pod_spec(r)))),
    wide(
        "Selector",
        "Selector is a label query over pods that should match the replica count. Label keys and values that must match in order to be controlled by this replica set. It must match the pod template's labels. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
        |r| Cell::str(format_selector(r.spec.as_ref().map(|s| &s.selector))),
    ),
];

pub static REPLICA_SET: Registered<ReplicaSet> = Registered::new(Kind {
    gvk: GroupVersionKind::of("apps", "v1", "ReplicaSet"),
    names: Names { plural: "replicasets", singular: "replicaset", short: &["rs"], categories: &["all"] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.apps.v1.ReplicaSet",
    storage: "replicasets",
    name_rule: NameRule::DnsSubdomain,
    default,
    validate: Validate { create: validate, update: validate_update },
    strategy: spec_and_status!(ReplicaSet),
    subresources: SUBRESOURCES,
    selectable: SELECTABLE,
    columns: COLUMNS,
});

fn desired(r: &ReplicaSet) -> i32 {
    r.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0)
}

fn current(r: &ReplicaSet) -> i32 {
    r.status.as_ref().map_or(0, |s| s.replicas)
}

fn pod_spec(r: &ReplicaSet) -> Option<&PodSpec> {
    r.spec.as_ref().and_then(|s| s.template.as_ref()).and_then(|t| t.spec.as_ref())
}

fn default(r: &mut ReplicaSet) {
    let spec = r.spec.get_or_insert_default();
    default_pod_template(spec.template.get_or_insert_default());
    spec.replicas.get_or_insert(1);
}

fn validate(r: &ReplicaSet) -> FieldErrors {
    let mut errors = Vec::new();
    let Some(spec) = &r.spec else { return errors };
    nonnegative(
        &mut errors,
        &Path::new("spec"),
        &[
            ("replicas", i64::from(spec.replicas.unwrap_or(0))),
            ("minReadySeconds", i64::from(spec.min_ready_seconds.unwrap_or(0))),
        ],
    );
    validate_replicated(&mut errors, &spec.selector, spec.template.as_ref());
    errors
}

fn validate_update(new: &ReplicaSet, old: &ReplicaSet) -> FieldErrors {
    let mut errors = validate(new);
    if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
        selector_kept(&mut errors, &new.selector, &old.selector);
    }
    errors
}

fn validate_status(new: &ReplicaSet, _: &ReplicaSet) -> FieldErrors {
    let mut errors = Vec::new();
    let path = Path::new("status");
    let empty = ReplicaSetStatus::default();
    let s = new.status.as_ref().unwrap_or(&empty);
    let labeled = s.fully_labeled_replicas.unwrap_or(0);
    let (ready, available) = (s.ready_replicas.unwrap_or(0), s.available_replicas.unwrap_or(0));
    nonnegative(
        &mut errors,
        &path,
        &[
            ("replicas", i64::from(s.replicas)),
            ("fullyLabeledReplicas", i64::from(labeled)),
            ("readyReplicas", i64::from(ready)),
            ("availableReplicas", i64::from(available)),
            ("observedGeneration", s.observed_generation.unwrap_or(0)),
            ("terminatingReplicas", i64::from(s.terminating_replicas.unwrap_or(0))),
        ],
    );
    let counts =
        [("fullyLabeledReplicas", labeled), ("readyReplicas", ready), ("availableReplicas", available)];
    counts_within(
        &mut errors,
        &path,
        s.replicas,
        &counts,
        ready,
        available,
        "cannot be greater than readyReplicas",
    );
    errors
}
