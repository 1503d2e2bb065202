//! The shell: watches services and their endpoints, renders what changed, applies it, cleans up after UDP.

use crate::health::{self, Health};
use crate::metrics::Metrics;
use crate::service::{Place, Protocol, ServicePort, ports};
use crate::{conntrack, rules};
use client::{Client, Informer, Informers, Key, Options};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use meta::labels::{SERVICE_NAME, ZONE};
use netfilter::{Applier, Fragment, NftError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    /// Addresses that answer on node ports.
    pub node_ips: Vec<IpAddr>,
    /// The cluster's pod addresses, as a CIDR.
    pub cluster_cidr: String,
    /// The service addresses, as a CIDR.
    pub service_cidr: String,
    /// `/healthz`; upstream: 0.0.0.0:10256.
    pub healthz: Option<SocketAddr>,
    /// `/metrics`; upstream: 127.0.0.1:10249.
    pub metrics: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error(transparent)]
    Nft(#[from] NftError),
}

/// Wait after a failed application; doubled each time up to the maximum.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Index of EndpointSlices by `namespace/service`.
const BY_SERVICE: &str = "service";

/// Keys of services whose rules may be out of date.
#[derive(Default)]
struct Dirty {
    keys: Mutex<HashSet<Key>>,
    wake: Notify,
}

impl Dirty {
    fn add(&self, key: Key) {
        self.keys.lock().insert(key);
        self.wake.notify_one();
    }
}

fn zone(node: &Node) -> &str {
    let labels = node.metadata.labels.as_ref();
    labels.and_then(|l| l.get(ZONE)).map_or("", String::as_str)
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.as_deref()?, name))
}

/// Serves until shutdown, leaving the rules in place: traffic goes on while the proxy is away.
pub fn run(
    config: Config,
    client: Client,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), ProxyError>> {
    // boxed: its code is made here, once, and not again in the crate that polls it
    Box::pin(until_shutdown(config, client, shutdown))
}

async fn until_shutdown(
    config: Config,
    client: Client,
    shutdown: CancellationToken,
) -> Result<(), ProxyError> {
    let informers = Informers::new(client);
    let services = informers.of::<Service>(Options::all());
    // the label's absence on headless services means that another component answers for them
    let slices = informers.of::<EndpointSlice>(
        Options::all()
            .labels("!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name")
            .index(BY_SERVICE, |s| service_of(s).map(|k| k.to_string()).into_iter().collect()),
    );
    let dirty = Arc::new(Dirty::default());
    let mark = dirty.clone();
    services.on_change(move |d| {
        if let Some(s) = d.new.as_ref().or(d.old.as_ref()) {
            mark.add(Key::of(&**s));
        }
    });
    let mark = dirty.clone();
    slices.on_change(move |d| {
        for s in d.old.iter().chain(&d.new) {
            if let Some(key) = service_of(s) {
                mark.add(key);
            }
        }
    });
    // a node that comes into another zone has other endpoints near it
    let node = informers.of::<Node>(Options::all().fields(format!("metadata.name={}", config.node_name)));
    let (mark, all) = (dirty.clone(), services.clone());
    node.on_change(move |d| {
        if d.old.as_deref().map(zone) != d.new.as_deref().map(zone) {
            all.list().iter().for_each(|s| mark.add(Key::of(&**s)));
        }
    });
    services.synced().await;
    slices.synced().await;
    node.synced().await;

    let health = Arc::new(Health::default());
    let metrics = Arc::new(Metrics::default());
    for address in config.healthz.iter().chain(&config.metrics) {
        tokio::spawn(health::serve(*address, health.clone(), metrics.clone(), shutdown.clone()));
    }
    let node_ips: Vec<Ipv4Addr> = config
        .node_ips
        .iter()
        .filter_map(|ip| match ip {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        })
        .collect();
    let mut proxy = Proxy {
        applier: Applier::new(rules::table(&node_ips, &config.service_cidr)),
        shown: BTreeMap::new(),
        services,
        slices,
        node,
        config,
        metrics,
    };
    let mut retry = RETRY_FIRST;
    loop {
        let since = Instant::now();
        let keys = std::mem::take(&mut *dirty.keys.lock());
        match proxy.sync(&keys, since).await {
            Ok(()) => {
                health.set(true);
                retry = RETRY_FIRST;
                tokio::select! {
                    () = dirty.wake.notified() => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
            }
            Err(error @ NftError::Missing) => return Err(error.into()),
            Err(error) => {
                health.set(false);
                proxy.metrics.failures.inc();
                tracing::warn!(%error, retry_ms = retry.as_millis(), "service rules could not be applied; trying again");
                dirty.keys.lock().extend(keys);
                tokio::select! {
                    () = tokio::time::sleep(retry) => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

struct Proxy {
    config: Config,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    /// The one it is on.
    node: Informer<Node>,
    applier: Applier,
    /// Service ports in the rules, by service.
    shown: BTreeMap<Key, Vec<ServicePort>>,
    metrics: Arc<Metrics>,
}

impl Proxy {
    /// Brings the rules of these services up to date.
    async fn sync(&mut self, keys: &HashSet<Key>, since: Instant) -> Result<(), NftError> {
        let mut changes: Vec<(String, Option<Fragment>)> = Vec::new();
        let mut next: Vec<(Key, Vec<ServicePort>)> = Vec::new();
        let name = self.config.node_name.clone();
        let zone = self.node.find("", &name).map(|n| zone(&n).to_owned()).unwrap_or_default();
        let place = Place { node: name, zone };
        for key in keys {
            let slices = self.slices.by_index(BY_SERVICE, &key.to_string());
            let new = self.services.get(key).map(|s| ports(&s, &slices, &place)).unwrap_or_default();
            let owners: BTreeSet<String> = new.iter().map(rules::owner).collect();
            let gone =
                self.shown.get(key).into_iter().flatten().map(rules::owner).filter(|o| !owners.contains(o));
            changes.extend(gone.map(|o| (o, None)));
            changes.extend(
                new.iter().map(|p| (rules::owner(p), Some(rules::fragment(p, &self.config.cluster_cidr)))),
            );
            next.push((key.clone(), new));
        }
        let started = Instant::now();
        let touched = self.applier.update(changes).await?;
        if touched {
            self.metrics.sync.observe(started.elapsed().as_secs_f64());
            self.metrics.network_programming.observe(since.elapsed().as_secs_f64());
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            self.metrics.last_sync.set(i64::try_from(now).unwrap_or(i64::MAX));
            tracing::debug!(
                services = keys.len(),
                ms = started.elapsed().as_millis(),
                "service rules applied"
            );
        }
        for (key, new) in next {
            let old =
                if new.is_empty() { self.shown.remove(&key) } else { self.shown.insert(key.clone(), new) };
            let new = self.shown.get(&key).map(Vec::as_slice).unwrap_or_default();
            forget_stale_udp(old.as_deref().unwrap_or_default(), new).await;
        }
        let count: usize = self.shown.values().map(Vec::len).sum();
        self.metrics.services.set(i64::try_from(count).unwrap_or(i64::MAX));
        Ok(())
    }
}

async fn forget_stale_udp(old: &[ServicePort], new: &[ServicePort]) {
    for was in old.iter().filter(|p| p.protocol == Protocol::Udp) {
        let now = new.iter().find(|p| p.name == was.name && p.protocol == Protocol::Udp);
        let kept = |ip: Ipv4Addr| now.is_some_and(|p| p.endpoints.iter().any(|e| e.ip == ip));
        for destination in rules::udp_destinations(was) {
            for gone in was.endpoints.iter().filter(|e| !kept(e.ip)) {
                conntrack::forget(destination, Some(gone.ip)).await;
            }
            if was.endpoints.is_empty() && now.is_some_and(|p| !p.endpoints.is_empty()) {
                conntrack::forget(destination, None).await;
            }
        }
    }
}

/// Removes the proxy's table, as `kube-proxy --cleanup`.
pub async fn cleanup() -> Result<(), ProxyError> {
    Ok(Applier::new(rules::table(&[], "0.0.0.0/0")).remove().await?)
}
