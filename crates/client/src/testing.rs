//! An API server in memory, for tests of what uses this crate: objects of any kind as JSON, with resourceVersions,
//! watches, preconditions, finalizers and graceful deletion of pods. No validation, no defaults, no authorization.

use crate::Key;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::mpsc;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A kind that the server has.
#[derive(Clone, Debug)]
struct Served {
    group: String,
    version: String,
    plural: String,
    kind: String,
    namespaced: bool,
}

#[derive(Default)]
struct State {
    version: u64,
    kinds: Vec<Served>,
    /// By collection (`apps/replicasets`), then `namespace/name`.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    watchers: Vec<Watcher>,
    /// Answers to give instead, once each: by method and part of the path.
    faults: Vec<(Method, String, u16, &'static str)>,
    /// Requests seen, by method and collection.
    counts: HashMap<(Method, String), usize>,
    log: Vec<Change>,
}

/// A change of an object, as watches see it.
#[derive(Clone, Debug)]
pub struct Change {
    pub plural: String,
    pub key: Key,
    /// None where the object is gone.
    pub object: Option<Value>,
}

struct Watcher {
    collection: String,
    namespace: Option<String>,
    events: mpsc::UnboundedSender<Bytes>,
}

/// The server. Cloning shares it.
#[derive(Clone, Default)]
pub struct FakeApi(Arc<Mutex<State>>);

impl FakeApi {
    /// Serves these kinds: apiVersion, kind, plural, whether namespaced.
    pub fn new(kinds: &[(&str, &str, &str, bool)]) -> Self {
        let api = Self::default();
        for (api_version, kind, plural, namespaced) in kinds {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            api.0.lock().kinds.push(Served {
                group: group.into(),
                version: version.into(),
                plural: (*plural).into(),
                kind: (*kind).into(),
                namespaced: *namespaced,
            });
        }
        api
    }

    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        crate::in_memory(service, "test").expect("the user agent is a header value")
    }

    /// Puts an object in as it is, as another client would.
    pub fn put(&self, object: Value) {
        let mut s = self.0.lock();
        let served = s.served_kind(&object).expect("the kind is served");
        let collection = served.collection();
        s.write(&collection, object, true);
    }

    /// Takes an object out, whatever its finalizers.
    pub fn remove(&self, plural: &str, namespace: &str, name: &str) {
        let mut s = self.0.lock();
        let collection = s.collection_of(plural);
        s.erase(&collection, &key(namespace, name));
    }

    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let s = self.0.lock();
        s.objects.get(&s.collection_of(plural))?.get(&key(namespace, name)).cloned()
    }

    pub fn list(&self, plural: &str) -> Vec<Value> {
        let s = self.0.lock();
        s.objects.get(&s.collection_of(plural)).map(|c| c.values().cloned().collect()).unwrap_or_default()
    }

    /// Changes an object in place, as another client would.
    pub fn edit(&self, plural: &str, namespace: &str, name: &str, f: impl FnOnce(&mut Value)) {
        let mut object = self.get(plural, namespace, name).expect("the object exists");
        f(&mut object);
        self.put(object);
    }

    /// The next matching request is refused with this status and reason.
    pub fn fail_once(&self, method: Method, path_part: &str, code: u16, reason: &'static str) {
        self.0.lock().faults.push((method, path_part.into(), code, reason));
    }

    /// Ends every watch, as a restart of the server would.
    pub fn drop_watches(&self) {
        self.0.lock().watchers.clear();
    }

    /// Requests of a method to a collection so far; watches count as `GET`.
    pub fn count(&self, method: Method, plural: &str) -> usize {
        let s = self.0.lock();
        s.counts.get(&(method, s.collection_of(plural))).copied().unwrap_or(0)
    }

    /// One request without the wire: status code and body of the answer.
    pub fn call(&self, method: &Method, path: &str, content_type: &str, body: &[u8]) -> (u16, Value) {
        let mut s = self.0.lock();
        let Some(target) = s.parse(path) else { return refusal(404, "NotFound", "no such path") };
        s.answer(method, &target, body, content_type.contains("strategic"), &HashMap::new())
    }

    /// Changes since the start.
    pub fn log_len(&self) -> usize {
        self.0.lock().log.len()
    }

    /// Every change since the start, from one of them on.
    pub fn log(&self, from: usize) -> Vec<Change> {
        self.0.lock().log[from..].to_vec()
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let query: HashMap<String, String> =
            url::form_urlencoded::parse(parts.uri.query().unwrap_or("").as_bytes()).into_owned().collect();
        let mut s = self.0.lock();
        if let Some(i) = s.faults.iter().position(|(m, p, ..)| *m == parts.method && path.contains(p)) {
            let (_, _, code, reason) = s.faults.remove(i);
            return whole(refusal(code, reason, "as the test asked"));
        }
        if path == "/api" || path == "/apis" {
            return whole((200, s.discovery(path == "/api")));
        }
        let Some(target) = s.parse(&path) else { return whole(refusal(404, "NotFound", "no such path")) };
        *s.counts.entry((parts.method.clone(), target.served.collection())).or_insert(0) += 1;
        if parts.method == Method::GET && query.get("watch").is_some_and(|w| w == "true") {
            return s.watch(&target, &query);
        }
        let patch = parts.headers.get(http::header::CONTENT_TYPE).and_then(|h| h.to_str().ok()).unwrap_or("");
        whole(s.answer(&parts.method, &target, &body, patch.contains("strategic"), &query))
    }
}

impl Served {
    fn collection(&self) -> String {
        format!("{}/{}", self.group, self.plural)
    }

    fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

struct Target {
    served: Served,
    namespace: Option<String>,
    name: Option<String>,
    subresource: String,
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn whole((code, body): (u16, Value)) -> Answer {
    let body = http_body_util::Full::new(Bytes::from(body.to_string()));
    let mut r = Response::new(UnsyncBoxBody::new(body));
    *r.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    r
}

fn refusal(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": code,
    });
    (code, body)
}

fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
}

impl State {
    fn served_kind(&self, object: &Value) -> Option<Served> {
        let (v, k) = (text(object, "/apiVersion"), text(object, "/kind"));
        self.kinds.iter().find(|s| s.api_version() == v && s.kind == k).cloned()
    }

    fn collection_of(&self, plural: &str) -> String {
        self.kinds.iter().find(|s| s.plural == plural).map(Served::collection).unwrap_or_default()
    }

    fn discovery(&self, core: bool) -> Value {
        let mut groups: BTreeMap<&str, BTreeMap<&str, Vec<Value>>> = BTreeMap::new();
        for k in self.kinds.iter().filter(|k| k.group.is_empty() == core) {
            let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
            groups.entry(&k.group).or_default().entry(&k.version).or_default().push(json!({
                "resource": k.plural, "scope": if k.namespaced { "Namespaced" } else { "Cluster" }, "verbs": verbs,
                "responseKind": {"group": k.group, "version": k.version, "kind": k.kind},
            }));
        }
        let items: Vec<_> = groups
            .into_iter()
            .map(|(name, versions)| {
                let versions: Vec<_> = versions
                    .into_iter()
                    .map(|(v, r)| json!({"version": v, "resources": r, "freshness": "Current"}))
                    .collect();
                json!({"metadata": {"name": name}, "versions": versions})
            })
            .collect();
        json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": items})
    }

    fn parse(&self, path: &str) -> Option<Target> {
        let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version) = match parts.first()? {
            &"api" => ("", *parts.get(1)?),
            _ => (*parts.get(1)?, *parts.get(2)?),
        };
        parts.drain(..if group.is_empty() { 2 } else { 3 });
        let is = |p: &str| {
            self.kinds.iter().find(|k| k.group == group && k.version == version && k.plural == p).cloned()
        };
        let (namespace, served, rest) = match parts.as_slice() {
            ["namespaces", ns, plural, rest @ ..] if is(plural).is_some() => {
                (Some((*ns).to_owned()), is(plural)?, rest)
            }
            [plural, rest @ ..] => (None, is(plural)?, rest),
            [] => return None,
        };
        Some(Target {
            served,
            namespace,
            name: rest.first().map(|n| (*n).to_owned()),
            subresource: rest.get(1).map(|s| (*s).to_owned()).unwrap_or_default(),
        })
    }

    fn emit(&mut self, collection: &str, kind: &str, object: &Value) {
        self.log.push(Change {
            plural: collection.rsplit('/').next().unwrap_or("").to_owned(),
            key: Key::new(text(object, "/metadata/namespace"), text(object, "/metadata/name")),
            object: (kind != "DELETED").then(|| object.clone()),
        });
        let namespace = text(object, "/metadata/namespace").to_owned();
        let event = line(kind, object);
        self.watchers.retain(|w| {
            let concerned =
                w.collection == collection && w.namespace.as_ref().is_none_or(|n| *n == namespace);
            !concerned || w.events.send(event.clone()).is_ok()
        });
    }

    /// Stores an object under a new version; `fill`: give it what every stored object has.
    fn write(&mut self, collection: &str, mut object: Value, fill: bool) -> Value {
        self.version += 1;
        let version = self.version.to_string();
        let Some(meta) = object["metadata"].as_object_mut() else { return object };
        if fill {
            meta.entry("uid").or_insert_with(|| json!(format!("uid-{version}")));
            meta.entry("creationTimestamp")
                .or_insert_with(|| json!(crate::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
            meta.entry("generation").or_insert_with(|| json!(1));
        }
        meta.insert("resourceVersion".into(), json!(version));
        let k = key(text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
        let old = self.objects.entry(collection.into()).or_default().insert(k.clone(), object.clone());
        self.emit(collection, if old.is_some() { "MODIFIED" } else { "ADDED" }, &object);
        let going = object.pointer("/metadata/deletionTimestamp").is_some();
        let held =
            object.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
        let held = held
            || object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
        let grace =
            object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
        if going && !held && grace == 0 {
            self.erase(collection, &k);
        }
        object
    }

    fn erase(&mut self, collection: &str, k: &str) {
        if let Some(mut object) = self.objects.get_mut(collection).and_then(|c| c.remove(k)) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.emit(collection, "DELETED", &object);
        }
    }

    fn watch(&mut self, target: &Target, query: &HashMap<String, String>) -> Answer {
        let (events, receiver) = mpsc::unbounded_channel();
        let collection = target.served.collection();
        if query.get("sendInitialEvents").is_some_and(|v| v == "true") {
            for object in self.selected(target, query) {
                let _ = events.send(line("ADDED", &object));
            }
            let mark = json!({
                "apiVersion": target.served.api_version(), "kind": target.served.kind,
                "metadata": {
                    "resourceVersion": self.version.to_string(),
                    "annotations": {"k8s.io/initial-events-end": "true"},
                },
            });
            let _ = events.send(line("BOOKMARK", &mark));
        } else if query.get("resourceVersion").and_then(|v| v.parse::<u64>().ok()) != Some(self.version) {
            // No history is kept: only the newest version can be resumed.
            return whole(refusal(410, "Expired", "too old resource version"));
        }
        self.watchers.push(Watcher { collection, namespace: target.namespace.clone(), events });
        let stream = futures::stream::unfold(receiver, |mut r| async {
            let bytes = r.recv().await?;
            Some((Ok::<_, Infallible>(http_body::Frame::data(bytes)), r))
        });
        Response::new(UnsyncBoxBody::new(http_body_util::StreamBody::new(stream)))
    }

    fn selected(&self, target: &Target, query: &HashMap<String, String>) -> Vec<Value> {
        let all = self.objects.get(&target.served.collection()).into_iter().flat_map(BTreeMap::values);
        let name = query.get("fieldSelector").and_then(|f| f.strip_prefix("metadata.name="));
        all.filter(|o| target.namespace.as_ref().is_none_or(|n| text(o, "/metadata/namespace") == n))
            .filter(|o| name.is_none_or(|n| text(o, "/metadata/name") == n))
            .cloned()
            .collect()
    }

    fn answer(
        &mut self,
        method: &Method,
        target: &Target,
        body: &[u8],
        strategic: bool,
        query: &HashMap<String, String>,
    ) -> (u16, Value) {
        let collection = target.served.collection();
        let sent: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let Some(name) = &target.name else {
            return match *method {
                Method::GET => {
                    let items = self.selected(target, query);
                    let version = self.version.to_string();
                    let kind = format!("{}List", target.served.kind);
                    (
                        200,
                        json!({
                            "kind": kind, "apiVersion": target.served.api_version(),
                            "metadata": {"resourceVersion": version}, "items": items,
                        }),
                    )
                }
                Method::POST => self.create(target, sent),
                Method::DELETE => {
                    for o in self.selected(target, query) {
                        self.delete(&collection, o, &sent);
                    }
                    (200, json!({"kind": "Status", "status": "Success"}))
                }
                _ => refusal(405, "MethodNotAllowed", "not on a collection"),
            };
        };
        let k = key(target.namespace.as_deref().unwrap_or(""), name);
        let Some(old) = self.objects.get(&collection).and_then(|c| c.get(&k)).cloned() else {
            return refusal(404, "NotFound", &format!("{} {name:?} not found", target.served.plural));
        };
        let same = |field: &str, from: &Value| {
            let want = text(from, &format!("/metadata/{field}"));
            want.is_empty() || want == text(&old, &format!("/metadata/{field}"))
        };
        match *method {
            Method::GET => (200, old),
            Method::PUT | Method::PATCH if !same("uid", &sent) || !same("resourceVersion", &sent) => {
                refusal(409, "Conflict", "the object has been modified")
            }
            Method::PUT | Method::PATCH => {
                let mut new = sent;
                if *method == Method::PATCH {
                    let patch = std::mem::replace(&mut new, old.clone());
                    merge(&mut new, &patch, strategic);
                }
                let mut result = old.clone();
                match target.subresource.as_str() {
                    "status" => {
                        result["status"] = new["status"].clone();
                        if let Some(a) = new["metadata"].get("annotations") {
                            result["metadata"]["annotations"] = a.clone();
                        }
                    }
                    "finalize" => result["spec"] = new["spec"].clone(),
                    _ => {
                        let (status, spec) = (old.get("status").cloned(), old.get("spec").cloned());
                        result = new;
                        if let Some(status) = status {
                            result["status"] = status;
                        }
                        for field in [
                            "uid",
                            "creationTimestamp",
                            "deletionTimestamp",
                            "deletionGracePeriodSeconds",
                            "generation",
                        ] {
                            let kept = old["metadata"].get(field).cloned();
                            if let (Some(m), Some(v)) = (result["metadata"].as_object_mut(), kept) {
                                m.insert(field.into(), v);
                            }
                        }
                        if result.get("spec") != spec.as_ref() {
                            let n = old["metadata"]["generation"].as_i64().unwrap_or(1);
                            result["metadata"]["generation"] = json!(n + 1);
                        }
                    }
                }
                if result == old {
                    return (200, old);
                }
                let written = self.write(&collection, result, false);
                (200, written)
            }
            Method::DELETE => {
                let want = json!({"metadata": sent.get("preconditions").cloned().unwrap_or_default()});
                if !same("uid", &want) || !same("resourceVersion", &want) {
                    return refusal(409, "Conflict", "the precondition does not hold");
                }
                let object = self.delete(&collection, old, &sent);
                (200, object)
            }
            _ => refusal(405, "MethodNotAllowed", "not on an object"),
        }
    }

    fn create(&mut self, target: &Target, mut object: Value) -> (u16, Value) {
        let collection = target.served.collection();
        if let Some(ns) = &target.namespace {
            object["metadata"]["namespace"] = json!(ns);
        }
        if text(&object, "/metadata/name").is_empty() {
            let name = format!("{}{:05}", text(&object, "/metadata/generateName"), self.version + 1);
            object["metadata"]["name"] = json!(name);
        }
        let k = key(text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
        if self.objects.get(&collection).is_some_and(|c| c.contains_key(&k)) {
            return refusal(409, "AlreadyExists", &format!("{} {k:?} already exists", target.served.plural));
        }
        let written = self.write(&collection, object, true);
        (201, written)
    }

    fn delete(&mut self, collection: &str, mut object: Value, options: &Value) -> Value {
        let finalizer = match text(options, "/propagationPolicy") {
            "Foreground" => Some("foregroundDeletion"),
            "Orphan" => Some("orphan"),
            _ => None,
        };
        if let Some(f) = finalizer
            && let Some(m) = object["metadata"].as_object_mut()
        {
            let list = m.entry("finalizers").or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut().filter(|l| !l.contains(&json!(f))) {
                list.push(json!(f));
            }
        }
        // A pod that runs on a node stays until its kubelet says that it has ended.
        let running = text(&object, "/kind") == "Pod" && !text(&object, "/spec/nodeName").is_empty();
        let grace =
            options.get("gracePeriodSeconds").and_then(Value::as_i64).unwrap_or(if running { 30 } else { 0 });
        let stamp = crate::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        if let Some(m) = object["metadata"].as_object_mut() {
            m.entry("deletionTimestamp").or_insert_with(|| json!(stamp));
            m.insert("deletionGracePeriodSeconds".into(), json!(grace));
        }
        self.write(collection, object, false)
    }
}

/// The key by which a strategic patch merges a list.
fn merge_key(field: &str) -> Option<&'static str> {
    match field {
        "conditions" => Some("type"),
        "ownerReferences" => Some("uid"),
        _ => None,
    }
}

fn merge(into: &mut Value, patch: &Value, strategic: bool) {
    let Some(patch) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Some(map) = into.as_object_mut() else { return };
    for (field, value) in patch {
        if let Some(list) = field.strip_prefix("$deleteFromPrimitiveList/").filter(|_| strategic) {
            if let (Some(Value::Array(list)), Value::Array(gone)) = (map.get_mut(list), value) {
                list.retain(|v| !gone.contains(v));
            }
            continue;
        }
        match (value, merge_key(field).filter(|_| strategic)) {
            (Value::Null, _) => {
                map.remove(field);
            }
            (Value::Array(items), None) if strategic && field == "finalizers" => {
                let list = map.entry(field.clone()).or_insert_with(|| json!([]));
                let Some(list) = list.as_array_mut() else { continue };
                list.extend(items.iter().filter(|i| !list.contains(i)).cloned().collect::<Vec<_>>());
            }
            (Value::Array(items), Some(by)) => {
                let list = map.entry(field.clone()).or_insert_with(|| json!([]));
                let Some(list) = list.as_array_mut() else { continue };
                for item in items {
                    let at = list.iter().position(|o| o[by] == item[by]);
                    match (at, item.get("$patch").is_some()) {
                        (Some(i), true) => {
                            list.remove(i);
                        }
                        (None, true) => {}
                        (Some(i), false) => merge(&mut list[i], item, strategic),
                        (None, false) => list.push(item.clone()),
                    }
                }
            }
            _ => merge(map.entry(field.clone()).or_insert(Value::Null), value, strategic),
        }
    }
}
