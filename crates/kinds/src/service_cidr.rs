//! networking.k8s.io/v1 ServiceCIDR: a range that cluster IPs come from. `kubernetes` is the one the API server was
//! started with.

use crate::kind::{Cell, Kind, NameRule, Names, Scope, StatusAccess, Subresource, Validate};
use crate::object::Registered;
use crate::strategy::{reset_meta_for_status, spec_and_status_no_generation};
use crate::support::{FIELD_IMMUTABLE, age, check_cidr, column, json, no_update_errors};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path};

/// Ranges of one object: one of each family.
const MAX_CIDRS: usize = 2;

pub static SERVICE_CIDR: Registered<ServiceCIDR> = Registered::new(Kind {
    gvk: GroupVersionKind::of("networking.k8s.io", "v1", "ServiceCIDR"),
    names: Names { plural: "servicecidrs", singular: "servicecidr", short: &[], categories: &[] },
    scope: Scope::Cluster,
    definition: "io.k8s.api.networking.v1.ServiceCIDR",
    storage: "servicecidrs",
    name_rule: NameRule::DnsSubdomain,
    default: |_| {},
    validate: Validate { create: |cidr| ranges(cidrs(cidr)), update: validate_update },
    strategy: spec_and_status_no_generation!(ServiceCIDR),
    subresources: &[Subresource::Status(StatusAccess {
        prepare: |new, old| {
            new.spec.clone_from(&old.spec);
            reset_meta_for_status(&mut new.metadata, &old.metadata);
        },
        validate: no_update_errors,
    })],
    selectable: &[],
    columns: &[
        column(
            "CIDRs",
            "CIDRs defines the IP blocks in CIDR notation (e.g. \"192.168.0.0/24\" or \"2001:db8::/64\") from which to assign service cluster IPs. Max of two CIDRs is allowed, one of each IP family. This field is immutable.",
            |c| Cell::str(cidrs(c).join(",")),
        ),
        age(),
    ],
});

fn cidrs(cidr: &ServiceCIDR) -> &[String] {
    cidr.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default()
}

fn ranges(cidrs: &[String]) -> FieldErrors {
    let path = Path::new("spec").child("cidrs");
    if cidrs.is_empty() {
        return vec![FieldError::required(&path, "at least one CIDR required")];
    }
    if cidrs.len() > MAX_CIDRS {
        return vec![FieldError::invalid(&path, json(&cidrs), "may only hold up to 2 values")];
    }
    let mut errors: FieldErrors =
        cidrs.iter().enumerate().flat_map(|(i, cidr)| check_cidr(&path.index(i), cidr, &[])).collect();
    let family = |cidr: &String| cidr.parse::<ipnet::IpNet>().ok().map(|n| n.addr().is_ipv4());
    if let [first, second] = cidrs
        && family(first).is_some()
        && family(first) == family(second)
    {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid(&path, json(&cidrs), why));
    }
    errors
}

/// A second family may be added; nothing else changes.
fn validate_update(new: &ServiceCIDR, old: &ServiceCIDR) -> FieldErrors {
    let path = Path::new("spec").child("cidrs");
    let (new, old) = (cidrs(new), cidrs(old));
    let immutable = |i: usize| FieldError::invalid(&path.index(i), new[i].as_str(), FIELD_IMMUTABLE);
    match (new.len(), old.len()) {
        (n, o) if n == o => (0..n).filter(|i| new[*i] != old[*i]).map(immutable).collect(),
        (2, 1) => {
            let mut errors: FieldErrors = (new[0] != old[0]).then(|| immutable(0)).into_iter().collect();
            errors.extend(ranges(new));
            errors
        }
        _ => vec![FieldError::invalid(&path, json(&new), FIELD_IMMUTABLE)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::json;

    #[test]
    fn ranges_are_of_two_families_at_most_and_stay() {
        let of = |cidrs: &[&str]| -> ServiceCIDR { object(json!({"spec": {"cidrs": cidrs}})) };
        let check = |cidrs: &[&str], expect: &[&str]| {
            assert_eq!(lines(&(SERVICE_CIDR.kind.validate.create)(&of(cidrs))), expect);
        };
        check(&["10.0.0.0/24", "fd00::/64"], &[]);
        check(&[], &["spec.cidrs: Required value: at least one CIDR required"]);
        check(
            &["10.0.0.1/24"],
            &[
                "spec.cidrs[0]: Invalid value: \"10.0.0.1/24\": must not have bits set beyond the prefix length",
            ],
        );
        let update = |new: &[&str], expect: &[&str]| {
            assert_eq!(lines(&validate_update(&of(new), &of(&["10.0.0.0/24"]))), expect);
        };
        update(&["10.0.0.0/24", "fd00::/64"], &[]);
        update(&["10.1.0.0/24"], &["spec.cidrs[0]: Invalid value: \"10.1.0.0/24\": field is immutable"]);
    }
}
