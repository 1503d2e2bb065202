//! At the start: every address and port that a service has is taken, and what no service has is given back. What was
//! taken a moment ago may be another server's write on its way, so it is looked at again later.

use super::addresses::{self, Addresses, owner};
use super::{Allocator, Parent, ip_of, node_ports, node_ports_of};
use crate::cache::Entry;
use k8s_openapi::api::core::v1::Service;
use meta::ApiError;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use store::Expect;

/// A write takes less: its request would have timed out.
const GRACE: Duration = Duration::from_secs(60);

/// What a pass could not decide yet.
#[derive(Debug, Default)]
pub struct Unsure {
    /// Addresses without a service, younger than [`GRACE`].
    addresses: usize,
    ports: BTreeSet<u16>,
}

impl Allocator {
    /// Repairs what must be right before the first write, and the rest in the background.
    ///
    /// # Errors
    /// The store failed.
    pub async fn start(self: &Arc<Self>) -> Result<(), ApiError> {
        let mut unsure = self.repair(&BTreeSet::new()).await?;
        let allocator = Arc::downgrade(self);
        tokio::spawn(async move {
            while unsure.addresses > 0 || !unsure.ports.is_empty() {
                tokio::time::sleep(GRACE).await;
                let Some(allocator) = allocator.upgrade() else { return };
                match allocator.repair(&unsure.ports).await {
                    Ok(next) => unsure = next,
                    Err(error) => {
                        tracing::warn!(%error, "addresses that no service has could not be given back")
                    }
                }
            }
        });
        Ok(())
    }

    fn service_entries(&self) -> Vec<(Parent, Service)> {
        let typed = |entry: &Arc<Entry>| {
            let parent = Parent { namespace: entry.namespace().to_owned(), name: entry.name().to_owned() };
            Some((parent, entry.object().ok()?.downcast::<Service>()?.clone()))
        };
        self.lookup.list("", "services", "").iter().filter_map(typed).collect()
    }

    /// One pass; `leaked`: ports that no service had at the last one either.
    pub async fn repair(&self, leaked: &BTreeSet<u16>) -> Result<Unsure, ApiError> {
        let services = self.service_entries();
        let addresses = Addresses { lookup: &self.lookup, now: (self.now)() };
        let mut owners: HashMap<IpAddr, &Parent> = HashMap::new();
        for (parent, service) in &services {
            for ip in
                service.spec.iter().flat_map(|s| s.cluster_ips.iter().flatten()).filter_map(|ip| ip_of(ip))
            {
                if let Some(other) = owners.insert(ip, parent) {
                    tracing::error!(%ip, "services {other} and {parent} have the same cluster IP: recreate one of them");
                }
            }
        }
        let mut unsure = Unsure::default();
        let mut recorded: BTreeSet<IpAddr> = BTreeSet::new();
        for entry in self.lookup.list(addresses::GROUP, addresses::PLURAL, "") {
            let (Some(ip), object) = (ip_of(entry.name()), entry.object()?) else { continue };
            recorded.insert(ip);
            let Some(recorded_owner) = owner(&object) else { continue };
            match owners.get(&ip) {
                Some(parent) if **parent == recorded_owner => {}
                Some(parent) => {
                    addresses.put(ip, parent, Expect::Revision(entry.revision)).await?;
                }
                None => {
                    let made = object.meta().creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
                    let age = addresses.now.as_second().saturating_sub(made);
                    if age < i64::try_from(GRACE.as_secs()).unwrap_or(i64::MAX) {
                        unsure.addresses += 1;
                    } else {
                        let removed = addresses.remove(ip, entry.revision).await;
                        removed.map_err(|e| crate::resource::write_failure(&e))?;
                    }
                }
            }
        }
        for (ip, parent) in owners.iter().filter(|(ip, _)| !recorded.contains(ip)) {
            addresses.take(*ip, parent).await?;
        }
        unsure.ports = self.repair_ports(&services, leaked).await?;
        Ok(unsure)
    }

    async fn repair_ports(
        &self,
        services: &[(Parent, Service)],
        leaked: &BTreeSet<u16>,
    ) -> Result<BTreeSet<u16>, ApiError> {
        let specs = services.iter().filter_map(|(_, s)| s.spec.as_ref());
        let wanted: BTreeSet<u16> = specs.flat_map(|s| node_ports_of(s, &self.ports)).collect();
        let store = self.lookup.cache().store();
        node_ports::change(store.as_ref(), &self.ports, |taken| {
            for port in &wanted {
                taken.take(*port);
            }
            let idle: BTreeSet<u16> = taken.ports().difference(&wanted).copied().collect();
            for port in idle.intersection(leaked) {
                taken.give_back(*port);
            }
            Ok(idle.difference(leaked).copied().collect())
        })
        .await
    }
}
