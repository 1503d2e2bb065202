//! Cluster IPs: each is an IPAddress object, whose key in the store only one service of one API server can make
//! (KEP-1880).

use super::{Parent, static_band};
use crate::cache::{Attrs, Cache};
use crate::resource::{Lookup, write_failure};
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time as MetaTime};
use kinds::Object;
use kinds::ip_address::IP_ADDRESS;
use meta::{ApiError, Time};
use rand::Rng;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use store::{Expect, Key, Revision, StoreError, Write};

pub const GROUP: &str = "networking.k8s.io";
pub const PLURAL: &str = "ipaddresses";
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
/// Addresses of an IPv6 range that are used at most, as upstream.
const IPV6_MAX_ADDRESSES: u128 = 1 << 16;

/// A range that cluster IPs come from.
#[derive(Debug)]
pub struct IpRange {
    pub family: &'static str,
    first: u128,
    size: u128,
    /// What is given out by itself begins here, until all above is taken.
    dynamic_from: u128,
    /// As it was configured.
    pub text: String,
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

impl IpRange {
    pub fn new(base: IpAddr, prefix_bits: u8) -> Self {
        let (family, width) = if base.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
        let host_bits = u32::from(width - prefix_bits.min(width));
        let all = 1u128.checked_shl(host_bits).unwrap_or(u128::MAX);
        let network = number(base) & !(all - 1);
        // The network's own address is never used, of IPv4 neither the broadcast address.
        let size = if base.is_ipv4() { all.saturating_sub(2) } else { (all - 1).min(IPV6_MAX_ADDRESSES) };
        let dynamic_from = static_band(size, 16, 16, 256);
        Self { family, first: network + 1, size, dynamic_from, text: format!("{base}/{prefix_bits}") }
    }

    fn address(&self, offset: u128) -> IpAddr {
        let n = self.first + offset;
        if self.family == "IPv4" {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(n).unwrap_or(u32::MAX)))
        } else {
            IpAddr::V6(Ipv6Addr::from(n))
        }
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        let same = ip.is_ipv4() == (self.family == "IPv4");
        same && number(ip).checked_sub(self.first).is_some_and(|offset| offset < self.size)
    }

    /// Every address once, from a random one on; those left to who asks by number last.
    pub fn candidates(&self) -> impl Iterator<Item = IpAddr> + Send + '_ {
        let bands = [self.dynamic_from..self.size, 0..self.dynamic_from];
        bands.into_iter().filter(|band| !band.is_empty()).flat_map(|band| {
            let start = rand::rng().random_range(band.clone());
            (start..band.end).chain(band.start..start).map(|offset| self.address(offset))
        })
    }
}

/// The objects that say which addresses are taken, and by whom.
pub struct Addresses<'a> {
    pub lookup: &'a Lookup,
    pub now: Time,
}

impl Addresses<'_> {
    fn cache(&self) -> &Cache {
        self.lookup.cache()
    }

    fn key(&self, ip: IpAddr) -> Key {
        format!("{}{}/{ip}", crate::cache::REGISTRY, IP_ADDRESS.kind.storage).into()
    }

    /// Whether the cache shows the address as taken.
    pub fn seems_taken(&self, ip: IpAddr) -> bool {
        self.lookup.get(GROUP, PLURAL, "", &ip.to_string()).is_some()
    }

    /// Takes an address; false where it is taken already.
    ///
    /// # Errors
    /// The store failed.
    pub async fn take(&self, ip: IpAddr, parent: &Parent) -> Result<bool, ApiError> {
        self.put(ip, parent, Expect::Absent).await
    }

    /// Writes the address as the parent's.
    pub async fn put(&self, ip: IpAddr, parent: &Parent, expect: Expect) -> Result<bool, ApiError> {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let labels = [(FAMILY, family), MANAGED_BY].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let object: Object = Box::new(IPAddress {
            metadata: ObjectMeta {
                name: Some(ip.to_string()),
                labels: Some(labels.into()),
                uid: Some(uuid::Uuid::new_v4().to_string()),
                creation_timestamp: Some(MetaTime(self.now)),
                ..ObjectMeta::default()
            },
            spec: IPAddressSpec {
                parent_ref: ParentReference {
                    group: Some(String::new()),
                    resource: "services".to_owned(),
                    namespace: Some(parent.namespace.clone()),
                    name: parent.name.clone(),
                },
            },
        });
        let (key, value) = (self.key(ip), bytes::Bytes::from(object.encode()));
        let prepared = self.cache().prepare(&key, &value, Arc::new(Attrs::of(&IP_ADDRESS, &object)));
        match self.cache().store().write(Write { key, expect, value: Some(value), ttl: None }).await {
            Ok(_) => {
                prepared.committed();
                Ok(true)
            }
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(write_failure(&error)),
        }
    }

    /// Gives an address back, where it is still the parent's.
    ///
    /// # Errors
    /// The store failed.
    pub async fn give_back(&self, ip: IpAddr, parent: &Parent) -> Result<(), StoreError> {
        let key = self.key(ip);
        let Some(stored) = self.cache().store().get(&key).await? else { return Ok(()) };
        let entry =
            crate::cache::Entry::new(&IP_ADDRESS, 0, &stored, crate::cache::EventType::Modified, None);
        let owner = entry.ok().and_then(|e| owner(&e.object().ok()?));
        if owner.as_ref() != Some(parent) {
            return Ok(());
        }
        self.remove(ip, stored.mod_revision).await
    }

    /// Removes the object as it was read at `revision`; one that was changed since stays.
    pub async fn remove(&self, ip: IpAddr, revision: Revision) -> Result<(), StoreError> {
        let write = Write { key: self.key(ip), expect: Expect::Revision(revision), value: None, ttl: None };
        match self.cache().store().write(write).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The service that an address of this allocator belongs to; None for addresses that others manage.
pub fn owner(object: &Object) -> Option<Parent> {
    let address = object.downcast::<IPAddress>()?;
    let managed = address.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY.0));
    let parent = &address.spec.parent_ref;
    if managed.is_none_or(|by| by != MANAGED_BY.1) || parent.resource != "services" {
        return None;
    }
    Some(Parent { namespace: parent.namespace.clone().unwrap_or_default(), name: parent.name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_gives_its_upper_part_first() {
        let range = IpRange::new(IpAddr::from([10, 0, 0, 0]), 24);
        let all: Vec<IpAddr> = range.candidates().collect();
        assert_eq!(all.len(), 254);
        assert!(all[..238].iter().all(|ip| *ip > IpAddr::from([10, 0, 0, 16])), "{:?}", &all[..20]);
        assert!(range.contains(IpAddr::from([10, 0, 0, 1])) && !range.contains(IpAddr::from([10, 0, 0, 0])));
        assert!(
            !range.contains(IpAddr::from([10, 0, 0, 255])) && !range.contains(IpAddr::from([10, 0, 1, 1]))
        );
        assert_eq!(IpRange::new(IpAddr::from([10, 0, 0, 0]), 32).candidates().count(), 0);
    }
}
