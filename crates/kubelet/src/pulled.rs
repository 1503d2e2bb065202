//! Who may use an image that is on the node: whoever could pull it (KEP-2535). What was pulled with a credential is
//! there for pods that have the credential too; for others it is as if it were not there. What was brought to the
//! node by other means is there for all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use parking_lot::Mutex;

/// Records of one image and repository, at most (upstream's `writeRecordWhileMatchingLimit`).
const MAX_SECRETS: usize = 100;

/// When an image that is there must be shown to be accessible (`imagePullCredentialsVerificationPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    Never,
    /// Not for images that this kubelet did not pull.
    #[default]
    NeverPreloaded,
    Always,
}

impl Verification {
    /// By its name in the configuration.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "NeverVerify" => Self::Never,
            "NeverVerifyPreloadedImages" => Self::NeverPreloaded,
            "AlwaysVerify" => Self::Always,
            _ => return None,
        })
    }
}

/// A credential and the secret that it is from. The credential itself is not kept, only what tells it from others.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Source {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub hash: String,
}

impl Source {
    fn same_secret(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

/// Who pulled an image under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Access {
    /// It needed no credential.
    anyone: bool,
    secrets: Vec<Source>,
}

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Records {
    /// By image id, then by repository.
    images: BTreeMap<String, BTreeMap<String, Access>>,
    /// Names whose pull has begun: should it end after this kubelet, nobody is known to have access.
    begun: BTreeSet<String>,
}

/// The records, kept in a file.
pub struct Pulled {
    path: PathBuf,
    verification: Verification,
    records: Mutex<Records>,
}

impl Pulled {
    /// Reads what an earlier kubelet noted.
    pub fn open(path: PathBuf, verification: Verification) -> Self {
        let bytes = std::fs::read(&path).unwrap_or_default();
        let records = Mutex::new(serde_json::from_slice(&bytes).unwrap_or_default());
        Self { path, verification, records }
    }

    /// Whether a pod with these credentials may use the image that is there. `repository`: the name without tag.
    pub fn may_use(&self, id: &str, image: &str, repository: &str, own: &[Source]) -> bool {
        let mut records = self.records.lock();
        let known = records.images.contains_key(id) || records.begun.contains(image);
        match self.verification {
            Verification::Never => return true,
            Verification::NeverPreloaded if !known => return true,
            Verification::NeverPreloaded | Verification::Always => {}
        }
        let Some(access) = records.images.get_mut(id).and_then(|r| r.get_mut(repository)) else {
            return false;
        };
        if access.anyone {
            return true;
        }
        let by_hash = |o: &&Source| !o.hash.is_empty() && access.secrets.iter().any(|s| s.hash == o.hash);
        let by_name = |o: &&Source| access.secrets.iter().any(|s| s.same_secret(o));
        let Some(found) = own.iter().find(by_hash).or_else(|| own.iter().find(by_name)) else { return false };
        if !access.secrets.contains(found) && access.secrets.len() < MAX_SECRETS {
            // the same credential in another secret, or another one in the same: both count from now on
            access.secrets.push(found.clone());
            self.save(&records);
        }
        true
    }

    /// A pull begins.
    pub fn begin(&self, image: &str) {
        let mut records = self.records.lock();
        if records.begun.insert(image.to_owned()) {
            self.save(&records);
        }
    }

    /// A pull has failed.
    pub fn failed(&self, image: &str) {
        let mut records = self.records.lock();
        if records.begun.remove(image) {
            self.save(&records);
        }
    }

    /// A pull has succeeded, with a credential or without.
    pub fn succeeded(&self, id: &str, image: &str, repository: &str, source: Option<Source>) {
        let mut records = self.records.lock();
        records.begun.remove(image);
        let access =
            records.images.entry(id.to_owned()).or_default().entry(repository.to_owned()).or_default();
        match source {
            None => *access = Access { anyone: true, secrets: Vec::new() },
            Some(_) if access.anyone => {}
            Some(source) => {
                access.secrets.retain(|s| !s.same_secret(&source));
                access.secrets.push(source);
            }
        }
        self.save(&records);
    }

    /// Forgets images that are gone.
    pub fn keep(&self, exists: impl Fn(&str) -> bool) {
        let mut records = self.records.lock();
        let before = records.images.len();
        records.images.retain(|id, _| exists(id));
        if records.images.len() != before {
            self.save(&records);
        }
    }

    fn save(&self, records: &Records) {
        let next = self.path.with_extension("new");
        let done = serde_json::to_vec(records)
            .map_err(std::io::Error::other)
            .and_then(|bytes| std::fs::write(&next, bytes))
            .and_then(|()| std::fs::rename(&next, &self.path));
        if let Err(e) = done {
            tracing::warn!(error = %e, path = %self.path.display(), "who pulled which image cannot be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_there_for_those_who_could_pull_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pulled.json");
        let source = |name: &str, hash: &str| Source {
            uid: name.into(),
            namespace: "d".into(),
            name: name.into(),
            hash: hash.into(),
        };
        let pulled = Pulled::open(path.clone(), Verification::default());
        assert!(pulled.may_use("preloaded", "r/p:1", "r/p", &[]), "what nobody pulled is everybody's");
        pulled.begin("r/a:1");
        assert!(!pulled.may_use("a", "r/a:1", "r/a", &[]), "a pull is under way");
        pulled.succeeded("a", "r/a:1", "r/a", Some(source("s", "h1")));
        pulled.succeeded("b", "r/b:1", "r/b", None);
        // a kubelet that starts anew
        let pulled = Pulled::open(path, Verification::default());
        assert!(pulled.may_use("b", "r/b:1", "r/b", &[]));
        assert!(!pulled.may_use("a", "r/a:1", "r/a", &[]));
        assert!(!pulled.may_use("a", "r/a:1", "r/a", &[source("t", "h2")]));
        assert!(pulled.may_use("a", "r/a:1", "r/a", &[source("t", "h1")]), "the same credential");
        assert!(pulled.may_use("a", "r/a:1", "r/a", &[source("s", "h3")]), "the same secret");
        assert!(!pulled.may_use("a", "r/c:1", "r/c", &[source("s", "h1")]), "another repository");
        pulled.keep(|id| id != "a");
        assert!(pulled.may_use("a", "r/a:1", "r/a", &[]));
    }
}
