//! The shell: waits for the node's addresses, sets the network up, keeps host ports.

use crate::{BRIDGE, cni, rules};
use client::{Client, Informers, Key, Options};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod};
use netfilter::{Applier, NftError};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    /// Where the container runtime looks for CNI configuration.
    pub cni_conf_dir: PathBuf,
    /// Where host-local keeps its leases.
    pub leases_dir: PathBuf,
    /// The cluster's pod addresses, as a CIDR.
    pub cluster_cidr: String,
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Nft(#[from] NftError),
}

/// Wait after rules could not be applied.
const RETRY: Duration = Duration::from_secs(5);

/// What the kernel must do for pods: forward packets, and show bridged ones to the rules, since pods of one
/// bridge reach each other through services too. The second is absent where the bridge filter is not loaded.
const SYSCTLS: [(&str, &str); 2] =
    [("net/ipv4/ip_forward", "1"), ("net/bridge/bridge-nf-call-iptables", "1")];

/// Runs until shutdown; the network stays when it ends.
pub fn run(
    config: Config,
    client: Client,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), NetworkError>> {
    // boxed: its code is made here, once, and not again in the crate that polls it
    Box::pin(until_shutdown(config, client, shutdown))
}

async fn until_shutdown(
    config: Config,
    client: Client,
    shutdown: CancellationToken,
) -> Result<(), NetworkError> {
    let informers = Informers::new(client);
    let changed = Arc::new(Notify::new());
    let node = informers.of::<Node>(Options::all().fields(format!("metadata.name={}", config.node_name)));
    let wake = changed.clone();
    node.on_change(move |_| wake.notify_one());
    let pod_cidr = loop {
        let cidr = node.find("", &config.node_name).and_then(|n| n.spec.as_ref()?.pod_cidr.clone());
        if let Some(cidr) = cidr {
            break cidr;
        }
        tracing::debug!(node = %config.node_name, "the pod network waits for spec.podCIDR of the node");
        tokio::select! {
            () = changed.notified() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    };
    drop(node);
    prepare_kernel().await;
    configure_cni(&config, &pod_cidr).await?;
    tracing::info!(%pod_cidr, bridge = BRIDGE, "pod network configured");

    let dirty: Arc<Mutex<HashSet<Key>>> = Arc::default();
    let pods = informers.of::<Pod>(Options::all().fields(format!("spec.nodeName={}", config.node_name)));
    let (mark, wake) = (dirty.clone(), changed.clone());
    pods.on_change(move |d| {
        let ports = |p: &Option<Arc<Pod>>| p.as_deref().and_then(rules::host_ports);
        if ports(&d.old) != ports(&d.new)
            && let Some(pod) = d.new.as_ref().or(d.old.as_ref())
        {
            mark.lock().insert(Key::of(&**pod));
            wake.notify_one();
        }
    });
    let mut applier = Applier::new(rules::table(&pod_cidr, &config.cluster_cidr));
    loop {
        let keys = std::mem::take(&mut *dirty.lock());
        let changes = keys
            .iter()
            .map(|k| (k.to_string(), pods.get(k).as_deref().and_then(rules::host_ports)))
            .collect();
        let wait = match applier.update(changes).await {
            Ok(_) => None,
            Err(error @ NftError::Missing) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "the pod network's rules could not be applied; trying again");
                dirty.lock().extend(keys);
                Some(RETRY)
            }
        };
        let retry = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed.notified() => {}
            () = retry => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

async fn prepare_kernel() {
    // built in or loaded already on most machines; then this changes nothing
    let _ = tokio::process::Command::new("modprobe")
        .args(["-a", "-q", "br_netfilter"])
        .stderr(std::process::Stdio::null())
        .status()
        .await;
    for (name, value) in SYSCTLS {
        let path = Path::new("/proc/sys").join(name);
        if let Err(error) = tokio::fs::write(&path, value).await {
            tracing::warn!(sysctl = name, %error, "could not be set; services may not answer between pods of this node");
        }
    }
}

async fn configure_cni(config: &Config, pod_cidr: &str) -> Result<(), NetworkError> {
    let conflist = cni::conflist(BRIDGE, pod_cidr, &config.leases_dir);
    let path = config.cni_conf_dir.join(cni::FILE);
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| NetworkError::File { path, source }
    };
    tokio::fs::create_dir_all(&config.cni_conf_dir).await.map_err(at(&config.cni_conf_dir))?;
    // the runtime watches the directory: it must never see half a file
    let half = path.with_extension("tmp");
    tokio::fs::write(&half, format!("{conflist:#}\n")).await.map_err(at(&half))?;
    tokio::fs::rename(&half, &path).await.map_err(at(&path))
}

/// Removes the table and the bridge.
pub async fn cleanup() -> Result<(), NetworkError> {
    let nowhere = Ipv4Addr::UNSPECIFIED.to_string();
    Applier::new(rules::table(&nowhere, &nowhere)).remove().await?;
    let _ = tokio::process::Command::new("ip")
        .args(["link", "delete", BRIDGE])
        .stderr(std::process::Stdio::null())
        .status()
        .await;
    Ok(())
}
