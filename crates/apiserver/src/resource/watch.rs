//! WATCH: a body that hands out ready frames as the cache delivers them.

use super::respond::{Form, full, response};
use super::{Call, Target, adapt, respond};
use crate::cache::{Cache, Delivery, Entry, EventType, Subscription, WatchStart};
use crate::negotiate::{Accepted, Encoding, Shape};
use crate::options::{ListOptions, parse_revision};
use crate::request::{BoxError, Response};
use crate::table::{IncludeObject, put_partial};
use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use meta::{ApiError, Time};
use rand::Rng;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use store::Revision;
use tokio::time::{Instant, Sleep};

/// A watch without `timeoutSeconds` ends after this to twice this, at random (upstream's minimum request timeout).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// How often a quiet watch that allows bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// The last bookmark comes this long before the end.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Frames that are there together go out together, up to this many bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// Events taken from the watcher's queue at once.
const TAKE_EVENTS: usize = 256;

const INITIAL_EVENTS_END: &str = r#","annotations":{"k8s.io/initial-events-end":"true"}"#;

impl Call<'_> {
    pub(super) async fn watch(&self) -> Result<Response, ApiError> {
        let options = ListOptions::parse(self.query, true)?;
        let selector = self.selector(&options)?;
        let include = IncludeObject::parse(self.query.get("includeObject").unwrap_or(""))?;
        let cache = &self.resources.cache;
        let initial = options.send_initial_events;
        let (start, current) = match options.resource_version.as_str() {
            "" => {
                let current = cache.catch_up().await?;
                (if initial == Some(false) { WatchStart::After(current) } else { WatchStart::State }, current)
            }
            "0" => {
                let current = cache.revision();
                (if initial == Some(false) { WatchStart::After(current) } else { WatchStart::State }, current)
            }
            text => {
                let revision = parse_revision(text)?;
                if initial == Some(true) {
                    (WatchStart::State, cache.wait_for(revision).await?)
                } else {
                    (WatchStart::After(revision), cache.revision())
                }
            }
        };
        let renderer = Renderer {
            target: self
                .resources
                .target(&self.target.gvr.group, &self.target.gvr.version, &self.target.gvr.resource)
                .cloned()
                .ok_or_else(ApiError::page_not_found)?,
            accepted: self.accepted.clone(),
            include,
            now: self.resources.config.now,
            headers_sent: false,
        };
        let content_type = match self.accepted.encoding {
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            Encoding::Json | Encoding::Yaml => "application/json",
        };
        let subscription = match self.target.cache.subscribe(selector, start, current) {
            Ok(subscription) => subscription,
            // Once a watch is accepted, refusals are events.
            Err(error) => return Ok(response(200, content_type, full(renderer.error(&error)))),
        };
        let timeout = match options.timeout_seconds.unwrap_or(0) {
            0 => DEFAULT_TIMEOUT.mul_f64(1.0 + rand::rng().random::<f64>()),
            seconds => Duration::from_secs(seconds),
        };
        let ends_initial = initial == Some(true) && options.allow_bookmarks;
        let body = WatchBody::new(
            cache.clone(),
            subscription,
            renderer,
            timeout,
            options.allow_bookmarks,
            ends_initial,
        );
        Ok(response(200, content_type, body.boxed_unsync()))
    }
}

/// Turns deliveries into frames of the form the client accepts.
struct Renderer {
    target: Arc<Target>,
    accepted: Accepted,
    include: IncludeObject,
    now: fn() -> Time,
    /// A table's column definitions come once.
    headers_sent: bool,
}

impl Renderer {
    /// Whether the cache's own frames are what the client wants.
    fn is_ready_made(&self) -> bool {
        self.accepted.shape == Shape::Whole
            && self.accepted.encoding != Encoding::Protobuf
            && !self.target.is_view()
    }

    fn put(&mut self, ty: EventType, entry: &Entry, out: &mut BytesMut) {
        if self.is_ready_made() {
            entry.put_frame(ty, out);
            return;
        }
        match (self.accepted.shape, self.accepted.encoding) {
            (Shape::Whole, Encoding::Protobuf) => {
                let gvk = &self.target.info.gvk;
                if let Some(message) = entry.proto() {
                    let object = schema::proto::wrap(&gvk.api_version(), &gvk.kind, message);
                    out.put_slice(&schema::proto::watch_frame(ty.as_str(), &object));
                }
            }
            (Shape::Whole, _) => self.put_json(ty, &self.target.json(entry), out),
            (Shape::Table, _) => {
                let meta = respond::list_meta(entry.revision.0, None, None);
                let form = Form {
                    accepted: &self.accepted,
                    include: self.include,
                    info: self.target.info,
                    now: (self.now)(),
                };
                let table = form.table(std::iter::once(entry), &meta, !self.headers_sent);
                self.headers_sent = true;
                self.put_json(ty, table.as_bytes(), out);
            }
            (Shape::Partial, _) => {
                let mut json = String::new();
                put_partial(entry, self.accepted.shape_version, &mut json);
                self.put_json(ty, json.as_bytes(), out);
            }
        }
    }

    fn put_json(&self, ty: EventType, json: &[u8], out: &mut BytesMut) {
        if self.accepted.encoding == Encoding::Protobuf {
            if let Ok(object) = adapt::envelope(json) {
                out.put_slice(&schema::proto::watch_frame(ty.as_str(), &object));
            }
            return;
        }
        out.put_slice(ty.frame_head());
        out.put_slice(json);
        out.put_slice(crate::cache::entry::FRAME_TAIL);
    }

    /// A bookmark: an object of which only the resource version means something.
    fn put_bookmark(&mut self, revision: Revision, ends_initial: bool, out: &mut BytesMut) {
        let annotations = if ends_initial { INITIAL_EVENTS_END } else { "" };
        let metadata = format!(r#"{{"resourceVersion":"{revision}","creationTimestamp":null{annotations}}}"#);
        let version = self.accepted.shape_version;
        let partial = format!(
            r#"{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/{version}","metadata":{metadata}}}"#
        );
        let json = match self.accepted.shape {
            Shape::Whole => {
                let gvk = &self.target.info.gvk;
                format!(
                    r#"{{"kind":"{}","apiVersion":"{}","metadata":{metadata}}}"#,
                    gvk.kind,
                    gvk.api_version()
                )
            }
            Shape::Partial => partial,
            Shape::Table => {
                let head = if self.headers_sent {
                    "null".to_owned()
                } else {
                    crate::table::columns(self.target.info).to_string()
                };
                self.headers_sent = true;
                let cells = vec![serde_json::Value::from(""); self.target.info.columns.len() + 1];
                let cells = serde_json::Value::from(cells);
                let meta = respond::list_meta(revision.0, None, None);
                format!(
                    r#"{{"kind":"Table","apiVersion":"meta.k8s.io/{version}","metadata":{meta},"columnDefinitions":{head},"rows":[{{"cells":{cells},"object":{partial}}}]}}"#
                )
            }
        };
        self.put_json(EventType::Bookmark, json.as_bytes(), out);
    }

    fn error(&self, error: &ApiError) -> Bytes {
        let mut out = BytesMut::new();
        let json = meta::status_json(&error.status());
        self.put_json(EventType::Error, &json, &mut out);
        out.freeze()
    }
}

struct WatchBody {
    cache: Arc<Cache>,
    subscription: Subscription,
    initial: std::vec::IntoIter<Arc<Entry>>,
    ends_initial: bool,
    renderer: Renderer,
    taken: VecDeque<Delivery>,
    bookmarks: bool,
    /// Of the last event or bookmark.
    sent: Revision,
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
}

impl WatchBody {
    fn new(
        cache: Arc<Cache>,
        mut subscription: Subscription,
        renderer: Renderer,
        timeout: Duration,
        bookmarks: bool,
        ends_initial: bool,
    ) -> Self {
        let initial = std::mem::take(&mut subscription.initial).into_iter();
        let now = Instant::now();
        let deadline = now + timeout;
        let timer = Box::pin(tokio::time::sleep_until(next_wake(now, deadline, bookmarks)));
        Self {
            cache,
            sent: subscription.revision,
            subscription,
            initial,
            ends_initial,
            renderer,
            taken: VecDeque::new(),
            bookmarks,
            deadline,
            timer,
        }
    }

    fn initial_chunk(&mut self) -> Option<Bytes> {
        if self.initial.len() == 0 && !self.ends_initial {
            return None;
        }
        let mut out = BytesMut::with_capacity(CHUNK_BYTES.min(self.initial.len() * 2048 + 512));
        while out.len() < CHUNK_BYTES {
            let Some(entry) = self.initial.next() else { break };
            self.renderer.put(EventType::Added, &entry, &mut out);
        }
        if self.initial.len() == 0 {
            if std::mem::take(&mut self.ends_initial) {
                self.renderer.put_bookmark(self.subscription.revision, true, &mut out);
            }
            self.initial = Vec::new().into_iter();
        }
        Some(out.freeze())
    }

    /// Frames of what was taken; a single ready frame is not copied.
    fn chunk(&mut self) -> Option<Bytes> {
        let first = self.taken.pop_front()?;
        self.sent = self.sent.max(first.entry.revision);
        if self.taken.is_empty() && self.renderer.is_ready_made() {
            return Some(first.entry.frame(first.ty));
        }
        let mut out = BytesMut::with_capacity(
            CHUNK_BYTES.min((self.taken.len() + 1) * (first.entry.json().len() + 256)),
        );
        self.renderer.put(first.ty, &first.entry, &mut out);
        while out.len() < CHUNK_BYTES {
            let Some(next) = self.taken.pop_front() else { break };
            self.sent = self.sent.max(next.entry.revision);
            self.renderer.put(next.ty, &next.entry, &mut out);
        }
        Some(out.freeze())
    }
}

/// When the timer is due: a bookmark or the end.
fn next_wake(now: Instant, deadline: Instant, bookmarks: bool) -> Instant {
    if !bookmarks {
        return deadline;
    }
    let last = deadline.checked_sub(BOOKMARK_BEFORE_END).filter(|l| *l > now);
    last.map_or(deadline, |last| last.min(now + BOOKMARK_EVERY))
}

impl HttpBody for WatchBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let ready = |bytes: Bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        if let Some(chunk) = this.initial_chunk() {
            return ready(chunk);
        }
        loop {
            if let Some(chunk) = this.chunk() {
                return ready(chunk);
            }
            // Before the queue is looked at: what was applied up to here is in the queue.
            let applied = this.cache.revision();
            this.subscription.watcher.take(cx, TAKE_EVENTS, &mut this.taken);
            if !this.taken.is_empty() {
                continue;
            }
            if this.subscription.watcher.is_closed() {
                return Poll::Ready(None);
            }
            if this.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if now >= this.deadline {
                return Poll::Ready(None);
            }
            this.timer.as_mut().reset(next_wake(now, this.deadline, this.bookmarks));
            this.sent = this.sent.max(applied);
            let mut out = BytesMut::new();
            this.renderer.put_bookmark(this.sent, false, &mut out);
            return ready(out.freeze());
        }
    }
}
