//! `kube-apiserver`: the API server with its embedded store.

use super::{Addresses, block_on};
use crate::paths::DataDir;
use crate::{host, notify};
use anyhow::Context;
use apiserver::ApiServer;
use auth::pki::{Leaf, directory::write_private};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use store::{Embedded, Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub data: DataDir,
    #[command(flatten)]
    pub listen: Listen,
    #[command(flatten)]
    pub addresses: Addresses,
}

/// Where the API server is reached.
#[derive(Clone, Debug, clap::Args)]
pub struct Listen {
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port to listen on, with TLS
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// Address at which nodes and pods reach the server [default: that of the default route]
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Further name or address of the serving certificate; may be given again
    #[arg(long = "tls-san", value_name = "NAME")]
    pub tls_sans: Vec<String>,
    /// Whether requests without credentials are those of system:anonymous, who may do next to nothing
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub anonymous_auth: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    block_on(|shutdown| async move {
        let address = args.listen.address()?;
        let running = start(&args.data, &args.listen, &args.addresses, address, shutdown).await?;
        write_kubeconfigs(&args.data, &running.server, &host::name()?)?;
        tracing::info!(url = %running.server.url(), "the API server is ready");
        notify::ready();
        running.wait().await
    })
}

impl Listen {
    pub fn address(&self) -> anyhow::Result<IpAddr> {
        self.advertise_address.map_or_else(host::address, Ok)
    }
}

/// An API server that serves until its token is cancelled.
pub struct Running {
    pub server: Arc<ApiServer>,
    serving: tokio::task::JoinHandle<()>,
    compacting: tokio::task::JoinHandle<()>,
}

impl Running {
    pub async fn wait(self) -> anyhow::Result<()> {
        let served = self.serving.await.context("serving the API");
        self.compacting.abort();
        served
    }
}

/// Opens the store, starts the server and listens.
pub async fn start(
    data: &DataDir,
    listen: &Listen,
    addresses: &Addresses,
    advertise: IpAddr,
    shutdown: CancellationToken,
) -> anyhow::Result<Running> {
    // the port first: what is wrong with it is wrong before anything is written
    let at = SocketAddr::new(listen.bind_address, listen.secure_port);
    let listener = bind(at).await?;
    let store: Arc<dyn Store> = {
        let directory = data.store();
        let runtime = tokio::runtime::Handle::current();
        let open = tokio::task::spawn_blocking(move || {
            let _entered = runtime.enter();
            Embedded::open(&directory)
        });
        Arc::new(open.await?.map_err(explain_store)?)
    };
    let mut names = listen.tls_sans.clone();
    names.extend(host::name().ok());
    let mut resources = apiserver::resource::Config::default();
    let services = addresses.service_cidr;
    resources.services.cluster_ip_ranges = vec![(IpAddr::V4(services.network()), services.prefix_len())];
    let config = apiserver::Config {
        data_directory: data.path().to_owned(),
        advertise_address: advertise,
        port: listen.secure_port,
        service_ip: addresses.kubernetes().into(),
        names,
        anonymous: listen.anonymous_auth,
        audit: true,
        resources,
    };
    let server = ApiServer::start(config, store.clone()).await?;
    let serve = server.clone();
    let serving = tokio::spawn(async move { serve.serve(listener, shutdown.cancelled_owned()).await });
    let compacting = tokio::spawn(store::compactor::run(store, store::compactor::COMPACTION_INTERVAL));
    Ok(Running { server, serving, compacting })
}

async fn bind(at: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(at).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("{at} is in use by another program: stop it, or choose a port with --secure-port")
        }
        std::io::ErrorKind::AddrNotAvailable => {
            anyhow::anyhow!("{at} is no address of this machine: choose one with --bind-address")
        }
        _ => anyhow::anyhow!("cannot listen on {at}: {error}"),
    })
}

fn explain_store(error: store::StoreError) -> anyhow::Error {
    match error {
        store::StoreError::Locked(path) => anyhow::anyhow!(
            "the data directory is in use by another server ({path} is locked): stop it, or choose another --data-dir"
        ),
        store::StoreError::Corrupt(what) => {
            anyhow::anyhow!("the store is damaged: {what}; restore the data directory from a backup")
        }
        other => anyhow::anyhow!("the store cannot be opened: {other}"),
    }
}

/// Writes the administrator's kubeconfig and one for each component of this machine.
pub fn write_kubeconfigs(data: &DataDir, server: &ApiServer, node: &str) -> anyhow::Result<()> {
    let url = server.url();
    write_private(&data.admin_kubeconfig(), &server.admin_kubeconfig(&url))?;
    let components = [
        ("kube-controller-manager", Leaf::controller_manager()),
        ("kube-scheduler", Leaf::scheduler()),
        ("kubelet", Leaf::node(node)),
        ("kube-proxy", Leaf::proxy()),
        ("dns", Leaf::dns()),
    ];
    let directory = data.kubeconfig("any");
    let directory = directory.parent().expect("a kubeconfig has a directory");
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let identities = server.pki().identities(&components)?;
    for ((name, leaf), identity) in components.iter().zip(&identities) {
        let ca = &server.pki().ca.identity.certificate_pem;
        let text = auth::kubeconfig::render(&url, ca, identity, &leaf.common_name);
        write_private(&data.kubeconfig(name), &text)?;
    }
    Ok(())
}
