//! Automation of this repository: `cargo xtask tidy`, `cargo xtask schema`. Development only.

mod schema;
mod tidy;

use clap::Parser;
use std::path::PathBuf;

#[derive(Parser)]
enum Task {
    /// Check the design's invariants: crate order, purity of the cores, file lengths, conventions.
    Tidy,
    /// Distil the API's facts from a Kubernetes source tree into the schema crate's data file.
    Schema {
        /// Root of the Kubernetes source tree.
        #[arg(long)]
        from: PathBuf,
        /// The data file to write.
        #[arg(long, default_value = "crates/schema/data/v1.36.types")]
        out: PathBuf,
        /// The list of kinds for the schema crate's build.
        #[arg(long, default_value = "crates/schema/build/roots.rs")]
        roots: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Tidy => tidy::run(),
        Task::Schema { from, out, roots } => {
            schema::run(&from, &out)?;
            schema::write_roots(&out, &roots)
        }
    }
}
