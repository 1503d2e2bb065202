//! v1 ServiceAccount.

use crate::kind::{Column, Connect, Kind, NameRule, Names, Scope, Subresource};
use crate::object::Registered;
use crate::strategy::plain;
use crate::support::{age, no_change, unchecked};
use k8s_openapi::api::core::v1::{ObjectReference, ServiceAccount};
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
    strategy: crate::kind::Strategy {
        warnings: crate::warnings::objects::service_account,
        prepare_create: keep_names_of_secrets,
        prepare_update: |new, _| keep_names_of_secrets(new),
        ..plain()
    },
    subresources: SUBRESOURCES,
    selectable: &[],
    columns: COLUMNS,
});

/// Secrets are of the account's namespace: a reference has no more than a name.
fn keep_names_of_secrets(account: &mut ServiceAccount) {
    for secret in account.secrets.iter_mut().flatten() {
        *secret = ObjectReference { name: secret.name.take(), ..Default::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::object;
    use serde_json::json;

    #[test]
    fn a_secret_is_a_name() {
        let mut account: ServiceAccount =
            object(json!({"secrets": [{"kind": "Secret", "namespace": "other", "name": "s", "uid": "u"}]}));
        (SERVICE_ACCOUNT.kind.strategy.prepare_create)(&mut account);
        assert_eq!(account, object(json!({"secrets": [{"name": "s"}]})));
    }
}
