//! The scheduler against the real API server, with the rights that upstream's bootstrap policy gives it.

use apiserver::{ApiServer, Config};
use auth::User;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("valid")
}

fn pod(name: &str, cpu: &str, more: Value) -> Pod {
    let mut value = json!({"metadata": {"name": name}, "spec": {"containers": [
        {"name": "c", "image": "demo", "resources": {"requests": {"cpu": cpu}}}]}});
    for (k, v) in more.as_object().into_iter().flatten() {
        value["spec"][k] = v.clone();
    }
    object(value)
}

/// Asks until the answer is some; fails after half a minute.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let wait = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("never came: {what}"))
}

/// Status, reason and message of the condition PodScheduled.
fn scheduled(pod: &Pod) -> Option<(String, String, String)> {
    let condition =
        pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "PodScheduled")?.clone();
    Some((condition.status, condition.reason.unwrap_or_default(), condition.message.unwrap_or_default()))
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

async fn create<K>(api: &Api<K>, what: K)
where
    K: kube::Resource + Clone + serde::Serialize + DeserializeOwned + std::fmt::Debug,
{
    api.create(&PostParams::default(), &what).await.expect("the API server takes it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_explains_and_preempts() {
    let directory = tempfile::tempdir().unwrap();
    let server = ApiServer::start(Config::local(directory.path().to_owned(), 6443), store::memory::open())
        .await
        .unwrap();
    let admin: Client = server.client(User::component("admin", &["system:masters"]));
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    until("the namespace", || async { namespaces.get_opt("default").await.unwrap() }).await;
    create(
        &Api::<ServiceAccount>::namespaced(admin.clone(), "default"),
        object(json!({"metadata": {"name": "default"}})),
    )
    .await;
    let classes: Api<PriorityClass> = Api::all(admin.clone());
    create(&classes, object(json!({"metadata": {"name": "important"}, "value": 1000}))).await;
    let nodes: Api<Node> = Api::all(admin.clone());
    create(&nodes, object(json!({"metadata": {"name": "a"}, "status": {"capacity": {"cpu": "1", "memory": "1Gi", "pods": "10"}}}))).await;
    // the server taints new nodes until their kubelet reports; this one has none
    let mut node = nodes.get("a").await.unwrap();
    node.spec.get_or_insert_default().taints = None;
    nodes.replace("a", &PostParams::default(), &node).await.unwrap();

    let stop = CancellationToken::new();
    let to_api = server.client(User::component("system:kube-scheduler", &[]));
    let running = tokio::spawn(scheduler::run(to_api, scheduler::Config::default(), stop.clone()));
    let get = |name: &'static str| {
        let pods = pods.clone();
        async move { pods.get(name).await.unwrap() }
    };

    create(&pods, pod("fits", "800m", json!({}))).await;
    until("the binding", || async { node_of(&get("fits").await).filter(|n| n == "a") }).await;
    assert_eq!(scheduled(&get("fits").await).map(|c| c.0).as_deref(), Some("True"));
    let events: Api<Event> = Api::namespaced(admin.clone(), "default");
    let event = |reason: &'static str| {
        let events = events.clone();
        async move {
            let all = events.list(&ListParams::default()).await.unwrap();
            all.items.into_iter().find(|e| e.reason.as_deref() == Some(reason)).and_then(|e| e.message)
        }
    };
    assert_eq!(until("its event", || event("Scheduled")).await, "Successfully assigned default/fits to a");

    create(&pods, pod("waits", "800m", json!({}))).await;
    let (status, reason, message) = until("the reason", || async {
        scheduled(&get("waits").await).filter(|(_, reason, _)| reason == "Unschedulable")
    })
    .await;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Unschedulable"));
    assert_eq!(
        message,
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    assert_eq!(until("the event", || event("FailedScheduling")).await, message);

    create(&pods, pod("gated", "1m", json!({"schedulingGates": [{"name": "example.com/gate"}]}))).await;
    let (_, reason, _) = scheduled(&get("gated").await).unwrap();
    assert_eq!(reason, "SchedulingGated");

    create(&pods, pod("important", "500m", json!({"priorityClassName": "important"}))).await;
    until("the victim is told to go", || async { get("fits").await.metadata.deletion_timestamp }).await;
    let nominated =
        until("the nomination", || async { get("important").await.status?.nominated_node_name }).await;
    assert_eq!(nominated, "a");
    // no kubelet ends the victim here
    pods.delete("fits", &DeleteParams::default().grace_period(0)).await.unwrap();
    until("the room is taken", || async { node_of(&get("important").await).filter(|n| n == "a") }).await;
    assert_eq!(node_of(&get("waits").await), None);

    stop.cancel();
    running.await.unwrap();
}
