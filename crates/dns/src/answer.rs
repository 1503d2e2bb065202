//! From a question to its records, by the DNS-based service discovery specification. Pure.

use crate::zone::{Endpoint, Entry, Form, Id, Port, Zone};
use hickory_proto::rr::rdata::{CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::IpAddr;

/// Seconds a client may keep an answer.
pub const TTL_SECONDS: u32 = 5;
/// So many names may lead to one another, as with CoreDNS; what is longer is a circle.
const MAX_ALIASES: usize = 10;
/// Version of the specification, at `dns-version.<domain>`.
const SPECIFICATION: &str = "1.1.0";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Records, and those a client will ask for next.
    Found {
        records: Vec<Record>,
        additional: Vec<Record>,
    },
    /// The name is there, records of this type are not.
    Empty,
    NoSuchName,
    /// A chain of CNAMEs that leads out of the cluster: the target is to be asked for upstream.
    Alias {
        records: Vec<Record>,
        target: Name,
    },
    /// Not ours.
    Elsewhere,
}

/// Answers for one cluster domain, without the trailing dot: `cluster.local`.
pub struct Answers {
    domain: Vec<String>,
    name: Name,
}

impl Answers {
    /// None where the domain is not a DNS name.
    pub fn new(domain: &str) -> Option<Self> {
        let name = Name::from_ascii(format!("{}.", domain.trim_end_matches('.'))).ok()?;
        Some(Self { domain: labels(&name), name })
    }

    /// The answer to a question. A service that is another name is followed while it stays in the cluster.
    pub fn answer(&self, zone: &Zone, question: &Name, kind: RecordType) -> Answer {
        let (mut chain, mut name) = (Vec::new(), question.clone());
        while chain.len() < MAX_ALIASES {
            match self.one(zone, &name, kind) {
                Answer::Alias { records, .. } if kind == RecordType::CNAME => {
                    return found(records, Vec::new());
                }
                Answer::Alias { mut records, target } => {
                    chain.append(&mut records);
                    name = target;
                }
                answer if chain.is_empty() => return answer,
                Answer::Elsewhere => return Answer::Alias { records: chain, target: name },
                Answer::Found { mut records, additional } => {
                    chain.append(&mut records);
                    return found(chain, additional);
                }
                Answer::Empty | Answer::NoSuchName => break,
            }
        }
        found(chain, Vec::new())
    }

    fn one(&self, zone: &Zone, question: &Name, kind: RecordType) -> Answer {
        let labels = labels(question);
        if let Some(ip) = reverse_address(&labels) {
            return self.reverse(zone, question, ip, kind);
        }
        let Some(inner) = labels.strip_suffix(self.domain.as_slice()) else { return Answer::Elsewhere };
        let path: Vec<&str> = inner.iter().map(String::as_str).collect();
        match path.as_slice() {
            [] | ["svc" | "pod"] => Answer::Empty,
            ["dns-version"] => {
                let txt = RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]));
                only(kind, RecordType::TXT, vec![record(question, txt)])
            }
            [ns, "svc"] if zone.namespaces.contains(*ns) => Answer::Empty,
            [service, ns, "svc"] => self.service(zone, question, &id(ns, service), kind),
            [port, protocol, service, ns, "svc"] if port.starts_with('_') && protocol.starts_with('_') => {
                self.srv(zone, question, &id(ns, service), &port[1..], &protocol[1..], kind)
            }
            [host, service, ns, "svc"] => self.host(zone, question, &id(ns, service), host, kind),
            [ns, "pod"] if zone.namespaces.contains(*ns) => Answer::Empty,
            [address, ns, "pod"] if zone.namespaces.contains(*ns) => match dashed_address(address) {
                Some(ip) => addresses(question, kind, &[ip]),
                None => Answer::NoSuchName,
            },
            _ => Answer::NoSuchName,
        }
    }

    /// The record that says how long "no such name" holds.
    pub fn soa(&self, serial: u32) -> Record {
        let host = |label: &str| self.name.prepend_label(label).unwrap_or_else(|_| self.name.clone());
        let soa = SOA::new(host("ns.dns"), host("hostmaster"), serial, 7200, 1800, 86400, TTL_SECONDS);
        Record::from_rdata(self.name.clone(), TTL_SECONDS, RData::SOA(soa))
    }

    fn service(&self, zone: &Zone, question: &Name, id: &Id, kind: RecordType) -> Answer {
        let Some(entry) = zone.services.get(id) else { return Answer::NoSuchName };
        match &entry.form {
            Form::ClusterIp(ips) if kind == RecordType::SRV => {
                let srv = |p: &Port| srv(question, p.port, question.clone());
                found(entry.ports.iter().map(srv).collect(), addresses_of(question, ips))
            }
            Form::ClusterIp(ips) => addresses(question, kind, ips),
            Form::Headless => {
                let endpoints = zone.endpoints(id);
                if endpoints.is_empty() {
                    return Answer::Empty;
                }
                if kind == RecordType::SRV {
                    return self.srv_of_endpoints(question, id, &endpoints, |_| true);
                }
                let ips: Vec<IpAddr> = endpoints.iter().map(|e| e.ip).collect();
                addresses(question, kind, &ips)
            }
            Form::External(target) => match Name::from_ascii(format!("{}.", target.trim_end_matches('.'))) {
                Ok(target) => Answer::Alias {
                    records: vec![record(question, RData::CNAME(CNAME(target.clone())))],
                    target,
                },
                Err(_) => Answer::NoSuchName,
            },
        }
    }

    fn host(&self, zone: &Zone, question: &Name, id: &Id, host: &str, kind: RecordType) -> Answer {
        let headless = matches!(zone.services.get(id), Some(Entry { form: Form::Headless, .. }));
        let ips: Vec<IpAddr> = match headless {
            true => zone.endpoints(id).into_iter().filter(|e| e.hostname == host).map(|e| e.ip).collect(),
            false => Vec::new(),
        };
        if ips.is_empty() { Answer::NoSuchName } else { addresses(question, kind, &ips) }
    }

    fn srv(&self, zone: &Zone, q: &Name, id: &Id, port: &str, protocol: &str, kind: RecordType) -> Answer {
        let wanted =
            |p: &Port| (port == "*" || p.name == port) && (protocol == "*" || p.protocol == protocol);
        let Some(entry) = zone.services.get(id) else { return Answer::NoSuchName };
        let answer = match &entry.form {
            Form::ClusterIp(ips) => {
                let target = self.service_name(id);
                let records: Vec<_> = entry
                    .ports
                    .iter()
                    .filter(|p| wanted(p))
                    .map(|p| srv(q, p.port, target.clone()))
                    .collect();
                if records.is_empty() {
                    Answer::NoSuchName
                } else {
                    found(records, addresses_of(&target, ips))
                }
            }
            Form::Headless => self.srv_of_endpoints(q, id, &zone.endpoints(id), wanted),
            Form::External(_) => Answer::NoSuchName,
        };
        match answer {
            Answer::Found { .. } if kind != RecordType::SRV && kind != RecordType::ANY => Answer::Empty,
            other => other,
        }
    }

    fn srv_of_endpoints(
        &self,
        q: &Name,
        id: &Id,
        endpoints: &[&Endpoint],
        wanted: impl Fn(&Port) -> bool,
    ) -> Answer {
        let (mut records, mut additional) = (Vec::new(), Vec::new());
        for e in endpoints {
            let Ok(target) = self.service_name(id).prepend_label(e.hostname.as_str()) else { continue };
            let ports: Vec<_> = e.ports.iter().filter(|p| wanted(p)).collect();
            if !ports.is_empty() {
                additional.extend(addresses_of(&target, &[e.ip]));
            }
            records.extend(ports.iter().map(|p| srv(q, p.port, target.clone())));
        }
        if records.is_empty() { Answer::NoSuchName } else { found(records, additional) }
    }

    fn reverse(&self, zone: &Zone, question: &Name, ip: IpAddr, kind: RecordType) -> Answer {
        let mut names = Vec::new();
        if let Some(id) = zone.cluster_ips.get(&ip) {
            names.push(self.service_name(id));
        } else {
            for (id, host) in zone.hosts.get(&ip).into_iter().flatten() {
                let headless = matches!(zone.services.get(id), Some(Entry { form: Form::Headless, .. }));
                if let Some(name) =
                    headless.then(|| self.service_name(id).prepend_label(host.as_str()).ok()).flatten()
                {
                    names.push(name);
                }
            }
        }
        if names.is_empty() {
            return Answer::Elsewhere;
        }
        only(kind, RecordType::PTR, names.into_iter().map(|n| record(question, RData::PTR(PTR(n)))).collect())
    }

    /// `web.default.svc.cluster.local.`
    fn service_name(&self, (namespace, name): &Id) -> Name {
        let svc = ["svc", namespace, name];
        svc.iter().fold(self.name.clone(), |n, label| n.prepend_label(*label).unwrap_or(n))
    }
}

fn id(namespace: &str, name: &str) -> Id {
    (namespace.to_owned(), name.to_owned())
}

/// Lower case, outermost last, without the root.
fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|l| String::from_utf8_lossy(l).to_ascii_lowercase()).collect()
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL_SECONDS, data)
}

fn srv(name: &Name, port: u16, target: Name) -> Record {
    record(name, RData::SRV(SRV::new(0, 100, port, target)))
}

fn found(records: Vec<Record>, additional: Vec<Record>) -> Answer {
    if records.is_empty() { Answer::Empty } else { Answer::Found { records, additional } }
}

fn only(asked: RecordType, is: RecordType, records: Vec<Record>) -> Answer {
    if asked == is || asked == RecordType::ANY { found(records, Vec::new()) } else { Answer::Empty }
}

fn addresses_of(name: &Name, ips: &[IpAddr]) -> Vec<Record> {
    let data = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => RData::A((*v4).into()),
        IpAddr::V6(v6) => RData::AAAA((*v6).into()),
    };
    ips.iter().map(|ip| record(name, data(ip))).collect()
}

fn addresses(name: &Name, kind: RecordType, ips: &[IpAddr]) -> Answer {
    let all = addresses_of(name, ips).into_iter();
    found(all.filter(|r| r.record_type() == kind || kind == RecordType::ANY).collect(), Vec::new())
}

/// `10-244-0-7`, or the IPv6 form with dashes for colons.
fn dashed_address(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<std::net::Ipv4Addr>().map(IpAddr::V4).ok();
    v4.or_else(|| label.replace('-', ":").parse::<std::net::Ipv6Addr>().map(IpAddr::V6).ok())
}

/// The address of an `in-addr.arpa` or `ip6.arpa` name (RFC 1035 3.5, RFC 3596 2.5).
fn reverse_address(labels: &[String]) -> Option<IpAddr> {
    let text: Vec<&str> = labels.iter().map(String::as_str).collect();
    match text.as_slice() {
        [d, c, b, a, "in-addr", "arpa"] => format!("{a}.{b}.{c}.{d}").parse().ok(),
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let hex: String = nibbles.iter().rev().copied().collect();
            u128::from_str_radix(&hex, 16).ok().map(|n| IpAddr::V6(n.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn zone() -> Zone {
        let mut zone = Zone::default();
        zone.set_namespace("default", Some(&Default::default()));
        let mut service = |name: &str, spec: serde_json::Value| {
            let s = serde_json::from_value(json!({"spec": spec})).unwrap();
            zone.set_service(id("default", name), Some(&s));
        };
        let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
        service("web", json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": ports}));
        service("db", json!({"clusterIP": "None", "ports": ports}));
        service("ext", json!({"type": "ExternalName", "externalName": "example.org"}));
        let also = |name: &str| json!({"type": "ExternalName", "externalName": format!("{name}.default.svc.cluster.local")});
        service("also-web", also("web"));
        service("also-ext", also("ext"));
        service("nowhere", also("missing"));
        service("circle", also("circle"));
        let slice = serde_json::from_value(json!({
            "addressType": "IPv4", "metadata": {"name": "db-1"},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.244.0.2"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.244.0.3"], "conditions": {"ready": true}},
                {"addresses": ["10.244.0.4"], "conditions": {"ready": false}}
            ]
        }))
        .unwrap();
        zone.set_slice(&id("default", "db"), "db-1", Some(&slice));
        zone
    }

    fn ask(question: &str, kind: RecordType) -> String {
        let answers = Answers::new("cluster.local").unwrap();
        match answers.answer(&zone(), &Name::from_ascii(question).unwrap(), kind) {
            Answer::Found { records, additional } => {
                let show =
                    |r: &Vec<Record>| r.iter().map(|r| r.data.to_string()).collect::<Vec<_>>().join(", ");
                match additional.is_empty() {
                    true => show(&records),
                    false => format!("{} + {}", show(&records), show(&additional)),
                }
            }
            Answer::Alias { target, .. } => format!("alias {target}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn names_are_answered_as_the_specification_says() {
        use RecordType::*;
        for (question, kind, expect) in [
            ("web.default.svc.cluster.local.", A, "10.96.0.7"),
            ("WEB.Default.svc.cluster.local.", A, "10.96.0.7"),
            ("web.default.svc.cluster.local.", AAAA, "Empty"),
            (
                "_http._tcp.web.default.svc.cluster.local.",
                SRV,
                "0 100 80 web.default.svc.cluster.local. + 10.96.0.7",
            ),
            ("_http._udp.web.default.svc.cluster.local.", SRV, "NoSuchName"),
            ("db.default.svc.cluster.local.", A, "10.244.0.2, 10.244.0.3"),
            ("db-0.db.default.svc.cluster.local.", A, "10.244.0.2"),
            ("10-244-0-3.db.default.svc.cluster.local.", A, "10.244.0.3"),
            ("10-244-0-4.db.default.svc.cluster.local.", A, "NoSuchName"),
            (
                "_http._tcp.db.default.svc.cluster.local.",
                SRV,
                "0 100 8080 db-0.db.default.svc.cluster.local., 0 100 8080 10-244-0-3.db.default.svc.cluster.local. + 10.244.0.2, 10.244.0.3",
            ),
            ("ext.default.svc.cluster.local.", A, "alias example.org."),
            ("ext.default.svc.cluster.local.", CNAME, "example.org."),
            ("also-web.default.svc.cluster.local.", A, "web.default.svc.cluster.local., 10.96.0.7"),
            ("also-web.default.svc.cluster.local.", AAAA, "web.default.svc.cluster.local."),
            ("also-ext.default.svc.cluster.local.", A, "alias example.org."),
            ("nowhere.default.svc.cluster.local.", A, "missing.default.svc.cluster.local."),
            ("circle.default.svc.cluster.local.", A, &["circle.default.svc.cluster.local."; 10].join(", ")),
            ("10-244-0-9.default.pod.cluster.local.", A, "10.244.0.9"),
            ("10-244-0-9.nowhere.pod.cluster.local.", A, "NoSuchName"),
            ("7.0.96.10.in-addr.arpa.", PTR, "web.default.svc.cluster.local."),
            ("2.0.244.10.in-addr.arpa.", PTR, "db-0.db.default.svc.cluster.local."),
            ("9.9.9.9.in-addr.arpa.", PTR, "Elsewhere"),
            ("default.svc.cluster.local.", A, "Empty"),
            ("nope.default.svc.cluster.local.", A, "NoSuchName"),
            ("dns-version.cluster.local.", TXT, "1.1.0"),
            ("example.org.", A, "Elsewhere"),
        ] {
            assert_eq!(ask(question, kind), expect, "{question} {kind}");
        }
    }

    #[test]
    fn what_is_gone_has_no_name() {
        let mut zone = zone();
        zone.set_slice(&id("default", "db"), "db-1", None);
        zone.set_service(id("default", "web"), None);
        let answers = Answers::new("cluster.local").unwrap();
        let ask = |q: &str, k| answers.answer(&zone, &Name::from_ascii(q).unwrap(), k);
        assert_eq!(ask("web.default.svc.cluster.local.", RecordType::A), Answer::NoSuchName);
        assert_eq!(ask("db.default.svc.cluster.local.", RecordType::A), Answer::Empty);
        assert_eq!(ask("7.0.96.10.in-addr.arpa.", RecordType::PTR), Answer::Elsewhere);
    }
}
