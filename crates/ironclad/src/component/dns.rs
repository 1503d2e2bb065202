//! The cluster's DNS server.

use super::{Addresses, Connect, Machine, block_on};
use crate::notify;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    addresses: Addresses,
    #[command(flatten)]
    dns: Dns,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Dns {
    /// Port of the DNS server on this node; pods reach it at the DNS service's address
    #[arg(long, default_value_t = 10053)]
    dns_port: u16,
    /// Its name servers answer for names outside the cluster
    #[arg(long, default_value = "/etc/resolv.conf")]
    upstream_resolv_conf: PathBuf,
}

const NAME: &str = "dns";

pub fn run(args: Args) -> anyhow::Result<()> {
    block_on(|shutdown| async move {
        let client = args.connect.client(NAME).await?;
        let (node, node_ip) = (args.machine.name()?, args.machine.address()?);
        notify::ready();
        serve(client, &args.dns, &args.addresses, node, node_ip, shutdown).await
    })
}

pub async fn serve(
    client: kube::Client,
    dns: &Dns,
    addresses: &Addresses,
    node: String,
    node_ip: IpAddr,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = dns::Config {
        listen: vec![SocketAddr::new(node_ip, dns.dns_port)],
        domain: addresses.cluster_domain.clone(),
        resolv_conf: dns.upstream_resolv_conf.clone(),
        own: vec![node_ip, addresses.cluster_dns.into()],
        registration: dns::Registration {
            service_ip: addresses.cluster_dns,
            node,
            node_ip,
            port: dns.dns_port,
        },
    };
    Ok(dns::run(config, client, shutdown).await?)
}
