//! The cluster's DNS server.

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
    #[command(flatten)]
    dns: Dns,
    /// How to reach the API server [default: <data-dir>/kubeconfig/dns.kubeconfig]
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Name of this node [default: the host name]
    #[arg(long)]
    hostname_override: Option<String>,
    /// Address of this node, to serve at [default: that of the default route]
    #[arg(long)]
    node_ip: Option<IpAddr>,
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
        let path = args.kubeconfig.unwrap_or_else(|| args.data.kubeconfig(NAME));
        let client = client::connect(&path, NAME).await?;
        let node_ip = args.node_ip.map_or_else(host::address, Ok)?;
        let node = args.hostname_override.map_or_else(host::name, Ok)?;
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
