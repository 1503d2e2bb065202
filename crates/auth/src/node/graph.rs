//! Which objects a node may read, because a pod bound to it refers to them: counted per object and node, so
//! that a question is one lookup.

use k8s_openapi::api::core::v1::{Container, PersistentVolume, Pod, Volume};
use std::collections::HashMap;

/// Kinds of objects a pod can lead a node to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Pod,
    Secret,
    ConfigMap,
    ServiceAccount,
    Claim,
    Volume,
    ResourceClaim,
    VolumeAttachment,
    ResourceSlice,
}

type Vertex = (Kind, String, String);

#[derive(Debug, Default)]
pub struct Graph {
    /// (namespace, name) of each bound pod, to its node and what it refers to.
    pods: HashMap<(String, String), BoundPod>,
    /// How many pods of each node lead to an object.
    reach: HashMap<Vertex, HashMap<String, u32>>,
    /// Bound volumes by name.
    volumes: HashMap<String, BoundVolume>,
    /// Volumes whose mount needs a secret.
    secret_volumes: HashMap<(String, String), Vec<String>>,
}

#[derive(Debug)]
struct BoundPod {
    node: String,
    uid: Option<String>,
    ephemeral_containers: usize,
    vertices: Vec<Vertex>,
}

#[derive(Debug)]
struct BoundVolume {
    claim: (String, String),
    secrets: Vec<(String, String)>,
}

impl Graph {
    /// Whether `node` may read the object.
    pub(super) fn reaches(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let direct = |kind, namespace: &str, name: &str| {
            self.reach
                .get(&(kind, namespace.to_owned(), name.to_owned()))
                .is_some_and(|nodes| nodes.contains_key(node))
        };
        let volume =
            |name: &str| self.volumes.get(name).is_some_and(|v| direct(Kind::Claim, &v.claim.0, &v.claim.1));
        match kind {
            Kind::Volume => volume(name),
            Kind::Secret if direct(kind, namespace, name) => true,
            Kind::Secret => self
                .secret_volumes
                .get(&(namespace.to_owned(), name.to_owned()))
                .is_some_and(|volumes| volumes.iter().any(|v| volume(v))),
            _ => direct(kind, namespace, name),
        }
    }

    /// Takes a pod's newest state. One that is not bound to a node leads nowhere.
    pub fn set_pod(&mut self, pod: &Pod) {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(spec) = &pod.spec else { return };
        let Some(node) = spec.node_name.clone().filter(|n| !n.is_empty()) else { return };
        let ephemeral_containers = spec.ephemeral_containers.as_ref().map_or(0, Vec::len);
        let key = (namespace, name);
        if let Some(have) = self.pods.get(&key) {
            // A bound pod's references change with its ephemeral containers and resource claims alone.
            let same = have.node == node
                && have.uid == pod.metadata.uid
                && have.ephemeral_containers == ephemeral_containers
                && spec.resource_claims.is_none();
            if same {
                return;
            }
        }
        self.remove_pod(&key.0, &key.1);
        let vertices = references(pod, &key.0, &key.1);
        for v in &vertices {
            self.link(v.clone(), &node);
        }
        self.pods
            .insert(key, BoundPod { node, uid: pod.metadata.uid.clone(), ephemeral_containers, vertices });
    }

    pub fn remove_pod(&mut self, namespace: &str, name: &str) {
        let Some(pod) = self.pods.remove(&(namespace.to_owned(), name.to_owned())) else { return };
        for v in pod.vertices {
            self.unlink(&v, &pod.node);
        }
    }

    pub fn set_volume(&mut self, volume: &PersistentVolume) {
        let name = volume.metadata.name.clone().unwrap_or_default();
        self.remove_volume(&name);
        let Some(spec) = &volume.spec else { return };
        let Some(claim) = &spec.claim_ref else { return };
        let claim = (claim.namespace.clone().unwrap_or_default(), claim.name.clone().unwrap_or_default());
        let mut secrets: Vec<(String, String)> = Vec::new();
        // Only those the kubelet needs itself: staging, publishing and expanding on the node.
        if let Some(csi) = &spec.csi {
            for r in [&csi.node_publish_secret_ref, &csi.node_stage_secret_ref, &csi.node_expand_secret_ref]
                .into_iter()
                .flatten()
            {
                secrets.extend(r.namespace.clone().zip(r.name.clone()));
            }
        }
        let others = [
            spec.iscsi.as_ref().and_then(|s| s.secret_ref.as_ref()),
            spec.rbd.as_ref().and_then(|s| s.secret_ref.as_ref()),
            spec.cephfs.as_ref().and_then(|s| s.secret_ref.as_ref()),
            spec.flex_volume.as_ref().and_then(|s| s.secret_ref.as_ref()),
            spec.cinder.as_ref().and_then(|s| s.secret_ref.as_ref()),
            spec.scale_io.as_ref().map(|s| &s.secret_ref),
        ];
        for r in others.into_iter().flatten() {
            let namespace = r.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| claim.0.clone());
            secrets.extend(r.name.clone().map(|n| (namespace, n)));
        }
        for secret in &secrets {
            self.secret_volumes.entry(secret.clone()).or_default().push(name.clone());
        }
        self.volumes.insert(name, BoundVolume { claim, secrets });
    }

    pub fn remove_volume(&mut self, name: &str) {
        let Some(volume) = self.volumes.remove(name) else { return };
        for secret in volume.secrets {
            if let Some(list) = self.secret_volumes.get_mut(&secret) {
                list.retain(|v| v != name);
                if list.is_empty() {
                    self.secret_volumes.remove(&secret);
                }
            }
        }
    }

    /// A cluster object that names its node itself: a volume attachment or a resource slice.
    /// `node`: None where it is gone or names none.
    pub fn set_named(&mut self, kind: Kind, name: &str, node: Option<&str>) {
        let vertex = (kind, String::new(), name.to_owned());
        self.reach.remove(&vertex);
        if let Some(node) = node {
            self.link(vertex, node);
        }
    }

    fn link(&mut self, vertex: Vertex, node: &str) {
        *self.reach.entry(vertex).or_default().entry(node.to_owned()).or_default() += 1;
    }

    fn unlink(&mut self, vertex: &Vertex, node: &str) {
        let Some(nodes) = self.reach.get_mut(vertex) else { return };
        if let Some(count) = nodes.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                nodes.remove(node);
            }
        }
        if nodes.is_empty() {
            self.reach.remove(vertex);
        }
    }
}

/// The pod itself and everything it refers to, each once.
fn references(pod: &Pod, namespace: &str, name: &str) -> Vec<Vertex> {
    let mut out: Vec<(Kind, String)> = vec![(Kind::Pod, name.to_owned())];
    // A node can make mirror pods: they must not open anything to it.
    let mirror =
        pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"));
    if let Some(spec) = pod.spec.as_ref().filter(|_| !mirror) {
        out.extend(spec.service_account_name.clone().map(|n| (Kind::ServiceAccount, n)));
        out.extend(spec.image_pull_secrets.iter().flatten().map(|s| (Kind::Secret, s.name.clone())));
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            of_container(container, &mut out);
        }
        for e in spec.ephemeral_containers.iter().flatten() {
            let container =
                Container { env: e.env.clone(), env_from: e.env_from.clone(), ..Container::default() };
            of_container(&container, &mut out);
        }
        for volume in spec.volumes.iter().flatten() {
            of_volume(volume, name, &mut out);
        }
        let statuses = pod.status.as_ref().and_then(|s| s.resource_claim_statuses.as_ref());
        for claim in spec.resource_claims.iter().flatten() {
            let generated = statuses.into_iter().flatten().find(|s| s.name == claim.name);
            let generated = generated.and_then(|s| s.resource_claim_name.clone());
            out.extend(claim.resource_claim_name.clone().or(generated).map(|n| (Kind::ResourceClaim, n)));
        }
    }
    let mut out: Vec<Vertex> =
        out.into_iter().filter(|(_, n)| !n.is_empty()).map(|(k, n)| (k, namespace.to_owned(), n)).collect();
    out.sort();
    out.dedup();
    out
}

fn of_container(container: &Container, out: &mut Vec<(Kind, String)>) {
    for from in container.env_from.iter().flatten() {
        out.extend(from.secret_ref.iter().map(|r| (Kind::Secret, r.name.clone())));
        out.extend(from.config_map_ref.iter().map(|r| (Kind::ConfigMap, r.name.clone())));
    }
    for from in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        out.extend(from.secret_key_ref.iter().map(|r| (Kind::Secret, r.name.clone())));
        out.extend(from.config_map_key_ref.iter().map(|r| (Kind::ConfigMap, r.name.clone())));
    }
}

fn of_volume(volume: &Volume, pod: &str, out: &mut Vec<(Kind, String)>) {
    let v = volume;
    out.extend(v.secret.iter().filter_map(|s| s.secret_name.clone()).map(|n| (Kind::Secret, n)));
    out.extend(v.config_map.iter().map(|c| (Kind::ConfigMap, c.name.clone())));
    for source in v.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
        out.extend(source.secret.iter().map(|s| (Kind::Secret, s.name.clone())));
        out.extend(source.config_map.iter().map(|c| (Kind::ConfigMap, c.name.clone())));
    }
    out.extend(v.persistent_volume_claim.iter().map(|c| (Kind::Claim, c.claim_name.clone())));
    if v.ephemeral.is_some() {
        out.push((Kind::Claim, format!("{pod}-{}", v.name)));
    }
    let secret_refs = [
        v.cephfs.as_ref().and_then(|s| s.secret_ref.as_ref()),
        v.cinder.as_ref().and_then(|s| s.secret_ref.as_ref()),
        v.flex_volume.as_ref().and_then(|s| s.secret_ref.as_ref()),
        v.rbd.as_ref().and_then(|s| s.secret_ref.as_ref()),
        v.scale_io.as_ref().map(|s| &s.secret_ref),
        v.iscsi.as_ref().and_then(|s| s.secret_ref.as_ref()),
        v.storageos.as_ref().and_then(|s| s.secret_ref.as_ref()),
        v.csi.as_ref().and_then(|s| s.node_publish_secret_ref.as_ref()),
    ];
    out.extend(secret_refs.into_iter().flatten().map(|r| (Kind::Secret, r.name.clone())));
    out.extend(v.azure_file.iter().map(|s| (Kind::Secret, s.secret_name.clone())));
}
