//! batch/v1 CronJob: jobs at given times.

use super::job::{SELECTOR, default_parts, pod_spec};
use super::job_spec::validate_spec;
use super::schedule::{Schedule, time_zone};
use crate::apps::{container_images, container_names, selector_json};
use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Subresource, Validate};
use crate::object::Registered;
use crate::pod_spec::defaults::fill;
use crate::strategy::{spec_and_status, status_access};
use crate::support::{
    age, column, format_selector, no_update_errors, nonnegative, or_zero, typed_column, wide,
};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec};
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};

/// The controller appends the time to the name for a job's name, which pods have as a label.
const MAX_NAME_BYTES: usize = 63 - 11;
/// Of a part of a time zone's name.
const MAX_ZONE_PART_BYTES: usize = 14;
const SUCCESSFUL_JOBS_HISTORY_LIMIT: i32 = 3;
const FAILED_JOBS_HISTORY_LIMIT: i32 = 1;

const SUBRESOURCES: &[Subresource<CronJob>] =
    &[Subresource::Status(status_access!(CronJob, no_update_errors))];

const COLUMNS: &[Column<CronJob>] = &[
    column("Schedule", "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron.", |c| {
        Cell::str(c.spec.schedule.clone())
    }),
    column(
        "Timezone",
        "The time zone name for the given schedule, see https://en.wikipedia.org/wiki/List_of_tz_database_time_zones. If not specified, this will default to the time zone of the kube-controller-manager process. The set of valid time zone names and the time zone offset is loaded from the system-wide time zone database by the API server during CronJob validation and the controller manager during execution. If no system-wide time zone database can be found a bundled version of the database is used instead. If the time zone name becomes invalid during the lifetime of a CronJob or due to a change in host configuration, the controller will stop creating new new Jobs and will create a system event with the reason UnknownTimeZone. More information can be found in https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#time-zones",
        |c| Cell::str(c.spec.time_zone.clone().unwrap_or_else(|| "<none>".into())),
    ),
    typed_column(
        "Suspend",
        "boolean",
        "This flag tells the controller to suspend subsequent executions, it does not apply to already started executions.  Defaults to false.",
        |c| {
            Cell::str(match c.spec.suspend {
                None => "<unset>",
                Some(true) => "True",
                Some(false) => "False",
            })
        },
    ),
    typed_column("Active", "integer", "A list of pointers to currently running jobs.", |c| {
        let active = c.status.as_ref().and_then(|s| s.active.as_ref()).map_or(0, Vec::len);
        Cell::int(i64::try_from(active).unwrap_or(i64::MAX))
    }),
    column("Last Schedule", "Information when was the last time the job was successfully scheduled.", |c| {
        match c.status.as_ref().and_then(|s| s.last_schedule_time.as_ref()) {
            None => Cell::str("<none>"),
            Some(time) => Cell::Age(Some(time.0)),
        }
    }),
    age(),
    wide("Containers", "Names of each container in the template.", |c| {
        Cell::str(container_names(pod_spec(job_spec(c))))
    }),
    wide("Images", "Images referenced by each container in the template.", |c| {
        Cell::str(container_images(pod_spec(job_spec(c))))
    }),
    wide("Selector", SELECTOR, |c| Cell::str(format_selector(job_spec(c).and_then(|s| s.selector.as_ref())))),
];

pub static CRON_JOB: Registered<CronJob> = Registered::new(Kind {
    gvk: GroupVersionKind::of("batch", "v1", "CronJob"),
    names: Names { plural: "cronjobs", singular: "cronjob", short: &["cj"], categories: &["all"] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.batch.v1.CronJob",
    storage: "cronjobs",
    name_rule: NameRule::DnsSubdomain,
    default,
    validate: Validate { create: validate_create, update: validate_update },
    strategy: Strategy { orphans_by_default: true, warnings, ..spec_and_status!(CronJob) },
    subresources: SUBRESOURCES,
    selectable: &[],
    columns: COLUMNS,
});

fn job_spec(c: &CronJob) -> Option<&JobSpec> {
    c.spec.job_template.spec.as_ref()
}

fn default(c: &mut CronJob) {
    let spec = &mut c.spec;
    default_parts(spec.job_template.spec.get_or_insert_default());
    fill(&mut spec.concurrency_policy, "Allow");
    spec.suspend.get_or_insert(false);
    spec.successful_jobs_history_limit.get_or_insert(SUCCESSFUL_JOBS_HISTORY_LIMIT);
    spec.failed_jobs_history_limit.get_or_insert(FAILED_JOBS_HISTORY_LIMIT);
}

fn warnings(new: &CronJob, old: Option<&CronJob>) -> Vec<String> {
    let path = Path::new("spec.jobTemplate.spec");
    let mut out =
        crate::warnings::pods::of_job(&new.metadata, old.map(|o| &o.metadata), &path, job_spec(new));
    if old.is_some() && new.spec.schedule.contains("TZ") {
        out.push(
            "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                .into(),
        );
    }
    out
}

fn validate_create(c: &CronJob) -> FieldErrors {
    let mut errors = validate(c, None);
    let name = c.metadata.name.as_deref().unwrap_or("");
    if name.len() > MAX_NAME_BYTES {
        let why = "must be no more than 52 characters";
        errors.push(FieldError::invalid(&Path::new("metadata.name"), name, why));
    }
    errors
}

fn validate_update(new: &CronJob, old: &CronJob) -> FieldErrors {
    validate(new, Some(&old.spec))
}

fn validate(c: &CronJob, old: Option<&CronJobSpec>) -> FieldErrors {
    let mut errors = Vec::new();
    let spec = &c.spec;
    let path = Path::new("spec");
    validate_schedule(&mut errors, spec, old, &path.child("schedule"));
    if let Some(seconds) = spec.starting_deadline_seconds {
        errors.extend(rules::validate_nonnegative(seconds, &path.child("startingDeadlineSeconds")));
    }
    if let Some(zone) = &spec.time_zone
        && old.is_none_or(|o| o.time_zone != spec.time_zone)
    {
        validate_zone(&mut errors, zone, &path.child("timeZone"));
    }
    let at = path.child("concurrencyPolicy");
    match spec.concurrency_policy.as_deref().unwrap_or("") {
        "Allow" | "Forbid" | "Replace" => {}
        "" => errors.push(FieldError::required(&at, "")),
        other => errors.push(FieldError::not_supported(&at, other, &["Allow", "Forbid", "Replace"])),
    }
    if let Some(job) = &spec.job_template.spec {
        let at = path.child("jobTemplate").child("spec");
        validate_spec(&mut errors, job, &at);
        if let Some(selector) = &job.selector {
            let why = "`selector` will be auto-generated";
            errors.push(FieldError::invalid(&at.child("selector"), selector_json(selector), why));
        }
        if job.manual_selector == Some(true) {
            errors.push(FieldError::not_supported(&at.child("manualSelector"), true, &["nil", "false"]));
        }
    }
    let limits = [
        ("successfulJobsHistoryLimit", or_zero(spec.successful_jobs_history_limit)),
        ("failedJobsHistoryLimit", or_zero(spec.failed_jobs_history_limit)),
    ];
    nonnegative(&mut errors, &path, &limits);
    errors
}

/// Zones within schedules are for CronJobs of old only.
fn validate_schedule(errors: &mut FieldErrors, spec: &CronJobSpec, old: Option<&CronJobSpec>, path: &Path) {
    let schedule = &spec.schedule;
    if schedule.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if let Err(why) = Schedule::parse(schedule) {
        errors.push(FieldError::invalid(path, schedule, why));
    }
    if !schedule.contains("TZ") {
        return;
    }
    let had = old.is_some_and(|o| o.schedule.contains("TZ"));
    if had && spec.time_zone.is_some() {
        let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        errors.push(FieldError::invalid(path, schedule, why));
    } else if !had {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(FieldError::invalid(path, schedule, why));
    }
}

fn validate_zone(errors: &mut FieldErrors, zone: &str, path: &Path) {
    if zone.is_empty() {
        errors.push(FieldError::invalid(path, zone, "timeZone must be nil or non-empty string"));
        return;
    }
    let unknown = || FieldError::invalid(path, zone, format!("unknown time zone {zone}"));
    let is_part = |part: &str| {
        (1..=MAX_ZONE_PART_BYTES).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_+".contains(&b))
            && !matches!(part, "." | "..")
            && !part.starts_with('-')
    };
    if !zone.split('/').all(is_part) {
        errors.push(unknown());
        return;
    }
    if zone.eq_ignore_ascii_case("Local") {
        let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(FieldError::invalid(path, zone, why));
    }
    // Go knows `Local` by this spelling only.
    if zone != "Local" && time_zone(zone).is_err() {
        errors.push(unknown());
    }
}
