//! The front: who asks, may they, and which handler answers. One path for requests over TLS and in memory.

mod admission;
mod audit;
pub mod authenticate;
mod coalesce;
mod component_status;
mod discovery;
mod health;
mod html;
mod indexes;
mod kubelet;
mod limits;
mod metrics;
mod objects;
mod openapi;
mod openapi_proto;
mod proxy;
mod quota;
mod respond;
mod serve;
mod virtual_reviews;
mod virtual_token;

pub use admission::Chain;
pub use audit::Log as AuditLog;
pub use authenticate::Peer;
pub use component_status::Components;
pub use health::{VERSION, platform};
pub use indexes::{Objects, start as start_indexes};
pub use kubelet::Kubelets;
pub use objects::Endpoint;
pub use quota::Quotas;
pub use serve::{Tls, TlsError, serve};

use crate::request::{Context, Request, RequestInfo, Response};
use crate::resource::Resources;
use auth::{Attributes, Authorizer, User, Verdict};
use authenticate::Tokens;
use discovery::{Discovery, Resource};
use futures::FutureExt;
use health::Health;
use http::{HeaderValue, Method, StatusCode, header};
use kinds::AnyKind;
use kinds::component_status::COMPONENT_STATUS;
use limits::InFlight;
use meta::{ApiError, GroupResource, GroupVersionKind, Time};
use metrics::Metrics;
use openapi::OpenApi;
use serde_json::json;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest user agent that is kept, in bytes (as upstream's default field manager).
const MAX_AGENT_BYTES: usize = 128;
/// How long the store may take to say its revision before it counts as down.
const STORE_CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Everything a request meets on its way.
pub struct Front {
    pub resources: Arc<Resources>,
    pub authorizer: Arc<Authorizer>,
    pub tokens: Tokens,
    pub objects: Objects,
    pub health: Health,
    pub components: Components,
    pub kubelets: Kubelets,
    pub anonymous: bool,
    discovery: Discovery,
    openapi: OpenApi,
    metrics: Metrics,
    in_flight: InFlight,
    audit: Option<AuditLog>,
    now: fn() -> Time,
}

/// What a front is made of.
pub struct Parts {
    pub resources: Arc<Resources>,
    pub authorizer: Arc<Authorizer>,
    pub tokens: Tokens,
    pub objects: Objects,
    pub kubelets: Kubelets,
    pub anonymous: bool,
    pub audit: Option<AuditLog>,
    /// `host:port`, for discovery.
    pub address: String,
    pub now: fn() -> Time,
}

fn method_not_allowed(info: &RequestInfo) -> ApiError {
    let resource = GroupResource { group: info.group.clone().into(), resource: info.resource.clone().into() };
    ApiError::method_not_allowed(&resource, &info.verb)
}

/// Everything that is served, for discovery and OpenAPI.
fn served() -> Vec<Resource> {
    let mut all: Vec<Resource> = kinds::ALL.iter().map(|k| Resource::of(k.info())).collect();
    all.extend(virtual_reviews::resources());
    all.push(Resource { verbs: vec!["get", "list"], stored: false, ..Resource::of(COMPONENT_STATUS.info()) });
    if !all.iter().any(|r| r.plural == "bindings") {
        all.push(Resource::answered(
            GroupVersionKind::of("", "v1", "Binding"),
            "bindings",
            true,
            &["create"],
        ));
    }
    all
}

impl Front {
    pub fn new(parts: Parts) -> Self {
        let served = served();
        Self {
            discovery: Discovery::new(&served, &parts.address),
            openapi: OpenApi::new(&served),
            resources: parts.resources,
            authorizer: parts.authorizer,
            tokens: parts.tokens,
            objects: parts.objects,
            health: Health::default(),
            components: Components::default(),
            kubelets: parts.kubelets,
            anonymous: parts.anonymous,
            metrics: Metrics::default(),
            in_flight: InFlight::default(),
            audit: parts.audit,
            now: parts.now,
        }
    }

    /// Answers a request, whatever happens: a panic of a handler is its own request's failure.
    pub async fn handle(&self, peer: &Peer, request: Request) -> Response {
        let began = Instant::now();
        let head = request.method() == Method::HEAD;
        let mut record = self.audit.as_ref().map(|_| audit::Record::of(&request, (self.now)()));
        let answer = AssertUnwindSafe(self.try_handle(peer, request, &mut record)).catch_unwind().await;
        let (info, mut response) = match answer {
            Ok((info, Ok(response))) => (info, response),
            Ok((info, Err(error))) => (info, respond::error(&error)),
            Err(panic) => {
                let why = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
                let why = why.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                tracing::error!(why, "a request's handler panicked");
                self.metrics.panics.inc();
                let error = ApiError::internal("the request's handler failed unexpectedly");
                (Arc::default(), respond::error(&error))
            }
        };
        self.metrics.observe(&info, response.status().as_u16(), began.elapsed());
        if let (Some(log), Some(record)) = (&self.audit, &record) {
            log.write(record, &info, response.status().as_u16(), (self.now)());
        }
        let headers = response.headers_mut();
        if !headers.contains_key(header::CACHE_CONTROL) {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        }
        if head {
            *response.body_mut() = respond::empty();
        }
        response
    }

    async fn try_handle(
        &self,
        peer: &Peer,
        mut request: Request,
        record: &mut Option<audit::Record>,
    ) -> (Arc<RequestInfo>, Result<Response, ApiError>) {
        let uri = request.uri();
        let parsed = match RequestInfo::parse(request.method(), uri.path(), uri.query().unwrap_or("")) {
            Ok(parsed) => parsed,
            Err(bad) => return (Arc::default(), Err(ApiError::internal(bad))),
        };
        let info = Arc::new(parsed.info);
        let now = (self.now)();
        let user = match self.identify(peer, &request, now, record) {
            Ok(user) => user,
            Err(error) => return (info, Err(error)),
        };
        let allowed = self.authorize(&user, &info, parsed.field_selector);
        if let Some(record) = record {
            record.allowed = Some(allowed.is_ok());
        }
        if let Err(error) = allowed {
            return (info, Err(error));
        }
        request.headers_mut().remove(header::AUTHORIZATION);
        let context = Context { info: info.clone(), agent: agent(&request), user };
        let answer = self.dispatch(context, request, now).await;
        (info, answer)
    }

    fn identify(
        &self,
        peer: &Peer,
        request: &Request,
        now: Time,
        record: &mut Option<audit::Record>,
    ) -> Result<Arc<User>, ApiError> {
        let headers = request.headers();
        let user = authenticate::authenticate(peer, headers, &self.tokens, self.anonymous, now)?;
        if let Some(record) = record {
            record.user = Some(user.clone());
        }
        let Some(other) = authenticate::impersonate(headers, &user, &self.authorizer)? else {
            return Ok(user);
        };
        let other = Arc::new(other);
        if let Some(record) = record {
            record.acts_as = Some(other.clone());
        }
        Ok(other)
    }

    fn authorize(&self, user: &User, info: &RequestInfo, field_selector: String) -> Result<(), ApiError> {
        if user.in_group(User::MASTERS) {
            return Ok(());
        }
        let attributes = Attributes {
            verb: info.verb.clone(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            is_resource: info.is_resource,
            path: info.path.clone(),
            field_selector,
        };
        let decision = self.authorizer.authorize(user, &attributes);
        if decision.verdict == Verdict::Allow {
            return Ok(());
        }
        tracing::debug!(user = user.name, verb = info.verb, path = info.path, "forbidden");
        Err(auth::forbidden(user, &attributes, &decision.reason))
    }

    async fn dispatch(&self, context: Context, request: Request, now: Time) -> Result<Response, ApiError> {
        if !context.info.is_resource {
            self.look_at_store(request.uri().path()).await;
            return self.answer_path(&request);
        }
        if context.info.is_long_running() {
            return self.answer_resource(context, request, now).await;
        }
        let mutating = context.info.is_mutating();
        let Some(_place) = self.in_flight.enter(&context.user).await else {
            self.metrics.rejected.inc();
            return Err(limits::too_many());
        };
        self.metrics.in_flight(mutating, 1);
        let limit = limits::deadline(request.uri().query().unwrap_or(""));
        let answer = tokio::time::timeout(limit, self.answer_resource(context, request, now)).await;
        self.metrics.in_flight(mutating, -1);
        answer.unwrap_or_else(|_| Err(limits::timed_out()))
    }

    async fn answer_resource(
        &self,
        context: Context,
        request: Request,
        now: Time,
    ) -> Result<Response, ApiError> {
        let info = context.info.clone();
        if virtual_reviews::serves(&info.group, &info.version, &info.resource) {
            return virtual_reviews::handle(self, &context, request, now).await;
        }
        if component_status::serves(&info.group, &info.version, &info.resource) {
            return component_status::handle(self, &context, request, now).await;
        }
        match (info.group.as_str(), info.resource.as_str(), info.subresource.as_str()) {
            ("", "serviceaccounts", "token") => virtual_token::handle(self, &context, request, now).await,
            ("", "pods", "log" | "exec" | "attach" | "portforward") => {
                kubelet::handle(self, &context, request).await
            }
            ("", "pods" | "services" | "nodes", "proxy") => proxy::handle(self, &context, request).await,
            ("", "pods" | "services" | "nodes", "") if info.verb == "proxy" => {
                proxy::handle(self, &context, request).await
            }
            _ => Ok(self.resources.handle(context, request).await),
        }
    }

    /// Before an answer about health: whether the store answers now.
    pub(super) async fn look_at_store(&self, path: &str) {
        if !["/readyz", "/livez", "/healthz"].iter().any(|p| path.starts_with(p)) {
            return;
        }
        let store = self.resources.cache().store();
        let why = match tokio::time::timeout(STORE_CHECK_TIMEOUT, store.revision()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the store does not answer".to_owned()),
        };
        *self.health.store.write() = why;
    }

    /// Paths that are no resources.
    fn answer_path(&self, request: &Request) -> Result<Response, ApiError> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(ApiError::new(
                meta::Reason::MethodNotAllowed,
                "the server does not allow this method on the requested resource",
            ));
        }
        let uri = request.uri();
        let path = uri.path();
        if let Some(response) = self.health.answer(path, uri.query().unwrap_or("")) {
            return Ok(response);
        }
        match path {
            "/" | "/index.html" => Ok(respond::json(StatusCode::OK, &json!({"paths": self.paths()}))),
            "/version" | "/version/" => Ok(respond::json(StatusCode::OK, health::version())),
            "/metrics" => Ok(self.metrics.answer()),
            "/openid/v1/jwks" | "/openid/v1/jwks/" => {
                let keys = self.tokens.signer.jwks().to_string();
                Ok(respond::bytes(StatusCode::OK, "application/jwk-set+json", keys))
            }
            "/.well-known/openid-configuration" | "/.well-known/openid-configuration/" => {
                let issuer = auth::token::ISSUER;
                let document = json!({
                    "issuer": issuer,
                    "jwks_uri": format!("{issuer}/openid/v1/jwks"),
                    "response_types_supported": ["id_token"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"],
                });
                Ok(respond::json(StatusCode::OK, &document))
            }
            _ if path.starts_with("/openapi/") => {
                self.openapi.answer(request).ok_or_else(ApiError::page_not_found)
            }
            _ => discovery::answer(&self.discovery, request),
        }
    }

    /// What `/` lists.
    fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = [
            "/.well-known/openid-configuration",
            "/api",
            "/apis",
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned)
        .to_vec();
        for (group, version) in &self.discovery.versions {
            if group.is_empty() {
                paths.push(format!("/api/{version}"));
            } else {
                paths.extend([format!("/apis/{group}"), format!("/apis/{group}/{version}")]);
            }
        }
        paths.sort();
        paths.dedup();
        paths
    }
}

/// The user agent up to the first slash: the default field manager.
fn agent(request: &Request) -> String {
    let text = request.headers().get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let first = text.split('/').next().unwrap_or("");
    first.chars().filter(|c| !c.is_control()).take(MAX_AGENT_BYTES).collect()
}
