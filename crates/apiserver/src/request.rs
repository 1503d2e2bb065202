//! What a request asks for, in the API's terms; shared by the front and the generic verbs.

use auth::User;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use std::sync::Arc;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Request and response bodies, in memory and over TLS alike.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
pub type Request = http::Request<Body>;
pub type Response = http::Response<Body>;

/// Bound of a request body in bytes, as upstream's `MaxRequestBodyBytes`.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// A path and method in the API's terms (upstream's `RequestInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub is_resource: bool,
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`; for other
    /// paths the method in lower case.
    pub verb: String,
    pub group: String,
    pub version: String,
    /// Empty for cluster scope (and for a list over all namespaces).
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// Path segments after the subresource (proxy paths).
    pub rest: Vec<String>,
}

/// Everything the verbs need to know of who asks; made by the front after authentication and authorization.
#[derive(Clone, Debug)]
pub struct Context {
    pub info: Arc<RequestInfo>,
    pub user: Arc<User>,
    /// From the User-Agent header up to the first slash; the default field manager.
    pub agent: String,
}
