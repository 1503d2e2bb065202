//! The controllers as they run: over a client, with queues and workers, against an API server in memory.

#[path = "../src/sim/served.rs"]
mod served;

use client::testing::FakeApi;
use controllers::{Config, Metrics};
use serde_json::{Value, json};
use served::KINDS;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

struct Running {
    api: FakeApi,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start() -> Running {
    let api = FakeApi::new(KINDS);
    api.put(json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}, "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }));
    let stop = CancellationToken::new();
    let config = Config {
        cluster_cidr: Some("10.244.0.0/16".parse().expect("a network")),
        root_ca_pem: Some("pem".into()),
        leader_elect: true,
        metrics: Metrics::default(),
        ..Config::default()
    };
    let task = tokio::spawn(controllers::run(api.client(), config, stop.clone()));
    Running { api, stop, task }
}

impl Running {
    async fn until(&self, what: &str, mut f: impl FnMut(&FakeApi) -> bool) {
        let wait = async {
            let mut seen = usize::MAX;
            loop {
                // Look again whenever something was written.
                let n = self.api.log_len();
                if n != seen && f(&self.api) {
                    return;
                }
                seen = n;
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("{what}"));
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the controllers end in peace");
    }
}

fn deployment(replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "ns", "name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    })
}

fn owned(kind: &str, api_version: &str, name: &str, owner: &Value, blocks: bool) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"namespace": "ns", "name": name, "ownerReferences": [{
            "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"], "blockOwnerDeletion": blocks,
        }]},
    })
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "ns", "name": name}})
}

async fn delete(api: &FakeApi, plural: &str, name: &str, policy: &str) {
    let body = json!({"propagationPolicy": policy}).to_string();
    let group = if plural == "deployments" { "/apis/apps/v1" } else { "/api/v1" };
    let path = format!("{group}/namespaces/ns/{plural}/{name}");
    let (code, answer) = api.call(&http::Method::DELETE, &path, "application/json", body.as_bytes());
    assert_eq!(code, 200, "{answer}");
}

#[tokio::test]
async fn a_deployment_gets_its_pods_and_takes_them_along() {
    let r = start();
    r.api.put(deployment(3));
    r.until("three pods", |api| api.list("pods").len() == 3).await;
    r.until("account and certificate", |api| {
        api.get("serviceaccounts", "ns", "default").is_some()
            && api.get("configmaps", "ns", "kube-root-ca.crt").is_some()
    })
    .await;
    r.until("an event", |api| {
        let name = api.list("replicasets")[0]["metadata"]["name"].as_str().unwrap().to_owned();
        api.list("events").iter().any(|e| e["message"] == format!("Scaled up replica set {name} from 0 to 3"))
    })
    .await;
    delete(&r.api, "deployments", "web", "Background").await;
    r.until("nothing left", |api| api.list("pods").is_empty() && api.list("replicasets").is_empty()).await;
    r.stop().await;
}

#[tokio::test]
async fn foreground_waits_for_dependents_and_orphans_are_left() {
    let r = start();
    r.api.put(map("owner"));
    let owner = r.api.get("configmaps", "ns", "owner").unwrap();
    let mut held = owned("Secret", "v1", "held", &owner, true);
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    r.api.put(held);
    r.api.put(owned("Secret", "v1", "free", &owner, true));
    delete(&r.api, "configmaps", "owner", "Foreground").await;
    r.until("the free one is gone", |api| api.get("secrets", "ns", "free").is_none()).await;
    r.until("the held one is going", |api| {
        api.get("secrets", "ns", "held").is_some_and(|s| s["metadata"]["deletionTimestamp"].is_string())
    })
    .await;
    assert!(r.api.get("configmaps", "ns", "owner").is_some(), "it waits for the one that is held");
    r.api.remove("secrets", "ns", "held");
    r.until("the owner is gone", |api| api.get("configmaps", "ns", "owner").is_none()).await;

    r.api.put(map("owner"));
    let owner = r.api.get("configmaps", "ns", "owner").unwrap();
    r.api.put(owned("Secret", "v1", "left", &owner, true));
    delete(&r.api, "configmaps", "owner", "Orphan").await;
    r.until("the owner is gone", |api| api.get("configmaps", "ns", "owner").is_none()).await;
    assert_eq!(r.api.get("secrets", "ns", "left").unwrap()["metadata"]["ownerReferences"], json!([]));
    r.stop().await;
}

#[tokio::test]
async fn what_has_no_living_owner_goes_and_what_has_one_stays() {
    let r = start();
    r.api.put(map("alive"));
    let alive = r.api.get("configmaps", "ns", "alive").unwrap();
    let mut dead = alive.clone();
    dead["metadata"]["uid"] = json!("long-gone");
    r.api.put(owned("Secret", "v1", "lost", &dead, true));
    let mut both = owned("Secret", "v1", "both", &alive, true);
    both["metadata"]["ownerReferences"]
        .as_array_mut()
        .unwrap()
        .push(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "never"}));
    r.api.put(both);
    r.until("the lost one is gone", |api| api.get("secrets", "ns", "lost").is_none()).await;
    r.until("the dead reference is gone", |api| {
        api.get("secrets", "ns", "both").unwrap()["metadata"]["ownerReferences"].as_array().unwrap().len()
            == 1
    })
    .await;
    r.stop().await;
}

#[tokio::test]
async fn a_namespace_is_emptied_and_let_go() {
    let r = start();
    r.api.put(map("m"));
    let mut held = map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    r.api.put(held);
    let (code, _) = r.api.call(&http::Method::DELETE, "/api/v1/namespaces/ns", "application/json", b"{}");
    assert_eq!(code, 200);
    r.until("the conditions say what holds it", |api| {
        let ns = api.get("namespaces", "", "ns").unwrap();
        let c = ns["status"]["conditions"].as_array().cloned().unwrap_or_default();
        c.iter().any(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True")
    })
    .await;
    assert_eq!(r.api.get("namespaces", "", "ns").unwrap()["status"]["phase"], "Terminating");
    assert!(r.api.get("configmaps", "ns", "m").is_none());
    r.api.remove("configmaps", "ns", "held");
    r.until("the namespace is gone", |api| api.get("namespaces", "", "ns").is_none()).await;
    r.stop().await;
}

#[tokio::test]
async fn a_quota_counts_what_is_there_and_what_goes() {
    let r = start();
    let used = |api: &FakeApi| api.get("resourcequotas", "ns", "q").unwrap()["status"]["used"].clone();
    let pod = |name: &str, cpu: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "ns", "name": name},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        })
    };
    r.until("the root certificate", |api| api.get("configmaps", "ns", "kube-root-ca.crt").is_some()).await;
    r.api.put(pod("a", "500m"));
    r.api.put(pod("b", "1"));
    r.api.put(map("m"));
    r.api.put(json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"namespace": "ns", "name": "q"},
        "spec": {"hard": {"pods": "5", "requests.cpu": "2", "count/configmaps": "4", "odd": "1"}},
    }));
    r.until("a count", |api| {
        used(api) == json!({"pods": "2", "requests.cpu": "1500m", "count/configmaps": "2"})
    })
    .await;
    delete(&r.api, "configmaps", "m", "Background").await;
    r.until("one map less", |api| used(api)["count/configmaps"] == "1").await;
    r.api.edit("pods", "ns", "b", |p| p["status"] = json!({"phase": "Succeeded"}));
    r.until("one pod less", |api| used(api)["requests.cpu"] == "500m" && used(api)["pods"] == "1").await;
    r.api.edit("resourcequotas", "ns", "q", |q| q["status"]["hard"] = json!({"pods": "99"}));
    r.until("the status as it should be", |api| {
        api.get("resourcequotas", "ns", "q").unwrap()["status"]["hard"]["pods"] == "5"
    })
    .await;
    r.stop().await;
}
