//! apps/v1 DaemonSet.

use super::common::*;
use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Subresource, Validate};
use crate::object::Registered;
use crate::pod_spec::defaults::fill;
use crate::pod_spec::{default_pod_template, validate_pod_template};
use crate::strategy::{first_generation, next_generation, semantic_eq, spec_and_status, status_access};
use crate::support::{age, column, format_labels, format_selector, nonnegative, or_zero, typed_column, wide};
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetStatus, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meta::{FieldError, FieldErrors, GroupVersionKind, Json, Path};

const REVISION_HISTORY_LIMIT: i32 = 10;
/// Counts changes of the template; upstream keeps it for objects that older versions wrote.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

const SUBRESOURCES: &[Subresource<DaemonSet>] =
    &[Subresource::Status(status_access!(DaemonSet, validate_status))];

const COLUMNS: &[Column<DaemonSet>] = &[
    typed_column(
        "Desired",
        "integer",
        "The total number of nodes that should be running the daemon pod (including nodes correctly running the daemon pod). More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
        |d| Cell::int(status(d, |s| s.desired_number_scheduled)),
    ),
    typed_column(
        "Current",
        "integer",
        "The number of nodes that are running at least 1 daemon pod and are supposed to run the daemon pod. More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
        |d| Cell::int(status(d, |s| s.current_number_scheduled)),
    ),
    typed_column(
        "Ready",
        "integer",
        "numberReady is the number of nodes that should be running the daemon pod and have one or more of the daemon pod running with a Ready Condition.",
        |d| Cell::int(status(d, |s| s.number_ready)),
    ),
    typed_column(
        "Up-to-date",
        "integer",
        "The total number of nodes that are running updated daemon pod",
        |d| Cell::int(status(d, |s| s.updated_number_scheduled.unwrap_or(0))),
    ),
    typed_column(
        "Available",
        "integer",
        "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and available (ready for at least spec.minReadySeconds)",
        |d| Cell::int(status(d, |s| s.number_available.unwrap_or(0))),
    ),
    column(
        "Node Selector",
        "NodeSelector is a selector which must be true for the pod to fit on a node. Selector which must match a node's labels for the pod to be scheduled on that node. More info: https://kubernetes.io/docs/concepts/configuration/assign-pod-node/",
        |d| {
            Cell::str(format_labels(pod_spec(d).and_then(|s| s.node_selector.as_ref()).into_iter().flatten()))
        },
    ),
    age(),
    wide("Containers", NAMES_OF_CONTAINERS, |d| Cell::str(container_names(pod_spec(d)))),
    wide("Images", IMAGES_OF_CONTAINERS, |d| Cell::str(container_images(pod_spec(d)))),
    wide(
        "Selector",
        "A label query over pods that are managed by the daemon set. Must match in order to be controlled. It must match the pod template's labels. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
        |d| Cell::str(format_selector(d.spec.as_ref().map(|s| &s.selector))),
    ),
];

pub static DAEMON_SET: Registered<DaemonSet> = Registered::new(Kind {
    gvk: GroupVersionKind::of("apps", "v1", "DaemonSet"),
    names: Names { plural: "daemonsets", singular: "daemonset", short: &["ds"], categories: &["all"] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.apps.v1.DaemonSet",
    storage: "daemonsets",
    name_rule: NameRule::DnsSubdomain,
    default,
    validate: Validate { create: validate, update: validate_update },
    strategy: Strategy {
        warnings: |new, old| {
            let template = new.spec.as_ref().map(|s| &s.template);
            crate::warnings::pods::of_controller(&new.metadata, old.map(|o| &o.metadata), template, false)
        },
        prepare_create,
        prepare_update,
        ..spec_and_status!(DaemonSet)
    },
    subresources: SUBRESOURCES,
    selectable: &[],
    columns: COLUMNS,
});

fn status(d: &DaemonSet, of: fn(&DaemonSetStatus) -> i32) -> i32 {
    d.status.as_ref().map_or(0, of)
}

fn pod_spec(d: &DaemonSet) -> Option<&PodSpec> {
    d.spec.as_ref().and_then(|s| s.template.spec.as_ref())
}

fn default(d: &mut DaemonSet) {
    let spec = d.spec.get_or_insert_default();
    default_pod_template(&mut spec.template);
    let strategy = spec.update_strategy.get_or_insert_default();
    fill(&mut strategy.type_, "RollingUpdate");
    if strategy.type_.as_deref() == Some("RollingUpdate") {
        let rolling = strategy.rolling_update.get_or_insert_default();
        rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
        rolling.max_surge.get_or_insert(IntOrString::Int(0));
    }
    spec.revision_history_limit.get_or_insert(REVISION_HISTORY_LIMIT);
}

fn template_generation(d: &DaemonSet) -> i64 {
    d.metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(TEMPLATE_GENERATION))
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

fn set_template_generation(d: &mut DaemonSet, generation: i64) {
    let annotations = d.metadata.annotations.get_or_insert_default();
    annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string());
}

fn prepare_create(d: &mut DaemonSet) {
    d.status = Some(DaemonSetStatus::default());
    first_generation(d);
    let generation = template_generation(d).max(1);
    set_template_generation(d, generation);
}

fn prepare_update(new: &mut DaemonSet, old: &DaemonSet) {
    new.status.clone_from(&old.status);
    let template = |d: &DaemonSet| d.spec.as_ref().map(|s| s.template.clone());
    let spec_changed = !semantic_eq(&new.spec, &old.spec);
    let template_changed = spec_changed && !semantic_eq(&template(new), &template(old));
    set_template_generation(new, template_generation(old) + i64::from(template_changed));
    next_generation(new, old, spec_changed);
}

fn validate(d: &DaemonSet) -> FieldErrors {
    d.spec.as_ref().map(validate_spec).unwrap_or_default()
}

fn validate_spec(spec: &DaemonSetSpec) -> FieldErrors {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    let template_path = path.child("template");
    errors.extend(meta::validation::validate_label_selector(&spec.selector, &path.child("selector")));
    if let Some(selector) = readable(&spec.selector) {
        labels_match(&mut errors, &selector, &spec.template, &template_path);
    }
    let given = spec.selector.match_labels.is_some() || spec.selector.match_expressions.is_some();
    if given && is_empty_selector(&spec.selector) {
        let value = selector_json(&spec.selector);
        errors.push(FieldError::invalid(
            &path.child("selector"),
            value,
            "empty selector is invalid for daemonset",
        ));
    }
    errors.extend(validate_pod_template(&spec.template, &template_path));
    runs_forever(&mut errors, &spec.template, &template_path, "DaemonSet");
    nonnegative(&mut errors, &path, &[("minReadySeconds", or_zero(spec.min_ready_seconds))]);
    if let Some(strategy) = &spec.update_strategy {
        validate_strategy(&mut errors, strategy, &path.child("updateStrategy"));
    }
    nonnegative(&mut errors, &path, &[("revisionHistoryLimit", or_zero(spec.revision_history_limit))]);
    errors
}

fn validate_strategy(errors: &mut FieldErrors, strategy: &DaemonSetUpdateStrategy, path: &Path) {
    match (strategy.type_.as_deref().unwrap_or_default(), &strategy.rolling_update) {
        ("OnDelete", _) => {}
        ("RollingUpdate", Some(rolling)) => validate_rolling(errors, rolling, &path.child("rollingUpdate")),
        ("RollingUpdate", None) => errors.push(FieldError::required(&path.child("rollingUpdate"), "")),
        (other, rolling) => {
            let rolling = rolling.as_ref().map(|r| (&r.max_unavailable, &r.max_surge));
            let value = shown_strategy(other, rolling);
            errors.push(FieldError::not_supported(path, value, &["RollingUpdate", "OnDelete"]));
        }
    }
}

fn validate_rolling(errors: &mut FieldErrors, rolling: &RollingUpdateDaemonSet, path: &Path) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let (at, surge_at) = (path.child("maxUnavailable"), path.child("maxSurge"));
    positive_int_or_percent(errors, unavailable, &at);
    positive_int_or_percent(errors, surge, &surge_at);
    at_most_100_percent(errors, unavailable, &at);
    at_most_100_percent(errors, surge, &surge_at);
    match (amount(unavailable) != 0, amount(surge) != 0) {
        (true, true) => {
            let why = "may not be set when maxUnavailable is non-zero";
            errors.push(FieldError::invalid(&surge_at, Json(surge), why));
        }
        (false, false) => errors.push(FieldError::required(&at, "cannot be 0 when maxSurge is 0")),
        _ => {}
    }
}

fn validate_update(new: &DaemonSet, old: &DaemonSet) -> FieldErrors {
    let mut errors = Vec::new();
    if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
        selector_kept(&mut errors, &new.selector, &old.selector);
    }
    errors.extend(validate(new));
    errors
}

fn validate_status(new: &DaemonSet, old: &DaemonSet) -> FieldErrors {
    let mut errors = Vec::new();
    let empty = DaemonSetStatus::default();
    let s = new.status.as_ref().unwrap_or(&empty);
    nonnegative(
        &mut errors,
        &Path::new("status"),
        &[
            ("currentNumberScheduled", or_zero(s.current_number_scheduled)),
            ("numberMisscheduled", or_zero(s.number_misscheduled)),
            ("desiredNumberScheduled", or_zero(s.desired_number_scheduled)),
            ("numberReady", or_zero(s.number_ready)),
            ("observedGeneration", s.observed_generation.unwrap_or(0)),
            ("updatedNumberScheduled", or_zero(s.updated_number_scheduled)),
            ("numberAvailable", or_zero(s.number_available)),
            ("numberUnavailable", or_zero(s.number_unavailable)),
            ("collisionCount", or_zero(s.collision_count)),
        ],
    );
    collision_count_kept(&mut errors, s.collision_count, old.status.as_ref().and_then(|s| s.collision_count));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::json;

    #[test]
    fn surge_and_unavailable_exclude_each_other() {
        let check = |rolling, expect: &[&str]| {
            let mut d: DaemonSet = object(json!({"spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}},
                "updateStrategy": {"rollingUpdate": rolling},
            }}));
            default(&mut d);
            assert_eq!(lines(&validate(&d)), expect);
        };
        check(json!({}), &[]);
        check(
            json!({"maxUnavailable": 1, "maxSurge": 1}),
            &[
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
            ],
        );
        check(
            json!({"maxUnavailable": 0}),
            &[
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
            ],
        );
        check(
            json!({"maxUnavailable": "101%"}),
            &[
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
            ],
        );
    }

    #[test]
    fn the_template_generation_counts_template_changes() {
        let mut old: DaemonSet =
            object(json!({"spec": {"selector": {}, "template": {"spec": {"containers": []}}}}));
        prepare_create(&mut old);
        let mut new = old.clone();
        new.spec.get_or_insert_default().template.spec.get_or_insert_default().host_network = Some(true);
        prepare_update(&mut new, &old);
        assert_eq!(
            (template_generation(&old), template_generation(&new), new.metadata.generation),
            (1, 2, Some(2))
        );
    }
}
