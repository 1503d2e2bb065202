//! How values merge, seen as one thing for built-in types, custom resources with a schema and values without any.

use schema::{Field, FieldType, ListType, Type};
use serde_json::Value;
use std::borrow::Cow;

/// What stands at a place of an object, for merging.
#[derive(Debug, Clone, Copy)]
pub enum Shape<'s> {
    /// A built-in type.
    Struct(&'static Type),
    /// A field of a built-in type, with its markers.
    Field(&'static Field),
    /// An element of a list or map of a built-in type; lists inside are atomic.
    Element(&'static FieldType),
    /// A node of a custom resource's OpenAPI v3 schema.
    Custom(&'s Value),
    /// No schema: maps are granular, lists are atomic.
    Deduced,
    /// No schema and not looked into.
    Atomic,
}

/// A shape resolved for the value that stands there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Node<'s> {
    /// A scalar, or a list or map that is one unit.
    Leaf,
    Map(MapShape<'s>),
    List(ListShape<'s>),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum MapShape<'s> {
    Struct(&'static Type),
    /// All values alike.
    Values(Shape<'s>),
    /// Declared properties, and what other keys hold if they may be there.
    Custom {
        properties: Option<&'s serde_json::Map<String, Value>>,
        others: Option<Shape<'s>>,
        root: bool,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum ListShape<'s> {
    Set,
    Keyed { keys: Keys<'s>, item: Shape<'s> },
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Keys<'s> {
    Static(&'static [&'static str]),
    Custom(&'s [Value]),
}

impl<'s> Keys<'s> {
    pub(crate) fn iter(self) -> impl Iterator<Item = &'s str> {
        let (fixed, custom) = match self {
            Self::Static(keys) => (keys, &[][..]),
            Self::Custom(keys) => (&[][..], keys),
        };
        fixed.iter().copied().chain(custom.iter().filter_map(Value::as_str))
    }
}

impl From<&'static Type> for Shape<'_> {
    fn from(ty: &'static Type) -> Self {
        Self::Struct(ty)
    }
}

impl<'s> Shape<'s> {
    /// The shape of a custom resource from the `openAPIV3Schema` of its version.
    pub fn custom(schema: &'s Value) -> Self {
        Self::Custom(schema)
    }

    /// What the value here is, as the schema says; `root` for the object itself.
    pub(crate) fn resolve(self, value: Option<&Value>, root: bool) -> Node<'s> {
        match self {
            Self::Struct(ty) if ty.atomic => Node::Leaf,
            Self::Struct(ty) => Node::Map(MapShape::Struct(ty)),
            Self::Field(field) => resolve_field(field),
            Self::Element(ty) => resolve_type(ty),
            Self::Custom(schema) => resolve_custom(schema, value, root),
            Self::Deduced => match value {
                Some(Value::Object(_)) => Node::Map(MapShape::Values(Self::Deduced)),
                _ => Node::Leaf,
            },
            Self::Atomic => Node::Leaf,
        }
    }
}

fn resolve_field(field: &'static Field) -> Node<'static> {
    match (&field.ty, field.list, field.atomic_map) {
        (FieldType::Array(_) | FieldType::StringItems, ListType::Set, _) => Node::List(ListShape::Set),
        (FieldType::Array(item), ListType::Map, _) => {
            Node::List(ListShape::Keyed { keys: Keys::Static(field.list_keys), item: Shape::Element(item) })
        }
        (FieldType::Map(_) | FieldType::Ref(_), _, Some(true)) => Node::Leaf,
        (FieldType::Ref(ty), _, Some(false)) => Node::Map(MapShape::Struct(ty)),
        (ty, _, _) => resolve_type(ty),
    }
}

fn resolve_type(ty: &'static FieldType) -> Node<'static> {
    match ty {
        FieldType::Ref(ty) if ty.atomic => Node::Leaf,
        FieldType::Ref(ty) => Node::Map(MapShape::Struct(ty)),
        FieldType::Map(value) => Node::Map(MapShape::Values(Shape::Element(value))),
        _ => Node::Leaf,
    }
}

fn resolve_custom<'s>(schema: &'s Value, value: Option<&Value>, root: bool) -> Node<'s> {
    let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or(false);
    let text = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("type") {
        "array" => match (text("x-kubernetes-list-type"), schema.get("items")) {
            ("set", _) => Node::List(ListShape::Set),
            ("map", Some(item)) => match schema.get("x-kubernetes-list-map-keys") {
                Some(Value::Array(keys)) => {
                    Node::List(ListShape::Keyed { keys: Keys::Custom(keys), item: Shape::Custom(item) })
                }
                _ => Node::Leaf,
            },
            _ => Node::Leaf,
        },
        "object" if text("x-kubernetes-map-type") == "atomic" => Node::Leaf,
        "object" => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let others = match schema.get("additionalProperties") {
                Some(values @ Value::Object(_)) => Some(Shape::Custom(values)),
                Some(Value::Bool(true)) => Some(Shape::Deduced),
                _ if flag("x-kubernetes-preserve-unknown-fields") => Some(Shape::Deduced),
                _ if properties.is_none() => Some(Shape::Deduced),
                _ => None,
            };
            let root = root || flag("x-kubernetes-embedded-resource");
            Node::Map(MapShape::Custom { properties, others, root })
        }
        "" if !flag("x-kubernetes-int-or-string") => Shape::Deduced.resolve(value, root),
        _ => Node::Leaf,
    }
}

impl<'s> MapShape<'s> {
    /// The shape of a key's value and whether the key is a declared field; `None` if it may not be there.
    pub(crate) fn child(self, key: &str) -> Option<(Shape<'s>, bool)> {
        match self {
            Self::Struct(ty) => ty.field(key).map(|field| (Shape::Field(field), true)),
            Self::Values(value) => Some((value, false)),
            Self::Custom { properties, others, root } => {
                if root {
                    match key {
                        "metadata" => return object_meta().map(|ty| (Shape::Struct(ty), true)),
                        "apiVersion" | "kind" => return Some((Shape::Atomic, true)),
                        _ => {}
                    }
                }
                match properties.and_then(|p| p.get(key)) {
                    Some(schema) => Some((Shape::Custom(schema), true)),
                    None => others.map(|shape| (shape, false)),
                }
            }
        }
    }
}

fn object_meta() -> Option<&'static Type> {
    schema::lookup("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
}

impl<'s> Shape<'s> {
    /// The default a list's key has when an item leaves it out.
    pub(crate) fn key_default(self, key: &str) -> Option<Cow<'s, Value>> {
        let ty = match self {
            Self::Element(FieldType::Ref(ty)) => ty,
            Self::Struct(ty) => ty,
            Self::Custom(schema) => {
                return schema.get("properties")?.get(key)?.get("default").map(Cow::Borrowed);
            }
            _ => return None,
        };
        let default = serde_json::from_str(ty.field(key)?.default?).ok()?;
        Some(Cow::Owned(default))
    }
}
