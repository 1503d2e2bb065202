//! A refusal of the API: HTTP code, machine-readable reason, and the `Status` object that says why.
//! Wording follows upstream's `apimachinery/pkg/api/errors`.

use crate::field::{FieldError, quoted};
use crate::gvk::{GroupResource, GroupVersionKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, Status, StatusCause, StatusDetails};
use std::fmt;

/// `Status.reason`: one for each decision a client makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    Invalid,
    MethodNotAllowed,
    NotAcceptable,
    UnsupportedMediaType,
    RequestEntityTooLarge,
    TooManyRequests,
    Timeout,
    ServerTimeout,
    InternalError,
    ServiceUnavailable,
    /// No reason in the status; the code speaks.
    Unknown(u16),
}

impl Reason {
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Gone | Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError | Self::ServerTimeout => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
            Self::Unknown(code) => code,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Expired => "Expired",
            Self::Invalid => "Invalid",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::TooManyRequests => "TooManyRequests",
            Self::Timeout => "Timeout",
            Self::ServerTimeout => "ServerTimeout",
            Self::InternalError => "InternalError",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::Unknown(_) => "",
        }
    }
}

/// A refusal on its way to the client.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub reason: Reason,
    pub message: String,
    /// Boxed: a refusal is rare, and a `Result` that carries one should stay small.
    pub details: Option<Box<StatusDetails>>,
}

impl ApiError {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), details: None }
    }

    fn about(mut self, resource: &GroupResource, name: &str) -> Self {
        self.details = Some(Box::new(StatusDetails {
            name: (!name.is_empty()).then(|| name.to_owned()),
            group: (!resource.group.is_empty()).then(|| resource.group.to_string()),
            kind: Some(resource.resource.to_string()),
            ..Default::default()
        }));
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::new(Reason::NotFound, format!("{resource} {} not found", quoted(name))).about(resource, name)
    }

    /// No such path: what upstream answers for an unknown URL.
    pub fn page_not_found() -> Self {
        Self::new(Reason::NotFound, "the server could not find the requested resource")
    }

    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::new(Reason::AlreadyExists, format!("{resource} {} already exists", quoted(name)))
            .about(resource, name)
    }

    pub fn conflict(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        Self::new(
            Reason::Conflict,
            format!("Operation cannot be fulfilled on {resource} {}: {why}", quoted(name)),
        )
        .about(resource, name)
    }

    /// The conflict of a stale `resourceVersion`.
    pub fn modified(resource: &GroupResource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub fn forbidden(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        let message = if resource.resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {} is forbidden: {why}", quoted(name))
        };
        Self::new(Reason::Forbidden, message).about(resource, name)
    }

    /// The refusal of an object whose fields do not hold, one cause for each error.
    pub fn invalid(kind: &GroupVersionKind, name: &str, errors: &[FieldError]) -> Self {
        let mut seen: Vec<String> = Vec::with_capacity(errors.len());
        for e in errors {
            let line = e.to_string();
            if !seen.contains(&line) {
                seen.push(line);
            }
        }
        let list = match seen.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes = errors
            .iter()
            .map(|e| StatusCause {
                field: Some(e.path.clone()),
                message: Some(e.body()),
                reason: Some(e.kind.reason().to_owned()),
            })
            .collect();
        let mut error = Self::new(Reason::Invalid, format!("{kind} {} is invalid: {list}", quoted(name)));
        error.details = Some(Box::new(StatusDetails {
            name: (!name.is_empty()).then(|| name.to_owned()),
            group: (!kind.group.is_empty()).then(|| kind.group.to_string()),
            kind: Some(kind.kind.to_string()),
            causes: Some(causes),
            ..Default::default()
        }));
        error
    }

    pub fn method_not_allowed(resource: &GroupResource, verb: &str) -> Self {
        Self::new(
            Reason::MethodNotAllowed,
            format!("{verb} is not supported on resources of kind {:?}", resource.to_string()),
        )
        .about(resource, "")
    }

    /// A `resourceVersion` or continue token older than what is kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    pub fn internal(why: impl fmt::Display) -> Self {
        let mut error = Self::new(Reason::InternalError, format!("Internal error occurred: {why}"));
        let cause = StatusCause { message: Some(why.to_string()), ..Default::default() };
        error.details = Some(Box::new(StatusDetails { causes: Some(vec![cause]), ..Default::default() }));
        error
    }

    /// Adds `details.retryAfterSeconds`, which the front also sends as a `Retry-After` header.
    pub fn retry_after(mut self, seconds: i32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = Some(seconds);
        self
    }

    /// HTTP status code.
    pub fn code(&self) -> u16 {
        self.reason.code()
    }

    pub fn status(&self) -> Status {
        Status {
            code: Some(i32::from(self.code())),
            details: self.details.as_deref().cloned(),
            message: Some(self.message.clone()),
            metadata: ListMeta::default(),
            reason: Some(self.reason.as_str().to_owned()).filter(|r| !r.is_empty()),
            status: Some("Failure".to_owned()),
        }
    }
}

/// JSON of a `Status`, its fields in upstream's order: clients are seen that compare the text of a refusal.
pub fn status_json(status: &Status) -> Vec<u8> {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Ordered<'a> {
        kind: &'static str,
        api_version: &'static str,
        metadata: &'a ListMeta,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: &'a Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: &'a Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: &'a Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        details: Option<Details<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
    }
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Details<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        name: &'a Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        group: &'a Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        kind: &'a Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: &'a Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        causes: Option<Vec<Cause<'a>>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_seconds: Option<i32>,
    }
    #[derive(serde::Serialize)]
    struct Cause<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: &'a Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: &'a Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        field: &'a Option<String>,
    }
    let ordered = Ordered {
        kind: "Status",
        api_version: "v1",
        metadata: &status.metadata,
        status: &status.status,
        message: &status.message,
        reason: &status.reason,
        details: status.details.as_ref().map(|d| Details {
            name: &d.name,
            group: &d.group,
            kind: &d.kind,
            uid: &d.uid,
            causes: d.causes.as_ref().map(|causes| {
                causes
                    .iter()
                    .map(|c| Cause { reason: &c.reason, message: &c.message, field: &c.field })
                    .collect()
            }),
            retry_after_seconds: d.retry_after_seconds,
        }),
        code: status.code,
    };
    // texts and numbers alone: it cannot fail
    serde_json::to_vec(&ordered).unwrap_or_default()
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_written_in_upstreams_order() {
        let error = ApiError::already_exists(&GroupResource::of("apps", "deployments"), "web");
        assert_eq!(
            String::from_utf8(status_json(&error.status())).unwrap(),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"deployments.apps \"web\" already exists","reason":"AlreadyExists","details":{"name":"web","group":"apps","kind":"deployments"},"code":409}"#
        );
        let cause = FieldError::required(&crate::Path::new("spec").child("selector"), "");
        let error = ApiError::invalid(&GroupVersionKind::of("apps", "v1", "Deployment"), "web", &[cause]);
        let json = String::from_utf8(status_json(&error.retry_after(3).status())).unwrap();
        assert!(
            json.ends_with(
                r#""causes":[{"reason":"FieldValueRequired","message":"Required value","field":"spec.selector"}],"retryAfterSeconds":3},"code":422}"#
            ),
            "{json}"
        );
    }
}
