//! Questions posed as objects: who is this token, may they, what may I (authentication.k8s.io/v1 and
//! authorization.k8s.io/v1). Nothing is stored.

use super::discovery::Resource;
use crate::front::Front;
use crate::negotiate;
use crate::request::{Context, Request, Response};
use crate::resource::{body, respond};
use auth::token::TokenError;
use auth::{Attributes, Decision, User, Verdict};
use k8s_openapi::api::authentication::v1::{
    SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, TokenReviewStatus, UserInfo,
};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, NonResourceAttributes, NonResourceRule, ResourceAttributes, ResourceRule,
    SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview, SubjectAccessReviewSpec,
    SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};
use meta::{ApiError, FieldError, GroupVersionKind, Path, Time};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// For discovery.
pub fn resources() -> Vec<Resource> {
    let one = |group, kind, plural, namespaced| {
        Resource::answered(GroupVersionKind::of(group, "v1", kind), plural, namespaced, &["create"])
    };
    vec![
        one(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", false),
        one(AUTHENTICATION, "TokenReview", "tokenreviews", false),
        one(AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews", true),
        one(AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews", false),
        one(AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews", false),
        one(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", false),
    ]
}

pub fn serves(group: &str, version: &str, resource: &str) -> bool {
    version == "v1"
        && matches!(
            (group, resource),
            (AUTHENTICATION, "selfsubjectreviews" | "tokenreviews")
                | (
                    AUTHORIZATION,
                    "localsubjectaccessreviews"
                        | "selfsubjectaccessreviews"
                        | "selfsubjectrulesreviews"
                        | "subjectaccessreviews"
                )
        )
}

/// # Errors
/// MethodNotAllowed for anything but create; what is wrong with the object.
pub async fn handle(
    front: &Front,
    context: &Context,
    request: Request,
    now: Time,
) -> Result<Response, ApiError> {
    let info = &context.info;
    if info.verb != "create" || !info.name.is_empty() {
        return Err(super::method_not_allowed(info));
    }
    let (parts, content) = request.into_parts();
    let accepted = negotiate::accepted_without_table(&parts.headers)?;
    let json = body::to_json(negotiate::content_encoding(&parts.headers)?, body::read(content).await?)?;
    let user = &context.user;
    match info.resource.as_str() {
        "tokenreviews" => {
            let mut review: TokenReview = decode(AUTHENTICATION, "TokenReview", &json)?;
            review.status = Some(token_review(front, &review, now)?);
            respond::any(&accepted, 201, &review)
        }
        "selfsubjectreviews" => {
            let mut review: SelfSubjectReview = decode(AUTHENTICATION, "SelfSubjectReview", &json)?;
            review.metadata.creation_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
            review.status = Some(SelfSubjectReviewStatus { user_info: Some(user_info(user)) });
            respond::any(&accepted, 201, &review)
        }
        "selfsubjectaccessreviews" => {
            let kind = "SelfSubjectAccessReview";
            let mut review: SelfSubjectAccessReview = decode(AUTHORIZATION, kind, &json)?;
            let spec = &review.spec;
            let attributes = attributes(
                kind,
                spec.resource_attributes.as_ref(),
                spec.non_resource_attributes.as_ref(),
                Vec::new(),
            )?;
            review.status = Some(access(front, user, &attributes));
            respond::any(&accepted, 201, &review)
        }
        "subjectaccessreviews" => {
            let mut review: SubjectAccessReview = decode(AUTHORIZATION, "SubjectAccessReview", &json)?;
            let (user, attributes) = subject("SubjectAccessReview", &review.spec)?;
            review.status = Some(access(front, &user, &attributes));
            respond::any(&accepted, 201, &review)
        }
        "localsubjectaccessreviews" => {
            let kind = "LocalSubjectAccessReview";
            let mut review: LocalSubjectAccessReview = decode(AUTHORIZATION, kind, &json)?;
            let (user, attributes) = subject(kind, &review.spec)?;
            if attributes.namespace != info.namespace {
                return Err(ApiError::bad_request(format!(
                    "spec.resourceAttributes.namespace must match namespace: {}",
                    info.namespace
                )));
            }
            review.status = Some(access(front, &user, &attributes));
            respond::any(&accepted, 201, &review)
        }
        _ => {
            let mut review: SelfSubjectRulesReview = decode(AUTHORIZATION, "SelfSubjectRulesReview", &json)?;
            let namespace = review.spec.namespace.clone().unwrap_or_default();
            if namespace.is_empty() {
                return Err(ApiError::bad_request("no namespace on request"));
            }
            review.status = Some(rules(front, user, &namespace));
            respond::any(&accepted, 201, &review)
        }
    }
}

fn decode<T: DeserializeOwned>(group: &'static str, kind: &'static str, json: &[u8]) -> Result<T, ApiError> {
    body::plain(&GroupVersionKind::of(group, "v1", kind), json)
}

fn user_info(user: &User) -> UserInfo {
    UserInfo {
        username: Some(user.name.clone()),
        uid: Some(user.uid.clone()).filter(|u| !u.is_empty()),
        groups: Some(user.groups.clone()).filter(|g| !g.is_empty()),
        extra: Some(user.extra.clone()).filter(|e| !e.is_empty()),
    }
}

fn token_review(front: &Front, review: &TokenReview, now: Time) -> Result<TokenReviewStatus, ApiError> {
    let bearer = review.spec.token.as_str();
    if bearer.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let asked = review.spec.audiences.clone().filter(|a| !a.is_empty());
    let audiences = asked.unwrap_or_else(|| front.tokens.audiences.clone());
    Ok(match front.tokens.user(bearer, &audiences, now) {
        Ok((user, matched)) => TokenReviewStatus {
            authenticated: Some(true),
            user: Some(user_info(&user)),
            audiences: Some(matched),
            error: None,
        },
        Err(error) => {
            let text = match error {
                TokenError::Refused(why) => format!("[invalid bearer token, {why}]"),
                _ => "invalid bearer token".to_owned(),
            };
            TokenReviewStatus {
                authenticated: Some(false),
                error: Some(text),
                ..TokenReviewStatus::default()
            }
        }
    })
}

/// What a review asks about; `others`: errors found before.
fn attributes(
    kind: &'static str,
    resource: Option<&ResourceAttributes>,
    path: Option<&NonResourceAttributes>,
    mut errors: Vec<FieldError>,
) -> Result<Attributes, ApiError> {
    let spec = Path::new("spec");
    let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
    match (resource, path) {
        (Some(_), Some(_)) => errors.push(FieldError::invalid(
            &spec.child("nonResourceAttributes"),
            "NonResourceAttributes",
            "cannot be specified in combination with resourceAttributes",
        )),
        (None, None) => {
            errors.push(FieldError::invalid(&spec.child("resourceAttributes"), "ResourceAttributes", detail))
        }
        _ => {}
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(&GroupVersionKind::of(AUTHORIZATION, "v1", kind), "", &errors));
    }
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    Ok(match (resource, path) {
        (Some(r), _) => Attributes {
            verb: text(&r.verb),
            group: text(&r.group),
            version: r.version.clone().filter(|v| !v.is_empty()).unwrap_or_else(|| "*".into()),
            resource: text(&r.resource),
            subresource: text(&r.subresource),
            namespace: text(&r.namespace),
            name: text(&r.name),
            is_resource: true,
            path: String::new(),
            field_selector: r.field_selector.as_ref().map(field_selector).unwrap_or_default(),
        },
        (None, path) => Attributes {
            verb: path.map(|p| text(&p.verb)).unwrap_or_default(),
            path: path.map(|p| text(&p.path)).unwrap_or_default(),
            ..Attributes::default()
        },
    })
}

fn field_selector(s: &k8s_openapi::api::authorization::v1::FieldSelectorAttributes) -> String {
    if let Some(raw) = s.raw_selector.as_ref().filter(|r| !r.is_empty()) {
        return raw.clone();
    }
    let terms: Vec<String> = s
        .requirements
        .iter()
        .flatten()
        .filter(|r| r.operator == "In")
        .filter_map(|r| match r.values.as_deref() {
            Some([one]) => Some(format!("{}={one}", r.key)),
            _ => None,
        })
        .collect();
    terms.join(",")
}

fn subject(kind: &'static str, spec: &SubjectAccessReviewSpec) -> Result<(User, Attributes), ApiError> {
    let mut errors = Vec::new();
    let name = spec.user.clone().unwrap_or_default();
    let groups = spec.groups.clone().unwrap_or_default();
    if name.is_empty() && groups.is_empty() {
        errors.push(FieldError::invalid(
            &Path::new("spec").child("user"),
            "",
            "at least one of user or group must be specified",
        ));
    }
    let attributes =
        attributes(kind, spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref(), errors)?;
    let extra: BTreeMap<String, Vec<String>> = spec.extra.clone().unwrap_or_default();
    Ok((User { name, uid: spec.uid.clone().unwrap_or_default(), groups, extra }, attributes))
}

fn access(front: &Front, user: &User, attributes: &Attributes) -> SubjectAccessReviewStatus {
    let Decision { verdict, reason } = front.authorizer.authorize(user, attributes);
    SubjectAccessReviewStatus {
        allowed: verdict == Verdict::Allow,
        denied: (verdict == Verdict::Deny).then_some(true),
        reason: Some(reason).filter(|r| !r.is_empty()),
        evaluation_error: None,
    }
}

fn rules(front: &Front, user: &User, namespace: &str) -> SubjectRulesReviewStatus {
    let (rules, missing) = front.authorizer.rbac.read().rules_for(user, namespace);
    let mut status = SubjectRulesReviewStatus::default();
    // The masters' authorizer stands before RBAC, whose cluster-admin binding says the same.
    for rule in rules {
        if rule.resources.as_ref().is_some_and(|r| !r.is_empty()) {
            status.resource_rules.push(ResourceRule {
                verbs: rule.verbs.clone(),
                api_groups: rule.api_groups.clone(),
                resources: rule.resources.clone(),
                resource_names: rule.resource_names.clone(),
            });
        }
        if rule.non_resource_urls.as_ref().is_some_and(|u| !u.is_empty()) {
            status
                .non_resource_rules
                .push(NonResourceRule { verbs: rule.verbs, non_resource_urls: rule.non_resource_urls });
        }
    }
    let mut problems = missing;
    if auth::node::node_name(user).is_some() {
        status.incomplete = true;
        problems.push("node authorizer does not support user rule resolution".to_owned());
    }
    status.evaluation_error = Some(problems.join(", ")).filter(|p| !p.is_empty());
    status
}
