//! Prints what the hot paths cost: `cargo run --release -p schema --example timing`.

use std::hint::black_box;
use std::time::Instant;

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-7d4b9c6f5-x2x9p","generateName":"web-7d4b9c6f5-","namespace":"default","uid":"b7a3f0b2-1f0d-4c63-9a35-0a7a55c2a111","resourceVersion":"1723","creationTimestamp":"2026-11-22T22:08:20Z","labels":{"app":"web","pod-template-hash":"7d4b9c6f5"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-7d4b9c6f5","uid":"aaaa","controller":true,"blockOwnerDeletion":true}]},"spec":{"volumes":[{"name":"kube-api-access-abcde","projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},{"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}},{"downwardAPI":{"items":[{"path":"namespace","fieldRef":{"apiVersion":"v1","fieldPath":"metadata.namespace"}}]}}],"defaultMode":420}}],"containers":[{"name":"web","image":"nginx:1.27","command":["nginx","-g","daemon off;"],"ports":[{"containerPort":80,"protocol":"TCP"}],"env":[{"name":"A","value":"b"},{"name":"POD","valueFrom":{"fieldRef":{"apiVersion":"v1","fieldPath":"metadata.name"}}}],"resources":{"limits":{"cpu":"100m","memory":"64Mi"},"requests":{"cpu":"100m","memory":"64Mi"}},"volumeMounts":[{"name":"kube-api-access-abcde","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}],"livenessProbe":{"httpGet":{"path":"/","port":80,"scheme":"HTTP"},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"default","serviceAccount":"default","nodeName":"n1","securityContext":{},"schedulerName":"default-scheduler","tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300},{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}],"priority":0,"enableServiceLinks":true,"preemptionPolicy":"PreemptLowerPriority"},"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2026-11-22T22:08:24Z"}],"hostIP":"10.0.0.1","podIP":"10.88.0.7","podIPs":[{"ip":"10.88.0.7"}],"startTime":"2026-11-22T22:08:20Z","qosClass":"Guaranteed"}}"#;

fn main() {
    let ty = schema::for_gvk("", "v1", "Pod").expect("the tables have pods");
    let bytes = schema::proto::from_json(POD.as_bytes()).expect("the pod fits its type");
    println!("{} bytes of JSON, {} of protobuf", POD.len(), bytes.len());
    time("strict check", || drop(black_box(schema::strict::check(ty, POD.as_bytes()))));
    time("JSON to protobuf", || {
        drop(black_box(schema::proto::object_from_json(ty, "v1", "Pod", POD.as_bytes())))
    });
    time("protobuf to JSON", || drop(black_box(schema::proto::to_json(&bytes))));
    time("serde_json::Value of it", || drop(black_box(serde_json::from_str::<serde_json::Value>(POD))));
}

fn time(what: &str, mut work: impl FnMut()) {
    const ROUNDS: u32 = 20_000;
    let start = Instant::now();
    for _ in 0..ROUNDS {
        work();
    }
    println!("{what}: {:?}", start.elapsed() / ROUNDS);
}
