//! Pods that are right, and what a client reads where one is not.

use super::default_pod;
use crate::core::POD;
use crate::support::testing::{lines, object};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

fn errors(mut value: Value) -> Vec<String> {
    value["metadata"]["name"] = json!("web");
    let mut pod: Pod = object(value);
    default_pod(&mut pod);
    lines(&(POD.kind.validate.create)(&pod))
}

/// A pod with a container `c` that has these fields besides name and image.
fn container(fields: Value) -> Value {
    let mut c = json!({"name": "c", "image": "nginx:1"});
    for (key, value) in fields.as_object().expect("fields") {
        c[key] = value.clone();
    }
    json!({"spec": {"containers": [c]}})
}

/// A pod that has these fields of a spec besides one container.
fn spec(fields: Value) -> Value {
    let mut pod = container(json!({}));
    for (key, value) in fields.as_object().expect("fields") {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn volumes(volumes: Value) -> Value {
    spec(json!({"volumes": volumes}))
}

fn check(pod: Value, expect: &[&str]) {
    assert_eq!(errors(pod.clone()), expect, "{pod}");
}

#[test]
fn a_pod_with_everything_is_right() {
    check(
        json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-10"}}, "spec": {
            "activeDeadlineSeconds": 60,
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}],
                     "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}},
                "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": {
                    "labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}}]},
            },
            "containers": [{
                "name": "c", "image": "nginx:1",
                "args": ["-v"],
                "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP"}],
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
                    {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}},
                    {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                    {"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                ],
                "envFrom": [{"prefix": "X_", "configMapRef": {"name": "m"}}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi", "example.com/gpu": "2"}},
                "volumeMounts": [{"name": "e", "mountPath": "/e", "subPath": "a/b"}, {"name": "p", "mountPath": "/p", "readOnly": true}],
                "livenessProbe": {"httpGet": {"port": "http"}},
                "readinessProbe": {"exec": {"command": ["true"]}, "successThreshold": 2},
                "startupProbe": {"tcpSocket": {"port": 80}},
                "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
                "securityContext": {"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
            }],
            "initContainers": [
                {"name": "i", "image": "i"},
                {"name": "s", "image": "s", "restartPolicy": "Always", "readinessProbe": {"grpc": {"port": 9000}}},
            ],
            "dnsConfig": {"nameservers": ["10.0.0.10"], "searches": ["_svc.example.com", "."], "options": [{"name": "ndots", "value": "5"}]},
            "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a.example.com"]}],
            "hostname": "web", "subdomain": "nodes",
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "os": {"name": "linux"},
            "priorityClassName": "system-node-critical",
            "readinessGates": [{"conditionType": "example.com/ready"}],
            "schedulingGates": [{"name": "example.com/gate"}],
            "securityContext": {"fsGroup": 1, "supplementalGroups": [1, 2], "sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "1 2"}]},
            "serviceAccountName": "robot",
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "minDomains": 2, "labelSelector": {"matchLabels": {"app": "web"}}}],
            "volumes": [
                {"name": "e", "emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}},
                {"name": "p", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token", "audience": "vault"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}},
                {"name": "h", "hostPath": {"path": "/var", "type": "Directory"}},
                {"name": "c", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}}}}}},
                {"name": "n", "nfs": {"server": "s", "path": "/x"}},
                {"name": "i", "iscsi": {"targetPortal": "1.2.3.4", "iqn": "iqn.2001-04.com.example:storage", "lun": 0}},
            ],
        }}),
        &[],
    );
}

#[test]
fn containers() {
    check(json!({"spec": {"containers": []}}), &["spec.containers: Required value"]);
    check(
        json!({"spec": {"containers": [{"name": "A"}]}}),
        &[
            &format!("spec.containers[0].name: Invalid value: \"A\": {LABEL_RULE}"),
            "spec.containers[0].image: Required value",
        ],
    );
    check(
        json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}],
            "initContainers": [{"name": "a", "image": "i"}]}}),
        &[
            "spec.containers[1].name: Duplicate value: \"a\"",
            "spec.initContainers[0].name: Duplicate value: \"a\"",
        ],
    );
    check(
        container(json!({"image": " nginx"})),
        &[
            "spec.containers[0].image: Invalid value: \" nginx\": must not have leading or trailing whitespace",
        ],
    );
    check(
        container(json!({"imagePullPolicy": "Sometimes"})),
        &[
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ],
    );
    check(
        container(json!({"terminationMessagePolicy": "x"})),
        &[
            "spec.containers[0].terminationMessagePolicy: Unsupported value: \"x\": supported values: \"File\", \"FallbackToLogsOnError\"",
        ],
    );
    check(
        spec(
            json!({"initContainers": [{"name": "i", "image": "i", "livenessProbe": {"exec": {"command": ["x"]}}}]}),
        ),
        &[
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ],
    );
    check(
        spec(
            json!({"ephemeralContainers": [{"name": "d", "image": "d", "targetContainerName": "x", "ports": [{"containerPort": 1}]}]}),
        ),
        &[
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"x\"",
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ],
    );
}

#[test]
fn ports() {
    check(
        container(json!({"ports": [
            {"containerPort": 0}, {"containerPort": 70000, "protocol": "tcp"}, {"name": "http", "containerPort": 1, "hostPort": 80},
            {"name": "http", "containerPort": 2, "hostPort": 80}, {"name": "TOO_LONG_A_NAME_X", "containerPort": 3},
        ]})),
        &[
            "spec.containers[0].ports[0].containerPort: Required value",
            "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[1].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            "spec.containers[0].ports[3].name: Duplicate value: \"http\"",
            "spec.containers[0].ports[4].name: Invalid value: \"TOO_LONG_A_NAME_X\": must be no more than 15 characters",
            "spec.containers[0].ports[4].name: Invalid value: \"TOO_LONG_A_NAME_X\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            "spec.containers[0].ports[4].name: Invalid value: \"TOO_LONG_A_NAME_X\": must contain at least one letter (a-z)",
            "spec.containers[0].ports[3].hostPort: Duplicate value: \"TCP//80\"",
        ],
    );
    check(
        json!({"spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 81}]}]}}),
        &[
            "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
        ],
    );
}

#[test]
fn environment() {
    let env = |value: Value| container(json!({"env": [value]}));
    check(env(json!({"value": "x"})), &["spec.containers[0].env[0].name: Required value"]);
    check(
        env(json!({"name": "a=b"})),
        &[
            "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
        ],
    );
    check(
        env(json!({"name": "A", "valueFrom": {}})),
        &[
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ],
    );
    check(
        env(json!({"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})),
        &[
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ],
    );
    check(
        env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.whoops"}}})),
        &[
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.whoops\": error converting fieldPath: field label not supported: metadata.whoops",
        ],
    );
    check(
        env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}})),
        &[
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
        ],
    );
    check(
        env(
            json!({"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1Mi"}}}),
        ),
        &[
            "spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
        ],
    );
    check(
        container(json!({"envFrom": [{}]})),
        &[
            "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
        ],
    );
}

#[test]
fn probes_and_hooks() {
    let probe = |value: Value| container(json!({"livenessProbe": value}));
    check(
        probe(json!({})),
        &["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
    );
    check(
        probe(json!({"exec": {"command": ["x"]}, "httpGet": {"port": 80}})),
        &["spec.containers[0].livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type"],
    );
    check(
        probe(json!({"httpGet": {"port": 0, "scheme": "ftp"}, "successThreshold": 2, "periodSeconds": -1})),
        &[
            "spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.containers[0].livenessProbe.httpGet.scheme: Unsupported value: \"ftp\": supported values: \"HTTP\", \"HTTPS\"",
            "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ],
    );
    check(
        container(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}})),
        &[
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
        ],
    );
}

#[test]
fn resources() {
    let resources = |value: Value| container(json!({"resources": value}));
    check(
        resources(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}})),
        &[
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ],
    );
    check(
        resources(json!({"requests": {"cpu": "-1", "pods": "1"}})),
        &[
            "spec.containers[0].resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.containers[0].resources.requests[pods]: Invalid value: \"pods\": must be a standard resource for containers",
        ],
    );
    check(
        resources(json!({"requests": {"gpu": "1"}})),
        &[
            "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
            "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
        ],
    );
    check(
        resources(json!({"requests": {"example.com/gpu": "1"}})),
        &[
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ],
    );
    check(
        resources(json!({"limits": {"example.com/gpu": "0.5"}})),
        &[
            "spec.containers[0].resources.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer",
            "spec.containers[0].resources.requests[example.com/gpu]: Invalid value: \"500m\": must be an integer",
        ],
    );
    check(
        resources(json!({"claims": [{"name": "x"}]})),
        &[
            "spec.containers[0].resources.claims[0]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims which is empty",
        ],
    );
    check(
        json!({"spec": {"resources": {"requests": {"cpu": "1"}}, "containers": [
            {"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}}}]}}),
        &[
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
        ],
    );
}

#[test]
fn volumes_and_mounts() {
    check(
        volumes(json!([{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}])),
        &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
    );
    check(
        volumes(json!([{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}, {"emptyDir": {}}])),
        &["spec.volumes[1].name: Duplicate value: \"a\"", "spec.volumes[2].name: Required value"],
    );
    check(
        volumes(json!([{"name": "a", "hostPath": {"path": "/a/../b", "type": "Dir"}}])),
        &[
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            "spec.volumes[0].hostPath.type: Unsupported value: \"Dir\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
        ],
    );
    check(
        volumes(
            json!([{"name": "a", "secret": {"defaultMode": 512, "items": [{"key": "k", "path": "/x"}]}}]),
        ),
        &[
            "spec.volumes[0].secret.secretName: Required value",
            "spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            "spec.volumes[0].secret.items[0].path: Invalid value: \"/x\": must be a relative path",
        ],
    );
    check(
        volumes(
            json!([{"name": "a", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 1}}]}}]),
        ),
        &[
            "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
            "spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set",
        ],
    );
    check(
        container(
            json!({"volumeMounts": [{"name": "x", "mountPath": "/a"}, {"name": "x", "mountPath": "/a", "subPath": "../b"}]}),
        ),
        &[
            "spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
            "spec.containers[0].volumeMounts[1].name: Not found: \"x\"",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"../b\": must not contain '..'",
        ],
    );
}

#[test]
fn scheduling() {
    check(
        spec(
            json!({"tolerations": [{"key": "k", "operator": "Exists", "value": "v"}, {"operator": "Equal"}, {"key": "k", "effect": "Never"}]}),
        ),
        &[
            "spec.tolerations[0].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
            "spec.tolerations[1].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            "spec.tolerations[2].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ],
    );
    check(
        spec(json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "k", "operator": "In"}]}]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 101, "preference": {}}]}}})),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100",
        ],
    );
    check(
        spec(
            json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "x", "minDomains": 1}]}),
        ),
        &[
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
            "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"x\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            "spec.topologySpreadConstraints[0].minDomains: Invalid value: 1: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not x",
        ],
    );
    check(
        spec(json!({"nodeName": "n", "schedulingGates": [{"name": "g"}, {"name": "g"}]})),
        &[
            "spec.schedulingGates[1]: Duplicate value: \"g\"",
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ],
    );
}

#[test]
fn the_pod_itself() {
    check(
        spec(
            json!({"restartPolicy": "Sometimes", "dnsPolicy": "None", "activeDeadlineSeconds": 0, "hostname": "a.b"}),
        ),
        &[
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            "spec.hostname: Invalid value: \"a.b\": must not contain dots",
        ],
    );
    check(
        spec(json!({"hostUsers": false, "hostPID": true, "hostAliases": [{"ip": "x"}]})),
        &[
            "spec.HostPID: Forbidden: when `hostUsers` is false",
            "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
    check(
        spec(
            json!({"os": {"name": "plan9"}, "securityContext": {"runAsUser": -1, "sysctls": [{"name": "A", "value": ""}]}}),
        ),
        &[
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "spec.securityContext.sysctls[0].name: Invalid value: \"A\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            "spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"",
        ],
    );
    check(
        container(json!({"securityContext": {"allowPrivilegeEscalation": false, "privileged": true}})),
        &[
            "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ],
    );
    check(
        json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "+1"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        &[
            "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+1\": must be a 32bit integer",
        ],
    );
}
