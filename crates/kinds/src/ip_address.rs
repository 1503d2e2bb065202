//! networking.k8s.io/v1 IPAddress: one address of the cluster in use, by its name. The API server makes one for each
//! cluster IP of a service, so that no two services are given the same.

use crate::kind::{Cell, Kind, NameRule, Names, Scope, Validate};
use crate::object::Registered;
use crate::strategy::plain;
use crate::support::{FIELD_IMMUTABLE, column, json, text};
use k8s_openapi::api::networking::v1::IPAddress;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};

pub static IP_ADDRESS: Registered<IPAddress> = Registered::new(Kind {
    gvk: GroupVersionKind::of("networking.k8s.io", "v1", "IPAddress"),
    names: Names { plural: "ipaddresses", singular: "ipaddress", short: &["ip"], categories: &[] },
    scope: Scope::Cluster,
    definition: "io.k8s.api.networking.v1.IPAddress",
    storage: "ipaddresses",
    name_rule: NameRule::IpAddress,
    default: |_| {},
    validate: Validate {
        create: validate,
        update: |new, old| {
            let mut errors = validate(new);
            let parent = |a: &IPAddress| a.spec.parent_ref.clone();
            if parent(new) != parent(old) {
                let path = Path::new("spec").child("parentRef");
                errors.push(FieldError::invalid(&path, json(&parent(new)), FIELD_IMMUTABLE));
            }
            errors
        },
    },
    strategy: plain(),
    subresources: &[],
    selectable: &[],
    columns: &[column(
        "ParentRef",
        "ParentRef references the resource that an IPAddress is attached to. An IPAddress must reference a parent object.",
        |a| Cell::str(parent(a)),
    )],
});

/// `services/default/web`
fn parent(address: &IPAddress) -> String {
    let r = &address.spec.parent_ref;
    let mut out = r.resource.to_lowercase();
    if let Some(group) = r.group.as_ref().filter(|g| !g.is_empty()) {
        out.push_str(&format!(".{}", group.to_lowercase()));
    }
    if let Some(namespace) = r.namespace.as_ref().filter(|n| !n.is_empty()) {
        out.push_str(&format!("/{namespace}"));
    }
    format!("{out}/{}", r.name)
}

fn validate(address: &IPAddress) -> FieldErrors {
    let at = Path::new("spec").child("parentRef");
    let r = &address.spec.parent_ref;
    let mut errors = Vec::new();
    let group = text(r.group.as_ref());
    if !group.is_empty() {
        let wrong = rules::is_dns1123_subdomain(group);
        errors.extend(wrong.into_iter().map(|why| FieldError::invalid(&at.child("group"), group, why)));
    }
    for (field, value, required) in [
        ("resource", r.resource.as_str(), true),
        ("name", r.name.as_str(), true),
        ("namespace", text(r.namespace.as_ref()), false),
    ] {
        let path = at.child(field);
        if value.is_empty() && required {
            errors.push(FieldError::required(&path, ""));
        } else if !value.is_empty() {
            let wrong = rules::name_is_path_segment(value, false);
            errors.extend(wrong.into_iter().map(|why| FieldError::invalid(&path, value, why)));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::json;

    #[test]
    fn an_address_names_its_owner() {
        let address: IPAddress = object(json!({"spec": {"parentRef": {
            "resource": "services", "namespace": "default", "name": "web"}}}));
        assert_eq!(parent(&address), "services/default/web");
        assert!(validate(&address).is_empty());
        let nobodys: IPAddress = object(json!({"spec": {"parentRef": {"resource": "services", "name": ""}}}));
        assert_eq!(lines(&validate(&nobodys)), ["spec.parentRef.name: Required value"]);
    }
}
