//! The shell around the controllers: queues, workers, retries, requests, events and metrics.

use crate::controller::{Controller, Enqueue, Watches};
use crate::metrics::{Levels, Meters, Metrics, QueueMeter, Reader};
use crate::plan::{ALREADY_EXISTS, Action, Failure, Mode, Note, Op, Outcome, Plan, Step, Target};
use crate::protection::uses;
use crate::world::World;
use client::{Client, Key, Recorder, WorkQueue};
use futures::future::join_all;
use http::{Method, Request, header::CONTENT_TYPE};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde::Deserialize;
use serde_json::json;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Bound of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Bound of waiting until the cache has seen the own writes; beyond it the watch is stuck, and an old cache is
/// better than none: preconditions keep the harm small.
const OWN_WRITES_TIMEOUT: Duration = Duration::from_secs(10);
/// Failures of a key before they are logged as warnings: conflicts are common, and gone at the second try.
const QUIET_FAILURES: u32 = 3;

/// What the workers share.
#[derive(Clone)]
pub(crate) struct Shell {
    pub client: Client,
    pub recorder: Recorder,
    pub world: World,
    pub metrics: Metrics,
    /// Of the controller that runs.
    pub meters: Meters,
    pub shutdown: CancellationToken,
}

impl Shell {
    /// Runs a controller until the shutdown.
    pub async fn run<C: Controller>(mut self, controller: C, workers: usize) {
        let mut watches = Watches::default();
        C::watches(&mut watches);
        let queue = WorkQueue::new();
        let meter = self.metrics.queue(C::QUEUE, &queue);
        self.meters = self.metrics.declare(C::METRICS);
        let synced = join_all(watches.reads.iter().map(|read| read(&self.world)));
        tokio::select! {
            _ = synced => {}
            () = self.shutdown.cancelled() => return,
        }
        let enqueue: Enqueue = {
            let queue = queue.clone();
            Arc::new(
                move |key, delay| if delay.is_zero() { queue.add(key) } else { queue.add_after(key, delay) },
            )
        };
        for subscribe in watches.subscriptions {
            subscribe(&self.world, &enqueue, &self.meters);
        }
        info!(controller = C::NAME, "started");
        let controller = Arc::new(controller);
        let reader: Reader = {
            let (controller, world) = (controller.clone(), self.world.clone());
            Arc::new(move |levels: &mut Levels| controller.levels(&world, levels))
        };
        self.metrics.read(&reader);
        tokio::select! {
            () = work_off(C::NAME, &queue, &meter, workers, |key| self.reconcile(&*controller, key)) => {}
            () = self.shutdown.cancelled() => queue.close(),
        }
        info!(controller = C::NAME, "stopped");
    }

    /// Reconciles a key once; when to look again.
    async fn reconcile<C: Controller>(&self, controller: &C, key: Key) -> Result<Option<Duration>, Failure> {
        let started = Instant::now();
        let now = client::now();
        let mut plan = controller.reconcile(&key, &self.world, now);
        for reason in &plan.report.0 {
            debug!(controller = C::NAME, key = %key, "{reason}");
        }
        let (wake_at, measure) = (plan.wake_at, plan.measure.take());
        let result = self.carry_out(plan).await;
        if let Some(measure) = measure {
            let outcome = Outcome { took: started.elapsed(), failure: result.as_ref().err() };
            measure(&outcome).iter().for_each(|s| self.meters.record(s));
        }
        result?;
        Ok(wake_at.map(|at| at.duration_since(now).try_into().unwrap_or(Duration::ZERO)))
    }

    /// Carries a plan out and waits until the cache has seen what it wrote.
    async fn carry_out(&self, plan: Plan) -> Result<(), Failure> {
        for note in plan.notes {
            self.record(note, "", "");
        }
        let mut written = Vec::new();
        let mut result = Ok(());
        for step in plan.steps {
            result = self.carry_out_step(step, &mut written).await;
            if result.is_err() {
                break;
            }
        }
        let seen = join_all(written.iter().map(|w| self.saw(w)));
        if tokio::time::timeout(OWN_WRITES_TIMEOUT, seen).await.is_err() {
            warn!("the cache has not seen own writes after {OWN_WRITES_TIMEOUT:?}");
        }
        result?;
        match plan.retry {
            Some(message) => Err(Failure::local(message)),
            None => Ok(()),
        }
    }

    async fn carry_out_step(&self, step: Step, written: &mut Vec<Written>) -> Result<(), Failure> {
        let mut rest = step.ops.as_slice();
        let mut batch = match step.mode {
            Mode::InOrder | Mode::SlowStart => 1,
            Mode::Parallel => rest.len(),
        };
        let mut failure = None;
        while !rest.is_empty() && failure.is_none() {
            let (now, later) = rest.split_at(batch.min(rest.len()));
            for result in join_all(now.iter().map(|op| self.request(op))).await {
                match result {
                    Ok(w) => written.extend(w),
                    Err(f) => {
                        failure.get_or_insert(f);
                    }
                }
            }
            rest = later;
            if step.mode == Mode::SlowStart {
                batch *= 2;
            }
        }
        let Some(failure) = failure else { return Ok(()) };
        if let Some(recover) = step.on_failure {
            for op in recover(&failure) {
                match self.request(&op).await {
                    Ok(w) => written.extend(w),
                    Err(f) => debug!("after a failure: {f}"),
                }
            }
        }
        Err(failure)
    }

    /// Returns once the cache has seen a write.
    pub async fn saw(&self, w: &Written) {
        match w {
            Written::Version { target, version } => self.world.saw(target, *version).await,
            Written::Deleted { target, key, uid } => self.world.saw_deleted(target, key, uid).await,
        }
    }

    /// Sends one operation; what it wrote, where the world can tell that it has seen it.
    pub async fn request(&self, op: &Op) -> Result<Option<Written>, Failure> {
        if let Action::VerifyUnused { controller } = &op.action {
            return self.verify_unused(op, controller.as_deref()).await.map(|()| None);
        }
        let (result, name) = match self.send(op).await {
            Ok(answer) => {
                let name = answer.metadata.name.clone().unwrap_or_default();
                (self.check(op, answer), name)
            }
            Err(f) => (Err(f), String::new()),
        };
        match result {
            Err(f) if op.action == Action::VerifyAbsent && f.code == 404 => Ok(None),
            Ok(written) => {
                if let Some(note) = &op.then {
                    self.record(note.clone(), &name, "");
                }
                op.counts.iter().for_each(|s| self.meters.record(s));
                Ok(written)
            }
            Err(f) if op.tolerate.contains(&f.reason.as_str()) => Ok(None),
            // All further creations fail in a namespace that is going away, and it is no news.
            Err(f) if f.code == 403 && f.message.contains("because it is being terminated") => Ok(None),
            Err(f) => {
                op.failures.iter().for_each(|s| self.meters.record(s));
                if f.reason != ALREADY_EXISTS {
                    op.otherwise.iter().for_each(|note| self.record(note.clone(), "", &f.message));
                }
                Err(f)
            }
        }
    }

    async fn verify_unused(&self, op: &Op, controller: Option<&str>) -> Result<(), Failure> {
        let pods = kube::Api::<Pod>::namespaced(self.client.clone(), &op.key.namespace);
        let all = tokio::time::timeout(REQUEST_TIMEOUT, pods.list(&ListParams::default())).await;
        let all = all.map_err(|_| no_answer())?.map_err(failure)?;
        match all.items.iter().find(|p| uses(p, &op.key.name, controller)) {
            None => Ok(()),
            Some(pod) => Err(Failure::local(format!("{} uses {}", Key::of(pod), op.key))),
        }
    }

    fn check(&self, op: &Op, answer: Answer) -> Result<Option<Written>, Failure> {
        let m = answer.metadata;
        let target = op.target.clone();
        Ok(match &op.action {
            Action::VerifyAlive { uid } => {
                let problem = if m.uid.as_deref() != Some(uid) {
                    Some(format!(
                        "original {} {} is gone: got uid {}, wanted {uid}",
                        op.target.plural,
                        op.key,
                        m.uid.unwrap_or_default()
                    ))
                } else {
                    m.deletion_timestamp.map(|t| format!("{} has just been deleted at {t}", op.key))
                };
                if let Some(problem) = problem {
                    return Err(Failure::local(problem));
                }
                None
            }
            Action::VerifyAbsent => {
                return Err(Failure::local(format!("{} {} exists", op.target.plural, op.key)));
            }
            Action::Delete { uid, .. } => {
                uid.clone().map(|uid| Written::Deleted { target, key: op.key.clone(), uid })
            }
            _ => m
                .resource_version
                .and_then(|v| v.parse().ok())
                .map(|version| Written::Version { target, version }),
        })
    }

    async fn send(&self, op: &Op) -> Result<Answer, Failure> {
        let w = wire(op);
        let request =
            Request::builder().method(w.method).uri(w.path).header(CONTENT_TYPE, w.content_type).body(w.body);
        let request = request.map_err(|e| Failure::local(e.to_string()))?;
        match tokio::time::timeout(REQUEST_TIMEOUT, self.client.request::<Answer>(request)).await {
            Err(_) => Err(no_answer()),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(e)) => Err(failure(e)),
        }
    }

    fn record(&self, note: Note, name: &str, error: &str) {
        let message = note.message.replace("{name}", name).replace("{error}", error);
        self.recorder.event(&note.about, note.kind, note.reason, message);
    }
}

/// Works on keys until the queue is closed, on so many at a time. A key whose work failed comes back with back-off, one
/// whose work says so after that time.
pub(crate) async fn work_off<K, E, F>(
    controller: &str,
    queue: &WorkQueue<K>,
    meter: &QueueMeter,
    workers: usize,
    act: impl Fn(K) -> F,
) where
    K: Clone + Eq + Hash + fmt::Display,
    E: fmt::Display,
    F: Future<Output = Result<Option<Duration>, E>>,
{
    let worker = async || {
        while let Some((key, waited)) = queue.next_waited().await {
            meter.waited(waited);
            let started = Instant::now();
            match act(key.clone()).await {
                Ok(again) => {
                    queue.forget(&key);
                    if let Some(delay) = again {
                        queue.add_after(key.clone(), delay);
                    }
                }
                Err(error) => {
                    let failures = queue.failures(&key);
                    let delay_ms = queue.add_failed(key.clone()).as_millis() as u64;
                    if failures >= QUIET_FAILURES {
                        warn!(controller, key = %key, delay_ms, "{error}");
                    } else {
                        debug!(controller, key = %key, delay_ms, "{error}");
                    }
                }
            }
            queue.done(&key);
            meter.worked(started.elapsed());
        }
    };
    join_all((0..workers.max(1)).map(|_| worker())).await;
}

/// A request, before it is sent.
pub(crate) struct Wire {
    pub method: Method,
    pub path: String,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

/// How an operation is asked for.
pub(crate) fn wire(op: &Op) -> Wire {
    const JSON: &str = "application/json";
    let (method, content_type, body) = match &op.action {
        Action::Create(body) => (Method::POST, JSON, body.clone()),
        Action::Replace(body) => (Method::PUT, JSON, body.clone()),
        Action::MergePatch(body) => (Method::PATCH, "application/merge-patch+json", body.clone()),
        Action::StrategicPatch(body) => {
            (Method::PATCH, "application/strategic-merge-patch+json", body.clone())
        }
        Action::VerifyAlive { .. } | Action::VerifyAbsent | Action::VerifyUnused { .. } => {
            (Method::GET, JSON, Vec::new())
        }
        Action::Delete { uid, version, propagation, grace_seconds } => {
            let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
            if let Some(u) = uid {
                options["preconditions"]["uid"] = json!(u);
            }
            if let Some(v) = version {
                options["preconditions"]["resourceVersion"] = json!(v);
            }
            if let Some(p) = propagation {
                options["propagationPolicy"] = json!(p);
            }
            if let Some(g) = grace_seconds {
                options["gracePeriodSeconds"] = json!(g);
            }
            (Method::DELETE, JSON, options.to_string().into_bytes())
        }
    };
    let collection = Key { namespace: op.key.namespace.clone(), name: "".into() };
    let of_collection = method == Method::POST || matches!(op.action, Action::VerifyUnused { .. });
    let key = if of_collection { &collection } else { &op.key };
    Wire { path: op.target.path(key, op.subresource), method, content_type, body }
}

pub(crate) fn failure(e: kube::Error) -> Failure {
    match e {
        kube::Error::Api(s) => Failure { code: s.code, reason: s.reason, message: s.message },
        other => Failure::local(other.to_string()),
    }
}

fn no_answer() -> Failure {
    Failure::local(format!("no answer within {REQUEST_TIMEOUT:?}"))
}

/// A write for the cache to see.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Written {
    Version { target: Target, version: u64 },
    Deleted { target: Target, key: Key, uid: String },
}

/// What of an answer is read: an object, or the Status of a deletion.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    metadata: AnswerMeta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct AnswerMeta {
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<String>,
}
