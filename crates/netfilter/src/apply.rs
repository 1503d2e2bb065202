//! Runs transactions through `nft -f -` and knows what the kernel holds.

use crate::diff::Owners;
use crate::model::{Fragment, Script, Table};
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("nft is not installed (Debian: apt-get install nftables)")]
    Missing,
    #[error("could not run nft: {0}")]
    Run(#[from] std::io::Error),
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// Owns one table of the kernel: the first update replaces the table as a whole, later ones change what
/// changed; after a failure the next update starts from the whole again.
#[derive(Debug)]
pub struct Applier {
    table: Table,
    owners: Owners,
    /// The kernel holds `owners`.
    in_step: bool,
}

impl Applier {
    pub fn new(table: Table) -> Self {
        Self { table, owners: Owners::default(), in_step: false }
    }

    /// Applies changes of owners (None removes one), atomically. Says whether the kernel was touched.
    pub async fn update(&mut self, changes: Vec<(String, Option<Fragment>)>) -> Result<bool, NftError> {
        let step = self.owners.update(&self.table, changes);
        let script = if self.in_step { step } else { self.owners.create(&self.table) };
        if script.is_empty() {
            return Ok(false);
        }
        self.in_step = false;
        run(&script).await?;
        self.in_step = true;
        Ok(true)
    }

    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Removes the table, if it is there.
    pub async fn remove(&mut self) -> Result<(), NftError> {
        self.in_step = false;
        remove_table(&self.table).await
    }
}

async fn remove_table(table: &Table) -> Result<(), NftError> {
    let mut script = Script::default();
    script.line(format_args!("add table {} {}", table.family, table.name));
    script.line(format_args!("delete table {} {}", table.family, table.name));
    run(&script).await
}

async fn run(script: &Script) -> Result<(), NftError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| if e.kind() == std::io::ErrorKind::NotFound { NftError::Missing } else { e.into() })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_str().as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(NftError::Refused(stderr.lines().next().unwrap_or("no reason given").to_owned()))
}
