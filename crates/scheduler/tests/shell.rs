//! The scheduler against an API server in memory.

use client::testing::FakeApi;
use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const KINDS: &[(&str, &str, &str, bool)] = &[
    ("v1", "Pod", "pods", true),
    ("v1", "Node", "nodes", false),
    ("v1", "Namespace", "namespaces", false),
    ("v1", "Service", "services", true),
    ("v1", "ReplicationController", "replicationcontrollers", true),
    ("v1", "Event", "events", true),
    ("apps/v1", "ReplicaSet", "replicasets", true),
    ("apps/v1", "StatefulSet", "statefulsets", true),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", true),
    ("v1", "PersistentVolume", "persistentvolumes", false),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims", true),
    ("storage.k8s.io/v1", "StorageClass", "storageclasses", false),
    ("storage.k8s.io/v1", "CSINode", "csinodes", false),
    ("storage.k8s.io/v1", "CSIDriver", "csidrivers", false),
    ("storage.k8s.io/v1", "VolumeAttachment", "volumeattachments", false),
];

/// A client whose `pods/binding` puts the pod on its node, as the API server does.
fn client(api: &FakeApi) -> kube::Client {
    let (api, inner) = (api.clone(), api.client());
    let service = tower::service_fn(move |request: Request<Body>| {
        let (api, inner) = (api.clone(), inner.clone());
        async move {
            let path = request.uri().path().to_owned();
            let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
            if request.method() != Method::POST || parts.last() != Some(&"binding") {
                return Ok::<_, Infallible>(inner.send(request).await.expect("the server is in memory"));
            }
            let bytes = request.into_body().collect_bytes().await.expect("the body is in memory");
            let binding: Value = serde_json::from_slice(&bytes).expect("a binding is JSON");
            api.edit("pods", parts[3], parts[5], |pod| {
                pod["spec"]["nodeName"] = binding["target"]["name"].clone()
            });
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201});
            Ok(Response::builder()
                .status(201)
                .body(Body::from(status.to_string().into_bytes()))
                .expect("valid"))
        }
    });
    client::in_memory(service, "kube-scheduler").expect("the user agent is a header value")
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}})
}

fn pod(name: &str, cpu: &str, priority: i32) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"schedulerName": "default-scheduler", "priority": priority,
            "containers": [{"name": "c", "image": "demo", "resources": {"requests": {"cpu": cpu}}}]}})
}

/// Waits until the world is as asked; fails after ten seconds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .unwrap_or_else(|_| panic!("never came: {what}"));
}

fn on(api: &FakeApi, pod: &str) -> Option<String> {
    let pod = api.get("pods", "default", pod)?;
    pod["spec"]["nodeName"].as_str().map(str::to_owned)
}

fn event(api: &FakeApi, reason: &str) -> Option<String> {
    let events = api.list("events");
    events.iter().find(|e| e["reason"] == reason).and_then(|e| e["message"].as_str().map(str::to_owned))
}

#[tokio::test]
async fn pods_are_bound_and_those_that_wait_are_told_why() {
    let api = FakeApi::new(KINDS);
    api.put(node("a"));
    api.put(pod("fits", "800m", 0));
    let stop = CancellationToken::new();
    let scheduler = tokio::spawn(scheduler::run(client(&api), scheduler::Config::default(), stop.clone()));

    until("the pod is bound", || on(&api, "fits").as_deref() == Some("a")).await;
    until("its event", || event(&api, "Scheduled").is_some()).await;
    assert_eq!(event(&api, "Scheduled").unwrap(), "Successfully assigned default/fits to a");

    api.put(pod("waits", "800m", 0));
    let condition = || {
        let pod = api.get("pods", "default", "waits").unwrap();
        pod["status"]["conditions"][0].clone()
    };
    until("the condition", || condition()["reason"] == "Unschedulable").await;
    let message = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    assert_eq!((&condition()["status"], &condition()["message"]), (&json!("False"), &json!(message)));
    until("the event", || event(&api, "FailedScheduling").as_deref() == Some(message)).await;

    api.put(node("b"));
    until("there is room", || on(&api, "waits").as_deref() == Some("b")).await;

    api.put(pod("important", "500m", 100));
    until("a victim is told to go", || {
        ["fits", "waits"]
            .iter()
            .any(|p| api.get("pods", "default", p).unwrap()["metadata"]["deletionTimestamp"].is_string())
    })
    .await;
    let nominated = || {
        let pod = api.get("pods", "default", "important").unwrap();
        pod["status"]["nominatedNodeName"].as_str().map(str::to_owned)
    };
    until("the nomination", || nominated().is_some()).await;
    let nominated = nominated().unwrap();
    let victim = if nominated == "a" { "fits" } else { "waits" };
    api.remove("pods", "default", victim);
    until("the room is taken", || on(&api, "important").as_ref() == Some(&nominated)).await;

    stop.cancel();
    scheduler.await.unwrap();
}

#[tokio::test]
async fn a_victim_is_told_which_scheduler_it_makes_room_for() {
    let api = FakeApi::new(KINDS);
    api.put(node("a"));
    let mut victim = pod("victim", "800m", 0);
    victim["spec"]["nodeName"] = json!("a");
    let mut important = pod("important", "800m", 100);
    important["spec"]["schedulerName"] = json!("mine");
    api.put(victim);
    api.put(important);
    let stop = CancellationToken::new();
    let config = scheduler::Config { scheduler_name: "mine".to_owned(), ..scheduler::Config::default() };
    let scheduler = tokio::spawn(scheduler::run(client(&api), config, stop.clone()));
    let condition = || api.get("pods", "default", "victim").unwrap()["status"]["conditions"][0].clone();
    until("the victim is told", || condition()["type"] == "DisruptionTarget").await;
    assert_eq!(condition()["message"], "mine: preempting to accommodate a higher priority pod");
    stop.cancel();
    scheduler.await.unwrap();
}

#[tokio::test]
async fn a_pod_is_bound_when_its_volumes_are() {
    let api = FakeApi::new(KINDS);
    api.put(node("a"));
    api.put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}));
    let mut pod = pod("p", "100m", 0);
    pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    api.put(pod);
    let stop = CancellationToken::new();
    let scheduler = tokio::spawn(scheduler::run(client(&api), scheduler::Config::default(), stop.clone()));
    until("the claim is missed", || event(&api, "FailedScheduling").is_some()).await;
    assert!(event(&api, "FailedScheduling").unwrap().contains("persistentvolumeclaim \"c\" not found"));

    api.put(json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "status": {"phase": "Available"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local", "local": {"path": "/x"}}}));
    api.put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"namespace": "default", "name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "local", "resources": {"requests": {"storage": "1Gi"}}}}));
    let volume = || api.get("persistentvolumes", "", "pv").unwrap();
    until("the volume is given to the claim", || volume()["spec"]["claimRef"]["name"] == "c").await;
    assert_eq!(volume()["metadata"]["annotations"]["pv.kubernetes.io/bound-by-controller"], "yes");
    let nominated = || api.get("pods", "default", "p").unwrap()["status"]["nominatedNodeName"] == "a";
    until("the node is named", nominated).await;
    assert_eq!(on(&api, "p"), None);
    // as the binder controller does
    api.edit("persistentvolumeclaims", "default", "c", |c| {
        c["spec"]["volumeName"] = json!("pv");
        c["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    });
    until("the pod is bound", || on(&api, "p").as_deref() == Some("a")).await;
    stop.cancel();
    scheduler.await.unwrap();
}

#[tokio::test]
async fn a_refused_binding_is_tried_again() {
    let api = FakeApi::new(KINDS);
    api.put(node("a"));
    let inner = client(&api);
    let refused = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let once = refused.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (inner, once) = (inner.clone(), once.clone());
        async move {
            let binding = request.uri().path().ends_with("/binding");
            if binding && !once.swap(true, std::sync::atomic::Ordering::SeqCst) {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500, "reason": "InternalError", "message": "no"});
                return Ok::<_, Infallible>(
                    Response::builder()
                        .status(500)
                        .body(Body::from(status.to_string().into_bytes()))
                        .expect("valid"),
                );
            }
            Ok(inner.send(request).await.expect("the server is in memory"))
        }
    });
    let stop = CancellationToken::new();
    let client = client::in_memory(service, "kube-scheduler").expect("the user agent is a header value");
    let scheduler = tokio::spawn(scheduler::run(client, scheduler::Config::default(), stop.clone()));
    api.put(pod("p", "100m", 0));
    until("the binding is refused", || refused.load(std::sync::atomic::Ordering::SeqCst)).await;
    until("it is bound after all", || on(&api, "p").as_deref() == Some("a")).await;
    until("the refusal was told", || event(&api, "FailedScheduling").is_some()).await;
    let message = "binding rejected: running Bind plugin \"DefaultBinder\": no";
    assert_eq!(event(&api, "FailedScheduling").as_deref(), Some(message));
    stop.cancel();
    scheduler.await.unwrap();
}
