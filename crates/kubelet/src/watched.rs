//! ConfigMaps and Secrets that pods refer to: each is watched by itself, as long as a pod of this node
//! needs it. The node authorizer allows no more.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Informers, informer};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;

use crate::objects::{Claim, Objects, references};

/// How long the first read of an object may take before the pod is told.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

/// Why objects are not there.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("failed to sync {0} cache: timed out waiting for the condition")]
    Late(&'static str),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

type Users = Arc<Mutex<BTreeSet<String>>>;
type Wake = Arc<dyn Fn(&str) + Send + Sync>;

/// One watched object.
struct Entry<K> {
    informer: Informer<K>,
    /// Keeps the watch alive.
    _informers: Informers,
    users: Users,
}

struct Table<K>(Mutex<HashMap<(String, String), Entry<K>>>);

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K> Table<K>
where
    K: informer::Cached + Resource,
    K::DynamicType: Default,
{
    /// The informer of one object, started at the first request.
    fn watch(&self, client: &Client, namespace: &str, name: &str, uid: &str, wake: &Wake) -> Informer<K> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut table = self.0.lock();
        if let Some(entry) = table.get(&key) {
            entry.users.lock().insert(uid.to_owned());
            return entry.informer.clone();
        }
        let informers = Informers::new(client.clone());
        let options = informer::Options::all().namespace(namespace).fields(format!("metadata.name={name}"));
        let informer: Informer<K> = informers.of(options);
        let users: Users = Arc::new(Mutex::new([uid.to_owned()].into()));
        let (for_change, wake) = (users.clone(), wake.clone());
        informer.on_change(move |_| {
            for uid in for_change.lock().iter() {
                wake(uid);
            }
        });
        table.insert(key, Entry { informer: informer.clone(), _informers: informers, users });
        informer
    }

    /// Ends what the pod does not use any more and nobody else does.
    fn release(&self, uid: &str, keep: impl Fn(&str) -> bool) {
        self.0.lock().retain(|(_, name), entry| {
            let mut users = entry.users.lock();
            if !keep(name) {
                users.remove(uid);
            }
            !users.is_empty()
        });
    }
}

/// Reads what pods refer to.
pub struct Watched {
    client: Client,
    config_maps: Table<ConfigMap>,
    secrets: Table<Secret>,
    wake: Wake,
}

impl Watched {
    /// `wake` is called with the uid of each pod that uses an object that changed.
    pub fn new(client: Client, wake: Wake) -> Self {
        Self { client, config_maps: Table::default(), secrets: Table::default(), wake }
    }

    /// All ConfigMaps, Secrets and claims that the pod refers to, as they are now.
    ///
    /// # Errors
    /// What could not be read in time; a missing object is no error here.
    pub async fn read(&self, pod: &Pod) -> Result<Objects, ReadError> {
        let refs = references(pod);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut objects = Objects::default();
        self.config_maps.release(uid, |name| refs.config_maps.contains(name));
        self.secrets.release(uid, |name| refs.secrets.contains(name));
        let maps: Vec<_> = refs
            .config_maps
            .iter()
            .map(|name| (name, self.config_maps.watch(&self.client, namespace, name, uid, &self.wake)))
            .collect();
        let secrets: Vec<_> = refs
            .secrets
            .iter()
            .map(|name| (name, self.secrets.watch(&self.client, namespace, name, uid, &self.wake)))
            .collect();
        for (name, informer) in maps {
            wait("configmap", &informer).await?;
            objects.config_maps.insert(name.clone(), informer.find(namespace, name));
        }
        for (name, informer) in secrets {
            wait("secret", &informer).await?;
            objects.secrets.insert(name.clone(), informer.find(namespace, name));
        }
        for name in refs.claims {
            let claim = self.claim(namespace, &name).await?;
            objects.claims.insert(name, claim);
        }
        Ok(objects)
    }

    async fn claim(&self, namespace: &str, name: &str) -> Result<Option<Claim>, ReadError> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let Some(claim) = claims.get_opt(name).await? else { return Ok(None) };
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let volume = match meta::volumes::volume_name(&claim) {
            Some(volume) => volumes.get_opt(volume).await?.map(Arc::new),
            None => None,
        };
        Ok(Some(Claim { claim: Arc::new(claim), volume }))
    }

    /// Forgets a pod that is gone.
    pub fn forget(&self, uid: &str) {
        self.config_maps.release(uid, |_| false);
        self.secrets.release(uid, |_| false);
    }
}

async fn wait<K: informer::Cached>(kind: &'static str, informer: &Informer<K>) -> Result<(), ReadError> {
    tokio::time::timeout(SYNC_TIMEOUT, informer.synced()).await.map_err(|_| ReadError::Late(kind))
}
