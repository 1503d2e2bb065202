//! One component a module: its flags, under upstream's names, and how it is started, in a process of its own
//! or within `ironclad server`.

pub mod apiserver;
pub mod controller_manager;
pub mod dns;
pub mod kubelet;
mod process;
pub mod proxy;
pub mod scheduler;
mod secure;

use crate::paths::DataDir;
use crate::{host, signals};
use std::net::IpAddr;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Runs a component to its end on a runtime of its own.
pub fn block_on<F: Future<Output = anyhow::Result<()>>>(
    main: impl FnOnce(CancellationToken) -> F,
) -> anyhow::Result<()> {
    // a second start in one process finds the provider installed; that is what is wanted
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async { main(signals::shutdown()?).await });
    // what blocks in the background (a read of a log, a watch of a file) does not hold the end up
    runtime.shutdown_background();
    done
}

/// How a component in a process of its own reaches the API server.
#[derive(Debug, clap::Args)]
pub struct Connect {
    #[command(flatten)]
    pub data: DataDir,
    /// How to reach the API server [default: <data-dir>/kubeconfig/<component>.kubeconfig]
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

impl Connect {
    pub fn kubeconfig(&self, component: &str) -> PathBuf {
        self.kubeconfig.clone().unwrap_or_else(|| self.data.kubeconfig(component))
    }

    pub async fn client(&self, component: &'static str) -> anyhow::Result<kube::Client> {
        Ok(client::connect(&self.kubeconfig(component), component).await?)
    }
}

/// The machine a component runs on, as the cluster knows it.
#[derive(Clone, Debug, clap::Args)]
pub struct Machine {
    /// Name of this node [default: the host name]
    #[arg(long, visible_alias = "hostname-override")]
    node_name: Option<String>,
    /// Address of this node [default: that of the default route]
    #[arg(long)]
    node_ip: Option<IpAddr>,
}

impl Machine {
    pub fn name(&self) -> anyhow::Result<String> {
        self.node_name.clone().map_or_else(host::name, Ok)
    }

    pub fn address(&self) -> anyhow::Result<IpAddr> {
        self.node_ip.map_or_else(host::address, Ok)
    }
}

/// The addresses of a cluster.
#[derive(Clone, Debug, clap::Args)]
pub struct Addresses {
    /// Addresses of pods, over all nodes
    #[arg(long, default_value = "10.244.0.0/16")]
    pub cluster_cidr: ipnet::Ipv4Net,
    /// Addresses of services
    #[arg(long, default_value = "10.96.0.0/12", alias = "service-cluster-ip-range")]
    pub service_cidr: ipnet::Ipv4Net,
    /// Address of the cluster's DNS service
    #[arg(long, default_value = "10.96.0.10")]
    pub cluster_dns: std::net::Ipv4Addr,
    /// Domain of the cluster's names
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
}

impl Addresses {
    /// The address of the `kubernetes` service: the first of the range.
    pub fn kubernetes(&self) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::from(u32::from(self.service_cidr.network()) + 1)
    }
}
