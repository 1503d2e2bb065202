//! v1 ServiceAccount.

use crate::kind::{Column, Connect, Kind, NameRule, Names, Scope, Subresource};
use crate::object::Registered;
use crate::strategy::plain;
use crate::support::{age, no_change, unchecked};
use k8s_openapi::api::core::v1::ServiceAccount;
use meta::GroupVersionKind;

const COLUMNS: &[Column<ServiceAccount>] = &[age()];

const SUBRESOURCES: &[Subresource<ServiceAccount>] = &[Subresource::Connect(Connect {
    name: "token",
    gvk: GroupVersionKind::of("authentication.k8s.io", "v1", "TokenRequest"),
    verbs: &["create"],
})];

pub static SERVICE_ACCOUNT: Registered<ServiceAccount> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "ServiceAccount"),
    names: Names { plural: "serviceaccounts", singular: "serviceaccount", short: &["sa"], categories: &[] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.ServiceAccount",
    storage: "serviceaccounts",
    name_rule: NameRule::DnsSubdomain,
    default: no_change,
    validate: unchecked(),
    strategy: crate::kind::Strategy { warnings: crate::warnings::objects::service_account, ..plain() },
    subresources: SUBRESOURCES,
    selectable: &[],
    columns: COLUMNS,
});
