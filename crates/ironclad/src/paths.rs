//! Where things are below the data directory.

use std::path::{Path, PathBuf};

/// `--data-dir`, for every command alike.
#[derive(Clone, Debug, clap::Args)]
pub struct DataDir {
    /// Directory that holds everything: the store, certificates, kubeconfigs, containers
    #[arg(long, default_value = "/var/lib/ironclad", env = "IRONCLAD_DATA_DIR")]
    data_dir: PathBuf,
}

impl DataDir {
    pub fn path(&self) -> &Path {
        &self.data_dir
    }

    pub fn pki(&self) -> PathBuf {
        self.data_dir.join("pki")
    }

    pub fn store(&self) -> PathBuf {
        self.data_dir.join("store")
    }

    /// Locked while a server has the store open.
    pub fn store_lock(&self) -> PathBuf {
        self.store().join("LOCK")
    }

    /// The administrator's.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.data_dir.join("admin.kubeconfig")
    }

    /// A component's own.
    pub fn kubeconfig(&self, component: &str) -> PathBuf {
        self.data_dir.join("kubeconfig").join(format!("{component}.kubeconfig"))
    }

    /// The kubelet's pods and volumes.
    pub fn kubelet(&self) -> PathBuf {
        self.data_dir.join("kubelet")
    }

    /// host-local's leases.
    pub fn cni_leases(&self) -> PathBuf {
        self.data_dir.join("cni/leases")
    }

    /// Process id of the server.
    pub fn pid_file(&self) -> PathBuf {
        self.data_dir.join("ironclad.pid")
    }

    /// What a detached server logs.
    pub fn log_file(&self) -> PathBuf {
        self.data_dir.join("ironclad.log")
    }
}
