//! `kube-scheduler`.

use super::block_on;
use crate::paths::DataDir;
use crate::{host, notify};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataDir,
    /// How to reach the API server [default: <data-dir>/kubeconfig/kube-scheduler.kubeconfig]
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Act only while holding the lease kube-system/kube-scheduler
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
}

const NAME: &str = "kube-scheduler";

pub fn run(args: Args) -> anyhow::Result<()> {
    block_on(|shutdown| async move {
        let path = args.kubeconfig.unwrap_or_else(|| args.data.kubeconfig(NAME));
        let client = client::connect(&path, NAME).await?;
        let identity = format!("{}_{}", host::name()?, std::process::id());
        let leader_election = args.leader_elect.then(|| client::leader::Config::new(NAME, identity));
        let config = scheduler::Config { leader_election, ..scheduler::Config::default() };
        notify::ready();
        scheduler::run(client, config, shutdown).await;
        Ok(())
    })
}
