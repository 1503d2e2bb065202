//! Security contexts, operating system, and the deprecated annotations that mirror them.

use super::refuse_each;
use super::validate::{Context, each_container};
use super::volume_mounts::descending_path;
use crate::support::text;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
    WindowsSecurityContextOptions,
};
use meta::validation::{is_dns1123_subdomain, is_valid_id};
use meta::{FieldError, FieldErrors, Json, Path};
use std::collections::BTreeMap;

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
/// Sysctls of the IPC namespace besides those below `fs.mqueue`.
const IPC_SYSCTLS: &[&str] = &[
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.shm",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.msg",
];
const MAX_SYSCTL_BYTES: usize = 253;
const SYSCTL_FORMAT: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
/// PATH_MAX - 1.
const MAX_PROFILE_BYTES: usize = 4095;
const MAX_GMSA_SPEC_BYTES: usize = 64 * 1024;
const MAX_WINDOWS_DOMAIN: usize = 256;
const MAX_WINDOWS_USER: usize = 104;
const NOT_ON_WINDOWS: &str = "cannot be set for a windows pod";
const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

fn validate_ids(errors: &mut FieldErrors, ids: &[(&str, Option<i64>)], path: &Path) {
    for (field, id) in ids {
        let Some(id) = id else { continue };
        let messages = is_valid_id(*id).into_iter();
        errors.extend(messages.map(|m| FieldError::invalid(&path.child(field), *id, m)));
    }
}

/// The security context of a container.
pub(super) fn validate_security_context(
    errors: &mut FieldErrors,
    s: &SecurityContext,
    context: &Context<'_>,
    path: &Path,
) {
    let path = path.child("securityContext");
    validate_ids(errors, &[("runAsUser", s.run_as_user), ("runAsGroup", s.run_as_group)], &path);
    if let Some(mount) = s.proc_mount.as_deref() {
        let at = path.child("procMount");
        if !matches!(mount, "Default" | "Unmasked") {
            errors.push(FieldError::not_supported(&at, mount, &["Default", "Unmasked"]));
        }
        if context.host_users && mount == "Unmasked" {
            errors.push(FieldError::invalid(&at, mount, "`hostUsers` must be false to use `Unmasked`"));
        }
    }
    validate_seccomp(errors, s.seccomp_profile.as_ref(), &path);
    if s.allow_privilege_escalation == Some(false) {
        let mut refuse = |why: &str| errors.push(FieldError::invalid(&path, Json(s), why));
        if s.privileged == Some(true) {
            refuse("cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        let added = s.capabilities.as_ref().and_then(|c| c.add.as_deref()).unwrap_or_default();
        for _ in added.iter().filter(|c| *c == "CAP_SYS_ADMIN") {
            refuse("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    validate_windows_options(errors, s.windows_options.as_ref(), &path);
    validate_app_armor(errors, s.app_armor_profile.as_ref(), &path);
}

/// The security context of a pod.
pub(super) fn validate_pod_security_context(
    errors: &mut FieldErrors,
    s: &PodSecurityContext,
    spec: &PodSpec,
    path: &Path,
) {
    let ids = [("fsGroup", s.fs_group), ("runAsUser", s.run_as_user), ("runAsGroup", s.run_as_group)];
    validate_ids(errors, &ids, path);
    for (i, id) in s.supplemental_groups.iter().flatten().enumerate() {
        let messages = is_valid_id(*id).into_iter();
        errors.extend(
            messages.map(|m| FieldError::invalid(&path.child("supplementalGroups").index(i), *id, m)),
        );
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(&path.child("shareProcessNamespace"), true, why));
    }
    validate_sysctls(errors, s, spec, &path.child("sysctls"));
    let choices: [(&str, &Option<String>, &[&str]); 3] = [
        ("fsGroupChangePolicy", &s.fs_group_change_policy, &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &s.supplemental_groups_policy, &["Merge", "Strict"]),
        // MountOption is behind the gate SELinuxMount, which v1.36 ships switched off
        ("seLinuxChangePolicy", &s.se_linux_change_policy, &["Recursive"]),
    ];
    for (field, value, supported) in choices {
        if let Some(value) = value.as_deref().filter(|v| !supported.contains(v)) {
            errors.push(FieldError::not_supported(&path.child(field), value, supported));
        }
    }
    validate_seccomp(errors, s.seccomp_profile.as_ref(), path);
    validate_windows_options(errors, s.windows_options.as_ref(), path);
    validate_app_armor(errors, s.app_armor_profile.as_ref(), path);
}

fn is_sysctl_name(name: &str) -> bool {
    let segment = |s: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = s.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
    };
    name.len() <= MAX_SYSCTL_BYTES && name.split(['.', '/']).all(segment)
}

fn validate_sysctls(errors: &mut FieldErrors, s: &PodSecurityContext, spec: &PodSpec, path: &Path) {
    let sysctls = s.sysctls.as_deref().unwrap_or_default();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let at = || path.index(i).child("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.push(FieldError::required(&at(), ""));
        } else if !is_sysctl_name(name) {
            let why =
                format!("must have at most {MAX_SYSCTL_BYTES} characters and match regex {SYSCTL_FORMAT}");
            errors.push(FieldError::invalid(&at(), name, why));
        } else if sysctls[..i].iter().any(|s| s.name == name) {
            errors.push(FieldError::duplicate(&at(), name));
        }
        let dotted = name.replace('/', ".");
        let ipc = dotted.starts_with("fs.mqueue.") || IPC_SYSCTLS.contains(&dotted.as_str());
        if spec.host_network == Some(true) && dotted.starts_with("net.") {
            errors.push(FieldError::invalid(&at(), name, "may not be specified when 'hostNetwork' is true"));
        } else if spec.host_ipc == Some(true) && ipc {
            errors.push(FieldError::invalid(&at(), name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

fn validate_seccomp(errors: &mut FieldErrors, profile: Option<&SeccompProfile>, path: &Path) {
    let Some(profile) = profile else { return };
    let path = path.child("seccompProfile");
    match profile.type_.as_str() {
        "" => {
            let why = "type is required when seccompProfile is set";
            errors.push(FieldError::required(&path.child("type"), why));
        }
        kind if !PROFILE_TYPES.contains(&kind) => {
            errors.push(FieldError::not_supported(&path.child("type"), kind, PROFILE_TYPES));
        }
        _ => {}
    }
    let at = || path.child("localhostProfile");
    match (profile.type_ == "Localhost", &profile.localhost_profile) {
        (true, None) => {
            errors.push(FieldError::required(&at(), "must be set when seccomp type is Localhost"));
        }
        (true, Some(file)) => descending_path(errors, file, at),
        (false, Some(_)) => {
            let why = "can only be set when seccomp type is Localhost";
            errors.push(FieldError::invalid(&at(), Json(profile), why));
        }
        (false, None) => {}
    }
}

fn validate_app_armor(errors: &mut FieldErrors, profile: Option<&AppArmorProfile>, path: &Path) {
    let Some(profile) = profile else { return };
    let path = path.child("appArmorProfile");
    let at = || path.child("localhostProfile");
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("Localhost", None | Some("")) => {
            errors.push(FieldError::required(&at(), "must be set when AppArmor type is Localhost"));
        }
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errors.push(FieldError::invalid(&at(), name, "must not be padded with whitespace"));
            }
            if name.len() > MAX_PROFILE_BYTES {
                errors.push(FieldError::too_long(&at(), MAX_PROFILE_BYTES));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.push(FieldError::invalid(&at(), name, "can only be set when AppArmor type is Localhost"));
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => {
            let why = "type is required when appArmorProfile is set";
            errors.push(FieldError::required(&path.child("type"), why));
        }
        (other, _) => errors.push(FieldError::not_supported(&path.child("type"), other, PROFILE_TYPES)),
    }
}

fn validate_windows_options(
    errors: &mut FieldErrors,
    o: Option<&WindowsSecurityContextOptions>,
    path: &Path,
) {
    let Some(o) = o else { return };
    let path = path.child("windowsOptions");
    if let Some(name) = &o.gmsa_credential_spec_name {
        refuse_each(errors, || path.child("gmsaCredentialSpecName"), name, is_dns1123_subdomain(name));
    }
    if let Some(spec) = &o.gmsa_credential_spec {
        let at = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.push(FieldError::invalid(&at, spec, "gmsaCredentialSpec cannot be an empty string"));
        } else if spec.len() > MAX_GMSA_SPEC_BYTES {
            errors.push(FieldError::invalid(&at, spec, "gmsaCredentialSpec size must be under 64 KiB"));
        }
    }
    if let Some(name) = &o.run_as_user_name {
        let faults = windows_user_faults(name).into_iter();
        errors.extend(faults.map(|why| FieldError::invalid(&path.child("runAsUserName"), name, why)));
    }
}

/// What is wrong with `DOMAIN\user`, the domain being optional.
fn windows_user_faults(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".to_owned()];
    }
    if name.bytes().any(|b| b.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".to_owned()];
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec!["runAsUserName cannot contain more than one backslash".to_owned()],
    };
    let mut faults = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= MAX_WINDOWS_DOMAIN {
            faults
                .push(format!("runAsUserName's Domain length must be under {MAX_WINDOWS_DOMAIN} characters"));
        }
        let forbidden = |c: char| r#"\/:*?"<>|"#.contains(c);
        let characters = domain.chars().count();
        let net_bios =
            (1..=15).contains(&characters) && !domain.starts_with('.') && !domain.contains(forbidden);
        if !net_bios && !is_dns1123_subdomain(&domain.to_lowercase()).is_empty() {
            faults.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
        }
    }
    if user.is_empty() {
        faults.push("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > MAX_WINDOWS_USER {
        faults.push(format!(
            "runAsUserName's User length must not be longer than {MAX_WINDOWS_USER} characters"
        ));
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        faults.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(|c: char| r#""/\:;|=,+*?<>@[]"#.contains(c)) {
        faults.push(
            r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#.to_owned(),
        );
    }
    faults
}

/// Either all containers of a Windows pod are host processes or none is.
pub(super) fn validate_windows_host_process(errors: &mut FieldErrors, spec: &PodSpec, path: &Path) {
    let option = |o: Option<&WindowsSecurityContextOptions>| o.and_then(|o| o.host_process);
    let pod = option(spec.security_context.as_ref().and_then(|s| s.windows_options.as_ref()));
    let any = |c: &k8s_openapi::api::core::v1::Container| {
        c.security_context.as_ref().is_some_and(|s| s.windows_options.is_some())
    };
    let mentions = spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(any);
    let ephemeral = spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty());
    if pod.is_none() && !mentions && !ephemeral {
        return;
    }
    let (mut containers, mut host_processes) = (0, 0);
    each_container(spec, path, |c, at| {
        containers += 1;
        let own = option(c.security_context.as_ref().and_then(|s| s.windows_options.as_ref()));
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let at = at().child("securityContext").child("windowsOptions").child("hostProcess");
            let why = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.push(FieldError::invalid(&at, own, why));
        }
        host_processes += usize::from(own.or(pod) == Some(true));
    });
    if host_processes > 0 {
        if host_processes != containers {
            let why = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
            errors.push(FieldError::invalid(path, "", why));
        }
        if spec.host_network != Some(true) {
            let why = "hostNetwork must be true if pod contains any hostProcess containers";
            errors.push(FieldError::invalid(&path.child("hostNetwork"), false, why));
        }
    }
}

/// `spec.os`, and what may not be set on that system.
pub(super) fn validate_os(errors: &mut FieldErrors, spec: &PodSpec, path: &Path) {
    let Some(os) = &spec.os else { return };
    match os.name.as_str() {
        "" => errors.push(FieldError::required(&path.child("os").child("name"), "")),
        "linux" => validate_linux(errors, spec, path),
        "windows" => validate_windows(errors, spec, path),
        other => errors.push(FieldError::not_supported(&path.child("os"), other, &["linux", "windows"])),
    }
}

fn validate_linux(errors: &mut FieldErrors, spec: &PodSpec, path: &Path) {
    const WHY: &str = "windows options cannot be set for a linux pod";
    if spec.security_context.as_ref().is_some_and(|s| s.windows_options.is_some()) {
        errors.push(FieldError::forbidden(&path.child("securityContext").child("windowsOptions"), WHY));
    }
    each_container(spec, path, |c, at| {
        if c.security_context.as_ref().is_some_and(|s| s.windows_options.is_some()) {
            errors.push(FieldError::forbidden(&at().child("securityContext").child("windowsOptions"), WHY));
        }
    });
}

fn validate_windows(errors: &mut FieldErrors, spec: &PodSpec, path: &Path) {
    let default = PodSecurityContext::default();
    let s = spec.security_context.as_ref().unwrap_or(&default);
    for (field, set) in [
        ("securityContext.appArmorProfile", s.app_armor_profile.is_some()),
        ("securityContext.seLinuxOptions", s.se_linux_options.is_some()),
        ("hostUsers", spec.host_users.is_some()),
        ("hostPID", spec.host_pid == Some(true)),
        ("hostIPC", spec.host_ipc == Some(true)),
        ("securityContext.seccompProfile", s.seccomp_profile.is_some()),
        ("securityContext.fsGroup", s.fs_group.is_some()),
        ("securityContext.fsGroupChangePolicy", s.fs_group_change_policy.is_some()),
        ("securityContext.sysctls", s.sysctls.as_ref().is_some_and(|s| !s.is_empty())),
        ("shareProcessNamespace", spec.share_process_namespace.is_some()),
        ("securityContext.runAsUser", s.run_as_user.is_some()),
        ("securityContext.runAsGroup", s.run_as_group.is_some()),
        ("securityContext.supplementalGroups", s.supplemental_groups.is_some()),
        ("securityContext.supplementalGroupsPolicy", s.supplemental_groups_policy.is_some()),
        ("securityContext.seLinuxChangePolicy", s.se_linux_change_policy.is_some()),
    ] {
        if set {
            errors.push(FieldError::forbidden(&path.child(field), NOT_ON_WINDOWS));
        }
    }
    each_container(spec, path, |c, at| {
        let Some(s) = &c.security_context else { return };
        for (field, set) in [
            ("appArmorProfile", s.app_armor_profile.is_some()),
            ("seLinuxOptions", s.se_linux_options.is_some()),
            ("seccompProfile", s.seccomp_profile.is_some()),
            ("capabilities", s.capabilities.is_some()),
            ("readOnlyRootFilesystem", s.read_only_root_filesystem.is_some()),
            ("privileged", s.privileged.is_some()),
            ("allowPrivilegeEscalation", s.allow_privilege_escalation.is_some()),
            ("procMount", s.proc_mount.is_some()),
            ("runAsUser", s.run_as_user.is_some()),
            ("runAsGroup", s.run_as_group.is_some()),
        ] {
            if set {
                errors
                    .push(FieldError::forbidden(&at().child("securityContext").child(field), NOT_ON_WINDOWS));
            }
        }
    });
}

/// The deprecated annotations that name seccomp and AppArmor profiles.
pub(super) fn validate_annotation_profiles(
    errors: &mut FieldErrors,
    annotations: &BTreeMap<String, String>,
    spec: &PodSpec,
    path: &Path,
) {
    for (key, value) in annotations {
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            let at = path.child(key);
            match value.strip_prefix("localhost/") {
                _ if matches!(value.as_str(), "runtime/default" | "docker/default" | "unconfined") => {}
                Some(file) => descending_path(errors, file, || at.clone()),
                None => errors.push(FieldError::invalid(&at, value, "must be a valid seccomp profile")),
            }
        } else if let Some(container) = key.strip_prefix(APP_ARMOR) {
            let mut found = false;
            each_container(spec, path, |c, _| found |= c.name == container);
            if !found {
                errors.push(FieldError::invalid(&path.key(key), container, "container not found"));
            }
            let known = matches!(value.as_str(), "" | "runtime/default" | "unconfined");
            if !known && !value.starts_with("localhost/") {
                let why = format!("invalid AppArmor profile name: {value:?}");
                errors.push(FieldError::invalid(&path.key(key), value, why));
            }
        }
    }
}

pub(super) fn validate_seccomp_matches(
    errors: &mut FieldErrors,
    annotations: &BTreeMap<String, String>,
    spec: &PodSpec,
    path: &Path,
) {
    let matches = |annotation: &str, profile: &SeccompProfile, at: Path| -> Option<FieldError> {
        let same_type = match profile.type_.as_str() {
            "Unconfined" => annotation == "unconfined",
            "RuntimeDefault" => matches!(annotation, "runtime/default" | "docker/default"),
            "Localhost" => annotation.starts_with("localhost/"),
            _ => true,
        };
        if !same_type {
            let why = "seccomp type in annotation and field must match";
            return Some(FieldError::forbidden(&at.child("type"), why));
        }
        let file = annotation.strip_prefix("localhost/").filter(|_| profile.type_ == "Localhost")?;
        (profile.localhost_profile.as_deref() != Some(file)).then(|| {
            let why = "seccomp profile in annotation and field must match";
            FieldError::forbidden(&at.child("localhostProfile"), why)
        })
    };
    let pod_profile = spec.security_context.as_ref().and_then(|s| s.seccomp_profile.as_ref());
    if let (Some(profile), Some(annotation)) = (pod_profile, annotations.get(SECCOMP_POD)) {
        errors.extend(matches(annotation, profile, path.child("securityContext").child("seccompProfile")));
    }
    each_container(spec, path, |c, at| {
        let profile = c.security_context.as_ref().and_then(|s| s.seccomp_profile.as_ref());
        let annotation = annotations.get(&format!("{SECCOMP_CONTAINER}{}", c.name));
        if let (Some(profile), Some(annotation)) = (profile, annotation) {
            errors.extend(matches(
                annotation,
                profile,
                at().child("securityContext").child("seccompProfile"),
            ));
        }
    });
}

pub(super) fn validate_app_armor_matches(
    errors: &mut FieldErrors,
    annotations: &BTreeMap<String, String>,
    spec: &PodSpec,
    path: &Path,
) {
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return;
    }
    let pod_profile = spec.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    each_container(spec, path, |c, at| {
        let own = c.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
        let annotation = annotations.get(&format!("{APP_ARMOR}{}", c.name));
        let (Some(profile), Some(annotation)) = (own.or(pod_profile), annotation) else { return };
        let at = at().child("securityContext").child("appArmorProfile");
        let file = annotation.strip_prefix("localhost/");
        let same_type = match profile.type_.as_str() {
            "Unconfined" => annotation == "unconfined",
            "RuntimeDefault" => annotation == "runtime/default",
            "Localhost" => file.is_some(),
            _ => true,
        };
        if !same_type {
            let why = "apparmor type in annotation and field must match";
            errors.push(FieldError::forbidden(&at.child("type"), why));
        } else if profile.type_ == "Localhost" && file != Some(text(profile.localhost_profile.as_ref())) {
            let why = "apparmor profile in annotation and field must match";
            errors.push(FieldError::forbidden(&at.child("localhostProfile"), why));
        }
    });
}
