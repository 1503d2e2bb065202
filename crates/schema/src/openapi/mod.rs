//! The OpenAPI documents, written on demand from the tables: nothing is held at rest but the compressed descriptions.

mod definitions;
mod paths;

use definitions::{Definitions, Version};
use paths::PathWriter;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

/// What a document says of one served resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResourceDoc {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub namespaced: bool,
    /// As in discovery: create, delete, deletecollection, get, list, patch, update, watch.
    pub verbs: Vec<String>,
    pub subresources: Vec<SubresourceDoc>,
    /// The name of the definition, `io.k8s.api.apps.v1.Deployment`; the list's is the same with `List`.
    pub definition: String,
}

/// A subresource: `status`, `scale`, `exec`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SubresourceDoc {
    pub name: String,
    pub group: String,
    pub version: String,
    pub kind: String,
    /// The definition of what is read and written; unused for a connection.
    pub definition: String,
    pub verbs: Vec<String>,
    /// A stream (`exec`, `proxy`) and not an object.
    pub connect: bool,
}

/// Definitions that are not in the tables: those of custom resources, by name, with `#/components/schemas/` references.
pub type CustomDefinitions = BTreeMap<String, Value>;

/// The v3 document of a group-version, for `/openapi/v3/apis/<group>/<version>`.
pub fn document_v3(group: &str, version: &str, resources: &[ResourceDoc]) -> Vec<u8> {
    document_v3_with(group, version, resources, &CustomDefinitions::new())
}

/// As [`document_v3`], with definitions of custom resources.
pub fn document_v3_with(
    group: &str,
    version: &str,
    resources: &[ResourceDoc],
    custom: &CustomDefinitions,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 << 10);
    out.extend_from_slice(b"{\"components\":{\"schemas\":");
    let mut roots = BTreeSet::new();
    let mut paths = PathWriter::new(Version::V3, &mut roots);
    paths.group_version(group, version);
    for resource in resources {
        paths.resource(resource);
    }
    let paths = paths.finish();
    Definitions::load(Version::V3, custom).write(&roots, &mut out);
    out.extend_from_slice(
        b",\"securitySchemes\":{\"BearerToken\":{\"description\":\"Bearer Token authentication\",",
    );
    out.extend_from_slice(b"\"in\":\"header\",\"name\":\"authorization\",\"type\":\"apiKey\"}}},");
    out.extend_from_slice(INFO);
    out.extend_from_slice(b",\"openapi\":\"3.0.0\",\"paths\":");
    out.extend_from_slice(&paths);
    out.push(b'}');
    out
}

/// The v2 document of everything that is served.
pub fn document_v2(resources: &[ResourceDoc]) -> Vec<u8> {
    document_v2_with(resources, &CustomDefinitions::new())
}

/// As [`document_v2`], with definitions of custom resources.
pub fn document_v2_with(resources: &[ResourceDoc], custom: &CustomDefinitions) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    let mut roots = BTreeSet::new();
    let mut paths = PathWriter::new(Version::V2, &mut roots);
    let group_versions: BTreeSet<(&str, &str)> =
        resources.iter().map(|r| (r.group.as_str(), r.version.as_str())).collect();
    for (group, version) in group_versions {
        paths.group_version(group, version);
        for resource in resources.iter().filter(|r| r.group == group && r.version == version) {
            paths.resource(resource);
        }
    }
    let paths = paths.finish();
    out.extend_from_slice(b"{\"definitions\":");
    Definitions::load(Version::V2, custom).write(&roots, &mut out);
    out.push(b',');
    out.extend_from_slice(INFO);
    out.extend_from_slice(b",\"paths\":");
    out.extend_from_slice(&paths);
    out.extend_from_slice(b",\"security\":[{\"BearerToken\":[]}],\"securityDefinitions\":{\"BearerToken\":{");
    out.extend_from_slice(b"\"description\":\"Bearer Token authentication\",\"in\":\"header\",");
    out.extend_from_slice(b"\"name\":\"authorization\",\"type\":\"apiKey\"}},\"swagger\":\"2.0\"}");
    out
}

const INFO: &[u8] = b"\"info\":{\"title\":\"Kubernetes\",\"version\":\"v1.36.0\"}";

/// The definitions named and all they refer to, in v3 form.
pub fn v3_components(roots: &[&str]) -> Value {
    components(Version::V3, roots.iter().map(|r| (*r).to_owned()).collect())
}

/// Every definition, in v2 form.
pub fn v2_definitions() -> Value {
    components(Version::V2, crate::all().iter().map(|ty| ty.name.to_owned()).collect())
}

fn components(version: Version, roots: BTreeSet<String>) -> Value {
    let mut out = Vec::new();
    Definitions::load(version, &CustomDefinitions::new()).write(&roots, &mut out);
    serde_json::from_slice(&out).expect("definitions are written as JSON")
}

/// The definition of a custom resource's list, for [`CustomDefinitions`].
pub fn list_definition(group: &str, version: &str, kind: &str, item_definition: &str) -> Value {
    serde_json::json!({
        "description": format!("{kind}List is a list of {kind}"),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": definitions::API_VERSION},
            "kind": {"type": "string", "description": definitions::KIND},
            "items": {
                "type": "array",
                "description": format!("List of {kind} objects."),
                "items": {"$ref": format!("#/components/schemas/{item_definition}")},
            },
            "metadata": {
                "allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"}],
                "description": definitions::LIST_META,
            },
        },
        "x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": format!("{kind}List")}],
    })
}

/// A group-version's hash for the index: changes when its document may have changed.
pub fn document_hash(resources: &[ResourceDoc], custom: &CustomDefinitions) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    resources.hash(&mut hasher);
    for (name, schema) in custom {
        name.hash(&mut hasher);
        schema.to_string().hash(&mut hasher);
    }
    let first = hasher.finish();
    first.hash(&mut hasher);
    format!("{first:016X}{:016X}", hasher.finish())
}

/// `/openapi/v3`: where each group-version's document is; entries are path (`api/v1`, `apis/apps/v1`) and hash.
pub fn index_v3<'a>(entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let paths: serde_json::Map<String, Value> = entries
        .into_iter()
        .map(|(path, hash)| {
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path.to_owned(), serde_json::json!({ "serverRelativeURL": url }))
        })
        .collect();
    serde_json::json!({ "paths": paths }).to_string().into_bytes()
}

#[cfg(test)]
mod tests;
