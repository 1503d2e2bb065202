//! A container's environment: `env`, `envFrom`, references to fields and objects, service variables and
//! the expansion of `$(NAME)`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector, Service,
};

use crate::objects::Objects;
use crate::quantity::{millis, value};
use crate::sync::{containers, init_containers};

/// What the environment is made from, beside the objects.
#[derive(Clone, Copy, Debug)]
pub struct EnvInput<'a> {
    pub pod: &'a Pod,
    pub pod_ips: &'a [String],
    pub host_ips: &'a [String],
    pub objects: &'a Objects,
    /// What the node has for pods, for limits that a container does not set.
    pub allocatable: &'a BTreeMap<String, String>,
}

/// Why an environment cannot be made; the text goes into the container's status as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("configmap {0:?} not found")]
    NoConfigMap(String),
    #[error("secret {0:?} not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("unsupported fieldPath: {0}")]
    FieldPath(String),
    #[error("unsupported container resource : {0}")]
    Resource(String),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("invalid divisor {0:?}")]
    Divisor(String),
}

/// The container's environment in the order of names.
///
/// # Errors
/// A required reference that leads nowhere.
pub fn environment(input: &EnvInput<'_>, container: &Container) -> Result<Vec<(String, String)>, EnvError> {
    let pod = input.pod;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let services = service_variables(&input.objects.services, namespace, links);
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            match input.objects.config_map(&r.name) {
                Some(map) => {
                    env.extend(map.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v.clone())))
                }
                None if r.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(r.name.clone())),
            }
        } else if let Some(r) = &from.secret_ref {
            match input.objects.secret(&r.name) {
                Some(secret) => env
                    .extend(secret.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), text(&v.0)))),
                None if r.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(r.name.clone())),
            }
        }
    }
    for var in container.env.iter().flatten() {
        let value = match (var.value.as_deref().unwrap_or_default(), &var.value_from) {
            ("", Some(source)) => match from_source(input, container, source)? {
                Some(value) => value,
                None => continue,
            },
            (value, _) => expand(value, |name| env.get(name).or_else(|| services.get(name)).cloned()),
        };
        env.insert(var.name.clone(), value);
    }
    for (name, value) in services {
        env.entry(name).or_insert(value);
    }
    Ok(env.into_iter().collect())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn from_source(
    input: &EnvInput<'_>,
    container: &Container,
    source: &EnvVarSource,
) -> Result<Option<String>, EnvError> {
    let namespace = input.pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(field) = &source.field_ref {
        return field_value(input, field).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(input, Some(container), resource).map(Some);
    }
    if let Some(r) = &source.config_map_key_ref {
        let optional = r.optional == Some(true);
        let Some(map) = input.objects.config_map(&r.name) else {
            return if optional { Ok(None) } else { Err(EnvError::NoConfigMap(r.name.clone())) };
        };
        return match map.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(EnvError::NoKey {
                kind: "ConfigMap",
                namespace,
                name: r.name.clone(),
                key: r.key.clone(),
            }),
        };
    }
    if let Some(r) = &source.secret_key_ref {
        let optional = r.optional == Some(true);
        let Some(secret) = input.objects.secret(&r.name) else {
            return if optional { Ok(None) } else { Err(EnvError::NoSecret(r.name.clone())) };
        };
        return match secret.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(value) => Ok(Some(text(&value.0))),
            None if optional => Ok(None),
            None => {
                Err(EnvError::NoKey { kind: "Secret", namespace, name: r.name.clone(), key: r.key.clone() })
            }
        };
    }
    Ok(Some(String::new()))
}

/// The value of a field of the pod (downward API).
///
/// # Errors
/// A path that the API does not offer.
pub fn field_value(input: &EnvInput<'_>, field: &ObjectFieldSelector) -> Result<String, EnvError> {
    let pod = input.pod;
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    let path = field.field_path.as_str();
    if let Some((map, key)) = subscript(path) {
        let list = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(EnvError::FieldPath(path.to_owned())),
        };
        return Ok(list.as_ref().and_then(|l| l.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => format_map(&meta.labels),
        "metadata.annotations" => format_map(&meta.annotations),
        "spec.nodeName" => spec.map(|s| text(&s.node_name)).unwrap_or_default(),
        "spec.serviceAccountName" => spec.map(|s| text(&s.service_account_name)).unwrap_or_default(),
        "spec.host" => spec.map(|s| text(&s.node_name)).unwrap_or_default(),
        "status.hostIP" => input.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => input.host_ips.join(","),
        "status.podIP" => input.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => input.pod_ips.join(","),
        _ => return Err(EnvError::FieldPath(path.to_owned())),
    })
}

/// `metadata.labels['key']` as its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    Some((map, key.strip_prefix('\'')?.strip_suffix('\'')?))
}

/// A map one entry a line, `key="value"` with Go's quoting, in the order of keys.
fn format_map(map: &Option<BTreeMap<String, String>>) -> String {
    let lines: Vec<_> = map.iter().flatten().map(|(k, v)| format!("{k}={}", go_quote(v))).collect();
    lines.join("\n")
}

/// Go's `%q`.
fn go_quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The value of a container's resource (downward API), divided and rounded up. A limit that is not set
/// is what the node has.
///
/// # Errors
/// An unknown container or resource.
pub fn resource_value(
    input: &EnvInput<'_>,
    container: Option<&Container>,
    field: &ResourceFieldSelector,
) -> Result<String, EnvError> {
    let named = field.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match named {
        Some(name) => containers(input.pod)
            .iter()
            .chain(init_containers(input.pod))
            .find(|c| c.name == name)
            .ok_or_else(|| EnvError::NoContainer(name.to_owned()))?,
        None => container.ok_or_else(|| EnvError::NoContainer(String::new()))?,
    };
    let unsupported = || EnvError::Resource(field.resource.clone());
    let (list, name) = field.resource.split_once('.').ok_or_else(unsupported)?;
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    let resources = container.resources.clone().unwrap_or_default();
    let amount = match list {
        "limits" => resources.limits.and_then(|l| l.get(name).map(|q| q.0.clone())).or_else(|| {
            // what is not limited may use the whole node
            input.allocatable.get(name).cloned()
        }),
        "requests" => resources.requests.and_then(|l| l.get(name).map(|q| q.0.clone())),
        _ => return Err(unsupported()),
    };
    if !known {
        return Err(unsupported());
    }
    let amount = amount.unwrap_or_else(|| "0".into());
    let divisor =
        field.divisor.as_ref().map(|q| q.0.as_str()).filter(|d| *d != "0" && !d.is_empty()).unwrap_or("1");
    let bad = || EnvError::Divisor(divisor.to_owned());
    let divide = |a: i64, b: i64| a / b + i64::from(a % b != 0);
    Ok(if name == "cpu" {
        let divisor = millis(divisor).filter(|d| *d > 0).ok_or_else(bad)?;
        divide(millis(&amount).unwrap_or(0), divisor).to_string()
    } else {
        let divisor = value(divisor).filter(|d| *d > 0).ok_or_else(bad)?;
        divide(value(&amount).unwrap_or(0), divisor).to_string()
    })
}

/// Replaces `$(NAME)` by the variable's value; `$$` is a dollar sign, and what is not defined stays.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Variables that tell where services are: those of the namespace if `links`, and `kubernetes` always.
pub fn service_variables(
    services: &[std::sync::Arc<Service>],
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let ip = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
        if ip.is_empty() || ip == "None" {
            continue;
        }
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let own = service.metadata.namespace.as_deref().unwrap_or_default();
        if own == "default" && name == "kubernetes" {
            chosen.entry(name).or_insert(service);
        } else if own == namespace && links {
            chosen.insert(name, service);
        }
    }
    chosen.into_iter().flat_map(|(name, service)| variables_of(name, service)).collect()
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

fn variables_of(name: &str, service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let prefix = variable_name(name);
    let ip = spec.cluster_ip.clone().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut vars = vec![(format!("{prefix}_SERVICE_HOST"), ip.clone())];
    if let Some(first) = ports.first() {
        vars.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
    }
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            vars.push((format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.port.to_string()));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let address =
            if ip.contains(':') { format!("[{ip}]:{}", port.port) } else { format!("{ip}:{}", port.port) };
        let url = format!("{lower}://{address}");
        if i == 0 {
            vars.push((format!("{prefix}_PORT"), url.clone()));
        }
        let own = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        vars.push((own.clone(), url));
        vars.push((format!("{own}_PROTO"), lower));
        vars.push((format!("{own}_PORT"), port.port.to_string()));
        vars.push((format!("{own}_ADDR"), ip.clone()));
    }
    vars
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn objects() -> Objects {
        let map = json!({"data": {"a": "1", "b": "2"}});
        let secret = json!({"data": {"pw": "c2VzYW1l"}});
        let service = |ns: &str, name: &str, ip: &str| {
            let spec = json!({"clusterIP": ip, "ports": [{"port": 443, "name": "https"}]});
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name, "namespace": ns}, "spec": spec}))
                    .unwrap(),
            )
        };
        Objects {
            config_maps: [
                ("cm".into(), Some(Arc::new(serde_json::from_value(map).unwrap()))),
                ("no".into(), None),
            ]
            .into(),
            secrets: [("s".into(), Some(Arc::new(serde_json::from_value(secret).unwrap())))].into(),
            services: vec![
                service("default", "kubernetes", "10.96.0.1"),
                service("ns", "my-db", "10.96.0.7"),
                service("other", "x", "10.96.0.8"),
            ],
            ..Objects::default()
        }
    }

    fn run(container: serde_json::Value, links: bool) -> Result<BTreeMap<String, String>, EnvError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "x", "b": "q\"t"}},
            "spec": {"nodeName": "n1", "enableServiceLinks": links, "containers": [container]},
        }))
        .unwrap();
        let objects = objects();
        let input = EnvInput {
            pod: &pod,
            pod_ips: &["10.0.0.2".into()],
            host_ips: &["192.0.2.1".into()],
            objects: &objects,
            allocatable: &[("cpu".to_owned(), "2".to_owned())].into(),
        };
        environment(&input, &pod.spec.as_ref().unwrap().containers[0]).map(|e| e.into_iter().collect())
    }

    #[test]
    fn variables_come_from_everywhere() {
        #[track_caller]
        fn check(env: serde_json::Value, expect: &str) {
            let env =
                run(json!({"name": "c", "env": env, "resources": {"limits": {"memory": "64Mi"}}}), false);
            let value = env.map(|e| e.get("V").cloned().unwrap_or_else(|| "<unset>".into()));
            assert_eq!(value.unwrap_or_else(|e| format!("error: {e}")), expect);
        }
        let from = |source: serde_json::Value| json!([{"name": "V", "valueFrom": source}]);
        check(
            json!([{"name": "A", "value": "x"}, {"name": "V", "value": "$(A)-$$(A)-$(B)-$"}]),
            "x-$(A)-$(B)-$",
        );
        check(json!([{"name": "V", "value": "$(KUBERNETES_SERVICE_HOST)"}]), "10.96.0.1");
        check(from(json!({"fieldRef": {"fieldPath": "metadata.labels['app']"}})), "x");
        check(from(json!({"fieldRef": {"fieldPath": "metadata.labels"}})), "app=\"x\"\nb=\"q\\\"t\"");
        check(from(json!({"fieldRef": {"fieldPath": "status.podIP"}})), "10.0.0.2");
        check(from(json!({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}})), "64");
        check(from(json!({"resourceFieldRef": {"resource": "limits.cpu"}})), "2");
        check(from(json!({"configMapKeyRef": {"name": "cm", "key": "b"}})), "2");
        check(from(json!({"secretKeyRef": {"name": "s", "key": "pw"}})), "sesame");
        check(
            from(json!({"configMapKeyRef": {"name": "no", "key": "b"}})),
            "error: configmap \"no\" not found",
        );
        check(from(json!({"secretKeyRef": {"name": "no", "key": "b"}})), "error: secret \"no\" not found");
        check(
            from(json!({"configMapKeyRef": {"name": "cm", "key": "z"}})),
            "error: couldn't find key z in ConfigMap ns/cm",
        );
        check(from(json!({"configMapKeyRef": {"name": "cm", "key": "z", "optional": true}})), "<unset>");
    }

    #[test]
    fn services_and_whole_maps() {
        let env =
            run(json!({"name": "c", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}]}), true)
                .unwrap();
        for (name, expect) in [
            ("P_a", Some("1")),
            ("MY_DB_SERVICE_HOST", Some("10.96.0.7")),
            ("MY_DB_SERVICE_PORT_HTTPS", Some("443")),
            ("MY_DB_PORT_443_TCP", Some("tcp://10.96.0.7:443")),
            ("KUBERNETES_SERVICE_PORT", Some("443")),
            ("X_SERVICE_HOST", None),
        ] {
            assert_eq!(env.get(name).map(String::as_str), expect, "{name}");
        }
        let without = run(json!({"name": "c"}), false).unwrap();
        assert!(
            without.contains_key("KUBERNETES_SERVICE_HOST") && !without.contains_key("MY_DB_SERVICE_HOST")
        );
    }
}
