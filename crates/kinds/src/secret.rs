//! v1 Secret.

use crate::config_map::{MAX_DATA_BYTES, kept, still_immutable};
use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Selectable, Validate};
use crate::object::Registered;
use crate::strategy::plain;
use crate::support::{FIELD_IMMUTABLE, age, column, push_invalid, text};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};

const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const REDACTED: &str = "<secret contents redacted>";

const COLUMNS: &[Column<Secret>] = &[
    column(
        "Type",
        "Used to facilitate programmatic handling of secret data. More info: https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
        |s| Cell::str(text(s.type_.as_ref())),
    ),
    column(
        "Data",
        "Data contains the secret data. Each key must consist of alphanumeric characters, '-', '_' or '.'. The serialized form of the secret data is a base64 encoded string, representing the arbitrary (possibly non-string) data value here. Described in https://tools.ietf.org/html/rfc4648#section-4",
        |s| Cell::int(s.data.as_ref().map_or(0, |d| d.len()) as i64),
    ),
    age(),
];

const SELECTABLE: &[Selectable<Secret>] =
    &[Selectable { path: "type", value: |s| text(s.type_.as_ref()).to_owned() }];

pub static SECRET: Registered<Secret> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "Secret"),
    names: Names { plural: "secrets", singular: "secret", short: &[], categories: &[] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.Secret",
    storage: "secrets",
    name_rule: NameRule::DnsSubdomain,
    default,
    validate: Validate { create: validate, update: validate_update },
    strategy: crate::kind::Strategy { warnings: |new, _| crate::warnings::objects::secret(new), ..plain() },
    subresources: &[],
    selectable: SELECTABLE,
    columns: COLUMNS,
});

/// Fills the type, and moves `stringData`, which is write-only, into `data`.
fn default(secret: &mut Secret) {
    if let Some(strings) = secret.string_data.take().filter(|s| !s.is_empty()) {
        let data = secret.data.get_or_insert_default();
        for (key, value) in strings {
            data.insert(key, ByteString(value.into_bytes()));
        }
    }
    if text(secret.type_.as_ref()).is_empty() {
        secret.type_ = Some("Opaque".to_owned());
    }
}

fn validate(secret: &Secret) -> FieldErrors {
    let mut errors = Vec::new();
    let path = Path::new("data");
    let mut bytes = 0;
    for (key, value) in secret.data.iter().flatten() {
        push_invalid(&mut errors, &path.key(key), key, rules::is_config_map_key(key));
        bytes += value.0.len();
    }
    if bytes > MAX_DATA_BYTES {
        errors.push(FieldError::too_long(&path, MAX_DATA_BYTES));
    }
    let value = |key: &str| secret.data.as_ref().and_then(|d| d.get(key));
    let mut require = |key: &str, present: bool| {
        if !present {
            errors.push(FieldError::required(&path.key(key), ""));
        }
    };
    match text(secret.type_.as_ref()) {
        "kubernetes.io/service-account-token" => {
            let annotations = secret.metadata.annotations.as_ref();
            if text(annotations.and_then(|a| a.get(SERVICE_ACCOUNT_NAME))).is_empty() {
                let path = Path::new("metadata").child("annotations").key(SERVICE_ACCOUNT_NAME);
                errors.push(FieldError::required(&path, ""));
            }
        }
        "kubernetes.io/dockercfg" => {
            errors.extend(require_json(&path.key(".dockercfg"), value(".dockercfg")))
        }
        "kubernetes.io/dockerconfigjson" => {
            errors.extend(require_json(&path.key(".dockerconfigjson"), value(".dockerconfigjson")));
        }
        "kubernetes.io/basic-auth" if value("username").is_none() && value("password").is_none() => {
            require("username", false);
            require("password", false);
        }
        "kubernetes.io/ssh-auth" => {
            require("ssh-privatekey", value("ssh-privatekey").is_some_and(|v| !v.0.is_empty()));
        }
        "kubernetes.io/tls" => {
            require("tls.crt", value("tls.crt").is_some());
            require("tls.key", value("tls.key").is_some());
        }
        _ => {}
    }
    errors
}

fn require_json(path: &Path, value: Option<&ByteString>) -> Option<FieldError> {
    let Some(value) = value else { return Some(FieldError::required(path, "")) };
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&value.0) {
        Ok(_) => None,
        Err(e) => Some(FieldError::invalid(path, REDACTED, e.to_string())),
    }
}

fn validate_update(new: &Secret, old: &Secret) -> FieldErrors {
    let mut errors = Vec::new();
    if new.type_ != old.type_ {
        errors.push(FieldError::invalid(&Path::new("type"), text(new.type_.as_ref()), FIELD_IMMUTABLE));
    }
    if old.immutable == Some(true) {
        errors.extend(still_immutable(new.immutable));
        errors.extend(kept("data", new.data.as_ref(), old.data.as_ref()));
    }
    errors.extend(validate(new));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{check, lines, object};
    use serde_json::json;

    #[test]
    fn string_data_wins_over_data_and_is_not_kept() {
        let mut secret: Secret =
            object(json!({"data": {"a": "b2xk", "b": "a2VlcA=="}, "stringData": {"a": "new"}}));
        default(&mut secret);
        let data = secret.data.clone().unwrap();
        assert_eq!((data["a"].0.as_slice(), data["b"].0.as_slice()), (&b"new"[..], &b"keep"[..]));
        assert_eq!((secret.string_data, secret.type_.as_deref()), (None, Some("Opaque")));
    }

    #[test]
    fn each_type_requires_its_keys() {
        check(validate, json!({"type": "Opaque"}), &[]);
        check(validate, json!({"type": "example.com/own"}), &[]);
        check(
            validate,
            json!({"type": "kubernetes.io/tls"}),
            &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
        );
        check(
            validate,
            json!({"type": "kubernetes.io/basic-auth"}),
            &["data[username]: Required value", "data[password]: Required value"],
        );
        check(validate, json!({"type": "kubernetes.io/basic-auth", "data": {"username": "YQ=="}}), &[]);
        check(
            validate,
            json!({"type": "kubernetes.io/ssh-auth", "data": {"ssh-privatekey": ""}}),
            &["data[ssh-privatekey]: Required value"],
        );
        check(
            validate,
            json!({"type": "kubernetes.io/dockerconfigjson"}),
            &["data[.dockerconfigjson]: Required value"],
        );
        check(
            validate,
            json!({"type": "kubernetes.io/service-account-token"}),
            &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        );
    }

    #[test]
    fn the_type_may_not_change() {
        let errors = validate_update(&object(json!({"type": "a/b"})), &object(json!({"type": "Opaque"})));
        assert_eq!(lines(&errors), ["type: Invalid value: \"a/b\": field is immutable"]);
    }
}
