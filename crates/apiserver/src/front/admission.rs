//! The admission chain as the request path runs it: the built-in plugins over the cache, and the rule that
//! nobody grants what they do not hold.

use super::quota::Quotas;
use crate::cache::FRESHNESS_TIMEOUT;
use crate::resource::{Admission, Attributes, Lookup, Operation};
use admission::{Request, World, typed};
use async_trait::async_trait;
use auth::Authorizer;
use auth::rbac::escalation::{check_binding, check_role};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding, RoleRef};
use kinds::Object;
use meta::{ApiError, GroupVersionResource, Time};
use rand::Rng;
use std::sync::Arc;

const RBAC: &str = "rbac.authorization.k8s.io";
/// Characters of generated names: no vowels, nothing that reads as another (apimachinery's `rand`).
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;

/// Every plugin, in order.
pub struct Chain {
    pub authorizer: Arc<Authorizer>,
    pub quotas: Quotas,
    pub now: fn() -> Time,
}

/// The cache as plugins see it.
pub struct CacheWorld<'a>(pub &'a Lookup);

impl World for CacheWorld<'_> {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Object> {
        self.0.get(group, resource, namespace, name)?.object().ok()
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Object> {
        self.0.list(group, resource, namespace).iter().filter_map(|e| e.object().ok()).collect()
    }
}

fn operation(o: Operation) -> admission::Operation {
    match o {
        Operation::Create => admission::Operation::Create,
        Operation::Update => admission::Operation::Update,
        Operation::Delete => admission::Operation::Delete,
        Operation::Connect => admission::Operation::Connect,
    }
}

fn suffix() -> String {
    let mut random = rand::rng();
    (0..SUFFIX_LENGTH)
        .map(|_| char::from(SUFFIX_ALPHABET[random.random_range(0..SUFFIX_ALPHABET.len())]))
        .collect()
}

/// Runs `plugins` over what the attributes say.
pub(super) fn with_request<T>(a: &Attributes<'_>, plugins: impl FnOnce(&Request<'_>) -> T) -> T {
    let world = CacheWorld(a.lookup);
    plugins(&Request {
        operation: operation(a.operation),
        resource: &a.resource.group_resource(),
        subresource: a.subresource,
        namespace: a.namespace,
        name: a.name,
        user: a.user,
        old: a.old,
        world: &world,
        suffix: &suffix(),
        warn: &|text| a.warnings.add(text),
    })
}

/// Waits for what the plugins will need and the cache may not have yet: a namespace that was made a moment
/// ago, and its default service account, which a controller makes.
async fn wait_for_needs(a: &Attributes<'_>, object: Option<&Object>) {
    if a.operation != Operation::Create || a.namespace.is_empty() {
        return;
    }
    let lookup = a.lookup;
    if lookup.get("", "namespaces", "", a.namespace).is_none() && lookup.cache().catch_up().await.is_err() {
        return;
    }
    let pod = object.and_then(typed::<Pod>).filter(|_| a.subresource.is_empty());
    let Some(pod) = pod else { return };
    let named = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).filter(|n| !n.is_empty());
    let account = named.unwrap_or(admission::DEFAULT_ACCOUNT);
    let there = || lookup.get("", "serviceaccounts", a.namespace, account).is_some();
    if there() || lookup.cache().catch_up().await.is_err() || there() || account != admission::DEFAULT_ACCOUNT
    {
        return;
    }
    if lookup.get("", "namespaces", "", a.namespace).is_none() {
        return;
    }
    let mut progress = lookup.cache().progress();
    let made = async { while !there() && progress.changed().await.is_ok() {} };
    // Who still has no account then is refused by the plugin, which says so.
    let _ = tokio::time::timeout(FRESHNESS_TIMEOUT, made).await;
}

#[async_trait]
impl Admission for Chain {
    fn handles(&self, op: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        let op = operation(op);
        resource.group == RBAC
            || admission::handles(op, &resource.group, &resource.resource, subresource)
            || admission::resource_quota::handles(op, &resource.group, &resource.resource, subresource)
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Object>) -> Result<(), ApiError> {
        wait_for_needs(attributes, object.as_deref()).await;
        with_request(attributes, |r| admission::admit(r, object))
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Object>) -> Result<(), ApiError> {
        if attributes.resource.group == RBAC
            && matches!(attributes.operation, Operation::Create | Operation::Update)
            && let Some(object) = object
        {
            self.no_escalation(attributes, object)?;
        }
        with_request(attributes, |r| admission::validate(r, object))?;
        let (op, resource) = (operation(attributes.operation), attributes.resource);
        let Some(object) = object else { return Ok(()) };
        if !admission::resource_quota::handles(
            op,
            &resource.group,
            &resource.resource,
            attributes.subresource,
        ) {
            return Ok(());
        }
        self.quotas.charge(attributes, object, (self.now)()).await
    }
}

impl Chain {
    fn no_escalation(&self, a: &Attributes<'_>, object: &Object) -> Result<(), ApiError> {
        let resource = a.resource.resource.as_ref();
        // The name of the URL, which a create has not.
        let asked = if a.operation == Operation::Create { "" } else { a.name };
        let role = |rules: &Option<Vec<_>>, aggregates: bool| {
            let rules = rules.as_deref().unwrap_or_default();
            check_role(&self.authorizer, a.user, resource, a.namespace, asked, rules, aggregates)
        };
        let gathers = |o: &Object| {
            let rule = typed::<ClusterRole>(o).and_then(|r| r.aggregation_rule.as_ref());
            rule.is_some_and(|r| r.cluster_role_selectors.as_ref().is_some_and(|s| !s.is_empty()))
        };
        let bind = |reference: &RoleRef| check_binding(&self.authorizer, a.user, a.namespace, reference);
        if a.old.is_some_and(|old| only_garbage_collection(old, object)) {
            return Ok(());
        }
        let outcome = if let Some(r) = typed::<ClusterRole>(object) {
            role(&r.rules, gathers(object) || a.old.is_some_and(gathers))
        } else if let Some(r) = typed::<Role>(object) {
            role(&r.rules, false)
        } else if let Some(b) = typed::<ClusterRoleBinding>(object) {
            bind(&b.role_ref)
        } else if let Some(b) = typed::<RoleBinding>(object) {
            bind(&b.role_ref)
        } else {
            Ok(())
        };
        let name = object.meta().name.clone().unwrap_or_default();
        outcome.map_err(|why| ApiError::forbidden(&a.resource.group_resource(), &name, why))
    }
}

/// Whether nothing but owners and finalizers differ: the garbage collector holds no roles itself.
fn only_garbage_collection(old: &Object, new: &Object) -> bool {
    let without = |o: &Object| {
        let mut o = o.clone();
        let meta = o.meta_mut();
        meta.owner_references = None;
        meta.finalizers = None;
        meta.managed_fields = None;
        meta.resource_version = None;
        o.to_value()
    };
    without(old) == without(new)
}
