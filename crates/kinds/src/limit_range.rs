//! v1 LimitRange.

use crate::kind::{Column, Kind, NameRule, Names, Scope, Validate};
use crate::object::Registered;
use crate::pod_spec::defaults::canonical_resources;
use crate::resources::{check_container_name, check_name, is_overcommit_allowed};
use crate::strategy::plain;
use crate::support::{CREATION_TIMESTAMP, instant, push_invalid, typed_column};
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use meta::quantity::Format;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, Quantity, validation as rules};
use std::collections::{BTreeMap, BTreeSet};

type Amounts = BTreeMap<String, ApiQuantity>;

/// Limit ranges have no table of their own upstream; the generic one has this column.
const COLUMNS: &[Column<LimitRange>] = &[typed_column("Created At", "date", CREATION_TIMESTAMP, |r| {
    let created = instant(r.metadata.creation_timestamp.as_ref());
    crate::kind::Cell::str(created.map(|t| t.to_string()).unwrap_or_default())
})];

pub static LIMIT_RANGE: Registered<LimitRange> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "LimitRange"),
    names: Names { plural: "limitranges", singular: "limitrange", short: &["limits"], categories: &[] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.LimitRange",
    storage: "limitranges",
    name_rule: NameRule::DnsSubdomain,
    default,
    validate: Validate { create: validate, update: |new, _| validate(new) },
    strategy: crate::kind::Strategy { create_on_update: true, ..plain() },
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

/// Amounts in their canonical form; then, for containers: a limit from the maximum, a request from the limit or else from the minimum.
fn default(range: &mut LimitRange) {
    for item in range.spec.iter_mut().flat_map(|s| &mut s.limits) {
        for amounts in [
            &mut item.min,
            &mut item.max,
            &mut item.default,
            &mut item.default_request,
            &mut item.max_limit_request_ratio,
        ] {
            canonical_resources(amounts.as_mut());
        }
        if item.type_ != "Container" {
            continue;
        }
        let fill = |into: &mut Option<Amounts>, from: &Option<Amounts>| {
            for (name, amount) in from.iter().flatten() {
                into.get_or_insert_default().entry(name.clone()).or_insert_with(|| amount.clone());
            }
        };
        fill(&mut item.default, &item.max);
        fill(&mut item.default_request, &item.default);
        fill(&mut item.default_request, &item.min);
    }
}

fn validate(range: &LimitRange) -> FieldErrors {
    let path = Path::new("spec").child("limits");
    let mut errors = Vec::new();
    let mut types = BTreeSet::new();
    for (i, item) in range.spec.iter().flat_map(|s| &s.limits).enumerate() {
        let path = path.index(i);
        let type_path = path.child("type");
        let messages = rules::is_qualified_name(&item.type_);
        let standard = matches!(item.type_.as_str(), "Pod" | "Container" | "PersistentVolumeClaim");
        if messages.is_empty() && !item.type_.contains('/') && !standard {
            let why = "must be a standard limit type or fully qualified";
            errors.push(FieldError::invalid(&type_path, &item.type_, why));
        }
        push_invalid(&mut errors, &type_path, &item.type_, messages);
        if !types.insert(&item.type_) {
            errors.push(FieldError::duplicate(&type_path, &item.type_));
        }
        errors.extend(check_item(item, &path));
    }
    errors
}

fn check_item(item: &LimitRangeItem, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let of_pod = item.type_ == "Pod";
    let mut names = BTreeSet::new();
    for (field, amounts) in [
        ("max", &item.max),
        ("min", &item.min),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ] {
        let path = path.child(field);
        if of_pod && field.starts_with("default") {
            if amounts.as_ref().is_some_and(|a| !a.is_empty()) {
                errors.push(FieldError::forbidden(&path, "may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        for name in amounts.iter().flat_map(BTreeMap::keys) {
            let check = if of_pod || item.type_ == "Container" { check_container_name } else { check_name };
            errors.extend(check(name, &|| path.key(name)));
            names.insert(name.as_str());
        }
    }
    let has = |amounts: &Option<Amounts>, name: &str| amounts.as_ref().is_some_and(|a| a.contains_key(name));
    if item.type_ == "PersistentVolumeClaim" && !has(&item.min, "storage") && !has(&item.max, "storage") {
        errors.push(FieldError::required(
            &path.child("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        ));
    }
    for name in names {
        errors.extend(check_amounts(item, name, path));
    }
    errors
}

fn check_amounts(item: &LimitRangeItem, name: &str, path: &Path) -> FieldErrors {
    let of = |amounts: &Option<Amounts>| amounts.as_ref().and_then(|a| a.get(name)).map(Quantity::of);
    let (min, max, ratio) = (of(&item.min), of(&item.max), of(&item.max_limit_request_ratio));
    let of_pod = item.type_ == "Pod";
    let default = of(&item.default).filter(|_| !of_pod);
    let request = of(&item.default_request).filter(|_| !of_pod);
    let mut errors = Vec::new();
    let mut refuse = |field: &str, value: Quantity, why: String| {
        errors.push(FieldError::invalid(&path.child(field).key(name), value.to_string(), why));
    };
    // `low` may not be above `high`
    let above = |low: Option<Quantity>, high: Option<Quantity>| low.zip(high).filter(|(l, h)| l > h);
    if let Some((l, h)) = above(min, max) {
        refuse("min", l, format!("min value {l} is greater than max value {h}"));
    }
    if let Some((l, h)) = above(min, request) {
        refuse("defaultRequest", h, format!("min value {l} is greater than default request value {h}"));
    }
    if let Some((l, h)) = above(request, max) {
        refuse("defaultRequest", l, format!("default request value {l} is greater than max value {h}"));
    }
    if let Some((l, h)) = above(request, default) {
        refuse(
            "defaultRequest",
            l,
            format!("default request value {l} is greater than default limit value {h}"),
        );
    }
    if let Some((l, h)) = above(min, default) {
        refuse("default", l, format!("min value {l} is greater than default value {h}"));
    }
    if let Some((l, h)) = above(default, max) {
        refuse("default", h, format!("default value {l} is greater than max value {h}"));
    }
    if let Some(ratio) = ratio {
        if ratio < Quantity::new(1, Format::DecimalSI) {
            refuse("maxLimitRequestRatio", ratio, format!("ratio {ratio} is less than 1"));
        }
        if let Some((min, max)) = min.zip(max) {
            let limit = max.as_f64() / min.as_f64();
            if ratio.as_f64() > limit {
                refuse(
                    "maxLimitRequestRatio",
                    ratio,
                    format!("ratio {ratio} is greater than max/min = {limit:.6}"),
                );
            }
        }
    }
    if let (false, Some(default), Some(request)) = (is_overcommit_allowed(name), default, request)
        && default != request
    {
        let why = format!("default value {default} must equal to defaultRequest value {request} in {name}");
        refuse("defaultRequest", request, why);
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::json;

    #[test]
    fn container_defaults_come_from_the_bounds() {
        let mut range: LimitRange = object(json!({"spec": {"limits": [
            {"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "100m", "memory": "1Mi"}}]}}));
        default(&mut range);
        let item = &range.spec.unwrap().limits[0];
        assert_eq!(item.default.as_ref().unwrap()["cpu"].0, "2");
        assert_eq!(item.default_request.as_ref().unwrap()["cpu"].0, "2");
        assert_eq!(item.default_request.as_ref().unwrap()["memory"].0, "1Mi");
    }

    #[test]
    fn refusals() {
        let check = |limits, expect: &[&str]| {
            assert_eq!(lines(&validate(&object(json!({"spec": {"limits": limits}})))), expect)
        };
        check(json!([{"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "500m"}}]), &[]);
        check(
            json!([{"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}, "default": {"cpu": "1"}}]),
            &[
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            ],
        );
        check(
            json!([{"type": "PersistentVolumeClaim"}, {"type": "Odd"}]),
            &[
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
                "spec.limits[1].type: Invalid value: \"Odd\": must be a standard limit type or fully qualified",
            ],
        );
        check(
            json!([{"type": "Container", "maxLimitRequestRatio": {"cpu": "5"}, "min": {"cpu": "1"}, "max": {"cpu": "2"}}]),
            &[
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"5\": ratio 5 is greater than max/min = 2.000000",
            ],
        );
    }
}
