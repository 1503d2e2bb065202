//! Protobuf's wire format: tags, varints, length-delimited fields.

use super::Error;

pub(super) const VARINT: u32 = 0;
pub(super) const FIXED64: u32 = 1;
pub(super) const LEN: u32 = 2;
const FIXED32: u32 = 5;

/// A varint has at most ten bytes.
const VARINT_MAX_BYTES: usize = 10;

pub(super) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn push_tag(out: &mut Vec<u8>, number: u32, wire_type: u32) {
    push_varint(out, u64::from(number << 3 | wire_type));
}

pub(super) fn push_len_field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    push_tag(out, number, LEN);
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn push_varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    push_tag(out, number, VARINT);
    push_varint(out, value);
}

/// Writes the length of what `write` appends in front of it.
pub(super) fn nested(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = open(out);
    write(out);
    close(out, start);
}

pub(super) fn try_nested<E>(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let start = open(out);
    write(out)?;
    close(out, start);
    Ok(())
}

/// Leaves one byte for a length; [`close`] makes more room where the length needs it.
pub(super) fn open(out: &mut Vec<u8>) -> usize {
    out.push(0);
    out.len()
}

pub(super) fn close(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    let mut prefix = [0u8; VARINT_MAX_BYTES];
    let (mut used, mut rest) = (0, length as u64);
    loop {
        let more = rest >= 0x80;
        prefix[used] = rest as u8 & 0x7f | if more { 0x80 } else { 0 };
        used += 1;
        rest >>= 7;
        if !more {
            break;
        }
    }
    if used > 1 {
        let old = out.len();
        out.resize(old + used - 1, 0);
        out.copy_within(start..old, start + used - 1);
    }
    out[start - 1..start - 1 + used].copy_from_slice(&prefix[..used]);
}

/// One field's value as it stands on the wire.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], Error> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Error::Wire("wrong wireType for a length-delimited field")),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::Wire("string field contains invalid UTF-8"))
    }

    pub(super) fn varint(self) -> Result<u64, Error> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(Error::Wire("wrong wireType for a varint field")),
        }
    }
}

/// Reads the fields of a message one after the other.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field's number and value; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Error::Wire("illegal tag"))?;
        if number == 0 {
            return Err(Error::Wire("illegal tag 0"));
        }
        let value = match tag as u32 & 7 {
            VARINT => Value::Varint(self.varint()?),
            FIXED64 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            FIXED32 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            LEN => {
                let length =
                    usize::try_from(self.varint()?).map_err(|_| Error::Wire("negative length found"))?;
                Value::Bytes(self.take(length)?)
            }
            _ => return Err(Error::Wire("groups are not part of the format")),
        };
        Ok(Some((number, value)))
    }

    pub(super) fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0u64;
        for (index, byte) in self.rest.iter().take(VARINT_MAX_BYTES).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < VARINT_MAX_BYTES { END } else { Error::Wire("integer overflow") })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| END)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (head, tail) = self.rest.split_at_checked(length).ok_or(END)?;
        self.rest = tail;
        Ok(head)
    }
}

const END: Error = Error::Wire("unexpected EOF");
