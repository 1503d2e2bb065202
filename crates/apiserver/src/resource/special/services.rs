//! Cluster IPs and node ports of services: taken before the write, given back when it fails or the service goes.

use crate::resource::{Call, Lookup};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use kinds::Object;
use kinds::service::{families, is_headless, needs_cluster_ip, needs_health_check_port, needs_node_ports};
use meta::{ApiError, FieldError, GroupVersionKind, Path};
use parking_lot::Mutex;
use rand::Rng;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

const SERVICE: GroupVersionKind = GroupVersionKind::of("", "v1", "Service");
/// Addresses of an IPv6 range that are used at most, as upstream.
const IPV6_MAX_ADDRESSES: u128 = 1 << 16;

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

/// Numbers `0..size`, of which the lower ones are left to those who ask for one by number.
#[derive(Debug)]
struct Pool {
    taken: BTreeSet<u128>,
    size: u128,
    /// What is given out by itself begins here, until all above is taken.
    dynamic_from: u128,
}

impl Pool {
    fn take(&mut self, offset: u128) -> bool {
        self.taken.insert(offset)
    }

    fn take_any(&mut self) -> Option<u128> {
        for band in [self.dynamic_from..self.size, 0..self.dynamic_from] {
            let width = band.end.saturating_sub(band.start);
            if width == 0 || self.taken.range(band.clone()).count() as u128 >= width {
                continue;
            }
            let start = rand::rng().random_range(band.clone());
            let free = (start..band.end).chain(band.start..start).find(|o| !self.taken.contains(o))?;
            self.taken.insert(free);
            return Some(free);
        }
        None
    }
}

/// How many of the lower numbers are left to those who ask by number (KEP-3070, KEP-3668).
fn static_band(size: u128, min: u128, step: u128, max: u128) -> u128 {
    if size <= min { 0 } else { (size / step).clamp(min, max) }
}

#[derive(Debug)]
struct IpRange {
    family: &'static str,
    first: u128,
    text: String,
    pool: Mutex<Pool>,
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

impl IpRange {
    fn new(base: IpAddr, prefix_bits: u8) -> Self {
        let (family, width) = if base.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
        let host_bits = u32::from(width - prefix_bits.min(width));
        let all = 1u128.checked_shl(host_bits).unwrap_or(u128::MAX);
        let network = number(base) & !(all - 1);
        // The network's own address is never used, of IPv4 neither the broadcast address.
        let usable = if base.is_ipv4() { all.saturating_sub(2) } else { (all - 1).min(IPV6_MAX_ADDRESSES) };
        let dynamic_from = static_band(usable, 16, 16, 256);
        Self {
            family,
            first: network + 1,
            text: format!("{base}/{prefix_bits}"),
            pool: Mutex::new(Pool { taken: BTreeSet::new(), size: usable, dynamic_from }),
        }
    }

    fn address(&self, offset: u128) -> IpAddr {
        let n = self.first + offset;
        if self.family == "IPv4" {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(n).unwrap_or(u32::MAX)))
        } else {
            IpAddr::V6(Ipv6Addr::from(n))
        }
    }

    fn offset(&self, ip: IpAddr) -> Option<u128> {
        let same = ip.is_ipv4() == (self.family == "IPv4");
        number(ip).checked_sub(self.first).filter(|o| same && *o < self.pool.lock().size)
    }
}

/// What was taken for one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Ip { range: usize, offset: u128 },
    Port(u128),
}

/// All cluster IPs and node ports.
#[derive(Debug)]
pub struct Allocator {
    ranges: Vec<IpRange>,
    ports: Mutex<Pool>,
    first_port: u16,
    port_text: String,
}

fn ports(spec: &ServiceSpec) -> &[ServicePort] {
    spec.ports.as_deref().unwrap_or_default()
}

fn spec(object: &Object) -> Option<&ServiceSpec> {
    object.downcast::<Service>()?.spec.as_ref()
}

impl Allocator {
    /// Takes what the services in the cache have.
    pub fn new(config: &ServiceConfig, lookup: &Lookup) -> Self {
        let size = u128::from(config.node_ports.end() - config.node_ports.start()) + 1;
        let dynamic_from = static_band(size, 16, 32, 128);
        let allocator = Self {
            ranges: config.cluster_ip_ranges.iter().map(|(ip, bits)| IpRange::new(*ip, *bits)).collect(),
            ports: Mutex::new(Pool { taken: BTreeSet::new(), size, dynamic_from }),
            first_port: *config.node_ports.start(),
            port_text: format!("{}-{}", config.node_ports.start(), config.node_ports.end()),
        };
        for entry in lookup.list("", "services", "") {
            let Ok(object) = entry.object() else { continue };
            for claim in spec(&object).map(|s| allocator.claims(s)).unwrap_or_default() {
                allocator.take(claim);
            }
        }
        allocator
    }

    fn claims(&self, spec: &ServiceSpec) -> Vec<Claim> {
        let ips = spec.cluster_ips.iter().flatten().filter_map(|ip| self.ip_claim(ip));
        let numbers = ports(spec).iter().filter_map(|p| p.node_port).chain(spec.health_check_node_port);
        let mut claims: Vec<Claim> = ips.collect();
        for claim in numbers.filter_map(|n| self.port_claim(n)) {
            // Ports of different protocols share a node port.
            if !claims.contains(&claim) {
                claims.push(claim);
            }
        }
        claims
    }

    fn ip_claim(&self, ip: &str) -> Option<Claim> {
        let ip: IpAddr = ip.parse().ok()?;
        self.ranges
            .iter()
            .enumerate()
            .find_map(|(range, r)| r.offset(ip).map(|offset| Claim::Ip { range, offset }))
    }

    fn port_claim(&self, port: i32) -> Option<Claim> {
        let offset = u128::try_from(i64::from(port) - i64::from(self.first_port)).ok()?;
        (offset < self.ports.lock().size).then_some(Claim::Port(offset))
    }

    fn take(&self, claim: Claim) -> bool {
        match claim {
            Claim::Ip { range, offset } => self.ranges[range].pool.lock().take(offset),
            Claim::Port(offset) => self.ports.lock().take(offset),
        }
    }

    fn give_back(&self, claims: &[Claim]) {
        for claim in claims {
            match claim {
                Claim::Ip { range, offset } => self.ranges[*range].pool.lock().taken.remove(offset),
                Claim::Port(offset) => self.ports.lock().taken.remove(offset),
            };
        }
    }

    fn families(&self) -> Vec<&'static str> {
        self.ranges.iter().map(|r| r.family).collect()
    }
}

/// What a write has taken; given back on drop unless the write was committed.
#[derive(Default)]
pub struct Reservation<'a> {
    allocator: Option<&'a Allocator>,
    taken: Vec<Claim>,
    /// What the service had and has no longer.
    released: Vec<Claim>,
    dry_run: bool,
}

impl Reservation<'_> {
    /// The write was committed.
    pub fn keep(mut self) {
        self.taken.clear();
        if let Some(allocator) = self.allocator {
            allocator.give_back(&self.released);
        }
    }

    fn claim(&mut self, claim: Claim, had: &[Claim]) -> bool {
        if had.contains(&claim) || self.taken.contains(&claim) || self.dry_run {
            return true;
        }
        let taken = self.allocator.is_some_and(|a| a.take(claim));
        if taken {
            self.taken.push(claim);
        }
        taken
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(allocator) = self.allocator {
            allocator.give_back(&self.taken);
        }
    }
}

struct Work<'a, 'r> {
    allocator: &'a Allocator,
    reservation: &'r mut Reservation<'a>,
    had: &'r [Claim],
    name: &'r str,
}

impl Work<'_, '_> {
    fn invalid(&self, error: FieldError) -> ApiError {
        ApiError::invalid(&SERVICE, self.name, &[error])
    }

    fn cluster_ips(&mut self, spec: &mut ServiceSpec) -> Result<(), ApiError> {
        if !needs_cluster_ip(spec) || is_headless(spec) {
            return Ok(());
        }
        let wanted = spec.ip_families.clone().unwrap_or_default();
        let mut ips = spec.cluster_ips.clone().unwrap_or_default();
        for (i, family) in wanted.iter().enumerate() {
            let asked = ips.get(i).cloned().unwrap_or_default();
            let ip = if asked.is_empty() { self.any_ip(family)? } else { self.this_ip(&asked, &ips)? };
            match ips.get_mut(i) {
                Some(slot) => *slot = ip,
                None => ips.push(ip),
            }
        }
        spec.cluster_ip = ips.first().cloned();
        spec.cluster_ips = Some(ips);
        Ok(())
    }

    fn any_ip(&mut self, family: &str) -> Result<String, ApiError> {
        let full = || {
            let name = self.name;
            ApiError::internal(format!("failed to allocate a serviceIP for Service {name:?}: range is full"))
        };
        let found = self.allocator.ranges.iter().enumerate().find(|(_, r)| r.family == family);
        let (range, ips) = found.ok_or_else(full)?;
        let mut pool = ips.pool.lock();
        let offset = pool.take_any().ok_or_else(full)?;
        if self.reservation.dry_run {
            pool.taken.remove(&offset);
        } else {
            self.reservation.taken.push(Claim::Ip { range, offset });
        }
        drop(pool);
        Ok(ips.address(offset).to_string())
    }

    fn this_ip(&mut self, asked: &str, all: &[String]) -> Result<String, ApiError> {
        let refuse = |why: String| {
            let value = serde_json::Value::from(all.to_vec());
            let path = Path::new("spec").child("clusterIPs");
            FieldError::invalid(&path, value, format!("failed to allocate IP {asked}: {why}"))
        };
        let Some(claim) = self.allocator.ip_claim(asked) else {
            let is_v4 = asked.parse::<IpAddr>().is_ok_and(|i| i.is_ipv4());
            let range = self.allocator.ranges.iter().find(|r| (r.family == "IPv4") == is_v4);
            let text = range.or(self.allocator.ranges.first()).map_or("", |r| &r.text);
            return Err(self.invalid(refuse(format!(
                "the provided IP ({asked}) is not in the valid range. The range of valid IPs is {text}"
            ))));
        };
        if !self.reservation.claim(claim, self.had) {
            return Err(self.invalid(refuse("provided IP is already allocated".into())));
        }
        Ok(asked.to_owned())
    }

    fn this_port(&mut self, port: i32, path: &Path) -> Result<(), ApiError> {
        let why = match self.allocator.port_claim(port) {
            None => format!(
                "provided port is not in the valid range. The range of valid ports is {}",
                self.allocator.port_text
            ),
            Some(claim) if !self.reservation.claim(claim, self.had) => {
                "provided port is already allocated".into()
            }
            Some(_) => return Ok(()),
        };
        Err(self.invalid(FieldError::invalid(path, port, why)))
    }

    fn any_port(&mut self) -> Result<i32, ApiError> {
        let mut pool = self.allocator.ports.lock();
        let offset = pool
            .take_any()
            .ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))?;
        if self.reservation.dry_run {
            pool.taken.remove(&offset);
        } else {
            self.reservation.taken.push(Claim::Port(offset));
        }
        Ok(i32::from(self.allocator.first_port) + i32::try_from(offset).unwrap_or(0))
    }

    fn node_ports(&mut self, spec: &mut ServiceSpec) -> Result<(), ApiError> {
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
                    (0, None, None) => self.any_port()?,
                    (0, None, Some(same)) => {
                        self.this_port(*same, &path)?;
                        *same
                    }
                    (own, ..) => {
                        self.this_port(own, &path)?;
                        own
                    }
                };
                port.node_port = Some(node_port);
                given.insert(port.port, node_port);
            }
        }
        if needs_health_check_port(spec) {
            match spec.health_check_node_port.unwrap_or(0) {
                0 => spec.health_check_node_port = Some(self.any_port()?),
                port => {
                    let claim = self.allocator.port_claim(port);
                    if !claim.is_some_and(|c| self.reservation.claim(c, self.had)) {
                        return Err(ApiError::internal(format!(
                            "failed to allocate requested HealthCheck NodePort {port}: provided port is already allocated"
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Call<'_> {
    /// Takes the addresses and ports that a service asks for; for other kinds nothing. `old`: what it replaces.
    ///
    /// # Errors
    /// Invalid or InternalError in upstream's words.
    pub(in crate::resource) fn reserve(
        &self,
        object: &mut Object,
        old: Option<&Object>,
        dry_run: bool,
    ) -> Result<Reservation<'_>, ApiError> {
        let allocator = &self.resources.services;
        if !self.target.is("", "services") || !self.subresource.is_empty() {
            return Ok(Reservation::default());
        }
        let before = old.and_then(|o| o.downcast::<Service>());
        let Some(service) = object.downcast_mut::<Service>() else { return Ok(Reservation::default()) };
        if let Some(before) = before {
            families::keep_allocated(service, before);
        }
        families::normalize(service, before);
        let name = service.metadata.name.clone().unwrap_or_default();
        let errors = families::init(service, before, &allocator.families());
        if !errors.is_empty() {
            return Err(ApiError::invalid(&SERVICE, &name, &errors));
        }
        let had = before.and_then(|b| b.spec.as_ref()).map(|s| allocator.claims(s)).unwrap_or_default();
        let mut reservation =
            Reservation { allocator: Some(allocator), taken: Vec::new(), released: Vec::new(), dry_run };
        let spec = service.spec.get_or_insert_default();
        let mut work = Work { allocator, reservation: &mut reservation, had: &had, name: &name };
        work.cluster_ips(spec)?;
        work.node_ports(spec)?;
        let has = allocator.claims(spec);
        reservation.released = had.into_iter().filter(|c| !has.contains(c)).collect();
        Ok(reservation)
    }

    /// Gives back what a deleted service had.
    pub(in crate::resource) fn release(&self, object: &Object) {
        if self.target.is("", "services")
            && let Some(spec) = spec(object)
        {
            let allocator = &self.resources.services;
            allocator.give_back(&allocator.claims(spec));
        }
    }
}
