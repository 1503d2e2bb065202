//! What every controller is.

use crate::plan::Plan;
use crate::world::World;
use client::informer::Cached;
use client::{Delta, Informer, Key, WorkQueue};
use futures::future::BoxFuture;
use meta::Time;

/// A plan from a snapshot; the runner alone owns queues, retries and I/O.
pub trait Controller: Send + Sync + 'static {
    /// As upstream names it: `deployment-controller`.
    const NAME: &'static str;

    /// Which changes concern which keys, and what else is read.
    fn watches(w: &mut Watches);

    /// What to do about a key. Called for one key at a time never twice at once, and only with a world that has
    /// seen what the last plan for the key wrote.
    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan;
}

type Subscribe = Box<dyn FnOnce(&World, &WorkQueue<Key>) + Send>;
type Synced = Box<dyn for<'a> Fn(&'a World) -> BoxFuture<'a, ()> + Send + Sync>;

/// What a controller looks at.
#[derive(Default)]
pub struct Watches {
    pub(crate) subscriptions: Vec<Subscribe>,
    pub(crate) reads: Vec<Synced>,
}

impl Watches {
    /// A change of a kind wakes these keys. `keys` runs on the informer's task: it must be cheap.
    pub fn on<K: Cached>(
        &mut self,
        kind: fn(&World) -> &Informer<K>,
        keys: fn(&Delta<K>, &World) -> Vec<Key>,
    ) -> &mut Self {
        self.reads(kind);
        self.subscriptions.push(Box::new(move |world, queue| {
            let (seen, queue) = (world.clone(), queue.clone());
            kind(world).on_change(move |delta| {
                for key in keys(delta, &seen) {
                    queue.add(key);
                }
            });
        }));
        self
    }

    /// A change of an object wakes its own key.
    pub fn own<K: Cached>(&mut self, kind: fn(&World) -> &Informer<K>) -> &mut Self {
        self.on(kind, |delta, _| vec![delta.key.clone()])
    }

    /// Read, but no reason to act.
    pub fn reads<K: Cached>(&mut self, kind: fn(&World) -> &Informer<K>) -> &mut Self {
        self.reads.push(Box::new(move |world| Box::pin(kind(world).synced())));
        self
    }
}
