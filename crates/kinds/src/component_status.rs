//! v1 ComponentStatus: never stored, answered from what the API server sees.

use crate::kind::{Cell, Kind, NameRule, Names, Scope};
use crate::object::Registered;
use crate::strategy::plain;
use crate::support::{column, text, unchecked};
use k8s_openapi::api::core::v1::{ComponentCondition, ComponentStatus};
use meta::GroupVersionKind;

pub static COMPONENT_STATUS: Registered<ComponentStatus> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "ComponentStatus"),
    names: Names {
        plural: "componentstatuses",
        singular: "componentstatus",
        short: &["cs"],
        categories: &[],
    },
    scope: Scope::Cluster,
    definition: "io.k8s.api.core.v1.ComponentStatus",
    storage: "componentstatuses",
    name_rule: NameRule::DnsSubdomain,
    default: |_| {},
    validate: unchecked(),
    strategy: plain(),
    subresources: &[],
    selectable: &[],
    columns: &[
        column("Status", "Status of the component conditions", |s| {
            Cell::str(match healthy(s) {
                None => "Unknown",
                Some(c) if c.status == "True" => "Healthy",
                Some(_) => "Unhealthy",
            })
        }),
        column("Message", "Message of the component conditions", |s| {
            Cell::str(text(healthy(s).and_then(|c| c.message.as_ref())))
        }),
        column("Error", "Error of the component conditions", |s| {
            Cell::str(text(healthy(s).and_then(|c| c.error.as_ref())))
        }),
    ],
});

fn healthy(status: &ComponentStatus) -> Option<&ComponentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == "Healthy")
}
