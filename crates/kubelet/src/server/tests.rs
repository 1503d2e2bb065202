//! The server over real TLS, with a runtime in memory.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use ::auth::User;
use ::auth::pki::{Authority, Leaf};
use async_trait::async_trait;
use client::delegated::{Access, AskError, Reviews};
use cri::fake::FakeRuntime;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;

struct Pods(Vec<Arc<Pod>>);

impl PodSource for Pods {
    fn pods(&self) -> Vec<Arc<Pod>> {
        self.0.clone()
    }
    fn pod(&self, _: &str, name: &str) -> Option<Arc<Pod>> {
        self.0.iter().find(|pod| pod.metadata.name.as_deref() == Some(name)).cloned()
    }
}

/// The API server may do all, others nothing.
struct OnlyApiServer;

#[async_trait]
impl Reviews for OnlyApiServer {
    async fn user_of_token(&self, _: &str) -> Result<Option<User>, AskError> {
        Ok(None)
    }
    async fn may(&self, user: &User, _: &Access) -> Result<bool, AskError> {
        Ok(user.name == "kube-apiserver-kubelet-client")
    }
}

struct Running {
    address: SocketAddr,
    ca: Authority,
    ca_pem: String,
    logs: tempfile::TempDir,
    stop: CancellationToken,
}

async fn start() -> Running {
    let now = client::now();
    let ca = Authority::generate("kubernetes", now).unwrap();
    let ca_pem = ca.identity.certificate_pem.clone();
    let own = ca.issue(&Leaf::kubelet_server("n1", vec!["127.0.0.1".into()]), now).unwrap();
    let tls = tls_config(&own.certificate_pem, &own.key_pem, &ca_pem).unwrap();

    let runtime = FakeRuntime::new();
    let sandbox = runtime.run_pod_sandbox(pb::PodSandboxConfig::default(), "").await.unwrap();
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("0.log");
    std::fs::write(&log, "2026-06-01T00:00:01Z stdout F hello\n2026-06-01T00:00:02Z stdout F world\n")
        .unwrap();
    let config = pb::ContainerConfig {
        metadata: Some(pb::ContainerMetadata { name: "app".into(), attempt: 0 }),
        labels: [(labels::POD_UID, "u1"), (labels::POD_NAME, "p"), (labels::CONTAINER_NAME, "app")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        log_path: log.display().to_string(),
        ..Default::default()
    };
    let id = runtime.create_container(&sandbox, config, pb::PodSandboxConfig::default()).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    runtime.answer_exec("cat /etc/hostname", 0, "p\n");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "p", "namespace": "default", "uid": "u1" },
        "spec": { "containers": [{ "name": "app" }] },
        "status": { "containerStatuses": [{
            "name": "app", "containerID": format!("containerd://{id}"), "image": "", "imageID": "", "ready": true,
            "restartCount": 0, "state": { "running": {} },
        }] },
    }))
    .unwrap();
    let server = Server {
        pods: Arc::new(Pods(vec![Arc::new(pod)])),
        runtime: Arc::new(runtime),
        gate: Gate::new(Arc::new(OnlyApiServer), "n1"),
        collector: None,
        metrics: Arc::new(Registry::default()),
        log_dir: logs.path().to_owned(),
        configuration: json!({ "maxPods": 110 }),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (_, tls) = watch::channel(Arc::new(tls));
    tokio::spawn(serve(Arc::new(server), listener, tls, stop.clone()));
    Running { address, ca, ca_pem, logs, stop }
}

impl Running {
    /// One request as this leaf, or without a certificate; the status and the body.
    async fn ask(&self, leaf: Option<Leaf>, method: &str, path: &str) -> (u16, String) {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match leaf {
            Some(leaf) => {
                let identity = self.ca.issue(&leaf, client::now()).unwrap();
                let chain =
                    vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: n1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let address = self.address;
        let blocking = tokio::task::spawn_blocking(move || {
            let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
            let mut stream =
                rustls::StreamOwned::new(session, std::net::TcpStream::connect(address).unwrap());
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            // the end of the connection need not be a clean one
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        });
        let answer = blocking.await.unwrap();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_apart_and_answered() {
    let running = start().await;
    let api = || Some(Leaf::apiserver_kubelet_client());
    let (status, body) = running.ask(None, "GET", "/pods").await;
    assert_eq!((status, body.as_str()), (401, "Unauthorized"));
    let (status, body) = running.ask(Some(Leaf::scheduler()), "GET", "/pods").await;
    assert_eq!(status, 403);
    assert!(body.contains(
        "Forbidden (user=system:kube-scheduler, verb=get, resource=nodes, subresource(s)=[pods proxy])"
    ));

    let (status, body) = running.ask(api(), "GET", "/healthz").await;
    assert_eq!((status, body.as_str()), (200, "ok"));
    let (_, body) = running.ask(api(), "GET", "/pods").await;
    let list: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&list["kind"], &list["items"][0]["metadata"]["uid"]), (&json!("PodList"), &json!("u1")));
    assert!(list["items"][0].get("kind").is_none());
    let (_, body) = running.ask(api(), "GET", "/runningpods/").await;
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap()["items"][0]["spec"]["containers"][0]["name"],
        "app"
    );

    let (status, body) = running.ask(api(), "GET", "/containerLogs/default/p/app?tailLines=1").await;
    assert_eq!(status, 200);
    assert!(body.contains("world\n") && !body.contains("hello"), "{body}");
    let (status, body) = running.ask(api(), "GET", "/containerLogs/default/p/none").await;
    assert_eq!((status, body.as_str()), (404, "container \"none\" not found in pod \"p\""));
    let (status, body) = running.ask(api(), "GET", "/containerLogs/default/gone/app").await;
    assert_eq!((status, body.as_str()), (404, "pod \"gone\" does not exist"));
    assert_eq!(running.ask(api(), "GET", "/containerLogs/default/p/app?tailLines=-1").await.0, 422);

    let (status, body) = running.ask(api(), "POST", "/run/default/p/app?cmd=cat%20/etc/hostname").await;
    assert_eq!((status, body.as_str()), (200, "p\n"));
    let (status, body) = running.ask(api(), "POST", "/exec/default/p/app?command=sh&output=1").await;
    assert_eq!((status, body.as_str()), (400, "Upgrade request required"));
    let (status, _) = running.ask(api(), "POST", "/exec/default/p/app?command=sh").await;
    assert_eq!(status, 400, "without any stream");

    let (_, body) = running.ask(api(), "GET", "/logs/").await;
    assert!(body.contains("<a href=\"0.log\">0.log</a>"), "{body}");
    assert_eq!(running.ask(api(), "GET", "/logs/../etc/passwd").await.0, 400);
    std::os::unix::fs::symlink("/etc/hostname", running.logs.path().join("out")).unwrap();
    assert_eq!(running.ask(api(), "GET", "/logs/out").await.0, 404, "a link that leads outside");
    running.stop.cancel();
}
