//! `kube-controller-manager`: every controller.

use super::{Addresses, Connect, block_on, secure};
use crate::paths::DataDir;
use crate::{host, notify};
use anyhow::Context;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    addresses: Addresses,
    #[command(flatten)]
    port: secure::Port,
    /// Certificate authority published to pods as kube-root-ca.crt [default: <data-dir>/pki/ca.crt]
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
    /// Bits of each node's part of the cluster CIDR
    #[arg(long, default_value_t = NODE_CIDR_MASK_SIZE)]
    node_cidr_mask_size: u8,
    /// Act only while holding the lease kube-system/kube-controller-manager
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
}

const NAME: &str = "kube-controller-manager";
/// Upstream's `--secure-port`.
const PORT: u16 = 10257;
/// Upstream's default for IPv4.
const NODE_CIDR_MASK_SIZE: u8 = 24;

pub fn run(args: Args) -> anyhow::Result<()> {
    block_on(|shutdown| async move {
        let client = args.connect.client(NAME).await?;
        let ca = args.root_ca_file.unwrap_or_else(|| args.connect.data.pki().join("ca.crt"));
        let root_ca_pem = std::fs::read_to_string(&ca).with_context(|| ca.display().to_string())?;
        let config = controllers::Config {
            leader_elect: args.leader_elect,
            identity: format!("{}_{}", host::name()?, std::process::id()),
            ..config(&args.addresses, args.node_cidr_mask_size, root_ca_pem)?
        };
        let config = controllers::Config {
            client_for: Some(
                client::identity::service_accounts(client.clone(), &args.connect.kubeconfig(NAME), NAME)
                    .await?,
            ),
            ..config
        };
        let port = args.port.open(NAME, PORT, &args.connect.data, &client).await?;
        notify::ready();
        both(client, config, port, shutdown).await;
        Ok(())
    })
}

/// The controllers, and their port.
async fn both(
    client: kube::Client,
    config: controllers::Config,
    port: Option<secure::Secure>,
    shutdown: CancellationToken,
) {
    let metrics = config.metrics.clone();
    let component = controllers::run(client, config, shutdown.clone());
    secure::beside(component, port, move || metrics.render(), shutdown).await;
}

fn config(
    addresses: &Addresses,
    node_cidr_mask: u8,
    root_ca_pem: String,
) -> anyhow::Result<controllers::Config> {
    let cidr = addresses.cluster_cidr.to_string();
    Ok(controllers::Config {
        cluster_cidr: Some(cidr.parse().map_err(|e| anyhow::anyhow!("--cluster-cidr {cidr}: {e}"))?),
        node_cidr_mask,
        root_ca_pem: Some(root_ca_pem),
        ..controllers::Config::default()
    })
}

/// Within `ironclad server`: alone, so without an election. Each controller acts as its own service account,
/// `client_for` gives its client.
pub async fn serve(
    client: kube::Client,
    client_for: client::identity::ClientFor,
    data: &DataDir,
    addresses: &Addresses,
    root_ca_pem: String,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = controllers::Config {
        client_for: Some(client_for),
        ..config(addresses, NODE_CIDR_MASK_SIZE, root_ca_pem)?
    };
    let port = secure::Port::open_local(NAME, PORT, data, &client).await;
    both(client, config, port, shutdown).await;
    Ok(())
}
