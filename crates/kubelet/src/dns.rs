//! The pod's resolver configuration, host name and hosts file.

use cri::v1;
use k8s_openapi::api::core::v1::{HostAlias, Pod, PodDNSConfig};

use crate::container_config::ConfigError;

/// Upstream's limits; beyond them entries are dropped and an event says so.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCH_PATHS: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
/// The kernel's longest host name.
const HOSTNAME_MAX: usize = 63;
const FQDN_MAX: usize = 64;

/// The node's side of name resolution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDns {
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    /// The text of the node's `resolv.conf`.
    pub resolv_conf: String,
}

/// The pod's resolver configuration, and what was left out, in words for an event.
pub fn pod_dns(pod: &Pod, node: &NodeDns) -> (v1::DnsConfig, Vec<String>) {
    let spec = pod.spec.clone().unwrap_or_default();
    let host = parse_resolv_conf(&node.resolv_conf);
    let host_network = spec.host_network == Some(true);
    let cluster = match spec.dns_policy.as_deref() {
        Some("None") => return limit(append(v1::DnsConfig::default(), spec.dns_config.as_ref())),
        Some("Default") => false,
        Some("ClusterFirstWithHostNet") => true,
        _ => !host_network,
    };
    let mut config = host;
    if cluster && !node.cluster_dns.is_empty() {
        let mut searches = Vec::new();
        if !node.cluster_domain.is_empty() {
            let domain = &node.cluster_domain;
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        }
        searches.append(&mut config.searches);
        config = v1::DnsConfig {
            servers: node.cluster_dns.clone(),
            searches: unique(searches),
            options: vec!["ndots:5".into()],
        };
    }
    limit(append(config, spec.dns_config.as_ref()))
}

fn append(mut config: v1::DnsConfig, extra: Option<&PodDNSConfig>) -> v1::DnsConfig {
    let Some(extra) = extra else { return config };
    config.servers.extend(extra.nameservers.iter().flatten().cloned());
    config.servers = unique(config.servers);
    config.searches.extend(extra.searches.iter().flatten().cloned());
    config.searches = unique(config.searches);
    for option in extra.options.iter().flatten() {
        let name = option.name.clone().unwrap_or_default();
        config.options.retain(|o| o.split(':').next() != Some(name.as_str()));
        config.options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name,
        });
    }
    config
}

fn unique(list: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    list.into_iter().filter(|s| seen.insert(s.clone())).collect()
}

fn limit(mut config: v1::DnsConfig) -> (v1::DnsConfig, Vec<String>) {
    let mut notes = Vec::new();
    if config.servers.len() > MAX_NAMESERVERS {
        config.servers.truncate(MAX_NAMESERVERS);
        notes.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            config.servers.join(" ")
        ));
    }
    let before = config.searches.len();
    config.searches.truncate(MAX_SEARCH_PATHS);
    config.searches.retain(|s| s.len() <= 253);
    while config.searches.join(" ").len() > MAX_SEARCH_CHARS {
        config.searches.pop();
    }
    if config.searches.len() != before {
        notes.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            config.searches.join(" ")
        ));
    }
    (config, notes)
}

/// Servers, search paths and options of a `resolv.conf`; the last of several `search` lines counts.
fn parse_resolv_conf(text: &str) -> v1::DnsConfig {
    let mut config = v1::DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => {
                config.searches =
                    words.map(|w| if w == "." { w } else { w.trim_end_matches('.') }.to_owned()).collect();
            }
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

/// The pod's short host name and, with a subdomain, its domain.
///
/// # Errors
/// A name of which nothing is left when shortened.
pub fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> Result<(String, String), ConfigError> {
    let spec = pod.spec.clone().unwrap_or_default();
    if let Some(name) = spec.hostname_override {
        return Ok((shorten(pod, &name)?, String::new()));
    }
    let own =
        spec.hostname.filter(|h| !h.is_empty()).or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    let domain = match spec.subdomain.filter(|s| !s.is_empty()) {
        Some(sub) => {
            format!("{sub}.{}.svc.{cluster_domain}", pod.metadata.namespace.as_deref().unwrap_or_default())
        }
        None => String::new(),
    };
    Ok((shorten(pod, &own)?, domain))
}

fn shorten(pod: &Pod, name: &str) -> Result<String, ConfigError> {
    if name.len() <= HOSTNAME_MAX {
        return Ok(name.to_owned());
    }
    let short = name.get(..HOSTNAME_MAX).unwrap_or_default().trim_end_matches(['-', '.']);
    if short.is_empty() {
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        return Err(ConfigError(format!("hostname for pod {pod:?} was invalid: {name:?}")));
    }
    Ok(short.to_owned())
}

/// The name the kernel is told: with the domain if the pod asks for it.
///
/// # Errors
/// A name longer than the kernel takes.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, ConfigError> {
    let (name, domain) = hostname_and_domain(pod, cluster_domain)?;
    let full = pod.spec.as_ref().and_then(|s| s.set_hostname_as_fqdn) == Some(true);
    if domain.is_empty() || !full {
        return Ok(name);
    }
    let fqdn = format!("{name}.{domain}");
    if fqdn.len() > FQDN_MAX {
        return Err(ConfigError(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({FQDN_MAX} \
             characters is the max, {} characters requested)",
            fqdn.len()
        )));
    }
    Ok(fqdn)
}

/// The hosts file of a pod on the pod network.
pub fn hosts_file(ips: &[String], name: &str, domain: &str, aliases: &[HostAlias]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        if domain.is_empty() {
            text.push_str(&format!("{ip}\t{name}\n"));
        } else {
            text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n"));
        }
    }
    text + &alias_lines(aliases)
}

/// The hosts file of a pod on the node's network.
pub fn host_network_hosts_file(node_hosts: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node_hosts}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let lines =
        aliases.iter().map(|a| format!("{}\t{}\n", a.ip, a.hostnames.clone().unwrap_or_default().join("\t")));
    format!("\n# Entries added by HostAliases.\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    #[test]
    fn each_policy_has_its_resolver() {
        let node = NodeDns {
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            resolv_conf: "nameserver 192.0.2.53\nsearch example.com. corp\noptions edns0 # x\n".into(),
        };
        #[track_caller]
        fn check(node: &NodeDns, spec: serde_json::Value, expect: [&str; 3]) {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let (dns, notes) = pod_dns(&pod(spec), node);
            assert_eq!([dns.servers.join(" "), dns.searches.join(" "), dns.options.join(" ")], expect);
            assert!(notes.is_empty());
        }
        let cluster = "ns.svc.cluster.local svc.cluster.local cluster.local example.com corp";
        check(&node, json!({}), ["10.96.0.10", cluster, "ndots:5"]);
        check(&node, json!({"dnsPolicy": "Default"}), ["192.0.2.53", "example.com corp", "edns0"]);
        check(&node, json!({"hostNetwork": true}), ["192.0.2.53", "example.com corp", "edns0"]);
        check(
            &node,
            json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
            ["10.96.0.10", cluster, "ndots:5"],
        );
        let own = json!({"nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}]});
        check(&node, json!({"dnsPolicy": "None", "dnsConfig": own}), ["1.1.1.1", "a.b", "ndots:2"]);
        check(&node, json!({"dnsConfig": own}), ["10.96.0.10 1.1.1.1", &format!("{cluster} a.b"), "ndots:2"]);
    }

    #[test]
    fn names_and_hosts() {
        let p = pod(json!({"containers": [], "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}));
        assert_eq!(kernel_hostname(&p, "cluster.local"), Ok("h.s.ns.svc.cluster.local".into()));
        let (name, domain) = hostname_and_domain(&p, "cluster.local").unwrap();
        let alias = HostAlias { ip: "9.9.9.9".into(), hostnames: Some(vec!["a".into(), "b".into()]) };
        let text = hosts_file(&["10.0.0.2".into()], &name, &domain, &[alias]);
        assert!(text.ends_with(
            "10.0.0.2\th.s.ns.svc.cluster.local\th\n\n# Entries added by HostAliases.\n9.9.9.9\ta\tb\n"
        ));
    }
}
