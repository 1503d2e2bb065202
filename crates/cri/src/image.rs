//! Images without a registry: built in memory as an OCI image layout and imported into containerd.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::reference::{Reference, ReferenceError};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The pause program, compiled by `build.rs` from `pause/pause.rs`.
static PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
/// What the names of images begin with that are made here: no registry can give them again.
pub const LOCAL_REGISTRY: &str = "ironclad.local/";
/// The image that pod sandboxes run.
pub const PAUSE_IMAGE: &str = concat!("ironclad.local/pause:", env!("CARGO_PKG_VERSION"));
/// The label by which containerd's CRI keeps an image from being collected.
pub const PINNED_LABEL: &str = "io.cri-containerd.pinned=pinned";

/// Why an image was not built or imported.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{0:?} names no image: {1}")]
    Name(String, ReferenceError),
    #[error("cannot build the image archive: {0}")]
    Archive(#[from] io::Error),
    #[error("cannot run {command}: {source}")]
    Start { command: String, source: io::Error },
    #[error("{command} failed: {message}")]
    Failed { command: String, message: String },
}

/// What a file of an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, data: Vec<u8> },
    Link { target: PathBuf },
}

/// An image in the making: one layer of files and what to run. The same input gives the same bytes,
/// and so the same digest.
#[derive(Debug, Clone, Default)]
pub struct ImageBuilder {
    name: String,
    entries: BTreeMap<PathBuf, Entry>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    env: Vec<String>,
    working_dir: String,
    user: String,
    labels: BTreeMap<String, String>,
    ports: Vec<String>,
}

impl ImageBuilder {
    /// An empty image. Its `name` is one as in a pod; where it tells no registry, it is `docker.io`'s.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Adds a file with its permission bits; missing parents are made with mode 0755.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, data: impl Into<Vec<u8>>) -> Self {
        self.insert(Path::new(path), Entry::File { mode, data: data.into() });
        self
    }

    /// Adds an empty directory.
    #[must_use]
    pub fn directory(mut self, path: &str, mode: u32) -> Self {
        self.insert(Path::new(path), Entry::Directory { mode });
        self
    }

    /// Adds a symbolic link at `path`.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.insert(Path::new(path), Entry::Link { target: PathBuf::from(target) });
        self
    }

    /// Adds the content of a directory of this machine below `path`: files, directories and links.
    ///
    /// # Errors
    /// If something below `source` cannot be read.
    pub fn tree(mut self, path: &str, source: &Path) -> Result<Self, ImageError> {
        self.add_tree(Path::new(path), source)?;
        Ok(self)
    }

    #[must_use]
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    #[must_use]
    pub fn cmd<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.cmd = words.into_iter().map(Into::into).collect();
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    #[must_use]
    pub fn working_dir(mut self, path: &str) -> Self {
        path.clone_into(&mut self.working_dir);
        self
    }

    /// The user the image runs as: a name or `uid[:gid]`.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Declares a port, in the form `8080/tcp`.
    #[must_use]
    pub fn port(mut self, port: &str) -> Self {
        self.ports.push(port.to_owned());
        self
    }

    /// The archive: an OCI image layout as a tar, which `ctr images import` and `docker load` take.
    ///
    /// # Errors
    /// If the name is no name of an image, or a path is too long for a tar archive.
    pub fn build(&self) -> Result<Vec<u8>, ImageError> {
        let layer = self.layer()?;
        let layer_digest = digest(&layer);
        let config = self.config(&layer_digest).to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        })
        .to_string()
        .into_bytes();
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        // containerd takes the whole name from its own annotation, other tools the tag from the standard one;
        // the runtime looks for the name with its registry, also where none is told
        let name = Reference::parse(&self.name).map_err(|why| ImageError::Name(self.name.clone(), why))?;
        entry["annotations"] = json!({
            "io.containerd.image.name": name.to_string(),
            "org.opencontainers.image.ref.name": name.tag.unwrap_or("latest"),
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        })
        .to_string()
        .into_bytes();

        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for blob in [&config, &manifest, &layer] {
            append(&mut tar, &format!("blobs/sha256/{}", hex(&Sha256::digest(blob))), blob)?;
        }
        append(&mut tar, "index.json", &index)?;
        Ok(tar.into_inner()?)
    }

    fn insert(&mut self, path: &Path, entry: Entry) {
        let path: PathBuf =
            path.components().filter(|c| matches!(c, std::path::Component::Normal(_))).collect();
        if path.as_os_str().is_empty() {
            return;
        }
        for parent in path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path, entry);
    }

    fn add_tree(&mut self, path: &Path, source: &Path) -> Result<(), ImageError> {
        use std::os::unix::fs::PermissionsExt;
        let fail = |source_path: &Path| {
            let path = source_path.to_owned();
            move |source| ImageError::Read { path, source }
        };
        for item in std::fs::read_dir(source).map_err(fail(source))? {
            let from = item.map_err(fail(source))?.path();
            let to = path.join(from.file_name().expect("an entry of a directory has a name"));
            let meta = from.symlink_metadata().map_err(fail(&from))?;
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_dir() {
                self.insert(&to, Entry::Directory { mode });
                self.add_tree(&to, &from)?;
            } else if meta.is_symlink() {
                self.insert(&to, Entry::Link { target: std::fs::read_link(&from).map_err(fail(&from))? });
            } else if meta.is_file() {
                self.insert(&to, Entry::File { mode, data: std::fs::read(&from).map_err(fail(&from))? });
            }
        }
        Ok(())
    }

    fn layer(&self) -> Result<Vec<u8>, ImageError> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(0);
            match entry {
                Entry::Directory { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    tar.append_data(&mut header, path, io::empty())?;
                }
                Entry::File { mode, data } => {
                    header.set_mode(*mode);
                    header.set_size(data.len() as u64);
                    tar.append_data(&mut header, path, data.as_slice())?;
                }
                Entry::Link { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }

    fn config(&self, layer_digest: &str) -> Value {
        let mut run = serde_json::Map::new();
        let mut set = |name: &str, value: Value| run.insert(name.to_owned(), value);
        if !self.entrypoint.is_empty() {
            set("Entrypoint", json!(self.entrypoint));
        }
        if !self.cmd.is_empty() {
            set("Cmd", json!(self.cmd));
        }
        if !self.env.is_empty() {
            set("Env", json!(self.env));
        }
        if !self.working_dir.is_empty() {
            set("WorkingDir", json!(self.working_dir));
        }
        if !self.user.is_empty() {
            set("User", json!(self.user));
        }
        if !self.labels.is_empty() {
            set("Labels", json!(self.labels));
        }
        if !self.ports.is_empty() {
            let ports: serde_json::Map<String, Value> =
                self.ports.iter().map(|p| (p.clone(), json!({}))).collect();
            set("ExposedPorts", Value::Object(ports));
        }
        json!({
            "created": "1970-01-01T00:00:00Z",
            "architecture": architecture(),
            "os": "linux",
            "config": run,
            "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "ironclad" }],
        })
    }
}

/// The archive of the pause image.
///
/// # Errors
/// Never in practice: its only path is short.
pub fn pause_archive() -> Result<Vec<u8>, ImageError> {
    ImageBuilder::new(PAUSE_IMAGE)
        .file("/pause", 0o755, PAUSE)
        .entrypoint(["/pause"])
        .user("65535:65535")
        .build()
}

/// Imports image archives into a containerd by its own `ctr`.
#[derive(Debug, Clone)]
pub struct Importer {
    /// containerd's socket.
    pub socket: PathBuf,
    /// The snapshotter to unpack for, the one the CRI plugin uses.
    pub snapshotter: String,
}

impl Importer {
    /// Imports an archive (OCI layout or docker-save) into the CRI's namespace; returns the names.
    ///
    /// # Errors
    /// If `ctr` cannot be started or refuses the archive.
    pub async fn import(&self, archive: &[u8]) -> Result<Vec<String>, ImageError> {
        let output =
            self.ctr(&["images", "import", "--snapshotter", &self.snapshotter, "-"], Some(archive)).await?;
        // each line reads "unpacking NAME (DIGEST)...done"
        let names = output.lines().filter_map(|line| line.strip_prefix("unpacking ")?.split(' ').next());
        Ok(names.map(str::to_owned).collect())
    }

    /// Marks an image so that image garbage collection leaves it alone.
    ///
    /// # Errors
    /// If `ctr` cannot be started or the image is not there.
    pub async fn pin(&self, name: &str) -> Result<(), ImageError> {
        self.ctr(&["images", "label", name, PINNED_LABEL], None).await.map(drop)
    }

    pub(crate) async fn ctr(&self, arguments: &[&str], input: Option<&[u8]>) -> Result<String, ImageError> {
        let command = format!("ctr {}", arguments.join(" "));
        let mut child = Command::new("ctr")
            .arg("--address")
            .arg(&self.socket)
            .args(["--namespace", "k8s.io"])
            .args(arguments)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ImageError::Start { command: command.clone(), source })?;
        let stdin = child.stdin.take();
        let feed = async {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                // a ctr that refuses early closes the pipe; what it printed says more than the pipe's error
                let _ = stdin.write_all(input).await;
            }
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        let output = output.map_err(|source| ImageError::Start { command: command.clone(), source })?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let message =
                text.trim().lines().last().unwrap_or("no message").trim_start_matches("ctr: ").to_owned();
            return Err(ImageError::Failed { command, message });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, path, data)
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(blob)))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The architecture in the words of image manifests.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "riscv64" => "riscv64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut data = Vec::new();
            io::Read::read_to_end(&mut entry, &mut data).unwrap();
            (entry.path().unwrap().display().to_string(), data)
        });
        entries.collect()
    }

    #[test]
    fn an_archive_is_a_layout_whose_digests_fit() {
        let build =
            || ImageBuilder::new("ironclad.local/x:7").file("/a/b", 0o755, "hello").link("/l", "a/b").build();
        let archive = build().unwrap();
        assert_eq!(archive, build().unwrap(), "the same input gives the same bytes");
        let files = unpack(&archive);
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let data = &files[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(
                (super::digest(data).as_str(), data.len() as u64),
                (digest, descriptor["size"].as_u64().unwrap())
            );
            data.clone()
        };
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "ironclad.local/x:7");
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let layer = unpack(&blob(&manifest["layers"][0]));
        assert_eq!(layer.keys().collect::<Vec<_>>(), ["a", "a/b", "l"].iter().collect::<Vec<_>>());
        assert_eq!(layer["a/b"], b"hello");
    }

    #[test]
    fn the_pause_program_is_small_and_ends_on_sigterm() {
        use std::os::unix::fs::PermissionsExt;
        assert!(PAUSE.len() < 8 << 10, "{} bytes", PAUSE.len());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pause");
        std::fs::write(&path, PAUSE).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let mut child = std::process::Command::new(&path).spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        // it sleeps only once it has blocked the signals; before, SIGTERM would end it by default
        let asleep = || std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap().contains("State:\tS");
        while !asleep() {
            std::thread::yield_now();
        }
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}
