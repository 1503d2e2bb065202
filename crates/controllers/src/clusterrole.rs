//! Cluster roles that gather the rules of others, as `admin`, `edit` and `view` do.

use crate::controller::{Controller, Watches};
use crate::plan::{Op, Plan};
use crate::world::World;
use client::Key;
use k8s_openapi::api::rbac::v1::PolicyRule;
use meta::{LabelSelector, Time};
use serde_json::json;

pub struct ClusterRoleAggregation;

impl Controller for ClusterRoleAggregation {
    const NAME: &'static str = "clusterrole-aggregation-controller";
    const QUEUE: &'static str = "ClusterRoleAggregator";

    fn watches(w: &mut Watches) {
        // Any role may belong to any that gathers: those are few.
        w.on(
            |w| &w.cluster_roles,
            |_, world| {
                let roles = world.cluster_roles.list();
                roles.iter().filter(|r| r.aggregation_rule.is_some()).map(|r| Key::of(&**r)).collect()
            },
        );
    }

    fn reconcile(&self, key: &Key, world: &World, _: Time) -> Plan {
        let Some(role) = world.cluster_roles.get(key) else { return Plan::idle("the role is gone") };
        let Some(rule) = &role.aggregation_rule else { return Plan::idle("the role has rules of its own") };
        let all = world.cluster_roles.list();
        let mut rules: Vec<PolicyRule> = Vec::new();
        for selector in rule.cluster_role_selectors.iter().flatten() {
            let Ok(selector) = LabelSelector::from_object(selector) else {
                return Plan::idle("a selector is not valid");
            };
            let others = all.iter().filter(|r| r.metadata.name != role.metadata.name);
            for other in others.filter(|r| crate::refs::matches(&selector, &r.metadata)) {
                for rule in other.rules.iter().flatten() {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
        }
        if rules == role.rules.clone().unwrap_or_default() {
            return Plan::idle("the rules are gathered");
        }
        let m = &role.metadata;
        let patch =
            json!({"metadata": {"uid": m.uid, "resourceVersion": m.resource_version}, "rules": rules});
        let mut plan = Plan::default();
        plan.op(Op::merge_patch(&*role, &patch));
        plan
    }
}
