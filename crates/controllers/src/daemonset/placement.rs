//! Where daemons run: on every node that the template's selector, affinity and tolerations allow.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeSelector as ApiNodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Toleration,
};
use meta::node_selector::NodeSelector;
use meta::taints::all_tolerated;

const NODE_NAME: &str = "metadata.name";
const NO_EXECUTE: &str = "NoExecute";
const NO_SCHEDULE: &str = "NoSchedule";
/// What daemons tolerate: they belong to the node, whatever its state.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", NO_EXECUTE),
    ("node.kubernetes.io/unreachable", NO_EXECUTE),
    ("node.kubernetes.io/disk-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/memory-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/pid-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/unschedulable", NO_SCHEDULE),
];
/// Also tolerated by those that need no pod network.
const TOLERATED_ON_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", NO_SCHEDULE);

/// What a daemon set says of nodes.
pub(super) struct Placement {
    node_name: Option<String>,
    selector: NodeSelector,
    tolerations: Vec<Toleration>,
}

/// What a daemon set wants of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A daemon should be there.
    pub run: bool,
    /// One that is there already may stay.
    pub stay: bool,
}

impl Placement {
    pub fn of(set: &DaemonSet) -> Option<Self> {
        let mut spec = set.spec.as_ref()?.template.spec.clone()?;
        tolerate(&mut spec);
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        Some(Self {
            selector: NodeSelector::required(spec.node_selector.as_ref(), required),
            node_name: spec.node_name.filter(|n| !n.is_empty()),
            tolerations: spec.tolerations.unwrap_or_default(),
        })
    }

    pub fn on(&self, node: &Node) -> Wanted {
        if self.node_name.is_some() && self.node_name != node.metadata.name || !self.selector.matches(node) {
            return Wanted::default();
        }
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
        let stay = all_tolerated(&self.tolerations, taints, &[NO_EXECUTE]);
        Wanted { run: stay && all_tolerated(&self.tolerations, taints, &[NO_SCHEDULE]), stay }
    }
}

/// Adds what every daemon tolerates, in place of what tolerates the same for a time only.
pub(super) fn tolerate(spec: &mut PodSpec) {
    let host = (spec.host_network == Some(true)).then_some(TOLERATED_ON_HOST_NETWORK);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(host) {
        let forever = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Default::default()
        };
        let same = |t: &&mut Toleration| Toleration { toleration_seconds: None, ..(**t).clone() } == forever;
        match tolerations.iter_mut().find(same) {
            Some(t) => *t = forever,
            None => tolerations.push(forever),
        }
    }
}

/// Makes the scheduler choose this node and no other.
pub(super) fn pin(spec: &mut PodSpec, node: &str) {
    let requirement = NodeSelectorRequirement {
        key: NODE_NAME.into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![requirement]), match_expressions: None };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    affinity.node_affinity.get_or_insert_default().required_during_scheduling_ignored_during_execution =
        Some(ApiNodeSelector { node_selector_terms: vec![term] });
}

/// The node a daemon is on, or waits to be bound to; None where it names none.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return Some(name);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut fields = terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let names = fields.find(|f| f.key == NODE_NAME && f.operator == "In")?.values.as_deref()?;
    match names {
        [name] => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(spec: Value, node: Value, expect: (bool, bool)) {
        let set: DaemonSet = serde_json::from_value(json!({"spec": {
            "selector": {}, "template": {"spec": spec},
        }}))
        .unwrap();
        let what = format!("{spec} on {node}");
        let wanted = Placement::of(&set).unwrap().on(&serde_json::from_value(node).unwrap());
        assert_eq!((wanted.run, wanted.stay), expect, "{what}");
    }

    #[test]
    fn selectors_and_taints_say_where_daemons_run() {
        let tainted = |key: &str, effect: &str| json!({"metadata": {"name": "a"}, "spec": {"taints": [{"key": key, "effect": effect}]}});
        let any = json!({"containers": []});
        check(any.clone(), json!({"metadata": {"name": "a"}}), (true, true));
        check(json!({"containers": [], "nodeName": "b"}), json!({"metadata": {"name": "a"}}), (false, false));
        let zoned = json!({"containers": [], "nodeSelector": {"zone": "x"}});
        check(zoned.clone(), json!({"metadata": {"name": "a"}}), (false, false));
        check(zoned, json!({"metadata": {"name": "a", "labels": {"zone": "x"}}}), (true, true));
        check(any.clone(), tainted("mine", "NoSchedule"), (false, true));
        check(any.clone(), tainted("mine", "NoExecute"), (false, false));
        check(any.clone(), tainted("node.kubernetes.io/unschedulable", "NoSchedule"), (true, true));
        check(any.clone(), tainted("node.kubernetes.io/unreachable", "NoExecute"), (true, true));
        check(any, tainted("node.kubernetes.io/network-unavailable", "NoSchedule"), (false, true));
        let host = json!({"containers": [], "hostNetwork": true});
        check(host, tainted("node.kubernetes.io/network-unavailable", "NoSchedule"), (true, true));
    }

    #[test]
    fn a_pinned_pod_tells_its_node() {
        let mut pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "Exists"}]},
            ]}}},
        }}))
        .unwrap();
        assert_eq!(target(&pod), None);
        pin(pod.spec.as_mut().unwrap(), "a");
        assert_eq!(target(&pod), Some("a"));
        tolerate(pod.spec.as_mut().unwrap());
        let tolerations = pod.spec.unwrap().tolerations.unwrap();
        assert_eq!((tolerations.len(), tolerations[0].toleration_seconds), (6, None));
    }
}
