//! `ironclad`: Kubernetes in one binary. `ironclad server` is a whole cluster; each component also runs as a
//! process of its own, by its subcommand or when the binary is called by the component's name.

mod cli;
mod command;
mod component;
mod detach;
mod host;
mod notify;
mod paths;
mod signals;

use clap::Parser;
use std::process::ExitCode;

/// A quarter of a write's time went to glibc's malloc (docs/decisions/002-allocator.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Huge pages keep whole 2 MiB of a heap resident whose live objects fill a third of that. A kernel that
    // cannot say no costs memory and nothing else (docs/decisions/002-allocator.md).
    let _ = nix::sys::prctl::set_thp_disable(true);
    let cli = cli::Cli::parse_from(cli::arguments(std::env::args_os()));
    cli::start_logging(&cli.log);
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // one line: what is wrong and, where the error knows, what to do
            eprintln!("ironclad: {}", format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}
