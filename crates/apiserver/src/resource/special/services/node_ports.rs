//! Node ports: the taken ones are a bitmap under one key, as upstream keeps it, changed by compare and swap.

use super::static_band;
use crate::resource::write_failure;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use meta::ApiError;
use rand::Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use store::{Expect, Store, StoreError, Write};

/// Upstream's key.
const KEY: &str = "/registry/ranges/servicenodeports";
/// How often a change is tried again when another writer was first.
const ATTEMPTS: usize = 64;

/// What is stored: upstream's RangeAllocation.
#[derive(Serialize, Deserialize)]
struct RangeAllocation {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
    #[serde(default)]
    metadata: serde_json::Value,
    range: String,
    /// A big-endian number in base64, whose bit n stands for the n-th port.
    data: String,
}

/// The ports in use, as one read of the store shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    ports: BTreeSet<u16>,
    first: u16,
    last: u16,
    /// What is given out by itself begins here, until all above is taken.
    dynamic_from: u16,
}

impl Taken {
    pub fn none(range: &RangeInclusive<u16>) -> Self {
        let size = u128::from(range.end() - range.start()) + 1;
        let reserved = u16::try_from(static_band(size, 16, 32, 128)).unwrap_or(0);
        Self {
            ports: BTreeSet::new(),
            first: *range.start(),
            last: *range.end(),
            dynamic_from: range.start() + reserved,
        }
    }

    pub fn in_range(&self, port: i32) -> Option<u16> {
        u16::try_from(port).ok().filter(|p| (self.first..=self.last).contains(p))
    }

    pub fn ports(&self) -> &BTreeSet<u16> {
        &self.ports
    }

    /// False where the port is taken already.
    pub fn take(&mut self, port: u16) -> bool {
        self.ports.insert(port)
    }

    pub fn give_back(&mut self, port: u16) {
        self.ports.remove(&port);
    }

    /// Takes some free port; None where none is left.
    pub fn take_any(&mut self) -> Option<u16> {
        for band in [self.dynamic_from..=self.last, self.first..=self.dynamic_from.saturating_sub(1)] {
            if band.is_empty() {
                continue;
            }
            let start = rand::rng().random_range(band.clone());
            let mut from_start = (start..=*band.end()).chain(*band.start()..start);
            if let Some(free) = from_start.find(|p| !self.ports.contains(p)) {
                self.ports.insert(free);
                return Some(free);
            }
        }
        None
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0u8; usize::from(self.last - self.first) / 8 + 1];
        let last = bytes.len() - 1;
        for port in &self.ports {
            let bit = usize::from(port - self.first);
            bytes[last - bit / 8] |= 1 << (bit % 8);
        }
        let leading = bytes.iter().take_while(|b| **b == 0).count();
        let stored = RangeAllocation {
            kind: "RangeAllocation".to_owned(),
            api_version: "v1".to_owned(),
            metadata: serde_json::json!({}),
            range: format!("{}-{}", self.first, self.last),
            data: STANDARD.encode(&bytes[leading..]),
        };
        serde_json::to_vec(&stored).expect("a structure of strings")
    }

    /// None where it is of another range or form: then it is made anew from the services.
    fn decode(range: &RangeInclusive<u16>, value: &[u8]) -> Option<Self> {
        let mut taken = Self::none(range);
        let stored: RangeAllocation = serde_json::from_slice(value).ok()?;
        if stored.range != format!("{}-{}", taken.first, taken.last) {
            return None;
        }
        let bytes = STANDARD.decode(&stored.data).ok()?;
        for (n, byte) in bytes.iter().rev().enumerate() {
            for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
                let port = i32::from(taken.first) + i32::try_from(n * 8 + bit).ok()?;
                taken.ports.insert(taken.in_range(port)?);
            }
        }
        Some(taken)
    }
}

/// Changes the taken ports: `decide` sees them as stored and is asked again whenever another writer was first.
///
/// # Errors
/// What `decide` refuses; the store failed.
pub async fn change<T>(
    store: &dyn Store,
    range: &RangeInclusive<u16>,
    mut decide: impl FnMut(&mut Taken) -> Result<T, ApiError> + Send,
) -> Result<T, ApiError> {
    let fail = |error: StoreError| write_failure(&error);
    let mut current = store.get(KEY).await.map_err(fail)?;
    for _ in 0..ATTEMPTS {
        let before = current.as_ref().and_then(|kv| Taken::decode(range, &kv.value));
        let mut taken = before.clone().unwrap_or_else(|| Taken::none(range));
        let outcome = decide(&mut taken)?;
        if before.as_ref() == Some(&taken) {
            return Ok(outcome);
        }
        let expect = current.as_ref().map_or(Expect::Absent, |kv| Expect::Revision(kv.mod_revision));
        let write = Write { key: KEY.into(), expect, value: Some(taken.encode().into()), ttl: None };
        match store.write(write).await {
            Ok(_) => return Ok(outcome),
            Err(StoreError::Conflict { current: found }) => current = found,
            Err(error) => return Err(fail(error)),
        }
    }
    Err(ApiError::internal(
        "failed to allocate a nodePort: the ports in use change faster than they can be read",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_is_upstreams() {
        let range = 30000..=32767;
        let mut taken = Taken::none(&range);
        assert!(taken.take(30000) && taken.take(30009) && !taken.take(30009));
        let text = String::from_utf8(taken.encode()).expect("JSON");
        // 2^0 + 2^9 = 0x0201
        assert!(text.contains(r#""range":"30000-32767","data":"AgE=""#), "{text}");
        assert_eq!(Taken::decode(&range, text.as_bytes()), Some(taken));
        assert_eq!(Taken::decode(&(30000..=30100), text.as_bytes()), None);
    }

    #[test]
    fn the_upper_ports_go_first() {
        let mut taken = Taken::none(&(30000..=30063));
        let given: Vec<u16> = std::iter::from_fn(|| taken.take_any()).collect();
        assert_eq!(given.len(), 64);
        assert!(given[..48].iter().all(|p| *p >= 30016), "{given:?}");
    }
}
