//! Namespaces that are being deleted: empties them, says in conditions what remains, and lets them go.
//!
//! What is in a namespace is not in the cache, so this controller reads as it goes; what it makes of what it read is
//! pure ([`Emptied`]).

use crate::discovery::{Resource, discover};
use crate::plan::{Action, Failure, NOT_FOUND, Op, Target};
use crate::runner::{Shell, failure, work_off};
use client::{Key, WorkQueue};
use http::{Request, header::ACCEPT};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as MetaTime;
use k8s_openapi::jiff::SignedDuration;
use meta::Time;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::{debug, info};

pub const NAME: &str = "namespace-controller";
/// The finalizer in `spec.finalizers` that is this controller's.
const FINALIZER: &str = "kubernetes";
/// How long finalizers of content are given (upstream's finalizerEstimateSeconds).
const FINALIZER_SECONDS: i64 = 15;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What remains of a collection after its deletion was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    pub count: usize,
    pub finalizers: BTreeMap<String, usize>,
}

/// What an attempt to empty a namespace came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emptied {
    /// By `resource.group`.
    pub remaining: BTreeMap<String, Remaining>,
    pub discovery_error: Option<String>,
    pub errors: Vec<String>,
}

impl Emptied {
    /// Whether the namespace can go.
    pub fn is_done(&self) -> bool {
        self.remaining.is_empty() && self.errors.is_empty() && self.discovery_error.is_none()
    }

    /// The five conditions of a namespace that is being deleted, in upstream's words: type, whether it is so, reason and
    /// message.
    fn conditions(&self) -> [(&'static str, bool, &'static str, String); 5] {
        let discovery = match &self.discovery_error {
            Some(e) => (true, "DiscoveryFailed", e.clone()),
            None => (false, "ResourcesDiscovered", "All resources successfully discovered".into()),
        };
        let content = if self.errors.is_empty() {
            (
                false,
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization".into(),
            )
        } else {
            let mut errors = self.errors.clone();
            errors.sort();
            let message = format!(
                "Failed to delete all resource types, {} remaining: {}",
                errors.len(),
                errors.join(", ")
            );
            (true, "ContentDeletionFailed", message)
        };
        let left = if self.remaining.is_empty() {
            (false, "ContentRemoved", "All content successfully removed".into())
        } else {
            let list: Vec<_> = self
                .remaining
                .iter()
                .map(|(r, n)| format!("{r} has {} resource instances", n.count))
                .collect();
            (true, "SomeResourcesRemain", format!("Some resources are remaining: {}", list.join(", ")))
        };
        let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, n) in self.remaining.values().flat_map(|r| &r.finalizers) {
            *finalizers.entry(name).or_default() += n;
        }
        let held = if finalizers.is_empty() {
            (false, "ContentHasNoFinalizers", "All content-preserving finalizers finished".into())
        } else {
            let list: Vec<_> =
                finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
            let message =
                format!("Some content in the namespace has finalizers remaining: {}", list.join(", "));
            (true, "SomeFinalizersRemain", message)
        };
        [
            ("NamespaceDeletionDiscoveryFailure", discovery.0, discovery.1, discovery.2),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed".into(),
            ),
            ("NamespaceDeletionContentFailure", content.0, content.1, content.2),
            ("NamespaceContentRemaining", left.0, left.1, left.2),
            ("NamespaceFinalizersRemaining", held.0, held.1, held.2),
        ]
    }

    /// The namespace with phase and conditions that say this; None where it says so already.
    pub fn status(&self, namespace: &Namespace, now: Time) -> Option<Namespace> {
        let mut new = namespace.clone();
        let status = new.status.get_or_insert_default();
        let conditions = status.conditions.get_or_insert_default();
        for (kind, holds, reason, message) in self.conditions() {
            let value = if holds { "True" } else { "False" };
            let condition = NamespaceCondition {
                type_: kind.into(),
                status: value.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: Some(MetaTime(now)),
            };
            match conditions.iter_mut().find(|c| c.type_ == kind) {
                Some(old) => {
                    let since = old.last_transition_time.take().filter(|_| old.status == value);
                    *old = NamespaceCondition {
                        last_transition_time: since.or(condition.last_transition_time),
                        ..condition
                    };
                }
                None => conditions.push(condition),
            }
        }
        (new.status != namespace.status).then_some(new)
    }
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: ItemMeta,
    #[serde(default)]
    spec: ItemSpec,
}

#[derive(Deserialize)]
struct ItemMeta {
    name: String,
    #[serde(default)]
    finalizers: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct ItemSpec {
    termination_grace_period_seconds: Option<i64>,
}

const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// Runs until the shutdown.
pub(crate) async fn run(shell: Shell, workers: usize) {
    let queue: WorkQueue<Key> = WorkQueue::new();
    let meter = shell.metrics.queue("namespace", &queue);
    tokio::select! {
        () = shell.world.namespaces.synced() => {}
        () = shell.shutdown.cancelled() => return,
    }
    let added = queue.clone();
    shell.world.namespaces.on_change(move |delta| {
        if delta.new.as_ref().is_some_and(|n| n.metadata.deletion_timestamp.is_some()) {
            added.add(delta.key.clone());
        }
    });
    // A pod that is gone may be the last one a namespace waited for.
    let (added, namespaces) = (queue.clone(), shell.world.namespaces.clone());
    shell.world.pods.on_change(move |delta| {
        if delta.new.is_none() {
            let key = Key::cluster(&delta.key.namespace);
            if namespaces.get(&key).is_some_and(|n| n.metadata.deletion_timestamp.is_some()) {
                added.add(key);
            }
        }
    });
    info!(controller = NAME, "started");
    tokio::select! {
        () = work_off(NAME, &queue, &meter, workers, |key| sync(&shell, key)) => {}
        () = shell.shutdown.cancelled() => queue.close(),
    }
}

/// One attempt; when to look again, if something remains.
async fn sync(shell: &Shell, key: Key) -> Result<Option<Duration>, String> {
    // Not from the cache: several parties write to a namespace that goes.
    let api = kube::Api::<Namespace>::all(shell.client.clone());
    let Some(mut namespace) = api.get_opt(&key.name).await.map_err(|e| failure(e).message)? else {
        return Ok(None);
    };
    let Some(deleted_at) = namespace.metadata.deletion_timestamp.clone() else { return Ok(None) };
    if namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating") {
        namespace.status.get_or_insert_default().phase = Some("Terminating".into());
        namespace = api
            .replace_status(&key.name, &kube::api::PostParams::default(), &namespace)
            .await
            .map_err(|e| failure(e).message)?;
    }
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        return Ok(None);
    }
    let (emptied, wait_seconds) = empty(shell, &key.name, deleted_at.0).await;
    if let Some(new) = emptied.status(&namespace, client::now()) {
        match api.replace_status(&key.name, &kube::api::PostParams::default(), &new).await {
            Ok(n) => namespace = n,
            Err(e) if client::is_not_found(&e) => return Ok(None),
            Err(e) => debug!(controller = NAME, key = %key, "conditions: {e}"),
        }
    }
    if !emptied.is_done() {
        let mut errors = emptied.errors;
        errors.extend(emptied.discovery_error);
        if !errors.is_empty() {
            return Err(errors.join(", "));
        }
        // As upstream: half of what the content was estimated to need, and a second.
        return Ok(Some(Duration::from_secs(u64::try_from(wait_seconds / 2 + 1).unwrap_or(1))));
    }
    if let Some(spec) = &mut namespace.spec {
        spec.finalizers = Some(finalizers.into_iter().filter(|f| f != FINALIZER).collect());
    }
    let op = Op::replace(&namespace).subresource("finalize").tolerating(&[NOT_FOUND]);
    shell.request(&op).await.map_err(|f| f.message)?;
    Ok(None)
}

/// Asks for the deletion of everything, pods first and alone until they are gone; what remains, and how many seconds it
/// may need.
async fn empty(shell: &Shell, namespace: &str, deleted_at: Time) -> (Emptied, i64) {
    let mut out = Emptied::default();
    let mut wait_seconds = 0;
    let mut resources = match discover(&shell.client).await {
        Ok((resources, stale)) => {
            if !stale.is_empty() {
                let n = stale.len();
                out.discovery_error =
                    Some(format!("Discovery failed for some groups, {n} failing: {}", stale.join(", ")));
            }
            resources
        }
        Err(e) => {
            out.discovery_error = Some(failure(e).message);
            return (out, 0);
        }
    };
    resources.retain(|r| r.namespaced && r.can(&["delete"]));
    resources.sort_by_key(|r| !is_pods(r));
    for resource in &resources {
        match empty_one(shell, resource, namespace, deleted_at).await {
            Ok((remaining, seconds)) => {
                wait_seconds = wait_seconds.max(seconds);
                if remaining.count > 0 {
                    let name = format!("{}.{}", resource.target.plural, resource.target.group);
                    out.remaining.insert(name, remaining);
                }
            }
            Err(e) => out.errors.push(e),
        }
        if is_pods(resource) && !out.remaining.is_empty() {
            break;
        }
    }
    (out, wait_seconds)
}

fn is_pods(r: &Resource) -> bool {
    r.target.group.is_empty() && r.target.plural == "pods"
}

async fn empty_one(
    shell: &Shell,
    resource: &Resource,
    namespace: &str,
    deleted_at: Time,
) -> Result<(Remaining, i64), String> {
    let before = list(shell, &resource.target, namespace, is_pods(resource)).await?;
    if before.is_empty() {
        return Ok((Remaining::default(), 0));
    }
    let grace = before.iter().filter_map(|i| i.spec.termination_grace_period_seconds).max().unwrap_or(0);
    let over = client::now() >= deleted_at + SignedDuration::from_secs(grace);
    let grace = if is_pods(resource) && !over { grace } else { 0 };
    if resource.can(&["deletecollection"]) {
        let path = resource.target.path(&Key::new(namespace, ""), "");
        let options = br#"{"apiVersion":"v1","kind":"DeleteOptions","propagationPolicy":"Background"}"#;
        let request = Request::delete(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(options.to_vec())
            .map_err(|e| e.to_string())?;
        match timed(shell.client.request_text(request)).await {
            Err(f) if f.code != 404 && f.code != 405 => return Err(f.message),
            _ => {}
        }
    } else {
        for item in &before {
            let delete = Action::Delete {
                uid: None,
                version: None,
                propagation: Some("Background"),
                grace_seconds: None,
            };
            let op = Op::at(resource.target.clone(), Key::new(namespace, &item.metadata.name), delete)
                .tolerating(&[NOT_FOUND, "MethodNotAllowed"]);
            shell.request(&op).await.map_err(|f| f.message)?;
        }
    }
    let after = list(shell, &resource.target, namespace, false).await?;
    let mut remaining = Remaining { count: after.len(), ..Remaining::default() };
    for finalizer in after.iter().flat_map(|i| &i.metadata.finalizers) {
        *remaining.finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    if remaining.count > 0 && grace == 0 && remaining.finalizers.is_empty() {
        let t = &resource.target;
        let gvr = format!("{}/{}, Resource={}", t.group, t.version, t.plural);
        return Err(format!("unexpected items still remain in namespace: {namespace} for gvr: {gvr}"));
    }
    let seconds = match (remaining.count, grace) {
        (0, _) => 0,
        (_, 0) => FINALIZER_SECONDS,
        (_, grace) => grace,
    };
    Ok((remaining, seconds))
}

/// Empty where the server does not list this resource.
async fn list(shell: &Shell, target: &Target, namespace: &str, whole: bool) -> Result<Vec<Item>, String> {
    let accept = if whole { "application/json" } else { METADATA_LIST };
    let request = Request::get(target.path(&Key::new(namespace, ""), ""))
        .header(ACCEPT, accept)
        .body(Vec::new())
        .map_err(|e| e.to_string())?;
    match timed(shell.client.request::<List>(request)).await {
        Ok(list) => Ok(list.items),
        Err(f) if f.code == 404 || f.code == 405 => Ok(Vec::new()),
        Err(f) => Err(f.message),
    }
}

async fn timed<T>(f: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(REQUEST_TIMEOUT, f).await {
        Ok(r) => r.map_err(failure),
        Err(_) => Err(Failure::local("no answer in time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(e: &Emptied) -> Vec<String> {
        let status = e.status(&Namespace::default(), Time::UNIX_EPOCH).unwrap().status.unwrap();
        let conditions = status.conditions.unwrap();
        let failing = conditions.into_iter().filter(|c| c.status == "True");
        failing.map(|c| format!("{} {}: {}", c.type_, c.reason.unwrap(), c.message.unwrap())).collect()
    }

    #[test]
    fn conditions_say_what_remains() {
        assert!(show(&Emptied::default()).is_empty());
        let finalizers = BTreeMap::from([("example.com/f".to_owned(), 2)]);
        let e = Emptied {
            remaining: BTreeMap::from([("pods.".to_owned(), Remaining { count: 3, finalizers })]),
            ..Emptied::default()
        };
        assert_eq!(
            show(&e),
            [
                "NamespaceContentRemaining SomeResourcesRemain: Some resources are remaining: pods. has 3 resource instances",
                "NamespaceFinalizersRemaining SomeFinalizersRemain: Some content in the namespace has finalizers remaining: \
             example.com/f in 2 resource instances",
            ]
        );
        let e = Emptied { errors: vec!["b".into(), "a".into()], ..Emptied::default() };
        assert_eq!(
            show(&e),
            [
                "NamespaceDeletionContentFailure ContentDeletionFailed: Failed to delete all resource types, 2 remaining: a, b"
            ]
        );
        assert!(!e.is_done());
    }

    #[test]
    fn a_status_that_says_so_already_is_not_written() {
        let once = Emptied::default().status(&Namespace::default(), Time::UNIX_EPOCH).unwrap();
        assert_eq!(Emptied::default().status(&once, Time::MAX), None);
    }
}
