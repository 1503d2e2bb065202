//! The other kinds that are warned of something.

use super::pods::{claim_spec, of_controller};
use super::{cidr, ip, node_label, node_selector_term};
use crate::service::is_headless;
use crate::strategy::semantic_eq;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    Endpoints, Node, PersistentVolume, PersistentVolumeClaim, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{IPBlock, Ingress, NetworkPolicy};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIStorageCapacity, StorageClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::volumes::BETA_CLASS;
use meta::{Path, Quantity};
use std::collections::BTreeMap;

fn annotated(meta: &ObjectMeta, key: &str) -> bool {
    meta.annotations.as_ref().is_some_and(|a| a.contains_key(key))
}

fn labelled(meta: &ObjectMeta, key: &str, values: &[&str]) -> bool {
    let value = meta.labels.as_ref().and_then(|l| l.get(key));
    value.is_some_and(|v| values.contains(&v.as_str()))
}

pub fn stateful_set(new: &StatefulSet, old: Option<&StatefulSet>) -> Vec<String> {
    let Some(spec) = &new.spec else { return Vec::new() };
    let mut out = of_controller(&new.metadata, old.map(|o| &o.metadata), Some(&spec.template), false);
    for (i, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
        let path = Path::new("spec.volumeClaimTemplates").index(i);
        let path = if old.is_some() { path.child("Spec") } else { path };
        if let Some(claim) = &claim.spec {
            claim_spec(&path, claim, &mut out);
        }
    }
    if spec.revision_history_limit.is_some_and(|l| l < 0) {
        out.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".to_owned());
    }
    out
}

pub fn service(service: &Service) -> Vec<String> {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let mut out = Vec::new();
    if annotated(&service.metadata, HINTS) {
        out.push(format!(
            "annotation {HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    let Some(spec) = &service.spec else { return out };
    let ty = spec.type_.as_deref().unwrap_or("ClusterIP");
    let external = spec.external_ips.as_deref().unwrap_or_default();
    let balancer = spec.load_balancer_ip.as_deref().unwrap_or("");
    let headless = ty == "ClusterIP" && is_headless(spec);
    let at = |list: &str, i: usize| Path::new("spec").child(list).index(i);
    if ty != "ExternalName" && !is_headless(spec) {
        let ips = spec.cluster_ips.iter().flatten().enumerate();
        out.extend(ips.filter_map(|(i, value)| ip(|| at("clusterIPs", i), value)));
    }
    if headless {
        for (given, field) in [
            (!balancer.is_empty(), "spec.loadBalancerIP"),
            (!external.is_empty(), "spec.externalIPs"),
            (spec.session_affinity.as_deref().is_some_and(|a| a != "None"), "spec.SessionAffinity"),
        ] {
            if given {
                out.push(format!("{field} is ignored for headless services"));
            }
        }
    }
    out.extend(external.iter().enumerate().filter_map(|(i, value)| ip(|| at("externalIPs", i), value)));
    if !external.is_empty() && !headless && ty != "ExternalName" {
        out.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    out.extend(ip(|| Path::new("spec.loadBalancerIP"), balancer));
    for (i, range) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        out.extend(cidr(|| at("loadBalancerSourceRanges", i), range));
    }
    if ty == "ExternalName" && !external.is_empty() {
        out.push(r#"spec.externalIPs is ignored when spec.type is "ExternalName""#.to_owned());
    }
    if ty != "ExternalName" && spec.external_name.as_ref().is_some_and(|n| !n.is_empty()) {
        out.push(r#"spec.externalName is ignored when spec.type is not "ExternalName""#.to_owned());
    }
    if spec.traffic_distribution.as_deref() == Some("PreferClose") {
        out.push(r#"spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone""#.to_owned());
    }
    out
}

pub fn node(node: &Node) -> Vec<String> {
    let mut out = Vec::new();
    let Some(spec) = &node.spec else { return out };
    if spec.config_source.is_some() {
        out.push("spec.configSource: the feature is removed".to_owned());
    }
    if spec.external_id.as_ref().is_some_and(|id| !id.is_empty()) {
        out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    for (i, range) in spec.pod_cidrs.iter().flatten().enumerate() {
        out.extend(cidr(|| Path::new("spec.podCIDRs").index(i), range));
    }
    out
}

pub fn persistent_volume(volume: &PersistentVolume) -> Vec<String> {
    let mut out = Vec::new();
    for (key, why) in [
        (BETA_CLASS, r#"deprecated since v1.8; use "storageClassName" attribute instead"#),
        (
            "volume.beta.kubernetes.io/mount-options",
            r#"deprecated since v1.31; use "mountOptions" attribute instead"#,
        ),
    ] {
        if annotated(&volume.metadata, key) {
            out.push(format!("metadata.annotations[{key}]: {why}"));
        }
    }
    let Some(spec) = &volume.spec else { return out };
    if spec.persistent_volume_reclaim_policy.as_deref() == Some("Recycle") {
        out.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    let required = spec.node_affinity.iter().filter_map(|a| a.required.as_ref());
    for (i, term) in required.flat_map(|r| &r.node_selector_terms).enumerate() {
        let path = Path::new("spec.nodeAffinity.required.nodeSelectorTerms").index(i);
        node_selector_term(term, false, &path, &mut out);
    }
    for (used, field, why) in [
        (spec.cephfs.is_some(), "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        (
            spec.photon_persistent_disk.is_some(),
            "photonPersistentDisk",
            "deprecated in v1.11, non-functional in v1.16+",
        ),
        (spec.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        (spec.storageos.is_some(), "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        (spec.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        (spec.rbd.is_some(), "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ] {
        if used {
            out.push(format!("spec.{field}: {why}"));
        }
    }
    out
}

pub fn persistent_volume_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let mut out = Vec::new();
    if annotated(&claim.metadata, BETA_CLASS) {
        out.push(format!(r#"metadata.annotations[{BETA_CLASS}]: deprecated since v1.8; use "storageClassName" attribute instead"#));
    }
    if let Some(spec) = &claim.spec {
        claim_spec(&Path::new("spec"), spec, &mut out);
    }
    out
}

pub fn storage_class(class: &StorageClass) -> Vec<String> {
    let mut out = Vec::new();
    for (i, term) in class.allowed_topologies.iter().flatten().enumerate() {
        for (j, expression) in term.match_label_expressions.iter().flatten().enumerate() {
            if let Some(why) = node_label(&expression.key) {
                out.push(format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key: {why}"));
            }
        }
    }
    out
}

pub fn csi_storage_capacity(capacity: &CSIStorageCapacity) -> Vec<String> {
    let Some(topology) = &capacity.node_topology else { return Vec::new() };
    let mut out = Vec::new();
    for (i, expression) in topology.match_expressions.iter().flatten().enumerate() {
        if let Some(why) = node_label(&expression.key) {
            out.push(format!("nodeTopology.matchExpressions[{i}].key: {} is {why}", expression.key));
        }
    }
    for label in topology.match_labels.iter().flat_map(BTreeMap::keys) {
        if let Some(why) = node_label(label) {
            out.push(format!("nodeTopology.matchLabels.{label}: {why}"));
        }
    }
    out
}

pub fn runtime_class(class: &RuntimeClass) -> Vec<String> {
    let keys = class.scheduling.iter().flat_map(|s| s.node_selector.iter().flat_map(BTreeMap::keys));
    keys.filter_map(|key| node_label(key)).map(|why| format!("scheduling.nodeSelector: {why}")).collect()
}

pub fn csi_driver(new: &CSIDriver, old: Option<&CSIDriver>) -> Vec<String> {
    let requests = &new.spec.token_requests;
    let changed = old.is_none_or(|old| !semantic_eq(requests, &old.spec.token_requests));
    let asks = requests.as_ref().is_some_and(|r| !r.is_empty());
    if !changed || !asks || new.spec.service_account_token_in_secrets.is_some() {
        return Vec::new();
    }
    vec!["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned()]
}

pub fn ingress(ingress: &Ingress) -> Vec<String> {
    const CLASS: &str = "kubernetes.io/ingress.class";
    let named = ingress.spec.as_ref().is_some_and(|s| s.ingress_class_name.is_some());
    if !annotated(&ingress.metadata, CLASS) || named {
        return Vec::new();
    }
    vec![format!("annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead")]
}

pub fn network_policy(policy: &NetworkPolicy) -> Vec<String> {
    let mut out = Vec::new();
    let mut look = |path: Path, block: &IPBlock| {
        let path = path.child("ipBlock");
        out.extend(cidr(|| path.child("cidr"), &block.cidr));
        for (k, except) in block.except.iter().flatten().enumerate() {
            out.extend(cidr(|| path.child("except").index(k), except));
        }
    };
    let Some(spec) = &policy.spec else { return out };
    for (i, rule) in spec.ingress.iter().flatten().enumerate() {
        for (j, peer) in rule.from.iter().flatten().enumerate() {
            if let Some(block) = &peer.ip_block {
                look(Path::new("spec.ingress").index(i).child("from").index(j), block);
            }
        }
    }
    for (i, rule) in spec.egress.iter().flatten().enumerate() {
        for (j, peer) in rule.to.iter().flatten().enumerate() {
            if let Some(block) = &peer.ip_block {
                look(Path::new("spec.egress").index(i).child("to").index(j), block);
            }
        }
    }
    out
}

/// The controllers write addresses in their canonical form.
pub fn endpoint_slice(new: &EndpointSlice, old: Option<&EndpointSlice>) -> Vec<String> {
    let mut out = Vec::new();
    if old.is_none() && new.address_type == "FQDN" {
        out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    let controllers = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
    if labelled(&new.metadata, "endpointslice.kubernetes.io/managed-by", &controllers) {
        return out;
    }
    for (i, endpoint) in new.endpoints.iter().flatten().enumerate() {
        for (j, value) in endpoint.addresses.iter().enumerate() {
            out.extend(ip(|| Path::new("endpoints").index(i).child("addresses").index(j), value));
        }
    }
    out
}

pub fn endpoints(endpoints: &Endpoints) -> Vec<String> {
    let mut out = Vec::new();
    if labelled(&endpoints.metadata, "endpoints.kubernetes.io/managed-by", &["endpoint-controller"]) {
        return out;
    }
    for (i, subset) in endpoints.subsets.iter().flatten().enumerate() {
        for (list, addresses) in
            [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)]
        {
            for (j, address) in addresses.iter().flatten().enumerate() {
                let at = || Path::new("subsets").index(i).child(list).index(j).child("ip");
                out.extend(ip(at, &address.ip));
            }
        }
    }
    out
}

pub fn service_account(new: &ServiceAccount, old: Option<&ServiceAccount>) -> Vec<String> {
    const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
    if old.is_some_and(|old| annotated(&old.metadata, MOUNTABLE)) || !annotated(&new.metadata, MOUNTABLE) {
        return Vec::new();
    }
    vec![format!(
        "metadata.annotations[{MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
    )]
}

/// A certificate that is none; whether key and certificate belong together is for who uses them to find.
pub fn secret(secret: &Secret) -> Vec<String> {
    if secret.type_.as_deref() != Some("kubernetes.io/tls") {
        return Vec::new();
    }
    let has_pem = |key: &str| {
        let data = secret.data.as_ref().and_then(|d| d.get(key)).map_or(&[][..], |b| b.0.as_slice());
        data.windows(11).any(|w| w == b"-----BEGIN ")
    };
    match (has_pem("tls.crt"), has_pem("tls.key")) {
        (false, _) => vec!["tls: failed to find any PEM data in certificate input".to_owned()],
        (true, false) => vec!["tls: failed to find any PEM data in key input".to_owned()],
        (true, true) => Vec::new(),
    }
}

pub fn resource_quota(quota: &ResourceQuota) -> Vec<String> {
    let Some(hard) = quota.spec.as_ref().and_then(|s| s.hard.as_ref()) else { return Vec::new() };
    let mut out = Vec::new();
    for resource in ["cpu", "memory", "storage", "ephemeral-storage"] {
        let (prefixed, limits) = (format!("requests.{resource}"), format!("limits.{resource}"));
        let plain = matches!(resource, "cpu" | "memory").then_some(resource);
        let asked =
            [Some(prefixed.as_str()), plain].into_iter().flatten().find_map(|n| hard.get_key_value(n));
        if let (Some((name, request)), Some(limit)) = (asked, hard.get(&limits)) {
            let (request, limit) = (Quantity::of(request), Quantity::of(limit));
            if request > limit {
                out.push(format!("ResourceQuota {name} ({request}) should be less than {limits} ({limit})"));
            }
        }
    }
    out
}
