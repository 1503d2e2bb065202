//! The `paths` of a document: what can be done with each resource.

use super::definitions::{PATCH, Version};
use super::{ResourceDoc, SubresourceDoc};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const API_RESOURCE_LIST: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";

const OBJECT_TYPES: &[&str] =
    &["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
const LIST_TYPES: &[&str] = &[
    "application/json",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/yaml",
];
const PATCH_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// Query parameters: name, type, description.
type Parameter = (&'static str, &'static str, &'static str);

const DRY_RUN: Parameter =
    ("dryRun", "string", "With \"All\", every stage of the request is processed and nothing is stored.");
const FIELD_MANAGER: Parameter = (
    "fieldManager",
    "string",
    "The name of the actor that makes the change; at most 128 printable characters. Apply requests need it.",
);
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What becomes of unknown and duplicate fields: Ignore drops them, Warn (the default) drops them with a warning, \
     Strict refuses the request.",
);
const FORCE: Parameter =
    ("force", "boolean", "Makes an apply request take the fields that other managers own. Only for apply.");
const PRETTY: Parameter = ("pretty", "string", "If \"true\", the output is indented.");

const DELETE: &[Parameter] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds until the object is deleted; 0 deletes at once."),
    ("orphanDependents", "boolean", "Deprecated in favour of propagationPolicy: whether dependents stay."),
    ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
];

const LIST: &[Parameter] = &[
    ("continue", "string", "The token a former page of this list ended with."),
    ("fieldSelector", "string", "Restricts the list to objects whose fields match."),
    ("labelSelector", "string", "Restricts the list to objects whose labels match."),
    (
        "limit",
        "integer",
        "At most this many objects are returned; a token to continue follows if there are more.",
    ),
    ("resourceVersion", "string", "What state the request is served from."),
    ("resourceVersionMatch", "string", "How resourceVersion is applied: Exact or NotOlderThan."),
    (
        "sendInitialEvents",
        "boolean",
        "A watch begins with the objects there are, and says by a bookmark where they end.",
    ),
    ("timeoutSeconds", "integer", "Seconds after which a list or watch ends."),
];

const WATCH: &[Parameter] = &[
    (
        "allowWatchBookmarks",
        "boolean",
        "Asks for events of the type BOOKMARK, which carry only a resourceVersion.",
    ),
    ("watch", "boolean", "Streams changes as add, update and delete events instead of a list."),
];

/// The operation of a subresource or resource that an item is made of.
struct Target<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    definition: &'a str,
}

/// Collects path items and the definitions they refer to.
pub(super) struct PathWriter<'r> {
    version: Version,
    roots: &'r mut BTreeSet<String>,
    items: BTreeMap<String, Vec<u8>>,
}

impl<'r> PathWriter<'r> {
    pub(super) fn new(version: Version, roots: &'r mut BTreeSet<String>) -> Self {
        Self { version, roots, items: BTreeMap::new() }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = vec![b'{'];
        for (path, item) in &self.items {
            if out.len() > 1 {
                out.push(b',');
            }
            serde_json::to_writer(&mut out, path).expect("writing to memory does not fail");
            out.push(b':');
            out.extend_from_slice(item);
        }
        out.push(b'}');
        out
    }

    pub(super) fn group_version(&mut self, group: &str, version: &str) {
        let id = format!("get{}{}APIResources", camel_group(group), upper_first(version));
        let mut operation = Map::new();
        operation.insert("description".to_owned(), "get available resources".into());
        operation.insert("operationId".to_owned(), id.into());
        operation.insert("tags".to_owned(), json!([tag(group, version)]));
        self.responses(&mut operation, &["200"], API_RESOURCE_LIST, OBJECT_TYPES);
        self.put(format!("{}/", base(group, version)), json!({ "get": operation }));
    }

    pub(super) fn resource(&mut self, resource: &ResourceDoc) {
        let root = base(&resource.group, &resource.version);
        let target = Target {
            group: &resource.group,
            version: &resource.version,
            kind: &resource.kind,
            definition: &resource.definition,
        };
        let scope = if resource.namespaced { "Namespaced" } else { "" };
        let prefix = format!("{}{}", camel_group(&resource.group), upper_first(&resource.version));
        let kind = &resource.kind;
        let has = |verb: &str| resource.verbs.iter().any(|v| v == verb);
        let collection = match resource.namespaced {
            true => format!("{root}/namespaces/{{namespace}}/{}", resource.plural),
            false => format!("{root}/{}", resource.plural),
        };
        let list = format!("{}List", resource.definition);
        let mut item = Map::new();
        if has("list") {
            let id = format!("list{prefix}{scope}{kind}");
            item.insert("get".to_owned(), self.list(&target, id, &list, true));
        }
        if has("create") {
            let id = format!("create{prefix}{scope}{kind}");
            let parameters = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
            let operation =
                self.write("post", format!("create {} {kind}", article(kind)), id, &target, parameters);
            item.insert("post".to_owned(), operation);
        }
        if has("deletecollection") {
            let id = format!("delete{prefix}Collection{scope}{kind}");
            let mut parameters = LIST.to_vec();
            parameters.extend_from_slice(DELETE);
            parameters.sort_by_key(|p| p.0);
            let what = format!("delete collection of {kind}");
            item.insert("delete".to_owned(), self.delete("deletecollection", what, id, &target, &parameters));
        }
        self.finish_item(collection.clone(), item, resource.namespaced, None);
        if resource.namespaced && has("list") {
            let mut all = Map::new();
            let id = format!("list{prefix}{kind}ForAllNamespaces");
            all.insert("get".to_owned(), self.list(&target, id, &list, false));
            let mut parameters: Vec<Parameter> = LIST.iter().chain(WATCH).copied().collect();
            parameters.push(PRETTY);
            parameters.sort_by_key(|p| p.0);
            let parameters: Vec<Value> = parameters.iter().map(|p| self.query(p)).collect();
            all.insert("parameters".to_owned(), parameters.into());
            self.put(format!("{root}/{}", resource.plural), Value::Object(all));
        }
        let named = format!("{collection}/{{name}}");
        let mut item = Map::new();
        self.object_operations(&mut item, &target, &resource.verbs, &format!("{prefix}{scope}{kind}"), "");
        self.finish_item(named.clone(), item, resource.namespaced, Some(kind));
        for subresource in &resource.subresources {
            self.subresource(resource, subresource, &named, &format!("{prefix}{{verb}}{scope}{kind}"));
        }
    }

    fn subresource(&mut self, resource: &ResourceDoc, sub: &SubresourceDoc, named: &str, id: &str) {
        let target =
            Target { group: &sub.group, version: &sub.version, kind: &sub.kind, definition: &sub.definition };
        let suffix = sub.name.split('/').map(upper_first).collect::<String>();
        let mut item = Map::new();
        if sub.connect {
            for verb in &sub.verbs {
                let method = match verb.as_str() {
                    "create" => "post",
                    "update" => "put",
                    other => other,
                };
                let id = format!("connect{}{suffix}", id.replace("{verb}", &upper_first(method)));
                let upper = method.to_uppercase();
                let what = format!("connect {upper} requests to {} of {}", sub.name, resource.kind);
                let mut operation = self.operation("connect", what, id, &target);
                self.string_response(&mut operation);
                item.insert(method.to_owned(), Value::Object(operation));
            }
        } else {
            let id = id.replace("{verb}", "");
            if sub.verbs.iter().any(|v| v == "create") {
                let what = format!("create {} of {} {}", sub.name, article(&resource.kind), resource.kind);
                let parameters = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
                let operation = self.write("post", what, format!("create{id}{suffix}"), &target, parameters);
                item.insert("post".to_owned(), operation);
            }
            let of = format!("{} of the specified ", sub.name);
            let owner = Target { kind: &resource.kind, ..target };
            self.sub_operations(&mut item, &owner, sub, &id, &of, &suffix);
        }
        self.finish_item(format!("{named}/{}", sub.name), item, resource.namespaced, Some(&sub.kind));
    }

    fn sub_operations(
        &mut self,
        item: &mut Map<String, Value>,
        owner: &Target<'_>,
        sub: &SubresourceDoc,
        id: &str,
        of: &str,
        suffix: &str,
    ) {
        let described = owner.kind;
        self.object_operations(item, owner, &sub.verbs, &format!("{id}{suffix}"), of);
        for (method, operation) in item.iter_mut() {
            if method != "post" && described != sub.kind {
                operation["x-kubernetes-group-version-kind"]["kind"] = sub.kind.clone().into();
            }
        }
    }

    /// get, put, patch and delete of one object; `of` goes before the kind in descriptions.
    fn object_operations(
        &mut self,
        item: &mut Map<String, Value>,
        target: &Target<'_>,
        verbs: &[String],
        id: &str,
        of: &str,
    ) {
        let has = |verb: &str| verbs.iter().any(|v| v == verb);
        let what = |verb: &str| match of {
            "" => format!("{verb} the specified {}", target.kind),
            of => format!("{verb} {of}{}", target.kind),
        };
        if has("get") {
            let mut operation = self.operation("get", what("read"), format!("read{id}"), target);
            self.responses(&mut operation, &["200"], target.definition, OBJECT_TYPES);
            item.insert("get".to_owned(), Value::Object(operation));
        }
        if has("update") {
            let parameters = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
            let operation = self.write("put", what("replace"), format!("replace{id}"), target, parameters);
            item.insert("put".to_owned(), operation);
        }
        if has("patch") {
            let parameters = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
            let operation =
                self.write("patch", what("partially update"), format!("patch{id}"), target, parameters);
            item.insert("patch".to_owned(), operation);
        }
        if has("delete") {
            let what = format!("delete {} {}", article(target.kind), target.kind);
            let operation = self.delete("delete", what, format!("delete{id}"), target, DELETE);
            item.insert("delete".to_owned(), operation);
        }
    }

    fn list(&mut self, target: &Target<'_>, id: String, list: &str, with_parameters: bool) -> Value {
        let what = format!("list or watch objects of kind {}", target.kind);
        let mut operation = self.operation("list", what, id, target);
        if with_parameters {
            let mut parameters: Vec<Parameter> = LIST.iter().chain(WATCH).copied().collect();
            parameters.sort_by_key(|p| p.0);
            self.parameters(&mut operation, &parameters, None);
        }
        self.responses(&mut operation, &["200"], list, LIST_TYPES);
        Value::Object(operation)
    }

    fn write(
        &mut self,
        method: &str,
        what: String,
        id: String,
        target: &Target<'_>,
        parameters: &[Parameter],
    ) -> Value {
        let mut operation = self.operation(method, what, id, target);
        let (body, types) = match method {
            "patch" => (PATCH, PATCH_TYPES),
            _ => (target.definition, &["*/*"][..]),
        };
        self.parameters(&mut operation, parameters, Some((body, types, true)));
        let codes: &[&str] = if method == "post" { &["200", "201", "202"] } else { &["200", "201"] };
        self.responses(&mut operation, codes, target.definition, OBJECT_TYPES);
        Value::Object(operation)
    }

    fn delete(
        &mut self,
        action: &str,
        what: String,
        id: String,
        target: &Target<'_>,
        parameters: &[Parameter],
    ) -> Value {
        let mut operation = self.operation(action, what, id, target);
        self.parameters(&mut operation, parameters, Some((DELETE_OPTIONS, &["*/*"], false)));
        let codes: &[&str] = if action == "delete" { &["200", "202"] } else { &["200"] };
        self.responses(&mut operation, codes, STATUS, OBJECT_TYPES);
        Value::Object(operation)
    }

    fn operation(&self, action: &str, what: String, id: String, target: &Target<'_>) -> Map<String, Value> {
        let mut operation = Map::new();
        operation.insert("description".to_owned(), what.into());
        operation.insert("operationId".to_owned(), id.into());
        operation.insert("tags".to_owned(), json!([tag(target.group, target.version)]));
        operation.insert("x-kubernetes-action".to_owned(), action.into());
        operation.insert(
            "x-kubernetes-group-version-kind".to_owned(),
            json!({"group": target.group, "kind": target.kind, "version": target.version}),
        );
        operation
    }

    /// Query parameters and, where the two forms of the document differ, the body: definition, media types, required.
    fn parameters(
        &mut self,
        operation: &mut Map<String, Value>,
        parameters: &[Parameter],
        body: Option<(&str, &[&str], bool)>,
    ) {
        let mut list: Vec<Value> = parameters.iter().map(|p| self.query(p)).collect();
        if let Some((definition, media_types, required)) = body {
            self.roots.insert(definition.to_owned());
            let schema = json!({ "$ref": self.version.reference(definition) });
            match self.version {
                Version::V3 => {
                    let content: Map<String, Value> = media_types
                        .iter()
                        .map(|media_type| ((*media_type).to_owned(), json!({ "schema": schema })))
                        .collect();
                    let mut request = json!({ "content": content });
                    if required {
                        request["required"] = true.into();
                    }
                    operation.insert("requestBody".to_owned(), request);
                }
                Version::V2 => {
                    let mut parameter = json!({"in": "body", "name": "body", "schema": schema});
                    if required {
                        parameter["required"] = true.into();
                    }
                    list.insert(0, parameter);
                    operation.insert("consumes".to_owned(), json!(media_types));
                }
            }
        }
        operation.insert("parameters".to_owned(), list.into());
    }

    fn query(&self, (name, kind, description): &Parameter) -> Value {
        self.parameter("query", name, kind, description)
    }

    fn parameter(&self, place: &str, name: &str, kind: &str, description: &str) -> Value {
        let mut parameter = json!({"description": description, "in": place, "name": name});
        match self.version {
            Version::V3 => parameter["schema"] = json!({"type": kind, "uniqueItems": true}),
            Version::V2 => {
                parameter["type"] = kind.into();
                parameter["uniqueItems"] = true.into();
            }
        }
        if place == "path" {
            parameter["required"] = true.into();
        }
        parameter
    }

    fn responses(
        &mut self,
        operation: &mut Map<String, Value>,
        codes: &[&str],
        definition: &str,
        types: &[&str],
    ) {
        self.roots.insert(definition.to_owned());
        let schema = json!({ "$ref": self.version.reference(definition) });
        let mut responses = Map::new();
        for code in codes {
            let description = match *code {
                "201" => "Created",
                "202" => "Accepted",
                _ => "OK",
            };
            let response = match self.version {
                Version::V3 => {
                    let content: Map<String, Value> =
                        types.iter().map(|t| ((*t).to_owned(), json!({ "schema": schema }))).collect();
                    json!({"content": content, "description": description})
                }
                Version::V2 => json!({"description": description, "schema": schema}),
            };
            responses.insert((*code).to_owned(), response);
        }
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        operation.insert("responses".to_owned(), Value::Object(responses));
        if self.version == Version::V2 {
            operation.insert("produces".to_owned(), json!(types));
            operation.insert("schemes".to_owned(), json!(["https"]));
            operation.entry("consumes").or_insert_with(|| json!(["*/*"]));
        }
    }

    fn string_response(&self, operation: &mut Map<String, Value>) {
        let ok = match self.version {
            Version::V3 => json!({"content": {"*/*": {"schema": {"type": "string"}}}, "description": "OK"}),
            Version::V2 => json!({"description": "OK", "schema": {"type": "string"}}),
        };
        operation.insert("responses".to_owned(), json!({"200": ok, "401": {"description": "Unauthorized"}}));
    }

    fn finish_item(
        &mut self,
        path: String,
        mut item: Map<String, Value>,
        namespaced: bool,
        name_of: Option<&str>,
    ) {
        if item.is_empty() {
            return;
        }
        let mut parameters = Vec::new();
        if let Some(kind) = name_of {
            parameters.push(self.parameter("path", "name", "string", &format!("name of the {kind}")));
        }
        if namespaced {
            parameters.push(self.parameter("path", "namespace", "string", "the namespace of the object"));
        }
        parameters.push(self.query(&PRETTY));
        item.insert("parameters".to_owned(), parameters.into());
        self.put(path, Value::Object(item));
    }

    fn put(&mut self, path: String, item: Value) {
        self.items.insert(path, item.to_string().into_bytes());
    }
}

fn base(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

fn article(kind: &str) -> &'static str {
    if kind.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" }
}

fn upper_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// `rbac.authorization.k8s.io` → `RbacAuthorization`, as operation ids have it.
fn camel_group(group: &str) -> String {
    match group {
        "" => "Core".to_owned(),
        group => group.trim_end_matches(".k8s.io").split(['.', '-']).map(upper_first).collect(),
    }
}

fn tag(group: &str, version: &str) -> String {
    let camel = camel_group(group);
    let mut chars = camel.chars();
    let lower: String =
        chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect());
    format!("{lower}_{version}")
}
