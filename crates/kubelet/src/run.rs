//! Runs a kubelet: connects its parts and keeps them going until told to stop.

use futures::future::BoxFuture;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::delegated::ApiReviews;
use client::informer::Options;
use client::{Informer, Informers, Recorder};
use cri::{ImageApi, RuntimeApi};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node as ApiNode, Pod, Service};
use kube::Client;
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cgroups::{CgroupError, Cgroups};
use crate::config::Config;
use crate::container_config::Node;
use crate::dns::NodeDns;
use crate::eviction::{self, Pressure};
use crate::housekeeping::ImageGc;
use crate::images::Images;
use crate::metrics::Metrics;
use crate::node::{self, StatusSource};
use crate::node_status::{Settings, Source};
use crate::pods::{Change, Pods, follow};
use crate::pulled::Pulled;
use crate::server::auth::Gate;
use crate::server::listen::TlsError;
use crate::server::stats::Collector;
use crate::server::{self, Server, tls_config};
use crate::shared::{PodCgroups, Shared};
use crate::static_pods;
use crate::tokens::Tokens;
use crate::watched::Watched;

/// Pause before subscribing to the runtime's events again.
const EVENTS_RETRY: Duration = Duration::from_secs(1);
/// How often dead things are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(10);
/// How often the runtime is searched for pods that nobody knows: a sandbox whose creation was broken off
/// may come up behind our back.
const ORPHANS: Duration = Duration::from_secs(60);

/// Why a kubelet does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the container runtime does not answer: {0}")]
    Runtime(#[source] cri::Error),
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error(transparent)]
    Cgroups(#[from] CgroupError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The certificate that the kubelet's server shows, and the authority of its clients; PEM.
#[derive(Clone)]
pub struct Serving {
    pub certificate_pem: String,
    pub key_pem: String,
    pub client_ca_pem: String,
}

/// Runs a node's kubelet with its server until `shutdown`; containers go on running afterwards.
///
/// # Errors
/// What keeps it from starting: no cgroups, no runtime, a port that is taken.
pub fn run(
    config: Config,
    serving: Serving,
    runtime: cri::Runtime,
    client: Client,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), Error>> {
    // boxed: its code is made here, once, and not again in the crate that polls it
    Box::pin(until_shutdown(config, serving, runtime, client, shutdown))
}

async fn until_shutdown(
    config: Config,
    serving: Serving,
    runtime: cri::Runtime,
    client: Client,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut cgroups = Cgroups::detect()?;
    cgroups.pod_pids_limit = config.pod_pids_limit;
    let facts = node_facts(&config);
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpu_millis = i64::try_from(cpus).unwrap_or(1) * 1000;
    cgroups
        .ensure_node(cpu_millis, facts.memory_bytes)
        .map_err(|source| Error::Io { path: "cgroup kubepods".into(), source })?;
    let tls = Arc::new(tls_config(&serving.certificate_pem, &serving.key_pem, &serving.client_ca_pem)?);
    let listener = listen(config.port).await?;
    let runtime: Arc<cri::Runtime> = Arc::new(runtime);
    let parts = Parts {
        runtime: runtime.clone(),
        images: runtime.clone(),
        cgroups: Arc::new(cgroups.clone()),
        register_node: true,
    };
    let kubelet = Kubelet::new(config.clone(), client.clone(), parts).await?;
    let collector = Arc::new(Collector::new(cgroups, runtime.clone(), runtime.clone(), &config));
    let eviction = eviction::Manager {
        shared: kubelet.shared.clone(),
        pods: kubelet.pods.clone(),
        images: runtime.clone(),
        collector: collector.clone(),
    };
    let evicting = tokio::spawn(eviction.run(shutdown.clone()));
    let mut metrics = Registry::default();
    kubelet.shared.metrics.register(&mut metrics);
    let server = Server {
        pods: kubelet.pods.clone(),
        runtime: runtime.clone(),
        gate: Gate::new(Arc::new(ApiReviews { client }), &config.node_name),
        collector: Some(collector.clone()),
        metrics: Arc::new(metrics),
        log_dir: "/var/log".into(),
        configuration: configuration(&config),
    };
    let (_keep, certificates) = tokio::sync::watch::channel(tls);
    let served = tokio::spawn(server::serve(Arc::new(server), listener, certificates, shutdown.clone()));
    let result = kubelet.run(shutdown).await;
    served.abort();
    evicting.abort();
    result
}

/// Listens on every address, of both families where the kernel has both.
async fn listen(port: u16) -> Result<TcpListener, Error> {
    if let Ok(listener) = TcpListener::bind(("::", port)).await {
        return Ok(listener);
    }
    let address = format!("0.0.0.0:{port}");
    TcpListener::bind(&address).await.map_err(|source| Error::Io { path: address, source })
}

/// What `/configz` shows, under upstream's names.
fn configuration(config: &Config) -> serde_json::Value {
    serde_json::json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "port": config.port,
        "staticPodPath": config.manifests_dir,
        "podLogsDir": config.pod_logs_dir,
        "clusterDNS": config.cluster_dns,
        "clusterDomain": config.cluster_domain,
        "resolvConf": config.resolv_conf,
        "maxPods": config.max_pods,
        "nodeStatusReportFrequency": format!("{}s", config.node_status_report_frequency.as_secs()),
        "nodeLeaseDurationSeconds": config.lease_duration.as_secs(),
        "imageGCHighThresholdPercent": config.image_gc_high_percent,
        "imageGCLowThresholdPercent": config.image_gc_low_percent,
        "containerLogMaxSize": crate::quantity::bytes_text(i64::try_from(config.container_log_max_bytes).unwrap_or(i64::MAX)),
        "containerLogMaxFiles": config.container_log_max_files,
        "containerLogMonitorInterval": format!("{}s", config.container_log_monitor_interval.as_secs()),
        "evictionPressureTransitionPeriod": format!("{}s", config.eviction_transition.as_secs()),
        "evictionMaxPodGracePeriod": config.eviction_max_grace_seconds,
        "serializeImagePulls": config.parallel_image_pulls == Some(1),
        "maxParallelImagePulls": config.parallel_image_pulls,
        "allowedUnsafeSysctls": config.allowed_unsafe_sysctls,
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}},
        "authorization": {"mode": "Webhook"},
    })
}

/// What a kubelet works with.
pub struct Parts {
    pub runtime: Arc<dyn RuntimeApi>,
    pub images: Arc<dyn ImageApi>,
    pub cgroups: Arc<dyn PodCgroups>,
    /// Whether the node is registered and reported.
    pub register_node: bool,
}

/// A kubelet that is connected and knows its node, before it runs.
pub struct Kubelet {
    pub shared: Arc<Shared>,
    pub pods: Arc<Pods>,
    informers: Informers,
    status: Option<Arc<dyn StatusSource>>,
    images: Arc<dyn ImageApi>,
}

impl Kubelet {
    /// Connects the parts. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A runtime that does not answer, a data directory that cannot be made.
    pub async fn new(config: Config, client: Client, parts: Parts) -> Result<Self, Error> {
        let version = parts.runtime.version().await.map_err(Error::Runtime)?;
        let pods_dir = config.data_dir.join("pods");
        std::fs::create_dir_all(&pods_dir)
            .map_err(|source| Error::Io { path: pods_dir.display().to_string(), source })?;
        let informers = Informers::new(client.clone());
        let pods = Arc::new(Pods::default());
        // the pods know what is shared, not the other way round
        let woken = Arc::downgrade(&pods);
        let pressure = Arc::new(Pressure::default());
        let status = parts.register_node.then(|| {
            let source: Arc<dyn StatusSource> = Arc::new(Source {
                runtime: parts.runtime.clone(),
                images: parts.images.clone(),
                kubelet_dir: config.data_dir.clone(),
                pressure: pressure.clone(),
                settings: Settings {
                    hostname: config.node_name.clone(),
                    internal_ips: config.node_ips.clone(),
                    max_pods: config.max_pods,
                    port: config.port,
                    kubelet_version: config.version.clone(),
                    eviction: config.eviction.clone(),
                    reserved_cpu_millis: config.reserved_cpu_millis,
                    reserved_memory_bytes: config.reserved_memory_bytes,
                    errors: Vec::new(),
                },
            });
            source
        });
        let pulled = Pulled::open(config.data_dir.join("pulled-images.json"), config.image_verification);
        let recorder = Recorder::new(client.clone(), "kubelet", &config.node_name);
        let shared = Arc::new(Shared {
            node: node_facts(&config),
            images: Images::new(parts.images.clone(), pulled, config.parallel_image_pulls),
            watched: Watched::new(
                client.clone(),
                Arc::new(move |uid| woken.upgrade().into_iter().for_each(|pods| pods.wake_objects(uid))),
            ),
            tokens: Tokens::new(client.clone()),
            services: informers.of::<Service>(Options::all()),
            recorder,
            client,
            runtime: parts.runtime,
            runtime_name: version.runtime_name,
            api_node: RwLock::new(None),
            cgroups: parts.cgroups,
            metrics: Metrics::default(),
            image_gc: ImageGc::default(),
            pressure,
            node_changed: tokio::sync::Notify::new(),
            started: std::time::Instant::now(),
            stop: CancellationToken::new(),
            config,
        });
        pods.attach(shared.clone());
        Ok(Self { shared, pods, informers, status, images: parts.images })
    }

    /// Registers the node and runs its pods until `shutdown`. Containers go on running afterwards.
    ///
    /// # Errors
    /// None at present: what fails is tried again.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let _end = self.shared.stop.clone().drop_guard();
        let config = self.shared.config.clone();
        let fields = format!("spec.nodeName={}", config.node_name);
        let pods = self.informers.of::<Pod>(Options::all().fields(fields));
        let mut changes = follow(&pods);
        tokio::spawn(follow_runtime(self.shared.clone(), self.pods.clone(), shutdown.clone()));
        let mut tasks = tokio::task::JoinSet::new();
        let mut _node = None;
        if let Some(source) = &self.status {
            let status = source.report(&Default::default(), client::now()).await.status;
            let wanted = node::initial_node(&config, status);
            let Some(registered) = node::register(&self.shared.client, &wanted, &shutdown).await else {
                return Ok(());
            };
            let uid = registered.metadata.uid.clone().unwrap_or_default();
            *self.shared.api_node.write() = Some(Arc::new(registered));
            tasks.spawn(node::keep_status(self.shared.clone(), source.clone(), shutdown.clone()));
            tasks.spawn(node::keep_lease(self.shared.client.clone(), config.clone(), uid, shutdown.clone()));
            _node = Some(self.follow_node(&config.node_name));
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = pods.synced() => {}
        }
        // the pods of the API first: what the runtime has beside them is orphaned
        while let Ok(change) = changes.try_recv() {
            self.take(change);
        }
        if let Some(dir) = config.manifests_dir.clone() {
            static_pods::start(&dir, &self.shared, &self.pods);
            let (shared, actors, api) = (self.shared.clone(), self.pods.clone(), pods.clone());
            tasks.spawn(static_pods::run(dir, shared, actors, api, shutdown.clone()));
        }
        self.end_orphans().await;
        self.remove_orphaned_dirs().await;
        // compressing a log takes its time: pods do not wait for it
        let (shared, actors) = (self.shared.clone(), self.pods.clone());
        tasks.spawn(async move {
            let mut logs = tokio::time::interval(shared.config.container_log_monitor_interval);
            logs.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                logs.tick().await;
                crate::housekeeping::rotate_logs(&shared, &actors).await;
            }
        });
        let mut orphans = tokio::time::interval(ORPHANS);
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(change) = changes.recv() => self.take(change),
                _ = orphans.tick() => self.end_orphans().await,
                _ = housekeeping.tick() => {
                    let known: std::collections::HashSet<_> =
                        pods.list().iter().filter_map(|p| p.metadata.uid.clone()).collect();
                    self.pods.sweep(|uid| known.contains(uid));
                    crate::housekeeping::run(&self.shared, &self.pods, &*self.images).await;
                }
            }
        }
    }

    fn take(&self, change: Change) {
        match change {
            Change::Update(pod) => self.pods.update(pod),
            Change::Gone(pod) => self.pods.gone(&pod),
        }
    }

    /// Labels and taints of the node are read where pods are admitted.
    fn follow_node(&self, name: &str) -> Informer<ApiNode> {
        let node = self.informers.of::<ApiNode>(Options::all().fields(format!("metadata.name={name}")));
        let shared = self.shared.clone();
        node.on_change(move |delta| {
            *shared.api_node.write() = Some(delta.object().clone());
        });
        node
    }

    async fn end_orphans(&self) {
        if let Err(e) = self.pods.end_orphans(&*self.shared.runtime).await {
            tracing::warn!(error = %e, "pods that are left over in the runtime cannot be listed");
        }
    }

    /// Directories of pods that are gone, for instance since a crash.
    async fn remove_orphaned_dirs(&self) {
        let root = self.shared.config.data_dir.join("pods");
        let Ok(entries) = std::fs::read_dir(&root) else { return };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if self.pods.get(&name).is_some() {
                continue;
            }
            let path = entry.path();
            let done = crate::execute::blocking(move || crate::volumes::undo_pod(&path)).await;
            match done {
                Ok(()) => tracing::info!(uid = name, "the directory of a pod that is gone was removed"),
                Err(e) => {
                    tracing::warn!(uid = name, error = %e, "an orphaned pod directory cannot be removed")
                }
            }
        }
    }
}

/// Wakes the pods that the runtime's events are about.
async fn follow_runtime(shared: Arc<Shared>, pods: Arc<Pods>, shutdown: CancellationToken) {
    loop {
        match shared.runtime.events().await {
            Ok(mut events) => {
                // what happened before the subscription
                pods.wake_all();
                loop {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        event = events.next() => match event {
                            Some(Ok(event)) => pods.wake_runtime(event.pod_uid.as_deref(), &event.container_id),
                            Some(Err(e)) => {
                                tracing::warn!(error = %e, "the runtime's events broke off");
                                break;
                            }
                            None => break,
                        }
                    }
                }
            }
            // without events the pods are looked at in turn
            Err(e) => tracing::warn!(error = %e, "the runtime gives no events"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVENTS_RETRY) => pods.wake_all(),
        }
    }
}

/// What this machine contributes to containers' configuration.
fn node_facts(config: &Config) -> Node {
    let memory_bytes = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("MemTotal:"))?.to_owned();
            line.split_whitespace().nth(1)?.parse::<i64>().ok()
        })
        .map_or(0, |kib| kib * 1024);
    let hugepage_sizes = std::fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|e| page_size(e.file_name().to_str()?))
        .collect();
    let cpus = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().filter_map(Result::ok);
    let throttles = cpus.map(|e| e.path().join("thermal_throttle")).filter(|p| p.exists());
    Node {
        memory_bytes,
        cgroup_v2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        swap_accounted: [
            "/sys/fs/cgroup/init.scope/memory.swap.max",
            "/sys/fs/cgroup/kubepods/memory.swap.max",
            "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes",
        ]
        .iter()
        .any(|file| Path::new(file).exists()),
        hugepage_sizes,
        extra_masked_paths: throttles.map(|p| p.to_string_lossy().into_owned()).collect(),
        kernel_version: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default(),
        seccomp_root: config.data_dir.join("seccomp"),
        pod_logs_dir: config.pod_logs_dir.clone(),
        dns: NodeDns {
            cluster_dns: config.cluster_dns.clone(),
            cluster_domain: config.cluster_domain.clone(),
            resolv_conf: std::fs::read_to_string(&config.resolv_conf).unwrap_or_default(),
        },
    }
}

/// `hugepages-2048kB` as `2MB`.
fn page_size(name: &str) -> Option<String> {
    let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kib {
        k if k % (1 << 20) == 0 => format!("{}GB", k >> 20),
        k if k % (1 << 10) == 0 => format!("{}MB", k >> 10),
        k => format!("{k}KB"),
    })
}
