//! `serviceaccounts/token`: issues a token bound to a service account and perhaps a pod, node or secret
//! (authentication.k8s.io/v1 TokenRequest).

use super::admission::CacheWorld;
use crate::front::Front;
use crate::negotiate;
use crate::request::{Context, Request, Response};
use crate::resource::{body, respond};
use admission::node_restriction::check_token;
use auth::token::{EXTENDED_EXPIRATION_SECONDS, Issue, Ref, WARN_ONLY_EXPIRATION_SECONDS};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestStatus};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time as MetaTime};
use k8s_openapi::jiff::SignedDuration;
use meta::{ApiError, FieldError, GroupResource, GroupVersionKind, Path, Time};

const GVK: GroupVersionKind = GroupVersionKind::of("authentication.k8s.io", "v1", "TokenRequest");
const DEFAULT_EXPIRATION_SECONDS: i64 = 3600;
const MIN_EXPIRATION_SECONDS: i64 = 600;
const MAX_EXPIRATION_SECONDS: i64 = 1 << 32;

/// # Errors
/// What is wrong with the request; NotFound where the account or the bound object is not there.
pub async fn handle(
    front: &Front,
    context: &Context,
    request: Request,
    now: Time,
) -> Result<Response, ApiError> {
    let info = &context.info;
    if info.verb != "create" {
        return Err(super::method_not_allowed(info));
    }
    let (parts, content) = request.into_parts();
    let accepted = negotiate::accepted_without_table(&parts.headers)?;
    let json = body::to_json(negotiate::content_encoding(&parts.headers)?, body::read(content).await?)?;
    let mut review: TokenRequest = body::plain(&GVK, &json)?;
    if let Some(node) = auth::node::node_name(&context.user) {
        let world = CacheWorld(front.resources.lookup());
        check_token(&world, &info.namespace, node, &review)
            .map_err(|why| ApiError::forbidden(&GroupResource::of("", "serviceaccounts"), &info.name, why))?;
    }
    let id = uuid::Uuid::from_bytes(rand::random()).to_string();
    issue(front, &info.namespace, &info.name, &mut review, id, now)?;
    respond::any(&accepted, 201, &review)
}

fn must_match(given: Option<&String>, actual: &str, field: &str) -> Result<(), ApiError> {
    if let Some(given) = given.filter(|g| !g.is_empty() && *g != actual) {
        let path = Path::new("metadata").child(field);
        let detail = format!("must match the service account {field} if specified");
        return Err(ApiError::invalid(&GVK, actual, &[FieldError::invalid(&path, given, detail)]));
    }
    Ok(())
}

fn issue(
    front: &Front,
    namespace: &str,
    name: &str,
    review: &mut TokenRequest,
    id: String,
    now: Time,
) -> Result<(), ApiError> {
    must_match(review.metadata.name.as_ref(), name, "name")?;
    must_match(review.metadata.namespace.as_ref(), namespace, "namespace")?;
    let not_found =
        |resource: &'static str, name: &str| ApiError::not_found(&GroupResource::of("", resource), name);
    let account: ServiceAccount = front
        .objects
        .get("serviceaccounts", namespace, name)
        .ok_or_else(|| not_found("serviceaccounts", name))?;
    let uid = account.metadata.uid.clone().unwrap_or_default();
    if let Some(given) = review.metadata.uid.as_ref().filter(|g| !g.is_empty() && **g != uid) {
        let resource = GroupResource::of("authentication.k8s.io", "TokenRequest");
        let why = format!(
            "the UID in the token request ({given}) does not match the UID of the service account ({uid})"
        );
        return Err(ApiError::conflict(&resource, name, why));
    }
    let spec = review.spec.get_or_insert_default();
    let audiences = match spec.audiences.take().filter(|a| !a.is_empty()) {
        Some(given) => given,
        None => front.tokens.audiences.clone(),
    };
    spec.audiences = Some(audiences.clone());
    let expiration = *spec.expiration_seconds.get_or_insert(DEFAULT_EXPIRATION_SECONDS);
    let path = Path::new("spec").child("expirationSeconds");
    let out_of_range = if expiration < MIN_EXPIRATION_SECONDS {
        Some("may not specify a duration less than 10 minutes")
    } else {
        (expiration > MAX_EXPIRATION_SECONDS).then_some("may not specify a duration larger than 2^32 seconds")
    };
    if let Some(detail) = out_of_range {
        return Err(ApiError::invalid(&GVK, "", &[FieldError::invalid(&path, expiration, detail)]));
    }
    let (mut pod, mut node, mut secret) = (None, None, None);
    let reference = |meta: &ObjectMeta| Ref {
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    };
    if let Some(bound) = &spec.bound_object_ref {
        let object = bound.name.clone().unwrap_or_default();
        let kind = bound.kind.as_deref().unwrap_or_default();
        let core = bound.api_version.as_deref() == Some("v1");
        let meta = |resource: &'static str, namespace: &str| {
            let entry = front
                .objects
                .entry(resource, namespace, &object)
                .ok_or_else(|| not_found(resource, &object))?;
            Ok::<_, ApiError>(reference(entry.object()?.meta()))
        };
        let found = match kind {
            "Pod" if core => {
                let found: Pod = front
                    .objects
                    .get("pods", namespace, &object)
                    .ok_or_else(|| not_found("pods", &object))?;
                let spec = found.spec.unwrap_or_default();
                if spec.service_account_name.as_deref() != Some(name) {
                    return Err(ApiError::bad_request(format!(
                        "cannot bind token for serviceaccount {name:?} to pod running with different serviceaccount name."
                    )));
                }
                if let Some(on) = spec.node_name.filter(|n| !n.is_empty()) {
                    let known = front.objects.entry("nodes", "", &on).and_then(|e| e.object().ok());
                    let uid = known.and_then(|n| n.meta().uid.clone()).unwrap_or_default();
                    node = Some(Ref { name: on, uid });
                }
                pod.insert(reference(&found.metadata)).clone()
            }
            "Node" if core => node.insert(meta("nodes", "")?).clone(),
            "Secret" if core => secret.insert(meta("secrets", namespace)?).clone(),
            _ => {
                let api_version = bound.api_version.as_deref().unwrap_or_default();
                return Err(ApiError::bad_request(format!(
                    "cannot bind token to object of type {api_version}, Kind={kind}"
                )));
            }
        };
        if let Some(given) = bound.uid.as_ref().filter(|g| !g.is_empty() && **g != found.uid) {
            let why = format!(
                "the UID in the bound object reference ({given}) does not match the UID in record. The object might \
                 have been deleted and then recreated"
            );
            let resource = GroupResource { group: "".into(), resource: kind.to_owned().into() };
            return Err(ApiError::conflict(&resource, &object, why));
        }
    }
    // The projected volume's request: the token lives on for clients that never read it again.
    let own = audiences.iter().all(|a| front.tokens.audiences.contains(a));
    let extend = pod.is_some() && expiration == WARN_ONLY_EXPIRATION_SECONDS && own;
    let claims = Issue {
        namespace,
        account: Ref { name: name.to_owned(), uid: uid.clone() },
        audiences,
        expiration_seconds: if extend { EXTENDED_EXPIRATION_SECONDS } else { expiration },
        warn_after_seconds: extend.then_some(expiration),
        pod,
        node,
        secret,
        id,
    }
    .claims(now);
    let token = front
        .tokens
        .signer
        .sign(&claims)
        .map_err(|e| ApiError::internal(format!("failed to generate token: {e}")))?;
    review.metadata.name = Some(name.to_owned());
    review.metadata.namespace = Some(namespace.to_owned());
    review.metadata.uid = Some(uid);
    review.metadata.creation_timestamp = Some(MetaTime(now));
    let expires = now.checked_add(SignedDuration::from_secs(expiration)).unwrap_or(Time::MAX);
    review.status =
        Some(TokenRequestStatus { token: Some(token), expiration_timestamp: Some(MetaTime(expires)) });
    Ok(())
}
