//! `ironclad server` with a data directory of its own, undone when it is dropped.

use crate::kubectl::Kubectl;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A node is Ready within this time, on a machine that builds and tests at once.
const READY: Duration = Duration::from_secs(120);

/// A machine that builds has a full disk now and then: pods are evicted, and images removed, much later than upstream's
/// defaults have it.
pub const KUBELET: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
                       evictionHard: {memory.available: 100Mi, nodefs.available: 512Mi}\n\
                       imageGCHighThresholdPercent: 100\nimageGCLowThresholdPercent: 99\n";

/// Fetches the page at a host and prints its body.
const GET: &str = include_str!("../../../demo/get");

pub struct Cluster {
    ironclad: PathBuf,
    directory: tempfile::TempDir,
    flags: Vec<String>,
}

impl Cluster {
    /// Starts a server in the calling thread's network. `ironclad`: the binary.
    #[track_caller]
    pub fn start(ironclad: &str, flags: &[&str]) -> Self {
        Self::with_kubelet(ironclad, flags, "")
    }

    /// As [`Cluster::start`], with more lines of a KubeletConfiguration.
    #[track_caller]
    pub fn with_kubelet(ironclad: &str, flags: &[&str], settings: &str) -> Self {
        let mut cluster = Self {
            ironclad: ironclad.into(),
            // short: sockets live below it
            directory: tempfile::Builder::new().prefix("ic").tempdir_in("/var/tmp").expect("a directory"),
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
        };
        let path = cluster.data().join("kubelet.yaml");
        std::fs::write(&path, format!("{KUBELET}{settings}")).expect("a file");
        cluster.flags.push(format!("--kubelet-config={}", path.display()));
        cluster.server();
        cluster
    }

    /// Starts the server, again after it ended.
    #[track_caller]
    pub fn server(&self) {
        let output = Command::new(&self.ironclad)
            .args(["server", "--detach", "--data-dir"])
            .arg(self.data())
            .args(&self.flags)
            .output()
            .expect("the ironclad binary");
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stderr), self.log());
    }

    pub fn data(&self) -> &Path {
        self.directory.path()
    }

    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.data().join("admin.kubeconfig"))
    }

    /// Process id of the server.
    pub fn pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.data().join("ironclad.pid")).expect("the pid file");
        text.trim().parse().expect("a process id")
    }

    /// The end of the server's log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.data().join("ironclad.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Runs another command of the binary on this cluster's data.
    pub fn ironclad(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(&self.ironclad)
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data())
            .output()
            .expect("the ironclad binary")
    }

    /// Waits until the node is Ready.
    #[track_caller]
    pub fn ready(&self) {
        let kubectl = self.kubectl();
        crate::until("the node is Ready", READY, || {
            let path = "get nodes -o jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
            let seen = kubectl.run(path);
            if seen.stdout == "True" { Ok(()) } else { Err(format!("{seen:?}\n{}", self.log())) }
        });
    }

    /// Imports an image made of busybox, with some of its applets and `get HOST`, which fetches a page (over bash:
    /// a static busybox cannot look names up).
    #[track_caller]
    pub fn busybox_image(&self, name: &str) {
        self.image(name, &[]);
    }

    /// As [`Cluster::busybox_image`], with more arguments for `ironclad image build`.
    #[track_caller]
    pub fn image(&self, name: &str, more: &[&str]) {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
        let file = format!("/bin/busybox={}", busybox.expect("busybox-static is installed"));
        let get = self.data().join("get");
        std::fs::write(&get, GET).expect("a file");
        std::fs::set_permissions(&get, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("its mode");
        let get = format!("/bin/get={}", get.display());
        let mut arguments =
            vec!["image", "build", name, "--file", &file, "--file", &get, "--program", "/bin/bash=/bin/bash"];
        let applets = [
            "sh", "cat", "cp", "sed", "sleep", "echo", "nslookup", "httpd", "id", "ls", "touch", "env",
            "true", "false", "dd", "df", "rm", "mount", "ps", "wget", "grep", "head", "stat", "usleep",
        ];
        let links: Vec<String> = applets.iter().map(|a| format!("/bin/{a}=busybox")).collect();
        for link in &links {
            arguments.extend(["--link", link]);
        }
        arguments.extend(["--cmd", "/bin/sh"]);
        arguments.extend(more);
        let output = self.ironclad(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log ---\n{}", self.log());
        }
        let output = self.ironclad(&["reset"]);
        if !output.status.success() {
            eprintln!("the cluster could not be removed: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
