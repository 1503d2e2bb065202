//! `kube-scheduler`.

use super::{Connect, block_on};
use crate::{host, notify};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connect: Connect,
    /// Act only while holding the lease kube-system/kube-scheduler
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
}

const NAME: &str = "kube-scheduler";

pub fn run(args: Args) -> anyhow::Result<()> {
    block_on(|shutdown| async move {
        let client = args.connect.client(NAME).await?;
        let identity = format!("{}_{}", host::name()?, std::process::id());
        let leader_election = args.leader_elect.then(|| client::leader::Config::new(NAME, identity));
        let config = scheduler::Config { leader_election, ..scheduler::Config::default() };
        notify::ready();
        scheduler::run(client, config, shutdown).await;
        Ok(())
    })
}
