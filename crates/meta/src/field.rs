//! Field paths and validation errors, with upstream's wording
//! (`spec.containers[0].image: Required value`), so that kubectl prints what users know.

use std::fmt;

/// A path to a field of an object: `spec.template.spec.containers[0].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    pub fn new(root: &str) -> Self {
        Self(root.to_owned())
    }

    pub fn child(&self, name: &str) -> Self {
        let mut out = String::with_capacity(self.0.len() + 1 + name.len());
        out.push_str(&self.0);
        if !out.is_empty() {
            out.push('.');
        }
        out.push_str(name);
        Self(out)
    }

    pub fn index(&self, i: usize) -> Self {
        Self(format!("{}[{i}]", self.0))
    }

    pub fn key(&self, k: &str) -> Self {
        Self(format!("{}[{k}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// The kinds of field error; each one is a cause reason in the `Status` of an Invalid refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

impl ErrorType {
    /// The `reason` of the cause, as in upstream's `field.ErrorType`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One reason why an object is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub kind: ErrorType,
    pub path: String,
    /// The refused value as upstream prints it: strings in quotes, numbers bare, objects as JSON.
    pub value: Option<String>,
    pub detail: String,
}

pub type FieldErrors = Vec<FieldError>;

/// A value as it stands in a message.
pub trait Printed {
    fn printed(&self) -> String;
}

/// A string in quotes with the escapes of Go's `%q`, which clients know from upstream's messages.
pub fn quoted(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        let written = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            '\u{7}' => out.write_str("\\a"),
            '\u{8}' => out.write_str("\\b"),
            '\u{b}' => out.write_str("\\v"),
            '\u{c}' => out.write_str("\\f"),
            c if c.is_ascii_control() => write!(out, "\\x{:02x}", u32::from(c)),
            c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c)),
            c => out.write_char(c),
        };
        debug_assert!(written.is_ok(), "a String takes what is written");
    }
    out.push('"');
    out
}

impl Printed for str {
    fn printed(&self) -> String {
        quoted(self)
    }
}
impl Printed for String {
    fn printed(&self) -> String {
        self.as_str().printed()
    }
}
impl<T: Printed + ?Sized> Printed for &T {
    fn printed(&self) -> String {
        (**self).printed()
    }
}
impl<T: Printed> Printed for Option<T> {
    fn printed(&self) -> String {
        self.as_ref().map_or_else(|| "null".to_owned(), Printed::printed)
    }
}
/// A value that a message shows as JSON.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a, T: ?Sized>(pub &'a T);
impl<T: serde::Serialize + ?Sized> Printed for Json<'_, T> {
    fn printed(&self) -> String {
        serde_json::to_string(self.0).unwrap_or_default()
    }
}
/// A value that a message shows as it is.
#[derive(Clone, Debug)]
pub struct Verbatim(pub String);
impl Printed for Verbatim {
    fn printed(&self) -> String {
        self.0.clone()
    }
}
macro_rules! printed_bare {
    ($($t:ty),*) => {$(impl Printed for $t { fn printed(&self) -> String { self.to_string() } })*};
}
printed_bare!(i32, i64, u16, u32, u64, usize, bool, f64, serde_json::Value);

impl FieldError {
    fn with(kind: ErrorType, path: &Path, value: Option<String>, detail: impl Into<String>) -> Self {
        Self { kind, path: path.as_str().to_owned(), value, detail: detail.into() }
    }

    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::with(ErrorType::Required, path, None, detail)
    }

    pub fn invalid(path: &Path, value: impl Printed, detail: impl Into<String>) -> Self {
        Self::with(ErrorType::Invalid, path, Some(value.printed()), detail)
    }

    pub fn type_invalid(path: &Path, value: impl Printed, detail: impl Into<String>) -> Self {
        Self::with(ErrorType::TypeInvalid, path, Some(value.printed()), detail)
    }

    pub fn duplicate(path: &Path, value: impl Printed) -> Self {
        Self::with(ErrorType::Duplicate, path, Some(value.printed()), "")
    }

    pub fn not_found(path: &Path, value: impl Printed) -> Self {
        Self::with(ErrorType::NotFound, path, Some(value.printed()), "")
    }

    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::with(ErrorType::Forbidden, path, None, detail)
    }

    /// `supported` is printed in the order given; upstream sorts it before.
    pub fn not_supported(path: &Path, value: impl Printed, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|s| quoted(s)).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        Self::with(ErrorType::NotSupported, path, Some(value.printed()), detail)
    }

    pub fn too_long(path: &Path, max_bytes: usize) -> Self {
        Self::with(
            ErrorType::TooLong,
            path,
            None,
            format!("may not be more than {max_bytes} byte{}", if max_bytes == 1 { "" } else { "s" }),
        )
    }

    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        Self::with(
            ErrorType::TooMany,
            path,
            Some(actual.printed()),
            format!("must have at most {max} item{}", if max == 1 { "" } else { "s" }),
        )
    }

    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Self::with(ErrorType::Internal, path, None, detail)
    }

    /// The message without the path, as it stands in a `Status` cause.
    pub fn body(&self) -> String {
        let mut s = self.kind.words().to_owned();
        if let Some(v) = &self.value {
            s.push_str(": ");
            s.push_str(v);
        }
        if !self.detail.is_empty() {
            s.push_str(": ");
            s.push_str(&self.detail);
        }
        s
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "<nil>" } else { &self.path };
        write!(f, "{path}: {}", self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_upstreams() {
        let path = Path::new("spec").child("containers").index(0).child("image");
        for (error, expect) in [
            (FieldError::required(&path, ""), "spec.containers[0].image: Required value"),
            (
                FieldError::invalid(&path, "a\"\u{1}\n", "bad"),
                r#"spec.containers[0].image: Invalid value: "a\"\x01\n": bad"#,
            ),
            (FieldError::invalid(&path, 5, ""), "spec.containers[0].image: Invalid value: 5"),
            (
                FieldError::duplicate(&path.key("k"), "x"),
                "spec.containers[0].image[k]: Duplicate value: \"x\"",
            ),
            (
                FieldError::not_supported(&path, "x", &["a", "b"]),
                "spec.containers[0].image: Unsupported value: \"x\": supported values: \"a\", \"b\"",
            ),
            (
                FieldError::too_long(&path, 1),
                "spec.containers[0].image: Too long: may not be more than 1 byte",
            ),
            (
                FieldError::too_many(&path, 3, 2),
                "spec.containers[0].image: Too many: 3: must have at most 2 items",
            ),
            (FieldError::forbidden(&Path::new(""), "no"), "<nil>: Forbidden: no"),
        ] {
            assert_eq!(error.to_string(), expect);
        }
    }
}
