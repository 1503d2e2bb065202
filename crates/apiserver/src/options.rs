//! Query parameters and `DeleteOptions`, with upstream's validation.

use crate::cache::When;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions};
use meta::{ApiError, FieldError, FieldErrors, FieldSelector, GroupVersionKind, LabelSelector, Path};
use std::borrow::Cow;
use store::Revision;

const FIELD_MANAGER_MAX_BYTES: usize = 128;

/// The decoded query: few parameters, looked up by a walk.
#[derive(Debug, Default)]
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

fn decode(s: &str) -> Cow<'_, str> {
    if !s.bytes().any(|b| b == b'%' || b == b'+') {
        return Cow::Borrowed(s);
    }
    let plus = s.replace('+', " ");
    Cow::Owned(percent_encoding::percent_decode_str(&plus).decode_utf8_lossy().into_owned())
}

impl<'a> Query<'a> {
    pub fn of(uri: &'a http::Uri) -> Self {
        let pairs = uri.query().unwrap_or("").split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|p| p.split_once('=').unwrap_or((p, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| &**v)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    pub fn all<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| &**v)
    }

    /// Upstream's boolean parameters: present means true, unless it says `false` or `0`.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|v| !matches!(v.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
    }
}

fn meta_kind(kind: &'static str) -> GroupVersionKind {
    GroupVersionKind::of("meta.k8s.io", "v1", kind)
}

fn refuse(kind: &'static str, errors: FieldErrors) -> Result<(), ApiError> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(&meta_kind(kind), "", &errors)) }
}

/// `resourceVersion` as a number.
pub fn parse_revision(text: &str) -> Result<Revision, ApiError> {
    text.parse().map(Revision).map_err(|_| {
        let why = format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
        ApiError::bad_request(format!("resourceVersion: {why}"))
    })
}

/// What `fieldValidation` asks for fields the schema does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Of create, update and patch (`CreateOptions`, `UpdateOptions`, `PatchOptions`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub field_validation: FieldValidation,
    /// Only for apply.
    pub force: Option<bool>,
}

fn check_dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut FieldErrors) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|v| *v != "All") {
        let printed = serde_json::Value::from(values.clone());
        errors.push(FieldError::not_supported(&Path::new("dryRun"), printed, &["All"]));
    }
    !values.is_empty()
}

fn check_field_manager(manager: &str, errors: &mut FieldErrors) {
    let path = Path::new("fieldManager");
    if manager.len() > FIELD_MANAGER_MAX_BYTES {
        errors.push(FieldError::too_long(&path, FIELD_MANAGER_MAX_BYTES));
    }
    for (i, c) in manager.char_indices() {
        if c.is_control() {
            let detail = format!("invalid character U+{:04X} (at position {i})", u32::from(c));
            errors.push(FieldError::invalid(&path, manager, detail));
        }
    }
}

impl WriteOptions {
    /// `kind`: `CreateOptions`, `UpdateOptions` or `PatchOptions`. `apply`: the patch is an apply.
    ///
    /// # Errors
    /// Invalid, in upstream's words.
    pub fn parse(query: &Query<'_>, kind: &'static str, apply: bool) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let force = query.flag("force");
        let field_manager = query.get("fieldManager").unwrap_or("").to_owned();
        if kind == "PatchOptions" {
            if apply && field_manager.is_empty() {
                errors.push(FieldError::required(&Path::new("fieldManager"), "is required for apply patch"));
            }
            if !apply && force.is_some() {
                errors.push(FieldError::forbidden(
                    &Path::new("force"),
                    "may not be specified for non-apply patch",
                ));
            }
        }
        check_field_manager(&field_manager, &mut errors);
        let dry_run = check_dry_run(query.all("dryRun"), &mut errors);
        let field_validation = match query.get("fieldValidation").unwrap_or("") {
            "Ignore" => FieldValidation::Ignore,
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            other => {
                let supported = &["", "Ignore", "Strict", "Warn"];
                errors.push(FieldError::not_supported(&Path::new("fieldValidation"), other, supported));
                FieldValidation::Warn
            }
        };
        refuse(kind, errors)?;
        Ok(Self { dry_run, field_manager, field_validation, force })
    }

    /// The field manager, or the user agent where none is given.
    pub fn manager<'a>(&'a self, agent: &'a str) -> &'a str {
        if self.field_manager.is_empty() { agent } else { &self.field_manager }
    }
}

/// Of list and watch.
#[derive(Clone, Debug)]
pub struct ListOptions {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    pub resource_version: String,
    pub resource_version_match: String,
    pub limit: usize,
    pub continue_token: Option<String>,
    pub timeout_seconds: Option<u64>,
    pub allow_bookmarks: bool,
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// # Errors
    /// BadRequest for what does not parse, Invalid for what does not go together.
    pub fn parse(query: &Query<'_>, watch: bool) -> Result<Self, ApiError> {
        let limit = query.number("limit")?.unwrap_or(0);
        let timeout = query.number("timeoutSeconds")?;
        let options = Self {
            labels: LabelSelector::parse(query.get("labelSelector").unwrap_or(""))
                .map_err(ApiError::bad_request)?,
            fields: FieldSelector::parse(query.get("fieldSelector").unwrap_or(""))
                .map_err(ApiError::bad_request)?,
            resource_version: query.get("resourceVersion").unwrap_or("").to_owned(),
            resource_version_match: query.get("resourceVersionMatch").unwrap_or("").to_owned(),
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: query.text("continue").map(str::to_owned),
            timeout_seconds: timeout.and_then(|t| u64::try_from(t).ok()),
            allow_bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            send_initial_events: query.flag("sendInitialEvents"),
        };
        refuse("ListOptions", if watch { options.check_watch() } else { options.check_list() })?;
        Ok(options)
    }

    fn check_list(&self) -> FieldErrors {
        let mut errors = Vec::new();
        let path = Path::new("resourceVersionMatch");
        let matching = self.resource_version_match.as_str();
        if !matching.is_empty() {
            if self.resource_version.is_empty() {
                let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                errors.push(FieldError::forbidden(&path, why));
            }
            if self.continue_token.is_some() {
                let why = "resourceVersionMatch is forbidden when continue is provided";
                errors.push(FieldError::forbidden(&path, why));
            }
            if !matches!(matching, "Exact" | "NotOlderThan") {
                errors.push(FieldError::not_supported(&path, matching, &["Exact", "NotOlderThan", ""]));
            }
            if matching == "Exact" && self.resource_version == "0" {
                let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                errors.push(FieldError::forbidden(&path, why));
            }
        }
        if self.send_initial_events.is_some() {
            let why = "sendInitialEvents is forbidden for list";
            errors.push(FieldError::forbidden(&Path::new("sendInitialEvents"), why));
        }
        errors
    }

    fn check_watch(&self) -> FieldErrors {
        let mut errors = Vec::new();
        let path = Path::new("resourceVersionMatch");
        let matching = self.resource_version_match.as_str();
        if self.send_initial_events.is_some() && matching != "NotOlderThan" {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(FieldError::forbidden(&path, why));
        }
        if !matching.is_empty() {
            if self.send_initial_events.is_none() {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                errors.push(FieldError::forbidden(&path, why));
            }
            if matching != "NotOlderThan" {
                errors.push(FieldError::not_supported(&path, matching, &["NotOlderThan"]));
            }
            if self.continue_token.is_some() {
                let why = "resourceVersionMatch is forbidden when continue is provided";
                errors.push(FieldError::forbidden(&path, why));
            }
        }
        errors
    }

    /// Which state a list shows.
    ///
    /// # Errors
    /// BadRequest where the resourceVersion is no number.
    pub fn when(&self) -> Result<When, ApiError> {
        let exact = self.resource_version_match == "Exact"
            || (self.resource_version_match.is_empty() && self.limit > 0);
        Ok(match self.resource_version.as_str() {
            "" => When::Newest,
            "0" => When::Any,
            text if exact => When::Exactly(parse_revision(text)?),
            text => When::NotOlderThan(parse_revision(text)?),
        })
    }
}

/// Which state a get shows.
pub fn get_when(query: &Query<'_>) -> Result<When, ApiError> {
    Ok(match query.get("resourceVersion").unwrap_or("") {
        "" => When::Newest,
        "0" => When::Any,
        text => When::NotOlderThan(parse_revision(text)?),
    })
}

/// `DeleteOptions` from the body where there is one, else from the query.
pub fn delete_options(query: &Query<'_>, body: Option<DeleteOptions>) -> Result<DeleteOptions, ApiError> {
    let options = match body {
        Some(options) => options,
        None => {
            let dry_run: Vec<String> = query.all("dryRun").map(str::to_owned).collect();
            let uid = query.text("preconditions.uid").or_else(|| query.text("uid")).map(str::to_owned);
            let resource_version = query.text("preconditions.resourceVersion").map(str::to_owned);
            DeleteOptions {
                dry_run: (!dry_run.is_empty()).then_some(dry_run),
                grace_period_seconds: query.number("gracePeriodSeconds")?,
                orphan_dependents: query.flag("orphanDependents"),
                propagation_policy: query.text("propagationPolicy").map(str::to_owned),
                preconditions: (uid.is_some() || resource_version.is_some())
                    .then_some(Preconditions { uid, resource_version }),
                ..DeleteOptions::default()
            }
        }
    };
    let mut errors = Vec::new();
    let path = Path::new("propagationPolicy");
    if let Some(policy) = &options.propagation_policy {
        if options.orphan_dependents.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&path, policy, why));
        }
        if !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan") {
            errors.push(FieldError::not_supported(
                &path,
                policy,
                &["Foreground", "Background", "Orphan", "nil"],
            ));
        }
    }
    check_dry_run(options.dry_run.iter().flatten().map(String::as_str), &mut errors);
    refuse("DeleteOptions", errors)?;
    Ok(options)
}

pub fn is_dry_run(options: &DeleteOptions) -> bool {
    options.dry_run.as_ref().is_some_and(|d| !d.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_options_are_refused_in_upstreams_words() {
        let check = |uri: &str, kind, apply, expect: &str| {
            let uri: http::Uri = uri.parse().expect("a URI");
            let got = WriteOptions::parse(&Query::of(&uri), kind, apply).map(|o| format!("{o:?}"));
            match got {
                Ok(text) => assert!(text.contains(expect), "{text}"),
                Err(e) => assert_eq!(e.message, expect),
            }
        };
        check("/?dryRun=All&fieldManager=me", "CreateOptions", false, "dry_run: true, field_manager: \"me\"");
        check(
            "/?fieldValidation=Lax",
            "UpdateOptions",
            false,
            "UpdateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Lax\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
        );
        check(
            "/",
            "PatchOptions",
            true,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        );
        check(
            "/?force=true",
            "PatchOptions",
            false,
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
        );
    }
}
