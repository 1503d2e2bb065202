//! The form in which Go would write an object again: without the zero values that `omitempty` leaves out. Two
//! manifests that mean the same are stored as the same bytes, so a later apply, a template's hash or a comparison
//! sees no difference where there is none.

use crate::types::{FieldType, Type};
use serde_json::{Map, Value};

/// Removes the zero values that absence expresses as well: `env: []`, `paused: false`, `labels: {}`. Fields that are
/// pointers in Go keep theirs (`replicas: 0`), and so do structs (`resources: {}`). What the schema does not know
/// stays as it is.
pub fn prune(ty: &'static Type, value: &mut Value) {
    if let Value::Object(object) = value {
        prune_object(ty, object);
    }
}

fn prune_object(ty: &'static Type, object: &mut Map<String, Value>) {
    object.retain(|name, value| {
        let Some(index) = ty.field_index(name) else { return true };
        let field = &ty.fields[index];
        prune_field(&field.ty, value);
        !(field.omit_empty && !field.pointer && is_zero(&field.ty, value))
    });
}

fn prune_field(ty: &'static FieldType, value: &mut Value) {
    match (ty, value) {
        (FieldType::Ref(ty), Value::Object(object)) => prune_object(ty, object),
        (FieldType::Array(item), Value::Array(items)) => items.iter_mut().for_each(|v| prune_field(item, v)),
        (FieldType::Map(item), Value::Object(items)) => items.values_mut().for_each(|v| prune_field(item, v)),
        _ => {}
    }
}

/// Makes a body decode that Go reads and a stricter decoder does not: null for an item of a list or a value of a map
/// is its zero value, and a time that a struct must have is the zero time. Gives whether anything changed.
pub fn complete(ty: &'static Type, value: &mut Value) -> bool {
    let Value::Object(object) = value else { return false };
    let before = object.len();
    object.retain(|name, value| !value.is_null() || ty.field_index(name).is_none());
    let mut changed = object.len() != before;
    for field in ty.fields {
        match object.get_mut(field.json) {
            Some(value) => changed |= complete_field(&field.ty, value),
            None if field.required && matches!(field.ty, FieldType::Time | FieldType::MicroTime) => {
                object.insert(field.json.to_owned(), ZERO_TIME.into());
                changed = true;
            }
            None => {}
        }
    }
    changed
}

/// Go's.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

fn complete_field(ty: &'static FieldType, value: &mut Value) -> bool {
    let fill = |item: &'static FieldType, value: &mut Value| match (value.is_null(), zero(item)) {
        (true, Some(zero)) => {
            *value = zero;
            complete_field(item, value);
            true
        }
        _ => complete_field(item, value),
    };
    match (ty, value) {
        (FieldType::Ref(ty), value) => complete(ty, value),
        (FieldType::Array(item), Value::Array(items)) => {
            items.iter_mut().fold(false, |c, v| fill(item, v) | c)
        }
        (FieldType::StringItems, Value::Array(items)) => {
            items.iter_mut().fold(false, |c, v| fill(&FieldType::String, v) | c)
        }
        (FieldType::Map(item), Value::Object(items)) => {
            items.values_mut().fold(false, |c, v| fill(item, v) | c)
        }
        _ => false,
    }
}

/// None where null is a value.
fn zero(ty: &FieldType) -> Option<Value> {
    Some(match ty {
        FieldType::String | FieldType::Bytes => "".into(),
        FieldType::Int32 | FieldType::Int64 | FieldType::Double | FieldType::IntOrString => 0.into(),
        FieldType::Bool => false.into(),
        FieldType::Quantity => "0".into(),
        FieldType::Time | FieldType::MicroTime => ZERO_TIME.into(),
        FieldType::Ref(_) | FieldType::Map(_) => Value::Object(Map::new()),
        FieldType::Array(_) | FieldType::StringItems => Value::Array(Vec::new()),
        FieldType::RawExtension
        | FieldType::FieldsV1
        | FieldType::Json
        | FieldType::SchemaOrArray
        | FieldType::SchemaOrBool
        | FieldType::SchemaOrStringArray => return None,
    })
}

/// What decodes itself in Go is a struct, and never zero for `omitempty`.
fn is_zero(ty: &FieldType, value: &Value) -> bool {
    match (ty, value) {
        (FieldType::String | FieldType::Bytes, Value::String(text)) => text.is_empty(),
        (FieldType::Int32 | FieldType::Int64, Value::Number(number)) => number.as_i64() == Some(0),
        (FieldType::Double, Value::Number(number)) => number.as_f64() == Some(0.0),
        (FieldType::Bool, Value::Bool(value)) => !value,
        (FieldType::Array(_), Value::Array(items)) => items.is_empty(),
        (FieldType::Map(_), Value::Object(items)) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nulls_are_what_go_reads_them_as() {
        let check = |kind: &str, given: Value, expect: Value| {
            let ty = crate::for_api_version("v1", kind).expect("a kind of v1");
            let mut completed = given.clone();
            assert_eq!(complete(ty, &mut completed), given != expect);
            assert_eq!(completed, expect);
        };
        check(
            "Pod",
            json!({ "metadata": { "labels": { "a": null }, "creationTimestamp": null }, "spec": { "containers": [{ "name": "c", "args": ["x", null], "resources": { "limits": { "cpu": null } } }, null] } }),
            json!({ "metadata": { "labels": { "a": "" } }, "spec": { "containers": [{ "name": "c", "args": ["x", ""], "resources": { "limits": { "cpu": "0" } } }, {}] } }),
        );
        check(
            "Service",
            json!({ "status": { "conditions": [{ "type": "A", "lastTransitionTime": null }] } }),
            json!({ "status": { "conditions": [{ "type": "A", "lastTransitionTime": "0001-01-01T00:00:00Z" }] } }),
        );
        let whole = json!({ "spec": { "containers": [{ "name": "c" }] } });
        check("Pod", whole.clone(), whole);
    }

    #[test]
    fn zero_values_go_where_absence_means_the_same() {
        let check = |kind: &str, given: Value, expect: Value| {
            let ty = crate::for_api_version("apps/v1", kind).expect("a kind of apps/v1");
            let superfluous = crate::strict::inspect(ty, given.to_string().as_bytes()).superfluous;
            assert_eq!(superfluous, given != expect, "{given}");
            let mut pruned = given;
            prune(ty, &mut pruned);
            assert_eq!(pruned, expect);
        };
        let spec = |pod: Value| json!({ "spec": { "template": { "spec": pod } } });
        check(
            "Deployment",
            json!({ "metadata": { "labels": {}, "name": "" }, "spec": { "paused": false, "minReadySeconds": 0, "replicas": 0 } }),
            json!({ "metadata": {}, "spec": { "replicas": 0 } }),
        );
        check(
            "Deployment",
            spec(
                json!({ "containers": [{ "name": "", "env": [], "resources": { "limits": {} } }], "hostNetwork": false }),
            ),
            spec(json!({ "containers": [{ "name": "", "resources": {} }] })),
        );
        // pointers, structs, and values inside maps
        let kept = spec(
            json!({ "securityContext": {}, "shareProcessNamespace": false, "nodeSelector": { "a": "" } }),
        );
        check("Deployment", kept.clone(), kept);
    }
}
