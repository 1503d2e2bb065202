//! CronJobs: a job at each time of a schedule.
//!
//! A job's name tells the minute it is for, so that none is created twice. The status takes a job up when it is there:
//! what is to be created and what was created are told apart by looking, not by remembering.

#[cfg(test)]
mod tests;
mod times;

use crate::children::owners;
use crate::controller::{Controller, Watches};
use crate::metrics::{Buckets, Metric};
use crate::plan::{ALREADY_EXISTS, Action, Note, Op, Plan};
use crate::refs::controller_ref;
use crate::world::{BY_CONTROLLER, World};
use client::Key;
use client::events::reference;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time as MetaTime};
use k8s_openapi::jiff::SignedDuration;
use kinds::batch::schedule::{Schedule, time_zone};
use kinds::batch::{is_finished, is_true};
use meta::Time;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use times::{Due, due, next_time};

/// On jobs: the time they are for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
const RFC3339: &str = "%Y-%m-%dT%H:%M:%S%:z";

static CREATION_SKEW: Metric = Metric::histogram(
    "cronjob_controller_job_creation_skew_duration_seconds",
    &[],
    Buckets::Exponential { first: 1.0, factor: 2.0, count: 10 },
    "Time between when a cronjob is scheduled to be run, and when the corresponding job is created",
);

/// Remembers the schedules it saw: times that only a new schedule has are not made up for.
#[derive(Default)]
pub struct CronJobs {
    seen: Mutex<HashMap<Key, Seen>>,
}

struct Seen {
    uid: Option<String>,
    schedule: (String, Option<String>),
    /// When the schedule replaced another.
    since: Option<Time>,
}

impl Controller for CronJobs {
    const NAME: &'static str = "cronjob-controller";
    const QUEUE: &'static str = "cronjob";
    const METRICS: &'static [&'static Metric] = &[&CREATION_SKEW];

    fn watches(w: &mut Watches) {
        w.own(|w| &w.cron_jobs).on(|w| &w.jobs, |delta, _| owners::<CronJob, Job>(delta));
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        let Some(cron) = world.cron_jobs.get(key) else {
            self.seen.lock().remove(key);
            return Plan::idle("the cron job is gone");
        };
        let mut jobs = world.jobs.by_index(BY_CONTROLLER, cron.metadata.uid.as_deref().unwrap_or(""));
        jobs.sort_by_key(|j| {
            let start = j.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
            (start.is_none(), start, j.metadata.name.clone())
        });
        let mut plan = Plan::default();
        let mut run = Run {
            cron: &cron,
            status: cron.status.clone().unwrap_or_default(),
            since: self.since(key, &cron, now),
            now,
        };
        run.limit_history(&jobs, &mut plan);
        run.look_at(&jobs, &mut plan);
        let create = run.start(&jobs, &mut plan);
        let mut status = run.status;
        status.active = status.active.filter(|a| !a.is_empty());
        if cron.status.as_ref() != Some(&status) {
            plan.op(Op::replace_status(&CronJob { status: Some(status), ..(*cron).clone() }));
        }
        if let Some(job) = create {
            plan.op(job);
        }
        plan
    }
}

impl CronJobs {
    fn since(&self, key: &Key, cron: &CronJob, now: Time) -> Option<Time> {
        let schedule = (cron.spec.schedule.clone(), cron.spec.time_zone.clone());
        let mut all = self.seen.lock();
        let fresh = || Seen { uid: cron.metadata.uid.clone(), schedule: schedule.clone(), since: None };
        let seen = all.entry(key.clone()).or_insert_with(fresh);
        if seen.uid != cron.metadata.uid {
            *seen = fresh();
        } else if seen.schedule != schedule {
            (seen.schedule, seen.since) = (schedule, Some(now));
        }
        seen.since
    }
}

fn name(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or("")
}

fn has(job: &Job, kind: &str) -> bool {
    is_true(job.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default(), kind)
}

/// The job of a time.
fn job_name(cron: &CronJob, time: Time) -> String {
    format!("{}-{}", cron.metadata.name.as_deref().unwrap_or(""), time.as_second().div_euclid(60))
}

/// The time a job was created for by this controller.
fn scheduled_for(cron: &CronJob, job: &Job) -> Option<Time> {
    let time: Time = job.metadata.annotations.as_ref()?.get(SCHEDULED)?.parse().ok()?;
    (name(job) == job_name(cron, time)).then_some(time)
}

/// One reconciliation of one cron job.
struct Run<'a> {
    cron: &'a CronJob,
    status: CronJobStatus,
    since: Option<Time>,
    now: Time,
}

impl Run<'_> {
    fn about(&self) -> ObjectReference {
        reference(self.cron)
    }

    fn active(&self) -> &[ObjectReference] {
        self.status.active.as_deref().unwrap_or_default()
    }

    fn is_active(&self, job: &Job) -> bool {
        self.active().iter().any(|a| a.uid == job.metadata.uid)
    }

    fn remove_active(&mut self, uid: Option<&String>) {
        self.status.active.get_or_insert_default().retain(|a| a.uid.as_ref() != uid);
    }

    fn delete(&mut self, job: &Job, plan: &mut Plan) {
        let mut op = Op::delete(job);
        if let Action::Delete { propagation, .. } = &mut op.action {
            *propagation = Some("Background");
        }
        let done = Note::normal(self.about(), "SuccessfulDelete", format!("Deleted job {}", name(job)));
        let failed = Note::warning(self.about(), "FailedDelete", "Deleted job: {error}");
        plan.op(op.then(done).otherwise(failed));
        self.remove_active(job.metadata.uid.as_ref());
    }

    /// The oldest of the jobs that have ended, beyond how many are to be kept. `jobs`: the oldest first.
    fn limit_history(&mut self, jobs: &[Arc<Job>], plan: &mut Plan) {
        let spec = &self.cron.spec;
        let limits =
            [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
        for (kind, limit) in limits {
            let Some(limit) = limit.and_then(|n| usize::try_from(n).ok()) else { continue };
            let ended: Vec<&Arc<Job>> =
                jobs.iter().filter(|j| has(j, kind) && j.metadata.deletion_timestamp.is_none()).collect();
            for job in &ended[..ended.len().saturating_sub(limit)] {
                self.delete(job, plan);
            }
        }
    }

    /// Takes into the status what became of the jobs.
    fn look_at(&mut self, jobs: &[Arc<Job>], plan: &mut Plan) {
        for job in jobs {
            let known = self.is_active(job);
            if let Some(time) = scheduled_for(self.cron, job).filter(|_| !known)
                && self.status.last_schedule_time.as_ref().is_none_or(|t| t.0 < time)
            {
                self.status.last_schedule_time = Some(MetaTime(time));
            }
            if !is_finished(job) {
                if known {
                    continue;
                }
                if scheduled_for(self.cron, job).is_some() {
                    self.status.active.get_or_insert_default().push(reference(&**job));
                    continue;
                }
                let what = format!("Saw a job that the controller did not create or forgot: {}", name(job));
                plan.note(Note::warning(self.about(), "UnexpectedJob", what));
                continue;
            }
            if known {
                self.remove_active(job.metadata.uid.as_ref());
                let kind = if has(job, "Complete") { "Complete" } else { "Failed" };
                let what = format!("Saw completed job: {}, condition: {kind}", name(job));
                plan.note(Note::normal(self.about(), "SawCompletedJob", what));
            }
            let ended = job.status.as_ref().and_then(|s| s.completion_time.clone());
            if has(job, "Complete") && ended > self.status.last_successful_time {
                self.status.last_successful_time = ended;
            }
        }
        let missing: Vec<ObjectReference> =
            self.active().iter().filter(|a| !jobs.iter().any(|j| j.metadata.uid == a.uid)).cloned().collect();
        for gone in missing {
            let job = gone.name.unwrap_or_default();
            let key = Key::new(gone.namespace.as_deref().unwrap_or(""), &job);
            // The cache may be behind.
            plan.op(Op::verify_absent::<Job>(key));
            let what = format!("Active job went missing: {job}");
            plan.note(Note::normal(self.about(), "MissingJob", what));
            self.remove_active(gone.uid.as_ref());
        }
    }

    fn warn(&self, reason: &'static str, message: impl Into<String>, plan: &mut Plan) {
        plan.note(Note::warning(self.about(), reason, message));
    }

    /// The job that is to be created now; wakes at the next time in any case.
    fn start(&mut self, jobs: &[Arc<Job>], plan: &mut Plan) -> Option<Op> {
        let spec = &self.cron.spec;
        if self.cron.metadata.deletion_timestamp.is_some() || spec.suspend == Some(true) {
            plan.because("the cron job is suspended, or being deleted");
            return None;
        }
        let schedule = self.schedule(plan)?;
        let time = self.due(&schedule, plan)?;
        let job = job_name(self.cron, time);
        if self.active().iter().any(|a| a.name.as_ref() == Some(&job))
            || self.status.last_schedule_time.as_ref().is_some_and(|t| t.0 == time)
        {
            plan.because("the job of this time is there, or was");
            return None;
        }
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !self.active().is_empty() => {
                let what =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                plan.note(Note::normal(self.about(), "JobAlreadyActive", what));
                return None;
            }
            Some("Replace") => {
                for job in jobs {
                    if self.is_active(job) {
                        self.delete(job, plan);
                    }
                }
            }
            _ => {}
        }
        Some(self.creation(job, time))
    }

    /// The schedule, in its time zone; None, with the event that says why, where it cannot be followed.
    fn schedule(&self, plan: &mut Plan) -> Option<Schedule> {
        let spec = &self.cron.spec;
        if let Some(zone) = &spec.time_zone
            && let Err(why) = time_zone(zone)
        {
            self.warn("UnknownTimeZone", format!("invalid timeZone: {zone:?}: {why}"), plan);
            return None;
        }
        if spec.schedule.contains("TZ") {
            let what = format!(
                "CRON_TZ or TZ used in schedule {:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
                spec.schedule
            );
            self.warn("UnsupportedSchedule", what, plan);
        }
        match Schedule::of(&spec.schedule, spec.time_zone.as_deref()) {
            Ok(schedule) => Some(schedule),
            Err(why) => {
                let what = format!("unparseable schedule: {:?} : {why}", spec.schedule);
                self.warn("UnparseableSchedule", what, plan);
                None
            }
        }
    }

    /// The time that has come and is not too long ago; wakes at the next.
    fn due(&self, schedule: &Schedule, plan: &mut Plan) -> Option<Time> {
        let spec = &self.cron.spec;
        let last = self.status.last_schedule_time.as_ref().or(self.cron.metadata.creation_timestamp.as_ref());
        let last = last.map_or(self.now, |t| t.0).max(self.since.unwrap_or(Time::MIN));
        let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        let earliest = deadline.map_or(last, |d| last.max(self.now.checked_sub(d).unwrap_or(last)));
        if let Some(next) = next_time(schedule, last, self.now) {
            plan.wake(next);
        }
        let time = match due(schedule, earliest, self.now) {
            Ok(Due { time: Some(time), many }) => {
                if many {
                    let what = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
                    self.warn("TooManyMissedTimes", what, plan);
                }
                time
            }
            Ok(Due { time: None, .. }) => {
                plan.because("it is not time");
                return None;
            }
            Err(why) => {
                self.warn("InvalidSchedule", format!("invalid schedule: {} : {why}", spec.schedule), plan);
                return None;
            }
        };
        if deadline.is_some_and(|d| time + d < self.now) {
            let when = time.strftime("%a, %d %b %Y %H:%M:%S +0000");
            self.warn("MissSchedule", format!("Missed scheduled time to start a job: {when}"), plan);
            return None;
        }
        Some(time)
    }

    fn creation(&self, name: String, time: Time) -> Op {
        let spec = &self.cron.spec;
        let template = spec.job_template.metadata.clone().unwrap_or_default();
        let zone = spec.time_zone.as_deref().and_then(|z| time_zone(z).ok());
        let shown = match zone {
            Some(zone) if spec.time_zone.as_deref() != Some("UTC") => {
                time.to_zoned(zone).strftime(RFC3339).to_string()
            }
            _ => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        };
        let mut annotations = template.annotations.unwrap_or_default();
        annotations.insert(SCHEDULED.into(), shown);
        let job = Job {
            metadata: ObjectMeta {
                namespace: self.cron.metadata.namespace.clone(),
                name: Some(name),
                labels: template.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![controller_ref(self.cron)]),
                ..ObjectMeta::default()
            },
            spec: spec.job_template.spec.clone(),
            status: None,
        };
        Op::create(&job)
            .then(Note::normal(self.about(), "SuccessfulCreate", "Created job {name}"))
            .otherwise(Note::warning(self.about(), "FailedCreate", "Error creating job: {error}"))
            // somebody else's: this time is theirs
            .tolerating(&[ALREADY_EXISTS])
            .count(CREATION_SKEW.since(time, []))
    }
}
