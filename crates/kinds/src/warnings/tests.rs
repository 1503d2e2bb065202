use super::*;
use crate::support::testing::object;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use serde_json::{Value, json};

fn check(pod: Value, expect: &[&str]) {
    let pod: Pod = object(pod);
    assert_eq!(pods::pod(&pod), expect);
}

fn of_spec(spec: Value, expect: &[&str]) {
    check(json!({"metadata": {"name": "p"}, "spec": spec}), expect);
}

#[test]
fn pods_are_warned_of_what_does_nothing() {
    check(
        json!({"metadata": {"name": "a.b"}, "spec": {"containers": []}}),
        &[
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
        ],
    );
    check(
        json!({"metadata": {"name": "p", "annotations": {
            "scheduler.alpha.kubernetes.io/critical-pod": "", "seccomp.security.alpha.kubernetes.io/pod": "x"}},
            "spec": {"containers": []}}),
        &[
            "metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \"priorityClassName\" field instead",
            "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \"seccompProfile\" field instead",
        ],
    );
    of_spec(
        json!({"containers": [], "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "topologySpreadConstraints": [{"topologyKey": "failure-domain.beta.kubernetes.io/zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}],
            "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "x"}]}}}),
        &[
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
            "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null labelSelector results in matching no pod",
        ],
    );
    of_spec(
        json!({"containers": [], "terminationGracePeriodSeconds": -1, "imagePullSecrets": [{"name": "a"}, {"name": "a"}, {"name": ""}],
            "volumes": [{"name": "v", "gitRepo": {"repository": "r"}}], "overhead": {"memory": "100m"},
            "dnsConfig": {"nameservers": ["010.0.0.1"]}}),
        &[
            "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
            "spec.imagePullSecrets[1].name: duplicate name \"a\"",
            "spec.imagePullSecrets[2].name: invalid empty name \"\"",
            "spec.overhead[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            "spec.dnsConfig.nameservers[0]: non-standard IP address \"010.0.0.1\" is invalid: use \"10.0.0.1\"",
        ],
    );
}

#[test]
fn containers_are_warned_of_what_hides() {
    of_spec(
        json!({"initContainers": [{"name": "i", "ports": [{"name": "web", "containerPort": 80, "protocol": "TCP"}]}],
            "containers": [
            {"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A", "value": "3"}],
             "resources": {"limits": {"memory": "1500m"}},
             "ports": [{"name": "web", "containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP", "hostPort": 8080}]}]}),
        &[
            "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
            "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[0].ports[0]: duplicate port definition with spec.initContainers[0].ports[0]",
            "spec.containers[0].ports[1]: overlapping port definition with spec.initContainers[0].ports[0]",
            "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
            "spec.containers[0].ports[0]: duplicate port name \"web\" with spec.initContainers[0].ports[0], services and probes that select ports by name will use spec.initContainers[0].ports[0]",
        ],
    );
    of_spec(
        json!({"containers": [], "volumes": [
            {"name": "v", "configMap": {"name": "m", "items": [{"key": "a", "path": "x"}, {"key": "b", "path": "x/y"}]}},
            {"name": "w", "projected": {"sources": [{}, {"secret": {"name": "s", "items": [{"key": "a", "path": "t"}]}},
                {"serviceAccountToken": {"path": "t"}}]}}]}),
        &[
            "volume \"v\" (ConfigMap \"m\"): overlapping paths: \"x/y\" with \"x\"",
            "volume \"w\" (Projected) has no sources provided",
            "volume \"w\" (Projected): overlapping paths: \"t\" (ServiceAccountToken) with \"t\" (Secret \"s\")",
        ],
    );
}

#[test]
fn templates_are_warned_with_their_path() {
    let template: PodTemplateSpec = serde_json::from_value(json!({
        "metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"memory": "1500m"}}}]}}))
    .expect("a template");
    assert_eq!(
        pods::template(&Path::new("spec.template"), Some(&template)),
        [
            "spec.template.metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the \"appArmorProfile\" field instead",
            "spec.template.spec.containers[0].resources.requests[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
        ]
    );
}

#[test]
fn other_kinds_have_warnings_too() {
    let service = |spec: Value, expect: &[&str]| {
        assert_eq!(objects::service(&object(json!({"spec": spec}))), expect);
    };
    service(
        json!({"clusterIP": "None", "clusterIPs": ["None"], "sessionAffinity": "ClientIP", "externalIPs": ["1.2.3.4"]}),
        &[
            "spec.externalIPs is ignored for headless services",
            "spec.SessionAffinity is ignored for headless services",
        ],
    );
    service(
        json!({"type": "LoadBalancer", "externalName": "x", "loadBalancerSourceRanges": ["10.0.0.1/8"], "trafficDistribution": "PreferClose"}),
        &[
            "spec.loadBalancerSourceRanges[0]: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)",
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        ],
    );
    let quota = json!({"spec": {"hard": {"cpu": "3", "limits.cpu": "2"}}});
    assert_eq!(
        objects::resource_quota(&object(quota)),
        ["ResourceQuota cpu (3) should be less than limits.cpu (2)"]
    );
    assert_eq!(
        ip(|| Path::new("x"), "fd00::0001").as_deref(),
        Some("x: IPv6 address \"fd00::0001\" should be in RFC 5952 canonical format (\"fd00::1\")")
    );
    assert_eq!(ip(|| Path::new("x"), "10.0.0.1"), None);
}
