//! Lists put together from items that are encoded already, and the frames of a watch.

use super::wire::{self, LEN, Reader, push_len_field, push_tag};
use super::{Envelope, Error};
use crate::types::Type;

/// A watch frame's length field may say at most this (upstream's framer accepts no more either).
pub const WATCH_FRAME_MAX_BYTES: usize = 16 << 20;

/// Builds the message of a list: `ListMeta` first, then the items as they are.
#[derive(Debug, Default)]
pub struct ListWriter {
    message: Vec<u8>,
}

impl ListWriter {
    /// A list with its metadata, given as JSON (`{"resourceVersion":"7"}`).
    ///
    /// # Errors
    /// JSON that is no `ListMeta`.
    pub fn new(list_meta_json: &[u8]) -> Result<Self, Error> {
        let mut message = Vec::new();
        push_tag(&mut message, 1, LEN);
        wire::try_nested(&mut message, |out| super::message_from_json(list_meta(), list_meta_json, out))?;
        Ok(Self { message })
    }

    /// Appends an item: an object's message, without envelope.
    pub fn push_message(&mut self, message: &[u8]) {
        push_len_field(&mut self.message, 2, message);
    }

    /// Appends an item from its envelope.
    ///
    /// # Errors
    /// Bytes that are no envelope.
    pub fn push_envelope(&mut self, object: &[u8]) -> Result<(), Error> {
        self.push_message(Envelope::parse(object)?.raw);
        Ok(())
    }

    /// The list in its envelope.
    pub fn finish(self, api_version: &str, list_kind: &str) -> Vec<u8> {
        super::wrap(api_version, list_kind, &self.message)
    }
}

fn list_meta() -> &'static Type {
    crate::lookup("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta").expect("the data file has ListMeta")
}

/// A `WatchEvent` message around an object's envelope.
pub fn watch_event(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + event_type.len() + 16);
    write_watch_event(&mut out, event_type, object);
    out
}

fn write_watch_event(out: &mut Vec<u8>, event_type: &str, object: &[u8]) {
    push_len_field(out, 1, event_type.as_bytes());
    push_tag(out, 2, LEN);
    wire::nested(out, |out| push_len_field(out, 1, object));
}

/// One frame of `application/vnd.kubernetes.protobuf;stream=watch`: four bytes of length, most significant first,
/// then the `WatchEvent`.
pub fn watch_frame(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + event_type.len() + 20);
    out.extend_from_slice(&[0; 4]);
    write_watch_event(&mut out, event_type, object);
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// What a watch frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchFrame<'a> {
    pub event_type: &'a str,
    /// The object in its envelope.
    pub object: &'a [u8],
    /// How many bytes the frame took, with its length.
    pub length_bytes: usize,
}

/// Reads a frame from the beginning of `bytes`; `None` if more bytes are needed.
///
/// # Errors
/// A frame longer than [`WATCH_FRAME_MAX_BYTES`] or that holds no `WatchEvent`.
pub fn read_frame(bytes: &[u8]) -> Result<Option<WatchFrame<'_>>, Error> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > WATCH_FRAME_MAX_BYTES {
        return Err(Error::Wire("watch frame is too long"));
    }
    let Some(frame) = rest.get(..length) else { return Ok(None) };
    let (mut event_type, mut object) = ("", &[][..]);
    let mut reader = Reader::new(frame);
    while let Some((number, value)) = reader.next()? {
        match number {
            1 => event_type = value.text()?,
            2 => {
                let mut raw = Reader::new(value.bytes()?);
                while let Some((number, value)) = raw.next()? {
                    if number == 1 {
                        object = value.bytes()?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(Some(WatchFrame { event_type, object, length_bytes: 4 + length }))
}
