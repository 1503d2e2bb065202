//! Pod templates: whether two are the same, and a short name for one.

use super::HASH_LABEL;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

/// A template in the form in which equal templates are equal: without the hash label, absent and empty alike.
pub(super) struct Normal {
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

fn normal(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).expect("API objects have string keys and finite numbers");
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
                _ => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// FNV-32a over the template and the collision count, in the letters that cannot form words: as long as the template
/// stays the same, so does the name of its replica set.
pub(super) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut h: u32 = 0x811c_9dc5;
    let mut feed = |bytes: &[u8]| {
        for b in bytes {
            h = (h ^ u32::from(*b)).wrapping_mul(0x0100_0193);
        }
    };
    feed(normal(template).to_string().as_bytes());
    if collisions > 0 {
        feed(&collisions.to_le_bytes());
    }
    h.to_string().bytes().map(|b| LETTERS[usize::from(b) % LETTERS.len()] as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
