//! `kube-scheduler`.

use super::{Connect, block_on, secure};
use crate::paths::DataDir;
use crate::{host, notify};
use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    port: secure::Port,
    /// Act only while holding the lease kube-system/kube-scheduler
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
}

const NAME: &str = "kube-scheduler";
/// Upstream's `--secure-port`.
const PORT: u16 = 10259;

pub fn run(args: Args) -> anyhow::Result<()> {
    block_on(|shutdown| async move {
        let client = args.connect.client(NAME).await?;
        let identity = format!("{}_{}", host::name()?, std::process::id());
        let leader_election = args.leader_elect.then(|| client::leader::Config::new(NAME, identity));
        let config = scheduler::Config { leader_election, ..scheduler::Config::default() };
        let port = args.port.open(NAME, PORT, &args.connect.data, &client).await?;
        notify::ready();
        both(client, config, port, shutdown).await;
        Ok(())
    })
}

/// Within `ironclad server`: alone, so without an election.
pub async fn serve(client: kube::Client, data: &DataDir, shutdown: CancellationToken) -> anyhow::Result<()> {
    let port = secure::Port::open_local(NAME, PORT, data, &client).await;
    both(client, scheduler::Config::default(), port, shutdown).await;
    Ok(())
}

/// The scheduler, and its port.
async fn both(
    client: kube::Client,
    config: scheduler::Config,
    port: Option<secure::Secure>,
    shutdown: CancellationToken,
) {
    let metrics = config.metrics.clone();
    let component = scheduler::run(client, config, shutdown.clone());
    secure::beside(component, port, move || metrics.render(), shutdown).await;
}
