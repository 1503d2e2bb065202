//! `ironclad image`: images from files, without a registry and without a Dockerfile.

use crate::component::block_on;
use crate::paths::DataDir;
use anyhow::{Context, bail};
use cri::containerd::{Options, Supervisor};
use cri::image::ImageBuilder;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Build an image of one layer from files, and import it or write it as an OCI archive
    Build(Box<Build>),
    /// Import an OCI or docker archive (`docker save`, `buildah push oci-archive:`)
    Import(Import),
}

#[derive(Debug, clap::Args)]
struct Build {
    #[command(flatten)]
    data: DataDir,
    /// Name and tag: `ironclad.local/demo:1`
    name: String,
    /// A file for the image, `PATH=SOURCE`; may be given again
    #[arg(long = "file", value_name = "PATH=SOURCE")]
    files: Vec<String>,
    /// A program with the shared libraries it needs from this machine, `PATH=SOURCE`; may be given again
    #[arg(long = "program", value_name = "PATH=SOURCE")]
    programs: Vec<String>,
    /// A symbolic link, `PATH=TARGET`; may be given again
    #[arg(long = "link", value_name = "PATH=TARGET")]
    links: Vec<String>,
    /// A directory with all it holds, `PATH=SOURCE`; may be given again
    #[arg(long = "tree", value_name = "PATH=SOURCE")]
    trees: Vec<String>,
    /// A variable, `NAME=VALUE`; may be given again
    #[arg(long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// A word of the entry point; may be given again
    #[arg(long = "entrypoint", value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// A word of the command; may be given again
    #[arg(long = "cmd", value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// User the image runs as
    #[arg(long)]
    user: Option<String>,
    /// Write the archive here instead of importing it
    #[arg(long, short)]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Import {
    #[command(flatten)]
    data: DataDir,
    archive: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Build(build) => {
            let archive = assemble(&build)?;
            match &build.output {
                Some(path) => std::fs::write(path, archive).with_context(|| path.display().to_string()),
                None => import(&build.data, archive),
            }
        }
        Command::Import(args) => {
            let archive = std::fs::read(&args.archive).with_context(|| args.archive.display().to_string())?;
            import(&args.data, archive)
        }
    }
}

fn pair(text: &str) -> anyhow::Result<(&str, &str)> {
    match text.split_once('=') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok((left, right)),
        _ => bail!("{text:?} has not the form NAME=VALUE"),
    }
}

fn assemble(build: &Build) -> anyhow::Result<Vec<u8>> {
    let mut image = ImageBuilder::new(&build.name)
        .entrypoint(build.entrypoint.iter().map(String::as_str))
        .cmd(build.cmd.iter().map(String::as_str));
    let add = |image: ImageBuilder, path: &str, source: &str| -> anyhow::Result<ImageBuilder> {
        let data = std::fs::read(source).with_context(|| source.to_owned())?;
        let mode = std::fs::metadata(source)?.permissions().mode() & 0o7777;
        Ok(image.file(path, mode, data))
    };
    for file in &build.files {
        let (path, source) = pair(file)?;
        image = add(image, path, source)?;
    }
    let mut libraries = BTreeSet::new();
    for program in &build.programs {
        let (path, source) = pair(program)?;
        image = add(image, path, source)?;
        libraries.extend(libraries_of(source)?);
    }
    for library in &libraries {
        image = add(image, library, library)?;
    }
    for link in &build.links {
        let (path, target) = pair(link)?;
        image = image.link(path, target);
    }
    for tree in &build.trees {
        let (path, source) = pair(tree)?;
        image = image.tree(path, source.as_ref())?;
    }
    for variable in &build.env {
        let (name, value) = pair(variable)?;
        image = image.env(name, value);
    }
    if let Some(user) = &build.user {
        image = image.user(user);
    }
    Ok(image.build()?)
}

/// Paths of the shared libraries a program loads, the loader among them, as ldd(1) tells; none for a static one.
fn libraries_of(program: &str) -> anyhow::Result<Vec<String>> {
    let output =
        std::process::Command::new("ldd").arg(program).output().context("running ldd, of libc-bin")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(missing) = text.lines().find(|l| l.contains("not found")) {
        bail!("{program} needs a library that is not on this machine: {}", missing.trim());
    }
    let path = |line: &str| line.split_whitespace().find(|w| w.starts_with('/')).map(str::to_owned);
    Ok(text.lines().filter(|l| l.contains("(0x")).filter_map(path).collect())
}

fn import(data: &DataDir, archive: Vec<u8>) -> anyhow::Result<()> {
    block_on(|_| async move {
        let containerd = Supervisor::start(&Options::new(data.path())).await?;
        for name in containerd.import(&archive).await? {
            println!("{name}");
        }
        Ok(())
    })
}
