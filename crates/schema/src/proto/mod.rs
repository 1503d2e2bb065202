//! JSON to protobuf and back, driven by the tables: no typed struct and no JSON tree in between.
//!
//! A whole object travels in an envelope: the magic `k8s\0` and a `runtime.Unknown` with apiVersion, kind and
//! the message. What Go writes is read exactly; what is written here Go reads the same. Go always writes scalars
//! that are not pointers, also when they are zero; here they are left out, which means the same.

mod decode;
mod encode;
mod list;
mod wire;

pub use decode::message_to_json;
pub use encode::message_from_json;
pub use list::{ListWriter, WATCH_FRAME_MAX_BYTES, WatchFrame, read_frame, watch_event, watch_frame};

use crate::types::{self, Type};
use serde::Deserialize;
use std::borrow::Cow;
use wire::{LEN, Reader, push_len_field, push_tag};

pub(crate) use decode::json_schema_props;

/// What every protobuf body of the API begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Messages nest at most this deep; a deeper one is refused.
pub const MAX_DEPTH: usize = 100;

/// Why bytes could not be transcoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    UnknownKind { api_version: String, kind: String },
    #[error("proto: {0}")]
    Wire(&'static str),
    #[error("proto: {definition}.{field}: {problem}")]
    Field { definition: &'static str, field: &'static str, problem: &'static str },
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// A `runtime.Unknown`: the envelope around a message, borrowed from the bytes it came in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    /// The message itself; JSON if `content_type` says so.
    pub raw: &'a [u8],
    pub content_encoding: &'a str,
    pub content_type: &'a str,
}

impl<'a> Envelope<'a> {
    /// Opens an envelope.
    ///
    /// # Errors
    /// [`Error::NoMagic`] without the magic prefix, [`Error::Wire`] if what follows is no message.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut envelope = Self::default();
        let mut reader = Reader::new(bytes.strip_prefix(MAGIC.as_slice()).ok_or(Error::NoMagic)?);
        while let Some((number, value)) = reader.next()? {
            match number {
                1 => {
                    let mut meta = Reader::new(value.bytes()?);
                    while let Some((number, value)) = meta.next()? {
                        match number {
                            1 => envelope.api_version = value.text()?,
                            2 => envelope.kind = value.text()?,
                            _ => {}
                        }
                    }
                }
                2 => envelope.raw = value.bytes()?,
                3 => envelope.content_encoding = value.text()?,
                4 => envelope.content_type = value.text()?,
                _ => {}
            }
        }
        Ok(envelope)
    }

    /// Whether `bytes` begin as an envelope.
    pub fn is(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }
}

/// Puts a message into its envelope.
pub fn wrap(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + api_version.len() + kind.len() + 32);
    open_envelope(&mut out, api_version, kind);
    push_tag(&mut out, 2, LEN);
    wire::push_varint(&mut out, message.len() as u64);
    out.extend_from_slice(message);
    close_envelope(&mut out);
    out
}

fn open_envelope(out: &mut Vec<u8>, api_version: &str, kind: &str) {
    out.extend_from_slice(MAGIC);
    push_tag(out, 1, LEN);
    wire::nested(out, |out| {
        push_len_field(out, 1, api_version.as_bytes());
        push_len_field(out, 2, kind.as_bytes());
    });
}

fn close_envelope(out: &mut Vec<u8>) {
    push_len_field(out, 3, b"");
    push_len_field(out, 4, b"");
}

/// A whole object from its envelope to JSON: apiVersion, kind, JSON bytes.
///
/// # Errors
/// No envelope, a kind the tables do not know, bytes that do not fit the kind.
pub fn to_json(bytes: &[u8]) -> Result<(String, String, Vec<u8>), Error> {
    let envelope = Envelope::parse(bytes)?;
    let (api_version, kind) = (envelope.api_version.to_owned(), envelope.kind.to_owned());
    if envelope.content_type == "application/json" {
        return Ok((api_version, kind, envelope.raw.to_vec()));
    }
    let ty = kind_type(&api_version, &kind)?;
    let mut out = Vec::with_capacity(envelope.raw.len() * 2 + 64);
    decode::object_to_json(ty, &api_version, &kind, envelope.raw, &mut out)?;
    Ok((api_version, kind, out))
}

/// A whole object from JSON, which must carry apiVersion and kind, to its envelope.
///
/// # Errors
/// JSON without or with an unknown kind, or that does not fit the kind.
pub fn from_json(json: &[u8]) -> Result<Vec<u8>, Error> {
    #[derive(Deserialize)]
    struct TypeMeta<'a> {
        #[serde(rename = "apiVersion", borrow, default)]
        api_version: Cow<'a, str>,
        #[serde(borrow, default)]
        kind: Cow<'a, str>,
    }
    let meta: TypeMeta = serde_json::from_slice(json)?;
    let ty = kind_type(&meta.api_version, &meta.kind)?;
    object_from_json(ty, &meta.api_version, &meta.kind, json)
}

/// As [`from_json`], for a caller that knows the kind: the JSON is read once.
///
/// # Errors
/// JSON that does not fit the type.
pub fn object_from_json(
    ty: &'static Type,
    api_version: &str,
    kind: &str,
    json: &[u8],
) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(json.len());
    open_envelope(&mut out, api_version, kind);
    push_tag(&mut out, 2, LEN);
    wire::try_nested(&mut out, |out| message_from_json(ty, json, out))?;
    close_envelope(&mut out);
    Ok(out)
}

/// The `PartialObjectMetadata` of an object, envelope to envelope: every kind's message has its metadata at field 1.
///
/// # Errors
/// Bytes that are no envelope or no message.
pub fn partial_metadata(object: &[u8]) -> Result<Vec<u8>, Error> {
    let message = metadata_message(Envelope::parse(object)?.raw)?;
    Ok(wrap("meta.k8s.io/v1", "PartialObjectMetadata", &message))
}

/// The message of a `PartialObjectMetadata`, an item of a `PartialObjectMetadataList`, from an object's message.
///
/// # Errors
/// Bytes that are no message.
pub fn metadata_message(message: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    let mut reader = Reader::new(message);
    while let Some((number, value)) = reader.next()? {
        if number == 1 {
            push_len_field(&mut out, 1, value.bytes()?);
        }
    }
    Ok(out)
}

fn kind_type(api_version: &str, kind: &str) -> Result<&'static Type, Error> {
    let unknown = || Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
    types::for_api_version(api_version, kind).ok_or_else(unknown)
}

#[cfg(test)]
mod tests;
