//! Which nodes a pod's `nodeSelector` and node affinity choose.

use crate::LabelSelector;
use crate::selector::{Operator, Requirement};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::core::v1::Node;
use std::collections::{BTreeMap, BTreeSet};

const METADATA_NAME: &str = "metadata.name";

/// One term: all of its requirements hold.
#[derive(Clone, Debug)]
pub struct Term {
    labels: LabelSelector,
    /// Requirements on `metadata.name`, the only field there is.
    names: Vec<Requirement>,
    empty: bool,
}

impl Term {
    pub fn new(term: &core::NodeSelectorTerm) -> Self {
        let parse = |list: Option<&Vec<core::NodeSelectorRequirement>>| -> Vec<Requirement> {
            list.into_iter().flatten().filter_map(requirement).collect()
        };
        let requirements = parse(term.match_expressions.as_ref());
        let names = parse(term.match_fields.as_ref());
        let empty = requirements.is_empty() && names.is_empty();
        Self { labels: LabelSelector { requirements, nothing: false }, names, empty }
    }

    /// A term without requirements matches no node.
    pub fn matches(&self, node: &Node) -> bool {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        let name = node.metadata.name.as_deref();
        !self.empty
            && self.labels.matches(node.metadata.labels.as_ref().unwrap_or(&NONE))
            && self.names.iter().all(|r| r.matches(name))
    }

    /// The names that the term allows, where it names nodes.
    fn allowed_names(&self) -> Option<BTreeSet<String>> {
        let mut allowed: Option<BTreeSet<String>> = None;
        for r in self.names.iter().filter(|r| r.key == METADATA_NAME && r.operator == Operator::In) {
            let these: BTreeSet<String> = r.values.iter().cloned().collect();
            allowed = Some(match allowed {
                None => these,
                Some(before) => before.intersection(&these).cloned().collect(),
            });
        }
        allowed
    }
}

fn requirement(r: &core::NodeSelectorRequirement) -> Option<Requirement> {
    let operator = match r.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    };
    Some(Requirement { key: r.key.clone(), operator, values: r.values.clone().unwrap_or_default() })
}

/// What a pod requires of its node.
#[derive(Clone, Debug, Default)]
pub struct NodeSelector {
    labels: Option<LabelSelector>,
    /// One of them must match; None where the pod has no required node affinity.
    terms: Option<Vec<Term>>,
}

impl NodeSelector {
    pub fn required(
        labels: Option<&BTreeMap<String, String>>,
        affinity: Option<&core::NodeSelector>,
    ) -> Self {
        Self {
            labels: labels.filter(|l| !l.is_empty()).map(LabelSelector::from_map),
            terms: affinity.map(|a| a.node_selector_terms.iter().map(Term::new).collect()),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_none() && self.terms.is_none()
    }

    pub fn matches(&self, node: &Node) -> bool {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        let labels = node.metadata.labels.as_ref().unwrap_or(&NONE);
        self.labels.as_ref().is_none_or(|s| s.matches(labels))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(node)))
    }

    /// The only nodes that can match, where every term names its nodes: a daemon's pod then visits one node
    /// and not all.
    pub fn allowed_names(&self) -> Option<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        for term in self.terms.as_ref().filter(|t| !t.is_empty())? {
            all.extend(term.allowed_names()?);
        }
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(labels: serde_json::Value, affinity: serde_json::Value, expect: bool) {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "a", "labels": {"zone": "x", "cpus": "4"}}}))
                .unwrap();
        let labels: Option<BTreeMap<String, String>> = serde_json::from_value(labels).unwrap();
        let affinity: Option<core::NodeSelector> = serde_json::from_value(affinity).unwrap();
        assert_eq!(NodeSelector::required(labels.as_ref(), affinity.as_ref()).matches(&node), expect);
    }

    #[test]
    fn selector_and_terms() {
        let term = |key: &str, op: &str, values: &[&str]| json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": op, "values": values}]}]});
        check(json!(null), json!(null), true);
        check(json!({"zone": "x"}), json!(null), true);
        check(json!({"zone": "y"}), json!(null), false);
        check(json!(null), term("zone", "In", &["x", "y"]), true);
        check(json!(null), term("cpus", "Gt", &["3"]), true);
        check(json!(null), term("cpus", "Lt", &["3"]), false);
        check(json!(null), term("gpu", "DoesNotExist", &[]), true);
        check(json!(null), json!({"nodeSelectorTerms": [{}]}), false);
        check(json!({"zone": "y"}), term("zone", "In", &["x"]), false);
        check(
            json!(null),
            json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]}),
            true,
        );
    }
}
