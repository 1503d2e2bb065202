//! rbac.authorization.k8s.io/v1 ClusterRoleBinding.

use crate::kind::{Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::rbac::{binding_columns, check_binding, check_binding_update, default_binding};
use crate::strategy::plain;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use meta::GroupVersionKind;

pub static CLUSTER_ROLE_BINDING: Registered<ClusterRoleBinding> = Registered::new(Kind {
    gvk: GroupVersionKind::of("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding"),
    names: Names {
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        short: &[],
        categories: &[],
    },
    scope: Scope::Cluster,
    definition: "io.k8s.api.rbac.v1.ClusterRoleBinding",
    storage: "clusterrolebindings",
    name_rule: NameRule::PathSegment,
    default: |b| default_binding(&mut b.role_ref, &mut b.subjects),
    validate: Validate { create: check_binding, update: check_binding_update },
    strategy: Strategy { create_on_update: true, ..plain() },
    subresources: &[],
    selectable: &[],
    columns: &binding_columns(
        "Users in the clusterRoleBinding",
        "Groups in the clusterRoleBinding",
        "ServiceAccounts in the clusterRoleBinding",
    ),
});
