//! networking.k8s.io/v1 Ingress.

use crate::ingress_class::object_reference;
use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Subresource, Validate};
use crate::object::Registered;
use crate::service::shorten;
use crate::strategy::{spec_and_status, status_access};
use crate::support::{age, check_ip, column, json, or, parse_ip_sloppy, push_invalid, text};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressRule, IngressSpec, IngressTLS,
};
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};
use std::collections::BTreeSet;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const INVALID_SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const INVALID_SUFFIXES: &[&str] = &["/..", "/."];
/// Hosts that a table names before it counts the rest.
const MAX_SHOWN: usize = 3;
const NOT_AN_IP: &str = "must be a DNS name, not an IP address";

const COLUMNS: &[Column<Ingress>] = &[
    column(
        "Class",
        "The name of the IngressClass resource that should be used for additional configuration",
        |i| Cell::str(i.spec.as_ref().and_then(|s| s.ingress_class_name.as_deref()).unwrap_or("<none>")),
    ),
    column("Hosts", "Hosts that incoming requests are matched against before the ingress rule", |i| {
        Cell::str(hosts(i))
    }),
    column("Address", "Address is a list containing ingress points for the load-balancer", |i| {
        Cell::str(addresses(i))
    }),
    column("Ports", "Ports of TLS configurations that open", |i| {
        let tls = i.spec.as_ref().and_then(|s| s.tls.as_ref()).is_some_and(|t| !t.is_empty());
        Cell::str(if tls { "80, 443" } else { "80" })
    }),
    age(),
];

const SUBRESOURCES: &[Subresource<Ingress>] =
    &[Subresource::Status(status_access!(Ingress, validate_status))];

pub static INGRESS: Registered<Ingress> = Registered::new(Kind {
    gvk: GroupVersionKind::of("networking.k8s.io", "v1", "Ingress"),
    names: Names { plural: "ingresses", singular: "ingress", short: &["ing"], categories: &[] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.networking.v1.Ingress",
    storage: "ingress",
    name_rule: NameRule::DnsSubdomain,
    default: |i| {
        i.spec.get_or_insert_default();
        i.status.get_or_insert_default().load_balancer.get_or_insert_default();
    },
    validate: Validate { create: validate_create, update: validate_update },
    strategy: crate::kind::Strategy {
        warnings: |new, old| if old.is_none() { crate::warnings::objects::ingress(new) } else { Vec::new() },
        ..spec_and_status!(Ingress)
    },
    subresources: SUBRESOURCES,
    selectable: &[],
    columns: COLUMNS,
});

fn rules_of(ingress: &Ingress) -> &[IngressRule] {
    ingress.spec.as_ref().and_then(|s| s.rules.as_deref()).unwrap_or_default()
}

fn tls_of(ingress: &Ingress) -> &[IngressTLS] {
    ingress.spec.as_ref().and_then(|s| s.tls.as_deref()).unwrap_or_default()
}

fn hosts(ingress: &Ingress) -> String {
    let rules = rules_of(ingress);
    let shown: Vec<&str> =
        rules.iter().take(MAX_SHOWN).map(|r| text(r.host.as_ref())).filter(|h| !h.is_empty()).collect();
    match (shown.is_empty(), rules.len().checked_sub(MAX_SHOWN).filter(|more| *more > 0)) {
        (true, _) => "*".to_owned(),
        (false, None) => shown.join(","),
        (false, Some(more)) => format!("{} + {more} more...", shown.join(",")),
    }
}

fn addresses(ingress: &Ingress) -> String {
    let points = ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    let addresses: BTreeSet<&str> = points
        .into_iter()
        .flatten()
        .map(|i| or(text(i.ip.as_ref()), text(i.hostname.as_ref())))
        .filter(|a| !a.is_empty())
        .collect();
    shorten(addresses.into_iter().collect::<Vec<_>>().join(","))
}

/// What an update need not hold because what is stored does not.
#[derive(Clone, Copy, Default)]
struct Allowed {
    secret_names: bool,
    wildcard_rules: bool,
}

fn validate_create(ingress: &Ingress) -> FieldErrors {
    let mut errors = validate(ingress, Allowed::default());
    let annotation = ingress.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
    let class = ingress.spec.as_ref().and_then(|s| s.ingress_class_name.as_ref());
    if let (Some(annotation), Some(class)) = (annotation, class)
        && annotation != class
    {
        let path = Path::new("annotations").child(CLASS_ANNOTATION);
        errors.push(FieldError::invalid(
            &path,
            annotation,
            "must match `ingressClassName` when both are specified",
        ));
    }
    errors
}

fn validate_update(new: &Ingress, old: &Ingress) -> FieldErrors {
    let secret_names = tls_of(old).iter().any(|t| !secret_name(t).is_empty());
    let wildcard_rules = rules_of(old)
        .iter()
        .any(|r| text(r.host.as_ref()).contains('*') && !rule_value(r, &Path::new("")).is_empty());
    validate(new, Allowed { secret_names, wildcard_rules })
}

fn secret_name(tls: &IngressTLS) -> Vec<String> {
    let name = text(tls.secret_name.as_ref());
    if name.is_empty() { Vec::new() } else { rules::is_dns1123_subdomain(name) }
}

fn validate(ingress: &Ingress, allowed: Allowed) -> FieldErrors {
    let path = Path::new("spec");
    let empty = IngressSpec::default();
    let spec = ingress.spec.as_ref().unwrap_or(&empty);
    let mut errors = Vec::new();
    if rules_of(ingress).is_empty() && spec.default_backend.is_none() {
        let why = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(&path, json(&spec.rules), why));
    }
    if let Some(backend) = &spec.default_backend {
        errors.extend(check_backend(backend, &path.child("defaultBackend")));
    }
    for (i, rule) in rules_of(ingress).iter().enumerate() {
        let path = path.child("rules").index(i);
        let host = text(rule.host.as_ref());
        if !host.is_empty() {
            if parse_ip_sloppy(host).is_some() {
                errors.push(FieldError::invalid(&path.child("host"), host, NOT_AN_IP));
            }
            push_invalid(&mut errors, &path.child("host"), host, host_rule(host));
        }
        if !(host.contains('*') && allowed.wildcard_rules) {
            errors.extend(rule_value(rule, &path));
        }
    }
    for (i, tls) in tls_of(ingress).iter().enumerate() {
        let path = path.child("tls").index(i);
        for (i, host) in tls.hosts.iter().flatten().enumerate() {
            push_invalid(&mut errors, &path.child("hosts").index(i), host, host_rule(host));
        }
        if !allowed.secret_names {
            let name = text(tls.secret_name.as_ref());
            push_invalid(&mut errors, &path.child("secretName"), name, secret_name(tls));
        }
    }
    if let Some(class) = &spec.ingress_class_name {
        push_invalid(&mut errors, &path.child("ingressClassName"), class, rules::is_dns1123_subdomain(class));
    }
    errors
}

fn host_rule(host: &str) -> Vec<String> {
    if host.contains('*') {
        rules::is_wildcard_dns1123_subdomain(host)
    } else {
        rules::is_dns1123_subdomain(host)
    }
}

fn rule_value(rule: &IngressRule, path: &Path) -> FieldErrors {
    let Some(http) = &rule.http else { return Vec::new() };
    let path = path.child("http").child("paths");
    if http.paths.is_empty() {
        return vec![FieldError::required(&path, "")];
    }
    http.paths.iter().enumerate().flat_map(|(i, p)| check_path(p, &path.index(i))).collect()
}

fn check_path(item: &HTTPIngressPath, path: &Path) -> FieldErrors {
    let value = text(item.path.as_ref());
    let at = path.child("path");
    let mut errors = Vec::new();
    let relative = || FieldError::invalid(&at, value, "must be an absolute path");
    match item.path_type.as_str() {
        "" => return vec![FieldError::required(&path.child("pathType"), "pathType must be specified")],
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                errors.push(relative());
            }
            for sequence in INVALID_SEQUENCES.iter().filter(|s| value.contains(**s)) {
                errors.push(FieldError::invalid(&at, value, format!("must not contain '{sequence}'")));
            }
            for suffix in INVALID_SUFFIXES.iter().filter(|s| value.ends_with(**s)) {
                errors.push(FieldError::invalid(&at, value, format!("cannot end with '{suffix}'")));
            }
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !value.starts_with('/') {
                errors.push(relative());
            }
        }
        other => errors.push(FieldError::not_supported(&path.child("pathType"), other, PATH_TYPES)),
    }
    errors.extend(check_backend(&item.backend, &path.child("backend")));
    errors
}

fn check_backend(backend: &IngressBackend, path: &Path) -> FieldErrors {
    let service = match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => {
            return vec![FieldError::invalid(path, "", "cannot set both resource and service backends")];
        }
        (Some(r), None) => {
            return object_reference(r.api_group.as_deref(), &r.kind, &r.name, &path.child("resource"));
        }
        (None, None) => {
            return vec![FieldError::invalid(path, "", "resource or service backend is required")];
        }
        (None, Some(service)) => service,
    };
    let at = path.child("service");
    let mut errors = Vec::new();
    if service.name.is_empty() {
        errors.push(FieldError::required(&at.child("name"), ""));
    } else {
        push_invalid(&mut errors, &at.child("name"), &service.name, rules::is_dns1123_label(&service.name));
    }
    let port = service.port.clone().unwrap_or_default();
    let (name, number) = (text(port.name.as_ref()), port.number.unwrap_or(0));
    let at = at.child("port");
    match (name.is_empty(), number) {
        (true, 0) => errors.push(FieldError::required(path, "port name or number is required")),
        (false, 0) => push_invalid(&mut errors, &at.child("name"), name, rules::is_valid_port_name(name)),
        (true, number) => {
            for message in rules::is_valid_port_num(number) {
                errors.push(FieldError::invalid(&at.child("number"), number, message));
            }
        }
        (false, _) => errors.push(FieldError::invalid(path, "", "cannot set both port name & port number")),
    }
    errors
}

fn validate_status(new: &Ingress, old: &Ingress) -> FieldErrors {
    let points = |i: &Ingress| {
        i.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.clone()).unwrap_or_default()
    };
    let stored: Vec<String> = points(old).into_iter().filter_map(|p| p.ip).collect();
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let mut errors = Vec::new();
    for (i, point) in points(new).iter().enumerate() {
        let path = path.index(i);
        if let Some(ip) = point.ip.as_deref().filter(|ip| !ip.is_empty()) {
            errors.extend(check_ip(&path.child("ip"), ip, &stored));
        }
        if let Some(name) = point.hostname.as_deref().filter(|h| !h.is_empty()) {
            let path = path.child("hostname");
            push_invalid(&mut errors, &path, name, rules::is_dns1123_subdomain(name));
            if parse_ip_sloppy(name).is_some() {
                errors.push(FieldError::invalid(&path, name, NOT_AN_IP));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{check_spec, object};
    use serde_json::json;

    #[test]
    fn refusals() {
        let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
        check_spec(validate_create, json!({"defaultBackend": backend}), &[]);
        check_spec(
            validate_create,
            json!({}),
            &["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"],
        );
        check_spec(
            validate_create,
            json!({"defaultBackend": {"service": {"name": "web"}}}),
            &["spec.defaultBackend: Required value: port name or number is required"],
        );
        check_spec(
            validate_create,
            json!({"rules": [{"host": "10.0.0.1", "http": {"paths": [{"path": "a", "pathType": "Prefix", "backend": backend}]}}]}),
            &[
                "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
                "spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path",
            ],
        );
        check_spec(
            validate_create,
            json!({"rules": [{"http": {"paths": [{"path": "/a/../b", "pathType": "Exact", "backend": {}}, {"path": "/", "backend": backend}]}}]}),
            &[
                "spec.rules[0].http.paths[0].path: Invalid value: \"/a/../b\": must not contain '/../'",
                "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service backend is required",
                "spec.rules[0].http.paths[1].pathType: Required value: pathType must be specified",
            ],
        );
    }

    #[test]
    fn the_table_names_three_hosts() {
        let check = |hosts_given: &[&str], expect: &str| {
            let rules: Vec<_> = hosts_given.iter().map(|h| json!({"host": h})).collect();
            assert_eq!(hosts(&object(json!({"spec": {"rules": rules}}))), expect);
        };
        check(&[], "*");
        check(&[""], "*");
        check(&["a", "b"], "a,b");
        check(&["a", "b", "c", "d"], "a,b,c + 1 more...");
    }
}
