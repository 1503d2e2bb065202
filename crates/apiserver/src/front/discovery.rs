//! What the server serves, as clients ask for it: the legacy documents one by one, and aggregated discovery
//! (apidiscovery.k8s.io/v2, KEP-3352) with an entity tag. Everything follows from the kinds' declarations.

use super::respond;
use crate::request::{Request, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use kinds::{Info, Scope, SubresourceForm};
use meta::{ApiError, GroupVersionKind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};
use std::collections::HashMap;
use std::fmt::Write;

/// Groups in the order clients look for kinds in (upstream's APIService priorities); others come after.
const GROUP_ORDER: [&str; 21] = [
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Resources that cannot be deleted all at once.
const NO_DELETE_COLLECTION: &[(&str, &str)] = &[("", "namespaces")];
const AGGREGATED_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// One resource of a group and version.
#[derive(Clone, Debug)]
pub struct Resource {
    pub gvk: GroupVersionKind,
    pub plural: String,
    pub singular: String,
    pub namespaced: bool,
    pub verbs: Vec<&'static str>,
    pub short: Vec<&'static str>,
    pub categories: Vec<&'static str>,
    pub subresources: Vec<Subresource>,
    /// Stored: has a storage version.
    pub stored: bool,
}

#[derive(Clone, Debug)]
pub struct Subresource {
    pub name: &'static str,
    /// Of the body.
    pub gvk: GroupVersionKind,
    pub verbs: Vec<&'static str>,
    /// The body is not the parent's kind.
    pub connect: bool,
}

impl Resource {
    /// A stored kind's.
    pub fn of(info: &Info) -> Self {
        let plural = info.names.plural;
        let without = NO_DELETE_COLLECTION.iter().any(|(g, p)| *g == info.gvk.group && *p == plural);
        let sorted = |verbs: &[&'static str]| {
            let mut v = verbs.to_vec();
            v.sort_unstable();
            v
        };
        Self {
            gvk: info.gvk.clone(),
            plural: plural.to_owned(),
            singular: info.names.singular.to_owned(),
            namespaced: info.scope == Scope::Namespaced,
            verbs: ALL_VERBS.iter().copied().filter(|v| !(without && *v == "deletecollection")).collect(),
            short: info.names.short.to_vec(),
            categories: info.names.categories.to_vec(),
            subresources: info
                .subresources
                .iter()
                .map(|s| Subresource {
                    name: s.name,
                    gvk: s.gvk.clone(),
                    verbs: sorted(s.verbs),
                    connect: matches!(s.form, SubresourceForm::Connect | SubresourceForm::Scale),
                })
                .collect(),
            stored: true,
        }
    }

    /// One that exists only as an answer: a review.
    pub fn answered(gvk: GroupVersionKind, plural: &str, namespaced: bool, verbs: &[&'static str]) -> Self {
        Self {
            singular: gvk.kind.to_lowercase(),
            gvk,
            plural: plural.to_owned(),
            namespaced,
            verbs: verbs.to_vec(),
            short: Vec::new(),
            categories: Vec::new(),
            subresources: Vec::new(),
            stored: false,
        }
    }

    /// Eight bytes that change when the stored form does.
    fn storage_version_hash(&self) -> String {
        let text = format!("{}/{}/{}", self.gvk.group, self.gvk.version, self.gvk.kind);
        STANDARD.encode(&Sha256::digest(text.as_bytes())[..8])
    }
}

struct Document {
    bytes: Bytes,
    etag: HeaderValue,
}

/// Every discovery document, encoded.
pub struct Discovery {
    /// By path without a trailing slash.
    legacy: HashMap<String, Bytes>,
    core: Document,
    groups: Document,
    /// (group, version) pairs, in discovery order.
    pub versions: Vec<(String, String)>,
}

impl Discovery {
    /// `address`: host and port that clients of any network may use.
    pub fn new(resources: &[Resource], address: &str) -> Self {
        let mut versions: Vec<(String, String)> = Vec::new();
        for r in resources {
            let gv = (r.gvk.group.to_string(), r.gvk.version.to_string());
            if !versions.contains(&gv) {
                versions.push(gv);
            }
        }
        let rank = |g: &str| GROUP_ORDER.iter().position(|x| *x == g).unwrap_or(GROUP_ORDER.len());
        versions.sort_by(|a, b| {
            (rank(&a.0), &a.0).cmp(&(rank(&b.0), &b.0)).then(maturity(&b.1).cmp(&maturity(&a.1)))
        });

        let mut legacy = HashMap::new();
        let mut add = |path: String, document: Value| {
            legacy.insert(path, Bytes::from(document.to_string()));
        };
        add(
            "/api".into(),
            json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
            }),
        );
        let mut groups: Vec<&str> = Vec::new();
        for (group, version) in &versions {
            let own: Vec<&Resource> =
                resources.iter().filter(|r| r.gvk.group == *group && r.gvk.version == *version).collect();
            let path =
                if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
            add(path, resource_list(group, version, &own));
            if !group.is_empty() && !groups.contains(&group.as_str()) {
                groups.push(group);
            }
        }
        let documents: Vec<(&str, Value)> = groups.iter().map(|g| (*g, api_group(g, &versions))).collect();
        let all: Vec<&Value> = documents.iter().map(|(_, d)| d).collect();
        add("/apis".into(), json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": all}));
        for (group, mut document) in documents {
            document["kind"] = "APIGroup".into();
            document["apiVersion"] = "v1".into();
            add(format!("/apis/{group}"), document);
        }
        Self {
            legacy,
            core: aggregated(&[""], &versions, resources),
            groups: aggregated(&groups, &versions, resources),
            versions,
        }
    }

    /// The document at a path; None where there is none.
    pub fn answer(&self, request: &Request) -> Option<Response> {
        let path = request.uri().path().trim_end_matches('/');
        let aggregated = match path {
            "/api" => Some(&self.core),
            "/apis" => Some(&self.groups),
            _ => None,
        };
        if let Some(document) = aggregated.filter(|_| wants_aggregated(request)) {
            return Some(document.answer(request));
        }
        self.legacy.get(path).map(|d| respond::bytes(StatusCode::OK, respond::JSON, d.clone()))
    }
}

impl Document {
    fn answer(&self, request: &Request) -> Response {
        let unchanged = request.headers().get(header::IF_NONE_MATCH) == Some(&self.etag);
        let mut response = if unchanged {
            let mut r = Response::new(respond::empty());
            *r.status_mut() = StatusCode::NOT_MODIFIED;
            r
        } else {
            respond::bytes(StatusCode::OK, AGGREGATED_TYPE, self.bytes.clone())
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.etag.clone());
        headers.insert(header::VARY, HeaderValue::from_static("Accept"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
        response
    }
}

/// The first acceptable clause of `Accept` decides.
fn wants_aggregated(request: &Request) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or("");
        let params: Vec<&str> = parts.collect();
        let has = |p: &str| params.contains(&p);
        if !matches!(media, "application/json" | "*/*" | "application/*") {
            continue;
        }
        if has("g=apidiscovery.k8s.io") {
            if has("v=v2") && has("as=APIGroupDiscoveryList") {
                return true;
            }
            continue;
        }
        return false;
    }
    false
}

/// GA before beta before alpha, then the greater number (Kubernetes' version priority).
fn maturity(version: &str) -> (u8, u32, u32) {
    let rest = version.strip_prefix('v').unwrap_or(version);
    let split = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, stage) = rest.split_at(split);
    let (rank, minor) = if let Some(n) = stage.strip_prefix("beta") {
        (1, n)
    } else if let Some(n) = stage.strip_prefix("alpha") {
        (0, n)
    } else {
        (2, "")
    };
    (rank, major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
}

fn api_group(group: &str, versions: &[(String, String)]) -> Value {
    let own: Vec<Value> = versions
        .iter()
        .filter(|(g, _)| g == group)
        .map(|(g, v)| json!({"groupVersion": format!("{g}/{v}"), "version": v}))
        .collect();
    json!({"name": group, "versions": own, "preferredVersion": own.first()})
}

fn resource_list(group: &str, version: &str, resources: &[&Resource]) -> Value {
    let mut list: Vec<(String, Value)> = Vec::new();
    for r in resources {
        let mut one = json!({
            "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced,
            "kind": r.gvk.kind, "verbs": r.verbs,
        });
        if !r.short.is_empty() {
            one["shortNames"] = json!(r.short);
        }
        if !r.categories.is_empty() {
            one["categories"] = json!(r.categories);
        }
        if r.stored {
            one["storageVersionHash"] = r.storage_version_hash().into();
        }
        list.push((r.plural.clone(), one));
        for s in &r.subresources {
            let name = format!("{}/{}", r.plural, s.name);
            let mut one = json!({
                "name": name, "singularName": "", "namespaced": r.namespaced, "kind": s.gvk.kind, "verbs": s.verbs,
            });
            if s.gvk.group != group || s.gvk.version != version {
                one["group"] = s.gvk.group.as_ref().into();
                one["version"] = s.gvk.version.as_ref().into();
            }
            list.push((name, one));
        }
    }
    list.sort_by(|a, b| a.0.cmp(&b.0));
    let list: Vec<Value> = list.into_iter().map(|(_, v)| v).collect();
    let gv = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut out = json!({"kind": "APIResourceList", "groupVersion": gv, "resources": list});
    if !group.is_empty() {
        out["apiVersion"] = "v1".into();
    }
    out
}

fn aggregated(groups: &[&str], versions: &[(String, String)], resources: &[Resource]) -> Document {
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let versions: Vec<Value> = versions
                .iter()
                .filter(|(g, _)| g == group)
                .map(|(g, v)| {
                    let mut own: Vec<&Resource> =
                        resources.iter().filter(|r| r.gvk.group == *g && r.gvk.version == *v).collect();
                    own.sort_by(|a, b| a.plural.cmp(&b.plural));
                    let own: Vec<Value> = own.into_iter().map(discovered).collect();
                    json!({"version": v, "resources": own, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    let bytes = Bytes::from(list.to_string());
    let mut etag = String::from("\"");
    for byte in Sha512::digest(&bytes) {
        let _ = write!(etag, "{byte:02X}");
    }
    etag.push('"');
    let etag = HeaderValue::from_str(&etag).expect("hexadecimal digits in quotes are a header value");
    Document { bytes, etag }
}

fn discovered(r: &Resource) -> Value {
    let kind = |gvk: &GroupVersionKind| json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind});
    let mut one = json!({
        "resource": r.plural,
        "responseKind": kind(&r.gvk),
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": r.singular,
        "verbs": r.verbs,
    });
    if !r.short.is_empty() {
        one["shortNames"] = json!(r.short);
    }
    if !r.categories.is_empty() {
        one["categories"] = json!(r.categories);
    }
    if !r.subresources.is_empty() {
        let mut subs: Vec<&Subresource> = r.subresources.iter().collect();
        subs.sort_by_key(|s| s.name);
        let subs: Vec<Value> = subs
            .into_iter()
            .map(|s| {
                let mut one = json!({"subresource": s.name, "responseKind": kind(&s.gvk), "verbs": s.verbs});
                if s.connect {
                    one["acceptedTypes"] = json!([kind(&s.gvk)]);
                }
                one
            })
            .collect();
        one["subresources"] = subs.into();
    }
    one
}

/// # Errors
/// NotFound, as for any unknown path.
pub fn answer(discovery: &Discovery, request: &Request) -> Result<Response, ApiError> {
    discovery.answer(request).ok_or_else(ApiError::page_not_found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(accept: &str, path: &str, tag: Option<&HeaderValue>) -> Response {
        let deployments = Resource {
            short: vec!["deploy"],
            subresources: vec![Subresource {
                name: "scale",
                gvk: GroupVersionKind::of("autoscaling", "v1", "Scale"),
                verbs: vec!["get", "patch", "update"],
                connect: true,
            }],
            stored: true,
            ..Resource::answered(
                GroupVersionKind::of("apps", "v1", "Deployment"),
                "deployments",
                true,
                ALL_VERBS,
            )
        };
        let pods = Resource::answered(GroupVersionKind::of("", "v1", "Pod"), "pods", true, ALL_VERBS);
        let discovery = Discovery::new(&[deployments, pods], "192.0.2.1:6443");
        let mut request =
            http::Request::get(path).header(header::ACCEPT, accept).body(respond::empty()).unwrap();
        if let Some(tag) = tag {
            request.headers_mut().insert(header::IF_NONE_MATCH, tag.clone());
        }
        discovery.answer(&request).unwrap()
    }

    #[tokio::test]
    async fn aggregated_discovery_for_those_who_ask() {
        use http_body_util::BodyExt;
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                       application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        let response = document(kubectl, "/apis", None);
        assert_eq!(response.headers()[header::CONTENT_TYPE], AGGREGATED_TYPE);
        let tag = response.headers()[header::ETAG].clone();
        assert_eq!(document(kubectl, "/apis/", Some(&tag)).status(), StatusCode::NOT_MODIFIED);
        let body: Value =
            serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        let deployments = &body["items"][0]["versions"][0]["resources"][0];
        assert_eq!(deployments["scope"], "Namespaced");
        assert_eq!(deployments["subresources"][0]["responseKind"]["kind"], "Scale");

        let legacy = document("application/json", "/apis/apps/v1", None);
        let body: Value =
            serde_json::from_slice(&legacy.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(body["resources"][1]["name"], "deployments/scale");
        assert_eq!(body["resources"][1]["group"], "autoscaling");
    }

    #[test]
    fn versions_by_maturity() {
        let mut versions = ["v1alpha1", "v1", "v2beta1", "v2", "v1beta2", "v1beta1"];
        versions.sort_by_key(|v| std::cmp::Reverse(maturity(v)));
        assert_eq!(versions, ["v2", "v1", "v2beta1", "v1beta2", "v1beta1", "v1alpha1"]);
    }
}
