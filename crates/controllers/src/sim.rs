//! Controllers played against an API server in memory, in one thread and from one seed: each controller sees the world
//! late, by its own lag, pods come up and go down at random, and time jumps when nothing else can happen.

mod served;

use crate::controller::{Controller, Enqueue, Watches};
use crate::metrics::{Levels, Meters, Metrics, Reader};
use crate::plan::{Action, Failure, Mode, Note, Op, Outcome, Plan};
use crate::protection::uses;
use crate::runner::wire;
use crate::world::World;
use client::testing::FakeApi;
use client::{Key, WorkQueue};
use k8s_openapi::jiff::SignedDuration;
use meta::Time;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use served::KINDS;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Steps after which a simulation that has not come to rest has failed.
const MAX_STEPS: usize = 20_000;

type Invariant = Box<dyn Fn(&FakeApi)>;
type Reconcile = Box<dyn Fn(&Key, &World, Time) -> Plan>;

/// Keys that changes put off, and for how long.
type Delayed = Arc<Mutex<Vec<(Duration, Key)>>>;

struct Player {
    reconcile: Reconcile,
    queue: WorkQueue<Key>,
    delayed: Delayed,
    meters: Meters,
    /// Of its levels, while it plays.
    _reader: Reader,
    /// What this controller sees, and how much of the log that is.
    world: World,
    seen: usize,
    /// As in the real queue, the earliest of a key's times stands.
    wakes: BTreeMap<Key, Time>,
    failed: Vec<Key>,
}

pub(crate) struct Sim {
    pub api: FakeApi,
    pub now: Time,
    rng: StdRng,
    players: Vec<Player>,
    /// Events, as `reason: message`.
    pub notes: Vec<String>,
    pub metrics: Metrics,
    /// Checked after every step.
    pub invariant: Option<Invariant>,
}

impl Sim {
    pub fn new(seed: u64) -> Self {
        Self {
            api: FakeApi::new(KINDS),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            rng: StdRng::seed_from_u64(seed),
            players: Vec::new(),
            notes: Vec::new(),
            metrics: Metrics::default(),
            invariant: None,
        }
    }

    pub fn add<C: Controller>(&mut self, controller: C) {
        let mut watches = Watches::default();
        C::watches(&mut watches);
        let (world, queue) = (World::detached(), WorkQueue::new());
        let delayed: Delayed = Arc::default();
        let enqueue: Enqueue = {
            let (queue, delayed) = (queue.clone(), delayed.clone());
            Arc::new(
                move |key, delay| {
                    if delay.is_zero() { queue.add(key) } else { delayed.lock().push((delay, key)) }
                },
            )
        };
        let meters = self.metrics.declare(C::METRICS);
        for subscribe in watches.subscriptions {
            subscribe(&world, &enqueue, &meters);
        }
        let controller = Arc::new(controller);
        let reader: Reader = {
            let (controller, world) = (controller.clone(), world.clone());
            Arc::new(move |levels: &mut Levels| controller.levels(&world, levels))
        };
        self.metrics.read(&reader);
        self.players.push(Player {
            reconcile: Box::new(move |key, world, now| controller.reconcile(key, world, now)),
            _reader: reader,
            queue,
            delayed,
            meters,
            world,
            seen: 0,
            wakes: BTreeMap::new(),
            failed: Vec::new(),
        });
    }

    /// Plays until nothing can happen any more, apart from wakes later than `horizon`.
    pub fn settle(&mut self, horizon: SignedDuration) {
        let end = self.now + horizon;
        for _ in 0..MAX_STEPS {
            if !self.step(end) {
                return;
            }
            if let Some(check) = &self.invariant {
                check(&self.api);
            }
        }
        panic!("no rest after {MAX_STEPS} steps");
    }

    /// Plays a number of steps only: into the middle of things.
    pub fn play(&mut self, steps: usize) {
        for _ in 0..steps {
            let end = self.now;
            self.step(end);
        }
    }

    fn step(&mut self, end: Time) -> bool {
        let log = self.api.log_len();
        let lagging: Vec<usize> = (0..self.players.len()).filter(|i| self.players[*i].seen < log).collect();
        let busy: Vec<usize> =
            (0..self.players.len()).filter(|i| self.players[*i].queue.stats().depth > 0).collect();
        let pods = self.moving_pods();
        let mut choices = Vec::new();
        if !lagging.is_empty() {
            choices.push(0);
        }
        if !busy.is_empty() {
            choices.push(1);
        }
        if !pods.is_empty() {
            choices.push(2);
        }
        match choices.choose(&mut self.rng) {
            Some(0) => {
                let i = *lagging.choose(&mut self.rng).unwrap();
                let n = self.rng.random_range(1..=log - self.players[i].seen);
                self.deliver(i, n);
            }
            Some(1) => {
                let i = *busy.choose(&mut self.rng).unwrap();
                self.reconcile(i);
            }
            Some(_) => {
                let pod = pods.choose(&mut self.rng).unwrap().clone();
                self.kubelet(pod);
            }
            None => return self.jump(end),
        }
        true
    }

    /// Lets time pass until the next wake or retry.
    fn jump(&mut self, end: Time) -> bool {
        let mut retried = false;
        for p in &mut self.players {
            for key in p.failed.drain(..) {
                p.queue.add(key);
                retried = true;
            }
        }
        if retried {
            return true;
        }
        let next = self.players.iter().flat_map(|p| p.wakes.values()).min().copied();
        let Some(at) = next.filter(|t| *t <= end) else { return false };
        self.now = self.now.max(at);
        for p in &mut self.players {
            let (due, later) = std::mem::take(&mut p.wakes).into_iter().partition(|(_, at)| *at <= self.now);
            p.wakes = later;
            let due: BTreeMap<Key, Time> = due;
            due.into_keys().for_each(|key| p.queue.add(key));
        }
        true
    }

    fn deliver(&mut self, i: usize, n: usize) {
        let p = &mut self.players[i];
        for change in self.api.log(p.seen).into_iter().take(n) {
            p.world.apply(&change.plural, &change.key, change.object);
            p.seen += 1;
        }
        for (delay, key) in p.delayed.lock().drain(..) {
            let at = self.now + SignedDuration::try_from(delay).unwrap();
            p.wakes.entry(key).and_modify(|known| *known = at.min(*known)).or_insert(at);
        }
    }

    fn reconcile(&mut self, i: usize) {
        let Some(key) = self.players[i].queue.try_next() else { return };
        let plan = (self.players[i].reconcile)(&key, &self.players[i].world, self.now);
        self.notes.extend(plan.notes.iter().map(show));
        let meters = self.players[i].meters.clone();
        let mut failed = plan.retry.map(Failure::local);
        let before = self.api.log_len();
        'steps: for step in plan.steps {
            for op in &step.ops {
                if let Err(failure) = self.carry_out(op, &meters) {
                    if let Some(recover) = step.on_failure {
                        recover(&failure).iter().for_each(|op| drop(self.carry_out(op, &meters)));
                    }
                    failed = Some(failure);
                    break 'steps;
                }
            }
            assert!(step.mode != Mode::InOrder || step.ops.len() == 1);
        }
        if let Some(measure) = plan.measure {
            let outcome = Outcome { took: Duration::ZERO, failure: failed.as_ref() };
            measure(&outcome).iter().for_each(|s| meters.record(s));
        }
        // A controller sees its own writes before it looks again.
        let after = self.api.log_len();
        if after > before {
            self.deliver(i, after - self.players[i].seen);
        }
        let p = &mut self.players[i];
        if let Some(at) = plan.wake_at {
            p.wakes.entry(key.clone()).and_modify(|known| *known = at.min(*known)).or_insert(at);
        }
        if failed.is_some() {
            p.failed.push(key.clone());
        }
        p.queue.done(&key);
    }

    fn carry_out(&mut self, op: &Op, meters: &Meters) -> Result<(), Failure> {
        if let Action::VerifyUnused { controller } = &op.action {
            let pods = self.api.list("pods").into_iter().map(|p| serde_json::from_value(p).unwrap());
            let used = pods.into_iter().any(|p| uses(&p, &op.key.name, controller.as_deref()));
            return if used { Err(Failure::local("in use")) } else { Ok(()) };
        }
        let w = wire(op);
        let (code, body) = self.api.call(&w.method, &w.path, w.content_type, &w.body);
        let text = |p: &str| body.pointer(p).and_then(Value::as_str).unwrap_or("").to_owned();
        let absent = op.action == crate::plan::Action::VerifyAbsent;
        if code < 400 && !absent || code == 404 && absent {
            self.notes.extend(op.then.as_ref().map(|n| show(n).replace("{name}", &text("/metadata/name"))));
            op.counts.iter().for_each(|s| meters.record(s));
            return Ok(());
        }
        let failure = Failure { code, reason: text("/reason"), message: text("/message") };
        if op.tolerate.contains(&failure.reason.as_str()) {
            return Ok(());
        }
        op.failures.iter().for_each(|s| meters.record(s));
        if failure.reason != crate::plan::ALREADY_EXISTS {
            self.notes.extend(op.otherwise.iter().map(|n| show(n).replace("{error}", &failure.message)));
        }
        Err(failure)
    }

    /// Pods that a kubelet would do something about.
    fn moving_pods(&self) -> Vec<Value> {
        let mut pods = self.api.list("pods");
        pods.retain(|p| {
            let ended = matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            if p["metadata"].get("deletionTimestamp").is_some() {
                return !is_held(p) || !ended;
            }
            let failing = image(p) == "broken";
            p.get("status").is_none() && !failing
                || !ended && p.get("status").is_some() && exit_code(p).is_some()
        });
        pods
    }

    fn kubelet(&mut self, mut pod: Value) {
        let key = (
            pod["metadata"]["namespace"].as_str().unwrap_or("").to_owned(),
            pod["metadata"]["name"].as_str().unwrap().to_owned(),
        );
        let deleted = pod["metadata"].get("deletionTimestamp").is_some();
        if deleted && !is_held(&pod) {
            return self.api.remove("pods", &key.0, &key.1);
        }
        if deleted {
            // Somebody's finalizer keeps what is left of it.
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        }
        if let Some(code) =
            exit_code(&pod).or(deleted.then_some(137)).filter(|_| pod.get("status").is_some() || deleted)
        {
            pod["status"] = self.ended(code);
            self.api.put(pod);
            return;
        }
        let since = self.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let pinned = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution\
                      /nodeSelectorTerms/0/matchFields/0/values/0";
        pod["spec"]["nodeName"] = pod.pointer(pinned).cloned().unwrap_or_else(|| json!("node"));
        pod["status"] = json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}],
        });
        self.api.put(pod);
    }

    fn ended(&self, code: i64) -> Value {
        let at = self.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        json!({
            "phase": if code == 0 { "Succeeded" } else { "Failed" },
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": at}],
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "finishedAt": at}}}],
        })
    }
}

fn image(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"].as_str().unwrap_or("")
}

fn is_held(pod: &Value) -> bool {
    pod["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}

/// How a pod ends by itself, which its image tells; None where it runs on.
fn exit_code(pod: &Value) -> Option<i64> {
    let index = pod["metadata"]["labels"][crate::job::INDEX].as_str().and_then(|i| i.parse::<i64>().ok());
    match image(pod) {
        "succeeds" => Some(0),
        "fails" => Some(1),
        "fails-if-odd" => Some(index.unwrap_or(0) % 2),
        _ => None,
    }
}

fn show(note: &Note) -> String {
    format!("{}: {}", note.reason, note.message)
}
