//! The real thing: pods on a containerd of our own, against an API in memory. Needs root, containerd,
//! runc and cgroups; says so and passes where they are missing.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::informer::Options as Watch;
use client::testing::FakeApi;
use client::{Informer, Informers};
use cri::RuntimeApi;
use cri::containerd::{Options, Supervisor, remove_all};
use cri::image::ImageBuilder;
use k8s_openapi::api::core::v1::{Event, Pod};
use kubelet::cgroups::Cgroups;
use kubelet::{Config, Kubelet, Parts};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const IMAGE: &str = "ironclad.local/kubelet-test:1";
const NODE: &str = "test-node";
/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const KINDS: &[(&str, &str, &str, bool)] = &[
    ("v1", "Pod", "pods", true),
    ("v1", "Node", "nodes", false),
    ("v1", "Service", "services", true),
    ("v1", "ConfigMap", "configmaps", true),
    ("v1", "Secret", "secrets", true),
    ("v1", "Event", "events", true),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims", true),
    ("v1", "PersistentVolume", "persistentvolumes", false),
    ("coordination.k8s.io/v1", "Lease", "leases", true),
];

fn possible() -> bool {
    let found = |path: &str| Path::new(path).exists();
    let tools = found("/bin/busybox") && (found("/usr/bin/containerd") || found("/usr/local/bin/containerd"));
    let able = tools && nix::unistd::geteuid().is_root() && Cgroups::detect().is_ok();
    if !able {
        eprintln!("not run: needs root, containerd, busybox-static and cgroups");
    }
    able
}

fn busybox_image() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut image = ImageBuilder::new(IMAGE).file("/bin/busybox", 0o755, busybox).directory("/tmp", 0o1777);
    for name in ["sh", "cat", "sleep", "echo", "httpd", "test", "ls", "true", "false", "wget"] {
        image = image.link(&format!("/bin/{name}"), "busybox");
    }
    image.env("PATH", "/bin").cmd(["sleep", "1000"]).build().expect("a small image")
}

/// Pods and events as a user sees them.
struct World {
    api: FakeApi,
    pods: Informer<Pod>,
    events: Informer<Event>,
    changed: watch::Receiver<u64>,
}

impl World {
    fn new() -> Self {
        let api = FakeApi::new(KINDS);
        let informers = Informers::new(api.client());
        let pods = informers.of::<Pod>(Watch::all());
        let events = informers.of::<Event>(Watch::all());
        let (tx, changed) = watch::channel(0);
        let tx = Arc::new(tx);
        let both = tx.clone();
        pods.on_change(move |_| tx.send_modify(|n| *n += 1));
        events.on_change(move |_| both.send_modify(|n| *n += 1));
        Self { api, pods, events, changed }
    }

    fn create(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = json!(NODE);
        spec["hostNetwork"] = json!(true);
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                container["image"] = json!(IMAGE);
                container["terminationMessagePath"] = json!("/dev/termination-log");
            }
        }
        let uid = format!("uid-{name}");
        let metadata = json!({"name": name, "namespace": "default", "uid": uid, "labels": {"app": name}, "generation": 1});
        self.api.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec,
            "status": {"phase": "Pending"}}));
    }

    fn pod(&self, name: &str) -> Value {
        self.pods.find("default", name).map(|p| serde_json::to_value(&*p).expect("a pod")).unwrap_or_default()
    }

    /// Waits until the pod is as wanted; shows it and its events if that does not happen.
    async fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut changed = self.changed.clone();
        let start = Instant::now();
        let wait = async {
            loop {
                let pod = self.pod(name);
                if holds(&pod) {
                    return pod;
                }
                changed.changed().await.expect("the informers live");
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(pod) => {
                eprintln!("{name}: {what} after {:?}", start.elapsed());
                pod
            }
            Err(_) => panic!(
                "{name} is not {what}: {:#}\n{}",
                self.pod(name)["status"],
                self.events_of(name).join("\n")
            ),
        }
    }

    /// Waits until the pod's events say this.
    async fn tells(&self, name: &str, expect: &[&str]) {
        let told = |_: &Value| {
            let events = self.events_of(name).join("\n");
            expect.iter().all(|text| events.contains(text))
        };
        self.until(name, "told of in events", told).await;
    }

    fn events_of(&self, name: &str) -> Vec<String> {
        let events = self.events.list();
        let own = events.iter().filter(|e| e.involved_object.name.as_deref() == Some(name));
        own.map(|e| {
            format!(
                "{} {}",
                e.reason.as_deref().unwrap_or_default(),
                e.message.as_deref().unwrap_or_default()
            )
        })
        .collect()
    }
}

fn condition(pod: &Value, kind: &str) -> String {
    let list = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    list.iter()
        .find(|c| c["type"] == kind)
        .map(|c| c["status"].as_str().unwrap_or_default().to_owned())
        .unwrap_or_default()
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready") == "True"
}

fn container_id(pod: &Value) -> String {
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
    id.trim_start_matches("containerd://").to_owned()
}

struct Node {
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), kubelet::Error>>,
}

async fn start_kubelet(world: &World, runtime: cri::Runtime, data: &Path) -> Node {
    let config = Config {
        node_name: NODE.into(),
        node_ips: vec!["127.0.0.1".into()],
        data_dir: data.join("kubelet"),
        pod_logs_dir: data.join("logs"),
        manifests_dir: Some(data.join("manifests")),
        ..Config::default()
    };
    let parts = Parts {
        runtime: Arc::new(runtime.clone()),
        images: Arc::new(runtime),
        cgroups: Arc::new(Cgroups::detect().expect("cgroups")),
        register_node: true,
    };
    let kubelet = Kubelet::new(config, world.api.client(), parts).await.expect("a kubelet");
    let shutdown = CancellationToken::new();
    Node { task: tokio::spawn(kubelet.run(shutdown.clone())), shutdown }
}

async fn exec(runtime: &dyn RuntimeApi, id: &str, script: &str) -> String {
    let command = ["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let answer = runtime.exec_sync(id, &command, 10).await.expect("exec");
    String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_live_and_end_as_their_users_expect() {
    let _ = tracing_subscriber::fmt().with_env_filter("kubelet=debug,warn").with_test_writer().try_init();
    if !possible() {
        return;
    }
    let data = tempfile::tempdir().expect("a directory");
    let options = Options::new(data.path());
    let supervisor = Supervisor::start(&options).await.expect("containerd starts");
    supervisor.import(&busybox_image()).await.expect("imported");
    let runtime = supervisor.runtime();
    let world = World::new();
    world.api.put(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm", "namespace": "default"},
        "data": {"key": "one"}}),
    );
    world
        .api
        .put(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"},
        "data": {"pw": "c2VzYW1l"}}));
    std::fs::create_dir(data.path().join("manifests")).expect("a directory");
    let node = start_kubelet(&world, runtime.clone(), data.path()).await;

    let plain = plain_pod(&world, &runtime).await;
    tokio::join!(
        crash_looping_pod(&world),
        init_and_sidecar_pod(&world),
        misconfigured_pod(&world),
        unhealthy_pod(&world),
        static_pod(&world, data.path()),
    );

    // a kubelet that comes back finds its containers and ends what was deleted meanwhile
    node.shutdown.cancel();
    node.task.await.expect("no panic").expect("no error");
    world.api.remove("pods", "default", "crash");
    let node = start_kubelet(&world, runtime.clone(), data.path()).await;
    let wrong = data.path().join("kubelet/pods/uid-crash");
    while wrong.exists() {
        tokio::task::yield_now().await;
    }
    let pod = world.pod("plain");
    assert!(is_ready(&pod) && container_id(&pod) == plain, "{:#}", pod["status"]);

    graceful_end(&world, &plain, &runtime, data.path()).await;
    node.shutdown.cancel();
    let _ = node.task.await;
    drop(supervisor);
    remove_all(&options).await.expect("removed");
    let cgroups = Cgroups::detect().expect("cgroups");
    cgroups
        .remove_pods(cgroups.pod_uids().iter().map(String::as_str).filter(|uid| uid.starts_with("uid-")))
        .expect("no processes are left");
}

/// A pod with a volume, variables and probes; returns its container.
async fn plain_pod(world: &World, runtime: &cri::Runtime) -> String {
    let started = Instant::now();
    world.create(
        "plain",
        json!({
            "terminationGracePeriodSeconds": 5,
            "volumes": [{"name": "c", "configMap": {"name": "cm"}}, {"name": "e", "emptyDir": {"medium": "Memory"}},
                {"name": "d", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}],
            "containers": [{
                "name": "main",
                "command": ["sh", "-c", "trap 'echo bye > /dev/termination-log; exit 0' TERM; while true; do sleep 0.1; done"],
                "env": [{"name": "PW", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}},
                    {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "X", "value": "$(ME)!"}],
                "volumeMounts": [{"name": "c", "mountPath": "/config"}, {"name": "e", "mountPath": "/scratch"},
                    {"name": "d", "mountPath": "/pod"}, {"name": "c", "mountPath": "/one", "subPath": "key"}],
                "readinessProbe": {"exec": {"command": ["test", "-e", "/config/key"]}, "periodSeconds": 1},
                "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "echo hooked > /scratch/hook"]}}},
                "resources": {"requests": {"memory": "16Mi"}, "limits": {"memory": "32Mi"}},
            }],
        }),
    );
    world.until("plain", "running", |p| p["status"]["phase"] == "Running").await;
    eprintln!("plain: created to Running in {:?}", started.elapsed());
    let pod = world.until("plain", "ready", is_ready).await;
    let id = container_id(&pod);
    let status = &pod["status"];
    assert_eq!((&status["podIP"], &status["qosClass"]), (&json!("127.0.0.1"), &json!("Burstable")));
    assert_eq!(status["containerStatuses"][0]["started"], true);
    for (script, expect) in [
        ("cat /config/key", "one"),
        ("cat /one", "one"),
        ("echo $PW $X", "sesame plain!"),
        ("cat /scratch/hook", "hooked"),
        ("cat /pod/labels", "app=\"plain\""),
    ] {
        assert_eq!(exec(runtime, &id, script).await, expect, "{script}");
    }
    world
        .tells("plain", &["Pulled Container image", "Created Container created", "Started Container started"])
        .await;
    // the file follows the object
    world.api.edit("configmaps", "default", "cm", |m| m["data"]["key"] = json!("two"));
    while exec(runtime, &id, "cat /config/key").await != "two" {
        tokio::task::yield_now().await;
    }
    id
}

async fn crash_looping_pod(world: &World) {
    let script = "echo last words > /dev/termination-log; exit 3";
    world.create("crash", json!({"containers": [{"name": "c", "command": ["sh", "-c", script]}]}));
    let pod = world
        .until("crash", "in back-off", |p| {
            let status = &p["status"]["containerStatuses"][0];
            status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
                && status["restartCount"].as_i64() >= Some(1)
        })
        .await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(
        status["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=c pod=crash_default(uid-crash)"
    );
    let last = &status["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["message"]), (&json!(3), &json!("last words\n")));
    assert_eq!(pod["status"]["phase"], "Running");
}

async fn init_and_sidecar_pod(world: &World) {
    world.create(
        "job",
        json!({
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 3,
            "volumes": [{"name": "v", "emptyDir": {}}],
            "initContainers": [
                {"name": "first", "command": ["sh", "-c", "echo 1 > /v/a"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
                {"name": "side", "restartPolicy": "Always", "command": ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.1; done"]},
            ],
            "containers": [{"name": "main", "command": ["sh", "-c", "test $(cat /v/a) = 1"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        }),
    );
    let pod = world
        .until("job", "complete", |p| {
            let side = &p["status"]["initContainerStatuses"][1]["state"]["terminated"];
            p["status"]["phase"] == "Succeeded" && !side.is_null()
        })
        .await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!(condition(&pod, "Initialized"), "True");
}

async fn misconfigured_pod(world: &World) {
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "k"}}}]);
    world.create("wrong", json!({"containers": [{"name": "c", "env": env}]}));
    let pod = world
        .until("wrong", "waiting", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        })
        .await;
    assert_eq!(
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"],
        "configmap \"later\" not found"
    );
    // the object comes, and the pod runs without waiting for a clock
    world.api.put(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later", "namespace": "default"},
        "data": {"k": "v"}}),
    );
    world.until("wrong", "running", |p| p["status"]["phase"] == "Running").await;
}

/// A file is a pod; its mirror tells of it and goes with it.
async fn static_pod(world: &World, data: &Path) {
    let container = json!({"name": "c", "image": IMAGE, "command": ["sleep", "1000"]});
    let spec = json!({"hostNetwork": true, "terminationGracePeriodSeconds": 0, "containers": [container]});
    let manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "file"}, "spec": spec});
    let path = data.join("manifests/file.yaml");
    std::fs::write(&path, manifest.to_string()).expect("written");
    world.until("file-test-node", "running", |p| p["status"]["phase"] == "Running").await;
    std::fs::remove_file(&path).expect("removed");
    world.until("file-test-node", "gone", Value::is_null).await;
}

async fn unhealthy_pod(world: &World) {
    world.create(
        "sick",
        json!({"terminationGracePeriodSeconds": 2, "containers": [{"name": "c", "livenessProbe": {
            "exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}}]}),
    );
    world
        .until("sick", "restarted", |p| {
            p["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)
        })
        .await;
    let killing = "Killing Container c failed liveness probe, will be restarted";
    world.tells("sick", &["Unhealthy Liveness probe failed: ", killing]).await;
}

/// Deleting gives the container time to say good-bye, and leaves nothing.
async fn graceful_end(world: &World, id: &str, runtime: &cri::Runtime, data: &Path) {
    world.api.edit("pods", "default", "plain", |p| {
        p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        p["metadata"]["deletionGracePeriodSeconds"] = json!(5);
    });
    world.until("plain", "gone", Value::is_null).await;
    let log = world.api.log(0);
    let last = log
        .iter()
        .rev()
        .filter(|c| c.plural == "pods" && &*c.key.name == "plain")
        .find_map(|c| c.object.clone());
    let status = last.expect("a last state")["status"].clone();
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&status["phase"], &ended["exitCode"]), (&json!("Succeeded"), &json!(0)), "{status:#}");
    assert_eq!(ended["message"], "bye\n");
    while runtime.container_status(id).await.is_ok() || data.join("kubelet/pods/uid-plain").exists() {
        tokio::task::yield_now().await;
    }
}
