//! GET of one object and of a collection: ready bytes.

use super::respond::{GZIP_MIN_BYTES, full, list_meta, response};
use super::{Call, special, status};
use crate::cache::pages::ListRefused;
use crate::cache::{Entry, ListPage, ListRequest, Selector, When};
use crate::negotiate::{Encoding, Shape};
use crate::options::{ListOptions, get_when};
use crate::request::{BoxError, Response};
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use meta::{ApiError, FieldSelector};
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Bytes of a list that are put together at once.
const CHUNK_BYTES: usize = 128 * 1024;

impl Call<'_> {
    pub(super) async fn get(&self) -> Result<Response, ApiError> {
        let entry = self.read(get_when(self.query)?).await?.ok_or_else(|| self.not_found())?;
        self.respond(200, &entry)
    }

    /// The object that the path names.
    pub(super) async fn read(&self, when: When) -> Result<Option<Arc<Entry>>, ApiError> {
        let cache = &self.resources.cache;
        match when {
            When::Newest => cache.catch_up().await?,
            When::NotOlderThan(r) | When::Exactly(r) => cache.wait_for(r).await?,
            When::Any => cache.revision(),
        };
        Ok(self.target.cache.get(self.namespace, self.name))
    }

    /// The selector of a list or watch; a name in the path is a field selector.
    pub(super) fn selector(&self, options: &ListOptions) -> Result<Selector, ApiError> {
        let mut fields = options.fields.clone();
        if self.target.is_view() {
            special::events::stored_fields(&mut fields);
        }
        if !self.name.is_empty() {
            match fields.pinned("metadata.name") {
                Some(name) if name == self.name => {}
                Some(_) => {
                    return Err(ApiError::bad_request(
                        "fieldSelector metadata.name doesn't match requested name",
                    ));
                }
                None if fields.is_everything() => {
                    let term = meta::selector::FieldTerm {
                        path: "metadata.name".into(),
                        value: self.name.to_owned(),
                        negated: false,
                    };
                    fields = FieldSelector { terms: vec![term] };
                }
                None => {
                    return Err(ApiError::bad_request(
                        "fieldSelector metadata.name doesn't match requested name",
                    ));
                }
            }
        }
        Selector::new(self.target.cache.kind.info(), self.namespace, options.labels.clone(), &fields)
    }

    pub(super) async fn list(&self) -> Result<Response, ApiError> {
        let options = ListOptions::parse(self.query, false)?;
        let request = ListRequest {
            selector: self.selector(&options)?,
            when: options.when()?,
            limit: options.limit,
            continue_token: options.continue_token,
        };
        match self.resources.cache.list(&self.target.cache, &request).await {
            Ok(page) => self.respond_list(page),
            Err(ListRefused::Api(error)) => Err(error),
            Err(ListRefused::ContinueExpired { error, token }) => {
                let mut said = error.status();
                said.metadata.continue_ = Some(token);
                Ok(status(self.accepted, &said, error.code()))
            }
        }
    }

    pub(super) fn respond_list(&self, page: ListPage) -> Result<Response, ApiError> {
        let meta = list_meta(page.revision.0, page.continue_token.as_deref(), page.remaining);
        let form = self.form()?;
        let gvk = &self.target.info.gvk;
        let content_type = self.accepted.encoding.media_type();
        let whole = match (self.accepted.shape, self.accepted.encoding) {
            (Shape::Whole, Encoding::Json) if !self.accepted.pretty && !self.target.is_view() => {
                let api_version = gvk.api_version();
                let head = format!(
                    r#"{{"kind":"{}List","apiVersion":"{api_version}","metadata":{meta},"items":["#,
                    gvk.kind
                );
                return Ok(self.stream_list(ListBody::new(head, page.entries)));
            }
            (Shape::Whole, Encoding::Protobuf) if !self.target.is_view() => {
                let mut list = schema::proto::ListWriter::new(meta.as_bytes()).map_err(ApiError::internal)?;
                for entry in &page.entries {
                    list.push_message(entry.proto().ok_or_else(|| ApiError::internal("no protobuf form"))?);
                }
                let bytes = list.finish(&gvk.api_version(), &format!("{}List", gvk.kind));
                return Ok(self.compressed(response(200, content_type, full(Bytes::new())), bytes.into()));
            }
            (Shape::Whole, _) => {
                let mut out = BytesMut::from(
                    format!(
                        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{meta},"items":["#,
                        gvk.kind,
                        gvk.api_version()
                    )
                    .as_bytes(),
                );
                for (i, entry) in page.entries.iter().enumerate() {
                    if i > 0 {
                        out.extend_from_slice(b",");
                    }
                    out.extend_from_slice(&self.target.json(entry));
                }
                out.extend_from_slice(b"]}");
                out.freeze()
            }
            (Shape::Table, _) => form.table(page.entries.iter().map(|e| &**e), &meta, true).into(),
            (Shape::Partial, _) => {
                let version = self.accepted.shape_version;
                let mut out = format!(
                    r#"{{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/{version}","metadata":{meta},"items":["#
                );
                for (i, entry) in page.entries.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    crate::table::put_partial(entry, version, &mut out);
                }
                out.push_str("]}");
                out.into()
            }
        };
        let bytes = super::respond::encode(self.accepted, whole)?;
        Ok(self.compressed(response(200, content_type, full(Bytes::new())), bytes))
    }

    /// Puts a body into an answer, compressed where it is long and the client accepts it.
    fn compressed(&self, mut answer: Response, bytes: Bytes) -> Response {
        if self.accepted.gzip && bytes.len() >= GZIP_MIN_BYTES {
            let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
            if encoder.write_all(&bytes).is_ok()
                && let Ok(packed) = encoder.finish()
            {
                set_gzip(&mut answer);
                *answer.body_mut() = full(packed);
                return answer;
            }
        }
        *answer.body_mut() = full(bytes);
        answer
    }

    fn stream_list(&self, mut body: ListBody) -> Response {
        let gzip = self.accepted.gzip && body.left_bytes >= GZIP_MIN_BYTES as u64;
        if gzip {
            body.gzip = Some(GzEncoder::new(Vec::with_capacity(CHUNK_BYTES), Compression::fast()));
        }
        let mut answer = response(200, self.accepted.encoding.media_type(), body.boxed_unsync());
        if gzip {
            set_gzip(&mut answer);
        }
        answer
    }
}

fn set_gzip(answer: &mut Response) {
    answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    answer.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// A list as a body: the entries' bytes, put together in chunks as the connection takes them.
struct ListBody {
    head: Option<String>,
    entries: std::vec::IntoIter<Arc<Entry>>,
    first: bool,
    ended: bool,
    /// Uncompressed.
    left_bytes: u64,
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl ListBody {
    fn new(head: String, entries: Vec<Arc<Entry>>) -> Self {
        // Between items a comma, before each `{`; the end is `]}`.
        let items: usize = entries.iter().map(|e| e.json_item_tail().len() + 2).sum();
        let left = head.len() + items + 2 - usize::from(!entries.is_empty());
        Self {
            head: Some(head),
            entries: entries.into_iter(),
            first: true,
            ended: false,
            left_bytes: left as u64,
            gzip: None,
        }
    }

    fn next_chunk(&mut self) -> Option<BytesMut> {
        if self.ended {
            return None;
        }
        let room = usize::try_from(self.left_bytes).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES + 16 * 1024);
        let mut out = BytesMut::with_capacity(room);
        if let Some(head) = self.head.take() {
            out.extend_from_slice(head.as_bytes());
        }
        while out.len() < CHUNK_BYTES {
            let Some(entry) = self.entries.next() else {
                out.extend_from_slice(b"]}");
                self.ended = true;
                break;
            };
            out.extend_from_slice(if self.first { b"{" } else { b",{" });
            self.first = false;
            out.extend_from_slice(entry.json_item_tail());
        }
        self.left_bytes = self.left_bytes.saturating_sub(out.len() as u64);
        Some(out)
    }
}

impl HttpBody for ListBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            let Some(chunk) = this.next_chunk() else {
                let last =
                    this.gzip.take().map(|g| g.finish().map(|b| Frame::data(b.into())).map_err(Into::into));
                return Poll::Ready(last);
            };
            let Some(gzip) = &mut this.gzip else {
                return Poll::Ready(Some(Ok(Frame::data(chunk.freeze()))));
            };
            if let Err(error) = gzip.write_all(&chunk) {
                return Poll::Ready(Some(Err(error.into())));
            }
            let packed = std::mem::replace(gzip.get_mut(), Vec::with_capacity(CHUNK_BYTES / 4));
            if !packed.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(packed.into()))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.gzip.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.gzip.is_some() { SizeHint::default() } else { SizeHint::with_exact(self.left_bytes) }
    }
}
