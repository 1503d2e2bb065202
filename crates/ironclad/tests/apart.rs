//! The components as processes of their own, over TLS, each with its own client certificate: the same cluster.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;
use testkit::{Kubectl, network, until};

const IRONCLAD: &str = env!("CARGO_BIN_EXE_ironclad");
const SOON: Duration = Duration::from_secs(90);

/// Pods that go as far as asking for an image that is not there: no registry is waited for.
const PAUSE: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: pause}
spec:
  replicas: 2
  selector: {matchLabels: {app: pause}}
  template:
    metadata: {labels: {app: pause}}
    spec:
      containers: [{name: c, image: ironclad.local/absent:1, imagePullPolicy: Never}]
";

/// Components of one data directory; ended, and their traces removed, when dropped.
struct Apart {
    directory: tempfile::TempDir,
    running: Vec<(&'static str, Child)>,
}

impl Apart {
    fn start(&mut self, component: &'static str) {
        let log = File::create(self.data().join(format!("{component}.log"))).expect("a log file");
        let mut command = Command::new(IRONCLAD);
        command.arg(component).arg("--data-dir").arg(self.data()).stderr(log);
        if component == "kubelet" {
            let path = self.data().join("kubelet.yaml");
            std::fs::write(&path, testkit::cluster::KUBELET).expect("a file");
            command.arg("--kubelet-config").arg(path);
        }
        self.running.push((component, command.spawn().expect("the ironclad binary")));
    }

    fn data(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        for (component, child) in &mut self.running {
            if std::thread::panicking() {
                let log = self.directory.path().join(format!("{component}.log"));
                eprintln!("--- {component} ---\n{}", std::fs::read_to_string(log).unwrap_or_default());
            }
            drop(child.kill());
            drop(child.wait());
        }
        drop(Command::new(IRONCLAD).args(["reset", "--data-dir"]).arg(self.data()).status());
    }
}

#[test]
fn components_apart_make_the_same_cluster() {
    network::own();
    let directory = tempfile::Builder::new().prefix("ia").tempdir_in("/var/tmp").expect("a directory");
    let mut cluster = Apart { directory, running: Vec::new() };
    cluster.start("kube-apiserver");
    let kubeconfig = cluster.data().join("admin.kubeconfig");
    let k = Kubectl::new(&kubeconfig);
    until("the API server answers", SOON, || {
        let seen = k.run("get --raw /readyz");
        if seen.stdout == "ok" { Ok(()) } else { Err(seen.stderr) }
    });
    for component in ["kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "dns"] {
        cluster.start(component);
    }
    until("the node is Ready", SOON, || {
        let seen = k.run("wait --for=condition=Ready node --all --timeout=1s");
        if seen.success { Ok(()) } else { Err(seen.stderr) }
    });
    k.apply(PAUSE);
    // the deployment, replica set, scheduler and kubelet have all done their part when the image is asked for
    until("the pods ask for their image", SOON, || {
        let seen = k.run(
            "get pods -l app=pause -o jsonpath={.items[*].status.containerStatuses[0].state.waiting.reason}",
        );
        let waits = seen.stdout.split(' ').filter(|r| r.starts_with("ErrImageNeverPull")).count();
        if waits == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    for lease in ["kube-controller-manager", "kube-scheduler"] {
        let holder =
            k.run(&format!("get lease -n kube-system {lease} -o jsonpath={{.spec.holderIdentity}}")).ok();
        assert!(!holder.is_empty(), "{lease} leads");
    }
    // the DNS server stands behind its service, which the proxy leads to
    until("a name of the cluster is found", SOON, || {
        let lookup = ["nslookup", "kubernetes.default.svc.cluster.local", "10.96.0.10"];
        let seen = Command::new("busybox").args(lookup).output().expect("busybox");
        let text = String::from_utf8_lossy(&seen.stdout).into_owned();
        if text.contains("Address: 10.96.0.1\n") { Ok(()) } else { Err(text) }
    });
    // each is who its certificate says, and may do no more
    let kubelet = Kubectl::new(&cluster.data().join("kubeconfig/kubelet.kubeconfig"));
    assert!(kubelet.run("auth whoami").ok().contains("system:node:"));
    let refused = kubelet.run("get secrets -A").refused();
    assert!(refused.contains("cannot list resource \"secrets\""), "{refused}");
    k.run("delete deployment pause").ok();
    k.run("wait --for=delete pod -l app=pause --timeout=90s").ok();
}
