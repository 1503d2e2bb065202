//! Whether a pod that was bound here may run here (upstream's predicate admission). Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use meta::taints::tolerates;

use crate::quantity::{bytes_text, millis, millis_text, value};
use crate::sync::{Failure, init_containers, is_sidecar};

/// A refusal as the pod's status tells it.
pub(crate) fn refuse(reason: &str, message: impl Into<String>) -> Failure {
    Failure {
        reason: reason.into(),
        message: format!("Pod was rejected: {}", message.into()),
        ..Failure::default()
    }
}

/// Refuses a pod that does not fit the node beside the others; `None` admits it.
pub fn admit(pod: &Pod, others: &[&Pod], node: &Node) -> Option<Failure> {
    let spec = pod.spec.as_ref()?;
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let wanted_os = pod.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/os"));
    if wanted_os.is_some_and(|os| os != "linux") {
        return Some(refuse(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ));
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return Some(refuse(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        ));
    }
    if let Some(failure) = resources_fit(pod, others, node) {
        return Some(failure);
    }
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if !matches_selector(pod, &labels, name) {
        return Some(refuse(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ));
    }
    if spec.node_name.as_deref().is_some_and(|n| !n.is_empty() && n != name) {
        return Some(refuse(
            "NodeName",
            "Predicate NodeName failed: node(s) didn't match the requested node name",
        ));
    }
    if ports_taken(pod, others) {
        return Some(refuse(
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        ));
    }
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let untolerated =
        taints.iter().any(|t| t.effect == "NoExecute" && !tolerations.iter().any(|x| tolerates(x, t)));
    untolerated.then(|| {
        refuse(
            "TaintToleration",
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
        )
    })
}

/// What a pod asks for: thousandths of CPU, otherwise whole units.
pub fn requests(pod: &Pod) -> BTreeMap<String, i64> {
    let mut total = totals(pod, |r| &r.requests);
    add(&mut total, &read(&pod.spec.as_ref().and_then(|s| s.overhead.clone())));
    total
}

/// Its limits as a whole, in the same units.
pub fn limits(pod: &Pod) -> BTreeMap<String, i64> {
    let mut total = totals(pod, |r| &r.limits);
    // what has no limit gets none from the overhead
    let mut overhead = read(&pod.spec.as_ref().and_then(|s| s.overhead.clone()));
    overhead.retain(|name, _| total.contains_key(name));
    add(&mut total, &overhead);
    total
}

type List = Option<BTreeMap<String, Quantity>>;

fn totals(pod: &Pod, list: fn(&ResourceRequirements) -> &List) -> BTreeMap<String, i64> {
    let Some(spec) = &pod.spec else { return BTreeMap::new() };
    let of = |c: &k8s_openapi::api::core::v1::Container| {
        c.resources.as_ref().map(|r| read(list(r))).unwrap_or_default()
    };
    let mut total = BTreeMap::new();
    for c in &spec.containers {
        add(&mut total, &of(c));
    }
    // sidecars run beside everything behind them, other init containers one at a time
    let (mut sidecars, mut peak) = (BTreeMap::new(), BTreeMap::new());
    for c in init_containers(pod) {
        let mut need = of(c);
        if is_sidecar(c) {
            add(&mut total, &need);
            add(&mut sidecars, &need);
            max(&mut peak, &sidecars);
        } else {
            add(&mut need, &sidecars);
            max(&mut peak, &need);
        }
    }
    max(&mut total, &peak);
    if let Some(level) = &spec.resources {
        total.extend(read(list(level)));
    }
    total
}

fn read(list: &List) -> BTreeMap<String, i64> {
    list.iter().flatten().map(|(name, q)| (name.clone(), amount(name, q))).collect()
}

/// Amounts in the API's form.
pub fn quantities(amounts: &BTreeMap<String, i64>) -> Option<BTreeMap<String, Quantity>> {
    let text = |name: &str, amount: i64| match name {
        "cpu" => millis_text(amount),
        _ if name == "memory" || name == "ephemeral-storage" || name.starts_with("hugepages-") => {
            bytes_text(amount)
        }
        _ => amount.to_string(),
    };
    let list = amounts.iter().map(|(name, amount)| (name.clone(), Quantity(text(name, *amount))));
    (!amounts.is_empty()).then(|| list.collect())
}

fn amount(name: &str, quantity: &Quantity) -> i64 {
    let read = if name == "cpu" { millis(&quantity.0) } else { value(&quantity.0) };
    read.unwrap_or(0)
}

fn add(to: &mut BTreeMap<String, i64>, from: &BTreeMap<String, i64>) {
    for (name, amount) in from {
        *to.entry(name.clone()).or_default() += amount;
    }
}

fn max(to: &mut BTreeMap<String, i64>, from: &BTreeMap<String, i64>) {
    for (name, amount) in from {
        let entry = to.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

fn resources_fit(pod: &Pod, others: &[&Pod], node: &Node) -> Option<Failure> {
    let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref())?;
    let has = |name: &str| allocatable.get(name).map(|q| amount(name, q));
    let text = |what: &str, requested: i64, used: i64, capacity: i64| {
        format!(
            "Node didn't have enough resource: {what}, requested: {requested}, used: {used}, capacity: {capacity}"
        )
    };
    let pods = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if let Some(capacity) = has("pods").filter(|c| pods + 1 > *c) {
        return Some(refuse("OutOfpods", text("pods", 1, pods, capacity)));
    }
    let mut used = BTreeMap::new();
    for other in others {
        add(&mut used, &requests(other));
    }
    for (name, requested) in requests(pod).into_iter().filter(|(_, amount)| *amount > 0) {
        // what the node does not know at all is somebody else's to judge
        let Some(capacity) = has(&name) else { continue };
        let used = used.get(&name).copied().unwrap_or(0);
        if requested + used > capacity {
            return Some(refuse(&format!("OutOf{name}"), text(&name, requested, used, capacity)));
        }
    }
    None
}

fn matches_selector(pod: &Pod, labels: &BTreeMap<String, String>, node: &str) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let selected = spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        && required.is_none_or(|r| r.node_selector_terms.iter().any(|term| matches_term(term, labels, node)))
}

fn matches_term(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, node: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // an empty term selects nothing
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| matches(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| matches(r, (r.key == "metadata.name").then_some(node)))
}

fn matches(requirement: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = found.is_some_and(|f| values.iter().any(|v| v == f));
    let number = |text: &str| text.parse::<i64>().ok();
    let compare = |f: fn(&i64, &i64) -> bool| {
        let bound = values.first().and_then(|v| number(v));
        found.and_then(number).zip(bound).is_some_and(|(a, b)| f(&a, &b))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

fn host_ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = init_containers(pod).iter().filter(|c| is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let host_network = (spec.host_network == Some(true)).then_some(p.container_port);
            let port = p.host_port.filter(|p| *p > 0).or(host_network)?;
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
            Some((
                p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into()),
                protocol,
                port,
            ))
        })
        .collect()
}

fn ports_taken(pod: &Pod, others: &[&Pod]) -> bool {
    let wanted = host_ports(pod);
    let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
    others.iter().flat_map(|o| host_ports(o)).any(|(ip, protocol, port)| {
        wanted.iter().any(|w| w.2 == port && w.1 == protocol && (w.0 == ip || any(&ip) || any(&w.0)))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_that_do_not_fit_are_refused_in_upstreams_words() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"zone": "a"}},
            "spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2"}},
        }))
        .unwrap();
        #[track_caller]
        fn check(node: &Node, others: usize, spec: serde_json::Value, expect: &str) {
            let mut spec = spec;
            if spec.get("containers").is_none() {
                spec["containers"] = json!([{"name": "c"}]);
            }
            if spec.get("tolerations").is_none() {
                spec["tolerations"] = json!([{"operator": "Exists"}]);
            }
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let other: Pod = serde_json::from_value(json!({"spec": {"containers": [
                {"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}], "resources": {"requests": {"cpu": "1500m"}}}]}}))
            .unwrap();
            let others = vec![&other; others];
            let failure = admit(&pod, &others, node);
            let text = failure.map_or_else(|| "ok".to_owned(), |f| format!("{}: {}", f.reason, f.message));
            assert_eq!(text, expect);
        }
        let cpu = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        check(&node, 0, cpu.clone(), "ok");
        check(
            &node,
            1,
            cpu,
            "OutOfcpu: Pod was rejected: Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000",
        );
        check(
            &node,
            2,
            json!({}),
            "OutOfpods: Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2",
        );
        check(
            &node,
            0,
            json!({"nodeSelector": {"zone": "b"}}),
            "NodeAffinity: Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        );
        check(
            &node,
            0,
            json!({"tolerations": []}),
            "TaintToleration: Pod was rejected: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
        );
        check(
            &node,
            1,
            json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]}),
            "NodePorts: Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        );
        check(
            &node,
            0,
            json!({"os": {"name": "windows"}}),
            "PodOSNotSupported: Pod was rejected: Failed to admit pod as the OS field doesn't match node OS",
        );
    }

    #[test]
    fn requests_count_init_containers_once() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "500m"}}},
            ],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "200m", "memory": "1Ki"}}}],
        }}))
        .unwrap();
        assert_eq!(requests(&pod), [("cpu".to_owned(), 600), ("memory".to_owned(), 1024)].into());
    }
}
