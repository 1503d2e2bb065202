//! Cluster IPs and node ports of services: taken before the write, given back when it fails or the service goes.
//!
//! The store says what is taken, so that API servers on one store never give the same to two services.

mod addresses;
mod node_ports;
mod repair;

use crate::resource::{Call, Lookup};
use addresses::{Addresses, IpRange};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use kinds::Object;
use kinds::service::{families, is_headless, needs_cluster_ip, needs_health_check_port, needs_node_ports};
use meta::{ApiError, FieldError, GroupVersionKind, Path, Time};
use node_ports::Taken;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

const SERVICE: GroupVersionKind = GroupVersionKind::of("", "v1", "Service");

#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// One or two ranges (CIDR) of different families; the first is the default family.
    pub cluster_ip_ranges: Vec<(IpAddr, u8)>,
    pub node_ports: RangeInclusive<u16>,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            cluster_ip_ranges: vec![(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)), 12)],
            node_ports: 30000..=32767,
        }
    }
}

/// How many of the lower numbers are left to those who ask by number (KEP-3070, KEP-3668).
fn static_band(size: u128, min: u128, step: u128, max: u128) -> u128 {
    if size <= min { 0 } else { (size / step).clamp(min, max) }
}

/// The service that an address is taken for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parent {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What was taken for one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Ip(IpAddr),
    Port(u16),
}

/// All cluster IPs and node ports.
pub struct Allocator {
    ranges: Vec<IpRange>,
    ports: RangeInclusive<u16>,
    lookup: Lookup,
    now: fn() -> Time,
}

fn ports(spec: &ServiceSpec) -> &[ServicePort] {
    spec.ports.as_deref().unwrap_or_default()
}

fn ip_of(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

/// Node ports of a service within the range; ports of different protocols share one.
fn node_ports_of(spec: &ServiceSpec, range: &RangeInclusive<u16>) -> BTreeSet<u16> {
    let numbers = ports(spec).iter().filter_map(|p| p.node_port).chain(spec.health_check_node_port);
    numbers.filter_map(|n| u16::try_from(n).ok()).filter(|n| range.contains(n)).collect()
}

impl Allocator {
    pub fn new(config: &ServiceConfig, lookup: Lookup, now: fn() -> Time) -> Self {
        Self {
            ranges: config.cluster_ip_ranges.iter().map(|(ip, bits)| IpRange::new(*ip, *bits)).collect(),
            ports: config.node_ports.clone(),
            lookup,
            now,
        }
    }

    fn claims(&self, spec: &ServiceSpec) -> Vec<Claim> {
        let ips = spec.cluster_ips.iter().flatten().filter_map(|ip| ip_of(ip)).map(Claim::Ip);
        ips.chain(node_ports_of(spec, &self.ports).into_iter().map(Claim::Port)).collect()
    }

    fn families(&self) -> Vec<&'static str> {
        self.ranges.iter().map(|r| r.family).collect()
    }

    fn addresses(&self) -> Addresses<'_> {
        Addresses { lookup: &self.lookup, now: crate::resource::truncate((self.now)()) }
    }

    /// Gives back what a service no longer has. What cannot be given back now is found by the repair of the next start.
    async fn give_back(&self, claims: &[Claim], parent: &Parent) {
        for claim in claims {
            if let Claim::Ip(ip) = claim
                && let Err(error) = self.addresses().give_back(*ip, parent).await
            {
                tracing::warn!(%error, %ip, "a cluster IP could not be given back");
            }
        }
        let freed: Vec<u16> =
            claims.iter().filter_map(|c| if let Claim::Port(p) = c { Some(*p) } else { None }).collect();
        if freed.is_empty() {
            return;
        }
        let changed = node_ports::change(self.lookup.cache().store().as_ref(), &self.ports, |taken| {
            freed.iter().for_each(|port| taken.give_back(*port));
            Ok(())
        });
        if let Err(error) = changed.await {
            tracing::warn!(%error, "node ports could not be given back");
        }
    }
}

/// What a write has taken; given back on drop unless the write was committed.
#[derive(Default)]
pub struct Reservation {
    allocator: Option<Arc<Allocator>>,
    parent: Parent,
    taken: Vec<Claim>,
    /// What the service had and has no longer.
    released: Vec<Claim>,
}

impl Reservation {
    /// The write was committed.
    pub async fn keep(mut self) {
        self.taken.clear();
        if let Some(allocator) = self.allocator.take() {
            allocator.give_back(&self.released, &self.parent).await;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        let Some(allocator) = self.allocator.take().filter(|_| !taken.is_empty()) else { return };
        let parent = std::mem::take(&mut self.parent);
        // A runtime that ends leaves it to the repair of the next start.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { allocator.give_back(&taken, &parent).await });
        }
    }
}

struct Work<'r> {
    allocator: Arc<Allocator>,
    reservation: &'r mut Reservation,
    had: &'r [Claim],
    dry_run: bool,
}

impl Work<'_> {
    fn invalid(&self, error: FieldError) -> ApiError {
        ApiError::invalid(&SERVICE, &self.reservation.parent.name, &[error])
    }

    async fn cluster_ips(&mut self, spec: &mut ServiceSpec) -> Result<(), ApiError> {
        if !needs_cluster_ip(spec) || is_headless(spec) {
            return Ok(());
        }
        let wanted = spec.ip_families.clone().unwrap_or_default();
        let mut ips = spec.cluster_ips.clone().unwrap_or_default();
        for (i, family) in wanted.iter().enumerate() {
            let asked = ips.get(i).cloned().unwrap_or_default();
            let ip = if asked.is_empty() {
                self.any_ip(family).await?
            } else {
                self.this_ip(&asked, &ips).await?
            };
            match ips.get_mut(i) {
                Some(slot) => *slot = ip,
                None => ips.push(ip),
            }
        }
        spec.cluster_ip = ips.first().cloned();
        spec.cluster_ips = Some(ips);
        Ok(())
    }

    async fn any_ip(&mut self, family: &str) -> Result<String, ApiError> {
        let allocator = self.allocator.clone();
        let addresses = allocator.addresses();
        let ranges = allocator.ranges.iter().filter(|r| r.family == family);
        for ip in ranges.flat_map(IpRange::candidates).filter(|ip| !addresses.seems_taken(*ip)) {
            if self.dry_run {
                return Ok(ip.to_string());
            }
            if addresses.take(ip, &self.reservation.parent).await? {
                self.reservation.taken.push(Claim::Ip(ip));
                return Ok(ip.to_string());
            }
        }
        let name = &self.reservation.parent.name;
        Err(ApiError::internal(format!("failed to allocate a serviceIP for Service {name:?}: range is full")))
    }

    async fn this_ip(&mut self, asked: &str, all: &[String]) -> Result<String, ApiError> {
        let refuse = |why: String| {
            let value = serde_json::Value::from(all.to_vec());
            let path = Path::new("spec").child("clusterIPs");
            FieldError::invalid(&path, value, format!("failed to allocate IP {asked}: {why}"))
        };
        let allocator = self.allocator.clone();
        let ip = ip_of(asked).filter(|ip| allocator.ranges.iter().any(|r| r.contains(*ip)));
        let Some(ip) = ip else {
            let is_v4 = ip_of(asked).is_some_and(|i| i.is_ipv4());
            let range = allocator.ranges.iter().find(|r| (r.family == "IPv4") == is_v4);
            let text = range.or(allocator.ranges.first()).map_or("", |r| &r.text);
            return Err(self.invalid(refuse(format!(
                "the provided IP ({asked}) is not in the valid range. The range of valid IPs is {text}"
            ))));
        };
        let claim = Claim::Ip(ip);
        if self.dry_run || self.had.contains(&claim) || self.reservation.taken.contains(&claim) {
            return Ok(asked.to_owned());
        }
        if !allocator.addresses().take(ip, &self.reservation.parent).await? {
            return Err(self.invalid(refuse("provided IP is already allocated".into())));
        }
        self.reservation.taken.push(claim);
        Ok(asked.to_owned())
    }

    async fn node_ports(&mut self, spec: &mut ServiceSpec) -> Result<(), ApiError> {
        if !needs_node_ports(spec) && !needs_health_check_port(spec) {
            return Ok(());
        }
        let allocator = self.allocator.clone();
        let had: BTreeSet<u16> =
            self.had.iter().filter_map(|c| if let Claim::Port(p) = c { Some(*p) } else { None }).collect();
        let before = spec.clone();
        let dry_run = self.dry_run;
        let name = &self.reservation.parent.name;
        let store = allocator.lookup.cache().store();
        let (decided, mine) = node_ports::change(store.as_ref(), &allocator.ports, |taken| {
            let stored = taken.clone();
            let mut ports = Ports { taken, had: &had, mine: BTreeSet::new(), range: &allocator.ports, name };
            let mut decided = before.clone();
            ports.assign(&mut decided)?;
            let mine = ports.mine;
            if dry_run {
                *taken = stored;
            }
            Ok((decided, mine))
        })
        .await?;
        *spec = decided;
        if !dry_run {
            self.reservation.taken.extend(mine.into_iter().map(Claim::Port));
        }
        Ok(())
    }
}

/// The node ports of one service being decided.
struct Ports<'a> {
    taken: &'a mut Taken,
    /// By the service as it is stored.
    had: &'a BTreeSet<u16>,
    /// By this write.
    mine: BTreeSet<u16>,
    range: &'a RangeInclusive<u16>,
    name: &'a str,
}

impl Ports<'_> {
    fn assign(&mut self, spec: &mut ServiceSpec) -> Result<(), ApiError> {
        if needs_node_ports(spec) {
            let allocates = spec.type_.as_deref() != Some("LoadBalancer")
                || spec.allocate_load_balancer_node_ports.unwrap_or(true);
            let asked: HashMap<i32, i32> = ports(spec)
                .iter()
                .rev()
                .filter_map(|p| Some((p.port, p.node_port.filter(|n| *n != 0)?)))
                .collect();
            let mut given: HashMap<i32, i32> = HashMap::new();
            for (i, port) in spec.ports.iter_mut().flatten().enumerate() {
                let path = Path::new("spec").child("ports").index(i).child("nodePort");
                let own = port.node_port.unwrap_or(0);
                if own == 0 && !allocates {
                    continue;
                }
                let node_port = match (own, given.get(&port.port), asked.get(&port.port)) {
                    (0, Some(same), _) => *same,
                    (0, None, None) => self.any()?,
                    (0, None, Some(same)) => {
                        self.this(*same, &path)?;
                        *same
                    }
                    (own, ..) => {
                        self.this(own, &path)?;
                        own
                    }
                };
                port.node_port = Some(node_port);
                given.insert(port.port, node_port);
            }
        }
        if needs_health_check_port(spec) {
            match spec.health_check_node_port.unwrap_or(0) {
                0 => spec.health_check_node_port = Some(self.any()?),
                port => {
                    if !self.taken.in_range(port).is_some_and(|p| self.claim(p)) {
                        return Err(ApiError::internal(format!(
                            "failed to allocate requested HealthCheck NodePort {port}: provided port is already allocated"
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    fn claim(&mut self, port: u16) -> bool {
        if self.had.contains(&port) || self.mine.contains(&port) {
            return true;
        }
        let free = self.taken.take(port);
        if free {
            self.mine.insert(port);
        }
        free
    }

    fn this(&mut self, port: i32, path: &Path) -> Result<(), ApiError> {
        let why = match self.taken.in_range(port) {
            None => format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.range.start(),
                self.range.end()
            ),
            Some(port) if !self.claim(port) => "provided port is already allocated".into(),
            Some(_) => return Ok(()),
        };
        Err(ApiError::invalid(&SERVICE, self.name, &[FieldError::invalid(path, port, why)]))
    }

    fn any(&mut self) -> Result<i32, ApiError> {
        let port = self.taken.take_any();
        let port = port.ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))?;
        self.mine.insert(port);
        Ok(i32::from(port))
    }
}

impl Call<'_> {
    /// Takes the addresses and ports that a service asks for; for other kinds nothing. `old`: what it replaces.
    ///
    /// # Errors
    /// Invalid or InternalError in upstream's words.
    pub(in crate::resource) async fn reserve(
        &self,
        object: &mut Object,
        old: Option<&Object>,
        dry_run: bool,
    ) -> Result<Reservation, ApiError> {
        if !self.target.is("", "services") || !self.subresource.is_empty() {
            return Ok(Reservation::default());
        }
        let allocator = self.resources.services.clone();
        let before = old.and_then(|o| o.downcast::<Service>());
        let Some(service) = object.downcast_mut::<Service>() else { return Ok(Reservation::default()) };
        if let Some(before) = before {
            families::keep_allocated(service, before);
        }
        families::normalize(service, before);
        let parent = Parent {
            namespace: self.namespace.to_owned(),
            name: service.metadata.name.clone().unwrap_or_default(),
        };
        let errors = families::init(service, before, &allocator.families());
        if !errors.is_empty() {
            return Err(ApiError::invalid(&SERVICE, &parent.name, &errors));
        }
        let had = before.and_then(|b| b.spec.as_ref()).map(|s| allocator.claims(s)).unwrap_or_default();
        let mut reservation = Reservation {
            allocator: Some(allocator.clone()),
            parent,
            taken: Vec::new(),
            released: Vec::new(),
        };
        let spec = service.spec.get_or_insert_default();
        let mut work =
            Work { allocator: allocator.clone(), reservation: &mut reservation, had: &had, dry_run };
        work.cluster_ips(spec).await?;
        work.node_ports(spec).await?;
        let has = allocator.claims(spec);
        if !dry_run {
            reservation.released = had.into_iter().filter(|c| !has.contains(c)).collect();
        }
        Ok(reservation)
    }

    /// Gives back what a deleted service had.
    pub(in crate::resource) async fn release(&self, object: &Object) {
        if !self.target.is("", "services") {
            return;
        }
        let Some(service) = object.downcast::<Service>() else { return };
        let Some(spec) = &service.spec else { return };
        let parent = Parent {
            namespace: self.namespace.to_owned(),
            name: service.metadata.name.clone().unwrap_or_default(),
        };
        let allocator = &self.resources.services;
        allocator.give_back(&allocator.claims(spec), &parent).await;
    }
}
