//! Nodes and pods for tests, from JSON over what every test needs.

use crate::pod::PodInfo;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use std::sync::Arc;

/// Lays `from` over `into`; null takes its place too.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (k, v) in from {
                merge(into.entry(k).or_insert(Value::Null), v);
            }
        }
        (into, from) => *into = from,
    }
}

/// A node with 4 CPUs, 8 GiB and room for 110 pods, changed by `patch`.
pub fn node(name: &str, patch: Value) -> Arc<Node> {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "100Gi", "pods": "110"}},
    });
    merge(&mut value, patch);
    Arc::new(serde_json::from_value(value).unwrap())
}

/// A pod of one container in `default`, labelled with its name, whose spec is changed by `patch`.
pub fn pod(name: &str, patch: Value) -> Arc<PodInfo> {
    pod_with(name, json!({"spec": patch}))
}

/// As [`pod`], with the whole object open to change.
pub fn pod_with(name: &str, patch: Value) -> Arc<PodInfo> {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {"app": name}},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "image": "demo"}]},
    });
    merge(&mut value, patch);
    let pod: Pod = serde_json::from_value(value).unwrap();
    Arc::new(PodInfo::new(Arc::new(pod)))
}
