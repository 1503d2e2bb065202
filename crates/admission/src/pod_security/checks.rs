//! The controls of the Pod Security Standards, in upstream's order and words.

use super::Level;
use k8s_openapi::api::core::v1::{
    ContainerPort, Lifecycle, LifecycleHandler, PodSpec, Probe, SELinuxOptions, SecurityContext, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeSet;

/// A control that a pod does not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub reason: String,
    pub detail: String,
}

type Check = fn(&View<'_>) -> Option<(String, String)>;

/// A control, and the first minor version of the standards that has it.
struct Control {
    since: u16,
    /// At the restricted level another control stands in its place since then.
    replaced_since: Option<u16>,
    check: Check,
}

const fn control(since: u16, check: Check) -> Control {
    Control { since, replaced_since: None, check }
}

const fn replaced(since: u16, replaced_since: u16, check: Check) -> Control {
    Control { since, replaced_since: Some(replaced_since), check }
}

static BASELINE: [Control; 12] = [
    control(0, app_armor),
    replaced(0, 22, default_capabilities),
    control(0, host_namespaces),
    replaced(0, 0, host_path),
    control(0, host_ports),
    control(34, probe_hosts),
    control(0, privileged),
    replaced(0, 35, proc_mount),
    control(0, se_linux),
    replaced(0, 19, seccomp_baseline),
    control(0, sysctls),
    control(0, windows_host_process),
];
static RESTRICTED: [Control; 7] = [
    control(8, privilege_escalation),
    control(22, restricted_capabilities),
    control(35, unmasked_proc),
    control(0, volume_types),
    control(0, non_root),
    control(23, root_user),
    control(19, seccomp_restricted),
];

/// What a pod of this template violates at a level. `minor`: the version of the standards, `v1.<minor>`.
pub fn violations(level: Level, minor: u16, meta: &ObjectMeta, spec: &PodSpec) -> Vec<Violation> {
    if level == Level::Privileged {
        return Vec::new();
    }
    let view = View::new(minor, meta, spec);
    let restricted = level == Level::Restricted;
    let stands = |c: &&Control| !(restricted && c.replaced_since.is_some_and(|since| minor >= since));
    let more = RESTRICTED.iter().filter(|_| restricted);
    BASELINE
        .iter()
        .filter(stands)
        .chain(more)
        .filter(|c| minor >= c.since)
        .filter_map(|c| (c.check)(&view))
        .map(|(reason, detail)| Violation { reason, detail })
        .collect()
}

/// Any container, as the controls see it.
struct Container<'a> {
    name: &'a str,
    security: Option<&'a SecurityContext>,
    ports: &'a [ContainerPort],
    probes: [Option<&'a Probe>; 3],
    lifecycle: Option<&'a Lifecycle>,
}

struct View<'a> {
    /// Of the standards.
    minor: u16,
    meta: &'a ObjectMeta,
    spec: &'a PodSpec,
    /// Init, main, then ephemeral.
    containers: Vec<Container<'a>>,
    /// Exempt from what it has not, since v1.25.
    windows: bool,
    /// In a user namespace root is not root, since v1.35.
    user_namespace: bool,
}

impl<'a> View<'a> {
    fn new(minor: u16, meta: &'a ObjectMeta, spec: &'a PodSpec) -> Self {
        let mut containers: Vec<Container<'a>> = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
            .map(|c| Container {
                name: &c.name,
                security: c.security_context.as_ref(),
                ports: c.ports.as_deref().unwrap_or_default(),
                probes: [c.liveness_probe.as_ref(), c.readiness_probe.as_ref(), c.startup_probe.as_ref()],
                lifecycle: c.lifecycle.as_ref(),
            })
            .collect();
        containers.extend(spec.ephemeral_containers.iter().flatten().map(|c| Container {
            name: &c.name,
            security: c.security_context.as_ref(),
            ports: c.ports.as_deref().unwrap_or_default(),
            probes: [c.liveness_probe.as_ref(), c.readiness_probe.as_ref(), c.startup_probe.as_ref()],
            lifecycle: c.lifecycle.as_ref(),
        }));
        let windows = minor >= 25 && spec.os.as_ref().is_some_and(|o| o.name == "windows");
        let user_namespace = minor >= 35 && spec.host_users == Some(false);
        Self { minor, meta, spec, containers, windows, user_namespace }
    }

    /// Names of the containers that a test finds bad.
    fn bad(&self, mut test: impl FnMut(&Container<'a>) -> bool) -> Vec<&'a str> {
        self.containers.iter().filter(|c| test(c)).map(|c| c.name).collect()
    }
}

fn join(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    items.into_iter().map(|i| format!("\"{}\"", i.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn named(containers: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", containers.len()), join(containers))
}

/// `pod and containers "a", "b"`; None where nobody set it.
fn setters(pod: bool, containers: &[&str]) -> Option<String> {
    let mut all = Vec::new();
    if pod {
        all.push("pod".to_owned());
    }
    if !containers.is_empty() {
        all.push(named(containers));
    }
    (!all.is_empty()).then(|| all.join(" and "))
}

fn app_armor(v: &View<'_>) -> Option<(String, String)> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut values = BTreeSet::new();
    let mut bad = |kind: Option<&str>| {
        let kind = kind.filter(|k| !matches!(*k, "RuntimeDefault" | "Localhost"));
        kind.inspect(|k| {
            values.insert((*k).to_owned());
        })
        .is_some()
    };
    let pod = v.spec.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    let pod = bad(pod.map(|p| p.type_.as_str()));
    let containers =
        v.bad(|c| bad(c.security.and_then(|s| s.app_armor_profile.as_ref()).map(|p| p.type_.as_str())));
    let annotations: Vec<String> = v
        .meta
        .annotations
        .iter()
        .flatten()
        .filter(|(k, p)| {
            k.starts_with(ANNOTATION)
                && !(p.is_empty() || *p == "runtime/default" || p.starts_with("localhost/"))
        })
        .map(|(k, p)| format!("{k}={p:?}"))
        .collect();
    let mut who: Vec<String> = setters(pod, &containers).into_iter().collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    Some((
        reason.into(),
        format!("{} must not set AppArmor profile type to {}", who.join(" and "), join(values)),
    ))
}

fn added<'a>(c: &Container<'a>) -> impl Iterator<Item = &'a String> {
    c.security.and_then(|s| s.capabilities.as_ref()).into_iter().flat_map(|c| c.add.iter().flatten())
}

fn default_capabilities(v: &View<'_>) -> Option<(String, String)> {
    const DEFAULT: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let mut found = BTreeSet::new();
    let bad = v.bad(|c| {
        let before = added(c).filter(|a| !DEFAULT.contains(&a.as_str())).inspect(|a| {
            found.insert((*a).clone());
        });
        before.count() > 0
    });
    (!bad.is_empty()).then(|| {
        let detail =
            format!("{} must not include {} in securityContext.capabilities.add", named(&bad), join(found));
        ("non-default capabilities".into(), detail)
    })
}

fn host_namespaces(v: &View<'_>) -> Option<(String, String)> {
    let all = [
        (v.spec.host_network, "hostNetwork=true"),
        (v.spec.host_pid, "hostPID=true"),
        (v.spec.host_ipc, "hostIPC=true"),
    ];
    let set: Vec<&str> = all.iter().filter(|(on, _)| *on == Some(true)).map(|(_, text)| *text).collect();
    (!set.is_empty()).then(|| ("host namespaces".into(), set.join(", ")))
}

fn host_path(v: &View<'_>) -> Option<(String, String)> {
    let volumes = v.spec.volumes.iter().flatten().filter(|v| v.host_path.is_some());
    let names: Vec<&str> = volumes.map(|v| v.name.as_str()).collect();
    let word = plural("volume", "volumes", names.len());
    (!names.is_empty()).then(|| ("hostPath volumes".into(), format!("{word} {}", join(&names))))
}

fn host_ports(v: &View<'_>) -> Option<(String, String)> {
    let mut ports = BTreeSet::new();
    let bad = v.bad(|c| {
        let set: Vec<i32> = c.ports.iter().filter_map(|p| p.host_port).filter(|p| *p != 0).collect();
        ports.extend(set.iter().map(ToString::to_string));
        !set.is_empty()
    });
    (!bad.is_empty()).then(|| {
        let uses = plural("uses", "use", bad.len());
        let word = plural("hostPort", "hostPorts", ports.len());
        let list: Vec<String> = ports.into_iter().collect();
        ("hostPort".into(), format!("{} {uses} {word} {}", named(&bad), list.join(", ")))
    })
}

fn probe_hosts(v: &View<'_>) -> Option<(String, String)> {
    let mut hosts = BTreeSet::new();
    let of_handler = |h: &LifecycleHandler| {
        [h.http_get.as_ref().and_then(|g| g.host.clone()), h.tcp_socket.as_ref().and_then(|s| s.host.clone())]
    };
    let mut bad = v.bad(|c| {
        let probes = c.probes.iter().flatten().flat_map(|p| {
            [
                p.http_get.as_ref().and_then(|g| g.host.clone()),
                p.tcp_socket.as_ref().and_then(|s| s.host.clone()),
            ]
        });
        let hooks = c.lifecycle.iter().flat_map(|l| [l.post_start.as_ref(), l.pre_stop.as_ref()]).flatten();
        let all: Vec<String> =
            probes.chain(hooks.flat_map(of_handler)).flatten().filter(|h| !h.is_empty()).collect();
        let any = !all.is_empty();
        hosts.extend(all);
        any
    });
    bad.sort_unstable();
    (!bad.is_empty()).then(|| {
        let uses = plural("uses", "use", bad.len());
        let word = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
        ("probe or lifecycle host".into(), format!("{} {uses} {word} {}", named(&bad), join(hosts)))
    })
}

fn privileged(v: &View<'_>) -> Option<(String, String)> {
    let bad = v.bad(|c| c.security.and_then(|s| s.privileged) == Some(true));
    (!bad.is_empty()).then(|| {
        ("privileged".into(), format!("{} must not set securityContext.privileged=true", named(&bad)))
    })
}

fn proc_mount(v: &View<'_>) -> Option<(String, String)> {
    if v.user_namespace { None } else { unmasked_proc(v) }
}

fn unmasked_proc(v: &View<'_>) -> Option<(String, String)> {
    let mut found = BTreeSet::new();
    let bad = v.bad(|c| {
        let kind = c.security.and_then(|s| s.proc_mount.clone()).filter(|p| p != "Default");
        let any = kind.is_some();
        found.extend(kind);
        any
    });
    (!bad.is_empty()).then(|| {
        (
            "procMount".into(),
            format!("{} must not set securityContext.procMount to {}", named(&bad), join(found)),
        )
    })
}

fn se_linux(v: &View<'_>) -> Option<(String, String)> {
    const SINCE_31: &str = "container_engine_t";
    const ALLOWED: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", SINCE_31];
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |o: Option<&SELinuxOptions>| {
        let Some(o) = o else { return false };
        let set = |field: &Option<String>| field.as_ref().is_some_and(|f| !f.is_empty());
        let kind = o.type_.clone().unwrap_or_default();
        let bad_type = !ALLOWED.contains(&kind.as_str()) || kind == SINCE_31 && v.minor < 31;
        if bad_type {
            types.insert(kind);
        }
        user |= set(&o.user);
        role |= set(&o.role);
        bad_type || set(&o.user) || set(&o.role)
    };
    let pod = bad(v.spec.security_context.as_ref().and_then(|s| s.se_linux_options.as_ref()));
    let containers = v.bad(|c| bad(c.security.and_then(|s| s.se_linux_options.as_ref())));
    let who = setters(pod, &containers)?;
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", "types", types.len()), join(types)));
    }
    what.extend(user.then(|| "user may not be set".to_owned()));
    what.extend(role.then(|| "role may not be set".to_owned()));
    Some((
        "seLinuxOptions".into(),
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")),
    ))
}

fn good_seccomp(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

/// Pod and containers that set a profile that is not allowed.
fn bad_seccomp(v: &View<'_>) -> Option<(String, String)> {
    let mut found = BTreeSet::new();
    let mut bad = |kind: Option<&String>| {
        let kind = kind.filter(|k| !good_seccomp(k));
        found.extend(kind.cloned());
        kind.is_some()
    };
    let pod =
        bad(v.spec.security_context.as_ref().and_then(|s| s.seccomp_profile.as_ref()).map(|p| &p.type_));
    let containers = v.bad(|c| bad(c.security.and_then(|s| s.seccomp_profile.as_ref()).map(|p| &p.type_)));
    let who = setters(pod, &containers)?;
    Some((
        "seccompProfile".into(),
        format!("{who} must not set securityContext.seccompProfile.type to {}", join(found)),
    ))
}

fn seccomp_baseline(v: &View<'_>) -> Option<(String, String)> {
    if v.minor >= 19 { bad_seccomp(v) } else { seccomp_annotations(v) }
}

/// Before v1.19 the profile was an annotation.
fn seccomp_annotations(v: &View<'_>) -> Option<(String, String)> {
    let given = v.meta.annotations.as_ref()?;
    let of_containers =
        v.containers.iter().map(|c| format!("container.seccomp.security.alpha.kubernetes.io/{}", c.name));
    let keys = of_containers.chain(["seccomp.security.alpha.kubernetes.io/pod".to_owned()]);
    let good = |p: &str| matches!(p, "runtime/default" | "docker/default") || p.starts_with("localhost/");
    let bad: BTreeSet<String> =
        keys.filter_map(|k| given.get(&k).filter(|p| !good(p)).map(|p| format!("{k}={p:?}"))).collect();
    (!bad.is_empty()).then(|| {
        let word = plural("annotation", "annotations", bad.len());
        (
            "seccompProfile".into(),
            format!("forbidden {word} {}", bad.into_iter().collect::<Vec<_>>().join(", ")),
        )
    })
}

fn seccomp_restricted(v: &View<'_>) -> Option<(String, String)> {
    if v.windows {
        return None;
    }
    if let Some(bad) = bad_seccomp(v) {
        return Some(bad);
    }
    let pod = v.spec.security_context.as_ref().is_some_and(|s| s.seccomp_profile.is_some());
    let unset = v.bad(|c| !pod && c.security.is_none_or(|s| s.seccomp_profile.is_none()));
    (!unset.is_empty()).then(|| {
        let detail = format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            named(&unset)
        );
        ("seccompProfile".into(), detail)
    })
}

fn sysctls(v: &View<'_>) -> Option<(String, String)> {
    const ALLOWED: [(&str, u16); 12] = [
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_port_range", 0),
        ("net.ipv4.tcp_syncookies", 0),
        ("net.ipv4.ping_group_range", 0),
        ("net.ipv4.ip_unprivileged_port_start", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_fin_timeout", 29),
        ("net.ipv4.tcp_keepalive_intvl", 29),
        ("net.ipv4.tcp_keepalive_probes", 29),
        ("net.ipv4.tcp_rmem", 32),
        ("net.ipv4.tcp_wmem", 32),
    ];
    let allowed = |name: &str| ALLOWED.iter().any(|(n, since)| *n == name && v.minor >= *since);
    let set = v.spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten());
    let bad: Vec<&str> = set.map(|s| s.name.as_str()).filter(|n| !allowed(n)).collect();
    (!bad.is_empty()).then(|| ("forbidden sysctls".into(), bad.join(", ")))
}

fn windows_host_process(v: &View<'_>) -> Option<(String, String)> {
    let pod = v.spec.security_context.as_ref().and_then(|s| s.windows_options.as_ref());
    let pod = pod.and_then(|w| w.host_process) == Some(true);
    let containers = v.bad(|c| {
        c.security.and_then(|s| s.windows_options.as_ref()).and_then(|w| w.host_process) == Some(true)
    });
    let who = setters(pod, &containers)?;
    Some((
        "hostProcess".into(),
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    ))
}

fn privilege_escalation(v: &View<'_>) -> Option<(String, String)> {
    let bad = v.bad(|c| !v.windows && c.security.and_then(|s| s.allow_privilege_escalation) != Some(false));
    (!bad.is_empty()).then(|| {
        let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&bad));
        ("allowPrivilegeEscalation != false".into(), detail)
    })
}

fn restricted_capabilities(v: &View<'_>) -> Option<(String, String)> {
    if v.windows {
        return None;
    }
    let drops_all = |c: &Container<'_>| {
        let drop = c.security.and_then(|s| s.capabilities.as_ref()).and_then(|c| c.drop.as_ref());
        drop.is_some_and(|d| d.iter().any(|x| x == "ALL"))
    };
    let missing = v.bad(|c| !drops_all(c));
    let mut found = BTreeSet::new();
    let adding = v.bad(|c| {
        let bad: Vec<String> = added(c).filter(|a| *a != "NET_BIND_SERVICE").cloned().collect();
        let any = !bad.is_empty();
        found.extend(bad);
        any
    });
    let mut details = Vec::new();
    if !missing.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&missing)));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(&adding),
            join(found)
        ));
    }
    (!details.is_empty()).then(|| ("unrestricted capabilities".into(), details.join("; ")))
}

fn volume_types(v: &View<'_>) -> Option<(String, String)> {
    let mut types = BTreeSet::new();
    let volumes = v.spec.volumes.iter().flatten();
    let bad: Vec<&str> = volumes
        .filter(|volume| {
            let kind = restricted_type(volume);
            types.extend(kind);
            kind.is_some()
        })
        .map(|v| v.name.as_str())
        .collect();
    (!bad.is_empty()).then(|| {
        let word = plural("volume", "volumes", bad.len());
        let uses = plural("uses", "use", bad.len());
        let kinds = plural("restricted volume type", "restricted volume types", types.len());
        ("restricted volume types".into(), format!("{word} {} {uses} {kinds} {}", join(&bad), join(types)))
    })
}

fn restricted_type(v: &Volume) -> Option<&'static str> {
    let allowed = v.config_map.is_some()
        || v.csi.is_some()
        || v.downward_api.is_some()
        || v.empty_dir.is_some()
        || v.ephemeral.is_some()
        || v.image.is_some()
        || v.persistent_volume_claim.is_some()
        || v.projected.is_some()
        || v.secret.is_some();
    if allowed {
        return None;
    }
    let kinds = [
        (v.host_path.is_some(), "hostPath"),
        (v.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (v.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (v.git_repo.is_some(), "gitRepo"),
        (v.nfs.is_some(), "nfs"),
        (v.iscsi.is_some(), "iscsi"),
        (v.glusterfs.is_some(), "glusterfs"),
        (v.rbd.is_some(), "rbd"),
        (v.flex_volume.is_some(), "flexVolume"),
        (v.cinder.is_some(), "cinder"),
        (v.cephfs.is_some(), "cephfs"),
        (v.flocker.is_some(), "flocker"),
        (v.fc.is_some(), "fc"),
        (v.azure_file.is_some(), "azureFile"),
        (v.vsphere_volume.is_some(), "vsphereVolume"),
        (v.quobyte.is_some(), "quobyte"),
        (v.azure_disk.is_some(), "azureDisk"),
        (v.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (v.portworx_volume.is_some(), "portworxVolume"),
        (v.scale_io.is_some(), "scaleIO"),
        (v.storageos.is_some(), "storageos"),
    ];
    Some(kinds.iter().find(|(on, _)| *on).map_or("unknown", |(_, name)| name))
}

fn non_root(v: &View<'_>) -> Option<(String, String)> {
    if v.user_namespace {
        return None;
    }
    let reason = "runAsNonRoot != true".to_owned();
    let pod = v.spec.security_context.as_ref().and_then(|s| s.run_as_non_root);
    let own = |c: &Container<'_>| c.security.and_then(|s| s.run_as_non_root);
    if let Some(who) = setters(pod == Some(false), &v.bad(|c| own(c) == Some(false))) {
        return Some((reason, format!("{who} must not set securityContext.runAsNonRoot=false")));
    }
    let unset = v.bad(|c| own(c).is_none() && pod != Some(true));
    (!unset.is_empty())
        .then(|| (reason, format!("pod or {} must set securityContext.runAsNonRoot=true", named(&unset))))
}

fn root_user(v: &View<'_>) -> Option<(String, String)> {
    if v.user_namespace {
        return None;
    }
    let pod = v.spec.security_context.as_ref().and_then(|s| s.run_as_user) == Some(0);
    let who = setters(pod, &v.bad(|c| c.security.and_then(|s| s.run_as_user) == Some(0)))?;
    Some(("runAsUser=0".into(), format!("{who} must not set runAsUser=0")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_pinned_version_has_the_rules_of_its_time() {
        let reasons = |level: Level, minor: u16, spec: Value| -> Vec<String> {
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            violations(level, minor, &ObjectMeta::default(), &spec).into_iter().map(|v| v.reason).collect()
        };
        let plain = json!({"containers": [{"name": "a"}]});
        assert_eq!(reasons(Level::Restricted, 7, plain.clone()), ["runAsNonRoot != true"]);
        assert_eq!(
            reasons(Level::Restricted, 21, plain),
            ["allowPrivilegeEscalation != false", "runAsNonRoot != true", "seccompProfile"]
        );
        let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1"}]}, "containers": []});
        assert_eq!(reasons(Level::Baseline, 31, sysctl.clone()), ["forbidden sysctls"]);
        assert!(reasons(Level::Baseline, 32, sysctl).is_empty());
        let probe =
            json!({"containers": [{"name": "a", "livenessProbe": {"tcpSocket": {"port": 1, "host": "x"}}}]});
        assert!(reasons(Level::Baseline, 33, probe.clone()).is_empty());
        assert_eq!(reasons(Level::Baseline, 34, probe), ["probe or lifecycle host"]);
        let mapped = json!({"hostUsers": false, "securityContext": {"runAsUser": 0}, "containers": []});
        assert_eq!(reasons(Level::Restricted, 34, mapped.clone()), ["runAsUser=0"]);
        assert!(reasons(Level::Restricted, 35, mapped).is_empty());
    }

    #[test]
    fn pods_against_the_standards() {
        let check = |level: Level, spec: Value, expect: &[&str]| {
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            let found = violations(level, 36, &ObjectMeta::default(), &spec);
            let found: Vec<String> = found.iter().map(|v| format!("{} ({})", v.reason, v.detail)).collect();
            assert_eq!(found, expect);
        };
        let plain = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        check(Level::Baseline, plain.clone(), &[]);
        check(
            Level::Restricted,
            plain,
            &[
                r#"allowPrivilegeEscalation != false (containers "a", "b" must set securityContext.allowPrivilegeEscalation=false)"#,
                r#"unrestricted capabilities (containers "a", "b" must set securityContext.capabilities.drop=["ALL"])"#,
                r#"runAsNonRoot != true (pod or containers "a", "b" must set securityContext.runAsNonRoot=true)"#,
                r#"seccompProfile (pod or containers "a", "b" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#,
            ],
        );
        check(
            Level::Restricted,
            json!({
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{"name": "a", "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                }}],
                "volumes": [{"name": "v", "emptyDir": {}}],
            }),
            &[],
        );
        check(
            Level::Baseline,
            json!({
                "hostNetwork": true,
                "hostPID": true,
                "containers": [{
                    "name": "a",
                    "ports": [{"containerPort": 80, "hostPort": 8080}],
                    "securityContext": {"privileged": true, "capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}},
                }],
                "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            }),
            &[
                r#"non-default capabilities (container "a" must not include "SYS_ADMIN" in securityContext.capabilities.add)"#,
                "host namespaces (hostNetwork=true, hostPID=true)",
                r#"hostPath volumes (volume "v")"#,
                r#"hostPort (container "a" uses hostPort 8080)"#,
                r#"privileged (container "a" must not set securityContext.privileged=true)"#,
            ],
        );
    }
}
