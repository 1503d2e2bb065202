//! apps/v1 Deployment.

use super::common::*;
use crate::kind::{
    Cell, Column, Kind, NameRule, Names, ScaleAccess, Scope, StatusAccess, Strategy, Subresource, Validate,
};
use crate::object::Registered;
use crate::pod_spec::default_pod_template;
use crate::pod_spec::defaults::fill;
use crate::strategy::{next_generation, semantic_eq, spec_and_status};
use crate::support::{age, column, nonnegative, or_zero, wide};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meta::{FieldError, FieldErrors, GroupVersionKind, Json, Path};

const REVISION_HISTORY_LIMIT: i32 = 10;
const PROGRESS_DEADLINE_SECONDS: i32 = 600;
const MAX_UNAVAILABLE: &str = "25%";
const MAX_SURGE: &str = "25%";

const SUBRESOURCES: &[Subresource<Deployment>] = &[
    Subresource::Status(StatusAccess {
        prepare: |new, old| {
            new.spec.clone_from(&old.spec);
            new.metadata.labels.clone_from(&old.metadata.labels);
        },
        validate: validate_status,
    }),
    Subresource::Scale(ScaleAccess {
        spec_replicas: |d| d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0),
        set_spec_replicas: |d, replicas| d.spec.get_or_insert_default().replicas = Some(replicas),
        status_replicas: |d| d.status.as_ref().and_then(|s| s.replicas).unwrap_or(0),
        selector: |d| d.spec.as_ref().map(|s| selector_text(&s.selector)).unwrap_or_default(),
    }),
];

const COLUMNS: &[Column<Deployment>] = &[
    column("Ready", "Number of the pod with ready state", |d| {
        let ready = status(d, |s| s.ready_replicas);
        let desired = d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        Cell::str(format!("{ready}/{desired}"))
    }),
    column(
        "Up-to-date",
        "Total number of non-terminating pods targeted by this deployment that have the desired template spec.",
        |d| Cell::int(status(d, |s| s.updated_replicas)),
    ),
    column(
        "Available",
        "Total number of available non-terminating pods (ready for at least minReadySeconds) targeted by this deployment.",
        |d| Cell::int(status(d, |s| s.available_replicas)),
    ),
    age(),
    wide("Containers", NAMES_OF_CONTAINERS, |d| Cell::str(container_names(pod_spec(d)))),
    wide("Images", IMAGES_OF_CONTAINERS, |d| Cell::str(container_images(pod_spec(d)))),
    wide(
        "Selector",
        "Label selector for pods. Existing ReplicaSets whose pods are selected by this will be the ones affected by this deployment. It must match the pod template's labels.",
        |d| Cell::str(d.spec.as_ref().map(|s| selector_text(&s.selector)).unwrap_or_default()),
    ),
];

pub static DEPLOYMENT: Registered<Deployment> = Registered::new(Kind {
    gvk: GroupVersionKind::of("apps", "v1", "Deployment"),
    names: Names { plural: "deployments", singular: "deployment", short: &["deploy"], categories: &["all"] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.apps.v1.Deployment",
    storage: "deployments",
    name_rule: NameRule::DnsSubdomain,
    default,
    validate: Validate { create: |d| validate(d), update: validate_update },
    strategy: Strategy {
        warnings: |new, old| {
            let template = new.spec.as_ref().map(|s| &s.template);
            crate::warnings::pods::of_controller(&new.metadata, old.map(|o| &o.metadata), template, true)
        },
        prepare_update,
        ..spec_and_status!(Deployment)
    },
    subresources: SUBRESOURCES,
    selectable: &[],
    columns: COLUMNS,
});

fn status(d: &Deployment, of: fn(&DeploymentStatus) -> Option<i32>) -> i32 {
    d.status.as_ref().and_then(of).unwrap_or(0)
}

fn pod_spec(d: &Deployment) -> Option<&k8s_openapi::api::core::v1::PodSpec> {
    d.spec.as_ref().and_then(|s| s.template.spec.as_ref())
}

fn default(d: &mut Deployment) {
    let spec = d.spec.get_or_insert_default();
    default_pod_template(&mut spec.template);
    spec.replicas.get_or_insert(1);
    let strategy = spec.strategy.get_or_insert_default();
    fill(&mut strategy.type_, "RollingUpdate");
    if strategy.type_.as_deref() == Some("RollingUpdate") {
        let rolling = strategy.rolling_update.get_or_insert_default();
        rolling.max_unavailable.get_or_insert_with(|| IntOrString::String(MAX_UNAVAILABLE.to_owned()));
        rolling.max_surge.get_or_insert_with(|| IntOrString::String(MAX_SURGE.to_owned()));
    }
    spec.revision_history_limit.get_or_insert(REVISION_HISTORY_LIMIT);
    spec.progress_deadline_seconds.get_or_insert(PROGRESS_DEADLINE_SECONDS);
}

/// Annotations count as specification, since the controller copies them to its replica sets.
fn prepare_update(new: &mut Deployment, old: &Deployment) {
    new.status.clone_from(&old.status);
    let changed = !semantic_eq(&new.spec, &old.spec)
        || !semantic_eq(&new.metadata.annotations, &old.metadata.annotations);
    next_generation(new, old, changed);
}

fn validate(d: &Deployment) -> FieldErrors {
    d.spec.as_ref().map(validate_spec).unwrap_or_default()
}

fn validate_spec(spec: &DeploymentSpec) -> FieldErrors {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    nonnegative(&mut errors, &path, &[("replicas", or_zero(spec.replicas))]);
    validate_replicated(&mut errors, &spec.selector, Some(&spec.template));
    if let Some(strategy) = &spec.strategy {
        validate_strategy(&mut errors, strategy, &path.child("strategy"));
    }
    nonnegative(
        &mut errors,
        &path,
        &[
            ("minReadySeconds", or_zero(spec.min_ready_seconds)),
            ("revisionHistoryLimit", or_zero(spec.revision_history_limit)),
            ("progressDeadlineSeconds", or_zero(spec.progress_deadline_seconds)),
        ],
    );
    if let Some(deadline) =
        spec.progress_deadline_seconds.filter(|d| *d <= spec.min_ready_seconds.unwrap_or(0))
    {
        let path = path.child("progressDeadlineSeconds");
        errors.push(FieldError::invalid(&path, deadline, "must be greater than minReadySeconds"));
    }
    errors
}

fn validate_strategy(errors: &mut FieldErrors, strategy: &DeploymentStrategy, path: &Path) {
    match (strategy.type_.as_deref().unwrap_or_default(), &strategy.rolling_update) {
        ("Recreate", Some(_)) => errors.push(FieldError::forbidden(
            &path.child("rollingUpdate"),
            "may not be specified when strategy `type` is 'Recreate'",
        )),
        ("Recreate", None) => {}
        ("RollingUpdate", Some(rolling)) => validate_rolling(errors, rolling, &path.child("rollingUpdate")),
        ("RollingUpdate", None) => errors.push(FieldError::required(
            &path.child("rollingUpdate"),
            "this should be defaulted and never be nil",
        )),
        (other, rolling) => {
            let rolling = rolling.as_ref().map(|r| (&r.max_unavailable, &r.max_surge));
            let value = shown_strategy(other, rolling);
            errors.push(FieldError::not_supported(path, value, &["Recreate", "RollingUpdate"]));
        }
    }
}

fn validate_rolling(errors: &mut FieldErrors, rolling: &RollingUpdateDeployment, path: &Path) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let at = path.child("maxUnavailable");
    positive_int_or_percent(errors, unavailable, &at);
    positive_int_or_percent(errors, surge, &path.child("maxSurge"));
    if amount(unavailable) == 0 && amount(surge) == 0 {
        errors.push(FieldError::invalid(&at, Json(unavailable), "may not be 0 when `maxSurge` is 0"));
    }
    at_most_100_percent(errors, unavailable, &at);
}

fn validate_update(new: &Deployment, old: &Deployment) -> FieldErrors {
    let mut errors = validate(new);
    if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
        selector_kept(&mut errors, &new.selector, &old.selector);
    }
    errors
}

fn validate_status(new: &Deployment, old: &Deployment) -> FieldErrors {
    let mut errors = Vec::new();
    let empty = DeploymentStatus::default();
    let s = new.status.as_ref().unwrap_or(&empty);
    nonnegative(
        &mut errors,
        &Path::new("status"),
        &[
            ("observedGeneration", s.observed_generation.unwrap_or(0)),
            ("replicas", or_zero(s.replicas)),
            ("updatedReplicas", or_zero(s.updated_replicas)),
            ("readyReplicas", or_zero(s.ready_replicas)),
            ("availableReplicas", or_zero(s.available_replicas)),
            ("unavailableReplicas", or_zero(s.unavailable_replicas)),
            ("terminatingReplicas", or_zero(s.terminating_replicas)),
            ("collisionCount", or_zero(s.collision_count)),
        ],
    );
    let (ready, available) = (or_zero(s.ready_replicas), or_zero(s.available_replicas));
    let counts = [
        ("updatedReplicas", or_zero(s.updated_replicas)),
        ("readyReplicas", ready),
        ("availableReplicas", available),
    ];
    counts_within(&mut errors, or_zero(s.replicas), &counts);
    available_are_ready(&mut errors, available, ready, "readyReplicas");
    collision_count_kept(&mut errors, s.collision_count, old.status.as_ref().and_then(|s| s.collision_count));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::{Value, json};

    fn deployment(change: impl FnOnce(&mut Value)) -> Deployment {
        let mut value = json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}},
            },
        });
        change(&mut value);
        let mut d = object(value);
        default(&mut d);
        d
    }

    #[test]
    fn defaults_are_upstreams() {
        let spec = serde_json::to_value(deployment(|_| ()).spec).expect("JSON");
        assert_eq!(spec["replicas"], 1);
        assert_eq!(spec["revisionHistoryLimit"], 10);
        assert_eq!(spec["progressDeadlineSeconds"], 600);
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
        assert_eq!(spec["template"]["spec"].get("enableServiceLinks"), None);
    }

    #[test]
    fn refusals_are_upstreams_words() {
        let check = |change: fn(&mut Value), expect: &[&str]| {
            assert_eq!(lines(&validate(&deployment(change))), expect);
        };
        check(|_| (), &[]);
        check(
            |d| d["spec"]["selector"] = json!({"matchLabels": {"app": "other"}}),
            &[
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            ],
        );
        check(
            |d| drop(d["spec"].as_object_mut().and_then(|s| s.remove("selector"))),
            &[
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            ],
        );
        check(
            |d| d["spec"]["template"]["spec"]["restartPolicy"] = json!("Never"),
            &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
        );
        check(
            |d| d["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}}),
            &[
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
            ],
        );
        check(
            |d| d["spec"]["replicas"] = json!(-1),
            &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
        );
        check(
            |d| d["spec"]["strategy"] = json!({"type": "Fast"}),
            &[
                "spec.strategy: Unsupported value: {\"Type\":\"Fast\",\"RollingUpdate\":null}: supported values: \"Recreate\", \"RollingUpdate\"",
            ],
        );
    }

    #[test]
    fn the_selector_stays_and_the_generation_follows_the_spec() {
        let mut old = deployment(|_| ());
        (DEPLOYMENT.kind.strategy.prepare_create)(&mut old);
        assert_eq!(old.metadata.generation, Some(1));
        let mut new = deployment(|d| {
            d["spec"]["selector"] = json!({"matchLabels": {"app": "b"}});
            d["spec"]["template"]["metadata"]["labels"] = json!({"app": "b"});
        });
        prepare_update(&mut new, &old);
        assert_eq!(new.metadata.generation, Some(2));
        assert_eq!(
            lines(&validate_update(&new, &old)),
            ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"]
        );
        let mut same = old.clone();
        same.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        prepare_update(&mut same, &old);
        assert_eq!(same.metadata.generation, Some(1));
    }
}
