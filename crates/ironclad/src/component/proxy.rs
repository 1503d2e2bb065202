//! `kube-proxy`.

use super::{Addresses, block_on};
use crate::paths::DataDir;
use crate::{host, notify};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    addresses: Addresses,
    /// How to reach the API server [default: <data-dir>/kubeconfig/kube-proxy.kubeconfig]
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Name of this node [default: the host name]
    #[arg(long)]
    hostname_override: Option<String>,
    /// Address that answers on node ports [default: that of the default route]
    #[arg(long)]
    node_ip: Option<IpAddr>,
    /// Where /healthz is served
    #[arg(long, default_value = "0.0.0.0:10256")]
    healthz_bind_address: SocketAddr,
    /// Where /metrics is served
    #[arg(long, default_value = "127.0.0.1:10249")]
    metrics_bind_address: SocketAddr,
    /// Remove the proxy's rules and end
    #[arg(long)]
    cleanup: bool,
}

const NAME: &str = "kube-proxy";

pub fn run(args: Args) -> anyhow::Result<()> {
    host::require_root()?;
    block_on(|shutdown| async move {
        if args.cleanup {
            return Ok(proxy::cleanup().await?);
        }
        let path = args.kubeconfig.unwrap_or_else(|| args.data.kubeconfig(NAME));
        let client = client::connect(&path, NAME).await?;
        let node_ip = args.node_ip.map_or_else(host::address, Ok)?;
        let name = args.hostname_override.map_or_else(host::name, Ok)?;
        let config = proxy::Config {
            healthz: Some(args.healthz_bind_address),
            metrics: Some(args.metrics_bind_address),
            ..config(&args.addresses, name, node_ip)
        };
        notify::ready();
        Ok(proxy::run(config, client, shutdown).await?)
    })
}

fn config(addresses: &Addresses, node_name: String, node_ip: IpAddr) -> proxy::Config {
    proxy::Config {
        node_name,
        node_ips: vec![node_ip],
        cluster_cidr: addresses.cluster_cidr.to_string(),
        service_cidr: addresses.service_cidr.to_string(),
        healthz: Some(SocketAddr::from(([0, 0, 0, 0], 10256))),
        metrics: Some(SocketAddr::from(([127, 0, 0, 1], 10249))),
    }
}

/// Within `ironclad server`.
pub async fn serve(
    client: kube::Client,
    addresses: &Addresses,
    node_name: String,
    node_ip: IpAddr,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    Ok(proxy::run(config(addresses, node_name, node_ip), client, shutdown).await?)
}
