//! One decision, and a thousand of them, on 5,000 nodes.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use k8s_openapi::api::core::v1::{Node, Pod};
use scheduler::{PodInfo, Snapshot, Turn, plugins::default_profile, schedule};
use serde_json::{Value, json};
use std::sync::Arc;

const NODES: usize = 5_000;
const PODS: usize = 1_000;

fn cluster() -> Snapshot {
    let mut snapshot = Snapshot::new();
    for i in 0..NODES {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": format!("node-{i}"), "labels": {
                "kubernetes.io/hostname": format!("node-{i}"), "topology.kubernetes.io/zone": format!("zone-{}", i % 3)}},
            "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"}}}))
        .expect("a node");
        snapshot.set_node(Arc::new(node));
    }
    snapshot
}

fn pod(i: usize, spec: &Value) -> Arc<PodInfo> {
    let mut value = json!({"metadata": {"name": format!("pod-{i}"), "namespace": "default", "labels": {"app": "demo"}},
        "spec": {"containers": [{"name": "c", "image": "demo", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]}});
    for (k, v) in spec.as_object().into_iter().flatten() {
        value["spec"][k] = v.clone();
    }
    let pod: Pod = serde_json::from_value(value).expect("a pod");
    Arc::new(PodInfo::new(Arc::new(pod)))
}

fn thousand(c: &mut Criterion) {
    let profile = default_profile();
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "demo"}}}]});
    let mut group = c.benchmark_group("schedule");
    group.sample_size(10);
    for (name, spec) in [("plain", json!({})), ("spread over zones", spread)] {
        let pods: Vec<_> = (0..PODS).map(|i| pod(i, &spec)).collect();
        group.bench_function(format!("{PODS} pods on {NODES} nodes, {name}"), |b| {
            b.iter_batched(
                cluster,
                |mut snapshot| {
                    let mut start = 0;
                    for (i, pod) in pods.iter().enumerate() {
                        let turn = Turn { start, dice: i as u64 };
                        let placement = schedule(&profile, &snapshot, pod, turn).expect("there is room");
                        start = (start + placement.evaluated) % NODES;
                        snapshot.assume(pod.clone(), &placement.node);
                    }
                    snapshot
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, thousand);
criterion_main!(benches);
