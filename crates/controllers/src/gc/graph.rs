//! Who owns whom: not a graph of its own, but an index by owner over the informers of all resources. Kinds that the
//! controllers watch anyway are not watched twice; of the others only metadata is kept.

use super::decide::Dependent;
use super::decide::is_deleting_dependents;
use crate::discovery::Resource;
use crate::plan::Target;
use crate::world::World;
use client::informer::Cached;
use client::{Delta, Informer, Informers, Key, Options};
use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::DynamicObject;
use kube::core::{ApiResource, PartialObjectMeta};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

const BY_OWNER: &str = "gc/owner";

/// An object, by where it lives and which one of its name it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id {
    pub target: Arc<Target>,
    pub key: Key,
    pub uid: Arc<str>,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.target.plural, self.key)
    }
}

/// A change of an object's metadata.
pub(crate) struct Change<'a> {
    pub key: &'a Key,
    pub old: Option<&'a ObjectMeta>,
    pub new: Option<&'a ObjectMeta>,
}

type OnChange = Box<dyn FnMut(Change<'_>) + Send>;

/// One resource's objects.
pub(crate) trait Source: Send + Sync {
    fn get(&self, key: &Key) -> Option<ObjectMeta>;
    /// Objects with a reference to this uid.
    fn owned_by(&self, uid: &str) -> Vec<ObjectMeta>;
    fn on_change(&self, f: OnChange);
    fn synced(&self) -> BoxFuture<'_, ()>;
}

impl<K: Cached> Source for Informer<K> {
    fn get(&self, key: &Key) -> Option<ObjectMeta> {
        Informer::get(self, key).map(|o| o.meta().clone())
    }

    fn owned_by(&self, uid: &str) -> Vec<ObjectMeta> {
        self.by_index(BY_OWNER, uid).iter().map(|o| o.meta().clone()).collect()
    }

    fn on_change(&self, mut f: OnChange) {
        Informer::on_change(self, move |d: &Delta<K>| {
            f(Change {
                key: &d.key,
                old: d.old.as_ref().map(|o| o.meta()),
                new: d.new.as_ref().map(|o| o.meta()),
            });
        });
    }

    fn synced(&self) -> BoxFuture<'_, ()> {
        Box::pin(Informer::synced(self))
    }
}

fn owners<K: Cached>(object: &K) -> Vec<String> {
    object.meta().owner_references.iter().flatten().map(|r| r.uid.clone()).collect()
}

fn shared<K: Cached>(informer: &Informer<K>) -> Arc<dyn Source> {
    informer.add_index(BY_OWNER, owners);
    Arc::new(informer.clone())
}

/// The informer of the world that holds a whole resource.
fn of_world(world: &World, target: &Target) -> Option<Arc<dyn Source>> {
    let source = match (&*target.group, &*target.plural) {
        ("", "pods") => shared(&world.pods),
        ("", "services") => shared(&world.services),
        ("", "endpoints") => shared(&world.endpoints),
        ("", "namespaces") => shared(&world.namespaces),
        ("", "nodes") => shared(&world.nodes),
        ("", "replicationcontrollers") => shared(&world.replication_controllers),
        ("", "persistentvolumeclaims") => shared(&world.claims),
        ("", "persistentvolumes") => shared(&world.volumes),
        ("", "resourcequotas") => shared(&world.quotas),
        ("apps", "replicasets") => shared(&world.replica_sets),
        ("apps", "deployments") => shared(&world.deployments),
        ("apps", "daemonsets") => shared(&world.daemon_sets),
        ("apps", "statefulsets") => shared(&world.stateful_sets),
        ("apps", "controllerrevisions") => shared(&world.controller_revisions),
        ("discovery.k8s.io", "endpointslices") => shared(&world.endpoint_slices),
        ("rbac.authorization.k8s.io", "clusterroles") => shared(&world.cluster_roles),
        _ => return None,
    };
    Some(source)
}

/// The objects of a resource, watched once however many ask.
pub(crate) fn source_of(r: &Resource, world: &World, informers: &Informers) -> Arc<dyn Source> {
    of_world(world, &r.target).unwrap_or_else(|| {
        let api = ApiResource {
            group: r.target.group.to_string(),
            version: r.target.version.to_string(),
            api_version: r.api_version(),
            kind: r.kind.clone(),
            plural: r.target.plural.to_string(),
        };
        let options = Options::all().transform(trim).index(BY_OWNER, owners);
        Arc::new(informers.of_dynamic::<PartialObjectMeta<DynamicObject>>(api, options))
    })
}

/// Keeps what ownership is decided by.
fn trim(object: &mut PartialObjectMeta<DynamicObject>) {
    let m = std::mem::take(&mut object.metadata);
    object.types = None;
    object.metadata = ObjectMeta {
        name: m.name,
        namespace: m.namespace,
        uid: m.uid,
        resource_version: m.resource_version,
        owner_references: m.owner_references,
        finalizers: m.finalizers,
        deletion_timestamp: m.deletion_timestamp,
        ..Default::default()
    };
}

/// Every resource that can be collected.
#[derive(Default)]
pub(super) struct Graph {
    sources: BTreeMap<Target, (Arc<Target>, Arc<dyn Source>)>,
    /// By `apiVersion` and kind as references name them; any served version finds the resource.
    kinds: BTreeMap<(String, String), (Arc<Target>, bool)>,
}

/// Where a reference points.
#[derive(Debug, PartialEq)]
pub(super) enum Lookup {
    /// The server has no such kind.
    UnknownKind,
    /// An object without namespace cannot be owned by one that has.
    WrongScope,
    At(Arc<Target>, Key),
}

impl Graph {
    /// Takes up resources that are new; the ids of those whose changes must be followed.
    pub fn update(
        &mut self,
        resources: &[Resource],
        world: &World,
        informers: &Informers,
    ) -> Vec<Arc<Target>> {
        let mut new = Vec::new();
        for r in resources {
            let kind = (r.api_version(), r.kind.clone());
            let target = Arc::new(r.target.clone());
            self.kinds.entry(kind).or_insert_with(|| (target.clone(), r.namespaced));
            let ignored = r.target.plural == "events" && matches!(&*r.target.group, "" | "events.k8s.io");
            if ignored || !r.can(&["delete", "list", "watch"]) || self.sources.contains_key(&r.target) {
                continue;
            }
            let source = source_of(r, world, informers);
            self.sources.insert(r.target.clone(), (target.clone(), source));
            new.push(target);
        }
        new
    }

    /// Drops the resources that are no longer served.
    pub fn retain(&mut self, resources: &[Resource], informers: &Informers) {
        self.kinds.retain(|(version, kind), _| {
            resources.iter().any(|r| r.api_version() == *version && r.kind == *kind)
        });
        self.sources.retain(|target, _| {
            let served = resources.iter().any(|r| r.target == *target);
            if !served {
                informers.forget_path(&target.path(&Key::cluster(""), ""));
            }
            served
        });
    }

    pub fn source(&self, target: &Target) -> Option<Arc<dyn Source>> {
        self.sources.get(target).map(|(_, s)| s.clone())
    }

    pub fn sources(&self) -> Vec<Arc<dyn Source>> {
        self.sources.values().map(|(_, s)| s.clone()).collect()
    }

    pub fn get(&self, id: &Id) -> Option<ObjectMeta> {
        let meta = self.sources.get(&*id.target)?.1.get(&id.key)?;
        (meta.uid.as_deref() == Some(&*id.uid)).then_some(meta)
    }

    /// Objects that name this one as their owner, in its namespace or, if it has none, anywhere.
    pub fn dependents(&self, owner: &Id) -> Vec<(Id, Dependent)> {
        let mut out = Vec::new();
        for (target, source) in self.sources.values() {
            for meta in source.owned_by(&owner.uid) {
                let key = Key::of_meta(&meta);
                if owner.key.namespace().is_some() && owner.key.namespace != key.namespace {
                    continue;
                }
                let reference = meta.owner_references.iter().flatten().find(|r| r.uid == *owner.uid);
                let dependent = Dependent {
                    blocks: reference.is_some_and(|r| r.block_owner_deletion == Some(true)),
                    deleting_dependents: is_deleting_dependents(&meta),
                };
                let uid = meta.uid.as_deref().unwrap_or("").into();
                out.push((Id { target: target.clone(), key, uid }, dependent));
            }
        }
        out
    }

    /// The object a reference of an object in `namespace` (empty for none) names.
    pub fn lookup(&self, reference: &OwnerReference, namespace: &str) -> Lookup {
        match self.kinds.get(&(reference.api_version.clone(), reference.kind.clone())) {
            None => Lookup::UnknownKind,
            Some((_, true)) if namespace.is_empty() => Lookup::WrongScope,
            Some((target, namespaced)) => {
                let namespace = if *namespaced { namespace } else { "" };
                Lookup::At(target.clone(), Key::new(namespace, &reference.name))
            }
        }
    }
}
