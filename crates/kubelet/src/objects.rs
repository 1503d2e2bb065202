//! The objects a pod refers to, in hand: the cores read values from here and never ask the API.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, Volume,
};

use crate::sync::{ephemeral_containers, init_containers};

/// Names of what a pod refers to in its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
    pub claims: BTreeSet<String>,
}

/// A claim, and the volume that it names if there is one.
#[derive(Clone, Debug)]
pub struct Claim {
    pub claim: Arc<PersistentVolumeClaim>,
    pub volume: Option<Arc<PersistentVolume>>,
}

/// What the names stand for; `None` for what does not exist.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    pub secrets: BTreeMap<String, Option<Arc<Secret>>>,
    /// Services of all namespaces, as far as they are known.
    pub services: Vec<Arc<Service>>,
    /// Service account tokens by (volume, path).
    pub tokens: BTreeMap<(String, String), String>,
    pub claims: BTreeMap<String, Option<Claim>>,
}

impl Objects {
    pub fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.config_maps.get(name)?.as_deref()
    }

    pub fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name)?.as_deref()
    }
}

/// What the pod's containers, volumes and image pulls refer to.
pub fn references(pod: &Pod) -> References {
    let mut refs = References::default();
    let Some(spec) = &pod.spec else { return refs };
    let ephemeral = ephemeral_containers(pod);
    for container in spec.containers.iter().chain(init_containers(pod)).chain(&ephemeral) {
        of_container(container, &mut refs);
    }
    for volume in spec.volumes.iter().flatten() {
        of_volume(pod, volume, &mut refs);
    }
    refs.secrets
        .extend(spec.image_pull_secrets.iter().flatten().map(|s| s.name.clone()).filter(|n| !n.is_empty()));
    refs
}

fn of_container(container: &Container, refs: &mut References) {
    for from in container.env_from.iter().flatten() {
        refs.config_maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
        refs.secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        refs.config_maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
        refs.secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
    }
}

/// The name of the claim that a volume is of, if it is of one.
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    let own = || {
        volume.ephemeral.as_ref()?;
        Some(meta::volumes::ephemeral_claim_name(pod.metadata.name.as_deref()?, &volume.name))
    };
    volume.persistent_volume_claim.as_ref().map(|s| s.claim_name.clone()).or_else(own)
}

fn of_volume(pod: &Pod, volume: &Volume, refs: &mut References) {
    refs.config_maps.extend(volume.config_map.iter().map(|s| s.name.clone()));
    refs.claims.extend(claim_name(pod, volume));
    refs.secrets.extend(volume.secret.iter().filter_map(|s| s.secret_name.clone()));
    for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
        refs.config_maps.extend(source.config_map.iter().map(|s| s.name.clone()));
        refs.secrets.extend(source.secret.iter().map(|s| s.name.clone()));
    }
}
