//! What the controllers see: one shared informer per kind. In tests the same informers, filled by hand.

use crate::persistentvolume::{BY_CLAIM_REF, UNBOUND, claim_ref_of, unbound_class};
use crate::plan::Target;
use crate::protection::claims_of;
use client::{Informer, Informers, Key, Options};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Affinity, ConfigMap, ContainerState, ContainerStateTerminated, Endpoints, Namespace, Node, NodeAffinity,
    PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota, Service,
    ServiceAccount, Volume,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttributesClass};

/// Index of pods, replica sets and revisions by the uid of their controller, [`ORPHANS`] where they have none.
pub const BY_CONTROLLER: &str = "controller";
/// Value of [`BY_CONTROLLER`] for objects without a controller, followed by the namespace.
pub const ORPHANS: &str = "orphans/";
/// Index of pods by their claims, as `namespace/name`.
pub const BY_CLAIM: &str = "claim";
/// Index of pods by node name.
pub const BY_NODE: &str = "node";
/// Index of endpoint slices by `namespace/service`.
pub const BY_SERVICE: &str = "service";

macro_rules! world {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = $options:expr;)*) => {
        /// The informers of the controllers.
        #[derive(Clone)]
        pub struct World {
            $($(#[$doc])* pub $field: Informer<$kind>,)*
        }

        impl World {
            /// Starts what is not watched yet. Must be called within a tokio runtime.
            pub fn watch(informers: &Informers) -> Self {
                Self { $($field: informers.of($options),)* }
            }

            /// A world without a server, to fill by hand.
            pub fn detached() -> Self {
                let world = Self { $($field: Informer::detached(),)* };
                world.index();
                world
            }

            /// Returns once a write to a kind of this world has been observed; at once for other kinds.
            pub async fn saw(&self, target: &Target, version: u64) {
                $(if *target == Target::of::<$kind>() { return self.$field.saw(version).await; })*
            }

            /// Returns once a deletion has been observed, or at least begun; at once for other kinds.
            pub async fn saw_deleted(&self, target: &Target, key: &Key, uid: &str) {
                $(if *target == Target::of::<$kind>() { return self.$field.saw_deleted(key, uid).await; })*
            }

            /// Puts or removes an object of the kind with this plural name, in simulations.
            #[cfg(test)]
            pub fn apply(&self, plural: &str, key: &Key, object: Option<serde_json::Value>) {
                use kube::Resource;
                $(if plural == <$kind>::plural(&()) {
                    match object {
                        Some(o) => self.$field.put(serde_json::from_value(o).unwrap()),
                        None => self.$field.remove(key),
                    }
                    return;
                })*
            }
        }
    };
}

world! {
    pods: Pod = Options::all().transform(trim_pod)
        .index(BY_CONTROLLER, controller_of).index(BY_NODE, node_of).index(BY_CLAIM, claims_of);
    replica_sets: ReplicaSet = Options::all().index(BY_CONTROLLER, controller_of);
    deployments: Deployment = Options::all();
    daemon_sets: DaemonSet = Options::all();
    stateful_sets: StatefulSet = Options::all();
    controller_revisions: ControllerRevision = Options::all().index(BY_CONTROLLER, controller_of);
    jobs: Job = Options::all().index(BY_CONTROLLER, controller_of);
    cron_jobs: CronJob = Options::all();
    budgets: PodDisruptionBudget = Options::all();
    claims: PersistentVolumeClaim = Options::all().index(UNBOUND, unbound_class);
    volumes: PersistentVolume = Options::all().index(BY_CLAIM_REF, claim_ref_of);
    storage_classes: StorageClass = Options::all();
    attributes_classes: VolumeAttributesClass = Options::all();
    quotas: ResourceQuota = Options::all();
    replication_controllers: ReplicationController = Options::all();
    services: Service = Options::all();
    endpoints: Endpoints = Options::all();
    endpoint_slices: EndpointSlice = Options::all().index(BY_SERVICE, service_of);
    namespaces: Namespace = Options::all();
    nodes: Node = Options::all().transform(trim_node);
    /// Of the nodes only.
    leases: Lease = Options::all().namespace("kube-node-lease");
    service_accounts: ServiceAccount = Options::all().fields("metadata.name=default");
    /// The published root certificate only.
    config_maps: ConfigMap = Options::all().fields("metadata.name=kube-root-ca.crt");
    cluster_roles: ClusterRole = Options::all();
}

impl World {
    fn index(&self) {
        self.pods.add_index(BY_CONTROLLER, controller_of);
        self.pods.add_index(BY_NODE, node_of);
        self.pods.add_index(BY_CLAIM, claims_of);
        self.replica_sets.add_index(BY_CONTROLLER, controller_of);
        self.controller_revisions.add_index(BY_CONTROLLER, controller_of);
        self.jobs.add_index(BY_CONTROLLER, controller_of);
        self.endpoint_slices.add_index(BY_SERVICE, service_of);
        self.claims.add_index(UNBOUND, unbound_class);
        self.volumes.add_index(BY_CLAIM_REF, claim_ref_of);
    }
}

fn controller_of<K: kube::Resource>(object: &K) -> Vec<String> {
    let m = object.meta();
    let controller = m.owner_references.iter().flatten().find(|r| r.controller == Some(true));
    vec![match controller {
        Some(r) => r.uid.clone(),
        None => format!("{ORPHANS}{}", m.namespace.as_deref().unwrap_or("")),
    }]
}

fn node_of(pod: &Pod) -> Vec<String> {
    pod.spec.as_ref().and_then(|s| s.node_name.clone()).into_iter().collect()
}

fn service_of(slice: &EndpointSlice) -> Vec<String> {
    let m = &slice.metadata;
    let service = m.labels.as_ref().and_then(|l| l.get(meta::labels::SERVICE_NAME));
    service.map(|s| format!("{}/{s}", m.namespace.as_deref().unwrap_or(""))).into_iter().collect()
}

/// Of pods.
const KEPT_ANNOTATIONS: [&str; 4] = [
    "controller.kubernetes.io/pod-deletion-cost",
    crate::job::INDEX,
    crate::job::INDEX_FAILURES,
    crate::job::IGNORED_INDEX_FAILURES,
];

/// Pods are patched and deleted here, never replaced: what no controller reads is not kept.
fn trim_pod(pod: &mut Pod) {
    if let Some(a) = &mut pod.metadata.annotations {
        a.retain(|k, _| KEPT_ANNOTATIONS.contains(&k.as_str()));
    }
    if let Some(spec) = &mut pod.spec {
        for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            let kept = k8s_openapi::api::core::v1::Container {
                name: std::mem::take(&mut c.name),
                ports: c.ports.take(),
                restart_policy: c.restart_policy.take(),
                ..Default::default()
            };
            *c = kept;
        }
        let unbound = spec.node_name.is_none();
        *spec = k8s_openapi::api::core::v1::PodSpec {
            containers: std::mem::take(&mut spec.containers),
            init_containers: spec.init_containers.take(),
            node_name: spec.node_name.take(),
            hostname: spec.hostname.take(),
            subdomain: spec.subdomain.take(),
            host_network: spec.host_network,
            restart_policy: spec.restart_policy.take(),
            tolerations: spec.tolerations.take(),
            active_deadline_seconds: spec.active_deadline_seconds,
            affinity: spec.affinity.take().filter(|_| unbound).and_then(required_nodes),
            volumes: spec.volumes.take().map(claimed_volumes).filter(|v| !v.is_empty()),
            ..Default::default()
        };
    }
    if let Some(status) = &mut pod.status {
        status.ephemeral_container_statuses = None;
        status.resource_claim_statuses = None;
        for c in status
            .container_statuses
            .iter_mut()
            .flatten()
            .chain(status.init_container_statuses.iter_mut().flatten())
        {
            let kept = k8s_openapi::api::core::v1::ContainerStatus {
                name: std::mem::take(&mut c.name),
                restart_count: c.restart_count,
                resources: c.resources.take(),
                state: c.state.take().and_then(ended),
                ..Default::default()
            };
            *c = kept;
        }
    }
}

/// How and when a container ended; None where it has not.
fn ended(state: ContainerState) -> Option<ContainerState> {
    let terminated = state.terminated.map(|t| ContainerStateTerminated {
        exit_code: t.exit_code,
        finished_at: t.finished_at,
        ..Default::default()
    });
    terminated.map(|t| ContainerState { terminated: Some(t), ..Default::default() })
}

/// Which nodes a pod is meant for: a daemon's pod that waits for the scheduler says so here.
fn required_nodes(affinity: Affinity) -> Option<Affinity> {
    let required = affinity.node_affinity?.required_during_scheduling_ignored_during_execution?;
    let node_affinity = Some(NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(required),
        ..Default::default()
    });
    Some(Affinity { node_affinity, ..Default::default() })
}

/// The volumes that are persistent, and those that have a claim of their own.
fn claimed_volumes(volumes: Vec<Volume>) -> Vec<Volume> {
    volumes.into_iter().filter(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some()).collect()
}

/// Nodes are patched here, never replaced.
fn trim_node(node: &mut k8s_openapi::api::core::v1::Node) {
    if let Some(status) = &mut node.status {
        status.images = None;
        status.volumes_attached = None;
        status.volumes_in_use = None;
    }
}
