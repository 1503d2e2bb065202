//! What a container may do: the security contexts of pod and container as the runtime wants them.

use cri::v1;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};

use crate::container_config::{ConfigError, Node};
use crate::sync::format_pod;

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The user an image names: a number, a name, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub username: String,
}

/// The container's context with the pod's where the container says nothing.
fn effective(pod: &Pod, container: &Container) -> SecurityContext {
    let pod_sc = pod_context(pod);
    let mut sc = container.security_context.clone().unwrap_or_default();
    sc.run_as_user = sc.run_as_user.or(pod_sc.run_as_user);
    sc.run_as_group = sc.run_as_group.or(pod_sc.run_as_group);
    sc.run_as_non_root = sc.run_as_non_root.or(pod_sc.run_as_non_root);
    sc.se_linux_options = sc.se_linux_options.or(pod_sc.se_linux_options);
    sc.seccomp_profile = sc.seccomp_profile.or(pod_sc.seccomp_profile);
    sc.app_armor_profile = sc.app_armor_profile.or(pod_sc.app_armor_profile);
    sc
}

fn pod_context(pod: &Pod) -> PodSecurityContext {
    pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default()
}

/// Refuses a container that must not run as root but would.
fn check_non_root(
    pod: &Pod,
    container: &Container,
    sc: &SecurityContext,
    image: &ImageUser,
) -> Result<(), ConfigError> {
    if sc.run_as_non_root != Some(true) {
        return Ok(());
    }
    let place = format!("(pod: {:?}, container: {})", format_pod(pod), container.name);
    let refuse = |text: String| Err(ConfigError(format!("{text} {place}")));
    match (sc.run_as_user, image.uid) {
        (Some(0), _) => refuse("container's runAsUser breaks non-root policy".into()),
        (Some(_), _) => Ok(()),
        // an image that names nobody runs as root
        (None, None) if image.username.is_empty() => {
            refuse("container has runAsNonRoot and image will run as root".into())
        }
        (None, Some(0)) => refuse("container has runAsNonRoot and image will run as root".into()),
        (None, None) => refuse(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root",
            image.username
        )),
        (None, _) => Ok(()),
    }
}

/// The runtime's security context of a container.
///
/// # Errors
/// A container that would run as root but must not, or a profile without its name.
#[expect(deprecated, reason = "older runtimes read only the old AppArmor field")]
pub fn container_security(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    node: &Node,
) -> Result<v1::LinuxContainerSecurityContext, ConfigError> {
    let sc = effective(pod, container);
    check_non_root(pod, container, &sc, image)?;
    let pod_sc = pod_context(pod);
    let unmasked = sc.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| -> Vec<String> {
        if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() }
    };
    let mut masked_paths = paths(&MASKED_PATHS);
    if !unmasked {
        masked_paths.extend(node.extra_masked_paths.iter().cloned());
    }
    let (apparmor, apparmor_profile) = apparmor(sc.app_armor_profile.as_ref())?;
    let int = |value: i64| v1::Int64Value { value };
    let (mut run_as_user, mut run_as_username) = (sc.run_as_user.map(int), String::new());
    if run_as_user.is_none() {
        run_as_user = image.uid.map(int);
        run_as_username = image.username.clone();
    }
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: sc.capabilities.as_ref().map(|c| v1::Capability {
            add_capabilities: c.add.clone().unwrap_or_default(),
            drop_capabilities: c.drop.clone().unwrap_or_default(),
            ..Default::default()
        }),
        privileged: sc.privileged == Some(true),
        namespace_options: Some(namespaces(pod)),
        selinux_options: sc.se_linux_options.as_ref().map(selinux),
        run_as_user,
        run_as_group: sc.run_as_group.map(int),
        run_as_username,
        readonly_rootfs: sc.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&pod_sc),
        supplemental_groups_policy: groups_policy(&pod_sc),
        no_new_privs: sc.allow_privilege_escalation == Some(false),
        masked_paths,
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(seccomp(sc.seccomp_profile.as_ref(), node)?),
        apparmor,
        apparmor_profile,
        ..Default::default()
    })
}

/// The runtime's security context of the sandbox. Its own process is confined whatever the pod says.
pub fn sandbox_security(pod: &Pod) -> v1::LinuxSandboxSecurityContext {
    let sc = pod_context(pod);
    let spec = pod.spec.as_ref();
    let containers = spec.map_or(&[][..], |s| &s.containers);
    let inits = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let privileged = |c: &Container| c.security_context.as_ref().is_some_and(|s| s.privileged == Some(true));
    let int = |value: i64| v1::Int64Value { value };
    v1::LinuxSandboxSecurityContext {
        privileged: containers.iter().chain(inits).any(privileged),
        namespace_options: Some(namespaces(pod)),
        selinux_options: sc.se_linux_options.as_ref().map(selinux),
        run_as_user: sc.run_as_user.map(int),
        run_as_group: sc.run_as_group.map(int),
        supplemental_groups: groups(&sc),
        supplemental_groups_policy: groups_policy(&sc),
        seccomp: Some(profile(v1::security_profile::ProfileType::RuntimeDefault, String::new())),
        ..Default::default()
    }
}

fn groups(sc: &PodSecurityContext) -> Vec<i64> {
    sc.fs_group.into_iter().chain(sc.supplemental_groups.iter().flatten().copied()).collect()
}

fn groups_policy(sc: &PodSecurityContext) -> i32 {
    let policy = match sc.supplemental_groups_policy.as_deref() {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict,
        _ => v1::SupplementalGroupsPolicy::Merge,
    };
    policy as i32
}

/// Which namespaces are the pod's, the container's or the node's.
pub fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    use v1::NamespaceMode as Mode;
    let spec = pod.spec.clone().unwrap_or_default();
    let node_or =
        |node: Option<bool>, other: Mode| if node == Some(true) { Mode::Node } else { other } as i32;
    let pid = if spec.share_process_namespace == Some(true) { Mode::Pod } else { Mode::Container };
    v1::NamespaceOption {
        network: node_or(spec.host_network, Mode::Pod),
        pid: node_or(spec.host_pid, pid),
        ipc: node_or(spec.host_ipc, Mode::Pod),
        ..Default::default()
    }
}

fn selinux(options: &SELinuxOptions) -> v1::SeLinuxOption {
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    v1::SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    }
}

fn profile(kind: v1::security_profile::ProfileType, localhost_ref: String) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref }
}

fn seccomp(wanted: Option<&SeccompProfile>, node: &Node) -> Result<v1::SecurityProfile, ConfigError> {
    use v1::security_profile::ProfileType;
    Ok(match wanted.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => profile(ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let name = wanted
                .and_then(|p| p.localhost_profile.as_deref())
                .filter(|n| !n.is_empty())
                .ok_or_else(|| {
                    ConfigError("localhostProfile must be set if seccompProfile type is Localhost.".into())
                })?;
            let path = node.seccomp_root.join(name);
            profile(ProfileType::Localhost, path.to_string_lossy().into_owned())
        }
        _ => profile(ProfileType::Unconfined, String::new()),
    })
}

fn apparmor(wanted: Option<&AppArmorProfile>) -> Result<(Option<v1::SecurityProfile>, String), ConfigError> {
    use v1::security_profile::ProfileType;
    let Some(wanted) = wanted else { return Ok((None, String::new())) };
    Ok(match wanted.type_.as_str() {
        "RuntimeDefault" => {
            (Some(profile(ProfileType::RuntimeDefault, String::new())), "runtime/default".into())
        }
        "Unconfined" => (Some(profile(ProfileType::Unconfined, String::new())), "unconfined".into()),
        "Localhost" => {
            let name = wanted
                .localhost_profile
                .clone()
                .ok_or_else(|| ConfigError("missing localhost apparmor profile name".into()))?;
            (Some(profile(ProfileType::Localhost, name.clone())), format!("localhost/{name}"))
        }
        other => return Err(ConfigError(format!("unknown apparmor profile type: {other:?}"))),
    })
}
