//! Which kernel parameters a pod may set: those that concern nobody but the pod (upstream's safe sysctls). Pure.

use k8s_openapi::api::core::v1::Pod;

/// The namespace a parameter belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

impl Namespace {
    /// The word upstream uses in messages.
    fn as_str(self) -> &'static str {
        match self {
            Self::Ipc => "IPC",
            Self::Net => "Net",
        }
    }
}

/// The parameters, and the kernel from which each is its namespace's own.
const SAFE: [(&str, (u32, u32)); 12] = [
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

/// Why a pod may not have its parameters; `None` if it may. `allowed`: what the administrator adds
/// (`allowedUnsafeSysctls`), names or beginnings with `*`; `kernel`: the running one's version, `6.1.0-13`.
pub fn forbidden(pod: &Pod, allowed: &[String], kernel: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let wanted = spec.security_context.as_ref()?.sysctls.as_deref().unwrap_or_default();
    let kernel = version(kernel);
    let allows = |name: &str| {
        SAFE.iter().any(|(safe, since)| *safe == name && kernel >= *since)
            || allowed.iter().map(|a| normal(a)).any(|a| match a.strip_suffix('*') {
                Some(head) => name.starts_with(head),
                None => a == name,
            })
    };
    wanted.iter().find_map(|sysctl| {
        let name = normal(&sysctl.name);
        let error = |text: String| Some(format!("forbidden sysctl: {text}"));
        if !allows(&name) {
            return error(format!("{name:?} not allowlisted"));
        }
        let namespace = if name.starts_with("net.") { Namespace::Net } else { Namespace::Ipc };
        let shared = match namespace {
            Namespace::Net => spec.host_network,
            Namespace::Ipc => spec.host_ipc,
        };
        if shared == Some(true) {
            return error(format!("{name:?} not allowed with host {} enabled", namespace.as_str()));
        }
        None
    })
}

/// A name with dots, also where it was written with slashes.
fn normal(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_concerns_the_pod_alone_is_allowed() {
        #[track_caller]
        fn check(name: &str, host_network: bool, expect: Option<&str>) {
            let pod: Pod = serde_json::from_value(json!({"spec": {
                "containers": [], "hostNetwork": host_network,
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]},
            }}))
            .unwrap();
            let expect = expect.map(|e| format!("forbidden sysctl: {e}"));
            assert_eq!(forbidden(&pod, &["kernel.msg*".to_owned()], "6.1.0-13-amd64"), expect);
        }
        check("kernel.shm_rmid_forced", true, None);
        check("kernel/shm_rmid_forced", false, None);
        check("kernel.msgmax", false, None);
        check("kernel.sem", false, Some("\"kernel.sem\" not allowlisted"));
        check(
            "net.ipv4.tcp_syncookies",
            true,
            Some("\"net.ipv4.tcp_syncookies\" not allowed with host Net enabled"),
        );
    }
}
