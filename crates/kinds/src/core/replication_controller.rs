//! v1 ReplicationController, the ReplicaSet's predecessor.

use crate::apps::{ReplicaCounts, container_images, container_names, labels_match, runs_forever};
use crate::kind::{
    Cell, Column, Kind, NameRule, Names, ScaleAccess, Scope, Selectable, Subresource, Validate,
};
use crate::object::Registered;
use crate::pod_spec::{default_pod_template, validate_pod_template};
use crate::strategy::{spec_and_status, status_access};
use crate::support::{age, format_labels, nonnegative, or_zero, typed_column, wide};
use k8s_openapi::api::core::v1::{PodSpec, ReplicationController, ReplicationControllerStatus};
use meta::{FieldError, FieldErrors, GroupVersionKind, LabelSelector, Path};

const SUBRESOURCES: &[Subresource<ReplicationController>] = &[
    Subresource::Status(status_access!(ReplicationController, validate_status)),
    Subresource::Scale(ScaleAccess {
        spec_replicas: desired,
        set_spec_replicas: |r, replicas| r.spec.get_or_insert_default().replicas = Some(replicas),
        status_replicas: current,
        selector: |r| selector(r).to_string(),
    }),
];

const SELECTABLE: &[Selectable<ReplicationController>] =
    &[Selectable { path: "status.replicas", value: |r| current(r).to_string() }];

const COLUMNS: &[Column<ReplicationController>] = &[
    typed_column(
        "Desired",
        "integer",
        "Replicas is the number of desired replicas. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
        |r| Cell::int(desired(r)),
    ),
    typed_column(
        "Current",
        "integer",
        "Replicas is the most recently observed number of replicas. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
        |r| Cell::int(current(r)),
    ),
    typed_column("Ready", "integer", "The number of ready replicas for this replication controller.", |r| {
        Cell::int(r.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0))
    }),
    age(),
    wide("Containers", "Names of each container in the template.", |r| {
        Cell::str(container_names(pod_spec(r)))
    }),
    wide("Images", "Images referenced by each container in the template.", |r| {
        Cell::str(container_images(pod_spec(r)))
    }),
    wide(
        "Selector",
        "Selector is a label query over pods that should match the Replicas count. If Selector is empty, it is defaulted to the labels present on the Pod template. Label keys and values that must match in order to be controlled by this replication controller, if empty defaulted to labels on Pod template. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
        |r| Cell::str(format_labels(r.spec.as_ref().and_then(|s| s.selector.as_ref()).into_iter().flatten())),
    ),
];

pub static REPLICATION_CONTROLLER: Registered<ReplicationController> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "ReplicationController"),
    names: Names {
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short: &["rc"],
        categories: &["all"],
    },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.ReplicationController",
    storage: "controllers",
    name_rule: NameRule::DnsSubdomain,
    default,
    validate: Validate { create: validate, update: |new, _| validate(new) },
    strategy: crate::kind::Strategy {
        orphans_by_default: true,
        warnings: |new, old| {
            let template = new.spec.as_ref().and_then(|s| s.template.as_ref());
            crate::warnings::pods::of_controller(&new.metadata, old.map(|o| &o.metadata), template, true)
        },
        ..spec_and_status!(ReplicationController)
    },
    subresources: SUBRESOURCES,
    selectable: SELECTABLE,
    columns: COLUMNS,
});

fn desired(r: &ReplicationController) -> i32 {
    r.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0)
}

fn current(r: &ReplicationController) -> i32 {
    r.status.as_ref().map_or(0, |s| s.replicas)
}

fn pod_spec(r: &ReplicationController) -> Option<&PodSpec> {
    r.spec.as_ref().and_then(|s| s.template.as_ref()).and_then(|t| t.spec.as_ref())
}

fn selector(r: &ReplicationController) -> LabelSelector {
    r.spec.as_ref().and_then(|s| s.selector.as_ref()).map(LabelSelector::from_map).unwrap_or_default()
}

fn default(r: &mut ReplicationController) {
    let spec = r.spec.get_or_insert_default();
    if let Some(template) = &mut spec.template {
        default_pod_template(template);
        if let Some(labels) = template.metadata.as_ref().and_then(|m| m.labels.as_ref()) {
            if spec.selector.as_ref().is_none_or(|s| s.is_empty()) {
                spec.selector = Some(labels.clone());
            }
            if r.metadata.labels.as_ref().is_none_or(|l| l.is_empty()) {
                r.metadata.labels = Some(labels.clone());
            }
        }
    }
    spec.replicas.get_or_insert(1);
}

fn validate(r: &ReplicationController) -> FieldErrors {
    let mut errors = Vec::new();
    let Some(spec) = &r.spec else { return errors };
    let path = Path::new("spec");
    nonnegative(&mut errors, &path, &[("minReadySeconds", or_zero(spec.min_ready_seconds))]);
    if selector(r).is_everything() {
        errors.push(FieldError::required(&path.child("selector"), ""));
    }
    nonnegative(&mut errors, &path, &[("replicas", or_zero(spec.replicas))]);
    match &spec.template {
        None => errors.push(FieldError::required(&path.child("template"), "")),
        Some(template) => {
            let path = path.child("template");
            if !selector(r).is_everything() {
                labels_match(&mut errors, &selector(r), template, &path);
            }
            errors.extend(validate_pod_template(template, &path));
            runs_forever(&mut errors, template, &path, "ReplicationController");
        }
    }
    errors
}

fn validate_status(new: &ReplicationController, _: &ReplicationController) -> FieldErrors {
    let empty = ReplicationControllerStatus::default();
    let s = new.status.as_ref().unwrap_or(&empty);
    let counts = ReplicaCounts {
        replicas: s.replicas,
        fully_labeled: s.fully_labeled_replicas,
        ready: s.ready_replicas,
        available: s.available_replicas,
        terminating: None,
        observed_generation: s.observed_generation,
    };
    counts.validate()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::AnyKind;
    use crate::support::testing::{lines, object};
    use serde_json::json;

    #[test]
    fn labels_and_selector_follow_the_template() {
        let mut rc: ReplicationController = object(json!({"spec": {"template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}}));
        default(&mut rc);
        assert_eq!(lines(&validate(&rc)), [""; 0]);
        assert_eq!(rc.metadata.labels, Some([("app".to_owned(), "web".to_owned())].into()));
        let rc: crate::Object = Box::new(rc);
        assert_eq!(REPLICATION_CONTROLLER.scale(&rc), Some((1, 0, "app=web".to_owned())));
    }

    #[test]
    fn what_is_missing_is_required() {
        let mut rc: ReplicationController = object(json!({"spec": {"replicas": -1}}));
        default(&mut rc);
        assert_eq!(
            lines(&validate(&rc)),
            [
                "spec.selector: Required value",
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.template: Required value",
            ]
        );
    }
}
