//! Renders the static tables of `src/types.rs`.

use crate::facts::{Field, Type};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The Rust source of `TYPES` and `KINDS`.
pub fn render(types: &[Type]) -> String {
    let index: BTreeMap<&str, usize> = types.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
    let mut out = String::new();
    for (number, ty) in types.iter().enumerate() {
        render_type(&mut out, number, ty, &index);
    }
    let _ = write!(out, "pub(crate) static TYPES: [&Type; {}] = [", types.len());
    for number in 0..types.len() {
        let _ = write!(out, "&T{number},");
    }
    out.push_str("];\n");
    let mut kinds: Vec<(&(String, String, String), usize)> =
        types.iter().enumerate().flat_map(|(i, t)| t.gvks.iter().map(move |g| (g, i))).collect();
    kinds.sort();
    let _ = write!(out, "pub(crate) static KINDS: [(Gvk, &Type); {}] = [", kinds.len());
    for ((group, version, kind), number) in kinds {
        let _ =
            writeln!(out, "(Gvk {{ group: {group:?}, version: {version:?}, kind: {kind:?} }}, &T{number}),");
    }
    out.push_str("];\n");
    out
}

fn render_type(out: &mut String, number: usize, ty: &Type, index: &BTreeMap<&str, usize>) {
    let _ =
        write!(out, "static T{number}: Type = Type {{ name: {:?}, atomic: {}, gvks: &[", ty.name, ty.atomic);
    for (group, version, kind) in &ty.gvks {
        let _ = write!(out, "Gvk {{ group: {group:?}, version: {version:?}, kind: {kind:?} }},");
    }
    out.push_str("], fields: &[\n");
    for field in &ty.fields {
        render_field(out, field, index);
    }
    out.push_str("], wire: &");
    render_wire(out, &ty.fields, &[]);
    out.push_str(" };\n");
}

fn render_field(out: &mut String, field: &Field, index: &BTreeMap<&str, usize>) {
    let list = match field.list.as_str() {
        "set" => "ListType::Set",
        "map" => "ListType::Map",
        _ => "ListType::Atomic",
    };
    let has = |strategy: &str| field.patch.iter().any(|p| p == strategy);
    let merge_key =
        if field.merge_key.is_empty() { "None".to_owned() } else { format!("Some({:?})", field.merge_key) };
    let _ = writeln!(
        out,
        "Field {{ json: {:?}, number: &{:?}, ty: {}, required: {}, pointer: {}, omit_empty: {}, list: {list}, \
         list_keys: &{:?}, atomic_map: {}, patch: PatchStrategy {{ merge: {}, replace: {}, retain_keys: {} }}, \
         merge_key: {merge_key}, go_type: {:?}, enum_values: &{:?}, default: {:?} }},",
        field.json,
        field.path,
        field_type(&field.ty, index),
        field.required,
        field.pointer,
        field.omit_empty,
        field.keys,
        match field.map.as_str() {
            "" => "None",
            "atomic" => "Some(true)",
            _ => "Some(false)",
        },
        has("merge"),
        has("replace"),
        has("retainKeys"),
        field.go_type,
        field.enum_values,
        field.default,
    );
}

fn field_type(ty: &str, index: &BTreeMap<&str, usize>) -> String {
    if let Some(item) = ty.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return format!("FieldType::Array(&{})", field_type(item, index));
    }
    if let Some(value) = ty.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        return format!("FieldType::Map(&{})", field_type(value, index));
    }
    let name = match ty {
        "string" => "String",
        "int32" => "Int32",
        "int64" => "Int64",
        "bool" => "Bool",
        "double" => "Double",
        "bytes" => "Bytes",
        "quantity" => "Quantity",
        "time" => "Time",
        "microtime" => "MicroTime",
        "intorstring" => "IntOrString",
        "raw" => "RawExtension",
        "fieldsv1" => "FieldsV1",
        "json" => "Json",
        "schemaorarray" => "SchemaOrArray",
        "schemaorbool" => "SchemaOrBool",
        "schemaorstrings" => "SchemaOrStringArray",
        "stringitems" => "StringItems",
        reference => return format!("FieldType::Ref(&T{})", index[reference]),
    };
    format!("FieldType::{name}")
}

/// The wire table of the message whose fields lie below the protobuf path `prefix`.
fn render_wire(out: &mut String, fields: &[Field], prefix: &[u32]) {
    let mut entries: BTreeMap<u32, Option<usize>> = BTreeMap::new();
    for (position, field) in fields.iter().enumerate() {
        if let Some((next, rest)) = field.path.strip_prefix(prefix).and_then(|p| p.split_first())
            && *next != 0
        {
            entries.insert(*next, rest.is_empty().then_some(position));
        }
    }
    out.push('[');
    for (number, position) in entries {
        match position {
            Some(position) => {
                let _ = write!(out, "Wire {{ number: {number}, target: WireTarget::Field({position}) }},");
            }
            None => {
                let _ = write!(out, "Wire {{ number: {number}, target: WireTarget::Inline(&");
                render_wire(out, fields, &[prefix, &[number]].concat());
                out.push_str(") },");
            }
        }
    }
    out.push(']');
}
