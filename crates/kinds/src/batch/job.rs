//! batch/v1 Job: pods that run until enough of them have succeeded.

use super::{has, job_spec, job_status, job_update};
use crate::apps::{container_images, container_names};
use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Selectable, Strategy, Subresource, Validate};
use crate::object::Registered;
use crate::pod_spec::default_pod_template;
use crate::pod_spec::defaults::fill;
use crate::strategy::{first_generation, spec_and_status, status_access};
use crate::support::{age, column, format_selector, wide};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::PodSpec;
use meta::{GroupVersionKind, Path};

pub const JOB_NAME_LABEL: &str = "batch.kubernetes.io/job-name";
pub const CONTROLLER_UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
/// Older labels of the same meaning, without a prefix.
pub const LEGACY_JOB_NAME_LABEL: &str = "job-name";
pub const LEGACY_CONTROLLER_UID_LABEL: &str = "controller-uid";

const BACKOFF_LIMIT: i32 = 6;
/// From here on upstream warns that failed indexes of a highly parallel job may no longer be told.
const COMPLETIONS_SOFT_LIMIT: i32 = 100_000;
const PARALLELISM_SOFT_LIMIT: i32 = 10_000;

const SUBRESOURCES: &[Subresource<Job>] = &[Subresource::Status(status_access!(Job, job_status::validate))];

const COLUMNS: &[Column<Job>] = &[
    column("Status", "Status of the job.", |j| Cell::str(summary(j))),
    column(
        "Completions",
        "The number of pods which reached phase Succeeded. The value increases monotonically for a given spec. However, it may decrease in reaction to scale down of elastic indexed jobs.",
        |j| Cell::str(completions(j)),
    ),
    column("Duration", "Time required to complete the job.", duration),
    age(),
    wide("Containers", "Names of each container in the template.", |j| {
        Cell::str(container_names(pod_spec(j.spec.as_ref())))
    }),
    wide("Images", "Images referenced by each container in the template.", |j| {
        Cell::str(container_images(pod_spec(j.spec.as_ref())))
    }),
    wide("Selector", SELECTOR, |j| {
        Cell::str(format_selector(j.spec.as_ref().and_then(|s| s.selector.as_ref())))
    }),
];

pub(super) const SELECTOR: &str = "A label query over pods that should match the pod count. Normally, the system sets this field for you. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors";

pub static JOB: Registered<Job> = Registered::new(Kind {
    gvk: GroupVersionKind::of("batch", "v1", "Job"),
    names: Names { plural: "jobs", singular: "job", short: &[], categories: &["all"] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.batch.v1.Job",
    storage: "jobs",
    name_rule: NameRule::DnsSubdomain,
    default,
    validate: Validate { create: |j| job_spec::validate(j, true), update: job_update::validate },
    strategy: Strategy {
        prepare_create,
        orphans_by_default: true,
        warnings: |new, old| {
            crate::warnings::pods::of_job(
                &new.metadata,
                old.map(|o| &o.metadata),
                &Path::new("spec"),
                new.spec.as_ref(),
            )
        },
        ..spec_and_status!(Job)
    },
    subresources: SUBRESOURCES,
    selectable: &[Selectable {
        path: "status.successful",
        value: |j| j.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0).to_string(),
    }],
    columns: COLUMNS,
});

pub(super) fn pod_spec(spec: Option<&JobSpec>) -> Option<&PodSpec> {
    spec.and_then(|s| s.template.spec.as_ref())
}

/// One word for where the job is.
fn summary(job: &Job) -> &'static str {
    match () {
        () if has(job, "Complete") => "Complete",
        () if has(job, "Failed") => "Failed",
        () if job.metadata.deletion_timestamp.is_some() => "Terminating",
        () if has(job, "Suspended") => "Suspended",
        () if has(job, "FailureTarget") => "FailureTarget",
        () if has(job, "SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(job: &Job) -> String {
    let succeeded = job.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0);
    let parallelism = job.spec.as_ref().and_then(|s| s.parallelism).unwrap_or(0);
    match job.spec.as_ref().and_then(|s| s.completions) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    }
}

fn duration(job: &Job) -> Cell {
    let status = job.status.as_ref();
    let Some(start) = status.and_then(|s| s.start_time.as_ref()) else { return Cell::str("") };
    match status.and_then(|s| s.completion_time.as_ref()) {
        None => Cell::Age(Some(start.0)),
        Some(end) => Cell::Span(end.0.as_second() - start.0.as_second()),
    }
}

/// What a pod template and a failure policy within a job's specification are filled with: of a job and of a template
/// of jobs alike.
pub(super) fn default_parts(spec: &mut JobSpec) {
    default_pod_template(&mut spec.template);
    let rules = spec.pod_failure_policy.iter_mut().flat_map(|p| &mut p.rules);
    for pattern in rules.flat_map(|r| r.on_pod_conditions.iter_mut().flatten()) {
        if pattern.status.as_deref().is_none_or(str::is_empty) {
            pattern.status = Some("True".into());
        }
    }
}

fn default(job: &mut Job) {
    let spec = job.spec.get_or_insert_default();
    default_parts(spec);
    if spec.completions.is_none() && spec.parallelism.is_none() {
        spec.completions = Some(1);
    }
    spec.parallelism.get_or_insert(1);
    let limit = if spec.backoff_limit_per_index.is_some() { i32::MAX } else { BACKOFF_LIMIT };
    spec.backoff_limit.get_or_insert(limit);
    fill(&mut spec.completion_mode, "NonIndexed");
    spec.suspend.get_or_insert(false);
    let replaced = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
    fill(&mut spec.pod_replacement_policy, replaced);
    spec.manual_selector.get_or_insert(false);
    // Of a job that exists: a new one gets its labels when the template has all of its own.
    let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    if labels.is_some_and(|l| l.contains_key(CONTROLLER_UID_LABEL)) {
        copy_labels(job);
    }
}

/// A job without labels has those of its pods.
fn copy_labels(job: &mut Job) {
    let labels = job.spec.as_ref().and_then(|s| s.template.metadata.as_ref()?.labels.clone());
    if job.metadata.labels.as_ref().is_none_or(|l| l.is_empty()) && labels.is_some() {
        job.metadata.labels = labels;
    }
}

fn prepare_create(job: &mut Job) {
    let (name, uid) = (job.metadata.name.clone(), job.metadata.uid.clone());
    let spec = job.spec.get_or_insert_default();
    if spec.manual_selector != Some(true) {
        generate_selector(spec, name.unwrap_or_default(), uid.unwrap_or_default());
    }
    // Upstream does so whenever it reads the stored object.
    copy_labels(job);
    job.status = Some(Default::default());
    first_generation(job);
}

/// Labels that no other job's pods have, and a selector of them. Labels that the user gave instead are refused later.
fn generate_selector(spec: &mut JobSpec, name: String, uid: String) {
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (key, value) in [
        (LEGACY_JOB_NAME_LABEL, &name),
        (JOB_NAME_LABEL, &name),
        (LEGACY_CONTROLLER_UID_LABEL, &uid),
        (CONTROLLER_UID_LABEL, &uid),
    ] {
        labels.entry(key.to_owned()).or_insert_with(|| value.clone());
    }
    let selected = spec.selector.get_or_insert_default().match_labels.get_or_insert_default();
    selected.entry(CONTROLLER_UID_LABEL.to_owned()).or_insert(uid);
}

/// Whether so many indexes may fail at once that the status cannot tell them all.
pub(crate) fn is_huge(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
        && spec.completions.unwrap_or(0) > COMPLETIONS_SOFT_LIMIT
        && spec.parallelism.unwrap_or(0) > PARALLELISM_SOFT_LIMIT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::object;
    use serde_json::{Value, json};

    fn created(value: Value) -> Value {
        let mut job: Job = object(value);
        default(&mut job);
        prepare_create(&mut job);
        serde_json::to_value(job).unwrap()
    }

    #[test]
    fn a_new_job_selects_its_own_pods_and_gets_upstreams_defaults() {
        let of = |spec: Value| {
            let mut job = json!({"metadata": {"name": "pi", "uid": "u1"}, "spec": {"template": {"spec": {"containers": []}}}});
            job["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            created(job)
        };
        let job = of(json!({}));
        let labels = json!({
            "batch.kubernetes.io/controller-uid": "u1", "batch.kubernetes.io/job-name": "pi", "controller-uid": "u1", "job-name": "pi",
        });
        assert_eq!(job["spec"]["template"]["metadata"]["labels"], labels);
        assert_eq!(job["metadata"]["labels"], labels);
        assert_eq!(
            job["spec"]["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}})
        );
        let fields = [
            "completions",
            "parallelism",
            "backoffLimit",
            "completionMode",
            "suspend",
            "podReplacementPolicy",
        ];
        let check = |spec: Value, expect: Value| {
            let job = of(spec);
            assert_eq!(Value::Array(fields.iter().map(|f| job["spec"][f].clone()).collect()), expect);
        };
        check(json!({}), json!([1, 1, 6, "NonIndexed", false, "TerminatingOrFailed"]));
        check(json!({"parallelism": 3}), json!([null, 3, 6, "NonIndexed", false, "TerminatingOrFailed"]));
        check(json!({"completions": 3}), json!([3, 1, 6, "NonIndexed", false, "TerminatingOrFailed"]));
        let rule = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]});
        let spec = json!({"backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": [rule]}});
        check(spec.clone(), json!([1, 1, i32::MAX, "NonIndexed", false, "Failed"]));
        let policy = &of(spec)["spec"]["podFailurePolicy"]["rules"][0]["onPodConditions"][0];
        assert_eq!(policy["status"], "True");
        let manual = of(json!({"manualSelector": true, "selector": {"matchLabels": {"a": "b"}}}));
        assert_eq!(manual["spec"]["selector"], json!({"matchLabels": {"a": "b"}}));
    }

    #[test]
    fn a_table_says_how_far_a_job_is() {
        let check = |job: Value, expect: [&str; 2], duration: Cell| {
            let job: Job = object(job);
            assert_eq!([summary(&job), &completions(&job)], expect);
            assert_eq!(super::duration(&job), duration);
        };
        let time = |t: &str| format!("2026-01-01T00:0{t}:00Z");
        let start = time("1").parse().unwrap();
        check(json!({"spec": {"parallelism": 1}}), ["Running", "0/1"], Cell::str(""));
        check(
            json!({"spec": {"parallelism": 3}, "status": {"startTime": time("1"), "succeeded": 2}}),
            ["Running", "2/1 of 3"],
            Cell::Age(Some(start)),
        );
        let done = json!({
            "startTime": time("1"), "completionTime": time("3"), "succeeded": 2,
            "conditions": [{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}],
        });
        check(json!({"spec": {"completions": 2}, "status": done}), ["Complete", "2/2"], Cell::Span(120));
        let suspended = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
        check(json!({"spec": {"completions": 2}, "status": suspended}), ["Suspended", "0/2"], Cell::str(""));
    }
}
