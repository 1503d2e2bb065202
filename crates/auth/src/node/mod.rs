//! The node authorizer: a kubelet reaches its own node, the pods bound to it, and what those pods refer to
//! (kubernetes.io/docs/reference/access-authn-authz/node).

mod graph;

use crate::bootstrap;
use crate::identity::{Attributes, Decision, User, Verdict};
use crate::rbac::rules::allows;
pub use graph::{Graph, Kind};
use k8s_openapi::api::rbac::v1::PolicyRule;
use std::sync::OnceLock;

const NODES_GROUP: &str = "system:nodes";
const NODE_USER_PREFIX: &str = "system:node:";
const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";

/// The node a user is, where it is one: None for everyone else, an empty name for a node that does not say
/// which.
pub fn node_name(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix(NODE_USER_PREFIX)?;
    user.in_group(NODES_GROUP).then_some(name)
}

fn node_rules() -> &'static [PolicyRule] {
    static RULES: OnceLock<Vec<PolicyRule>> = OnceLock::new();
    RULES.get_or_init(bootstrap::node_rules)
}

/// None allows; else why there is no opinion.
type Refusal = Option<String>;

fn because(why: impl Into<String>) -> Refusal {
    Some(why.into())
}

/// Whether a field selector holds `path` to `value`.
fn pins(selector: &str, path: &str, value: &str) -> bool {
    selector
        .split(',')
        .filter_map(|term| term.split_once('='))
        .any(|(p, v)| p == path && v.trim_start_matches('=') == value)
}

impl Graph {
    pub fn authorize(&self, user: &User, a: &Attributes) -> Decision {
        let no_opinion = |reason: String| Decision { verdict: Verdict::NoOpinion, reason };
        let Some(node) = node_name(user) else { return no_opinion(String::new()) };
        if node.is_empty() {
            return no_opinion(format!("unknown node for user {:?}", user.name));
        }
        match self.refusal(node, a) {
            None => Decision { verdict: Verdict::Allow, reason: String::new() },
            Some(reason) => no_opinion(reason),
        }
    }

    fn refusal(&self, node: &str, a: &Attributes) -> Refusal {
        if a.is_resource {
            match (a.group.as_str(), a.resource.as_str()) {
                ("", "secrets") => return self.read(node, Kind::Secret, a),
                ("", "configmaps") => return self.read(node, Kind::ConfigMap, a),
                ("", "persistentvolumeclaims") if a.subresource == "status" => {
                    if !matches!(a.verb.as_str(), "update" | "patch") {
                        return because("can only get/update/patch this type");
                    }
                    return self.related(node, Kind::Claim, a);
                }
                ("", "persistentvolumeclaims") => return self.get(node, Kind::Claim, a),
                ("", "persistentvolumes") => return self.get(node, Kind::Volume, a),
                ("resource.k8s.io", "resourceclaims") => return self.get(node, Kind::ResourceClaim, a),
                ("storage.k8s.io", "volumeattachments") => return self.get(node, Kind::VolumeAttachment, a),
                ("", "serviceaccounts") => return self.service_account(node, a),
                ("coordination.k8s.io", "leases") => return lease(node, a),
                ("storage.k8s.io", "csinodes") => return csi_node(node, a),
                ("resource.k8s.io", "resourceslices") => return self.resource_slice(node, a),
                ("", "nodes") => return own_node(node, a),
                ("", "pods") => return self.pod(node, a),
                // Behind a feature gate that is off.
                ("certificates.k8s.io", "podcertificaterequests") => return because(""),
                _ => {}
            }
        }
        if node_rules().iter().any(|r| allows(r, a)) { None } else { because("") }
    }

    fn related(&self, node: &str, kind: Kind, a: &Attributes) -> Refusal {
        if a.name.is_empty() {
            return because("No Object name found");
        }
        if self.reaches(node, kind, &a.namespace, &a.name) {
            return None;
        }
        because(format!("no relationship found between node '{node}' and this object"))
    }

    fn get(&self, node: &str, kind: Kind, a: &Attributes) -> Refusal {
        if a.verb != "get" {
            return because("can only get individual resources of this type");
        }
        if !a.subresource.is_empty() {
            return because("cannot get subresource");
        }
        self.related(node, kind, a)
    }

    fn read(&self, node: &str, kind: Kind, a: &Attributes) -> Refusal {
        if !matches!(a.verb.as_str(), "get" | "list" | "watch") {
            return because("can only read resources of this type");
        }
        if !a.subresource.is_empty() {
            return because("cannot read subresource");
        }
        if a.namespace.is_empty() {
            return because("can only read namespaced object of this type");
        }
        self.related(node, kind, a)
    }

    fn service_account(&self, node: &str, a: &Attributes) -> Refusal {
        if a.verb == "get" && a.subresource.is_empty() {
            return self.read(node, Kind::ServiceAccount, a);
        }
        if a.verb != "create" || a.name.is_empty() {
            return because("can only create tokens for individual service accounts");
        }
        if a.subresource != "token" {
            return because("can only create token subresource of serviceaccount");
        }
        self.related(node, Kind::ServiceAccount, a)
    }

    fn resource_slice(&self, node: &str, a: &Attributes) -> Refusal {
        if !a.subresource.is_empty() {
            return because("cannot authorize ResourceSlice subresources");
        }
        match a.verb.as_str() {
            // NodeRestriction looks at the content.
            "create" => None,
            "get" | "update" | "patch" | "delete" => self.related(node, Kind::ResourceSlice, a),
            "watch" | "list" | "deletecollection" => {
                if pins(&a.field_selector, "spec.nodeName", node) {
                    return None;
                }
                because("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => because(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, \
                 patch, delete, deletecollection",
            ),
        }
    }

    fn pod(&self, node: &str, a: &Attributes) -> Refusal {
        match (a.subresource.as_str(), a.verb.as_str()) {
            ("", "get") => self.get(node, Kind::Pod, a),
            ("", "list" | "watch") => {
                if pins(&a.field_selector, "spec.nodeName", node) {
                    None
                } else if !a.name.is_empty() {
                    self.related(node, Kind::Pod, a)
                } else {
                    because("can only list/watch pods with spec.nodeName field selector")
                }
            }
            // NodeRestriction limits these to pods of the node.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => None,
            _ => because(""),
        }
    }
}

fn own_node(node: &str, a: &Attributes) -> Refusal {
    match (a.subresource.as_str(), a.verb.as_str()) {
        // NodeRestriction limits these to the node itself.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => None,
        ("", "get" | "list" | "watch") if a.name == node => None,
        ("", "get" | "list" | "watch") if a.name.is_empty() => {
            because(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            because(format!("node '{node}' cannot read '{}', only its own Node object", a.name))
        }
        _ => because(""),
    }
}

fn lease(node: &str, a: &Attributes) -> Refusal {
    if !matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return because("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != NODE_LEASE_NAMESPACE {
        return because(format!("can only access leases in the {NODE_LEASE_NAMESPACE:?} system namespace"));
    }
    // The name is not known on create; NodeRestriction looks at it.
    if a.verb != "create" && a.name != node {
        return because("can only access node lease with the same name as the requesting node");
    }
    None
}

fn csi_node(node: &str, a: &Attributes) -> Refusal {
    if !matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return because("can only get, create, update, patch, or delete a CSINode");
    }
    if !a.subresource.is_empty() {
        return because("cannot authorize CSINode subresources");
    }
    if a.verb != "create" && a.name != node {
        return because("can only access CSINode with the same name as the requesting node");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
    use serde_json::json;

    fn graph() -> Graph {
        let mut graph = Graph::default();
        let pod = |name: &str, node: &str, mirror: bool| -> Pod {
            let annotations = if mirror { json!({"kubernetes.io/config.mirror": "x"}) } else { json!({}) };
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "ns", "annotations": annotations},
                "spec": {
                    "nodeName": node, "serviceAccountName": format!("{name}-sa"),
                    "imagePullSecrets": [{"name": format!("{name}-pull")}],
                    "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": format!("{name}-env")}}],
                        "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": format!("{name}-key"), "key": "k"}}}]}],
                    "volumes": [
                        {"name": "a", "secret": {"secretName": format!("{name}-vol")}},
                        {"name": "b", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}},
                        {"name": "c", "persistentVolumeClaim": {"claimName": format!("{name}-pvc")}},
                        {"name": "d", "ephemeral": {}},
                    ],
                },
            }))
            .unwrap()
        };
        graph.set_pod(&pod("p1", "n1", false));
        graph.set_pod(&pod("p2", "n2", false));
        graph.set_pod(&pod("m", "n1", true));
        let pv: PersistentVolume = serde_json::from_value(json!({
            "metadata": {"name": "pv1"},
            "spec": {"claimRef": {"namespace": "ns", "name": "p1-pvc"},
                "csi": {"driver": "d", "volumeHandle": "h",
                    "nodePublishSecretRef": {"namespace": "ns", "name": "pv-secret"},
                    "controllerPublishSecretRef": {"namespace": "ns", "name": "pv-hidden"}}},
        }))
        .unwrap();
        graph.set_volume(&pv);
        graph
    }

    #[test]
    fn what_a_kubelet_may() {
        let graph = &mut graph();
        let n1 = User::component("system:node:n1", &["system:nodes"]);
        let check = |graph: &Graph, line: &str, expect: Result<(), &str>| {
            let mut words = line.split(' ');
            let (verb, what) = (words.next().unwrap(), words.next().unwrap());
            let (path, name) = what.split_once(':').unwrap_or((what, ""));
            let (namespace, resource) = path.split_once('|').unwrap_or(("", path));
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
            let a = Attributes {
                verb: verb.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                group: group.into(),
                namespace: namespace.into(),
                name: name.into(),
                is_resource: true,
                field_selector: words.next().unwrap_or("").into(),
                ..Default::default()
            };
            let got = graph.authorize(&n1, &a);
            let got = if got.verdict == Verdict::Allow { Ok(()) } else { Err(got.reason) };
            assert_eq!(got, expect.map_err(str::to_owned), "{line}");
        };
        let unrelated = Err("no relationship found between node 'n1' and this object");
        for secret in ["p1-pull", "p1-key", "p1-vol", "pv-secret"] {
            check(graph, &format!("get ns|secrets:{secret}"), Ok(()));
        }
        check(graph, "watch ns|secrets:p1-vol", Ok(()));
        for secret in ["p2-vol", "pv-hidden", "m-vol", "absent"] {
            check(graph, &format!("get ns|secrets:{secret}"), unrelated);
        }
        check(graph, "get other|secrets:p1-vol", unrelated);
        check(graph, "list ns|secrets", Err("No Object name found"));
        check(graph, "update ns|secrets:p1-vol", Err("can only read resources of this type"));
        check(graph, "get ns|configmaps:p1-env", Ok(()));
        check(graph, "get ns|configmaps:kube-root-ca.crt", Ok(()));
        check(graph, "get ns|configmaps:p2-env", unrelated);
        check(graph, "get ns|persistentvolumeclaims:p1-pvc", Ok(()));
        check(graph, "get ns|persistentvolumeclaims:p1-d", Ok(()));
        check(graph, "patch ns|persistentvolumeclaims/status:p1-pvc", Ok(()));
        check(graph, "get persistentvolumes:pv1", Ok(()));
        check(graph, "list persistentvolumes", Err("can only get individual resources of this type"));
        check(graph, "get ns|pods:p1", Ok(()));
        check(graph, "get ns|pods:p2", unrelated);
        check(graph, "list pods", Err("can only list/watch pods with spec.nodeName field selector"));
        check(graph, "list pods spec.nodeName=n1", Ok(()));
        check(
            graph,
            "watch pods spec.nodeName=n2",
            Err("can only list/watch pods with spec.nodeName field selector"),
        );
        check(graph, "patch ns|pods/status:p1", Ok(()));
        check(graph, "patch ns|pods:p1", Err(""));
        check(graph, "create ns|serviceaccounts/token:p1-sa", Ok(()));
        check(graph, "create ns|serviceaccounts/token:p2-sa", unrelated);
        check(graph, "get nodes:n1", Ok(()));
        check(graph, "get nodes:n2", Err("node 'n1' cannot read 'n2', only its own Node object"));
        check(graph, "list nodes", Err("node 'n1' cannot read all nodes, only its own Node object"));
        check(graph, "delete nodes:n1", Err(""));
        check(graph, "update kube-node-lease|leases.coordination.k8s.io:n1", Ok(()));
        check(
            graph,
            "get kube-node-lease|leases.coordination.k8s.io:n2",
            Err("can only access node lease with the same name as the requesting node"),
        );
        check(graph, "list services", Ok(()));
        check(graph, "create ns|events", Ok(()));
        check(graph, "create ns|deployments.apps", Err(""));

        graph.remove_pod("ns", "p1");
        check(graph, "get ns|secrets:p1-vol", unrelated);
        check(graph, "get ns|secrets:pv-secret", unrelated);
        check(graph, "get persistentvolumes:pv1", unrelated);
        check(graph, "get ns|pods:m", Ok(()));
    }
}
