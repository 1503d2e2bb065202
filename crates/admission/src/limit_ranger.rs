//! LimitRanger: a namespace's defaults and bounds of what its pods and claims ask for.

use crate::request::{typed, typed_mut};
use crate::{Mutator, Operation, Request, Validator};
use k8s_openapi::api::core::v1::{
    Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod, PodSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use kinds::Object;
use meta::pod::{Resources, is_pod_level_resource};
use meta::{ApiError, Quantity};
use std::collections::{BTreeMap, BTreeSet};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub const MUTATOR: Mutator = Mutator { name: "LimitRanger", handles: handles_pod, admit };
pub const VALIDATOR: Validator = Validator { name: "LimitRanger", handles, validate };

type ApiResources = BTreeMap<String, ApiQuantity>;

fn handles_pod(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    let resize = operation == Operation::Update && subresource == "resize";
    group.is_empty()
        && resource == "pods"
        && (resize || operation == Operation::Create && subresource.is_empty())
}

fn handles(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    let claim = group.is_empty()
        && resource == "persistentvolumeclaims"
        && subresource.is_empty()
        && matches!(operation, Operation::Create | Operation::Update);
    claim || handles_pod(operation, group, resource, subresource)
}

fn ranges(r: &Request<'_>) -> Vec<LimitRange> {
    if r.old.is_some_and(|o| o.meta().deletion_timestamp.is_some()) {
        return Vec::new();
    }
    r.all("", "limitranges", r.namespace)
}

fn limits(range: &LimitRange) -> &[LimitRangeItem] {
    range.spec.as_ref().map_or(&[], |s| &s.limits)
}

fn admit(r: &Request<'_>, object: Option<&mut Object>) -> Result<(), ApiError> {
    let Some(pod) = typed_mut::<Pod>(object) else { return Ok(()) };
    for range in ranges(r) {
        let (mut requests, mut caps) = (ApiResources::new(), ApiResources::new());
        for limit in limits(&range).iter().filter(|l| l.type_ == "Container") {
            requests.extend(limit.default_request.clone().unwrap_or_default());
            caps.extend(limit.default.clone().unwrap_or_default());
        }
        let Some(spec) = pod.spec.as_mut() else { continue };
        let mut said = Vec::new();
        for container in &mut spec.containers {
            fill(container, "container", &requests, &caps, &mut said);
        }
        for container in spec.init_containers.iter_mut().flatten() {
            fill(container, "init container", &requests, &caps, &mut said);
        }
        if !said.is_empty() {
            let text = format!("LimitRanger plugin set: {}", said.join("; "));
            pod.metadata.annotations.get_or_insert_default().insert(ANNOTATION.into(), text);
        }
    }
    Ok(())
}

fn fill(c: &mut Container, word: &str, requests: &ApiResources, caps: &ApiResources, said: &mut Vec<String>) {
    let add = |have: &mut Option<ApiResources>, wanted: &ApiResources| {
        let mut set = Vec::new();
        for (name, quantity) in wanted {
            if have.as_ref().is_none_or(|h| !h.contains_key(name)) {
                have.get_or_insert_default().insert(name.clone(), quantity.clone());
                set.push(name.as_str());
            }
        }
        set.join(", ")
    };
    if requests.is_empty() && caps.is_empty() {
        return;
    }
    let resources = c.resources.get_or_insert_default();
    let set_caps = add(&mut resources.limits, caps);
    let set_requests = add(&mut resources.requests, requests);
    if !set_requests.is_empty() {
        said.push(format!("{set_requests} request for {word} {}", c.name));
    }
    if !set_caps.is_empty() {
        said.push(format!("{set_caps} limit for {word} {}", c.name));
    }
}

fn validate(r: &Request<'_>, object: Option<&Object>) -> Result<(), ApiError> {
    for range in ranges(r) {
        let mut errors = Vec::new();
        for limit in limits(&range) {
            if let Some(spec) = object.and_then(typed::<Pod>).and_then(|p| p.spec.as_ref()) {
                check_pod(limit, spec, &mut errors);
            } else if let Some(claim) = object.and_then(typed::<PersistentVolumeClaim>) {
                check_claim(limit, claim, &mut errors);
            }
        }
        let mut seen = BTreeSet::new();
        errors.retain(|e| seen.insert(e.clone()));
        let text = match errors.as_slice() {
            [] => continue,
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        return Err(r.forbidden(object, text));
    }
    Ok(())
}

fn amounts(list: Option<&ApiResources>) -> Resources {
    list.into_iter().flatten().map(|(n, q)| (n.clone(), Quantity::of(q))).collect()
}

fn check_pod(limit: &LimitRangeItem, spec: &PodSpec, errors: &mut Vec<String>) {
    match limit.type_.as_str() {
        "Container" => {
            for c in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                let r = c.resources.as_ref();
                let requests = amounts(r.and_then(|r| r.requests.as_ref()));
                let caps = amounts(r.and_then(|r| r.limits.as_ref()));
                check(limit, &requests, &caps, errors);
            }
        }
        "Pod" => {
            let (mut requests, mut caps) =
                (meta::pod::container_requests(spec), meta::pod::container_limits(spec));
            if let Some(own) = &spec.resources {
                requests.extend(
                    amounts(own.requests.as_ref()).into_iter().filter(|(n, _)| is_pod_level_resource(n)),
                );
                caps.extend(
                    amounts(own.limits.as_ref()).into_iter().filter(|(n, _)| is_pod_level_resource(n)),
                );
            }
            check(limit, &requests, &caps, errors);
        }
        _ => {}
    }
}

fn check_claim(limit: &LimitRangeItem, claim: &PersistentVolumeClaim, errors: &mut Vec<String>) {
    if limit.type_ != "PersistentVolumeClaim" {
        return;
    }
    let resources = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
    let requests = amounts(resources.and_then(|r| r.requests.as_ref()));
    for (name, floor) in amounts(limit.min.as_ref()) {
        errors.extend(minimum(&limit.type_, &name, floor, &requests, &Resources::new()));
    }
    for (name, cap) in amounts(limit.max.as_ref()) {
        errors.extend(match requests.get(&name) {
            None => Some(unspecified("maximum", &limit.type_, &name, cap, "request")),
            Some(q) if *q > cap => Some(beyond("maximum", &limit.type_, &name, cap, "request", *q)),
            Some(_) => None,
        });
    }
}

fn check(limit: &LimitRangeItem, requests: &Resources, caps: &Resources, errors: &mut Vec<String>) {
    let kind = limit.type_.as_str();
    for (name, floor) in amounts(limit.min.as_ref()) {
        errors.extend(minimum(kind, &name, floor, requests, caps));
    }
    for (name, cap) in amounts(limit.max.as_ref()) {
        errors.extend(match (caps.get(&name), requests.get(&name)) {
            (None, _) => Some(unspecified("maximum", kind, &name, cap, "limit")),
            (Some(l), _) if *l > cap => Some(beyond("maximum", kind, &name, cap, "limit", *l)),
            (_, Some(q)) if *q > cap => Some(beyond("maximum", kind, &name, cap, "request", *q)),
            _ => None,
        });
    }
    for (name, most) in amounts(limit.max_limit_request_ratio.as_ref()) {
        errors.extend(ratio(kind, &name, most, requests.get(&name), caps.get(&name)));
    }
}

fn minimum(
    kind: &str,
    name: &str,
    floor: Quantity,
    requests: &Resources,
    caps: &Resources,
) -> Option<String> {
    match (requests.get(name), caps.get(name)) {
        (None, _) => Some(unspecified("minimum", kind, name, floor, "request")),
        (Some(q), _) if *q < floor => Some(beyond("minimum", kind, name, floor, "request", *q)),
        (_, Some(l)) if *l < floor => Some(beyond("minimum", kind, name, floor, "limit", *l)),
        _ => None,
    }
}

fn unspecified(bound: &str, kind: &str, name: &str, enforced: Quantity, what: &str) -> String {
    format!("{bound} {name} usage per {kind} is {enforced}.  No {what} is specified")
}

fn beyond(bound: &str, kind: &str, name: &str, enforced: Quantity, what: &str, have: Quantity) -> String {
    format!("{bound} {name} usage per {kind} is {enforced}, but {what} is {have}")
}

fn ratio(
    kind: &str,
    name: &str,
    most: Quantity,
    request: Option<&Quantity>,
    cap: Option<&Quantity>,
) -> Option<String> {
    let head = format!("{name} max limit to request ratio per {kind} is {most}, but");
    let Some(request) = request.filter(|q| !q.is_zero()) else {
        return Some(format!("{head} no request is specified or request is 0"));
    };
    let Some(cap) = cap.filter(|q| !q.is_zero()) else {
        return Some(format!("{head} no limit is specified or limit is 0"));
    };
    let observed = cap.as_f64() / request.as_f64();
    (observed > most.as_f64()).then(|| format!("{head} provided ratio is {observed:.6}"))
}
