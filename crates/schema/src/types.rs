//! The shape of the tables that `build/tables.rs` fills from `data/v1.36.types`.

/// One definition of the API, for example `io.k8s.api.core.v1.Pod`.
#[derive(Debug)]
pub struct Type {
    /// The definition's name in the OpenAPI document.
    pub name: &'static str,
    /// Server-side apply treats a value of this type as one unit (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// The kinds this definition is served as; empty for parts of other types.
    pub gvks: &'static [Gvk],
    /// In the order of their JSON names. Fields that Go embeds stand beside the others.
    pub fields: &'static [Field],
    /// The protobuf message, in the order of its numbers.
    pub wire: &'static [Wire],
}

/// Group, version and kind; the core group is the empty string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gvk {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
}

/// One JSON field.
#[derive(Debug)]
pub struct Field {
    pub json: &'static str,
    /// Protobuf field numbers from the message down to the field: two or more where Go embeds a struct
    /// (`Volume.emptyDir` is `[2, 2]`), `[0]` if the field is not on the protobuf wire.
    pub number: &'static [u32],
    pub ty: FieldType,
    pub required: bool,
    /// The Go field is a pointer: zero is a value and absent is another.
    pub pointer: bool,
    /// Go leaves the zero value out of JSON.
    pub omit_empty: bool,
    /// How server-side apply merges a list; `Atomic` also where the API says nothing.
    pub list: ListType,
    /// The keys of a `ListType::Map`.
    pub list_keys: &'static [&'static str],
    /// `x-kubernetes-map-type` on the field: `Some(true)` atomic, `Some(false)` granular, `None` as the type says.
    pub atomic_map: Option<bool>,
    pub patch: PatchStrategy,
    /// The merge key of strategic merge patch.
    pub merge_key: Option<&'static str>,
    /// The Go name of a named string type (`RestartPolicy`), else empty.
    pub go_type: &'static str,
    pub enum_values: &'static [&'static str],
    /// The default the OpenAPI document shows, as JSON.
    pub default: Option<&'static str>,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub enum FieldType {
    String,
    Int32,
    Int64,
    Bool,
    Double,
    /// Base64 in JSON.
    Bytes,
    Quantity,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    IntOrString,
    /// Any object, as JSON bytes in protobuf.
    RawExtension,
    FieldsV1,
    /// Any value, as JSON bytes in protobuf.
    Json,
    /// `JSONSchemaPropsOrArray`
    SchemaOrArray,
    /// `JSONSchemaPropsOrBool`
    SchemaOrBool,
    /// `JSONSchemaPropsOrStringArray`
    SchemaOrStringArray,
    /// A list of strings that is a message of its own in protobuf (`Verbs`, `ExtraValue`).
    StringItems,
    Ref(&'static Type),
    Array(&'static FieldType),
    Map(&'static FieldType),
}

/// How server-side apply merges a list (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    Map,
}

/// `x-kubernetes-patch-strategy`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchStrategy {
    pub merge: bool,
    pub replace: bool,
    pub retain_keys: bool,
}

/// One protobuf field of a message.
#[derive(Debug)]
pub struct Wire {
    pub number: u32,
    pub target: WireTarget,
}

/// Where a protobuf field goes.
#[derive(Debug)]
pub enum WireTarget {
    /// Index into [`Type::fields`].
    Field(usize),
    /// A message whose fields belong to the same JSON object.
    Inline(&'static [Wire]),
}

include!(concat!(env!("OUT_DIR"), "/tables.rs"));

impl Type {
    /// The field of this JSON name.
    pub fn field(&'static self, json: &str) -> Option<&'static Field> {
        self.field_index(json).map(|index| &self.fields[index])
    }

    pub(crate) fn field_index(&self, json: &str) -> Option<usize> {
        self.fields.binary_search_by(|field| field.json.cmp(json)).ok()
    }

    /// The Go name of the type: the last part of its definition name.
    pub fn go_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// For a List kind: the type of its items.
    pub fn list_item(&'static self) -> Option<&'static Type> {
        match self.field("items")?.ty {
            FieldType::Array(FieldType::Ref(item)) if self.field("metadata").is_some() => Some(item),
            _ => None,
        }
    }
}

/// The definition of this name (`io.k8s.api.core.v1.Pod`).
pub fn lookup(definition: &str) -> Option<&'static Type> {
    TYPES.binary_search_by(|ty| ty.name.cmp(definition)).ok().map(|index| TYPES[index])
}

/// The definition served as this kind. `DeleteOptions` and `WatchEvent` belong to every group.
pub fn for_gvk(group: &str, version: &str, kind: &str) -> Option<&'static Type> {
    let key = (group, version, kind);
    KINDS
        .binary_search_by(|(gvk, _)| (gvk.group, gvk.version, gvk.kind).cmp(&key))
        .ok()
        .map(|index| KINDS[index].1)
}

/// As [`for_gvk`], from an `apiVersion` string (`v1`, `apps/v1`).
pub fn for_api_version(api_version: &str, kind: &str) -> Option<&'static Type> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    for_gvk(group, version, kind)
}

/// Every definition, in the order of the names.
pub fn all() -> &'static [&'static Type] {
    &TYPES
}
