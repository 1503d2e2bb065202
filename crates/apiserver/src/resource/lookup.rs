//! Reading the cache from within the API server: admission, authorization, token checks.

use crate::cache::{Cache, Entry, ResourceCache};
use std::collections::HashMap;
use std::sync::Arc;

/// Objects by resource, from the cache: as fresh as the feed.
#[derive(Clone)]
pub struct Lookup {
    cache: Arc<Cache>,
    /// Groups and storage paths by plural.
    storage: Arc<HashMap<&'static str, Vec<(String, &'static str)>>>,
}

impl Lookup {
    pub(super) fn new(
        cache: Arc<Cache>,
        storage: HashMap<&'static str, Vec<(String, &'static str)>>,
    ) -> Self {
        Self { cache, storage: Arc::new(storage) }
    }

    pub fn resource(&self, group: &str, plural: &str) -> Option<&Arc<ResourceCache>> {
        let storage = self.storage.get(plural)?.iter().find(|(g, _)| g == group).map(|(_, s)| *s)?;
        self.cache.resource(storage)
    }

    /// `namespace` is empty for cluster scope.
    pub fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.resource(group, plural)?.get(namespace, name)
    }

    /// Every object of a namespace, or of all where it is empty.
    pub fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Entry>> {
        self.resource(group, plural).map(|r| r.list(namespace)).unwrap_or_default()
    }

    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }
}
