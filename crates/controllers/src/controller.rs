//! What every controller is.

use crate::metrics::{Levels, Meters, Metric, Sample};
use crate::plan::Plan;
use crate::world::World;
use client::informer::Cached;
use client::{Delta, Informer, Key};
use futures::future::BoxFuture;
use meta::Time;
use std::sync::Arc;
use std::time::Duration;

/// A plan from a snapshot; the runner alone owns queues, retries and I/O.
pub trait Controller: Send + Sync + 'static {
    /// As upstream names it: `deployment-controller`.
    const NAME: &'static str;
    /// As upstream names its work queue in metrics: `deployment`.
    const QUEUE: &'static str;
    /// What its plans count.
    const METRICS: &'static [&'static Metric] = &[];

    /// Which changes concern which keys, and what else is read.
    fn watches(w: &mut Watches);

    /// What to do about a key. Called for one key at a time never twice at once, and only with a world that has
    /// seen what the last plan for the key wrote.
    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan;

    /// Says what is a level and not a count, when the metrics are asked for.
    fn levels(&self, _world: &World, _levels: &mut Levels) {}
}

/// Puts a key into the queue, after a while.
pub(crate) type Enqueue = Arc<dyn Fn(Key, Duration) + Send + Sync>;
type Subscribe = Box<dyn FnOnce(&World, &Enqueue, &Meters) + Send>;
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
        self.on_after(|_, _, _| Duration::ZERO, kind, keys)
    }

    /// [`on`](Self::on), after a while: what happens to a key until then is looked at once.
    pub fn on_after<K: Cached>(
        &mut self,
        delay: fn(&Delta<K>, &Key, &World) -> Duration,
        kind: fn(&World) -> &Informer<K>,
        keys: fn(&Delta<K>, &World) -> Vec<Key>,
    ) -> &mut Self {
        self.reads(kind);
        self.subscriptions.push(Box::new(move |world, enqueue, _| {
            let (seen, enqueue) = (world.clone(), enqueue.clone());
            kind(world).on_change(move |delta| {
                for key in keys(delta, &seen) {
                    let delay = delay(delta, &key, &seen);
                    enqueue(key, delay);
                }
            });
        }));
        self
    }

    /// Counts changes of a kind that is watched anyway. `sample` runs on the informer's task.
    pub fn count<K: Cached>(
        &mut self,
        kind: fn(&World) -> &Informer<K>,
        sample: fn(&Delta<K>) -> Option<Sample>,
    ) -> &mut Self {
        self.subscriptions.push(Box::new(move |world, _, meters| {
            let meters = meters.clone();
            kind(world).on_change(move |delta| sample(delta).iter().for_each(|s| meters.record(s)));
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
