//! The garbage collector: deletes what no living owner wants, and carries out the deletion of owners with their
//! dependents (foreground) or without (orphan).
//!
//! Level-triggered: a change names an object to look at; what to do follows from the object, its owners and its
//! dependents as they are ([`decide`]). That an owner is absent is never taken from the cache alone.

pub mod decide;
pub(crate) mod graph;

use crate::discovery::discover;
use crate::metrics::Metric;
use crate::plan::{Action, Failure, INVALID, NOT_FOUND, Op, Target};
use crate::runner::{Shell, failure, work_off};
use client::{Informers, Key, WorkQueue};
use decide::{Decision, Dependent, FOREGROUND, ORPHAN, Owner, has_finalizer, is_deleting_dependents};
use graph::{Change, Graph, Id, Lookup};
use http::{Request, header::ACCEPT};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::DynamicObject;
use kube::core::PartialObjectMeta;
use parking_lot::RwLock;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

pub const NAME: &str = "garbage-collector-controller";
/// How often it is looked for new resources (upstream's resync period of the garbage collector).
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);
/// Pause until discovery is tried again after a failure.
const DISCOVERY_RETRY: Duration = Duration::from_secs(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

static SYNC_ERRORS: Metric = Metric::counter(
    "garbagecollector_controller_resources_sync_error_total",
    &[],
    "Number of garbage collector resources sync errors",
);

#[derive(Clone)]
struct Collector {
    shell: Shell,
    graph: Arc<RwLock<Graph>>,
    queue: WorkQueue<Id>,
}

/// Runs until the shutdown.
pub(crate) async fn run(shell: Shell, informers: Informers, workers: usize) {
    let shutdown = shell.shutdown.clone();
    let gc = Collector { shell, graph: Arc::default(), queue: WorkQueue::new() };
    let queue = gc.queue.clone();
    tokio::select! {
        () = gc.run(informers, workers) => {}
        () = shutdown.cancelled() => queue.close(),
    }
}

impl Collector {
    async fn run(mut self, informers: Informers, workers: usize) {
        let meter = self.shell.metrics.queue("garbage_collector_attempt_to_delete", &self.queue);
        self.shell.meters = self.shell.metrics.declare(&[&SYNC_ERRORS]);
        while !self.refreshed(&informers).await {
            tokio::time::sleep(DISCOVERY_RETRY).await;
        }
        let sources = self.graph.read().sources();
        futures::future::join_all(sources.iter().map(|s| s.synced())).await;
        info!(controller = NAME, resources = sources.len(), "started");
        let refresh = async {
            loop {
                tokio::time::sleep(DISCOVERY_PERIOD).await;
                self.refreshed(&informers).await;
            }
        };
        tokio::join!(work_off(NAME, &self.queue, &meter, workers, |id| self.attempt(id)), refresh);
    }

    async fn refreshed(&self, informers: &Informers) -> bool {
        let result = self.refresh(informers).await;
        if let Err(e) = &result {
            self.shell.meters.record(&SYNC_ERRORS.one([]));
            warn!(controller = NAME, "discovery: {e}");
        }
        result.is_ok()
    }

    /// Takes up what the server serves now.
    async fn refresh(&self, informers: &Informers) -> kube::Result<()> {
        let (resources, stale) = discover(&self.shell.client).await?;
        let added = {
            let mut graph = self.graph.write();
            // A group that does not answer now is not gone.
            if stale.is_empty() {
                graph.retain(&resources, informers);
            }
            graph.update(&resources, &self.shell.world, informers)
        };
        for target in added {
            let Some(source) = self.graph.read().source(&target) else { continue };
            let gc = self.clone();
            source.on_change(Box::new(move |change| gc.changed(&target, &change)));
        }
        Ok(())
    }

    /// Queues what a change gives reason to look at.
    fn changed(&self, target: &Arc<Target>, change: &Change<'_>) {
        let Some(meta) = change.new.or(change.old) else { return };
        let uid = meta.uid.as_deref().unwrap_or("").into();
        let id = Id { target: target.clone(), key: change.key.clone(), uid };
        let none = Vec::new();
        let before = change.old.and_then(|m| m.owner_references.as_ref()).unwrap_or(&none);
        let Some(new) = change.new else {
            // The last of an owner: its dependents are due; so may be an owner that waited for it.
            let graph = self.graph.read();
            graph.dependents(&id).into_iter().for_each(|(d, _)| self.queue.add(d));
            before.iter().for_each(|r| self.queue_owner(&graph, r, &id.key));
            return;
        };
        let after = new.owner_references.as_ref().unwrap_or(&none);
        let begins = |finalizer| {
            decide::is_going(new)
                && has_finalizer(new, finalizer)
                && !change.old.is_some_and(|o| decide::is_going(o) && has_finalizer(o, finalizer))
        };
        if begins(ORPHAN) {
            self.queue.add(id.clone());
        } else if begins(FOREGROUND) {
            let graph = self.graph.read();
            graph.dependents(&id).into_iter().for_each(|(d, _)| self.queue.add(d));
            self.queue.add(id.clone());
        }
        if before == after {
            return;
        }
        let graph = self.graph.read();
        // No longer held up by this one.
        let blocked = |r: &&OwnerReference| r.block_owner_deletion == Some(true);
        for r in before.iter().filter(blocked) {
            if !after.iter().filter(blocked).any(|a| a.uid == r.uid) {
                self.queue_owner(&graph, r, &id.key);
            }
        }
        // An owner that is not there, or not the one that was meant, must be verified.
        if !after.iter().all(|r| lives(&graph, r, &id.key)) {
            self.queue.add(id);
        }
    }

    fn queue_owner(&self, graph: &Graph, reference: &OwnerReference, dependent: &Key) {
        if let Lookup::At(target, key) = graph.lookup(reference, &dependent.namespace) {
            let id = Id { target, key, uid: reference.uid.as_str().into() };
            if graph.get(&id).is_some_and(|m| is_deleting_dependents(&m)) {
                self.queue.add(id);
            }
        }
    }

    async fn attempt(&self, id: Id) -> Result<Option<Duration>, Failure> {
        self.collect(&id).await.map(|()| None)
    }

    async fn collect(&self, id: &Id) -> Result<(), Failure> {
        if self.is_well_owned(id) {
            return Ok(());
        }
        // The object as it is: the cache may be behind on what would spare it.
        let Some(meta) = self.live(&id.target, &id.key).await?.filter(|m| m.uid.as_deref() == Some(&*id.uid))
        else {
            return Ok(());
        };
        let mut owners = Vec::new();
        if !decide::is_going(&meta) {
            for reference in meta.owner_references.iter().flatten() {
                match self.owner(reference, id).await? {
                    Some(owner) => owners.push(owner),
                    // Not ours to judge: an object is spared as long as one of its references is in doubt.
                    None => return Ok(()),
                }
            }
        }
        let dependents = self.graph.read().dependents(id);
        let known: Vec<_> = dependents.iter().map(|(_, d)| *d).collect();
        let decision = decide::decide(&meta, &owners, &known);
        if decision != Decision::Keep {
            info!(controller = NAME, resource = %id.target.plural, key = %id.key, ?decision, "collecting");
        }
        self.carry_out(decision, id, &meta, dependents).await
    }

    async fn carry_out(
        &self,
        decision: Decision,
        id: &Id,
        meta: &ObjectMeta,
        dependents: Vec<(Id, Dependent)>,
    ) -> Result<(), Failure> {
        match decision {
            Decision::Keep => Ok(()),
            Decision::Release => self.patch(id, decide::remove_finalizer(meta, FOREGROUND)).await,
            Decision::AwaitDependents => {
                for (dependent, d) in dependents {
                    if d.blocks && !d.deleting_dependents {
                        self.queue.add(dependent);
                    }
                }
                Ok(())
            }
            Decision::OrphanDependents => {
                for (dependent, _) in dependents {
                    let Some(latest) = self.live(&dependent.target, &dependent.key).await? else { continue };
                    if latest.uid.as_deref() == Some(&*dependent.uid) {
                        let patch = decide::keep_references(&latest, |r| r.uid != *id.uid);
                        self.patch(&dependent, patch).await?;
                    }
                }
                self.patch(id, decide::remove_finalizer(meta, ORPHAN)).await
            }
            Decision::DropReferences(uids) => {
                self.patch(id, decide::keep_references(meta, |r| !uids.contains(&r.uid))).await
            }
            Decision::Delete { propagation, unblock } => {
                let mut version = meta.resource_version.clone();
                if unblock {
                    self.patch(id, decide::unblock_references(meta)).await?;
                    version = None;
                }
                let action = Action::Delete {
                    uid: meta.uid.clone(),
                    version,
                    propagation: Some(propagation),
                    grace_seconds: None,
                };
                self.send(id, action, &[NOT_FOUND]).await
            }
        }
    }

    /// Whether the cache knows of a living owner for each reference: should one go, its deletion is another reason to look.
    /// At the start nearly every object is queued, before its owner's kind is filled; this spares asking for each.
    fn is_well_owned(&self, id: &Id) -> bool {
        let graph = self.graph.read();
        let Some(meta) = graph.get(id).filter(|m| !decide::is_going(m)) else { return false };
        meta.owner_references.iter().flatten().all(|r| lives(&graph, r, &id.key))
    }

    /// The state of an owner; None where the reference can never be resolved.
    async fn owner(&self, reference: &OwnerReference, dependent: &Id) -> Result<Option<Owner>, Failure> {
        let (target, key) = match self.graph.read().lookup(reference, &dependent.key.namespace) {
            Lookup::At(target, key) => (target, key),
            Lookup::WrongScope => return Ok(None),
            Lookup::UnknownKind => {
                let message = format!("no resource of kind {} in {}", reference.kind, reference.api_version);
                return Err(Failure::local(message));
            }
        };
        let id = Id { target: target.clone(), key: key.clone(), uid: reference.uid.as_str().into() };
        let cached = self.graph.read().get(&id);
        let owner = match cached {
            Some(meta) => Some(meta),
            None => self.live(&target, &key).await?.filter(|m| m.uid.as_ref() == Some(&reference.uid)),
        };
        Ok(Some(match owner {
            None => Owner::Absent,
            Some(m) if is_deleting_dependents(&m) => Owner::Waiting,
            Some(_) => Owner::Solid,
        }))
    }

    /// The object's metadata as the server has it; None where it has none.
    async fn live(&self, target: &Target, key: &Key) -> Result<Option<ObjectMeta>, Failure> {
        let request = Request::get(target.path(key, ""))
            .header(ACCEPT, METADATA)
            .body(Vec::new())
            .map_err(|e| Failure::local(e.to_string()))?;
        let get = self.shell.client.request::<PartialObjectMeta<DynamicObject>>(request);
        match tokio::time::timeout(REQUEST_TIMEOUT, get).await {
            Err(_) => Err(Failure::local("no answer in time")),
            Ok(Ok(object)) => Ok(Some(object.metadata)),
            Ok(Err(e)) if client::is_not_found(&e) => Ok(None),
            Ok(Err(e)) => Err(failure(e)),
        }
    }

    async fn patch(&self, id: &Id, patch: Value) -> Result<(), Failure> {
        self.send(id, Action::MergePatch(patch.to_string().into_bytes()), &[NOT_FOUND, INVALID]).await
    }

    async fn send(&self, id: &Id, action: Action, tolerate: &'static [&'static str]) -> Result<(), Failure> {
        let op = Op::at((*id.target).clone(), id.key.clone(), action).tolerating(tolerate);
        self.shell.request(&op).await.map(drop)
    }
}

/// Whether the cache has the owner that a reference of `dependent` means, and it does not wait for its dependents.
fn lives(graph: &Graph, reference: &OwnerReference, dependent: &Key) -> bool {
    match graph.lookup(reference, &dependent.namespace) {
        Lookup::At(target, key) => graph
            .get(&Id { target, key, uid: reference.uid.as_str().into() })
            .is_some_and(|owner| !is_deleting_dependents(&owner)),
        Lookup::UnknownKind | Lookup::WrongScope => false,
    }
}
