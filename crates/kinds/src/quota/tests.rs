use super::*;
use crate::support::testing::object;
use serde_json::{Value, json};

fn now() -> Time {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

fn text(usage: &Usage) -> String {
    usage.iter().map(|(n, q)| format!("{n}={q}")).collect::<Vec<_>>().join(",")
}

#[test]
fn what_objects_use() {
    let pod = |value: Value| text(&Evaluator::Pods.usage(Item::Pod(&object(value)), now()));
    let container = json!({"name": "c", "resources": {
        "requests": {"cpu": "100m", "memory": "1Gi", "nvidia.com/gpu": "2", "hugepages-2Mi": "4Mi"},
        "limits": {"cpu": "1", "ephemeral-storage": "1Gi"}}});
    let running = json!({"spec": {"containers": [container], "overhead": {"memory": "16Mi"}}});
    assert_eq!(
        pod(running.clone()),
        "count/pods=1,cpu=100m,hugepages-2Mi=4Mi,limits.cpu=1,limits.ephemeral-storage=1Gi,memory=1040Mi,pods=1,\
         requests.cpu=100m,requests.hugepages-2Mi=4Mi,requests.memory=1040Mi,requests.nvidia.com/gpu=2"
    );
    let mut over = running.clone();
    over["status"] = json!({"phase": "Succeeded"});
    assert_eq!(pod(over), "count/pods=1");
    let mut stuck = running;
    stuck["metadata"] =
        json!({"deletionTimestamp": "2025-12-31T23:59:00Z", "deletionGracePeriodSeconds": 30});
    assert_eq!(pod(stuck), "count/pods=1");

    let service =
        |spec: Value| text(&Evaluator::Services.usage(Item::Service(&object(json!({"spec": spec}))), now()));
    let ports = json!([{"port": 1}, {"port": 2, "nodePort": 30000}]);
    let two = |n, b| format!("count/services=1,services=1,services.loadbalancers={b},services.nodeports={n}");
    assert_eq!(service(json!({"type": "ClusterIP", "ports": ports})), two(0, 0));
    assert_eq!(service(json!({"type": "NodePort", "ports": ports})), two(2, 0));
    assert_eq!(service(json!({"type": "LoadBalancer", "ports": ports})), two(2, 1));
    let by_hand = json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false});
    assert_eq!(service(by_hand), two(1, 1));

    let claim: PersistentVolumeClaim = object(json!({
        "spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "10Gi"}}},
        "status": {"allocatedResources": {"storage": "20Gi"}}}));
    assert_eq!(
        text(&Evaluator::Claims.usage(Item::Claim(&claim), now())),
        "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
         gold.storageclass.storage.k8s.io/requests.storage=20Gi,persistentvolumeclaims=1,requests.storage=20Gi"
    );
    let maps = Evaluator::of(&GroupResource::of("", "configmaps")).expect("counted");
    assert_eq!(text(&maps.usage(Item::Other, now())), "configmaps=1,count/configmaps=1");
    assert_eq!(Evaluator::of(&GroupResource::of("", "events")), None);
}

#[test]
fn scopes_select_pods() {
    let check = |spec: Value, pod: Value, expect: bool| {
        let spec: ResourceQuotaSpec = serde_json::from_value(spec).expect("a quota");
        assert_eq!(
            Evaluator::Pods.in_scope(&spec, Item::Pod(&object(json!({"spec": pod})))),
            expect,
            "{spec:?}"
        );
    };
    let plain = json!({"containers": [{"name": "c"}]});
    let timed = json!({"containers": [{"name": "c"}], "activeDeadlineSeconds": 5});
    let high = json!({"containers": [{"name": "c"}], "priorityClassName": "high"});
    check(json!({"scopes": ["Terminating"]}), plain.clone(), false);
    check(json!({"scopes": ["Terminating", "BestEffort"]}), timed.clone(), true);
    check(json!({"scopes": ["NotTerminating"]}), timed, false);
    check(json!({"scopes": ["NotBestEffort"]}), plain.clone(), false);
    let class = |operator: &str, values: Value| {
        json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
    };
    check(class("In", json!(["high", "low"])), high.clone(), true);
    check(class("In", json!(["high"])), plain.clone(), false);
    check(class("NotIn", json!(["high"])), high.clone(), false);
    check(class("NotIn", json!(["high"])), plain.clone(), true);
    check(class("Exists", json!(null)), high, true);
    check(class("DoesNotExist", json!(null)), plain.clone(), true);
    let term = json!({"topologyKey": "zone", "namespaces": ["other"]});
    let across = json!({"containers": [], "affinity": {"podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    check(json!({"scopes": ["CrossNamespacePodAffinity"]}), across, true);
    check(json!({"scopes": ["CrossNamespacePodAffinity"]}), plain, false);
}

#[test]
fn containers_must_name_what_is_limited() {
    let limited: BTreeSet<String> = ["limits.cpu", "memory", "pods"].map(str::to_owned).into();
    let check = |pod: Value, expect: Result<(), &str>| {
        let got = Evaluator::Pods.constrain(&limited, Item::Pod(&object(json!({"spec": pod}))));
        assert_eq!(got, expect.map_err(str::to_owned));
    };
    check(
        json!({"containers": [{"name": "b"}, {"name": "a", "resources": {"requests": {"memory": "1Gi"}}}]}),
        Err("must specify limits.cpu for: a,b; memory for: b"),
    );
    let both = json!({"requests": {"memory": "1"}, "limits": {"cpu": "1"}});
    check(json!({"containers": [{"name": "a", "resources": both}]}), Ok(()));
    check(json!({"containers": [{"name": "a"}], "resources": {"limits": {"cpu": "1"}}}), Ok(()));
}

#[test]
fn a_quota_is_counted_from_what_is_stored() {
    let quota: ResourceQuota = object(json!({"spec": {"hard": {
        "pods": "10", "requests.cpu": "1", "count/deployments.apps": "3", "secrets": "5", "services": "2", "beer": "6"}}}));
    let spec = quota.spec.expect("a spec");
    let asked: Vec<Evaluator> = evaluators(spec.hard.iter().flat_map(BTreeMap::keys)).into_iter().collect();
    let names: Vec<(&str, &str)> = asked.iter().map(Evaluator::resource).collect();
    assert_eq!(names, [("", "pods"), ("", "services"), ("", "secrets"), ("apps", "deployments")]);
    let pod: Pod =
        object(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "250m"}}}]}}));
    let used = count(&spec, now(), |evaluator| match evaluator.resource() {
        (_, "pods") => Some(vec![Item::Pod(&pod); 3]),
        (_, "deployments") => Some(vec![Item::Other; 2]),
        (_, "secrets") => Some(Vec::new()),
        _ => None,
    });
    assert_eq!(text(&used), "count/deployments.apps=2,pods=3,requests.cpu=750m,secrets=0");
}
