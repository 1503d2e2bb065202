//! Each built-in kind's behaviour, declared once: names, scope, defaults, validation, who may write what,
//! subresources, selectable fields and printer columns. Routes, discovery, OpenAPI, tables, selectors and
//! garbage collection follow from the declaration.
//!
//! A new kind is one new file and one line in [`ALL`].

pub mod apps;
pub mod batch;
pub mod cluster_role;
pub mod cluster_role_binding;
pub mod component_status;
pub mod config_map;
pub mod core;
pub mod csi_driver;
pub mod csi_node;
pub mod csi_storage_capacity;
mod diff;
pub mod endpoint_slice;
pub mod endpoints;
pub mod event;
pub mod events_event;
pub mod ingress;
pub mod ingress_class;
pub mod ip_address;
pub mod kind;
pub mod lease;
pub mod limit_range;
pub mod namespace;
pub mod network_policy;
pub mod node;
pub mod object;
pub mod persistent_volume;
pub mod persistent_volume_claim;
pub mod pod_disruption_budget;
pub mod pod_spec;
pub mod priority_class;
pub mod quota;
pub mod rbac;
pub mod resource_quota;
pub mod resources;
pub mod role;
pub mod role_binding;
pub mod runtime_class;
pub mod secret;
pub mod service;
pub mod service_account;
pub mod service_cidr;
pub mod storage_class;
pub mod strategy;
mod support;
pub mod volume_attachment;
pub mod volume_attributes_class;
pub mod warnings;

pub use kind::*;
pub use object::{AnyKind, AnyObject, Object};

/// Every built-in kind that is stored.
pub static ALL: &[&dyn AnyKind] = &[
    &namespace::NAMESPACE,
    &node::NODE,
    &core::POD,
    &core::POD_TEMPLATE,
    &core::REPLICATION_CONTROLLER,
    &apps::DEPLOYMENT,
    &apps::REPLICA_SET,
    &apps::STATEFUL_SET,
    &apps::DAEMON_SET,
    &apps::CONTROLLER_REVISION,
    &batch::JOB,
    &batch::CRON_JOB,
    &service::SERVICE,
    &endpoints::ENDPOINTS,
    &config_map::CONFIG_MAP,
    &secret::SECRET,
    &service_account::SERVICE_ACCOUNT,
    &persistent_volume::PERSISTENT_VOLUME,
    &persistent_volume_claim::PERSISTENT_VOLUME_CLAIM,
    &limit_range::LIMIT_RANGE,
    &resource_quota::RESOURCE_QUOTA,
    &event::EVENT,
    &events_event::EVENTS_EVENT,
    &endpoint_slice::ENDPOINT_SLICE,
    &lease::LEASE,
    &priority_class::PRIORITY_CLASS,
    &storage_class::STORAGE_CLASS,
    &csi_node::CSI_NODE,
    &csi_driver::CSI_DRIVER,
    &volume_attachment::VOLUME_ATTACHMENT,
    &csi_storage_capacity::CSI_STORAGE_CAPACITY,
    &volume_attributes_class::VOLUME_ATTRIBUTES_CLASS,
    &pod_disruption_budget::POD_DISRUPTION_BUDGET,
    &runtime_class::RUNTIME_CLASS,
    &ingress::INGRESS,
    &ingress_class::INGRESS_CLASS,
    &network_policy::NETWORK_POLICY,
    &ip_address::IP_ADDRESS,
    &service_cidr::SERVICE_CIDR,
    &role::ROLE,
    &role_binding::ROLE_BINDING,
    &cluster_role::CLUSTER_ROLE,
    &cluster_role_binding::CLUSTER_ROLE_BINDING,
];

/// The kind that serves a resource, if it is built in.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static dyn AnyKind> {
    ALL.iter().copied().find(|k| {
        let info = k.info();
        info.gvk.group == group && info.gvk.version == version && info.names.plural == plural
    })
}
