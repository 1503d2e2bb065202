//! Keeps what authorizers ask for in step with the watch cache: the RBAC index and the node graph.

use crate::cache::{Cache, Entry, EventType, ResourceCache, Selector, WatchStart};
use auth::Authorizer;
use auth::node::Kind;
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::Poll;
use store::{Key, Revision};

/// Deliveries taken at a time.
const BATCH: usize = 256;

/// Objects by resource name, from the cache.
#[derive(Clone)]
pub struct Objects {
    cache: Arc<Cache>,
}

impl Objects {
    pub fn new(cache: Arc<Cache>) -> Self {
        Self { cache }
    }

    /// `resource`: a plural of the core group.
    pub fn entry(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let kind = kinds::find("", "v1", resource)?;
        self.cache.resource(kind.info().storage)?.get(namespace, name)
    }

    /// The typed object.
    pub fn get<T: Clone + 'static>(&self, resource: &str, namespace: &str, name: &str) -> Option<T> {
        self.entry(resource, namespace, name)?.object().ok()?.downcast::<T>().cloned()
    }
}

/// What an object (namespace, name) means to the authorizers; no entry: it is gone.
type Apply = fn(&Authorizer, &str, &str, Option<&Entry>);

fn typed<T: Clone + 'static>(entry: &Entry) -> Option<T> {
    entry.object().ok()?.downcast::<T>().cloned()
}

fn cluster_role(a: &Authorizer, _: &str, name: &str, e: Option<&Entry>) {
    match e.and_then(typed::<ClusterRole>) {
        Some(role) => a.rbac.write().set_cluster_role(&role),
        None => a.rbac.write().remove_cluster_role(name),
    }
}

fn role(a: &Authorizer, namespace: &str, name: &str, e: Option<&Entry>) {
    match e.and_then(typed::<Role>) {
        Some(role) => a.rbac.write().set_role(&role),
        None => a.rbac.write().remove_role(namespace, name),
    }
}

fn cluster_role_binding(a: &Authorizer, _: &str, name: &str, e: Option<&Entry>) {
    match e.and_then(typed::<ClusterRoleBinding>) {
        Some(binding) => a.rbac.write().set_cluster_role_binding(&binding),
        None => a.rbac.write().remove_binding("", name),
    }
}

fn role_binding(a: &Authorizer, namespace: &str, name: &str, e: Option<&Entry>) {
    match e.and_then(typed::<RoleBinding>) {
        Some(binding) => a.rbac.write().set_role_binding(&binding),
        None => a.rbac.write().remove_binding(namespace, name),
    }
}

fn pod(a: &Authorizer, namespace: &str, name: &str, e: Option<&Entry>) {
    match e.and_then(typed::<Pod>) {
        Some(pod) => a.node.write().set_pod(&pod),
        None => a.node.write().remove_pod(namespace, name),
    }
}

fn persistent_volume(a: &Authorizer, _: &str, name: &str, e: Option<&Entry>) {
    match e.and_then(typed::<PersistentVolume>) {
        Some(volume) => a.node.write().set_volume(&volume),
        None => a.node.write().remove_volume(name),
    }
}

fn named(a: &Authorizer, kind: Kind, name: &str, e: Option<&Entry>) {
    let node = e.and_then(|e| e.value().ok()).and_then(|v| v["spec"]["nodeName"].as_str().map(str::to_owned));
    a.node.write().set_named(kind, name, node.as_deref());
}

fn volume_attachment(a: &Authorizer, _: &str, name: &str, e: Option<&Entry>) {
    named(a, Kind::VolumeAttachment, name, e);
}

fn resource_slice(a: &Authorizer, _: &str, name: &str, e: Option<&Entry>) {
    named(a, Kind::ResourceSlice, name, e);
}

const RBAC: &str = "rbac.authorization.k8s.io";
static FEEDS: &[(&str, &str, &str, Apply)] = &[
    (RBAC, "v1", "clusterroles", cluster_role),
    (RBAC, "v1", "roles", role),
    (RBAC, "v1", "clusterrolebindings", cluster_role_binding),
    (RBAC, "v1", "rolebindings", role_binding),
    ("", "v1", "pods", pod),
    ("", "v1", "persistentvolumes", persistent_volume),
    ("storage.k8s.io", "v1", "volumeattachments", volume_attachment),
    ("resource.k8s.io", "v1", "resourceslices", resource_slice),
];

/// Loads what is there now and follows it. The authorizer is complete when this returns; a feed ends when the
/// authorizer or the cache goes away.
pub fn start(cache: &Arc<Cache>, authorizer: &Arc<Authorizer>) {
    for (group, version, plural, apply) in FEEDS {
        let Some(kind) = kinds::find(group, version, plural) else { continue };
        let Some(resource) = cache.resource(kind.info().storage) else { continue };
        let mut feed = Feed {
            resource: resource.clone(),
            apply: *apply,
            known: HashMap::new(),
            node_field: (*plural == "pods")
                .then(|| kind.info().selectable.iter().position(|f| *f == "spec.nodeName"))
                .flatten(),
        };
        let subscription = feed.begin(authorizer, cache.revision());
        tokio::spawn(feed.follow(Arc::downgrade(authorizer), Arc::downgrade(cache), subscription));
    }
}

struct Feed {
    resource: Arc<ResourceCache>,
    apply: Apply,
    /// What has been applied, to notice what went away in a gap: the entry's creation, and for pods the number
    /// of ephemeral containers.
    known: HashMap<Key, (Revision, usize)>,
    /// For pods: which field holds the node.
    node_field: Option<usize>,
}

impl Feed {
    /// Takes the present state.
    fn begin(&mut self, authorizer: &Authorizer, current: Revision) -> Option<crate::cache::Subscription> {
        let subscription = self.resource.subscribe(Selector::default(), WatchStart::State, current).ok()?;
        let mut gone = std::mem::take(&mut self.known);
        for entry in &subscription.initial {
            gone.remove(&entry.key);
            self.take(authorizer, entry, false);
        }
        for key in gone.keys() {
            if let Some((namespace, name)) = key.strip_prefix(self.resource.prefix.as_str()).map(split_key) {
                (self.apply)(authorizer, namespace, name, None);
            }
        }
        Some(subscription)
    }

    fn take(&mut self, authorizer: &Authorizer, entry: &Entry, gone: bool) {
        if gone {
            if self.known.remove(&entry.key).is_some() {
                (self.apply)(authorizer, entry.namespace(), entry.name(), None);
            }
            return;
        }
        let mut mark = (entry.create_revision, 0);
        if let Some(field) = self.node_field {
            if entry.attrs.field(field).is_empty() {
                return;
            }
            mark.1 = ephemeral_containers(entry);
            // A bound pod's references change in no other way.
            if self.known.get(&entry.key) == Some(&mark) {
                return;
            }
        }
        self.known.insert(entry.key.clone(), mark);
        (self.apply)(authorizer, entry.namespace(), entry.name(), Some(entry));
    }

    async fn follow(
        mut self,
        authorizer: Weak<Authorizer>,
        cache: Weak<Cache>,
        mut subscription: Option<crate::cache::Subscription>,
    ) {
        let mut batch = Vec::new();
        while let Some(current) = subscription.take() {
            let open = poll_fn(|cx| {
                current.watcher.take(cx, BATCH, &mut batch);
                if !batch.is_empty() {
                    return Poll::Ready(true);
                }
                if current.watcher.is_closed() { Poll::Ready(false) } else { Poll::Pending }
            })
            .await;
            let (Some(authorizer), Some(cache)) = (authorizer.upgrade(), cache.upgrade()) else { return };
            for delivery in batch.drain(..) {
                self.take(&authorizer, &delivery.entry, delivery.ty == EventType::Deleted);
            }
            subscription = if open { Some(current) } else { self.begin(&authorizer, cache.revision()) };
        }
    }
}

fn split_key(rest: &str) -> (&str, &str) {
    rest.rsplit_once('/').unwrap_or(("", rest))
}

/// Reads only the length of one list out of a pod.
fn ephemeral_containers(entry: &Entry) -> usize {
    #[derive(Deserialize)]
    struct Light {
        spec: Spec,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        #[serde(default)]
        ephemeral_containers: Vec<IgnoredAny>,
    }
    serde_json::from_slice::<Light>(entry.json()).map_or(0, |l| l.spec.ephemeral_containers.len())
}
