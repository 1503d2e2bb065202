//! The index: what is needed of services and endpoints to answer queries. Pure.

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// (namespace, name)
pub type Id = (String, String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    ClusterIp(Vec<IpAddr>),
    Headless,
    /// A CNAME to here.
    External(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: String,
    /// Lower case: `tcp`.
    pub protocol: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub form: Form,
    pub ports: Vec<Port>,
    /// Endpoints that are not ready have names too.
    pub publish_not_ready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub ip: IpAddr,
    /// `spec.hostname` of the pod, or the address with dashes.
    pub hostname: String,
    pub ready: bool,
    pub ports: Vec<Port>,
}

#[derive(Default)]
pub struct Zone {
    pub(crate) namespaces: HashSet<String>,
    pub(crate) services: HashMap<Id, Entry>,
    /// By service, then by the slice they come from.
    endpoints: HashMap<Id, BTreeMap<String, Vec<Endpoint>>>,
    /// Cluster IP to the service.
    pub(crate) cluster_ips: HashMap<IpAddr, Id>,
    /// Endpoint address to the services that have it with a host name.
    pub(crate) hosts: HashMap<IpAddr, BTreeSet<(Id, String)>>,
}

impl Zone {
    pub fn set_namespace(&mut self, name: &str, namespace: Option<&Namespace>) {
        match namespace {
            Some(_) => self.namespaces.insert(name.to_owned()),
            None => self.namespaces.remove(name),
        };
    }

    pub fn set_service(&mut self, id: Id, service: Option<&Service>) {
        if let Some(Entry { form: Form::ClusterIp(ips), .. }) = self.services.remove(&id) {
            for ip in ips {
                self.cluster_ips.remove(&ip);
            }
        }
        let Some(entry) = service.and_then(entry) else { return };
        if let Form::ClusterIp(ips) = &entry.form {
            self.cluster_ips.extend(ips.iter().map(|ip| (*ip, id.clone())));
        }
        self.services.insert(id, entry);
    }

    /// Replaces what one slice says of a service; None: the slice is gone.
    pub fn set_slice(&mut self, service: &Id, slice_name: &str, slice: Option<&EndpointSlice>) {
        let slices = self.endpoints.entry(service.clone()).or_default();
        for gone in slices.remove(slice_name).into_iter().flatten() {
            if let Some(hosts) = self.hosts.get_mut(&gone.ip) {
                hosts.remove(&(service.clone(), gone.hostname));
                if hosts.is_empty() {
                    self.hosts.remove(&gone.ip);
                }
            }
        }
        match slice.map(read_slice) {
            Some(read) => {
                for e in &read {
                    self.hosts.entry(e.ip).or_default().insert((service.clone(), e.hostname.clone()));
                }
                slices.insert(slice_name.to_owned(), read);
            }
            None if slices.is_empty() => {
                self.endpoints.remove(service);
            }
            None => {}
        }
    }

    /// A headless service's endpoints that have a name, each address once.
    pub fn endpoints(&self, id: &Id) -> Vec<&Endpoint> {
        let all = self.services.get(id).is_some_and(|s| s.publish_not_ready);
        let mut seen = HashSet::new();
        let slices = self.endpoints.get(id).into_iter().flat_map(BTreeMap::values).flatten();
        slices.filter(|e| (e.ready || all) && seen.insert((e.ip, &e.hostname))).collect()
    }
}

fn entry(service: &Service) -> Option<Entry> {
    let spec = service.spec.as_ref()?;
    let ports = spec.ports.iter().flatten();
    let ports =
        ports.map(|p| port(p.name.as_deref(), p.protocol.as_deref(), Some(p.port))).collect::<Option<_>>()?;
    let form = if spec.type_.as_deref() == Some("ExternalName") {
        Form::External(spec.external_name.clone()?)
    } else if spec.cluster_ip.as_deref() == Some("None") {
        Form::Headless
    } else {
        let listed: Vec<IpAddr> =
            spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
        let ips = if listed.is_empty() { vec![spec.cluster_ip.as_deref()?.parse().ok()?] } else { listed };
        Form::ClusterIp(ips)
    };
    Some(Entry { form, ports, publish_not_ready: spec.publish_not_ready_addresses == Some(true) })
}

fn port(name: Option<&str>, protocol: Option<&str>, number: Option<i32>) -> Option<Port> {
    Some(Port {
        name: name.unwrap_or_default().to_owned(),
        protocol: protocol.unwrap_or("TCP").to_ascii_lowercase(),
        port: u16::try_from(number?).ok()?,
    })
}

fn read_slice(slice: &EndpointSlice) -> Vec<Endpoint> {
    let ports = slice.ports.iter().flatten();
    let ports: Vec<_> =
        ports.filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port)).collect();
    let read = |e: &k8s_openapi::api::discovery::v1::Endpoint| {
        let ip: IpAddr = e.addresses.first()?.parse().ok()?;
        let dashed = || ip.to_string().replace(['.', ':'], "-");
        Some(Endpoint {
            ip,
            hostname: e.hostname.clone().filter(|h| !h.is_empty()).unwrap_or_else(dashed),
            ready: e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true),
            ports: ports.clone(),
        })
    };
    slice.endpoints.iter().flatten().filter_map(read).collect()
}
