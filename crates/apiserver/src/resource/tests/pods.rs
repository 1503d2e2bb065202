//! Pods and workloads: binding, graceful deletion, eviction, status and scale.

use super::harness::{Api, JSON, message, version};
use crate::resource::{AdmitAll, Config, Resources};
use serde_json::{Value, json};
use std::sync::Arc;
use store::{Expect, KeyValue, Page, Range, Revision, Store, StoreError, Watch, Write, Written};

const PODS: &str = "/api/v1/namespaces/a/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/a/deployments";

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "a1"}},
        "spec": {"containers": [{"name": "c", "image": "demo:1"}]}
    })
}

fn binding(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": node}})
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let api = Api::new().await;
    api.created(PODS, &pod("p")).await;
    let path = format!("{PODS}/p/binding");
    let (code, answer) = api.post(&path, &binding("p", "n1")).await;
    assert_eq!((code, &answer["status"]), (201, &json!("Success")), "{answer}");
    let (_, bound) = api.get(&format!("{PODS}/p")).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let conditions = bound["status"]["conditions"].as_array().expect("conditions");
    assert!(conditions.iter().any(|c| c["type"] == "PodScheduled" && c["status"] == "True"), "{bound}");
    let again = api.post(&path, &binding("p", "n2")).await;
    let why = "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\"";
    assert_eq!(message(&again), (409, "Conflict", why));
    let absent = api.post(&format!("{PODS}/none/binding"), &binding("none", "n1")).await;
    assert_eq!(message(&absent), (404, "NotFound", "pods \"none\" not found"));
    let mut other = binding("p", "n1");
    other["metadata"]["uid"] = json!("x");
    assert_eq!(api.post(&path, &other).await.0, 409);
    api.created(PODS, &pod("q")).await;
    assert_eq!(api.post("/api/v1/namespaces/a/bindings", &binding("q", "n1")).await.0, 201);
    let (_, on_node) = api.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await;
    assert_eq!(on_node["items"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_running_pod_gets_its_grace_and_goes_when_it_is_over() {
    let api = Api::new().await;
    let path = format!("{PODS}/p");
    api.created(PODS, &pod("p")).await;
    api.post(&format!("{path}/binding"), &binding("p", "n1")).await;
    let (code, marked) = api.delete(&path).await;
    assert_eq!((code, &marked["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)), "{marked}");
    let (_, again) = api.delete(&path).await;
    assert_eq!(version(&again), version(&marked));
    let (_, shorter) = api.delete(&format!("{path}?gracePeriodSeconds=5")).await;
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let (code, gone) = api.delete(&format!("{path}?gracePeriodSeconds=0")).await;
    assert_eq!((code, &gone["metadata"]["name"]), (200, &json!("p")));
    assert_eq!(api.get(&path).await.0, 404);

    // Not bound: nothing to wait for.
    api.created(PODS, &pod("q")).await;
    assert_eq!(api.delete(&format!("{PODS}/q")).await.0, 200);
    assert_eq!(api.get(&format!("{PODS}/q")).await.0, 404);
}

#[tokio::test]
async fn status_and_specification_are_written_apart() {
    let api = Api::new().await;
    let path = format!("{PODS}/p");
    let made = api.created(PODS, &pod("p")).await;
    let mut change = made.clone();
    change["status"]["phase"] = json!("Running");
    change["metadata"]["labels"]["app"] = json!("other");
    let (code, main) = api.put(&path, &change).await;
    assert_eq!((code, &main["status"]["phase"]), (200, &json!("Pending")), "{main}");
    assert_eq!(main["metadata"]["labels"]["app"], "other");
    let patch = json!({"status": {"phase": "Running"}, "spec": {"nodeName": "n1"}});
    let (code, status) = api.merge(&format!("{path}/status"), &patch).await;
    assert_eq!((code, &status["status"]["phase"]), (200, &json!("Running")), "{status}");
    assert_eq!(status["spec"].get("nodeName"), None);
    let (_, got) = api.get(&format!("{path}/status")).await;
    assert_eq!(got, status);
    assert_eq!(api.get(&format!("{path}/nonsense")).await.0, 404);
}

#[tokio::test]
async fn eviction_respects_a_budget() {
    let api = Api::new().await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    api.created(PODS, &pod("p")).await;
    api.merge(
        &format!("{PODS}/p/status"),
        &json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
    )
    .await;
    let budgets = "/apis/policy/v1/namespaces/a/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a1"}}}});
    api.created(budgets, &budget).await;
    let status = |allowed: i64| json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    let (code, answer) = api.merge(&format!("{budgets}/b/status"), &status(0)).await;
    assert_eq!(code, 200, "{answer}");
    let refused = api.post(&format!("{PODS}/p/eviction"), &eviction).await;
    let why = "Cannot evict pod as it would violate the pod's disruption budget.";
    assert_eq!(message(&refused), (429, "TooManyRequests", why));
    let cause = "The disruption budget b needs 1 healthy pods and has 1 currently";
    assert_eq!(refused.1["details"]["causes"][0]["message"], cause);
    api.merge(&format!("{budgets}/b/status"), &status(1)).await;
    let (code, answer) = api.post(&format!("{PODS}/p/eviction"), &eviction).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(api.get(&format!("{PODS}/p")).await.0, 404);
    let (_, used) = api.get(&format!("{budgets}/b")).await;
    assert_eq!(used["status"]["disruptionsAllowed"], 0);
    assert!(used["status"]["disruptedPods"]["p"].is_string(), "{used}");
    let condition = &used["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("InsufficientPods")));
}

#[tokio::test]
async fn an_unhealthy_pod_goes_as_the_budgets_policy_says() {
    let budgets = "/apis/policy/v1/namespaces/a/poddisruptionbudgets";
    // the pod's phase and readiness, the policy, healthy pods of 2: the answer, and whether the budget was used
    for (phase, ready, policy, healthy, expect, used) in [
        ("Running", "False", json!(null), 2, 201, false),
        ("Running", "False", json!(null), 1, 429, false),
        ("Running", "False", json!("AlwaysAllow"), 1, 201, false),
        ("Running", "True", json!("AlwaysAllow"), 1, 429, false),
        ("Running", "True", json!(null), 3, 201, true),
        ("Pending", "False", json!(null), 1, 201, false),
        ("Failed", "False", json!(null), 1, 201, false),
    ] {
        let api = Api::new().await;
        api.created(PODS, &pod("p")).await;
        let status = json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
        assert_eq!(api.merge(&format!("{PODS}/p/status"), &status).await.0, 200);
        let spec = json!({"minAvailable": 2, "selector": {}, "unhealthyPodEvictionPolicy": policy});
        api.created(budgets, &json!({"metadata": {"name": "b"}, "spec": spec})).await;
        let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": (healthy - 2).max(0),
            "currentHealthy": healthy, "desiredHealthy": 2, "expectedPods": 3}});
        assert_eq!(api.merge(&format!("{budgets}/b/status"), &status).await.0, 200);
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
        let what = format!("{phase} {ready} {policy} {healthy}");
        let (code, answer) = api.post(&format!("{PODS}/p/eviction"), &eviction).await;
        assert_eq!(code, expect, "{what}: {answer}");
        if expect == 429 {
            assert_eq!(answer["details"]["causes"][0]["reason"], "DisruptionBudget", "{what}");
        }
        let (_, budget) = api.get(&format!("{budgets}/b")).await;
        assert_eq!(budget["status"]["disruptedPods"]["p"].is_string(), used, "{what}: {budget}");
    }
}

#[tokio::test]
async fn scale_reads_and_writes_the_replicas() {
    let api = Api::new().await;
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        }
    });
    let made = api.created(DEPLOYMENTS, &deployment).await;
    let path = format!("{DEPLOYMENTS}/d/scale");
    let (code, mut scale) = api.get(&path).await;
    assert_eq!(
        (code, &scale["kind"], &scale["spec"]["replicas"]),
        (200, &json!("Scale"), &json!(2)),
        "{scale}"
    );
    assert_eq!(scale["status"]["selector"], "app=d");
    scale["spec"]["replicas"] = json!(3);
    let (code, changed) = api.put(&path, &scale).await;
    assert_eq!((code, &changed["spec"]["replicas"]), (200, &json!(3)), "{changed}");
    assert_eq!(api.put(&path, &scale).await.0, 409, "the version is stale");
    let (code, changed) = api.merge(&path, &json!({"spec": {"replicas": 5}})).await;
    assert_eq!((code, &changed["spec"]["replicas"]), (200, &json!(5)), "{changed}");
    let (_, got) = api.get(&format!("{DEPLOYMENTS}/d")).await;
    assert_eq!(got["spec"]["replicas"], 5);
    assert_eq!(
        got["metadata"]["generation"].as_i64(),
        made["metadata"]["generation"].as_i64().map(|g| g + 2)
    );
    let refused = api.merge(&path, &json!({"spec": {"replicas": -1}})).await;
    assert_eq!(refused.0, 422);
}

#[tokio::test]
async fn a_table_marks_the_pods_that_have_ended() {
    let api = Api::new().await;
    for phase in ["Running", "Succeeded", "Failed"] {
        let name = phase.to_lowercase();
        api.created(PODS, &pod(&name)).await;
        let (code, _) =
            api.merge(&format!("{PODS}/{name}/status"), &json!({"status": {"phase": phase}})).await;
        assert_eq!(code, 200);
    }
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let body = api.raw("GET", PODS, &table, "").await.into_body();
    let bytes = http_body_util::BodyExt::collect(body).await.expect("a body").to_bytes();
    let table: Value = serde_json::from_slice(&bytes).expect("JSON");
    let rows = table["rows"].as_array().expect("rows").iter();
    let marked: Vec<_> = rows.map(|r| (&r["cells"][0], &r["conditions"][0]["reason"])).collect();
    let expect = [json!(["failed", "Failed"]), json!(["running", null]), json!(["succeeded", "Succeeded"])];
    assert_eq!(json!(marked), json!(expect));
}

#[tokio::test]
async fn objects_come_in_yaml_and_protobuf() {
    let api = Api::new().await;
    let yaml =
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: w\nspec:\n  containers:\n  - name: c\n    image: i\n";
    let (code, made) = api.send("POST", PODS, "application/yaml", yaml).await;
    assert_eq!(code, 201, "{made}");
    let proto = schema::proto::from_json(pod("p").to_string().as_bytes()).expect("a pod");
    let headers = [("content-type", "application/vnd.kubernetes.protobuf"), ("accept", JSON)];
    let response = api.raw("POST", PODS, &headers, proto).await;
    assert_eq!(response.status(), 201);
    let headers = [("accept", "application/vnd.kubernetes.protobuf")];
    let response = api.raw("GET", &format!("{PODS}/p"), &headers, "").await;
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
    let (_, _, json) = schema::proto::to_json(&bytes).expect("an envelope");
    let (_, plain) = api.get(&format!("{PODS}/p")).await;
    let back: Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(
        (&back["metadata"]["uid"], &back["spec"]["containers"][0]["image"]),
        (&plain["metadata"]["uid"], &json!("demo:1"))
    );
}

/// Removes whatever is written with a mark of deletion, as a kubelet does that sees the mark at once.
struct Hasty(Arc<store::Embedded>);

#[async_trait::async_trait]
impl Store for Hasty {
    async fn write(&self, write: Write) -> Result<Written, StoreError> {
        let value = String::from_utf8_lossy(write.value.as_deref().unwrap_or_default()).into_owned();
        let key = write.key.clone();
        let written = self.0.write(write).await?;
        if value.contains("deletionTimestamp") {
            self.0.write(Write { key, expect: Expect::Any, value: None, ttl: None }).await?;
        }
        Ok(written)
    }
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.0.get(key).await
    }
    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.0.range(range).await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.0.watch(prefix, after).await
    }
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.0.revision().await
    }
    async fn check_readable(&self, at: Revision) -> Result<(), StoreError> {
        self.0.check_readable(at).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.0.compact(revision).await
    }
}

#[tokio::test]
async fn a_pod_that_its_kubelet_removes_first_was_deleted_all_the_same() {
    let store = store::memory::open();
    let hasty = Arc::new(Hasty(store.clone()));
    let resources = Resources::start(hasty, kinds::ALL, Arc::new(AdmitAll), Config::default())
        .await
        .expect("an empty store");
    let api = Api { resources, store };
    api.created(PODS, &pod("p")).await;
    api.post(&format!("{PODS}/p/binding"), &binding("p", "n1")).await;
    let ended = json!({"status": {"phase": "Succeeded"}}).to_string();
    let (code, _) = api.send("PATCH", &format!("{PODS}/p/status"), super::harness::MERGE, &ended).await;
    assert_eq!(code, 200);
    let (code, deleted) = api.delete(&format!("{PODS}/p")).await;
    assert_eq!((code, &deleted["metadata"]["name"]), (200, &json!("p")), "{deleted}");
    assert_eq!(api.get(&format!("{PODS}/p")).await.0, 404);
}
