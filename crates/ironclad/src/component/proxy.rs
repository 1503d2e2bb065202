//! `kube-proxy`.

use super::{Addresses, Connect, Machine, block_on};
use crate::{host, notify};
use std::net::{IpAddr, SocketAddr};
use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    addresses: Addresses,
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
        let client = args.connect.client(NAME).await?;
        let config = proxy::Config {
            healthz: Some(args.healthz_bind_address),
            metrics: Some(args.metrics_bind_address),
            ..config(&args.addresses, args.machine.name()?, args.machine.address()?)
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
