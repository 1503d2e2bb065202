//! Requests, limits and resource claims.

use super::validate::Context;
use super::{refuse_each, required};
use crate::resources::{At, check_amount, check_container_name, check_name, is_overcommit_allowed};
use k8s_openapi::api::core::v1::{PodResourceClaim, PodSpec, ResourceClaim, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::pod::{container_limits, container_requests, is_pod_level_resource};
use meta::validation::{is_dns1123_label, is_dns1123_subdomain};
use meta::{FieldError, FieldErrors, Json, Path, Quantity};
use std::collections::BTreeMap;

const MIRROR_POD: &str = "kubernetes.io/config.mirror";
const HUGE_PAGES: &str = "hugepages-";

type Amounts = BTreeMap<String, ApiQuantity>;
/// Errors of the name of a resource.
type NameRule = fn(&str, At<'_>) -> FieldErrors;

fn check_pod_level_name(name: &str, at: At<'_>) -> FieldErrors {
    let mut errors = check_name(name, at);
    if errors.is_empty() && !is_pod_level_resource(name) {
        errors.push(FieldError::not_supported(&at(), name, &["cpu", HUGE_PAGES, "memory"]));
    }
    errors
}

/// The amount, if it is one that the resource can have.
fn amount(errors: &mut FieldErrors, name: &str, quantity: &ApiQuantity, at: At<'_>) -> Option<Quantity> {
    let amount = match Quantity::parse(&quantity.0) {
        Ok(amount) => amount,
        Err(why) => {
            errors.push(FieldError::invalid(&at(), &quantity.0, why.to_string()));
            return None;
        }
    };
    errors.extend(check_amount(name, amount, at));
    if let Some(size) = name.strip_prefix(HUGE_PAGES) {
        let page = Quantity::parse(size).ok().filter(|p| !p.is_zero() && !p.is_negative() && p.is_whole());
        if page.is_none_or(|p| amount.value() % p.value() != 0) {
            let why = format!("{} is not positive integer multiple of {name}", quantity.0);
            errors.push(FieldError::invalid(&at(), &quantity.0, why));
        }
    }
    Some(amount)
}

/// What a pod takes beyond its containers: as their limits.
pub(crate) fn validate_overhead(errors: &mut FieldErrors, overhead: &Amounts, path: &Path) {
    let resources = ResourceRequirements { limits: Some(overhead.clone()), ..Default::default() };
    validate_requirements(errors, &resources, check_container_name, &|| path.clone());
}

pub(super) fn validate_container_resources(
    errors: &mut FieldErrors,
    resources: &ResourceRequirements,
    context: &Context<'_>,
    path: &Path,
) {
    let at = || path.child("resources");
    validate_requirements(errors, resources, check_container_name, &at);
    if let Some(claims) = &resources.claims {
        validate_claim_names(errors, claims, &context.claims, &at().child("claims"));
    }
}

fn validate_requirements(
    errors: &mut FieldErrors,
    resources: &ResourceRequirements,
    name_rule: NameRule,
    path: At<'_>,
) {
    let empty = Amounts::new();
    let limits = resources.limits.as_ref().unwrap_or(&empty);
    let requests = resources.requests.as_ref().unwrap_or(&empty);
    for (name, quantity) in limits {
        let at = || path().child("limits").key(name);
        errors.extend(name_rule(name, &at));
        amount(errors, name, quantity, &at);
    }
    for (name, quantity) in requests {
        let at = || path().child("requests").key(name);
        errors.extend(name_rule(name, &at));
        let Some(request) = amount(errors, name, quantity, &at) else { continue };
        match limits.get(name).map(|l| (l, Quantity::parse(&l.0))) {
            Some((shown, Ok(limit))) => {
                let relation = if request != limit && !is_overcommit_allowed(name) {
                    "equal to"
                } else if request > limit {
                    "less than or equal to"
                } else {
                    continue;
                };
                let why = format!("must be {relation} {name} limit of {}", shown.0);
                errors.push(FieldError::invalid(&path().child("requests"), &quantity.0, why));
            }
            Some((_, Err(_))) => {}
            None if !is_overcommit_allowed(name) => {
                let why = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(&path().child("limits"), why));
            }
            None => {}
        }
    }
    let mut names = limits.keys().chain(requests.keys());
    let computes = |n: &String| matches!(n.as_str(), "cpu" | "memory");
    if names.clone().any(|n| n.starts_with(HUGE_PAGES)) && !names.any(computes) {
        errors.push(FieldError::forbidden(&path(), "HugePages require cpu or memory"));
    }
}

fn validate_claim_names(errors: &mut FieldErrors, claims: &[ResourceClaim], known: &[&str], path: &Path) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, claim) in claims.iter().enumerate() {
        let at = path.index(i);
        let name = claim.name.as_str();
        if name.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        let request = claim.request.as_deref().unwrap_or_default();
        if !request.is_empty() {
            refuse_each(errors, || at.child("request"), request, is_dns1123_label(request));
        }
        if seen.contains(&(name, "")) || (request.is_empty() && seen.iter().any(|(n, _)| *n == name)) {
            errors.push(FieldError::duplicate(&at, name));
        } else if seen.contains(&(name, request)) {
            errors.push(FieldError::duplicate(&at, format!("{name}/{request}")));
        }
        seen.push((name, request));
        if !known.contains(&name) {
            let mut error = FieldError::not_found(&at, name);
            let mut sorted = known.to_vec();
            sorted.sort_unstable();
            let list = if known.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", sorted.join(", "))
            };
            error.detail = format!("must be one of the names in pod.spec.resourceClaims{list}");
            errors.push(error);
        }
    }
}

pub(super) fn validate_resource_claims(
    errors: &mut FieldErrors,
    claims: &[PodResourceClaim],
    meta: Option<&ObjectMeta>,
    path: &Path,
) {
    let is_static = meta.and_then(|m| m.annotations.as_ref()).is_some_and(|a| a.contains_key(MIRROR_POD));
    for (i, claim) in claims.iter().enumerate() {
        if is_static {
            errors.push(FieldError::forbidden(&Path::new(""), "static pods do not support resource claims"));
            continue;
        }
        let at = path.index(i);
        required(errors, || at.child("name"), &claim.name);
        if !claim.name.is_empty() {
            if claims[..i].iter().any(|c| c.name == claim.name) {
                errors.push(FieldError::duplicate(&at.child("name"), &claim.name));
            } else {
                refuse_each(errors, || at.child("name"), &claim.name, is_dns1123_label(&claim.name));
            }
        }
        let why = match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => {
                Some("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
            }
            (None, None) => Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            _ => None,
        };
        errors.extend(why.map(|why| FieldError::invalid(&at, Json(claim), why)));
        let names = [
            ("resourceClaimName", &claim.resource_claim_name),
            ("resourceClaimTemplateName", &claim.resource_claim_template_name),
        ];
        for (field, name) in names {
            if let Some(name) = name {
                refuse_each(errors, || at.child(field), name, is_dns1123_subdomain(name));
            }
        }
    }
}

/// Resources of the pod as a whole (KEP-2837).
pub(super) fn validate_pod_level_resources(errors: &mut FieldErrors, spec: &PodSpec, path: &Path) {
    let Some(whole) = &spec.resources else { return };
    let path = path.child("resources");
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        errors.push(FieldError::forbidden(&path, "may not be set for a windows pod"));
        return;
    }
    if whole.claims.is_some() {
        let why = "claims may not be set for Resources at pod-level";
        errors.push(FieldError::forbidden(&path.child("claims"), why));
    }
    validate_requirements(errors, whole, check_pod_level_name, &|| path.clone());
    let empty = Amounts::new();
    let requests = whole.requests.as_ref().unwrap_or(&empty);
    let limits = whole.limits.as_ref().unwrap_or(&empty);
    for (name, sum) in container_requests(spec) {
        if let Some(request) = requests.get(&name).filter(|r| sum > Quantity::of(r)) {
            let why = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.push(FieldError::invalid(&path.child("requests").key(&name), &request.0, why));
        }
    }
    for (name, sum) in container_limits(spec).into_iter().filter(|(n, _)| n.starts_with(HUGE_PAGES)) {
        if let Some(limit) = limits.get(&name).filter(|l| sum > Quantity::of(l)) {
            let why = format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.push(FieldError::invalid(&path.child("limits").key(&name), &limit.0, why));
        }
    }
    for (i, container) in spec.containers.iter().enumerate() {
        for (name, own) in container.resources.iter().flat_map(|r| r.limits.iter().flatten()) {
            if let Some(limit) = limits.get(name).filter(|l| Quantity::of(own) > Quantity::of(l)) {
                let at = path.child("containers").index(i).key(name).child("limits");
                let why = format!("must be less than or equal to pod limits of {}", limit.0);
                errors.push(FieldError::invalid(&at, &own.0, why));
            }
        }
    }
}
