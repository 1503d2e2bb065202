//! The plugins together, as a pod, a node and a namespace meet them.

use super::*;
use auth::User;
use k8s_openapi::api::core::v1::{LimitRange, Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use meta::GroupResource;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

struct Objects(Vec<(&'static str, Object)>);

impl World for Objects {
    fn get(&self, _: &str, resource: &str, namespace: &str, name: &str) -> Option<Object> {
        self.list("", resource, namespace).into_iter().find(|o| o.meta().name.as_deref() == Some(name))
    }

    fn list(&self, _: &str, resource: &str, namespace: &str) -> Vec<Object> {
        let inside = |o: &Object| namespace.is_empty() || o.meta().namespace.as_deref() == Some(namespace);
        self.0.iter().filter(|(r, o)| *r == resource && inside(o)).map(|(_, o)| o.clone()).collect()
    }
}

fn object<T: DeserializeOwned + kinds::AnyObject>(value: Value) -> Object {
    Box::new(serde_json::from_value::<T>(value).unwrap())
}

fn world() -> Objects {
    Objects(vec![
        ("namespaces", object::<Namespace>(json!({"metadata": {"name": "ns"}}))),
        (
            "namespaces",
            object::<Namespace>(json!({"metadata": {"name": "going"}, "status": {"phase": "Terminating"}})),
        ),
        (
            "serviceaccounts",
            object::<ServiceAccount>(
                json!({"metadata": {"name": "default", "namespace": "ns"}, "imagePullSecrets": [{"name": "reg"}]}),
            ),
        ),
        (
            "priorityclasses",
            object::<PriorityClass>(
                json!({"metadata": {"name": "high"}, "value": 7, "preemptionPolicy": "Never"}),
            ),
        ),
        (
            "limitranges",
            object::<LimitRange>(json!({"metadata": {"name": "l", "namespace": "ns"}, "spec": {"limits": [
                {"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "2"}},
            ]}})),
        ),
        ("nodes", object::<Node>(json!({"metadata": {"name": "n1", "uid": "u"}}))),
        (
            "pods",
            object::<Pod>(
                json!({"metadata": {"name": "mine", "namespace": "ns", "uid": "p1"}, "spec": {"nodeName": "n1", "containers": []}}),
            ),
        ),
        (
            "pods",
            object::<Pod>(
                json!({"metadata": {"name": "other", "namespace": "ns"}, "spec": {"nodeName": "n2", "containers": []}}),
            ),
        ),
    ])
}

fn run<T: DeserializeOwned + kinds::AnyObject>(
    user: &User,
    operation: Operation,
    path: &str,
    old: Option<Value>,
    new: Option<Value>,
) -> Result<Value, String> {
    let (namespace, rest) = path.split_once('|').unwrap_or(("", path));
    let (resource, name) = rest.split_once(':').unwrap_or((rest, ""));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let gr = GroupResource { group: "".into(), resource: resource.to_owned().into() };
    let old = old.map(object::<T>);
    let mut new = new.map(object::<T>);
    let world = world();
    let request = Request {
        operation,
        resource: &gr,
        subresource,
        namespace,
        name,
        user,
        old: old.as_ref(),
        world: &world,
        suffix: "abcde",
        warn: &|_| {},
    };
    admit(&request, new.as_mut()).and_then(|()| validate(&request, new.as_ref())).map_err(|e| e.message)?;
    Ok(new.map_or(Value::Null, |o| o.to_value()))
}

fn pod(spec: Value) -> Value {
    let mut all = json!({"containers": [{"name": "c", "image": "i"}]});
    for (k, v) in spec.as_object().unwrap() {
        all[k] = v.clone();
    }
    json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": all})
}

#[test]
fn a_pod_is_given_what_it_needs() {
    let user = User::component("u", &[]);
    let got = run::<Pod>(&user, Operation::Create, "ns|pods:p", None, Some(pod(json!({})))).unwrap();
    let spec = &got["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "reg"}]));
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], "kube-api-access-abcde");
    assert_eq!(
        spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"],
        3607
    );
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["preemptionPolicy"], "PreemptLowerPriority");
    assert_eq!(spec["tolerations"][1]["key"], "node.kubernetes.io/unreachable");
    assert_eq!(spec["tolerations"][1]["tolerationSeconds"], 300);
    assert_eq!(
        spec["containers"][0]["resources"],
        json!({"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}})
    );
    assert_eq!(
        got["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
}

#[test]
fn pods_that_are_refused() {
    let user = User::component("u", &[]);
    let check = |path: &str, spec: Value, expect: Result<(), &str>| {
        let got = run::<Pod>(&user, Operation::Create, path, None, Some(pod(spec))).map(drop);
        assert_eq!(got, expect.map_err(str::to_owned));
    };
    check("ns|pods:p", json!({"priorityClassName": "high", "preemptionPolicy": "Never"}), Ok(()));
    check("ns|pods:p", json!({"priorityClassName": "system-node-critical"}), Ok(()));
    check(
        "ns|pods:p",
        json!({"priorityClassName": "none"}),
        Err(r#"pods "p" is forbidden: no PriorityClass with name none was found"#),
    );
    check(
        "ns|pods:p",
        json!({"serviceAccountName": "none"}),
        Err(
            r#"pods "p" is forbidden: error looking up service account ns/none: serviceaccount "none" not found"#,
        ),
    );
    check(
        "ns|pods:p",
        json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "3"}}}]}),
        Err(r#"pods "p" is forbidden: maximum cpu usage per Container is 2, but limit is 3"#),
    );
    check(
        "ns|pods:p",
        json!({"runtimeClassName": "gvisor"}),
        Err(r#"pods "p" is forbidden: pod rejected: RuntimeClass "gvisor" not found"#),
    );
    check("gone|pods:p", json!({}), Err(r#"namespaces "gone" not found"#));
    check(
        "going|pods:p",
        json!({}),
        Err(
            r#"pods "p" is forbidden: unable to create new content in namespace going because it is being terminated"#,
        ),
    );
    let delete = run::<Namespace>(&user, Operation::Delete, "default|namespaces:default", None, None);
    assert_eq!(delete, Err(r#"namespaces "default" is forbidden: this namespace may not be deleted"#.into()));
}

#[test]
fn a_kubelet_keeps_to_its_node() {
    let kubelet = User::component("system:node:n1", &["system:nodes"]);
    let node = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}, "spec": {}});
    let check =
        |operation: Operation, path: &str, old: Option<Value>, new: Value, expect: Result<(), &str>| {
            let got = run::<Node>(&kubelet, operation, path, old, Some(new)).map(drop);
            assert_eq!(got, expect.map_err(str::to_owned), "{path}");
        };
    let plain = json!({"kubernetes.io/os": "linux", "node.kubernetes.io/x": "", "mine": "yes"});
    check(Operation::Create, "nodes", None, node("n1", plain.clone()), Ok(()));
    check(
        Operation::Create,
        "nodes",
        None,
        node("n2", plain.clone()),
        Err(r#"nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2""#),
    );
    let steering =
        json!({"node-restriction.kubernetes.io/a": "", "node-role.kubernetes.io/control-plane": ""});
    check(
        Operation::Create,
        "nodes",
        None,
        node("n1", steering.clone()),
        Err(
            r#"nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: node-restriction.kubernetes.io/a, node-role.kubernetes.io/control-plane"#,
        ),
    );
    check(
        Operation::Update,
        "nodes/status:n1",
        Some(node("n1", steering.clone())),
        node("n1", steering),
        Ok(()),
    );
    let mut tainted = node("n1", plain.clone());
    tainted["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
    check(
        Operation::Update,
        "nodes:n1",
        Some(node("n1", plain)),
        tainted,
        Err(r#"nodes "n1" is forbidden: node "n1" is not allowed to modify taints"#),
    );
    let delete = |name: &str| {
        run::<Pod>(&kubelet, Operation::Delete, &format!("ns|pods:{name}"), None, None).map(drop)
    };
    assert_eq!(delete("mine"), Ok(()));
    assert!(delete("other").unwrap_err().contains("can only delete pods with spec.nodeName set to itself"));
}
