//! apps/v1 StatefulSet.

use super::common::*;
use crate::kind::{Cell, Column, Kind, NameRule, Names, ScaleAccess, Scope, Subresource, Validate};
use crate::object::Registered;
use crate::pod_spec::defaults::fill;
use crate::pod_spec::{default_claim_spec, default_pod_template, validate_pod_template};
use crate::strategy::{semantic_eq, spec_and_status, status_access};
use crate::support::{age, column, nonnegative, or_zero, wide};
use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec, StatefulSetStatus,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meta::validation::{is_dns1123_label, validate_annotations, validate_labels};
use meta::{FieldError, FieldErrors, GroupVersionKind, Json, Path, Verbatim};
use std::borrow::Cow;

const REVISION_HISTORY_LIMIT: i32 = 10;
const ONLY_THESE_CHANGE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

const SUBRESOURCES: &[Subresource<StatefulSet>] = &[
    Subresource::Status(status_access!(StatefulSet, validate_status)),
    Subresource::Scale(ScaleAccess {
        spec_replicas: desired,
        set_spec_replicas: |s, replicas| s.spec.get_or_insert_default().replicas = Some(replicas),
        status_replicas: |s| s.status.as_ref().map_or(0, |s| s.replicas),
        selector: |s| s.spec.as_ref().map(|s| selector_text(&s.selector)).unwrap_or_default(),
    }),
];

const COLUMNS: &[Column<StatefulSet>] = &[
    column("Ready", "Number of the pod with ready state", |s| {
        let ready = s.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
        Cell::str(format!("{ready}/{}", desired(s)))
    }),
    age(),
    wide("Containers", NAMES_OF_CONTAINERS, |s| Cell::str(container_names(pod_spec(s)))),
    wide("Images", IMAGES_OF_CONTAINERS, |s| Cell::str(container_images(pod_spec(s)))),
];

pub static STATEFUL_SET: Registered<StatefulSet> = Registered::new(Kind {
    gvk: GroupVersionKind::of("apps", "v1", "StatefulSet"),
    names: Names { plural: "statefulsets", singular: "statefulset", short: &["sts"], categories: &["all"] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.apps.v1.StatefulSet",
    storage: "statefulsets",
    name_rule: NameRule::DnsLabel,
    default,
    validate: Validate { create: validate, update: validate_update },
    strategy: crate::kind::Strategy {
        warnings: crate::warnings::objects::stateful_set,
        ..spec_and_status!(StatefulSet)
    },
    subresources: SUBRESOURCES,
    selectable: &[],
    columns: COLUMNS,
});

fn desired(s: &StatefulSet) -> i32 {
    s.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0)
}

fn pod_spec(s: &StatefulSet) -> Option<&PodSpec> {
    s.spec.as_ref().and_then(|s| s.template.spec.as_ref())
}

fn default(set: &mut StatefulSet) {
    let spec = set.spec.get_or_insert_default();
    default_pod_template(&mut spec.template);
    for claim in spec.volume_claim_templates.iter_mut().flatten() {
        default_claim_spec(claim.spec.get_or_insert_default());
        fill(&mut claim.status.get_or_insert_default().phase, "Pending");
    }
    fill(&mut spec.pod_management_policy, "OrderedReady");
    let strategy = spec.update_strategy.get_or_insert_default();
    if strategy.type_.as_deref().unwrap_or_default().is_empty() {
        strategy.type_ = Some("RollingUpdate".to_owned());
        strategy.rolling_update.get_or_insert_default();
    }
    if strategy.type_.as_deref() == Some("RollingUpdate")
        && let Some(rolling) = &mut strategy.rolling_update
    {
        rolling.partition.get_or_insert(0);
        // behind the gate MaxUnavailableStatefulSet, which v1.36 ships switched off
        rolling.max_unavailable = None;
    }
    let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
    fill(&mut retention.when_deleted, "Retain");
    fill(&mut retention.when_scaled, "Retain");
    spec.replicas.get_or_insert(1);
    spec.revision_history_limit.get_or_insert(REVISION_HISTORY_LIMIT);
}

/// How much of a spec is judged: an update tolerates what an older version let in and nobody may change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    Create,
    Update,
    UpdateOfInvalidTemplate,
}

fn validate(set: &StatefulSet) -> FieldErrors {
    set.spec.as_ref().map(|s| validate_spec(s, Strictness::Create)).unwrap_or_default()
}

fn validate_spec(spec: &StatefulSetSpec, strictness: Strictness) -> FieldErrors {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    match spec.pod_management_policy.as_deref().unwrap_or_default() {
        "" => errors.push(FieldError::required(&path.child("podManagementPolicy"), "")),
        "OrderedReady" | "Parallel" => {}
        other => errors.push(FieldError::invalid(
            &path.child("podManagementPolicy"),
            other,
            "must be 'OrderedReady' or 'Parallel'",
        )),
    }
    validate_strategy(&mut errors, spec, &path.child("updateStrategy"));
    if let Some(policy) = &spec.persistent_volume_claim_retention_policy {
        let path = path.child("persistentVolumeClaimRetentionPolicy");
        for (name, value) in [("whenDeleted", &policy.when_deleted), ("whenScaled", &policy.when_scaled)] {
            let value = value.as_deref().unwrap_or_default();
            if !matches!(value, "Retain" | "Delete") {
                errors.push(FieldError::not_supported(&path.child(name), value, &["Retain", "Delete"]));
            }
        }
    }
    if strictness == Strictness::Create {
        validate_claim_templates(&mut errors, spec, &path);
    }
    nonnegative(
        &mut errors,
        &path,
        &[
            ("replicas", or_zero(spec.replicas)),
            ("minReadySeconds", or_zero(spec.min_ready_seconds)),
            ("ordinals.start", or_zero(spec.ordinals.as_ref().and_then(|o| o.start))),
        ],
    );
    let service = spec.service_name.as_deref().unwrap_or_default();
    if strictness == Strictness::Create && !service.is_empty() {
        let messages = is_dns1123_label(service).into_iter();
        errors.extend(messages.map(|m| FieldError::invalid(&path.child("serviceName"), service, m)));
    }
    validate_selector(&mut errors, &spec.selector, "statefulset");
    match readable(&spec.selector) {
        None => {
            errors.push(FieldError::invalid(&path.child("selector"), selector_json(&spec.selector), ""));
        }
        Some(selector) => {
            let template_path = path.child("template");
            let template = template_to_judge(spec);
            labels_match(&mut errors, &selector, &template, &template_path);
            if strictness != Strictness::UpdateOfInvalidTemplate {
                errors.extend(validate_pod_template(&template, &template_path));
            }
            if let Some(meta) = &template.metadata {
                if let Some(labels) = &meta.labels {
                    errors.extend(validate_labels(labels, &template_path.child("labels")));
                }
                if let Some(annotations) = &meta.annotations {
                    errors.extend(validate_annotations(annotations, &template_path.child("annotations")));
                }
            }
        }
    }
    runs_forever(&mut errors, &spec.template, &path.child("template"), "StatefulSet");
    errors
}

fn validate_strategy(errors: &mut FieldErrors, spec: &StatefulSetSpec, path: &Path) {
    let Some(strategy) = &spec.update_strategy else {
        errors.push(FieldError::required(path, ""));
        return;
    };
    match (strategy.type_.as_deref().unwrap_or_default(), &strategy.rolling_update) {
        ("", _) => errors.push(FieldError::required(path, "")),
        ("OnDelete", Some(rolling)) => errors.push(FieldError::invalid(
            &path.child("rollingUpdate"),
            rolling_json(rolling),
            "only allowed for updateStrategy 'RollingUpdate'",
        )),
        ("RollingUpdate", Some(rolling)) => validate_rolling(errors, rolling, &path.child("rollingUpdate")),
        ("OnDelete" | "RollingUpdate", None) => {}
        (other, rolling) => {
            let rolling = rolling.as_ref().map_or("null".to_owned(), |r| rolling_json(r).0);
            let value = Verbatim(format!("{{\"Type\":{other:?},\"RollingUpdate\":{rolling}}}"));
            errors.push(FieldError::invalid(path, value, "must be 'RollingUpdate' or 'OnDelete'"));
        }
    }
}

fn rolling_json(rolling: &RollingUpdateStatefulSetStrategy) -> Verbatim {
    let unavailable = serde_json::to_string(&rolling.max_unavailable).unwrap_or_default();
    Verbatim(format!("{{\"Partition\":{},\"MaxUnavailable\":{unavailable}}}", rolling.partition.unwrap_or(0)))
}

fn validate_rolling(errors: &mut FieldErrors, rolling: &RollingUpdateStatefulSetStrategy, path: &Path) {
    nonnegative(errors, path, &[("partition", or_zero(rolling.partition))]);
    if let Some(unavailable) = &rolling.max_unavailable {
        let path = path.child("maxUnavailable");
        positive_int_or_percent(errors, unavailable, &path);
        if amount(unavailable) == 0 {
            errors.push(FieldError::invalid(&path, Json(unavailable as &IntOrString), "cannot be 0"));
        }
        at_most_100_percent(errors, unavailable, &path);
    }
}

fn validate_claim_templates(errors: &mut FieldErrors, spec: &StatefulSetSpec, path: &Path) {
    for (i, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
        let path = path.child("volumeClaimTemplates").index(i).child("spec");
        let empty = Default::default();
        crate::pod_spec::validate_claim_spec(errors, claim.spec.as_ref().unwrap_or(&empty), &path);
    }
}

/// The template as pods will have it: the controller sets hostname and subdomain and adds a volume for
/// each claim template.
fn template_to_judge(spec: &StatefulSetSpec) -> Cow<'_, PodTemplateSpec> {
    let claims = spec.volume_claim_templates.as_deref().unwrap_or_default();
    let named = spec.template.spec.as_ref().is_some_and(|s| s.hostname.is_some() || s.subdomain.is_some());
    if claims.is_empty() && !named {
        return Cow::Borrowed(&spec.template);
    }
    let mut template = spec.template.clone();
    let pod = template.spec.get_or_insert_default();
    pod.hostname = None;
    pod.subdomain = None;
    let name_of = |claim: &k8s_openapi::api::core::v1::PersistentVolumeClaim| {
        claim.metadata.name.clone().unwrap_or_default()
    };
    let mut volumes: Vec<Volume> = Vec::new();
    for name in claims.iter().map(name_of) {
        if !volumes.iter().any(|v| v.name == name) {
            let source = PersistentVolumeClaimVolumeSource { claim_name: name.clone(), ..Default::default() };
            volumes.push(Volume { name, persistent_volume_claim: Some(source), ..Default::default() });
        }
    }
    let own = pod.volumes.take().unwrap_or_default();
    let added = volumes.len();
    volumes.extend(own);
    let mut i = 0;
    let claim_names: Vec<String> = volumes[..added].iter().map(|v| v.name.clone()).collect();
    volumes.retain(|v| {
        i += 1;
        i <= added || !claim_names.contains(&v.name)
    });
    pod.volumes = Some(volumes);
    Cow::Owned(template)
}

fn validate_update(new: &StatefulSet, old: &StatefulSet) -> FieldErrors {
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return Vec::new() };
    let strictness = if validate_spec(old, Strictness::Update).is_empty() {
        Strictness::Update
    } else {
        Strictness::UpdateOfInvalidTemplate
    };
    let mut errors = validate_spec(new, strictness);
    let changeable_taken_back = StatefulSetSpec {
        replicas: old.replicas,
        template: old.template.clone(),
        update_strategy: old.update_strategy.clone(),
        min_ready_seconds: old.min_ready_seconds,
        ordinals: old.ordinals.clone(),
        revision_history_limit: old.revision_history_limit,
        persistent_volume_claim_retention_policy: old.persistent_volume_claim_retention_policy.clone(),
        pod_management_policy: new.pod_management_policy.clone(),
        selector: new.selector.clone(),
        service_name: new.service_name.clone(),
        volume_claim_templates: new.volume_claim_templates.clone(),
    };
    if !semantic_eq(&changeable_taken_back, old) {
        errors.push(FieldError::forbidden(&Path::new("spec"), ONLY_THESE_CHANGE));
    }
    errors
}

fn validate_status(new: &StatefulSet, old: &StatefulSet) -> FieldErrors {
    let mut errors = Vec::new();
    let empty = StatefulSetStatus::default();
    let s = new.status.as_ref().unwrap_or(&empty);
    let (ready, available) = (or_zero(s.ready_replicas), or_zero(s.available_replicas));
    let (current, updated) = (or_zero(s.current_replicas), or_zero(s.updated_replicas));
    nonnegative(
        &mut errors,
        &Path::new("status"),
        &[
            ("replicas", or_zero(s.replicas)),
            ("readyReplicas", ready),
            ("currentReplicas", current),
            ("updatedReplicas", updated),
            ("availableReplicas", available),
            ("observedGeneration", s.observed_generation.unwrap_or(0)),
            ("collisionCount", or_zero(s.collision_count)),
        ],
    );
    let counts = [
        ("readyReplicas", ready),
        ("currentReplicas", current),
        ("updatedReplicas", updated),
        ("availableReplicas", available),
    ];
    counts_within(&mut errors, or_zero(s.replicas), &counts);
    available_are_ready(&mut errors, available, ready, "status.readyReplicas");
    collision_count_kept(&mut errors, s.collision_count, old.status.as_ref().and_then(|s| s.collision_count));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::{Value, json};

    fn set(change: impl FnOnce(&mut Value)) -> StatefulSet {
        let mut value = json!({
            "metadata": {"name": "db"},
            "spec": {
                "serviceName": "db",
                "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "db:1",
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                    "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}}}}],
            },
        });
        change(&mut value);
        let mut set = object(value);
        default(&mut set);
        set
    }

    #[test]
    fn claim_templates_are_volumes_of_the_pods() {
        let good = set(|_| ());
        assert_eq!(lines(&validate(&good)), [""; 0]);
        let spec = serde_json::to_value(&good.spec).expect("JSON");
        assert_eq!(spec["podManagementPolicy"], "OrderedReady");
        assert_eq!(
            spec["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
        );
        assert_eq!(
            spec["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
        );
        assert_eq!(spec["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"], "1Gi");
    }

    #[test]
    fn only_some_fields_may_change() {
        let old = set(|_| ());
        assert_eq!(lines(&validate_update(&set(|s| s["spec"]["replicas"] = json!(3)), &old)), [""; 0]);
        assert_eq!(
            lines(&validate_update(&set(|s| s["spec"]["serviceName"] = json!("other")), &old)),
            [format!("spec: Forbidden: {ONLY_THESE_CHANGE}")]
        );
    }
}
