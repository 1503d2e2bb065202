//! Pod templates: whether two are the same, a short name for one, and the form in which upstream writes one.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

/// On replica sets and their pods: the template they are of.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";

/// A template in the form in which equal templates are equal: without the hash label, absent and empty alike.
pub(crate) struct Normal {
    value: Value,
    original: PodTemplateSpec,
}

impl Normal {
    pub fn of(template: &PodTemplateSpec) -> Self {
        Self { value: normal(template), original: template.clone() }
    }

    pub fn same(&self, other: &PodTemplateSpec) -> bool {
        // Nearly always the first comparison decides that they are equal.
        let mut other = other.clone();
        if let Some(labels) = other.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
            labels.remove(HASH_LABEL);
        }
        self.original == other || self.value == normal(&other)
    }
}

pub(crate) fn encoded(template: &PodTemplateSpec) -> Value {
    serde_json::to_value(template).expect("API objects have string keys and finite numbers")
}

fn normal(template: &PodTemplateSpec) -> Value {
    let mut value = encoded(template);
    if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    prune(&mut value);
    value
}

/// Removes nulls, empty lists and empty maps, and what becomes empty by that. Items of lists stay.
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|key, v| match v {
                Value::Null => false,
                Value::Array(a) => !a.is_empty(),
                // A volume that is an emptyDir says so by an empty map.
                Value::Object(m) => {
                    !m.is_empty()
                        || key != "metadata"
                            && key != "labels"
                            && key != "annotations"
                            && key != "securityContext"
                            && key != "resources"
                            && key != "nodeSelector"
                }
                // What an absent divisor means.
                Value::String(s) => key != "divisor" || s != "0",
                _ => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// Adds what Go writes of structs that are not behind a pointer, even where they are empty.
pub(crate) fn as_upstream(template: &mut Value) {
    if template.get("metadata").is_none() {
        template["metadata"] = json!({});
    }
    let Some(spec) = template.get_mut("spec") else { return };
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        for container in spec.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
            if container.get("resources").is_none() {
                container["resources"] = json!({});
            }
        }
    }
    add_divisors(spec);
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(claim) = volume.pointer_mut("/ephemeral/volumeClaimTemplate") {
            if claim.get("metadata").is_none() {
                claim["metadata"] = json!({});
            }
            if claim.pointer("/spec/resources").is_none() {
                claim["spec"]["resources"] = json!({});
            }
        }
    }
}

fn add_divisors(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(field) = map.get_mut("resourceFieldRef").and_then(Value::as_object_mut) {
                field.entry("divisor").or_insert_with(|| json!("0"));
            }
            map.values_mut().for_each(add_divisors);
        }
        Value::Array(items) => items.iter_mut().for_each(add_divisors),
        _ => {}
    }
}

/// A 32-bit number in the letters that cannot form words.
pub(crate) fn safe_letters(n: u32) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    n.to_string().bytes().map(|b| LETTERS[usize::from(b) % LETTERS.len()] as char).collect()
}

/// FNV-32a over the template and the collision count: as long as the template stays the same, so does the name of its
/// replica set.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut h: u32 = 0x811c_9dc5;
    let mut feed = |bytes: &[u8]| {
        for b in bytes {
            h = (h ^ u32::from(*b)).wrapping_mul(0x0100_0193);
        }
    };
    let mut value = normal(template);
    value.sort_all_objects();
    feed(value.to_string().as_bytes());
    if collisions > 0 {
        feed(&collisions.to_le_bytes());
    }
    safe_letters(h)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(v: Value) -> PodTemplateSpec {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn templates_are_compared_without_the_hash_label() {
        let a =
            template(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}}));
        let b = template(json!({
            "metadata": {"labels": {"a": "b", HASH_LABEL: "x"}},
            "spec": {"containers": [{"name": "c", "env": []}], "nodeSelector": {}},
        }));
        let c =
            template(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "d"}]}}));
        assert!(Normal::of(&a).same(&b));
        assert!(!Normal::of(&a).same(&c));
        assert_eq!(hash(&a, 0), hash(&b, 0));
        assert_ne!(hash(&a, 0), hash(&c, 0));
        assert_ne!(hash(&a, 0), hash(&a, 1));
    }
}
