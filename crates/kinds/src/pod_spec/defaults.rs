//! What a pod spec means where its author said nothing (upstream's `SetDefaults_*` of core/v1), and the
//! canonical form of what was said: quantities, fields that mirror one another.

use super::gates::drop_disabled;
use super::volumes::source_count;
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle,
    ObjectFieldSelector, PersistentVolumeClaimSpec, Pod, PodSpec, PodTemplateSpec, Probe,
    ResourceFieldSelector, ResourceRequirements, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use meta::Quantity;
use meta::pod::{container_limits, container_requests, is_pod_level_resource};
use std::collections::BTreeMap;

const TERMINATION_GRACE_PERIOD_SECONDS: i64 = 30;
const DEFAULT_SCHEDULER: &str = "default-scheduler";
const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";
/// Mode of files in config map, secret, projected and downward API volumes: 0644.
const FILE_MODE: i32 = 0o644;
const TOKEN_EXPIRATION_SECONDS: i64 = 3600;

/// Sets a string that is absent or empty, which the API does not tell apart.
pub(crate) fn fill(field: &mut Option<String>, default: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(default.to_owned());
    }
}

fn fill_number(field: &mut Option<i32>, default: i32) {
    if field.unwrap_or(0) == 0 {
        *field = Some(default);
    }
}

/// Drops a zero value that the API does not tell apart from absence.
fn drop_false(field: &mut Option<bool>) {
    if *field == Some(false) {
        *field = None;
    }
}

fn drop_empty(field: &mut Option<String>) {
    if field.as_deref() == Some("") {
        *field = None;
    }
}

/// Puts a quantity in the form upstream stores. What does not parse stays, for validation to refuse.
pub(crate) fn canonical_quantity(quantity: &mut ApiQuantity) {
    let trimmed = quantity.0.trim();
    if trimmed.len() != quantity.0.len() {
        quantity.0 = trimmed.to_owned();
    }
    if let Ok(Some(canonical)) = Quantity::canonical(&quantity.0) {
        quantity.0 = canonical;
    }
}

/// As [`canonical_quantity`], of a resource list: amounts finer than 1/1000 are rounded up.
pub(crate) fn canonical_resources(list: Option<&mut BTreeMap<String, ApiQuantity>>) {
    for quantity in list.into_iter().flat_map(BTreeMap::values_mut) {
        canonical_quantity(quantity);
        if quantity.0.ends_with(['n', 'u'])
            && let Ok(fine) = Quantity::parse(&quantity.0)
            && !fine.is_whole_milli()
        {
            *quantity = Quantity::from_milli(fine.milli_value()).to_api();
        }
    }
}

pub(crate) fn canonical_requirements(resources: &mut ResourceRequirements) {
    canonical_resources(resources.limits.as_mut());
    canonical_resources(resources.requests.as_mut());
}

/// A pod: the defaults of its spec, and those that templates do not get.
pub fn default_pod(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        if let Some(resources) = &mut container.resources {
            requests_from_limits(resources);
        }
    }
    default_pod_level_resources(spec);
    spec.enable_service_links.get_or_insert(true);
    if spec.host_network == Some(true) {
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            for port in container.ports.iter_mut().flatten() {
                fill_number(&mut port.host_port, port.container_port);
            }
        }
    }
    default_pod_spec(spec);
    if let Some(status) = &mut pod.status {
        canonical_resources(status.allocated_resources.as_mut());
        let statuses = status.container_statuses.iter_mut().flatten();
        for status in statuses.chain(status.init_container_statuses.iter_mut().flatten()) {
            canonical_resources(status.allocated_resources.as_mut());
            status.resources.iter_mut().for_each(canonical_requirements);
        }
        default_pod_ips(status);
    }
}

/// `podIP` and `podIPs` are two views of one fact; the list decides where both are given.
fn default_pod_ips(status: &mut k8s_openapi::api::core::v1::PodStatus) {
    use k8s_openapi::api::core::v1::PodIP;
    match status.pod_ips.as_deref().and_then(<[_]>::first) {
        Some(first) => status.pod_ip = Some(first.ip.clone()),
        None => {
            if let Some(ip) = status.pod_ip.clone().filter(|ip| !ip.is_empty()) {
                status.pod_ips = Some(vec![PodIP { ip }]);
            }
        }
    }
}

fn requests_from_limits(resources: &mut ResourceRequirements) {
    if let Some(limits) = resources.limits.as_ref().filter(|l| !l.is_empty()) {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            if !requests.contains_key(name) {
                requests.insert(name.clone(), limit.clone());
            }
        }
    }
}

fn default_pod_level_resources(spec: &mut PodSpec) {
    let Some(mut whole) = spec.resources.take() else { return };
    let has = |list: &Option<BTreeMap<String, ApiQuantity>>| list.as_ref().is_some_and(|l| !l.is_empty());
    if has(&whole.limits) || has(&whole.requests) {
        for (name, limit) in container_limits(spec) {
            let requested = whole.requests.as_ref().is_some_and(|r| r.contains_key(&name));
            if name.starts_with("hugepages-") && !requested {
                whole.limits.get_or_insert_default().entry(name).or_insert_with(|| limit.to_api());
            }
        }
    }
    if has(&whole.limits) {
        let mut requests = whole.requests.take().unwrap_or_default();
        for (name, request) in container_requests(spec) {
            if is_pod_level_resource(&name) && !name.starts_with("hugepages-") {
                requests.entry(name).or_insert_with(|| request.to_api());
            }
        }
        for (name, limit) in whole.limits.iter().flatten().filter(|(n, _)| is_pod_level_resource(n)) {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
        whole.requests = Some(requests).filter(|r| !r.is_empty());
    }
    spec.resources = Some(whole);
}

/// The template of a workload.
pub fn default_pod_template(template: &mut PodTemplateSpec) {
    template.metadata.get_or_insert_default();
    default_pod_spec(template.spec.get_or_insert_default());
}

/// What pods and templates have in common.
pub fn default_pod_spec(spec: &mut PodSpec) {
    drop_disabled(spec);
    fill(&mut spec.dns_policy, "ClusterFirst");
    fill(&mut spec.restart_policy, "Always");
    fill(&mut spec.scheduler_name, DEFAULT_SCHEDULER);
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(TERMINATION_GRACE_PERIOD_SECONDS);
    for flag in [&mut spec.host_network, &mut spec.host_pid, &mut spec.host_ipc] {
        drop_false(flag);
    }
    drop_empty(&mut spec.service_account_name);
    drop_empty(&mut spec.service_account);
    if spec.service_account_name.is_none() {
        spec.service_account_name.clone_from(&spec.service_account);
    }
    spec.service_account.clone_from(&spec.service_account_name);
    for volume in spec.volumes.iter_mut().flatten() {
        default_volume(volume);
    }
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        default_container(container);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        default_ephemeral_container(container);
    }
    canonical_resources(spec.overhead.as_mut());
    if let Some(whole) = &mut spec.resources {
        canonical_requirements(whole);
    }
}

macro_rules! default_container_fields {
    ($c:expr) => {{
        let c = $c;
        let policy = default_pull_policy(c.image.as_deref().unwrap_or_default());
        fill(&mut c.image_pull_policy, policy);
        fill(&mut c.termination_message_path, TERMINATION_MESSAGE_PATH);
        fill(&mut c.termination_message_policy, "File");
        canonical_requirements(c.resources.get_or_insert_default());
        for port in c.ports.iter_mut().flatten() {
            fill(&mut port.protocol, "TCP");
        }
        c.env.iter_mut().flatten().for_each(default_env);
        let probes = [&mut c.liveness_probe, &mut c.readiness_probe, &mut c.startup_probe];
        probes.into_iter().flatten().for_each(default_probe);
        if let Some(lifecycle) = &mut c.lifecycle {
            default_lifecycle(lifecycle);
        }
        for flag in [&mut c.stdin, &mut c.stdin_once, &mut c.tty] {
            drop_false(flag);
        }
        for mount in c.volume_mounts.iter_mut().flatten() {
            drop_false(&mut mount.read_only);
        }
    }};
}

fn default_container(container: &mut Container) {
    default_container_fields!(container);
}

fn default_ephemeral_container(container: &mut EphemeralContainer) {
    default_container_fields!(container);
}

fn default_env(env: &mut EnvVar) {
    drop_empty(&mut env.value);
    if let Some(from) = &mut env.value_from {
        from.field_ref.iter_mut().for_each(default_field_ref);
        from.resource_field_ref.iter_mut().for_each(default_resource_field_ref);
        if let Some(file) = &mut from.file_key_ref {
            file.optional.get_or_insert(false);
        }
    }
}

fn default_field_ref(reference: &mut ObjectFieldSelector) {
    fill(&mut reference.api_version, "v1");
}

fn default_resource_field_ref(reference: &mut ResourceFieldSelector) {
    canonical_quantity(reference.divisor.get_or_insert_with(|| ApiQuantity("0".to_owned())));
}

fn default_probe(probe: &mut Probe) {
    fill_number(&mut probe.timeout_seconds, 1);
    fill_number(&mut probe.period_seconds, 10);
    fill_number(&mut probe.success_threshold, 1);
    fill_number(&mut probe.failure_threshold, 3);
    probe.http_get.iter_mut().for_each(default_http_get);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn default_http_get(action: &mut HTTPGetAction) {
    fill(&mut action.path, "/");
    fill(&mut action.scheme, "HTTP");
}

fn default_lifecycle(lifecycle: &mut Lifecycle) {
    for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
        handler.http_get.iter_mut().for_each(default_http_get);
    }
}

/// `Always` for the tag `latest` and for none at all, else `IfNotPresent`.
pub(crate) fn default_pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let (path, last) = name.rsplit_once('/').map_or(("", name), |(path, last)| (path, last));
    let (repository, tag) = last.split_once(':').map_or((last, None), |(r, t)| (r, Some(t)));
    // Not an image reference: upstream finds no tag in it.
    let domain_may_be_upper = path.split('/').skip(1).chain([repository]);
    let readable = !repository.is_empty()
        && !domain_may_be_upper.into_iter().any(|p| p.bytes().any(|b| b.is_ascii_uppercase()));
    let latest = match (tag, digest) {
        (Some(tag), _) => tag == "latest",
        (None, Some(_)) => false,
        (None, None) => true,
    };
    if readable && latest { "Always" } else { "IfNotPresent" }
}

fn default_volume(volume: &mut Volume) {
    if source_count(volume) == 0 {
        volume.empty_dir = Some(Default::default());
    }
    if let Some(image) = &mut volume.image {
        let policy = default_pull_policy(image.reference.as_deref().unwrap_or_default());
        fill(&mut image.pull_policy, policy);
    }
    if let Some(dir) = &mut volume.empty_dir {
        dir.size_limit.iter_mut().for_each(canonical_quantity);
    }
    if let Some(path) = &mut volume.host_path {
        path.type_.get_or_insert_default();
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(map) = &mut volume.config_map {
        map.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(api) = &mut volume.downward_api {
        api.default_mode.get_or_insert(FILE_MODE);
        api.items.iter_mut().flatten().for_each(default_downward_file);
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(FILE_MODE);
        for source in projected.sources.iter_mut().flatten() {
            let files = source.downward_api.iter_mut().flat_map(|d| d.items.iter_mut().flatten());
            files.for_each(default_downward_file);
            if let Some(token) = &mut source.service_account_token {
                token.expiration_seconds.get_or_insert(TOKEN_EXPIRATION_SECONDS);
            }
        }
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut()) {
        template.metadata.get_or_insert_default();
        default_claim_spec(&mut template.spec);
    }
    default_legacy_volume(volume);
}

fn default_downward_file(file: &mut DownwardAPIVolumeFile) {
    file.field_ref.iter_mut().for_each(default_field_ref);
    file.resource_field_ref.iter_mut().for_each(default_resource_field_ref);
}

/// The spec of a PersistentVolumeClaim or of a template of one.
pub fn default_claim_spec(spec: &mut PersistentVolumeClaimSpec) {
    spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
    let resources = spec.resources.get_or_insert_default();
    canonical_resources(resources.limits.as_mut());
    canonical_resources(resources.requests.as_mut());
}

fn default_legacy_volume(volume: &mut Volume) {
    if let Some(iscsi) = &mut volume.iscsi {
        fill(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut volume.rbd {
        fill(&mut rbd.pool, "rbd");
        fill(&mut rbd.user, "admin");
        fill(&mut rbd.keyring, "/etc/ceph/keyring");
    }
    if let Some(disk) = &mut volume.azure_disk {
        disk.caching_mode.get_or_insert_with(|| "ReadWrite".to_owned());
        disk.fs_type.get_or_insert_with(|| "ext4".to_owned());
        disk.read_only.get_or_insert(false);
        disk.kind.get_or_insert_with(|| "Shared".to_owned());
    }
    if let Some(scale_io) = &mut volume.scale_io {
        fill(&mut scale_io.storage_mode, "ThinProvisioned");
        fill(&mut scale_io.fs_type, "xfs");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(input: Value, expect: Value) {
        let mut pod: Pod = serde_json::from_value(input).expect("a pod");
        default_pod(&mut pod);
        let once = serde_json::to_value(&pod).expect("JSON");
        assert_eq!(once, expect);
        default_pod(&mut pod);
        assert_eq!(serde_json::to_value(&pod).expect("JSON"), once, "defaults are idempotent");
    }

    #[test]
    fn a_plain_pod() {
        check(
            json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {
                "containers": [{
                    "name": "c", "image": "nginx", "imagePullPolicy": "Always", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            }}),
        );
    }

    #[test]
    fn resources_probes_ports_and_volumes() {
        check(
            json!({"spec": {
                "hostNetwork": true,
                "serviceAccountName": "robot",
                "containers": [{
                    "name": "c", "image": "nginx:1.27",
                    "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}, "requests": {"cpu": 0.1}},
                    "livenessProbe": {"httpGet": {"port": 80}},
                    "readinessProbe": {"grpc": {"port": 9}, "periodSeconds": 2},
                    "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                }],
                "volumes": [
                    {"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "h", "hostPath": {"path": "/"}},
                    {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
                ],
            }}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {
                "hostNetwork": true, "serviceAccount": "robot", "serviceAccountName": "robot",
                "containers": [{
                    "name": "c", "image": "nginx:1.27", "imagePullPolicy": "IfNotPresent",
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}},
                    "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1,
                        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                    "readinessProbe": {"grpc": {"port": 9, "service": ""}, "timeoutSeconds": 1,
                        "periodSeconds": 2, "successThreshold": 1, "failureThreshold": 3},
                    "env": [{"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
                }],
                "volumes": [
                    {"name": "e", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
                    {"name": "h", "hostPath": {"path": "/", "type": ""}},
                    {"name": "p", "projected": {"defaultMode": 420,
                        "sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]}},
                ],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            }}),
        );
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, expect) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:0123456789012345678901234567890123456789012345678901234567890123", "IfNotPresent"),
            ("", "IfNotPresent"),
            ("Nginx", "IfNotPresent"),
        ] {
            assert_eq!(default_pull_policy(image), expect, "{image}");
        }
    }
}
