//! One component a module: its flags, under upstream's names, and how it is started, in a process of its own
//! or within `ironclad server`.

pub mod apiserver;
pub mod controller_manager;
pub mod dns;
pub mod kubelet;
pub mod proxy;
pub mod scheduler;

use crate::signals;
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
