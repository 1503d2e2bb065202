//! The command line.

use crate::command::{image, reset, server};
use crate::component::{apiserver, controller_manager, dns, kubelet, proxy, scheduler};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::Path;
use tracing_subscriber::EnvFilter;

/// Kubernetes in one binary.
#[derive(Debug, Parser)]
#[command(name = "ironclad", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub log: Log,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
pub struct Log {
    /// What to log: error, warn, info, debug, trace, or by crate (`info,kubelet=debug`)
    #[arg(long, global = true, default_value = "info", env = "IRONCLAD_LOG")]
    log_level: String,
    /// How log lines look
    #[arg(long, global = true, value_enum, default_value = "text")]
    logging_format: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole cluster on this machine
    Server(server::Args),
    /// Run the API server alone, with its embedded store
    KubeApiserver(apiserver::Args),
    /// Run the controllers alone
    KubeControllerManager(controller_manager::Args),
    /// Run the scheduler alone
    KubeScheduler(scheduler::Args),
    /// Run the kubelet and the node's pod network alone
    Kubelet(kubelet::Args),
    /// Run the service proxy alone
    KubeProxy(proxy::Args),
    /// Run the cluster's DNS server alone
    Dns(dns::Args),
    /// Build images from files and import them into the node, without a registry
    Image(image::Args),
    /// Stop the cluster of this machine and remove every trace of it, data included
    Reset(reset::Args),
}

/// The names of components that may be the binary's own.
const COMPONENTS: [&str; 5] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"];

/// A binary called by a component's name runs that component.
pub fn arguments(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let called = arguments.first().and_then(|a| Path::new(a).file_name()?.to_str().map(str::to_owned));
    if let Some(component) = called.filter(|c| COMPONENTS.contains(&c.as_str())) {
        arguments.insert(1, component.into());
    }
    arguments
}

pub fn start_logging(log: &Log) {
    // a DNS server that logs each query at "info" hides everything else
    let level = format!("hickory_server=warn,{}", log.log_level);
    let filter = EnvFilter::try_new(&level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.logging_format {
        Format::Text => lines.with_ansi(false).with_target(true).init(),
        Format::Json => lines.json().init(),
    }
}

impl Cli {
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Server(a) => server::run(a),
            Command::KubeApiserver(a) => apiserver::run(a),
            Command::KubeControllerManager(a) => controller_manager::run(a),
            Command::KubeScheduler(a) => scheduler::run(a),
            Command::Kubelet(a) => kubelet::run(a),
            Command::KubeProxy(a) => proxy::run(a),
            Command::Dns(a) => dns::run(a),
            Command::Image(a) => image::run(a),
            Command::Reset(a) => reset::run(a),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_binary_called_by_a_components_name_is_that_component() {
        let run = |args: &[&str]| arguments(args.iter().map(OsString::from));
        assert_eq!(run(&["/usr/bin/kubelet", "--port", "1"]), ["/usr/bin/kubelet", "kubelet", "--port", "1"]);
        assert_eq!(run(&["./ironclad", "server"]), ["./ironclad", "server"]);
    }
}
