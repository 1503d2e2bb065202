//! `kubelet`, with the node's pod network: both act as the node.

use super::{Addresses, Connect, Machine, block_on};
use crate::command::server::Parts;
use crate::paths::DataDir;
use crate::{host, notify};
use anyhow::Context;
use auth::Pki;
use auth::pki::{Identity, Leaf};
use cri::containerd::{Options, Supervisor};
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    addresses: Addresses,
    #[command(flatten)]
    node: Node,
}

/// What a node is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Node {
    #[command(flatten)]
    pub machine: Machine,
    /// Socket of a container runtime (CRI v1): unix:///run/containerd/containerd.sock [default: a containerd
    /// of its own, started with a configuration below the data directory]
    #[arg(long)]
    pub container_runtime_endpoint: Option<String>,
    /// Pods this node takes at most
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
    /// Where CNI configuration is written for a runtime given by --container-runtime-endpoint
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Directory of static pods
    #[arg(long)]
    pub pod_manifest_path: Option<PathBuf>,
    /// Settings in upstream's form, a KubeletConfiguration of kubelet.config.k8s.io/v1beta1; what is given here goes
    /// before the flags
    #[arg(long = "kubelet-config", alias = "config", value_name = "FILE")]
    pub kubelet_config: Option<PathBuf>,
    /// Where containers' logs are written
    #[arg(long, default_value = "/var/log/pods")]
    pub pod_logs_dir: PathBuf,
}

const NAME: &str = "kubelet";

/// What runs the containers.
pub enum Containers {
    /// A containerd that we started, or found running from an earlier time.
    Ours(Supervisor),
    /// Somebody else's runtime, at this endpoint.
    Theirs { runtime: cri::Runtime, cni_conf_dir: PathBuf },
}

impl Containers {
    fn runtime(&self) -> cri::Runtime {
        match self {
            Self::Ours(containerd) => containerd.runtime(),
            Self::Theirs { runtime, .. } => runtime.clone(),
        }
    }

    /// What mounts images as volumes: containerd's own tool, for the containerd that is ours.
    fn importer(&self) -> Option<cri::image::Importer> {
        match self {
            Self::Ours(containerd) => Some(containerd.importer()),
            Self::Theirs { .. } => None,
        }
    }

    fn cni_conf_dir(&self) -> PathBuf {
        match self {
            Self::Ours(containerd) => containerd.cni_conf_dir().to_owned(),
            Self::Theirs { cni_conf_dir, .. } => cni_conf_dir.clone(),
        }
    }
}

/// The runtime of this node, started where it is ours.
pub async fn runtime(data: DataDir, node: Node) -> anyhow::Result<Containers> {
    let Some(endpoint) = &node.container_runtime_endpoint else {
        return Ok(Containers::Ours(Supervisor::start(&Options::new(data.path())).await?));
    };
    let runtime =
        cri::Runtime::new(endpoint).with_context(|| format!("--container-runtime-endpoint {endpoint}"))?;
    Ok(Containers::Theirs { runtime, cni_conf_dir: node.cni_conf_dir.clone() })
}

/// The certificate the kubelet shows to the API server.
pub fn serving_identity(pki: &Pki, node: &str, address: IpAddr) -> anyhow::Result<Identity> {
    let leaf = Leaf::kubelet_server(node, vec![node.to_owned(), address.to_string()]);
    Ok(pki.identities(&[("kubelet", leaf)])?.remove(0))
}

/// What a kubelet is started with.
pub struct Setup<'a> {
    pub data: &'a DataDir,
    pub node: &'a Node,
    pub addresses: &'a Addresses,
    pub runtime: &'a Containers,
    pub client: kube::Client,
    pub identity: Identity,
    pub client_ca_pem: String,
}

/// Starts the kubelet and the node's pod network.
pub fn start(parts: &mut Parts, setup: Setup<'_>) -> anyhow::Result<()> {
    let name = setup.node.machine.name()?;
    let network = network::Config {
        node_name: name.clone(),
        cni_conf_dir: setup.runtime.cni_conf_dir(),
        leases_dir: setup.data.cni_leases(),
        cluster_cidr: setup.addresses.cluster_cidr.to_string(),
    };
    let (client, token) = (setup.client.clone(), parts.shutdown.clone());
    parts.start("network", async move { Ok(network::run(network, client, token).await?) });

    let mut config = kubelet::Config {
        node_name: name,
        node_ips: vec![setup.node.machine.address()?.to_string()],
        data_dir: setup.data.kubelet(),
        manifests_dir: setup.node.pod_manifest_path.clone(),
        pod_logs_dir: setup.node.pod_logs_dir.clone(),
        cluster_dns: vec![setup.addresses.cluster_dns.to_string()],
        cluster_domain: setup.addresses.cluster_domain.clone(),
        max_pods: setup.node.max_pods,
        image_mounts: setup.runtime.importer(),
        ..kubelet::Config::default()
    };
    if let Some(path) = &setup.node.kubelet_config {
        let name = || format!("--kubelet-config {}", path.display());
        let text = std::fs::read_to_string(path).with_context(name)?;
        for field in kubelet::configuration::apply(&mut config, &text).with_context(name)? {
            tracing::info!(field, "a field of the kubelet's configuration has no effect");
        }
    }
    host::require_free(config.port, "the kubelet")?;
    let tls = kubelet::Serving {
        certificate_pem: setup.identity.certificate_pem,
        key_pem: setup.identity.key_pem,
        client_ca_pem: setup.client_ca_pem,
    };
    let (client, runtime, token) = (setup.client, setup.runtime.runtime(), parts.shutdown.clone());
    parts.start(NAME, async move { Ok(kubelet::run(config, tls, runtime, client, token).await?) });
    Ok(())
}

pub fn run(args: Args) -> anyhow::Result<()> {
    host::require_root()?;
    block_on(|shutdown| async move {
        let client = args.connect.client(NAME).await?;
        let (data, machine) = (&args.connect.data, &args.node.machine);
        // a node's own serving certificate comes from the cluster's authority, which stands beside the API server
        let pki = Pki::open(&data.pki(), client::now())?;
        let identity = serving_identity(&pki, &machine.name()?, machine.address()?)?;
        let runtime = runtime(data.clone(), args.node.clone()).await?;
        let mut parts = Parts::new(shutdown);
        start(
            &mut parts,
            Setup {
                data,
                node: &args.node,
                addresses: &args.addresses,
                runtime: &runtime,
                client,
                identity,
                client_ca_pem: pki.ca.identity.certificate_pem.clone(),
            },
        )?;
        notify::ready();
        parts.wait().await
    })
}
