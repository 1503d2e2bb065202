//! Prints what field management costs: `cargo run --release -p patch --example field_management`.

use patch::apply::{Apply, apply};
use patch::managed::{Write, update};
use patch::{Shape, compare, field_set_of};
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Instant;

fn main() {
    let pod: Value = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-7d4b9c6f5-x2x9p","generateName":"web-7d4b9c6f5-","namespace":"default","labels":{"app":"web","pod-template-hash":"7d4b9c6f5"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-7d4b9c6f5","uid":"aaaa","controller":true,"blockOwnerDeletion":true}]},"spec":{"volumes":[{"name":"kube-api-access-abcde","projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}}],"defaultMode":420}}],"containers":[{"name":"web","image":"nginx:1.27","ports":[{"containerPort":80,"protocol":"TCP"}],"env":[{"name":"A","value":"b"},{"name":"POD","valueFrom":{"fieldRef":{"apiVersion":"v1","fieldPath":"metadata.name"}}}],"resources":{"limits":{"cpu":"100m","memory":"64Mi"},"requests":{"cpu":"100m","memory":"64Mi"}},"volumeMounts":[{"name":"kube-api-access-abcde","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}],"livenessProbe":{"httpGet":{"path":"/","port":80,"scheme":"HTTP"},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"default","securityContext":{},"schedulerName":"default-scheduler","tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}],"priority":0,"enableServiceLinks":true}});
    let shape = Shape::from(schema::for_gvk("", "v1", "Pod").expect("the tables have pods"));
    let write = Write {
        manager: "kube-controller-manager",
        api_version: "v1",
        subresource: "",
        now: meta::Time::UNIX_EPOCH,
        reset_fields: None,
    };
    let mut created = pod.clone();
    update(None, &mut created, shape, &write);
    println!(
        "{} bytes of pod, {} of managedFields",
        pod.to_string().len(),
        created["metadata"]["managedFields"].to_string().len()
    );
    time("clone of the value", || drop(black_box(pod.clone())));
    time("clone, managed::update of a create", || {
        let mut new = pod.clone();
        update(None, &mut new, shape, &write);
        black_box(new);
    });
    let mut changed = created.clone();
    changed["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let status = Write { manager: "kubelet", subresource: "status", ..write };
    time("clone of the changed value", || drop(black_box(changed.clone())));
    time("clone, managed::update of a status write", || {
        let mut new = changed.clone();
        update(Some(&created), &mut new, shape, &status);
        black_box(new);
    });
    time("compare of equal pods", || drop(black_box(compare(&created, &created, shape))));
    time("field set of the pod", || drop(black_box(field_set_of(&pod, shape))));
    let request = Apply { write: Write { manager: "me", ..write }, kind: "Pod", force: true };
    time("apply of the pod to itself", || drop(black_box(apply(Some(&created), &pod, shape, &request))));
}

fn time(what: &str, mut work: impl FnMut()) {
    const ROUNDS: u32 = 5_000;
    let start = Instant::now();
    for _ in 0..ROUNDS {
        work();
    }
    println!("{what}: {:?}", start.elapsed() / ROUNDS);
}
