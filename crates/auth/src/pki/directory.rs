//! `<data>/pki`: the cluster's certificates and keys on disk, under kubeadm's file names. Made at first start,
//! renewed at a start when they are due. Keys are readable by their owner alone.

use super::{Authority, Identity, Leaf};
use crate::token::{Signer, TokenError};
use meta::Time;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The directory cannot be read or written: permissions, a full disk.
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    /// An authority's file does not hold what it should. It is never replaced by itself: everything it signed
    /// would stop working.
    #[error("{path} is damaged: {why}; restore it from a backup, or remove the pki directory to begin with new \
             certificates", path = path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("making a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    #[error("making the service account key: {0}")]
    Token(#[from] TokenError),
}

/// The cluster's keys: authorities, the service account signer, and certificates issued on demand.
#[derive(Debug)]
pub struct Pki {
    directory: PathBuf,
    now: Time,
    pub ca: Authority,
    pub front_proxy_ca: Authority,
    pub signer: Arc<Signer>,
}

impl Pki {
    /// Opens `directory`, making it and the authorities in it where they are missing.
    pub fn open(directory: &Path, now: Time) -> Result<Self, PkiError> {
        let at = |source| PkiError::Io { path: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(at)?;
        let mut batch = Batch::new(directory);
        let ca = authority(directory, "ca", "kubernetes", now, &mut batch)?;
        let front_proxy_ca = authority(directory, "front-proxy-ca", "front-proxy-ca", now, &mut batch)?;
        let key_path = directory.join("sa.key");
        let signer = match read(&key_path)? {
            Some(pem) => Signer::from_pem(&pem)
                .map_err(|e| PkiError::Damaged { path: key_path, why: e.to_string() })?,
            None => {
                let (signer, pem) = Signer::generate()?;
                batch.add("sa.pub", signer.public_pem(), 0o644)?;
                batch.add("sa.key", pem, 0o600)?;
                signer
            }
        };
        batch.commit()?;
        Ok(Self { directory: directory.to_owned(), now, ca, front_proxy_ca, signer: Arc::new(signer) })
    }

    /// The certificates of `leaves` (file name without extension, then what it says), signed by the cluster's
    /// authority: those stored, or new ones where one is missing or due. One sync serves all.
    pub fn identities(&self, leaves: &[(&str, Leaf)]) -> Result<Vec<Identity>, PkiError> {
        self.issued_by(&self.ca, leaves)
    }

    /// As [`identities`](Self::identities), signed by the front-proxy authority.
    pub fn front_proxy_identity(&self) -> Result<Identity, PkiError> {
        let mut one =
            self.issued_by(&self.front_proxy_ca, &[("front-proxy-client", Leaf::front_proxy_client())])?;
        Ok(one.remove(0))
    }

    fn issued_by(&self, authority: &Authority, leaves: &[(&str, Leaf)]) -> Result<Vec<Identity>, PkiError> {
        let mut batch = Batch::new(&self.directory);
        let mut out = Vec::with_capacity(leaves.len());
        for (name, leaf) in leaves {
            let stored = stored(&self.directory, name)?;
            let identity = match stored.filter(|s| authority.still_good(s, leaf, self.now)) {
                Some(stored) => stored,
                None => {
                    let made = authority.issue(leaf, self.now)?;
                    batch.add(&format!("{name}.key"), made.key_pem.clone(), 0o600)?;
                    batch.add(&format!("{name}.crt"), made.certificate_pem.clone(), 0o644)?;
                    made
                }
            };
            out.push(identity);
        }
        batch.commit()?;
        Ok(out)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Path of a certificate (`.crt`) or key (`.key`) in the directory.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }
}

/// Writes `content` whole or not at all, readable by the owner alone.
pub fn write_private(path: &Path, content: &str) -> Result<(), PkiError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        let source = io::Error::from(io::ErrorKind::InvalidInput);
        return Err(PkiError::Io { path: path.to_owned(), source });
    };
    let mut batch = Batch::new(parent);
    if read(path)?.as_deref() != Some(content) {
        batch.add(name, content.to_owned(), 0o600)?;
    }
    batch.commit()
}

fn authority(
    directory: &Path,
    name: &str,
    common_name: &str,
    now: Time,
    batch: &mut Batch,
) -> Result<Authority, PkiError> {
    if let Some(identity) = stored(directory, name)? {
        return Authority::load(identity).map_err(|e| PkiError::Damaged {
            path: directory.join(format!("{name}.crt")),
            why: e.to_string(),
        });
    }
    let path = directory.join(format!("{name}.crt"));
    if read(&path)?.is_some() {
        return Err(PkiError::Damaged { path, why: format!("its private key {name}.key is missing") });
    }
    let made = Authority::generate(common_name, now)?;
    // The key first: a certificate without its key is damage, a key without its certificate is a first start
    // that was cut short.
    batch.add(&format!("{name}.key"), made.identity.key_pem.clone(), 0o600)?;
    batch.add(&format!("{name}.crt"), made.identity.certificate_pem.clone(), 0o644)?;
    Ok(made)
}

fn stored(directory: &Path, name: &str) -> Result<Option<Identity>, PkiError> {
    let certificate = read(&directory.join(format!("{name}.crt")))?;
    let key = read(&directory.join(format!("{name}.key")))?;
    Ok(certificate.zip(key).map(|(certificate_pem, key_pem)| Identity { certificate_pem, key_pem }))
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Io { path: path.to_owned(), source }),
    }
}

/// Files that are written beside their final names, synced once together, then renamed.
struct Batch {
    directory: PathBuf,
    names: Vec<String>,
}

impl Batch {
    fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), names: Vec::new() }
    }

    fn add(&mut self, name: &str, content: String, mode: u32) -> Result<(), PkiError> {
        let path = self.directory.join(format!(".{name}.new"));
        let write = || -> io::Result<()> {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
            file.write_all(content.as_bytes())
        };
        write().map_err(|source| PkiError::Io { path: path.clone(), source })?;
        self.names.push(name.to_owned());
        Ok(())
    }

    fn commit(self) -> Result<(), PkiError> {
        if self.names.is_empty() {
            return Ok(());
        }
        let at = |path: &Path, source: io::Error| PkiError::Io { path: path.to_owned(), source };
        let directory = fs::File::open(&self.directory).map_err(|e| at(&self.directory, e))?;
        for name in &self.names {
            let path = self.directory.join(format!(".{name}.new"));
            fs::File::open(&path).and_then(|f| f.sync_data()).map_err(|e| at(&path, e))?;
        }
        for name in &self.names {
            let to = self.directory.join(name);
            fs::rename(self.directory.join(format!(".{name}.new")), &to).map_err(|e| at(&to, e))?;
        }
        directory.sync_all().map_err(|e| at(&self.directory, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_is_made_once_and_then_kept() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("pki");
        let now: Time = "2026-06-01T00:00:00Z".parse().unwrap();
        let first = Pki::open(&dir, now).unwrap();
        let leaves = [("admin", Leaf::admin()), ("apiserver", Leaf::apiserver(&[]))];
        let made = first.identities(&leaves).unwrap();
        for key in ["ca.key", "admin.key", "sa.key", "front-proxy-ca.key"] {
            assert_eq!(fs::metadata(dir.join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
        }
        let again = Pki::open(&dir, now).unwrap();
        assert_eq!(again.identities(&leaves).unwrap(), made);
        assert_eq!(again.signer.key_id(), first.signer.key_id());

        fs::remove_file(dir.join("ca.key")).unwrap();
        let refused = Pki::open(&dir, now).unwrap_err().to_string();
        assert!(refused.contains("ca.key is missing"), "{refused}");
    }
}
