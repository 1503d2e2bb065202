//! The embedded backend over memory instead of a disk: for tests and benches of what stands above the store.

use crate::contract::Revision;
use crate::embedded::{Embedded, Engine, EngineError};
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Default)]
struct Memory(RwLock<BTreeMap<u64, Bytes>>);

impl Engine for Memory {
    fn commit(&self, append: &[(Revision, Bytes)], remove: &[Revision]) -> Result<(), EngineError> {
        let mut log = self.0.write();
        log.extend(append.iter().map(|(r, b)| (r.0, b.clone())));
        for r in remove {
            log.remove(&r.0);
        }
        Ok(())
    }

    fn read(&self, revision: Revision) -> Result<Option<Bytes>, EngineError> {
        Ok(self.0.read().get(&revision.0).cloned())
    }

    fn scan(
        &self,
        from: Revision,
        each: &mut dyn FnMut(Revision, Bytes) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let log: Vec<_> = self.0.read().range(from.0..).map(|(r, b)| (*r, b.clone())).collect();
        log.into_iter().try_for_each(|(r, b)| each(Revision(r), b))
    }
}

/// An empty store that ends with the process. Must be called in a tokio runtime.
pub fn open() -> Arc<Embedded> {
    Arc::new(Embedded::over(Arc::new(Memory::default())).expect("an empty log has nothing to refuse"))
}
