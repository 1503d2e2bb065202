//! Automation: tidy checks, schema facts, benches; development only.

mod schema;

use clap::Parser;
use std::path::PathBuf;

#[derive(Parser)]
enum Task {
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
        Task::Schema { from, out, roots } => {
            schema::run(&from, &out)?;
            schema::write_roots(&out, &roots)
        }
    }
}
