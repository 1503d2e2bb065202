//! Name and label rules (RFC 1035, RFC 1123, qualified names), with upstream's messages
//! (`apimachinery/pkg/util/validation`). A rule gives one message for each fault, none where the value holds.

pub use crate::object_meta::{
    TOTAL_ANNOTATION_SIZE_LIMIT_BYTES, name_is_dns_label, name_is_dns_subdomain, name_is_ip,
    name_is_path_segment, validate_annotations, validate_finalizer_name, validate_immutable,
    validate_label_name, validate_label_selector, validate_labels, validate_nonnegative,
    validate_object_meta, validate_object_meta_update,
};

/// Messages, one for each fault.
pub type Messages = Vec<String>;

pub const DNS1123_LABEL_MAX_LENGTH: usize = 63;
pub const DNS1123_SUBDOMAIN_MAX_LENGTH: usize = 253;
pub const DNS1035_LABEL_MAX_LENGTH: usize = 63;
pub const LABEL_VALUE_MAX_LENGTH: usize = 63;
const LABEL_KEY_NAME_MAX_LENGTH: usize = 63;
const PORT_NAME_MAX_LENGTH: usize = 15;

const DNS1123_LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_SUBDOMAIN_FORMAT: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_KEY_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_KEY_WORDS: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const SUBDOMAIN_WORDS: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";

/// What a value over a limit of characters is told.
pub fn max_len_error(length: usize) -> String {
    format!("must be no more than {length} characters")
}

fn max_bytes_error(length: usize) -> String {
    format!("must be no more than {length} bytes")
}

/// A message with examples and the pattern, as upstream writes it.
pub fn regex_error(message: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{pattern}')");
    }
    let mut out = format!("{message} (e.g. ");
    for (i, example) in examples.iter().enumerate() {
        if i > 0 {
            out.push_str(" or ");
        }
        out.push_str(&format!("'{example}', "));
    }
    out.push_str(&format!("regex used for validation is '{pattern}')"));
    out
}

pub fn inclusive_range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

pub const EMPTY_ERROR: &str = "must be non-empty";

/// Every byte satisfies `inner`, and the first and last also `edge`; not empty.
fn shaped(value: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    match value.as_bytes() {
        [] => false,
        [one] => edge(*one),
        [first, middle @ .., last] => edge(*first) && edge(*last) && middle.iter().all(|b| inner(*b)),
    }
}

fn lower_alphanumeric(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_label_shape(value: &str) -> bool {
    shaped(value, lower_alphanumeric, |b| lower_alphanumeric(b) || b == b'-')
}

fn is_subdomain_shape(value: &str) -> bool {
    value.split('.').all(is_label_shape)
}

fn is_label_key_shape(value: &str) -> bool {
    shaped(
        value,
        |b| b.is_ascii_alphanumeric(),
        |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'),
    )
}

/// RFC 1123 label.
pub fn is_dns1123_label(value: &str) -> Messages {
    let mut errors = Vec::new();
    if value.len() > DNS1123_LABEL_MAX_LENGTH {
        errors.push(max_len_error(DNS1123_LABEL_MAX_LENGTH));
    }
    if !is_label_shape(value) {
        errors.push(if is_subdomain_shape(value) {
            "must not contain dots".to_owned()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                DNS1123_LABEL_FORMAT,
                &["my-name", "123-abc"],
            )
        });
    }
    errors
}

/// RFC 1123 subdomain.
pub fn is_dns1123_subdomain(value: &str) -> Messages {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX_LENGTH {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX_LENGTH));
    }
    if !is_subdomain_shape(value) {
        errors.push(regex_error(SUBDOMAIN_WORDS, DNS1123_SUBDOMAIN_FORMAT, &["example.com"]));
    }
    errors
}

/// RFC 1123 subdomain whose labels may also hold `_` and begin with one (pod DNS search paths).
pub fn is_dns1123_subdomain_with_underscore(value: &str) -> Messages {
    let label = |part: &str| {
        shaped(part.strip_prefix('_').unwrap_or(part), lower_alphanumeric, |b| {
            lower_alphanumeric(b) || matches!(b, b'-' | b'_')
        })
    };
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX_LENGTH {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX_LENGTH));
    }
    if !value.split('.').all(label) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    errors
}

/// `*.` and an RFC 1123 subdomain.
pub fn is_wildcard_dns1123_subdomain(value: &str) -> Messages {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX_LENGTH {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX_LENGTH));
    }
    if !value.strip_prefix("*.").is_some_and(is_subdomain_shape) {
        errors.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!(r"\*\.{DNS1123_SUBDOMAIN_FORMAT}"),
            &["*.example.com"],
        ));
    }
    errors
}

/// RFC 1035 label: begins with a letter.
pub fn is_dns1035_label(value: &str) -> Messages {
    let mut errors = Vec::new();
    if value.len() > DNS1035_LABEL_MAX_LENGTH {
        errors.push(max_len_error(DNS1035_LABEL_MAX_LENGTH));
    }
    if !(is_label_shape(value) && value.starts_with(|c: char| c.is_ascii_lowercase())) {
        errors.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// A label key: `name` or `example.com/name`.
pub fn is_qualified_name(value: &str) -> Messages {
    let pattern = || regex_error(LABEL_KEY_WORDS, LABEL_KEY_FORMAT, &["MyName", "my.name", "123-abc"]);
    let mut errors = Vec::new();
    let name = match value.split_once('/') {
        None => value,
        Some((_, name)) if name.contains('/') => {
            errors.push(format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                pattern()
            ));
            return errors;
        }
        Some(("", name)) => {
            errors.push(format!("prefix part {EMPTY_ERROR}"));
            name
        }
        Some((prefix, name)) => {
            if prefix.len() > DNS1123_SUBDOMAIN_MAX_LENGTH {
                errors.push(format!("prefix part {}", max_bytes_error(DNS1123_SUBDOMAIN_MAX_LENGTH)));
            }
            if !is_subdomain_shape(prefix) {
                let words = regex_error(SUBDOMAIN_WORDS, DNS1123_SUBDOMAIN_FORMAT, &["example.com"]);
                errors.push(format!("prefix part {words}"));
            }
            name
        }
    };
    if name.is_empty() {
        errors.push(format!("name part {EMPTY_ERROR}"));
    } else if name.len() > LABEL_KEY_NAME_MAX_LENGTH {
        errors.push(format!("name part {}", max_bytes_error(LABEL_KEY_NAME_MAX_LENGTH)));
    }
    if !is_label_key_shape(name) {
        errors.push(format!("name part {}", pattern()));
    }
    errors
}

pub fn is_valid_label_value(value: &str) -> Messages {
    let mut errors = Vec::new();
    if value.len() > LABEL_VALUE_MAX_LENGTH {
        errors.push(max_bytes_error(LABEL_VALUE_MAX_LENGTH));
    }
    if !value.is_empty() && !is_label_key_shape(value) {
        errors.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// A name that is one segment of a URL path.
pub fn is_path_segment_name(value: &str) -> Messages {
    match value {
        "." => vec!["may not be '.'".to_owned()],
        ".." => vec!["may not be '..'".to_owned()],
        _ => ["/", "%"]
            .iter()
            .filter(|c| value.contains(**c))
            .map(|c| format!("may not contain '{c}'"))
            .collect(),
    }
}

pub fn is_c_identifier(value: &str) -> Messages {
    let ok = !value.is_empty()
        && !value.as_bytes()[0].is_ascii_digit()
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    refuse(ok, || {
        regex_error(
            "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
            "[A-Za-z_][A-Za-z0-9_]*",
            &["my_name", "MY_NAME", "MyName"],
        )
    })
}

fn refuse(ok: bool, message: impl FnOnce() -> String) -> Messages {
    if ok { Vec::new() } else { vec![message()] }
}

/// 1 to 65535.
pub fn is_valid_port_num(port: i32) -> Messages {
    is_in_range(i64::from(port), 1, 65535)
}

pub fn is_in_range(value: i64, low: i64, high: i64) -> Messages {
    refuse((low..=high).contains(&value), || inclusive_range_error(low, high))
}

/// User or group id: 0 to 2^31-1.
pub fn is_valid_id(id: i64) -> Messages {
    is_in_range(id, 0, i64::from(i32::MAX))
}

/// IANA service name (RFC 6335): the name of a port.
pub fn is_valid_port_name(name: &str) -> Messages {
    let mut errors = Vec::new();
    if name.len() > PORT_NAME_MAX_LENGTH {
        errors.push(max_len_error(PORT_NAME_MAX_LENGTH));
    }
    if name.is_empty() || !name.bytes().all(|b| lower_alphanumeric(b) || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// `25%`.
pub fn is_valid_percent(value: &str) -> Messages {
    let ok = value.strip_suffix('%').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    refuse(ok, || {
        regex_error(
            "a valid percent string must be a numeric string followed by an ending '%'",
            "[0-9]+%",
            &["1%", "93%"],
        )
    })
}

pub fn is_http_header_name(value: &str) -> Messages {
    let ok = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    refuse(ok, || {
        regex_error(
            "a valid HTTP header must consist of alphanumeric characters or '-'",
            "[-A-Za-z0-9]+",
            &["X-Header-Name"],
        )
    })
}

fn dot_prefix_errors(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// The strict rule for an environment variable's name, before KEP-4369.
pub fn is_env_var_name(value: &str) -> Messages {
    let ok = !value.is_empty()
        && !value.as_bytes()[0].is_ascii_digit()
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    let mut errors = refuse(ok, || {
        regex_error(
            "a valid environment variable name must consist of alphabetic characters, digits, '_', '-',  or '.', and must not start with a digit",
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        )
    });
    errors.extend(dot_prefix_errors(value));
    errors
}

/// Printable ASCII other than `=` (KEP-4369).
pub fn is_relaxed_env_var_name(value: &str) -> Messages {
    let mut errors = Vec::new();
    if value.is_empty() {
        errors.push(format!("environment variable name {EMPTY_ERROR}"));
    }
    if value.bytes().any(|b| !(b' '..=b'~').contains(&b) || b == b'=') {
        errors.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    errors
}

/// A key of a ConfigMap or Secret.
pub fn is_config_map_key(value: &str) -> Messages {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX_LENGTH {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX_LENGTH));
    }
    if value.is_empty()
        || !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    {
        errors.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    errors.extend(dot_prefix_errors(value));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&str) -> Messages, good: &[&str], bad: &[&str]) {
        for value in good {
            assert_eq!(rule(value), Messages::new(), "{value:?} holds");
        }
        for value in bad {
            assert_ne!(rule(value), Messages::new(), "{value:?} is refused");
        }
    }

    #[test]
    fn names_hold_or_are_refused() {
        check(
            is_dns1123_label,
            &["a", "a-1", "0", "1--a"],
            &["", "A", "-a", "a-", "a.b", "a_b", &"a".repeat(64)],
        );
        check(
            is_dns1123_subdomain,
            &["a", "a.b.c", "1.2"],
            &["", ".a", "a.", "a..b", "A.b", &"a".repeat(254)],
        );
        check(is_dns1035_label, &["a", "a1-b"], &["", "1a", "a-", "A"]);
        check(
            is_qualified_name,
            &["a", "A_b.c", "ex.com/Name"],
            &["", "a/b/c", "/a", "ex.com/", "Ex.com/a", "-a"],
        );
        check(is_valid_label_value, &["", "A", "a_b.c-d"], &["-a", "a-", "a b", &"a".repeat(64)]);
        check(is_valid_port_name, &["http", "a-1"], &["", "1", "-a", "a--b", "HTTP", "abcdefghijklmnop"]);
        check(is_dns1123_subdomain_with_underscore, &["_a._b", "a_b"], &["__", "a..b", "a_"]);
        check(is_config_map_key, &["a", ".a", "A_b"], &["", ".", "..", "..a", "a/b"]);
        check(is_relaxed_env_var_name, &["a b", "1"], &["", "a=b", "é"]);
    }

    #[test]
    fn messages_are_upstreams() {
        assert_eq!(
            is_dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(is_dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            is_qualified_name("a/b/c"),
            [
                "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ]
        );
    }
}
