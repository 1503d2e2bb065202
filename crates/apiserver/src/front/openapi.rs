//! `/openapi/v3`, its documents, and `/openapi/v2`: made when first asked for, kept compressed.

use super::discovery::Resource;
use super::respond;
use crate::request::{Request, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderValue, StatusCode, header};
use meta::GroupVersionKind;
use parking_lot::Mutex;
use schema::openapi::{
    CustomDefinitions, ResourceDoc, SubresourceDoc, document_hash, document_v2, document_v3, index_v3,
};
use std::collections::BTreeMap;
use std::io::{Read, Write};

/// What clients name the protobuf form of the v2 document, and what it is answered as.
const PROTOBUF_ACCEPTED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const PROTOBUF_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// Its key among the documents.
const PROTOBUF: &str = "v2 protobuf";

/// Documents by path below `/openapi/`, gzip.
pub struct OpenApi {
    resources: Vec<ResourceDoc>,
    /// `api/v1`, `apis/apps/v1`: to group, version and hash.
    groups: BTreeMap<String, (String, String, String)>,
    index: Bytes,
    v2_tag: String,
    made: Mutex<BTreeMap<String, Bytes>>,
}

impl OpenApi {
    pub fn new(resources: &[Resource]) -> Self {
        let docs: Vec<ResourceDoc> = resources.iter().map(doc).collect();
        let mut groups = BTreeMap::new();
        for d in &docs {
            let path = if d.group.is_empty() {
                format!("api/{}", d.version)
            } else {
                format!("apis/{}/{}", d.group, d.version)
            };
            groups.entry(path).or_insert_with(|| (d.group.clone(), d.version.clone(), String::new()));
        }
        for (group, version, hash) in groups.values_mut() {
            *hash = document_hash(&own(&docs, group, version), &CustomDefinitions::new());
        }
        let index = index_v3(groups.iter().map(|(path, (_, _, hash))| (path.as_str(), hash.as_str()))).into();
        let v2_tag = document_hash(&docs, &CustomDefinitions::new());
        Self { resources: docs, groups, index, v2_tag, made: Mutex::default() }
    }

    /// None where there is no such document.
    pub fn answer(&self, request: &Request) -> Option<Response> {
        let path = request.uri().path().strip_prefix("/openapi/")?.trim_end_matches('/');
        if path == "v3" {
            return Some(respond::bytes(StatusCode::OK, respond::JSON, self.index.clone()));
        }
        let tag = if path == "v2" { &self.v2_tag } else { &self.groups.get(path.strip_prefix("v3/")?)?.2 };
        let quoted = HeaderValue::from_str(&format!("\"{tag}\"")).ok()?;
        let headers = request.headers();
        if headers.get(header::IF_NONE_MATCH) == Some(&quoted) {
            let mut unchanged = Response::new(respond::empty());
            *unchanged.status_mut() = StatusCode::NOT_MODIFIED;
            unchanged.headers_mut().insert(header::ETAG, quoted);
            return Some(unchanged);
        }
        let accepts = |name, what: &str| {
            headers.get(name).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains(what))
        };
        let protobuf = path == "v2" && accepts(header::ACCEPT, PROTOBUF_ACCEPTED);
        let (packed, content_type) = if protobuf {
            (self.packed(PROTOBUF)?, PROTOBUF_TYPE)
        } else {
            (self.packed(path)?, respond::JSON)
        };
        let mut response = if accepts(header::ACCEPT_ENCODING, "gzip") {
            let mut r = respond::bytes(StatusCode::OK, content_type, packed);
            r.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            r
        } else {
            let mut plain = Vec::new();
            GzDecoder::new(&packed[..]).read_to_end(&mut plain).ok()?;
            respond::bytes(StatusCode::OK, content_type, plain)
        };
        let headers_out = response.headers_mut();
        headers_out.insert(header::ETAG, quoted);
        headers_out.insert(header::VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
        // A document asked for by its hash never changes.
        let by_hash = request.uri().query().is_some_and(|q| q.contains("hash="));
        let cache = if by_hash { "public, immutable" } else { "no-cache, private" };
        headers_out.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
        Some(response)
    }

    fn packed(&self, path: &str) -> Option<Bytes> {
        if let Some(done) = self.made.lock().get(path) {
            return Some(done.clone());
        }
        let plain = match path.strip_prefix("v3/") {
            None if path == PROTOBUF => super::openapi_proto::encode(&document_v2(&self.resources))?,
            None => document_v2(&self.resources),
            Some(gv) => {
                let (group, version, _) = self.groups.get(gv)?;
                document_v3(group, version, &own(&self.resources, group, version))
            }
        };
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&plain).ok()?;
        let packed: Bytes = encoder.finish().ok()?.into();
        self.made.lock().insert(path.to_owned(), packed.clone());
        Some(packed)
    }
}

fn own(docs: &[ResourceDoc], group: &str, version: &str) -> Vec<ResourceDoc> {
    docs.iter().filter(|d| d.group == group && d.version == version).cloned().collect()
}

/// `io.k8s.api.apps.v1.Deployment`: how upstream names a built-in kind's definition.
fn definition(gvk: &GroupVersionKind) -> String {
    let group = match gvk.group.split('.').next() {
        None | Some("") => "core",
        Some(first) => first,
    };
    format!("io.k8s.api.{group}.{}.{}", gvk.version, gvk.kind)
}

fn doc(r: &Resource) -> ResourceDoc {
    let verbs = |v: &[&str]| v.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
    let declared =
        kinds::find(&r.gvk.group, &r.gvk.version, &r.plural).map(|k| k.info().definition.to_owned());
    ResourceDoc {
        group: r.gvk.group.to_string(),
        version: r.gvk.version.to_string(),
        kind: r.gvk.kind.to_string(),
        plural: r.plural.clone(),
        namespaced: r.namespaced,
        verbs: verbs(&r.verbs),
        definition: declared.unwrap_or_else(|| definition(&r.gvk)),
        subresources: r
            .subresources
            .iter()
            .map(|s| SubresourceDoc {
                name: s.name.to_owned(),
                group: s.gvk.group.to_string(),
                version: s.gvk.version.to_string(),
                kind: s.gvk.kind.to_string(),
                definition: definition(&s.gvk),
                verbs: verbs(&s.verbs),
                connect: matches!(s.name, "exec" | "attach" | "portforward" | "proxy" | "log"),
            })
            .collect(),
    }
}
