//! `ironclad server`: a whole cluster in one process. Components reach the API server in memory, each as
//! itself: the same authorization as over TLS.

use crate::component::apiserver::Listen;
use crate::component::{self, Addresses, block_on};
use crate::paths::DataDir;
use crate::{detach, host, notify};
use anyhow::Context;
use apiserver::ApiServer;
use auth::User;
use auth::pki::Leaf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    addresses: Addresses,
    #[command(flatten)]
    node: component::kubelet::Node,
    #[command(flatten)]
    dns: component::dns::Dns,
    /// Stop the containers and containerd too when the server ends; by default they go on
    #[arg(long)]
    stop_containers: bool,
    /// Run in the background: return when the API server is ready
    #[arg(long)]
    detach: bool,
}

/// With `--stop-containers` each container has this long to end by itself.
const STOP_GRACE: Duration = Duration::from_secs(10);

pub fn run(args: Args) -> anyhow::Result<()> {
    host::require_root()?;
    if args.detach {
        return detach::run(&args.data);
    }
    block_on(|shutdown| serve(args, shutdown))
}

async fn serve(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let begin = Instant::now();
    let node_name = args.node.machine.name()?;
    let node_ip = args.node.machine.address()?;
    // containerd takes longest: it starts while the API server does
    let runtime = tokio::spawn(component::kubelet::runtime(args.data.clone(), args.node.clone()));
    let advertise = args.listen.advertise_address.unwrap_or(node_ip);
    let started =
        component::apiserver::start(&args.data, &args.listen, &args.addresses, advertise, shutdown.clone());
    let api = match started.await {
        Ok(api) => api,
        Err(error) => {
            if let Ok(Ok(containers)) = runtime.await {
                undo(containers).await;
            }
            return Err(error);
        }
    };
    // only now: whoever has the store open is the server of this data directory
    std::fs::write(args.data.pid_file(), format!("{}\n", std::process::id())).context("the pid file")?;
    let server = api.server.clone();
    component::apiserver::write_kubeconfigs(&args.data, &server, &node_name)?;
    tracing::info!(url = %server.url(), ms = begin.elapsed().as_millis(), "the API server is ready");

    let client = |agent: &'static str, leaf: &Leaf| as_component(&server, agent, leaf);
    let root_ca = server.pki().ca.identity.certificate_pem.clone();
    let mut parts = Parts::new(shutdown.clone());

    let (data, addresses, to_api, token) = (
        args.data.clone(),
        args.addresses.clone(),
        client("kube-controller-manager", &Leaf::controller_manager()),
        shutdown.clone(),
    );
    let as_account = service_accounts(&server);
    server.front().components.runs_here("kube-controller-manager");
    parts.start("kube-controller-manager", async move {
        component::controller_manager::serve(to_api, as_account, &data, &addresses, root_ca, token).await
    });

    let (data, to_api, token) =
        (args.data.clone(), client("kube-scheduler", &Leaf::scheduler()), shutdown.clone());
    server.front().components.runs_here("kube-scheduler");
    parts.start("kube-scheduler", async move { component::scheduler::serve(to_api, &data, token).await });

    let (addresses, name, to_api, token) =
        (args.addresses.clone(), node_name.clone(), client("kube-proxy", &Leaf::proxy()), shutdown.clone());
    parts.start("kube-proxy", async move {
        component::proxy::serve(to_api, &addresses, name, node_ip, token).await
    });

    let (addresses, dns, name, to_api, token) = (
        args.addresses.clone(),
        args.dns.clone(),
        node_name.clone(),
        client("dns", &Leaf::dns()),
        shutdown.clone(),
    );
    parts.start(
        "dns",
        async move { component::dns::serve(to_api, &dns, &addresses, name, node_ip, token).await },
    );

    let supervisor = runtime.await.context("starting containerd")??;
    let to_api = client("kubelet", &Leaf::node(&node_name));
    let started = component::kubelet::start(
        &mut parts,
        component::kubelet::Setup {
            data: &args.data,
            node: &args.node,
            addresses: &args.addresses,
            runtime: &supervisor,
            client: to_api,
            identity: component::kubelet::serving_identity(server.pki(), &node_name, node_ip)?,
            client_ca_pem: server.pki().ca.identity.certificate_pem.clone(),
        },
    );
    if let Err(error) = started {
        undo(supervisor).await;
        return Err(error);
    }
    // not before runtime and kubelet: without them there is no node, and whoever started us must hear why
    notify::ready();

    let ended = parts.wait().await;
    let served = api.wait().await;
    // a file that stays names a process that is gone, which is looked at before it is believed
    let _ = std::fs::remove_file(args.data.pid_file());
    if args.stop_containers
        && let component::kubelet::Containers::Ours(containerd) = supervisor
    {
        containerd.stop_with_containers(STOP_GRACE).await?;
    }
    ended.and(served)
}

/// A start that fails leaves no containerd that did not run before.
async fn undo(containers: component::kubelet::Containers) {
    if let component::kubelet::Containers::Ours(containerd) = containers
        && !containerd.adopted()
        && let Err(error) = containerd.stop().await
    {
        tracing::warn!(%error, "containerd goes on running");
    }
}

/// The in-memory client of a service account in `kube-system`, by its name.
fn service_accounts(server: &Arc<ApiServer>) -> client::identity::ClientFor {
    let server = server.clone();
    Arc::new(move |account| {
        as_component(&server, "kube-controller-manager", &Leaf::service_account("kube-system", account))
    })
}

/// The in-memory client of a component, who is the same as over TLS; `agent` is what the audit log and
/// `managedFields` call it.
fn as_component(server: &ApiServer, agent: &'static str, leaf: &Leaf) -> client::Client {
    let groups: Vec<&str> = leaf.organizations.iter().map(String::as_str).collect();
    let user = User::component(&leaf.common_name, &groups);
    client::in_memory(server.in_memory(user), agent).expect("a plain word is a header value")
}

/// What runs beside the API server.
pub struct Parts {
    running: JoinSet<(&'static str, anyhow::Result<()>)>,
    pub shutdown: CancellationToken,
}

impl Parts {
    pub fn start(
        &mut self,
        name: &'static str,
        part: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.running.spawn(async move { (name, part.await) });
    }

    /// For a component in a process of its own.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { running: JoinSet::new(), shutdown }
    }

    /// Until all have ended. One that fails ends the others: a cluster without it would only seem to work.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        while let Some(ended) = self.running.join_next().await {
            let (name, result) = match ended {
                Ok(ended) => ended,
                Err(panicked) => {
                    tracing::error!(error = %panicked, "a component panicked");
                    outcome = Err(anyhow::Error::new(panicked).context("a component panicked"));
                    self.shutdown.cancel();
                    continue;
                }
            };
            if let Err(error) = result {
                tracing::error!(component = name, error = format!("{error:#}"), "a component ended");
                outcome = Err(error.context(name));
                self.shutdown.cancel();
            } else if !self.shutdown.is_cancelled() {
                outcome = Err(anyhow::anyhow!("{name} ended by itself"));
                self.shutdown.cancel();
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_ends_the_others() {
        let shutdown = CancellationToken::new();
        let mut parts = Parts::new(shutdown.clone());
        parts.start("patient", async move {
            shutdown.cancelled().await;
            Ok(())
        });
        parts.start("broken", async { panic!("a mistake") });
        assert_eq!(parts.wait().await.unwrap_err().to_string(), "a component panicked");
    }
}
