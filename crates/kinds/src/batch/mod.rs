//! batch/v1: work that ends.

mod cron_job;
mod indexes;
mod job;
mod job_spec;
mod job_status;
mod job_update;
pub mod schedule;
#[cfg(test)]
mod tests;

pub use cron_job::CRON_JOB;
pub use indexes::parse_indexes;
pub(crate) use job::is_huge;
pub use job::{
    CONTROLLER_UID_LABEL, JOB, JOB_NAME_LABEL, LEGACY_CONTROLLER_UID_LABEL, LEGACY_JOB_NAME_LABEL,
};

use k8s_openapi::api::batch::v1::{Job, JobCondition};

/// Whether a condition of this type is true.
pub fn is_true(conditions: &[JobCondition], kind: &str) -> bool {
    conditions.iter().any(|c| c.type_ == kind && c.status == "True")
}

fn has(job: &Job, kind: &str) -> bool {
    is_true(job.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default(), kind)
}

/// Complete or Failed.
pub fn is_finished(job: &Job) -> bool {
    has(job, "Complete") || has(job, "Failed")
}
