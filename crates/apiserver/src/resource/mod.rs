//! The generic verbs over a kind: what upstream's endpoint handlers and registry store do.
//!
//! Order of a write, as upstream's: decode, default, mutating admission, strategy and validation, validating
//! admission, store. Reads hand out the cache's bytes.

pub mod adapt;
pub mod admission_hook;
pub(crate) mod body;
mod create;
mod delete;
mod lookup;
mod patch;
mod read;
pub(crate) mod respond;
mod rules;
mod special;
mod update;
mod watch;

pub use admission_hook::{Admission, AdmitAll, Attributes, Operation, Warnings};
pub use lookup::Lookup;
pub use respond::{any, failure, full, response, status};
pub use special::services::ServiceConfig;

use crate::cache::{Cache, Entry, ResourceCache};
use crate::negotiate::{Accepted, accepted};
use crate::options::Query;
use crate::request::{Context, Request, Response};
use crate::table::IncludeObject;
use bytes::Bytes;
use kinds::{AnyKind, Info, Object, Scope, SubresourceForm};
use meta::{ApiError, GroupResource, GroupVersionResource, Time};
use respond::Form;
use std::collections::HashMap;
use std::sync::Arc;
use store::{Store, StoreError};

/// What the request path is configured with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The clock: the simulation has its own.
    pub now: fn() -> Time,
    pub services: ServiceConfig,
    /// How long events live.
    pub event_ttl: std::time::Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            now: Time::now,
            services: ServiceConfig::default(),
            event_ttl: std::time::Duration::from_secs(3600),
        }
    }
}

/// A resource as a path names it.
pub(crate) struct Target {
    pub kind: &'static dyn AnyKind,
    pub info: &'static Info,
    pub gvr: GroupVersionResource,
    pub gr: GroupResource,
    pub cache: Arc<ResourceCache>,
}

impl Target {
    /// Served in another kind than what is stored (events.k8s.io over events).
    pub fn is_view(&self) -> bool {
        self.info.gvk != self.cache.kind.info().gvk
    }

    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.gr.group == group && self.gr.resource == plural
    }

    /// An entry's JSON in the kind of this target.
    pub fn json(&self, entry: &Entry) -> Bytes {
        if self.is_view() { entry.other_view(special::events::to_view).clone() } else { entry.json_bytes() }
    }
}

/// Every stored resource, its verbs and what they stand on.
pub struct Resources {
    pub(crate) cache: Arc<Cache>,
    targets: HashMap<&'static str, Vec<Arc<Target>>>,
    admission: Arc<dyn Admission>,
    pub(crate) config: Config,
    lookup: Lookup,
    services: Arc<special::services::Allocator>,
}

impl Resources {
    /// Fills the cache from the store and serves `kinds` from it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(
        store: Arc<dyn Store>,
        kinds: &[&'static dyn AnyKind],
        admission: Arc<dyn Admission>,
        config: Config,
    ) -> Result<Arc<Self>, StoreError> {
        let cache = Cache::start(store, kinds).await?;
        Ok(Self::over(cache, kinds, admission, config))
    }

    /// As [`start`](Self::start), over a cache that others already read (authorizers, admission).
    pub fn over(
        cache: Arc<Cache>,
        kinds: &[&'static dyn AnyKind],
        admission: Arc<dyn Admission>,
        config: Config,
    ) -> Arc<Self> {
        let mut targets: HashMap<&'static str, Vec<Arc<Target>>> = HashMap::new();
        let mut storage: HashMap<&'static str, Vec<(String, &'static str)>> = HashMap::new();
        for kind in kinds {
            let info = kind.info();
            let resource = cache.resource(info.storage).expect("the cache was started with the same kinds");
            let gr = GroupResource { group: info.gvk.group.clone(), resource: info.names.plural.into() };
            let groups = storage.entry(info.names.plural).or_default();
            groups.push((info.gvk.group.to_string(), info.storage));
            targets.entry(info.names.plural).or_default().push(Arc::new(Target {
                kind: *kind,
                info,
                gvr: GroupVersionResource {
                    group: info.gvk.group.clone(),
                    version: info.gvk.version.clone(),
                    resource: info.names.plural.into(),
                },
                gr,
                cache: resource.clone(),
            }));
        }
        let lookup = Lookup::new(cache.clone(), storage);
        let services =
            Arc::new(special::services::Allocator::new(&config.services, lookup.clone(), config.now));
        Arc::new(Self { cache, targets, admission, config, lookup, services })
    }

    /// Makes the record of cluster IPs and node ports agree with the services that are stored, before the first write.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn repair_services(&self) -> Result<(), ApiError> {
        self.services.start().await
    }

    /// The configured ranges of cluster IPs, in CIDR notation.
    pub fn service_ranges(&self) -> Vec<String> {
        self.config.services.cluster_ip_ranges.iter().map(|(ip, bits)| format!("{ip}/{bits}")).collect()
    }

    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    pub fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    pub(crate) fn target(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Target>> {
        self.targets.get(plural)?.iter().find(|t| t.gvr.group == group && t.gvr.version == version)
    }

    /// Whether a resource is served here.
    pub fn serves(&self, group: &str, version: &str, plural: &str) -> bool {
        self.target(group, version, plural).is_some()
    }

    /// Serves a request of a stored resource: `context.info` names verb, resource and subresource.
    pub async fn handle(self: &Arc<Self>, context: Context, request: Request) -> Response {
        // A service's addresses are given back when its write fails. A client that hangs up must not make a write
        // look failed that is under way, so such a request is carried to its end.
        let allocates = context.info.resource == "services"
            && !matches!(context.info.verb.as_str(), "get" | "list" | "watch");
        if !allocates {
            return self.answer(context, request).await;
        }
        let resources = self.clone();
        let carried = tokio::spawn(async move { resources.answer(context, request).await }).await;
        carried.unwrap_or_else(|e| failure(&Accepted::JSON, &ApiError::internal(e)))
    }

    async fn answer(&self, context: Context, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let query = Query::of(&parts.uri);
        let accepted = match accepted(&parts.headers, query.flag("pretty")) {
            Ok(accepted) => accepted,
            Err(error) => return failure(&Accepted::JSON, &error),
        };
        let info = &context.info;
        if info.group.is_empty() && info.resource == "bindings" && info.verb == "create" {
            return match self.target("", "v1", "pods") {
                Some(pods) => {
                    self.call(pods, &context, &parts, &query, &accepted, "binding").binding(body).await
                }
                None => Err(ApiError::page_not_found()),
            }
            .unwrap_or_else(|e| failure(&accepted, &e));
        }
        let Some(target) = self.target(&info.group, &info.version, &info.resource) else {
            return failure(&accepted, &ApiError::page_not_found());
        };
        let call = self.call(target, &context, &parts, &query, &accepted, &info.subresource);
        let answer = call.serve(body).await;
        let mut response = answer.unwrap_or_else(|e| failure(&accepted, &e));
        let mut warnings = call.warnings.take();
        if let Some(deprecated) = respond::deprecation(&target.info.gvk) {
            warnings.insert(0, deprecated);
        }
        if !warnings.is_empty() {
            respond::add_warnings(&mut response, warnings);
        }
        response
    }

    fn call<'a>(
        &'a self,
        target: &'a Target,
        context: &'a Context,
        parts: &'a http::request::Parts,
        query: &'a Query<'a>,
        accepted: &'a Accepted,
        subresource: &'a str,
    ) -> Call<'a> {
        let cluster = target.info.scope == Scope::Cluster;
        Call {
            resources: self,
            target,
            context,
            parts,
            query,
            accepted,
            namespace: if cluster { "" } else { &context.info.namespace },
            name: &context.info.name,
            subresource,
            warnings: Warnings::default(),
            now: truncate((self.config.now)()),
        }
    }
}

/// Times in objects have whole seconds.
pub(crate) fn truncate(time: Time) -> Time {
    Time::from_second(time.as_second()).unwrap_or(time)
}

/// One request under way.
pub(crate) struct Call<'a> {
    resources: &'a Resources,
    target: &'a Target,
    context: &'a Context,
    parts: &'a http::request::Parts,
    query: &'a Query<'a>,
    accepted: &'a Accepted,
    /// Empty for cluster scope.
    namespace: &'a str,
    name: &'a str,
    subresource: &'a str,
    warnings: Warnings,
    now: Time,
}

impl Call<'_> {
    async fn serve(&self, body: crate::request::Body) -> Result<Response, ApiError> {
        let verb = self.context.info.verb.as_str();
        if self.subresource.is_empty() {
            return match verb {
                "create" => self.create(body).await,
                "get" => self.get().await,
                "list" => self.list().await,
                "watch" => self.watch().await,
                "update" => self.update(body).await,
                "patch" => self.patch(body).await,
                "delete" => self.delete(body).await,
                "deletecollection" => self.delete_collection(body).await,
                _ => Err(ApiError::method_not_allowed(&self.target.gr, verb)),
            };
        }
        let declared = self.target.info.subresources.iter().find(|s| s.name == self.subresource);
        let Some(declared) = declared else { return Err(ApiError::page_not_found()) };
        match (declared.form, self.subresource, verb) {
            (SubresourceForm::Status | SubresourceForm::Part, _, "get") => self.get().await,
            (SubresourceForm::Status | SubresourceForm::Part, _, "update") => self.update(body).await,
            (SubresourceForm::Status | SubresourceForm::Part, _, "patch") => self.patch(body).await,
            (SubresourceForm::Scale, _, "get") => self.get_scale().await,
            (SubresourceForm::Scale, _, "update") => self.update_scale(body).await,
            (SubresourceForm::Scale, _, "patch") => self.patch_scale(body).await,
            (SubresourceForm::Connect, "binding", "create") => self.binding(body).await,
            (SubresourceForm::Connect, "eviction", "create") => self.eviction(body).await,
            (SubresourceForm::Connect, _, _) => Err(ApiError::page_not_found()),
            _ => Err(ApiError::method_not_allowed(&self.target.gr, verb)),
        }
    }

    fn form(&self) -> Result<Form<'_>, ApiError> {
        let include = IncludeObject::parse(self.query.get("includeObject").unwrap_or(""))?;
        Ok(Form { accepted: self.accepted, include, info: self.target.info, now: self.now })
    }

    /// The answer with one object.
    fn respond(&self, code: u16, entry: &Entry) -> Result<Response, ApiError> {
        self.form()?.object(code, entry, self.target.json(entry))
    }

    fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.target.gr, self.name)
    }

    /// A call for another object, within this request.
    fn on<'b>(
        &'b self,
        target: &'b Target,
        namespace: &'b str,
        name: &'b str,
        subresource: &'b str,
    ) -> Call<'b> {
        Call {
            resources: self.resources,
            target,
            context: self.context,
            parts: self.parts,
            query: self.query,
            accepted: self.accepted,
            namespace,
            name,
            subresource,
            warnings: Warnings::default(),
            now: self.now,
        }
    }

    /// The namespace that admission is told: a namespace is in itself.
    fn admission_namespace<'b>(&'b self, name: &'b str) -> &'b str {
        if self.target.is("", "namespaces") { name } else { self.namespace }
    }

    fn attributes<'b>(
        &'b self,
        operation: Operation,
        name: &'b str,
        dry_run: bool,
        old: Option<&'b Object>,
    ) -> Attributes<'b> {
        Attributes {
            operation,
            kind: &self.target.info.gvk,
            resource: &self.target.gvr,
            subresource: self.subresource,
            namespace: self.admission_namespace(name),
            name,
            user: &self.context.user,
            dry_run,
            old,
            lookup: &self.resources.lookup,
            warnings: &self.warnings,
        }
    }

    async fn admit(
        &self,
        operation: Operation,
        name: &str,
        dry_run: bool,
        old: Option<&Object>,
        object: Option<&mut Object>,
    ) -> Result<(), ApiError> {
        if !self.resources.admission.handles(operation, &self.target.gvr, self.subresource) {
            return Ok(());
        }
        self.resources.admission.admit(&self.attributes(operation, name, dry_run, old), object).await
    }

    async fn validate(
        &self,
        operation: Operation,
        name: &str,
        dry_run: bool,
        old: Option<&Object>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        if !self.resources.admission.handles(operation, &self.target.gvr, self.subresource) {
            return Ok(());
        }
        self.resources.admission.validate(&self.attributes(operation, name, dry_run, old), object).await
    }
}

/// What a [`StoreError`] is to the client of a write; a conflict is decided by the caller.
pub(crate) fn write_failure(error: &StoreError) -> ApiError {
    match error {
        StoreError::TooLarge { .. } => {
            ApiError::new(meta::Reason::RequestEntityTooLarge, format!("Request entity too large: {error}"))
        }
        other => crate::cache::store_failure(other),
    }
}

#[cfg(test)]
mod tests;
