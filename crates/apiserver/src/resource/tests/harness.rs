//! A request path of its own for each test, and short ways to ask it.

use crate::request::{Context, RequestInfo, Response};
use crate::resource::{Admission, AdmitAll, Config, Resources, full};
use auth::User;
use http_body_util::BodyExt;
use serde_json::Value;
use std::sync::Arc;

pub const JSON: &str = "application/json";
pub const MERGE: &str = "application/merge-patch+json";

pub struct Api {
    pub resources: Arc<Resources>,
    pub store: Arc<store::Embedded>,
}

/// What a path and method ask for; enough for the tests.
fn info(method: &str, path: &str) -> RequestInfo {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut parts = path.split('/').filter(|s| !s.is_empty());
    let (group, version) = match parts.next() {
        Some("api") => ("", parts.next().unwrap_or("")),
        _ => (parts.next().unwrap_or(""), parts.next().unwrap_or("")),
    };
    let mut rest: Vec<&str> = parts.collect();
    let mut namespace = "";
    if rest.first() == Some(&"namespaces") && rest.len() > 2 && !matches!(rest[2], "status" | "finalize") {
        namespace = rest[1];
        rest.drain(..2);
    }
    let part = |i: usize| rest.get(i).copied().unwrap_or("").to_owned();
    let watch = query.contains("watch=1") || query.contains("watch=true");
    let name = part(1);
    let verb = match (method, name.is_empty()) {
        ("GET", _) if watch => "watch",
        ("GET", true) => "list",
        ("GET", false) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "deletecollection",
        _ => "delete",
    };
    RequestInfo {
        is_resource: true,
        path: path.to_owned(),
        verb: verb.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        namespace: namespace.to_owned(),
        resource: part(0),
        name,
        subresource: part(2),
        rest: Vec::new(),
    }
}

impl Api {
    pub async fn new() -> Self {
        Self::with(Arc::new(AdmitAll)).await
    }

    pub async fn with(admission: Arc<dyn Admission>) -> Self {
        let store = store::memory::open();
        let resources = Resources::start(store.clone(), kinds::ALL, admission, Config::default())
            .await
            .expect("an empty store");
        Self { resources, store }
    }

    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<bytes::Bytes>,
    ) -> Response {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let context = Context {
            info: Arc::new(info(method, path)),
            user: Arc::new(User { name: "tester".into(), ..User::default() }),
            agent: "test".into(),
        };
        self.resources.handle(context, request.body(full(body)).expect("a request")).await
    }

    pub async fn send(&self, method: &str, path: &str, content_type: &str, body: &str) -> (u16, Value) {
        let response = self.raw(method, path, &[("content-type", content_type)], body.to_owned()).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (
            code,
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&bytes))),
        )
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, JSON, "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("POST", path, JSON, &body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("PUT", path, JSON, &body.to_string()).await
    }

    pub async fn merge(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("PATCH", path, MERGE, &body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        self.send("DELETE", path, JSON, "").await
    }

    /// Creates, and gives what was created.
    pub async fn created(&self, path: &str, body: &Value) -> Value {
        let (code, object) = self.post(path, body).await;
        assert_eq!(code, 201, "{object}");
        object
    }
}

/// The message of a refusal.
pub fn message(answer: &(u16, Value)) -> (u16, &str, &str) {
    let text = |name: &str| answer.1[name].as_str().unwrap_or("");
    (answer.0, text("reason"), text("message"))
}

/// `metadata.resourceVersion` as a number.
pub fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|v| v.parse().ok())
        .unwrap_or_else(|| panic!("{object}"))
}

/// Lines of a watch, as they come.
pub struct WatchLines {
    body: crate::request::Body,
    rest: Vec<u8>,
}

impl WatchLines {
    pub fn new(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        Self { body: response.into_body(), rest: Vec::new() }
    }

    /// The next event; None at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a JSON line"));
            }
            let frame = self.body.frame().await?.expect("a frame");
            self.rest.extend_from_slice(&frame.into_data().expect("data"));
        }
    }

    /// Type and name of the next events.
    pub async fn expect(&mut self, expect: &[(&str, &str)]) -> Vec<Value> {
        let mut events = Vec::new();
        for (ty, name) in expect {
            let event = self.next().await.expect("an event");
            assert_eq!(
                (event["type"].as_str(), event["object"]["metadata"]["name"].as_str()),
                (Some(*ty), Some(*name))
            );
            events.push(event);
        }
        events
    }
}
