//! Real kubectl against a server on the loopback, over TLS, with an in-memory store.

// A test's helpers fail as the test does.
#![allow(clippy::unwrap_used)]

use apiserver::{ApiServer, Config};
use auth::User;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::oneshot;

/// Of a command that waits for an event; each takes some 100 ms.
const ATTEMPTS: usize = 100;

struct Cluster {
    server: Arc<ApiServer>,
    directory: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Cluster {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Config { audit: true, ..Config::local(directory.path().to_owned(), port) };
        let server = ApiServer::start(config, store::memory::open()).await.unwrap();
        std::fs::write(directory.path().join("admin"), server.admin_kubeconfig(&server.url())).unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = {
            let server = server.clone();
            tokio::spawn(async move { server.serve(listener, async { drop(stopped.await) }).await })
        };
        Self { server, directory, stop: Some(stop), serving }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What a command says on its standard output, and where it fails also on its standard error.
    async fn kubectl(&self, line: &str, input: &str) -> Result<String, String> {
        let mut child = Command::new("kubectl")
            .args(line.split_whitespace())
            .env("KUBECONFIG", self.file("admin"))
            .env("HOME", self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let out = child.wait_with_output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if out.status.success() { Ok(text(out.stdout)) } else { Err(text([out.stdout, out.stderr].concat())) }
    }

    async fn check(&self, line: &str, input: &str, contains: &[&str]) {
        let (Ok(got) | Err(got)) = self.kubectl(line, input).await;
        for part in contains {
            assert!(got.contains(part), "kubectl {line}\nhas no {part:?}:\n{got}");
        }
    }

    /// Repeats a command until it says this: authorizers follow writes by their events.
    async fn until(&self, line: &str, contains: &str) {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            last = match self.kubectl(line, "").await {
                Ok(text) | Err(text) => text,
            };
            if last.contains(contains) {
                return;
            }
        }
        panic!("kubectl {line}\nnever says {contains:?}:\n{last}");
    }

    async fn end(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.serving.await.unwrap();
    }
}

async fn have_kubectl() -> bool {
    Command::new("kubectl").args(["version", "--client"]).stdout(Stdio::null()).status().await.is_ok()
}

const CONFIG_MAP: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, labels: {a: b}}\ndata: {k: v}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_works() {
    if !have_kubectl().await {
        return;
    }
    let c = Cluster::start().await;
    c.check("version", "", &["Server Version: v1.36.0+ironclad"]).await;
    c.check(
        "get --raw /readyz?verbose",
        "",
        &["[+]poststarthook/rbac/bootstrap-roles ok", "readyz check passed"],
    )
    .await;
    c.check("get namespaces -o name", "", &["namespace/default", "namespace/kube-node-lease"]).await;
    c.check("api-resources", "", &["configmaps", "cm", "rolebindings", "tokenreviews", "deployments"]).await;
    c.check("api-versions", "", &["apps/v1", "authorization.k8s.io/v1"]).await;
    c.check("create -f -", CONFIG_MAP, &["configmap/c created"]).await;
    c.check("create -f -", CONFIG_MAP, &["AlreadyExists", "configmaps \"c\" already exists"]).await;
    c.check("apply -f -", &CONFIG_MAP.replace("k: v", "k: w"), &["configmap/c configured"]).await;
    c.check("apply --server-side -f - --force-conflicts", CONFIG_MAP, &["configmap/c serverside-applied"])
        .await;
    c.check("get cm c -o jsonpath={.data.k}", "", &["v"]).await;
    c.check("get cm -l a=b --show-labels", "", &["NAME", "DATA", "AGE", "a=b"]).await;
    c.check("explain pod.spec.containers.image", "", &["FIELD: image", "Container image name"]).await;
    c.check("get clusterroles cluster-admin", "", &["CREATED AT", "cluster-admin"]).await;
    c.check("get svc kubernetes -o jsonpath={.spec.clusterIP}", "", &["10.96.0.1"]).await;
    let components =
        ["NAME", "STATUS", "MESSAGE", "ERROR", "controller-manager   Unhealthy   no instance is active"];
    c.check("get cs", "", &components).await;
    c.server.front().components.runs_here("kube-scheduler");
    c.check(
        "get componentstatuses scheduler -o jsonpath={.conditions}",
        "",
        &[r#"[{"message":"ok","status":"True","type":"Healthy"}]"#],
    )
    .await;
    c.check("get cs etcd-0 -o name", "", &["componentstatus/etcd-0"]).await;
    c.check("get cs none", "", &[r#"Error from server (NotFound): componentstatus "none" not found"#]).await;
    c.check(
        "get ip,servicecidr",
        "",
        &["services/default/kubernetes", "servicecidr.networking.k8s.io/kubernetes   10.96.0.0/12"],
    )
    .await;
    let risky = "apiVersion: v1\nkind: Service\nmetadata: {name: risky}\nspec: {externalIPs: [1.2.3.4], ports: [{port: 1}]}\n";
    c.check("create -f -", risky, &["service/risky created"]).await;
    let list = "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: ConfigMap, metadata: {name: d}, date: {}}]\n";
    c.check("create -f -", list, &[r#"unknown field "date" in io.k8s.api.core.v1.ConfigMap"#]).await;
    c.check("delete cm c", "", &["configmap \"c\" deleted"]).await;
    c.check("get cm c", "", &["Error from server (NotFound): configmaps \"c\" not found"]).await;
    c.check("get --raw /metrics", "", &["apiserver_request_total{", "process_resident_memory_bytes"]).await;
    c.check("get --raw /nothing", "", &["the server could not find the requested resource"]).await;
    c.check("delete ns default", "", &["this namespace may not be deleted"]).await;
    c.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_enforced() {
    if !have_kubectl().await {
        return;
    }
    let c = Cluster::start().await;
    c.check("auth whoami", "", &["kubernetes-admin", "system:masters"]).await;
    c.check("auth can-i delete nodes", "", &["yes"]).await;
    c.check("auth can-i list pods --as bob", "", &["no"]).await;
    c.check(
        "get pods --as bob",
        "",
        &[r#"Error from server (Forbidden): pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "default""#],
    )
    .await;
    c.check("create rolebinding r --clusterrole=view --user=bob", "", &["created"]).await;
    c.until("auth can-i list pods --as bob", "yes").await;
    c.check("auth can-i --list --as bob", "", &["pods/log", "selfsubjectaccessreviews.authorization.k8s.io"])
        .await;
    c.check("get pods --as bob", "", &[]).await;
    let log = std::fs::read_to_string(c.file("audit/audit.log")).unwrap();
    let line = log.lines().find(|l| l.contains("forbid")).unwrap();
    let event: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(event["user"]["username"], "kubernetes-admin");
    assert_eq!(event["impersonatedUser"]["username"], "bob");
    assert_eq!(
        (&event["objectRef"]["resource"], &event["responseStatus"]["code"]),
        (&"pods".into(), &403.into())
    );
    c.check("create rolebinding e --clusterrole=edit --user=eve", "", &["created"]).await;
    c.check("create role grab --verb=get --resource=secrets --as bob", "", &["forbidden"]).await;
    c.check("create clusterrole rb --verb=create --resource=roles,rolebindings", "", &["created"]).await;
    c.check("create rolebinding b2 --clusterrole=rb --user=bob", "", &["created"]).await;
    let grab = "create role grab --verb=get --resource=secrets --as bob";
    c.until(grab, r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#).await;
    c.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_token_works_until_its_account_goes() {
    if !have_kubectl().await {
        return;
    }
    let c = Cluster::start().await;
    c.check("create sa robot", "", &["created"]).await;
    let token = c.kubectl("create token robot --duration=1h", "").await.unwrap();
    let token = token.trim();
    let ca = c.file("pki/ca.crt");
    std::fs::write(c.file("none"), "").unwrap();
    let url = c.server.url();
    let run = async |what: &str, bearer: &str| {
        let line = format!(
            "--kubeconfig {} --server {url} --certificate-authority {} --token {bearer} {what}",
            c.file("none").display(),
            ca.display()
        );
        let (Ok(got) | Err(got)) = c.kubectl(&line, "").await;
        got
    };
    let got = run("auth whoami", token).await;
    assert!(got.contains("system:serviceaccount:default:robot") && got.contains("JTI="), "{got}");
    let got = run("get pods", token).await;
    assert!(got.contains(r#"User "system:serviceaccount:default:robot" cannot list"#), "{got}");
    assert!(run("get pods", "forged.to.ken").await.contains("Unauthorized"));
    c.check("delete sa robot", "", &["deleted"]).await;
    let mut got = String::new();
    for _ in 0..200 {
        got = run("auth whoami", token).await;
        if got.contains("Unauthorized") {
            break;
        }
    }
    assert!(got.contains("Unauthorized"), "{got}");
    c.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_in_the_process_are_authorized_like_anyone() {
    use k8s_openapi::api::core::v1::{Namespace, Secret};
    let c = Cluster::start().await;
    let admin = c.server.client(User::component("admin", &[User::MASTERS]));
    let namespaces = kube::Api::<Namespace>::all(admin).list(&Default::default()).await.unwrap();
    assert_eq!(namespaces.items.len(), 4);
    let node = c.server.client(User::component("system:node:n1", &["system:nodes"]));
    let refused = kube::Api::<Secret>::default_namespaced(node).get("x").await.unwrap_err().to_string();
    assert!(refused.contains("no relationship found between node 'n1' and this object"), "{refused}");
    c.end().await;
}

/// Answers every request with its path, over TLS, only to clients of the cluster's authority.
async fn fake_kubelet(c: &Cluster, listener: TcpListener) {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let pki = c.server.pki();
    let leaf = auth::pki::Leaf::kubelet_server("n1", vec!["127.0.0.1".into()]);
    let identity = pki.identities(&[("kubelet-server", leaf)]).unwrap().remove(0);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(pki.ca.certificate_der().to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = acceptor.accept(stream).await.unwrap();
            let service =
                hyper::service::service_fn(async |request: http::Request<hyper::body::Incoming>| {
                    let said = format!("kubelet was asked for {}\n", request.uri());
                    Ok::<_, std::convert::Infallible>(http::Response::new(
                        http_body_util::Full::<bytes::Bytes>::from(said),
                    ))
                });
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_comes_from_the_kubelet() {
    if !have_kubectl().await {
        return;
    }
    let c = Cluster::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    fake_kubelet(&c, listener).await;
    c.check("create sa default", "", &["created"]).await;
    let objects = "apiVersion: v1\nkind: List\nitems: [
        {apiVersion: v1, kind: Node, metadata: {name: n1}},
        {apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeName: n1, containers: [{name: c, image: i}]}}]";
    c.check("create -f -", objects, &["node/n1 created", "pod/p created"]).await;
    c.check("logs p", "", &[]).await;
    let status = format!(
        "patch node n1 --subresource=status -p {{\"status\":{{\"addresses\":[{{\"type\":\"InternalIP\",\"address\":\"127.0.0.1\"}}],\
         \"daemonEndpoints\":{{\"kubeletEndpoint\":{{\"Port\":{port}}}}}}}}}"
    );
    c.check(&status, "", &["patched"]).await;
    c.until("logs p --tail=3", "kubelet was asked for /containerLogs/default/p/c?tailLines=3").await;
    c.check("logs p -c x", "", &["container x is not valid for pod p"]).await;
    c.check("get --raw /api/v1/nodes/n1/proxy/pods?a=b", "", &["kubelet was asked for /pods?a=b"]).await;
    c.check(
        "get pod p -o jsonpath={.spec.volumes[0].projected.sources[0].serviceAccountToken.path}",
        "",
        &["token"],
    )
    .await;
    c.check("get node n1 -o jsonpath={.spec.taints[0].key}", "", &["node.kubernetes.io/not-ready"]).await;
    c.end().await;
}
