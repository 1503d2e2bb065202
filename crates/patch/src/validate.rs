//! Whether an applied configuration fits its type, in structured-merge-diff's words.

use crate::compare::{duplicates, element_of};
use crate::shape::{MapShape, Node, Shape};
use schema::{Field, FieldType};
use serde_json::Value;

/// Every way in which the configuration does not fit; empty if it does.
pub(crate) fn validate(value: &Value, shape: Shape<'_>) -> Vec<String> {
    let mut errors = Vec::new();
    walk(value, shape, true, &mut String::new(), &mut errors);
    errors
}

/// One error as it is, several under a heading.
pub(crate) fn message(errors: &[String]) -> String {
    match errors {
        [only] => only.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    }
}

fn report(errors: &mut Vec<String>, path: &str, what: &str) {
    errors.push(if path.is_empty() { what.to_owned() } else { format!("{path}: {what}") });
}

fn walk(value: &Value, shape: Shape<'_>, root: bool, path: &mut String, errors: &mut Vec<String>) {
    match (shape.resolve(Some(value), root), value) {
        (_, Value::Null) => {}
        (Node::Map(map), Value::Object(fields)) => {
            for (key, child) in fields {
                let length = path.len();
                path.push('.');
                path.push_str(key);
                match map.child(key) {
                    Some((shape, _)) => walk(child, shape, false, path, errors),
                    None => report(errors, path, "field not declared in schema"),
                }
                path.truncate(length);
            }
        }
        (Node::Map(MapShape::Struct(_) | MapShape::Custom { .. } | MapShape::Values(_)), other) => {
            report(errors, path, &format!("expected map, got {}", found(other)));
        }
        (Node::List(list), Value::Array(items)) => {
            let mut elements = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                match element_of(list, item) {
                    Err(why) => {
                        report(errors, path, &format!("element {index}: {why}"));
                        return;
                    }
                    Ok(element) => elements.push(element),
                }
            }
            for name in duplicates(&elements) {
                report(errors, path, &format!("duplicate entries for key {name}"));
            }
            for (item, element) in items.iter().zip(&elements) {
                let length = path.len();
                path.push_str(&element.to_string());
                walk(item, list.item(), false, path, errors);
                path.truncate(length);
            }
        }
        (Node::List(_), other) => report(errors, path, &format!("expected list, got {}", found(other))),
        (Node::Leaf, value) => {
            if let Shape::Field(Field { ty, .. }) | Shape::Element(ty) = shape {
                leaf(value, ty, path, errors);
            }
        }
    }
}

/// Scalars, and what lies inside lists and maps that are one unit.
fn leaf(value: &Value, ty: &'static FieldType, path: &mut String, errors: &mut Vec<String>) {
    let wrong = match (ty, value) {
        (FieldType::Int32 | FieldType::Int64 | FieldType::Double, v) if !v.is_number() => {
            Some(format!("expected numeric (int or float), got {}", go_kind(v)))
        }
        (FieldType::String | FieldType::Bytes | FieldType::Time | FieldType::MicroTime, v)
            if !v.is_string() =>
        {
            Some(format!("expected string, got {}", found(v)))
        }
        (FieldType::Bool, v) if !v.is_boolean() => Some(format!("expected boolean, got {}", found(v))),
        (FieldType::Quantity | FieldType::IntOrString, Value::Array(_) | Value::Object(_)) => {
            Some(format!("expected any scalar, got {}", found(value)))
        }
        (FieldType::Array(item), Value::Array(items)) => {
            for (index, value) in items.iter().enumerate() {
                let length = path.len();
                path.push_str(&format!("[{index}]"));
                walk(value, Shape::Element(item), false, path, errors);
                path.truncate(length);
            }
            None
        }
        (FieldType::Array(_), v) => Some(format!("expected list, got {}", found(v))),
        (FieldType::Ref(inner), Value::Object(fields)) => {
            for (key, child) in fields {
                let length = path.len();
                path.push('.');
                path.push_str(key);
                match inner.field(key) {
                    Some(field) => walk(child, Shape::Field(field), false, path, errors),
                    None => report(errors, path, "field not declared in schema"),
                }
                path.truncate(length);
            }
            None
        }
        (FieldType::Ref(_) | FieldType::Map(_), v) if !v.is_object() => {
            Some(format!("expected map, got {}", found(v)))
        }
        _ => None,
    };
    if let Some(wrong) = wrong {
        report(errors, path, &wrong);
    }
}

/// A value as Go prints it behind `%v` of its library's value type.
fn found(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => format!("&{{{value}}}"),
        scalar => format!("&{{{}}}", scalar.as_str().map_or_else(|| scalar.to_string(), str::to_owned)),
    }
}

fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        Value::Number(_) => "float64",
        Value::Null => "<nil>",
    }
}
