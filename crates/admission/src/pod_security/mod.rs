//! PodSecurity: the Pod Security Standards, at the levels a namespace's `pod-security.kubernetes.io/*` labels ask
//! for (kubernetes.io/docs/concepts/security/pod-security-standards).

mod checks;

use crate::request::typed;
use crate::{Operation, Request, Validator};
use checks::violations;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Namespace, Pod, PodSpec, PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kinds::Object;
use meta::{ApiError, FieldError, GroupVersionKind, Path};
use std::collections::BTreeMap;
use std::fmt;

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Of Kubernetes, whose standards are the newest known.
const LATEST_MINOR: u16 = 36;
/// Existing pods looked at when a namespace's level is raised.
const MAX_PODS: usize = 3000;

pub const PLUGIN: Validator = Validator { name: "PodSecurity", handles, validate };

fn handles(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    if !matches!(operation, Operation::Create | Operation::Update) {
        return false;
    }
    match (group, resource) {
        ("", "pods") => matches!(subresource, "" | "ephemeralcontainers"),
        ("", "namespaces" | "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs" | "cronjobs") => subresource.is_empty(),
        _ => false,
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// A level at a version of the standards, as its label has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standard {
    level: Level,
    version: String,
}

impl Standard {
    /// What a pod of this template violates. A version to come has the rules of this one.
    fn violations(&self, meta: &ObjectMeta, spec: &PodSpec) -> Vec<checks::Violation> {
        let minor = self.version.strip_prefix("v1.").and_then(|m| m.parse().ok()).unwrap_or(LATEST_MINOR);
        violations(self.level, minor.min(LATEST_MINOR), meta, spec)
    }
}

impl Default for Standard {
    fn default() -> Self {
        Self { level: Level::default(), version: "latest".into() }
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        write!(f, "{level}:{}", self.version)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Policy {
    enforce: Standard,
    warn: Standard,
}

/// Reads the labels. An unreadable level is restricted where it is enforced and nothing elsewhere.
fn policy(labels: Option<&BTreeMap<String, String>>) -> (Policy, Vec<FieldError>) {
    let mut errors = Vec::new();
    let labels = Labels(Path::new("metadata").child("labels"), labels);
    let mut level = |mode: &str, fallback: Level| -> Option<Level> {
        let (path, text) = labels.get(mode)?;
        Some(match text {
            "privileged" => Level::Privileged,
            "baseline" => Level::Baseline,
            "restricted" => Level::Restricted,
            _ => {
                errors.push(FieldError::invalid(
                    &path,
                    text,
                    "must be one of privileged, baseline, restricted",
                ));
                fallback
            }
        })
    };
    let enforce_level = level("enforce", Level::Restricted);
    level("audit", Level::Privileged);
    let warn_level = level("warn", Level::Privileged);
    let readable = errors.is_empty();
    let mut version = |mode: &str| -> Option<String> {
        let (path, text) = labels.get(&format!("{mode}-version"))?;
        let minor = text
            .strip_prefix("v1.")
            .is_some_and(|m| m == "0" || m.parse::<u16>().is_ok() && !m.starts_with('0'));
        if text == "latest" || minor {
            return Some(text.to_owned());
        }
        errors.push(FieldError::invalid(&path, text, "must be \"latest\" or \"v1.x\""));
        None
    };
    let enforce = Standard {
        level: enforce_level.unwrap_or_default(),
        version: version("enforce").unwrap_or_else(|| "latest".into()),
    };
    version("audit");
    let warn_version = version("warn");
    let mut warn = Standard {
        level: warn_level.unwrap_or_default(),
        version: warn_version.clone().unwrap_or_else(|| "latest".into()),
    };
    if warn_level.is_none() && readable && enforce.level > warn.level {
        warn.level = enforce.level;
        if warn_version.is_none() {
            warn.version.clone_from(&enforce.version);
        }
    }
    (Policy { enforce, warn }, errors)
}

/// The labels of this plugin, by what follows the prefix.
struct Labels<'a>(Path, Option<&'a BTreeMap<String, String>>);

impl<'a> Labels<'a> {
    fn get(&self, name: &str) -> Option<(Path, &'a str)> {
        let key = format!("{PREFIX}{name}");
        let value = self.1?.get(&key)?;
        Some((self.0.key(&key), value))
    }
}

fn validate(r: &Request<'_>, object: Option<&Object>) -> Result<(), ApiError> {
    let Some(object) = object else { return Ok(()) };
    if let Some(namespace) = typed::<Namespace>(object) {
        return validate_namespace(r, namespace);
    }
    let Some((meta, spec, enforced)) = pod_of(object) else { return Ok(()) };
    let Some(namespace) = r.find::<Namespace>("", "namespaces", "", r.namespace) else { return Ok(()) };
    let (policy, _) = policy(namespace.metadata.labels.as_ref());
    if enforced && r.operation == Operation::Update && !significant(r, spec) {
        return Ok(());
    }
    if enforced {
        let found = policy.enforce.violations(meta, spec);
        if !found.is_empty() {
            return Err(r.forbidden(
                Some(object),
                format!("violates PodSecurity \"{}\": {}", policy.enforce, detail(&found)),
            ));
        }
    }
    let found = policy.warn.violations(meta, spec);
    if !found.is_empty() {
        (r.warn)(format!("would violate PodSecurity \"{}\": {}", policy.warn, detail(&found)));
    }
    Ok(())
}

fn detail(found: &[checks::Violation]) -> String {
    let one = |v: &checks::Violation| {
        if v.detail.is_empty() { v.reason.clone() } else { format!("{} ({})", v.reason, v.detail) }
    };
    found.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What of an object becomes a pod, and whether it is one already.
fn pod_of(object: &Object) -> Option<(&ObjectMeta, &PodSpec, bool)> {
    if let Some(pod) = typed::<Pod>(object) {
        return Some((&pod.metadata, pod.spec.as_ref()?, true));
    }
    let template: &PodTemplateSpec = if let Some(d) = typed::<Deployment>(object) {
        &d.spec.as_ref()?.template
    } else if let Some(s) = typed::<StatefulSet>(object) {
        &s.spec.as_ref()?.template
    } else if let Some(d) = typed::<DaemonSet>(object) {
        &d.spec.as_ref()?.template
    } else if let Some(s) = typed::<ReplicaSet>(object) {
        s.spec.as_ref()?.template.as_ref()?
    } else if let Some(j) = typed::<Job>(object) {
        &j.spec.as_ref()?.template
    } else if let Some(c) = typed::<CronJob>(object) {
        &c.spec.job_template.spec.as_ref()?.template
    } else {
        typed::<ReplicationController>(object)?.spec.as_ref()?.template.as_ref()?
    };
    static NONE: std::sync::OnceLock<ObjectMeta> = std::sync::OnceLock::new();
    let meta = template.metadata.as_ref().unwrap_or_else(|| NONE.get_or_init(ObjectMeta::default));
    Some((meta, template.spec.as_ref()?, false))
}

/// Of a pod's fields that may change, its images and ephemeral containers matter here.
fn significant(r: &Request<'_>, new: &PodSpec) -> bool {
    let Some(old) = r.old.and_then(typed::<Pod>).and_then(|p| p.spec.as_ref()) else { return true };
    let images = |s: &PodSpec| -> Vec<Option<String>> {
        s.init_containers.iter().flatten().chain(&s.containers).map(|c| c.image.clone()).collect()
    };
    images(old) != images(new)
        || old.ephemeral_containers.as_deref().unwrap_or_default()
            != new.ephemeral_containers.as_deref().unwrap_or_default()
}

fn validate_namespace(r: &Request<'_>, namespace: &Namespace) -> Result<(), ApiError> {
    let (new, errors) = policy(namespace.metadata.labels.as_ref());
    let name = namespace.metadata.name.clone().unwrap_or_default();
    let (old, old_errors) = match r.old.and_then(typed::<Namespace>) {
        Some(old) => policy(old.metadata.labels.as_ref()),
        None => (Policy::default(), Vec::new()),
    };
    if !errors.is_empty() && errors != old_errors {
        return Err(ApiError::invalid(&GroupVersionKind::of("", "v1", "Namespace"), &name, &errors));
    }
    let raised = new.enforce.level > old.enforce.level || new.enforce.version != old.enforce.version;
    if r.operation != Operation::Update || new.enforce.level == Level::Privileged || !raised {
        return Ok(());
    }
    // Who raises the level is told of the pods that would no longer be admitted; by reason, the first named.
    let mut by_reason: BTreeMap<String, (String, usize)> = BTreeMap::new();
    let mut pods: Vec<Pod> = r.all("", "pods", &name);
    let total = pods.len();
    pods.truncate(MAX_PODS);
    for pod in &pods {
        let Some(spec) = &pod.spec else { continue };
        let found = new.enforce.violations(&pod.metadata, spec);
        if found.is_empty() {
            continue;
        }
        let reason = found.iter().map(|v| v.reason.clone()).collect::<Vec<_>>().join(", ");
        let pod_name = pod.metadata.name.clone().unwrap_or_default();
        let entry = by_reason.entry(reason).or_insert_with(|| (pod_name.clone(), 0));
        entry.0 = pod_name.min(std::mem::take(&mut entry.0));
        entry.1 += 1;
    }
    if pods.len() < total {
        (r.warn)(format!(
            "new PodSecurity enforce level only checked against the first {} of {total} existing pods",
            pods.len()
        ));
    }
    if !by_reason.is_empty() {
        (r.warn)(format!(
            "existing pods in namespace {name:?} violate the new PodSecurity enforce level \"{}\"",
            new.enforce
        ));
    }
    let mut lines: Vec<String> = by_reason
        .into_iter()
        .map(|(reason, (pod, count))| match count {
            1 => format!("{pod}: {reason}"),
            2 => format!("{pod} (and 1 other pod): {reason}"),
            n => format!("{pod} (and {} other pods): {reason}", n - 1),
        })
        .collect();
    lines.sort();
    lines.into_iter().for_each(r.warn);
    Ok(())
}
