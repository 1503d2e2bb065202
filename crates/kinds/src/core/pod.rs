//! v1 Pod.

use super::pod_cells::COLUMNS;
use super::pod_resize::validate_resize;
use super::pod_status::validate_status_update;
use super::pod_update::{validate_ephemeral_containers_update, validate_pod_create, validate_update};
use crate::kind::{
    Connect, Kind, NameRule, Names, PartAccess, Scope, Selectable, StatusAccess, Strategy, Subresource,
    Validate,
};
use crate::object::Registered;
use crate::pod_spec::default_pod;
use crate::strategy::{
    first_generation, next_generation, reset_meta_for_status, semantic_eq, spec_and_status,
};
use crate::support::text;
use k8s_openapi::api::core::v1::{
    Affinity, AppArmorProfile, Container, Pod, PodAffinityTerm, PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use meta::GroupVersionKind;
use meta::pod::compute_qos_class;
use std::collections::BTreeMap;

const READ_WRITE: &[&str] = &["get", "patch", "update"];
const CREATE: &[&str] = &["create"];
const STREAM: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
/// Least grace of a deletion that asks for a negative one, in seconds.
const MIN_GRACE_SECONDS: i64 = 1;

const fn connect(
    name: &'static str,
    kind: GroupVersionKind,
    verbs: &'static [&'static str],
) -> Subresource<Pod> {
    Subresource::Connect(Connect { name, gvk: kind, verbs })
}

const SUBRESOURCES: &[Subresource<Pod>] = &[
    connect("attach", GroupVersionKind::of("", "v1", "PodAttachOptions"), STREAM),
    connect("binding", GroupVersionKind::of("", "v1", "Binding"), CREATE),
    Subresource::Part(PartAccess {
        name: "ephemeralcontainers",
        prepare: prepare_ephemeral_containers,
        validate: validate_ephemeral_containers_update,
        verbs: READ_WRITE,
    }),
    connect("eviction", GroupVersionKind::of("policy", "v1", "Eviction"), CREATE),
    connect("exec", GroupVersionKind::of("", "v1", "PodExecOptions"), STREAM),
    connect("log", GroupVersionKind::of("", "v1", "Pod"), &["get"]),
    connect("portforward", GroupVersionKind::of("", "v1", "PodPortForwardOptions"), STREAM),
    connect("proxy", GroupVersionKind::of("", "v1", "PodProxyOptions"), PROXY),
    Subresource::Part(PartAccess {
        name: "resize",
        prepare: prepare_resize,
        validate: validate_resize,
        verbs: READ_WRITE,
    }),
    Subresource::Status(StatusAccess { prepare: prepare_status, validate: validate_status_update }),
];

fn spec_text(pod: &Pod, of: fn(&PodSpec) -> Option<&String>) -> String {
    text(pod.spec.as_ref().and_then(of)).to_owned()
}

fn status_text(pod: &Pod, of: fn(&PodStatus) -> Option<&String>) -> String {
    text(pod.status.as_ref().and_then(of)).to_owned()
}

fn pod_ip(pod: &Pod) -> String {
    let ips = pod.status.as_ref().and_then(|s| s.pod_ips.as_deref()).unwrap_or_default();
    ips.first().map(|ip| ip.ip.clone()).unwrap_or_default()
}

const SELECTABLE: &[Selectable<Pod>] = &[
    Selectable { path: "spec.nodeName", value: |p| spec_text(p, |s| s.node_name.as_ref()) },
    Selectable { path: "spec.restartPolicy", value: |p| spec_text(p, |s| s.restart_policy.as_ref()) },
    Selectable { path: "spec.schedulerName", value: |p| spec_text(p, |s| s.scheduler_name.as_ref()) },
    Selectable {
        path: "spec.serviceAccountName",
        value: |p| spec_text(p, |s| s.service_account_name.as_ref()),
    },
    Selectable {
        path: "spec.hostNetwork",
        value: |p| p.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false).to_string(),
    },
    Selectable { path: "status.phase", value: |p| status_text(p, |s| s.phase.as_ref()) },
    Selectable { path: "status.podIP", value: pod_ip },
    // upstream takes this path and matches it against nothing
    Selectable { path: "status.podIPs", value: |_| String::new() },
    Selectable {
        path: "status.nominatedNodeName",
        value: |p| status_text(p, |s| s.nominated_node_name.as_ref()),
    },
];

pub static POD: Registered<Pod> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "Pod"),
    names: Names { plural: "pods", singular: "pod", short: &["po"], categories: &["all"] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.Pod",
    storage: "pods",
    name_rule: NameRule::DnsSubdomain,
    default: default_pod,
    validate: Validate { create: validate_pod_create, update: validate_update },
    strategy: Strategy {
        warnings: |new, old| if old.is_none() { crate::warnings::pods::pod(new) } else { Vec::new() },
        prepare_create,
        prepare_update,
        graceful_delete: Some(grace_seconds),
        orphans_by_default: false,
        ..spec_and_status!(Pod)
    },
    subresources: SUBRESOURCES,
    selectable: SELECTABLE,
    columns: COLUMNS,
});

fn prepare_create(pod: &mut Pod) {
    first_generation(pod);
    let spec = pod.spec.get_or_insert_default();
    let mut status = PodStatus {
        phase: Some("Pending".to_owned()),
        qos_class: Some(compute_qos_class(spec).to_owned()),
        ..Default::default()
    };
    if spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()) {
        status.conditions = Some(vec![PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some("SchedulingGated".to_owned()),
            message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
            ..Default::default()
        }]);
    }
    pod.status = Some(status);
    if let Some(annotations) = &pod.metadata.annotations {
        app_armor_from_annotations(spec, annotations);
    }
    if let Some(labels) = &pod.metadata.labels {
        merge_label_keys(spec, labels);
    }
}

/// Copies AppArmor profiles from the deprecated annotations to the containers that have no field (KEP-24).
fn app_armor_from_annotations(spec: &mut PodSpec, annotations: &BTreeMap<String, String>) {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let on_windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
    if on_windows || !annotations.keys().any(|k| k.starts_with(PREFIX)) {
        return;
    }
    let of_pod = spec.security_context.as_ref().and_then(|s| s.app_armor_profile.clone());
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    let contexts = containers.map(|c| (&c.name, &mut c.security_context));
    let ephemeral = spec.ephemeral_containers.iter_mut().flatten();
    for (name, context) in contexts.chain(ephemeral.map(|c| (&c.name, &mut c.security_context))) {
        let (kind, file) = match annotations.get(&format!("{PREFIX}{name}")).map(String::as_str) {
            Some("unconfined") => ("Unconfined", None),
            Some("runtime/default") => ("RuntimeDefault", None),
            Some(other) => match other.strip_prefix("localhost/").filter(|f| !f.is_empty() && f.trim() == *f)
            {
                Some(file) => ("Localhost", Some(file.to_owned())),
                None => continue,
            },
            None => continue,
        };
        let profile = Some(AppArmorProfile { type_: kind.to_owned(), localhost_profile: file });
        let has_own = context.as_ref().is_some_and(|c| c.app_armor_profile.is_some());
        if !has_own && profile != of_pod {
            context.get_or_insert_default().app_armor_profile = profile;
        }
    }
}

/// Writes the values that `matchLabelKeys` and `mismatchLabelKeys` name into the selectors beside them
/// (KEP-3633, KEP-3243).
fn merge_label_keys(spec: &mut PodSpec, labels: &BTreeMap<String, String>) {
    let add = |selector: &mut LabelSelector, keys: Option<&Vec<String>>, operator: &str| {
        for key in keys.into_iter().flatten() {
            if let Some(value) = labels.get(key) {
                selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                    key: key.clone(),
                    operator: operator.to_owned(),
                    values: Some(vec![value.clone()]),
                });
            }
        }
    };
    let term = |term: &mut PodAffinityTerm| {
        if let Some(selector) = &mut term.label_selector {
            add(selector, term.match_label_keys.as_ref(), "In");
            add(selector, term.mismatch_label_keys.as_ref(), "NotIn");
        }
    };
    if let Some(Affinity { pod_affinity, pod_anti_affinity, .. }) = &mut spec.affinity {
        for a in pod_affinity.iter_mut() {
            a.required_during_scheduling_ignored_during_execution.iter_mut().flatten().for_each(term);
            let preferred = a.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
            preferred.map(|w| &mut w.pod_affinity_term).for_each(term);
        }
        for a in pod_anti_affinity.iter_mut() {
            a.required_during_scheduling_ignored_during_execution.iter_mut().flatten().for_each(term);
            let preferred = a.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
            preferred.map(|w| &mut w.pod_affinity_term).for_each(term);
        }
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        if let Some(selector) = &mut constraint.label_selector {
            add(selector, constraint.match_label_keys.as_ref(), "In");
        }
    }
}

fn raise_generation(new: &mut Pod, old: &Pod) {
    let changed = !semantic_eq(&new.spec, &old.spec);
    next_generation(new, old, changed);
}

fn prepare_update(new: &mut Pod, old: &Pod) {
    new.status.clone_from(&old.status);
    raise_generation(new, old);
}

/// The kubelet writes here: the spec and the owners stay, and what it leaves out of the status that only
/// the API server knows is put back.
fn prepare_status(new: &mut Pod, old: &Pod) {
    new.spec.clone_from(&old.spec);
    new.metadata.deletion_timestamp.clone_from(&old.metadata.deletion_timestamp);
    new.metadata.owner_references.clone_from(&old.metadata.owner_references);
    let empty = PodStatus::default();
    let before = old.status.as_ref().unwrap_or(&empty);
    let status = new.status.get_or_insert_default();
    if text(status.qos_class.as_ref()).is_empty() {
        status.qos_class.clone_from(&before.qos_class);
    }
    let given = |generation: Option<i64>| generation.filter(|g| *g != 0);
    status.observed_generation = given(status.observed_generation).or(before.observed_generation);
    let mut stored: Vec<&PodCondition> = before.conditions.iter().flatten().collect();
    for condition in status.conditions.iter_mut().flatten() {
        let at = stored.iter().position(|c| c.type_ == condition.type_);
        let stored = at.map(|i| stored.remove(i)).and_then(|c| c.observed_generation);
        condition.observed_generation = given(condition.observed_generation).or(stored);
    }
    let containers = status.container_statuses.iter_mut().flatten();
    let init = status.init_container_statuses.iter_mut().flatten();
    for container in containers.chain(init).chain(status.ephemeral_container_statuses.iter_mut().flatten()) {
        container.state.get_or_insert_default();
        container.last_state.get_or_insert_default();
    }
}

fn prepare_ephemeral_containers(new: &mut Pod, old: &Pod) {
    let containers = new.spec.take().and_then(|s| s.ephemeral_containers);
    new.spec.clone_from(&old.spec);
    new.spec.get_or_insert_default().ephemeral_containers = containers;
    new.status.clone_from(&old.status);
    reset_meta_for_status(&mut new.metadata, &old.metadata);
    raise_generation(new, old);
}

/// Keeps only resources and resize policies of the containers. Containers added, removed or reordered are left
/// for validation to refuse.
fn prepare_resize(new: &mut Pod, old: &Pod) {
    let (Some(asked), Some(stored)) = (&new.spec, &old.spec) else { return };
    let init = |s: &PodSpec| s.init_containers.as_ref().map_or(0, Vec::len);
    if asked.containers.len() == stored.containers.len() && init(asked) == init(stored) {
        let mut spec = stored.clone();
        spec.containers = resized(&asked.containers, &stored.containers);
        if let (Some(asked), Some(stored)) = (&asked.init_containers, &stored.init_containers) {
            spec.init_containers = Some(resized(asked, stored));
        }
        spec.resources.clone_from(&asked.resources);
        new.spec = Some(spec);
        new.status.clone_from(&old.status);
        reset_meta_for_status(&mut new.metadata, &old.metadata);
    }
    raise_generation(new, old);
}

fn resized(asked: &[Container], stored: &[Container]) -> Vec<Container> {
    if asked.iter().zip(stored).any(|(a, s)| a.name != s.name) {
        return asked.to_vec();
    }
    asked
        .iter()
        .zip(stored)
        .map(|(a, s)| Container {
            resources: a.resources.clone(),
            resize_policy: a.resize_policy.clone(),
            ..s.clone()
        })
        .collect()
}

/// Seconds. A pod that no node has, or that has finished, goes at once.
fn grace_seconds(pod: &Pod, requested: Option<i64>) -> i64 {
    let spec = pod.spec.as_ref();
    let scheduled = spec.is_some_and(|s| !text(s.node_name.as_ref()).is_empty());
    let finished =
        pod.status.as_ref().is_some_and(|s| matches!(text(s.phase.as_ref()), "Succeeded" | "Failed"));
    if !scheduled || finished {
        return 0;
    }
    let seconds = requested.or(spec.and_then(|s| s.termination_grace_period_seconds)).unwrap_or(0);
    if seconds < 0 { MIN_GRACE_SECONDS } else { seconds }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::AnyKind;
    use crate::support::testing::object;
    use serde_json::{Value, json};

    fn pod(value: Value) -> Pod {
        let mut pod = object(value);
        default_pod(&mut pod);
        pod
    }

    #[test]
    fn a_new_pod_is_pending_in_its_qos_class() {
        let mut p = pod(json!({
            "metadata": {"name": "a", "labels": {"app": "web"}},
            "spec": {
                "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}],
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {}, "matchLabelKeys": ["app"]}],
            },
            "status": {"phase": "Running"},
        }));
        prepare_create(&mut p);
        assert_eq!(
            serde_json::to_value(&p.status).expect("JSON"),
            json!({"phase": "Pending", "qosClass": "Guaranteed"})
        );
        assert_eq!(p.metadata.generation, Some(1));
        let spec = serde_json::to_value(&p.spec).expect("JSON");
        assert_eq!(
            spec["topologySpreadConstraints"][0]["labelSelector"]["matchExpressions"],
            json!([{"key": "app", "operator": "In", "values": ["web"]}])
        );
    }

    #[test]
    fn grace_follows_the_pods_state() {
        let check = |value: Value, requested: Option<i64>, expect: i64| {
            assert_eq!(grace_seconds(&pod(value), requested), expect);
        };
        let on_node = json!({"spec": {"nodeName": "n", "containers": []}});
        check(json!({"spec": {"containers": []}}), Some(5), 0);
        check(on_node.clone(), None, 30);
        check(on_node.clone(), Some(0), 0);
        check(on_node.clone(), Some(-1), 1);
        check(json!({"spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Failed"}}), None, 0);
    }

    #[test]
    fn selectable_fields() {
        let p: crate::Object = Box::new(pod(json!({
            "spec": {"nodeName": "n", "hostNetwork": true, "containers": []}, "status": {"phase": "Running", "podIP": "10.0.0.1"},
        })));
        assert_eq!(
            POD.fields(&p),
            ["n", "Always", "default-scheduler", "", "true", "Running", "10.0.0.1", "", ""]
        );
    }

    #[test]
    fn a_status_write_keeps_the_spec_and_the_qos_class() {
        let mut old =
            pod(json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}));
        prepare_create(&mut old);
        let mut new = pod(
            json!({"metadata": {"name": "a"}, "spec": {"nodeName": "x", "containers": []}, "status": {"phase": "Running"}}),
        );
        prepare_status(&mut new, &old);
        assert_eq!(new.spec, old.spec);
        let status = new.status.expect("a status");
        assert_eq!(
            (status.phase.as_deref(), status.qos_class.as_deref()),
            (Some("Running"), Some("BestEffort"))
        );
    }
}
