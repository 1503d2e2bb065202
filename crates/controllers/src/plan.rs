//! What a controller decides: operations for the runner to carry out, when to look again, and why it did or did not
//! act. Values only.

use crate::metrics::Sample;
use client::Key;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use meta::Time;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// The outcome of one reconciliation.
#[derive(Default)]
pub struct Plan {
    /// In order; the first that fails ends the plan and puts the key back with back-off.
    pub steps: Vec<Step>,
    /// Events to record whatever the steps come to.
    pub notes: Vec<Note>,
    /// When to reconcile again without a change.
    pub wake_at: Option<Time>,
    /// The world is not one to act on, for this reason: put the key back with back-off.
    pub retry: Option<String>,
    /// What is counted when it has been carried out, or has failed.
    pub measure: Option<Measure>,
    pub report: Report,
}

pub type Measure = Box<dyn FnOnce(&Outcome<'_>) -> Vec<Sample> + Send>;

/// What became of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// From before it was made to after it was carried out.
    pub took: Duration,
    pub failure: Option<&'a Failure>,
}

/// Why a controller did what it did, one line each; logged at debug level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report(pub Vec<Cow<'static, str>>);

impl Plan {
    /// Nothing to do, for this reason.
    pub fn idle(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { report: Report(vec![reason.into()]), ..Self::default() }
    }

    /// Nothing can be done now: try again with back-off.
    pub fn retry(reason: impl Into<String>) -> Self {
        Self { retry: Some(reason.into()), ..Self::default() }
    }

    pub fn op(&mut self, op: Op) -> &mut Self {
        self.steps.push(Step { ops: vec![op], mode: Mode::InOrder, on_failure: None });
        self
    }

    pub fn step(&mut self, step: Step) -> &mut Self {
        if !step.ops.is_empty() {
            self.steps.push(step);
        }
        self
    }

    pub fn note(&mut self, note: Note) -> &mut Self {
        self.notes.push(note);
        self
    }

    pub fn because(&mut self, reason: impl Into<Cow<'static, str>>) -> &mut Self {
        self.report.0.push(reason.into());
        self
    }

    /// The earliest of the times asked for stands.
    pub fn wake(&mut self, at: Time) -> &mut Self {
        self.wake_at = Some(self.wake_at.map_or(at, |t| t.min(at)));
        self
    }

    /// Every operation, in order.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.steps.iter().flat_map(|s| &s.ops)
    }
}

/// Operations that go together.
pub struct Step {
    pub ops: Vec<Op>,
    pub mode: Mode,
    /// What else to do if one of them fails, before the key is put back.
    pub on_failure: Option<Recovery>,
}

pub type Recovery = Box<dyn FnOnce(&Failure) -> Vec<Op> + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    InOrder,
    /// All at once; all are tried.
    Parallel,
    /// In batches of 1, 2, 4, ... as long as all of a batch succeed: what fails for one fails for all, and need not
    /// be tried for all.
    SlowStart,
}

/// What an operation that failed is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status, 0 where no answer came.
    pub code: u16,
    /// The Status' reason, empty where no answer came.
    pub reason: String,
    /// The Status' message, or the transport's error.
    pub message: String,
}

impl Failure {
    /// Where no answer came.
    pub fn local(message: impl Into<String>) -> Self {
        Self { code: 0, reason: String::new(), message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A collection of the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub plural: Cow<'static, str>,
}

impl Target {
    pub fn of<K: Resource<DynamicType = ()>>() -> Self {
        let own = |s: Cow<'_, str>| Cow::Owned(s.into_owned());
        Self { group: own(K::group(&())), version: own(K::version(&())), plural: own(K::plural(&())) }
    }

    /// The path of the collection, or of the object where the key has a name.
    pub fn path(&self, key: &Key, subresource: &str) -> String {
        let mut p = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let Some(ns) = key.namespace() {
            p = format!("{p}/namespaces/{ns}");
        }
        p = format!("{p}/{}", self.plural);
        if !key.name.is_empty() {
            p = format!("{p}/{}", key.name);
        }
        if !subresource.is_empty() {
            p = format!("{p}/{subresource}");
        }
        p
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    pub target: Target,
    /// The name is empty for a creation whose name the server chooses.
    pub key: Key,
    /// `status`, `finalize`, or empty.
    pub subresource: &'static str,
    pub action: Action,
    /// Recorded if it succeeds; `{name}` stands for the object's name as the server answers it.
    pub then: Option<Note>,
    /// Recorded if it fails, unless something of its name exists already: the cache will tell whose. `{error}` stands
    /// for the message.
    pub otherwise: Vec<Note>,
    /// Failures that count as success.
    pub tolerate: &'static [&'static str],
    /// Counted if it succeeds, not if a failure is tolerated.
    pub counts: Vec<Sample>,
    /// Counted if it fails.
    pub failures: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Create(Vec<u8>),
    /// PUT; the body carries the resourceVersion it was computed from.
    Replace(Vec<u8>),
    MergePatch(Vec<u8>),
    StrategicPatch(Vec<u8>),
    Delete {
        uid: Option<String>,
        version: Option<String>,
        propagation: Option<&'static str>,
        grace_seconds: Option<i64>,
    },
    /// A read past the cache: fails unless the object lives under this uid and is not being deleted.
    VerifyAlive {
        uid: String,
    },
    /// A read past the cache: fails unless there is no such object.
    VerifyAbsent,
    /// A read past the cache: fails if a pod uses the claim that the key names, which the pod of this uid controls.
    VerifyUnused {
        controller: Option<String>,
    },
}

/// An event to record.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub about: ObjectReference,
    /// `Normal` or `Warning`.
    pub kind: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Note {
    pub fn normal(about: ObjectReference, reason: &'static str, message: impl Into<String>) -> Self {
        Self { about, kind: "Normal", reason, message: message.into() }
    }

    pub fn warning(about: ObjectReference, reason: &'static str, message: impl Into<String>) -> Self {
        Self { about, kind: "Warning", reason, message: message.into() }
    }
}

/// Reasons of Status, for [`Op::tolerating`].
pub const NOT_FOUND: &str = "NotFound";
pub const INVALID: &str = "Invalid";
pub const ALREADY_EXISTS: &str = "AlreadyExists";

fn encode(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("API objects have string keys and finite numbers")
}

fn uid(meta: &ObjectMeta) -> String {
    meta.uid.clone().unwrap_or_default()
}

impl Op {
    fn new<K: Resource<DynamicType = ()>>(key: Key, action: Action) -> Self {
        Self::at(Target::of::<K>(), key, action)
    }

    pub fn at(target: Target, key: Key, action: Action) -> Self {
        Self {
            target,
            key,
            subresource: "",
            action,
            then: None,
            otherwise: Vec::new(),
            tolerate: &[],
            counts: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub fn create<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Self {
        Self::new::<K>(Key::of(object), Action::Create(encode(object)))
    }

    pub fn replace<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Self {
        Self::new::<K>(Key::of(object), Action::Replace(encode(object)))
    }

    pub fn replace_status<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Self {
        Self { subresource: "status", ..Self::replace(object) }
    }

    /// The patch should carry `metadata.uid` or `metadata.resourceVersion` as its precondition.
    pub fn merge_patch<K: Resource<DynamicType = ()>>(object: &K, patch: &serde_json::Value) -> Self {
        Self::new::<K>(Key::of(object), Action::MergePatch(encode(patch)))
    }

    pub fn strategic_patch<K: Resource<DynamicType = ()>>(object: &K, patch: &serde_json::Value) -> Self {
        Self::new::<K>(Key::of(object), Action::StrategicPatch(encode(patch)))
    }

    /// Deletes this very object (by uid); that it is gone already is no failure.
    pub fn delete<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        let action = Action::Delete {
            uid: Some(uid(object.meta())),
            version: None,
            propagation: None,
            grace_seconds: None,
        };
        Self { tolerate: &[NOT_FOUND], ..Self::new::<K>(Key::of(object), action) }
    }

    pub fn verify_alive<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        Self::new::<K>(Key::of(object), Action::VerifyAlive { uid: uid(object.meta()) })
    }

    /// Of the object that would be under this key.
    pub fn verify_absent<K: Resource<DynamicType = ()>>(key: Key) -> Self {
        Self::new::<K>(key, Action::VerifyAbsent)
    }

    pub fn subresource(mut self, subresource: &'static str) -> Self {
        self.subresource = subresource;
        self
    }

    pub fn then(mut self, note: Note) -> Self {
        self.then = Some(note);
        self
    }

    pub fn otherwise(mut self, note: Note) -> Self {
        self.otherwise.push(note);
        self
    }

    pub fn tolerating(mut self, reasons: &'static [&'static str]) -> Self {
        self.tolerate = reasons;
        self
    }

    pub fn count(mut self, sample: Sample) -> Self {
        self.counts.push(sample);
        self
    }

    pub fn count_failure(mut self, sample: Sample) -> Self {
        self.failures.push(sample);
        self
    }
}
