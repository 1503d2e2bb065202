//! What the kinds' files share: constructors for columns, behaviours that do nothing, and checks that several
//! kinds make. What their strategies share is in [`crate::strategy`].

use crate::kind::{Cell, Column, Validate};
use crate::object::Typed;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::jiff::Timestamp;
use meta::{FieldError, FieldErrors, Path};
use serde::Serialize;
use serde_json::Value;
use std::net::IpAddr;

/// Upstream's message for a field that may not change.
pub const FIELD_IMMUTABLE: &str = "field is immutable";

/// What the field documentation says of `metadata.creationTimestamp`.
pub const CREATION_TIMESTAMP: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// A column of type string that is always shown.
pub const fn column<T>(name: &'static str, description: &'static str, cell: fn(&T) -> Cell) -> Column<T> {
    Column { name, kind: "string", format: "", description, priority: 0, cell }
}

/// A column of type string that only `-o wide` shows.
pub const fn wide<T>(name: &'static str, description: &'static str, cell: fn(&T) -> Cell) -> Column<T> {
    Column { name, kind: "string", format: "", description, priority: 1, cell }
}

/// A column of another OpenAPI type (`integer`, `boolean`).
pub const fn typed_column<T>(
    name: &'static str,
    kind: &'static str,
    description: &'static str,
    cell: fn(&T) -> Cell,
) -> Column<T> {
    Column { name, kind, format: "", description, priority: 0, cell }
}

/// The AGE column.
pub const fn age<T: Typed>() -> Column<T> {
    Column {
        name: "Age",
        kind: "string",
        format: "",
        description: CREATION_TIMESTAMP,
        priority: 0,
        cell: age_cell::<T>,
    }
}

fn age_cell<T: Typed>(object: &T) -> Cell {
    Cell::Age(object.metadata().creation_timestamp.as_ref().map(|t| t.0))
}

/// Defaults or preparation of a kind that has none.
pub fn no_change<T>(_: &mut T) {}

/// As [`no_change`], of an update.
pub fn no_change_from<T>(_: &mut T, _: &T) {}

/// Validation of a kind that has none besides its schema.
pub fn no_errors<T>(_: &T) -> FieldErrors {
    Vec::new()
}

/// Warnings of a kind that has none.
pub fn no_warnings<T>(_: &T, _: Option<&T>) -> Vec<String> {
    Vec::new()
}

/// As [`no_errors`], of an update.
pub fn no_update_errors<T>(_: &T, _: &T) -> FieldErrors {
    Vec::new()
}

/// A kind whose fields nothing constrains besides its schema.
pub const fn unchecked<T>() -> Validate<T> {
    Validate { create: no_errors, update: no_update_errors }
}

/// A value as upstream prints it in a field error: JSON.
pub fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("API values have string keys and finite numbers")
}

/// A string that is empty where it was left out, as upstream has it.
pub fn text(value: Option<&String>) -> &str {
    value.map_or("", String::as_str)
}

/// `value`, or what upstream prints in its place where it is empty.
pub fn or<'a>(value: &'a str, otherwise: &'a str) -> &'a str {
    if value.is_empty() { otherwise } else { value }
}

pub fn instant(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|t| t.0)
}

/// `a=1,b=2`, or `<none>`: upstream's `labels.FormatLabels`.
pub fn format_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let pairs: Vec<String> = labels.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// A label selector in the form that tables show: upstream's `metav1.FormatLabelSelector`.
pub fn format_selector(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "<none>".to_owned() };
    let mut terms: Vec<(String, String)> = Vec::new();
    for (k, v) in selector.match_labels.iter().flatten() {
        terms.push((k.clone(), format!("{k}={v}")));
    }
    for e in selector.match_expressions.iter().flatten() {
        let mut values = e.values.clone().unwrap_or_default();
        values.sort();
        let term = match e.operator.as_str() {
            "In" => format!("{} in ({})", e.key, values.join(",")),
            "NotIn" => format!("{} notin ({})", e.key, values.join(",")),
            "Exists" => e.key.clone(),
            "DoesNotExist" => format!("!{}", e.key),
            _ => return "<error>".to_owned(),
        };
        terms.push((e.key.clone(), term));
    }
    terms.sort_by(|a, b| a.0.cmp(&b.0));
    if terms.is_empty() {
        return "<none>".to_owned();
    }
    terms.into_iter().map(|(_, t)| t).collect::<Vec<_>>().join(",")
}

/// An address as upstream's legacy fields take it: IPv4 octets may have leading zeros.
pub fn parse_ip_sloppy(value: &str) -> Option<IpAddr> {
    if let Ok(ip) = value.parse() {
        return Some(ip);
    }
    let octets: Vec<&str> = value.split('.').collect();
    if octets.len() != 4 {
        return None;
    }
    let mut bytes = [0u8; 4];
    for (byte, octet) in bytes.iter_mut().zip(octets) {
        if octet.is_empty() || octet.len() > 8 || !octet.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *byte = octet.parse::<u32>().ok().and_then(|n| u8::try_from(n).ok())?;
    }
    Some(IpAddr::from(bytes))
}

/// Errors of an address in a field that older versions read loosely: a value that was stored before stays
/// valid (upstream's `IsValidIPForLegacyField` with `StrictIPCIDRValidation`, on by default since 1.36).
pub fn check_ip(path: &Path, value: &str, stored: &[String]) -> FieldErrors {
    if stored.iter().any(|s| s == value) {
        return Vec::new();
    }
    let why = match (parse_ip_sloppy(value), value.parse::<IpAddr>()) {
        (None, _) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        (Some(_), Err(_)) => "must not have leading 0s",
        (Some(IpAddr::V6(a)), Ok(_)) if a.to_ipv4_mapped().is_some() => {
            "must not be an IPv4-mapped IPv6 address"
        }
        _ => return Vec::new(),
    };
    vec![FieldError::invalid(path, value, why)]
}

/// Errors of a CIDR in a field that older versions read loosely; see [`check_ip`].
pub fn check_cidr(path: &Path, value: &str, stored: &[String]) -> FieldErrors {
    if stored.iter().any(|s| s == value) {
        return Vec::new();
    }
    let refuse = |why: &str| vec![FieldError::invalid(path, value, why)];
    let parsed = value.split_once('/').and_then(|(ip, bits)| {
        let ip = parse_ip_sloppy(ip)?;
        let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
        let bits = bits.parse::<u8>().ok().filter(|_| digits)?;
        ipnet::IpNet::new(ip, bits).ok()
    });
    let Some(net) = parsed else {
        return refuse("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    };
    if value.parse::<ipnet::IpNet>().is_err() {
        return refuse("must not have leading 0s in IP or prefix length");
    }
    if matches!(net.addr(), IpAddr::V6(a) if a.to_ipv4_mapped().is_some()) {
        return refuse("must not have an IPv4-mapped IPv6 address");
    }
    if net.addr() != net.network() {
        return refuse("must not have bits set beyond the prefix length");
    }
    Vec::new()
}

/// Errors of an address that traffic is sent to: no unspecified, loopback or link-local one.
pub fn check_endpoint_ip(path: &Path, value: &str) -> FieldErrors {
    let Some(ip) = parse_ip_sloppy(value) else {
        return vec![FieldError::invalid(path, value, "must be a valid IP address")];
    };
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(a) => (a.is_link_local(), a.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(a) => (a.is_unicast_link_local(), a.segments()[0] & 0xff0f == 0xff02),
    };
    let mut errors = Vec::new();
    if ip.is_unspecified() {
        errors.push(FieldError::invalid(path, value, format!("may not be unspecified ({value})")));
    }
    if ip.is_loopback() {
        errors.push(FieldError::invalid(
            path,
            value,
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ));
    }
    if link_local {
        errors.push(FieldError::invalid(
            path,
            value,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        ));
    }
    if link_local_multicast {
        errors.push(FieldError::invalid(
            path,
            value,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ));
    }
    errors
}

/// Adds one Invalid error for each message of a rule.
pub fn push_invalid(errors: &mut FieldErrors, path: &Path, value: &str, messages: Vec<String>) {
    errors.extend(messages.into_iter().map(|m| FieldError::invalid(path, value, m)));
}

/// Refuses negative numbers: (field, value) pairs below `path`.
pub fn nonnegative(errors: &mut FieldErrors, path: &Path, fields: &[(&str, i64)]) {
    for (name, value) in fields.iter().filter(|(_, v)| *v < 0) {
        errors.extend(meta::validation::validate_nonnegative(*value, &path.child(name)));
    }
}

/// A number that counts as 0 where it was left out.
pub fn or_zero(value: impl Into<Option<i32>>) -> i64 {
    value.into().map_or(0, i64::from)
}

/// Errors of a transport protocol that must be given.
pub fn check_protocol(path: &Path, value: Option<&str>) -> FieldErrors {
    match value.unwrap_or("") {
        "" => vec![FieldError::required(path, "")],
        "TCP" | "UDP" | "SCTP" => Vec::new(),
        other => vec![FieldError::not_supported(path, other, &["SCTP", "TCP", "UDP"])],
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use meta::FieldErrors;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    /// An object from JSON.
    pub fn object<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    /// Errors as the client reads them.
    pub fn lines(errors: &FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    /// Checks the errors of an object as the client reads them.
    #[track_caller]
    pub fn check<T: DeserializeOwned>(validate: fn(&T) -> FieldErrors, value: Value, expect: &[&str]) {
        assert_eq!(lines(&validate(&object(value))), expect);
    }

    /// As [`check`], of an object that has no more than this `spec`.
    #[track_caller]
    pub fn check_spec<T: DeserializeOwned>(validate: fn(&T) -> FieldErrors, spec: Value, expect: &[&str]) {
        check(validate, json!({ "spec": spec }), expect);
    }
}
