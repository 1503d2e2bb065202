//! apps/v1 ReplicaSet.

use super::common::*;
use crate::kind::{
    Cell, Column, Kind, NameRule, Names, ScaleAccess, Scope, Selectable, Subresource, Validate,
};
use crate::object::Registered;
use crate::pod_spec::default_pod_template;
use crate::strategy::{spec_and_status, status_access};
use crate::support::{age, format_selector, nonnegative, or_zero, typed_column, wide};
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
    strategy: crate::kind::Strategy {
        warnings: |new, old| {
            let template = new.spec.as_ref().and_then(|s| s.template.as_ref());
            crate::warnings::pods::of_controller(&new.metadata, old.map(|o| &o.metadata), template, true)
        },
        ..spec_and_status!(ReplicaSet)
    },
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
        &[("replicas", or_zero(spec.replicas)), ("minReadySeconds", or_zero(spec.min_ready_seconds))],
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
    let empty = ReplicaSetStatus::default();
    let s = new.status.as_ref().unwrap_or(&empty);
    let counts = ReplicaCounts {
        replicas: s.replicas,
        fully_labeled: s.fully_labeled_replicas,
        ready: s.ready_replicas,
        available: s.available_replicas,
        terminating: s.terminating_replicas,
        observed_generation: s.observed_generation,
    };
    counts.validate()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cell;
    use crate::object::AnyKind;
    use crate::support::testing::{lines, object};
    use serde_json::{Value, json};

    fn set(change: impl FnOnce(&mut Value)) -> ReplicaSet {
        let mut value = json!({
            "metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["b", "a"]}]},
                "template": {"metadata": {"labels": {"app": "web", "tier": "a"}},
                    "spec": {"containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "j:2"}]}},
            },
            "status": {"replicas": 2, "readyReplicas": 1, "availableReplicas": 1},
        });
        change(&mut value);
        let mut set = object(value);
        default(&mut set);
        set
    }

    #[test]
    fn the_table_shows_what_kubectl_users_know() {
        let object: crate::Object = Box::new(set(|_| ()));
        let created = "2026-01-01T00:00:00Z".parse().expect("a time");
        assert_eq!(
            REPLICA_SET.cells(&object),
            [
                Cell::int(3),
                Cell::int(2),
                Cell::int(1),
                Cell::Age(Some(created)),
                Cell::str("c,d"),
                Cell::str("i:1,j:2"),
                Cell::str("app=web,tier in (a,b)"),
            ]
        );
        assert_eq!(REPLICA_SET.scale(&object), Some((3, 2, "app=web,tier in (a,b)".to_owned())));
        assert_eq!(REPLICA_SET.fields(&object), ["2"]);
    }

    #[test]
    fn status_counts_fit_together() {
        let old = set(|_| ());
        let new = set(|s| s["status"] = json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 3}));
        assert_eq!(
            lines(&validate_status(&new, &old)),
            [
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 3: cannot be greater than readyReplicas",
            ]
        );
    }

    #[test]
    fn a_selector_must_be_readable() {
        let got = lines(&validate(&set(|s| s["spec"]["selector"] = json!({"matchLabels": {"a b": "c"}}))));
        assert_eq!(got.len(), 2);
        assert!(got[0].starts_with("spec.selector.matchLabels: Invalid value: \"a b\": name part must"));
        assert_eq!(
            got[1],
            "spec.selector: Invalid value: {\"matchLabels\":{\"a b\":\"c\"}}: invalid label selector"
        );
    }
}
