//! What namespaces use of their quotas, counted anew when something that counts has gone.
//!
//! Admission charges what is created, before it is stored; this controller counts what is stored. It reads past the
//! cache: a count that is behind would let more in than is allowed. What counts how is `kinds::quota`'s.

use crate::discovery::discover;
use crate::gc::graph::{Source, source_of};
use crate::plan::{Op, Target};
use crate::runner::{Shell, failure, work_off};
use client::{Delta, Informers, Key, WorkQueue};
use http::{Request, header::ACCEPT};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::jiff::SignedDuration;
use kinds::quota::{Evaluator, Item, Usage, count, evaluators, replenishes};
use meta::{Quantity, Time};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tracing::info;

pub const NAME: &str = "resourcequota-controller";
/// How often a quota is counted although nothing has gone (upstream's `--resource-quota-sync-period`): a count may meet
/// a creation that was charged and is not yet stored.
const RESYNC: SignedDuration = SignedDuration::from_mins(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

#[derive(Clone)]
struct Quotas {
    shell: Shell,
    informers: Informers,
    queue: WorkQueue<Key>,
    /// The resources whose deletions are watched, for the quotas that count them by number.
    followed: Arc<Mutex<BTreeMap<Evaluator, Followed>>>,
}

#[derive(Clone)]
struct Followed {
    target: Target,
    source: Arc<dyn Source>,
}

/// Runs until the shutdown.
pub(crate) async fn run(shell: Shell, informers: Informers, workers: usize) {
    let queue = WorkQueue::new();
    let meter = shell.metrics.queue("resourcequota_primary", &queue);
    let world = shell.world.clone();
    let synced = async {
        tokio::join!(
            world.quotas.synced(),
            world.pods.synced(),
            world.services.synced(),
            world.claims.synced()
        );
    };
    tokio::select! {
        () = synced => {}
        () = shell.shutdown.cancelled() => return,
    }
    let quotas = Quotas { shell, informers, queue: queue.clone(), followed: Arc::default() };
    quotas.subscribe();
    info!(controller = NAME, "started");
    tokio::select! {
        () = work_off(NAME, &queue, &meter, workers, |key| quotas.sync(key)) => {}
        () = quotas.shell.shutdown.cancelled() => queue.close(),
    }
}

impl Quotas {
    fn subscribe(&self) {
        let world = &self.shell.world;
        let queue = self.queue.clone();
        world.quotas.on_change(move |delta| {
            let is_due = |q: &ResourceQuota| {
                delta.old.as_ref().is_none_or(|old| old.spec != q.spec) || !says_its_limits(q)
            };
            if delta.new.as_ref().is_some_and(|q| is_due(q)) {
                queue.add(delta.key.clone());
            }
        });
        let quotas = self.clone();
        world.pods.on_change(move |d| quotas.changed(d, &Evaluator::Pods, |p| Item::Pod(p)));
        let quotas = self.clone();
        world.services.on_change(move |d| quotas.changed(d, &Evaluator::Services, |s| Item::Service(s)));
        let quotas = self.clone();
        world.claims.on_change(move |d| quotas.changed(d, &Evaluator::Claims, |c| Item::Claim(c)));
    }

    fn changed<K>(&self, delta: &Delta<K>, evaluator: &Evaluator, item: fn(&K) -> Item<'_>) {
        let frees = match (&delta.old, &delta.new) {
            (_, None) => true,
            (Some(old), Some(new)) => replenishes(item(old), item(new), client::now()),
            (None, Some(_)) => false,
        };
        if frees {
            self.wake(&delta.key.namespace, evaluator);
        }
    }

    /// The quotas of a namespace that count what this evaluator measures.
    fn wake(&self, namespace: &str, evaluator: &Evaluator) {
        for quota in self.shell.world.quotas.by_namespace(namespace) {
            let spec = quota.spec.as_ref();
            let mut names = spec.iter().flat_map(|s| s.hard.iter().flatten()).map(|(name, _)| name);
            if names.any(|name| evaluator.tracks(name)) {
                self.queue.add(Key::of(&*quota));
            }
        }
    }

    /// Counts once; how long until the next count is due in any case.
    async fn sync(&self, key: Key) -> Result<Option<Duration>, String> {
        let Some(quota) = self.shell.world.quotas.get(&key) else { return Ok(None) };
        let spec = quota.spec.clone().unwrap_or_default();
        let mut listed = BTreeMap::new();
        let mut errors = Vec::new();
        for evaluator in evaluators(spec.hard.iter().flat_map(BTreeMap::keys)) {
            match self.list(&evaluator, &key.namespace).await {
                Ok(Some(list)) => {
                    listed.insert(evaluator, list);
                }
                Ok(None) => {}
                Err(e) => errors.push(e),
            }
        }
        let now = client::now();
        let used = count(&spec, now, |evaluator| listed.get(evaluator).map(Listed::items));
        let next = listed.values().filter_map(|l| l.frees_at(now)).min().map(|at| at.duration_since(now));
        if let Some(new) = with_usage(&quota, &spec, used) {
            let written = self.shell.request(&Op::replace_status(&new)).await.map_err(|f| f.message)?;
            if let Some(written) = written {
                let _ = tokio::time::timeout(REQUEST_TIMEOUT, self.shell.saw(&written)).await;
            }
        }
        if !errors.is_empty() {
            return Err(errors.join(", "));
        }
        Ok(Some(next.unwrap_or(RESYNC).min(RESYNC).try_into().unwrap_or(Duration::ZERO)))
    }

    /// What there is to count; None where the server has no such resource.
    async fn list(&self, evaluator: &Evaluator, namespace: &str) -> Result<Option<Listed>, String> {
        Ok(match evaluator {
            Evaluator::Pods => self.get(&Target::of::<Pod>(), namespace, "").await?.map(Listed::Pods),
            Evaluator::Services => {
                self.get(&Target::of::<Service>(), namespace, "").await?.map(Listed::Services)
            }
            Evaluator::Claims => {
                self.get(&Target::of::<PersistentVolumeClaim>(), namespace, "").await?.map(Listed::Claims)
            }
            Evaluator::Count { .. } => {
                let Some(target) = self.follow(evaluator).await? else { return Ok(None) };
                let found: Option<Vec<IgnoredAny>> = self.get(&target, namespace, METADATA_LIST).await?;
                if found.is_none() {
                    self.followed.lock().remove(evaluator);
                }
                found.map(|items| Listed::Others(items.len()))
            }
        })
    }

    /// None where the server has no such resource.
    async fn get<T: DeserializeOwned>(
        &self,
        target: &Target,
        namespace: &str,
        accept: &str,
    ) -> Result<Option<Vec<T>>, String> {
        #[derive(Deserialize)]
        #[serde(bound = "T: DeserializeOwned")]
        struct List<T> {
            #[serde(default = "Vec::new")]
            items: Vec<T>,
        }
        let request = Request::get(target.path(&Key::new(namespace, ""), ""))
            .header(ACCEPT, if accept.is_empty() { "application/json" } else { accept })
            .body(Vec::new())
            .map_err(|e| e.to_string())?;
        let answer =
            tokio::time::timeout(REQUEST_TIMEOUT, self.shell.client.request::<List<T>>(request)).await;
        match answer.map(|a| a.map_err(failure)) {
            Ok(Ok(list)) => Ok(Some(list.items)),
            Ok(Err(f)) if f.code == 404 || f.code == 405 => Ok(None),
            Ok(Err(f)) => Err(f.message),
            Err(_) => Err(format!("no answer within {REQUEST_TIMEOUT:?}")),
        }
    }

    /// Watches a resource for deletions, from before it is counted; None where the server has no such resource.
    async fn follow(&self, evaluator: &Evaluator) -> Result<Option<Target>, String> {
        let known = self.followed.lock().get(evaluator).cloned();
        if let Some(known) = known {
            known.source.synced().await;
            return Ok(Some(known.target));
        }
        let (group, plural) = evaluator.resource();
        let (resources, _) = discover(&self.shell.client).await.map_err(|e| failure(e).message)?;
        let found = resources.iter().find(|r| r.target.group == group && r.target.plural == plural);
        let Some(resource) = found.filter(|r| r.namespaced && r.can(&["list", "watch"])) else {
            return Ok(None);
        };
        let target = resource.target.clone();
        let source = source_of(resource, &self.shell.world, &self.informers);
        let new = {
            let mut all = self.followed.lock();
            let new = !all.contains_key(evaluator);
            all.insert(evaluator.clone(), Followed { target: target.clone(), source: source.clone() });
            new
        };
        if new {
            let (quotas, evaluator) = (self.clone(), evaluator.clone());
            source.on_change(Box::new(move |change| {
                if change.new.is_none() {
                    quotas.wake(&change.key.namespace, &evaluator);
                }
            }));
        }
        source.synced().await;
        Ok(Some(target))
    }
}

/// The objects of one evaluator in a namespace.
enum Listed {
    Pods(Vec<Pod>),
    Services(Vec<Service>),
    Claims(Vec<PersistentVolumeClaim>),
    Others(usize),
}

impl Listed {
    fn items(&self) -> Vec<Item<'_>> {
        match self {
            Self::Pods(all) => all.iter().map(Item::Pod).collect(),
            Self::Services(all) => all.iter().map(Item::Service).collect(),
            Self::Claims(all) => all.iter().map(Item::Claim).collect(),
            Self::Others(n) => vec![Item::Other; *n],
        }
    }

    /// When the next pod that is being deleted has overstayed its grace, and no longer counts.
    fn frees_at(&self, now: Time) -> Option<Time> {
        let Self::Pods(pods) = self else { return None };
        let end = |p: &Pod| {
            let m = &p.metadata;
            let grace = SignedDuration::from_secs(m.deletion_grace_period_seconds? + 1);
            Some(m.deletion_timestamp.as_ref()?.0 + grace)
        };
        pods.iter().filter_map(end).filter(|at| *at > now).min()
    }
}

type Amounts = Option<BTreeMap<String, ApiQuantity>>;

fn amounts(list: &Amounts) -> Usage {
    list.iter().flatten().map(|(name, amount)| (name.clone(), Quantity::of(amount))).collect()
}

/// Whether the status repeats the limits of the spec and says a usage.
fn says_its_limits(quota: &ResourceQuota) -> bool {
    let hard = |of: &Amounts| amounts(of);
    let status = quota.status.as_ref();
    let wanted = quota.spec.as_ref().map(|s| hard(&s.hard)).unwrap_or_default();
    status.is_some_and(|s| s.used.is_some() && hard(&s.hard) == wanted)
        || wanted.is_empty() && status.is_none_or(|s| s.hard.is_none())
}

/// The quota with this usage; what could not be counted stays as it was. None where its status says so already.
fn with_usage(quota: &ResourceQuota, spec: &ResourceQuotaSpec, counted: Usage) -> Option<ResourceQuota> {
    let before = quota.status.as_ref().map(|s| amounts(&s.used)).unwrap_or_default();
    let mut used = before.clone();
    used.extend(counted);
    used.retain(|name, _| spec.hard.as_ref().is_some_and(|hard| hard.contains_key(name)));
    if says_its_limits(quota) && used == before {
        return None;
    }
    let used = used.into_iter().map(|(name, amount)| (name, amount.to_api())).collect();
    let status = ResourceQuotaStatus { hard: spec.hard.clone(), used: Some(used) };
    Some(ResourceQuota { status: Some(status), ..quota.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The status that is written; null for none.
    fn check(hard: Value, status: Value, counted: &[(&str, &str)], expect: Value) {
        let quota: ResourceQuota =
            serde_json::from_value(json!({"spec": {"hard": hard}, "status": status})).unwrap();
        let counted = counted.iter().map(|(n, q)| ((*n).to_owned(), Quantity::parse(q).unwrap())).collect();
        let new = with_usage(&quota, quota.spec.as_ref().unwrap(), counted);
        assert_eq!(serde_json::to_value(new.map(|q| q.status)).unwrap(), expect);
    }

    #[test]
    fn a_status_is_written_only_if_it_says_something_new() {
        let hard = json!({"pods": "5", "cpu": "1"});
        let full = json!({"hard": hard, "used": {"cpu": "500m", "pods": "1"}});
        let counted = [("pods", "1"), ("cpu", "0.5")];
        check(hard.clone(), json!({}), &counted, full.clone());
        check(hard.clone(), full.clone(), &counted, Value::Null);
        check(hard.clone(), full.clone(), &[("pods", "1")], Value::Null);
        let more = json!({"hard": hard, "used": {"cpu": "500m", "pods": "2"}});
        check(hard.clone(), full.clone(), &[("pods", "2")], more);
        let stale = json!({"hard": {"pods": "9"}, "used": {"cpu": "500m", "pods": "1", "memory": "1"}});
        check(hard, stale, &counted, full);
        check(json!({"cpu": "1000m"}), json!({"hard": {"cpu": "1"}, "used": {"cpu": "0"}}), &[], Value::Null);
    }
}
