//! Keeps a store in step with the server: WatchList (list by watching), falling back to a list, then a watch
//! that is resumed by resourceVersion and started afresh where the server no longer knows it (410).

use super::{Cached, Informer, Shared};
use bytes::{Buf, BytesMut};
use http::{Request, header};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use rand::Rng;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Weak;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use url::form_urlencoded;

/// Pause after the first failure; doubles up to [`RETRY_MAX`], each with up to as much again at random.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A watch is asked to end after this many seconds and up to as many again, as client-go's reflector.
const WATCH_SECONDS: u64 = 300;
/// Beyond the time the server was asked to end the watch, its silence means that the connection is dead.
const WATCH_GRACE: Duration = Duration::from_secs(30);
/// Bound of waiting for the head of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Bound of one event: the largest object the API stores, with room for its envelope.
const MAX_EVENT_BYTES: usize = 8 * 1024 * 1024;
/// Objects in a page of the list that the fallback asks for.
const PAGE: u32 = 500;
/// On the bookmark that ends the initial events (KEP-3157).
const INITIAL_END: &str = "k8s.io/initial-events-end";

pub(super) struct Source {
    pub client: Client,
    pub path: String,
    pub labels: Option<String>,
    pub fields: Option<String>,
    pub metadata_only: bool,
}

/// Why a list or watch ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Client(#[from] kube::Error),
    #[error("{code} {reason}: {message}")]
    Refused { code: u16, reason: String, message: String },
    #[error("connection: {0}")]
    Connection(String),
    #[error("answer: {0}")]
    Answer(String),
    #[error("no answer in time")]
    Silent,
}

impl Ended {
    /// The server cannot resume from this version: start afresh.
    fn expired(&self) -> bool {
        matches!(self, Self::Refused { code: 410, .. })
            || matches!(self, Self::Refused { reason, .. } if reason == "Expired" || reason == "Gone")
    }

    /// The server does not know how to list by watching.
    fn unsupported(&self) -> bool {
        matches!(self, Self::Refused { code: 400 | 405 | 422, .. })
    }
}

pub(super) async fn run<K: Cached>(
    source: Source,
    transform: Option<fn(&mut K)>,
    store: Weak<Shared<K>>,
    stop: CancellationToken,
) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = follow(Reflector { source, transform, store, version: String::new(), by_watch: true }) => {}
    }
}

struct Reflector<K> {
    source: Source,
    transform: Option<fn(&mut K)>,
    store: Weak<Shared<K>>,
    /// Where to resume; empty to start afresh.
    version: String,
    by_watch: bool,
}

async fn follow<K: Cached>(mut r: Reflector<K>) {
    let mut delay = RETRY_FIRST;
    loop {
        let before = r.version.clone();
        let result = r.step().await;
        if r.store.strong_count() == 0 {
            return;
        }
        let path = &r.source.path;
        match result {
            Ok(()) => {
                delay = RETRY_FIRST;
                continue;
            }
            Err(e) if e.expired() && !r.version.is_empty() => {
                debug!(path, "watch: {e}; listing again");
                r.version.clear();
                continue;
            }
            Err(e) if e.unsupported() && r.by_watch && r.version.is_empty() => {
                debug!(path, "listing by watch: {e}; listing instead");
                r.by_watch = false;
                continue;
            }
            Err(e) => {
                if r.version != before {
                    delay = RETRY_FIRST;
                }
                warn!(path, delay_ms = delay.as_millis() as u64, "list and watch: {e}");
            }
        }
        let jitter = rand::rng().random_range(0.0..1.0);
        tokio::time::sleep(delay.mul_f64(1.0 + jitter)).await;
        delay = (delay * 2).min(RETRY_MAX);
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    resource_version: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow, default = "Vec::new")]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

impl<K: Cached> Reflector<K> {
    /// One watch, preceded by a list where there is nothing to resume.
    async fn step(&mut self) -> Result<(), Ended> {
        if self.version.is_empty() && !self.by_watch {
            self.list().await?;
        }
        self.watch().await
    }

    fn informer(&self) -> Result<Informer<K>, Ended> {
        Informer::from_weak(&self.store).ok_or(Ended::Silent)
    }

    fn decode(&self, json: &str) -> Option<K> {
        match serde_json::from_str::<K>(json) {
            Ok(mut object) => {
                object.meta_mut().managed_fields = None;
                if let Some(f) = self.transform {
                    f(&mut object);
                }
                Some(object)
            }
            Err(e) => {
                let head: String = json.chars().take(200).collect();
                warn!(path = self.source.path, "an object that cannot be read: {e}: {head}");
                None
            }
        }
    }

    async fn send(&self, query: String, list: bool) -> Result<http::Response<Body>, Ended> {
        let accept = match (self.source.metadata_only, list) {
            (false, _) => "application/json",
            (true, false) => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            (true, true) => "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        };
        let request = Request::get(format!("{}?{query}", self.source.path))
            .header(header::ACCEPT, accept)
            .body(Body::empty())
            .map_err(|e| Ended::Connection(e.to_string()))?;
        let response =
            timeout(ANSWER_TIMEOUT, self.source.client.send(request)).await.map_err(|_| Ended::Silent)??;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let body = timeout(ANSWER_TIMEOUT, response.into_body().collect())
            .await
            .map_err(|_| Ended::Silent)??
            .to_bytes();
        let status: Status = serde_json::from_slice(&body).unwrap_or_default();
        Err(Ended::Refused { code, reason: status.reason, message: status.message })
    }

    /// The selectors, then these parameters.
    fn query(&self, parameters: &[(&str, &str)]) -> String {
        let mut q = form_urlencoded::Serializer::new(String::new());
        if let Some(l) = &self.source.labels {
            q.append_pair("labelSelector", l);
        }
        if let Some(f) = &self.source.fields {
            q.append_pair("fieldSelector", f);
        }
        q.extend_pairs(parameters).finish()
    }

    async fn list(&mut self) -> Result<(), Ended> {
        let mut objects = Vec::new();
        let mut next = String::new();
        loop {
            let page = PAGE.to_string();
            let mut parameters = vec![("limit", page.as_str())];
            if !next.is_empty() {
                parameters.push(("continue", &next));
            }
            let response = self.send(self.query(&parameters), true).await?;
            let body = timeout(ANSWER_TIMEOUT, response.into_body().collect())
                .await
                .map_err(|_| Ended::Silent)??
                .to_bytes();
            let list: List<'_> = serde_json::from_slice(&body).map_err(|e| Ended::Answer(e.to_string()))?;
            objects.extend(list.items.iter().filter_map(|raw| self.decode(raw.get())));
            if list.metadata.next.is_empty() {
                self.complete(objects, list.metadata.resource_version)?;
                return Ok(());
            }
            next = list.metadata.next;
        }
    }

    fn complete(&mut self, objects: Vec<K>, version: String) -> Result<(), Ended> {
        let informer = self.informer()?;
        informer.0.store.replace(objects);
        informer.0.store.saw_version(&version);
        informer.0.synced.send_replace(true);
        self.version = version;
        Ok(())
    }

    async fn watch(&mut self) -> Result<(), Ended> {
        // The initial events gather here until the bookmark that ends them.
        let mut initial = self.version.is_empty().then(std::collections::BTreeMap::new);
        let seconds = rand::rng().random_range(WATCH_SECONDS..2 * WATCH_SECONDS);
        let ask_seconds = seconds.to_string();
        let mut parameters =
            vec![("watch", "true"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", &ask_seconds)];
        if initial.is_some() {
            parameters.extend([("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan")]);
        } else {
            parameters.push(("resourceVersion", &self.version));
        }
        let mut body = self.send(self.query(&parameters), false).await?.into_body();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds) + WATCH_GRACE;
        let mut buffer = BytesMut::new();
        let mut scanned = 0;
        loop {
            while let Some(end) = buffer[scanned..].iter().position(|b| *b == b'\n') {
                let line = buffer.split_to(scanned + end);
                buffer.advance(1);
                scanned = 0;
                if !line.trim_ascii().is_empty() {
                    self.event(&line, &mut initial)?;
                }
            }
            scanned = buffer.len();
            if scanned > MAX_EVENT_BYTES {
                return Err(Ended::Answer(format!("an event of more than {MAX_EVENT_BYTES} bytes")));
            }
            match tokio::time::timeout_at(deadline, body.frame()).await {
                Err(_) => return Err(Ended::Silent),
                Ok(None) if initial.is_some() => {
                    return Err(Ended::Connection("ended within the initial events".into()));
                }
                Ok(None) => return Ok(()),
                Ok(Some(Err(e))) => return Err(Ended::Connection(e.to_string())),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn event(
        &mut self,
        line: &[u8],
        initial: &mut Option<std::collections::BTreeMap<crate::Key, K>>,
    ) -> Result<(), Ended> {
        let event: Event<'_> = serde_json::from_slice(line).map_err(|e| Ended::Answer(e.to_string()))?;
        let json = event.object.get();
        match event.kind {
            "BOOKMARK" => {
                let mark: Bookmark = serde_json::from_str(json).map_err(|e| Ended::Answer(e.to_string()))?;
                let version = mark.metadata.resource_version;
                match initial.take() {
                    Some(objects)
                        if mark.metadata.annotations.get(INITIAL_END).is_some_and(|v| v == "true") =>
                    {
                        self.complete(objects.into_values().collect(), version)?;
                    }
                    Some(objects) => *initial = Some(objects),
                    None => {
                        self.informer()?.0.store.saw_version(&version);
                        self.version = version;
                    }
                }
            }
            "ERROR" => {
                let s: Status = serde_json::from_str(json).map_err(|e| Ended::Answer(e.to_string()))?;
                return Err(Ended::Refused { code: s.code, reason: s.reason, message: s.message });
            }
            kind @ ("ADDED" | "MODIFIED" | "DELETED") => {
                let Some(object) = self.decode(json) else { return Ok(()) };
                match initial {
                    Some(objects) => {
                        let key = crate::Key::of(&object);
                        if kind == "DELETED" {
                            objects.remove(&key);
                        } else {
                            objects.insert(key, object);
                        }
                    }
                    None => {
                        let version = object.meta().resource_version.clone().unwrap_or_default();
                        let informer = self.informer()?;
                        if kind == "DELETED" {
                            informer.0.store.remove(object);
                        } else {
                            informer.0.store.put(object);
                        }
                        self.version = version;
                    }
                }
            }
            other => debug!(path = self.source.path, "an event of unknown type {other}"),
        }
        Ok(())
    }
}
