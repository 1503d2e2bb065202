//! Pods and templates of pods.

use super::{ip, node_label, node_selector_term, paths};
use crate::pod_spec::PodTerms;
use crate::strategy::semantic_eq;
use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, ContainerPort, PersistentVolumeClaimSpec, Pod, PodAffinityTerm, PodSpec,
    PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::pod::as_container;
use meta::{Path, Quantity, validation as rules};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
    ),
    ("security.alpha.kubernetes.io/sysctls", r#"non-functional in v1.11+; use the "sysctls" field instead"#),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
];

type Amounts = BTreeMap<String, ApiQuantity>;

/// A new pod. Changes of pods are not looked at: it is rarely a human who makes them.
pub fn pod(pod: &Pod) -> Vec<String> {
    let mut out = Vec::new();
    let wrong = rules::is_dns1123_label(pod.metadata.name.as_deref().unwrap_or(""));
    if !wrong.is_empty() {
        out.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
    if let Some(spec) = &pod.spec {
        look(&Path::new(""), spec, &pod.metadata, &mut out);
    }
    out
}

/// A template at `path`.
pub fn template(path: &Path, template: Option<&PodTemplateSpec>) -> Vec<String> {
    let mut out = Vec::new();
    let Some(template) = template else { return out };
    let (no_spec, no_meta) = (PodSpec::default(), ObjectMeta::default());
    let meta = template.metadata.as_ref().unwrap_or(&no_meta);
    look(path, template.spec.as_ref().unwrap_or(&no_spec), meta, &mut out);
    out
}

/// A controller's template at `spec.template`: when it is new, and when its specification changed. A name that pods
/// cannot have as their host name is told of a new one.
pub fn of_controller(
    meta: &ObjectMeta,
    old: Option<&ObjectMeta>,
    pods: Option<&PodTemplateSpec>,
    names_pods: bool,
) -> Vec<String> {
    if old.is_some_and(|old| old.generation == meta.generation) {
        return Vec::new();
    }
    let mut out = Vec::new();
    if old.is_none() && names_pods {
        out.extend(name_of_pods(meta));
    }
    out.extend(template(&Path::new("spec.template"), pods));
    out
}

/// A job's specification at `path`, of a Job or a CronJob.
pub fn of_job(
    meta: &ObjectMeta,
    old: Option<&ObjectMeta>,
    path: &Path,
    spec: Option<&JobSpec>,
) -> Vec<String> {
    if old.is_some_and(|old| old.generation == meta.generation) {
        return Vec::new();
    }
    let mut out = Vec::new();
    if old.is_none() {
        out.extend(name_of_pods(meta));
    }
    let Some(spec) = spec else { return out };
    if crate::batch::is_huge(spec) {
        out.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    out.extend(template(&path.child("template"), Some(&spec.template)));
    out
}

/// A name that pods cannot have as their host name.
fn name_of_pods(meta: &ObjectMeta) -> Option<String> {
    let wrong = rules::is_dns1123_label(meta.name.as_deref().unwrap_or(""));
    (!wrong.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        )
    })
}

/// A claim's specification at `path`.
pub fn claim_spec(path: &Path, spec: &PersistentVolumeClaimSpec, out: &mut Vec<String>) {
    let resources = spec.resources.as_ref();
    let requests = resources.and_then(|r| r.requests.as_ref());
    let limits = resources.and_then(|r| r.limits.as_ref());
    fractional(requests, "storage", || path.child("resources.requests"), out);
    fractional(limits, "storage", || path.child("resources.limits"), out);
}

/// Bytes come whole.
fn fractional(amounts: Option<&Amounts>, name: &str, path: impl FnOnce() -> Path, out: &mut Vec<String>) {
    let Some(amount) = amounts.and_then(|a| a.get(name)) else { return };
    let amount = Quantity::of(amount);
    if amount.milli_value() % 1000 != 0 {
        let text = amount.to_string();
        out.push(format!(
            "{}: fractional byte value {text:?} is invalid, must be an integer",
            path().key(name)
        ));
    }
}

fn look(base: &Path, spec: &PodSpec, meta: &ObjectMeta, out: &mut Vec<String>) {
    placement(base, spec, out);
    annotations(base, meta, out);
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        volume_plugin(volume, || base.child("spec.volumes").index(i), out);
    }
    paths::overlapping(spec.volumes.as_deref().unwrap_or_default(), out);
    repeated(base, spec, out);
    for name in ["memory", "ephemeral-storage"] {
        fractional(spec.overhead.as_ref(), name, || base.child("spec.overhead"), out);
    }
    security(base, spec, meta, out);
    each_container(base, spec, |c, at| container(c, at, out));
    ports(base, spec, out);
    if spec.termination_grace_period_seconds.is_some_and(|s| s < 0) {
        out.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            base.child("spec.terminationGracePeriodSeconds")
        ));
    }
    pod_affinity(base, spec, out);
    let servers = spec.dns_config.iter().flat_map(|d| d.nameservers.iter().flatten()).enumerate();
    out.extend(servers.filter_map(|(i, s)| ip(|| base.child("spec.dnsConfig.nameservers").index(i), s)));
    let aliases = spec.host_aliases.iter().flatten().enumerate();
    out.extend(
        aliases.filter_map(|(i, a)| ip(|| base.child("spec.hostAliases").index(i).child("ip"), &a.ip)),
    );
}

/// Visits init, main and ephemeral containers, each with the way to its path.
fn each_container(base: &Path, spec: &PodSpec, mut visit: impl FnMut(&Container, &dyn Fn() -> Path)) {
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let init = spec.init_containers.iter().flatten().map(Cow::Borrowed).enumerate();
    let main = spec.containers.iter().map(Cow::Borrowed).enumerate();
    let ephemeral = ephemeral.map(|e| Cow::Owned(as_container(e))).enumerate();
    let lists = init.map(|c| ("spec.initContainers", c)).chain(main.map(|c| ("spec.containers", c)));
    for (list, (i, c)) in lists.chain(ephemeral.map(|c| ("spec.ephemeralContainers", c))) {
        visit(&c, &|| base.child(list).index(i));
    }
}

fn placement(base: &Path, spec: &PodSpec, out: &mut Vec<String>) {
    for key in spec.node_selector.iter().flat_map(BTreeMap::keys) {
        if let Some(why) = node_label(key) {
            out.push(format!("{}: {why}", base.child("spec.nodeSelector").key(key)));
        }
    }
    if let Some(nodes) = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()) {
        let at = |what: &str| base.child("spec.affinity.nodeAffinity").child(what);
        let required = nodes.required_during_scheduling_ignored_during_execution.iter();
        for (i, term) in required.flat_map(|r| &r.node_selector_terms).enumerate() {
            let path = at("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms").index(i);
            node_selector_term(term, false, &path, out);
        }
        let preferred = nodes.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (i, term) in preferred.enumerate() {
            let path = at("preferredDuringSchedulingIgnoredDuringExecution").index(i).child("preference");
            node_selector_term(&term.preference, true, &path, out);
        }
    }
    for (i, constraint) in spec.topology_spread_constraints.iter().flatten().enumerate() {
        let at = || base.child("spec.topologySpreadConstraints").index(i);
        if let Some(why) = node_label(&constraint.topology_key) {
            out.push(format!("{}: {} is {why}", at().child("topologyKey"), constraint.topology_key));
        }
        if constraint.label_selector.is_none() {
            out.push(no_selector(&at().child("labelSelector")));
        }
    }
}

fn no_selector(path: &Path) -> String {
    format!("{path}: a null labelSelector results in matching no pod")
}

fn pod_affinity(base: &Path, spec: &PodSpec, out: &mut Vec<String>) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let Some(affinity) = &spec.affinity else { return };
    let lists = [("podAffinity", PodTerms::near(affinity)), ("podAntiAffinity", PodTerms::apart(affinity))];
    for (what, terms) in lists {
        let at = |which: &str, i: usize| base.child("spec.affinity").child(what).child(which).index(i);
        let blank = |t: &PodAffinityTerm| t.label_selector.is_none();
        let required = terms.required.iter().enumerate().filter(|(_, t)| blank(t));
        out.extend(required.map(|(i, _)| no_selector(&at(REQUIRED, i).child("labelSelector"))));
        let preferred = terms.preferred.iter().enumerate().filter(|(_, t)| blank(&t.pod_affinity_term));
        out.extend(
            preferred.map(|(i, _)| no_selector(&at(PREFERRED, i).child("podAffinityTerm.labelSelector"))),
        );
    }
}

fn annotation(base: &Path, key: &str, why: &str) -> String {
    format!("{}: {why}", base.child("metadata.annotations").key(key))
}

fn annotations(base: &Path, meta: &ObjectMeta, out: &mut Vec<String>) {
    let Some(given) = &meta.annotations else { return };
    for (key, why) in ANNOTATIONS.iter().filter(|(key, _)| given.contains_key(*key)) {
        out.push(annotation(base, key, why));
    }
}

fn volume_plugin(v: &Volume, at: impl Fn() -> Path, out: &mut Vec<String>) {
    const GONE_116: &str = "deprecated in v1.11, non-functional in v1.16+";
    const GONE_125: &str = "deprecated in v1.22, non-functional in v1.25+";
    const GONE_131: &str = "deprecated in v1.28, non-functional in v1.31+";
    for (used, field, why) in [
        (v.photon_persistent_disk.is_some(), "photonPersistentDisk", GONE_116),
        (v.git_repo.is_some(), "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
        (v.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        (v.flocker.is_some(), "flocker", GONE_125),
        (v.storageos.is_some(), "storageOS", GONE_125),
        (v.quobyte.is_some(), "quobyte", GONE_125),
        (v.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        (v.cephfs.is_some(), "cephfs", GONE_131),
        (v.rbd.is_some(), "rbd", GONE_131),
    ] {
        if used {
            out.push(format!("{}: {why}", at().child(field)));
        }
    }
    if let Some(claim) = v.ephemeral.as_ref().and_then(|e| e.volume_claim_template.as_ref()) {
        claim_spec(&at().child("ephemeral.volumeClaimTemplate.spec"), &claim.spec, out);
    }
}

/// Aliases and pull secrets given twice.
fn repeated(base: &Path, spec: &PodSpec, out: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        if !seen.insert(&alias.ip) {
            let path = base.child("spec.hostAliases").index(i).child("ip");
            out.push(format!("{path}: duplicate ip {:?}", alias.ip));
        }
    }
    let secrets = || spec.image_pull_secrets.iter().flatten().enumerate();
    let at = |i: usize| base.child("spec.imagePullSecrets").index(i).child("name");
    let mut seen = BTreeSet::new();
    for (i, secret) in secrets() {
        if !seen.insert(&secret.name) {
            out.push(format!("{}: duplicate name {:?}", at(i), secret.name));
        }
    }
    for (i, secret) in secrets().filter(|(_, s)| s.name.is_empty()) {
        out.push(format!("{}: invalid empty name {:?}", at(i), secret.name));
    }
}

fn app_armor(annotation: &str) -> Option<AppArmorProfile> {
    let profile = |kind: &str, file: Option<&str>| AppArmorProfile {
        type_: kind.to_owned(),
        localhost_profile: file.map(str::to_owned),
    };
    match annotation {
        "unconfined" => Some(profile("Unconfined", None)),
        "runtime/default" => Some(profile("RuntimeDefault", None)),
        other => {
            other.strip_prefix("localhost/").filter(|f| !f.is_empty()).map(|f| profile("Localhost", Some(f)))
        }
    }
}

/// Security profiles by annotation only.
fn security(base: &Path, spec: &PodSpec, meta: &ObjectMeta, out: &mut Vec<String>) {
    const SECCOMP: &str = r#"non-functional in v1.27+; use the "seccompProfile" field instead"#;
    const ARMOR: &str = r#"deprecated since v1.30; use the "appArmorProfile" field instead"#;
    let Some(given) = meta.annotations.as_ref().filter(|a| !a.is_empty()) else { return };
    let of_pod = spec.security_context.as_ref();
    if of_pod.is_none_or(|s| s.seccomp_profile.is_none()) && given.contains_key(SECCOMP_OF_POD) {
        out.push(annotation(base, SECCOMP_OF_POD, SECCOMP));
    }
    let of_pod = of_pod.and_then(|s| s.app_armor_profile.clone());
    each_container(base, spec, |c, _| {
        let own = c.security_context.as_ref();
        let key = format!("{SECCOMP_OF_CONTAINER}{}", c.name);
        if own.is_none_or(|s| s.seccomp_profile.is_none()) && given.contains_key(&key) {
            out.push(annotation(base, &key, SECCOMP));
        }
        let key = format!("{APP_ARMOR}{}", c.name);
        if own.is_none_or(|s| s.app_armor_profile.is_none())
            && let Some(text) = given.get(&key)
            && (of_pod.is_none() || !semantic_eq(&app_armor(text), &of_pod))
        {
            out.push(annotation(base, &key, ARMOR));
        }
    });
}

fn container(c: &Container, at: &dyn Fn() -> Path, out: &mut Vec<String>) {
    let resources = c.resources.as_ref();
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    for name in ["memory", "ephemeral-storage"] {
        fractional(limits, name, || at().child("resources.limits"), out);
        fractional(requests, name, || at().child("resources.requests"), out);
    }
    let env = c.env.as_deref().unwrap_or_default();
    if env.len() < 2 {
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, variable) in env.iter().enumerate() {
        if seen.insert(&variable.name) {
            continue;
        }
        // A value that is built on the earlier one is meant.
        let earlier = format!("$({})", variable.name);
        let value = variable.value.as_deref().unwrap_or("");
        if variable.value_from.is_some() || value == earlier || !value.contains(&earlier) {
            out.push(format!(
                "{}: hides previous definition of {:?}, which may be dropped when using apply",
                at().child("env").index(i),
                variable.name
            ));
        }
    }
}

/// Ports that are given twice, and names of ports.
fn ports(base: &Path, spec: &PodSpec, out: &mut Vec<String>) {
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let own = || all.clone().flat_map(|c| c.ports.iter().flatten());
    let debugged = spec.ephemeral_containers.as_ref().is_some_and(|e| !e.is_empty());
    // Most pods: one port meets no other.
    if !debugged && own().nth(1).is_none() && own().all(|p| p.host_ip.is_none()) {
        return;
    }
    let mut all: BTreeMap<(i32, String), Vec<(Path, ContainerPort)>> = BTreeMap::new();
    let mut names: BTreeMap<String, Path> = BTreeMap::new();
    let mut named = Vec::new();
    each_container(base, spec, |c, container_path| {
        for (i, port) in c.ports.iter().flatten().enumerate() {
            let at = container_path().child("ports").index(i);
            let (ip, number) = (port.host_ip.as_deref().unwrap_or(""), port.host_port.unwrap_or(0));
            let protocol = port.protocol.clone().unwrap_or_default();
            let name = port.name.as_deref().unwrap_or("");
            if !ip.is_empty() && number == 0 {
                out.push(format!(
                    "{at}: hostIP set without hostPort: {{Name:{name} HostPort:{number} ContainerPort:{} Protocol:{protocol} HostIP:{ip}}}",
                    port.container_port
                ));
            }
            let others = all.entry((port.container_port, protocol)).or_default();
            for (other_path, other) in others.iter() {
                let (other_ip, other_number) =
                    (other.host_ip.as_deref().unwrap_or(""), other.host_port.unwrap_or(0));
                let how = if ip == other_ip && number == other_number {
                    "duplicate"
                } else if number == 0 || other_number == 0 {
                    "overlapping"
                } else if number == other_number && ip.is_empty() != other_ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                out.push(format!("{at}: {how} port definition with {other_path}"));
            }
            others.push((at.clone(), port.clone()));
            if name.is_empty() {
                continue;
            }
            match names.get(name) {
                Some(first) => named.push(format!(
                    "{at}: duplicate port name {name:?} with {first}, services and probes that select ports by name will use {first}"
                )),
                None => drop(names.insert(name.to_owned(), at)),
            }
        }
    });
    out.extend(named);
}
