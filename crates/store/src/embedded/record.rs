//! One committed write as bytes: `crc32 | flags | create_revision | expires | key length | key | value`,
//! integers little-endian. The checksum covers everything after it.

use crate::contract::Revision;
use bytes::{BufMut, Bytes, BytesMut};

const DELETED: u8 = 1;
const HEADER_BYTES: usize = 4 + 1 + 8 + 8 + 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: Revision,
    pub deleted: bool,
    /// Unix time in seconds; 0: never.
    pub expires: u64,
}

impl Record {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + self.key.len() + self.value.len());
        out.put_u32_le(0);
        out.put_u8(if self.deleted { DELETED } else { 0 });
        out.put_u64_le(self.create_revision.0);
        out.put_u64_le(self.expires);
        out.put_u32_le(u32::try_from(self.key.len()).expect("keys are bounded far below 4 GiB"));
        out.put_slice(&self.key);
        out.put_slice(&self.value);
        let crc = crc32fast::hash(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out.freeze()
    }

    /// None: the bytes are not what was written.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let head = bytes.get(..HEADER_BYTES)?;
        let u32_at = |i: usize| Some(u32::from_le_bytes(head.get(i..i + 4)?.try_into().ok()?));
        let u64_at = |i: usize| Some(u64::from_le_bytes(head.get(i..i + 8)?.try_into().ok()?));
        if u32_at(0)? != crc32fast::hash(&bytes[4..]) {
            return None;
        }
        let key_end = HEADER_BYTES.checked_add(u32_at(21)? as usize)?;
        if key_end > bytes.len() {
            return None;
        }
        Some(Self {
            key: bytes.slice(HEADER_BYTES..key_end),
            value: bytes.slice(key_end..),
            create_revision: Revision(u64_at(5)?),
            deleted: head[4] & DELETED != 0,
            expires: u64_at(13)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        Record {
            key: Bytes::from_static(b"/registry/pods/default/web"),
            value: Bytes::from_static(b"{}"),
            create_revision: Revision(7),
            deleted: false,
            expires: 99,
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        assert_eq!(Record::decode(&sample().encode()), Some(sample()));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let good = sample().encode();
        for i in 0..good.len() {
            let mut bad = good.to_vec();
            bad[i] ^= 0x10;
            assert_eq!(Record::decode(&Bytes::from(bad)), None, "byte {i}");
        }
    }
}
