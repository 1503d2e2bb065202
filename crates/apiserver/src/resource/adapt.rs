//! The thin seam to the crates `schema` and `patch`: what the request path asks of them, in its own terms.

use bytes::Bytes;
use kinds::{AnyKind, Info, Object};
use meta::{ApiError, Reason};
use schema::proto;
use serde_json::Value;
use std::borrow::Cow;

/// Upstream's protobuf envelope begins with this.
pub const PROTOBUF_MAGIC: &[u8] = proto::MAGIC;

fn definition(info: &Info) -> Result<&'static schema::Type, ApiError> {
    schema::lookup(info.definition).ok_or_else(|| ApiError::internal(format!("{} has no schema", info.gvk)))
}

/// What one look at a body finds, before it is decoded.
pub fn inspect(info: &Info, json: &[u8]) -> schema::strict::Report {
    schema::lookup(info.definition).map(|ty| schema::strict::inspect(ty, json)).unwrap_or_default()
}

/// The body without zero values that mean no more than absence; as it is where it has none.
fn canonical<'a>(info: &Info, json: &'a [u8], report: &schema::strict::Report) -> Cow<'a, [u8]> {
    let (true, Some(ty)) = (report.superfluous, schema::lookup(info.definition)) else { return json.into() };
    // what does not parse is for the decoder to report
    let Ok(mut value) = serde_json::from_slice::<Value>(json) else { return json.into() };
    schema::canonical::prune(ty, &mut value);
    value.to_string().into_bytes().into()
}

/// A body as an object of the kind, as leniently as Go decodes: null stands for the zero value.
///
/// # Errors
/// What does not fit the kind.
pub fn decode(
    kind: &dyn AnyKind,
    json: &[u8],
    report: &schema::strict::Report,
) -> Result<Object, serde_json::Error> {
    let info = kind.info();
    kind.decode(&canonical(info, json, report)).or_else(|error| {
        let completed = schema::lookup(info.definition).and_then(|ty| {
            let mut value = serde_json::from_slice(json).ok()?;
            schema::canonical::complete(ty, &mut value).then_some(value)
        });
        completed.map_or(Err(error), |value| kind.from_value(value))
    })
}

/// Why a body does not decode, in the words of Go's decoder; `error` is serde's.
pub fn decode_error(info: &Info, json: &[u8], error: &serde_json::Error) -> String {
    let typed = schema::lookup(info.definition).and_then(|ty| schema::strict::type_error(ty, json));
    typed.unwrap_or_else(|| error.to_string())
}

/// A protobuf envelope as JSON bytes with apiVersion and kind.
///
/// # Errors
/// BadRequest: no envelope, an unknown kind, a message that does not fit it.
pub fn proto_body_to_json(body: &[u8]) -> Result<Vec<u8>, ApiError> {
    proto::to_json(body).map(|(_, _, json)| json).map_err(|e| ApiError::bad_request(e.to_string()))
}

/// A stored protobuf envelope as JSON.
///
/// # Errors
/// InternalError: damage.
pub fn proto_to_json(_info: &Info, value: &[u8]) -> Result<Value, ApiError> {
    let (_, _, json) = proto::to_json(value).map_err(ApiError::internal)?;
    serde_json::from_slice(&json).map_err(ApiError::internal)
}

/// An object's protobuf message, without the envelope.
///
/// # Errors
/// NotAcceptable, where the kind has no protobuf form.
pub fn json_to_proto(info: &Info, json: &[u8]) -> Result<Bytes, ApiError> {
    let mut out = Vec::with_capacity(json.len());
    proto::message_from_json(definition(info)?, json, &mut out)
        .map_err(|e| ApiError::new(Reason::NotAcceptable, e.to_string()))?;
    Ok(out.into())
}

/// A whole object of any kind in its protobuf envelope.
///
/// # Errors
/// NotAcceptable, where the kind is unknown to the schema.
pub fn envelope(json: &[u8]) -> Result<Vec<u8>, ApiError> {
    proto::from_json(json).map_err(|e| ApiError::new(Reason::NotAcceptable, e.to_string()))
}

/// An object as a JSON tree, with the resource version it was read at.
pub fn tree(object: &Object) -> Value {
    object.to_value()
}
