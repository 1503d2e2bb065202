//! The plugins, one module each, and the profile that upstream runs by default.
//!
//! A new plugin is one new file and one line in [`default_profile`].

pub mod balanced_allocation;
pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_unschedulable;
pub mod node_volume_limits;
pub mod pod_topology_spread;
pub mod resources_fit;
pub mod scheduling_gates;
pub mod taint_toleration;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

use crate::cycle::Profile;

/// Plugins in the order in which they are asked, with the weights of their scores
/// (upstream's `getDefaultPlugins`).
pub fn default_profile() -> Profile {
    Profile::new(vec![
        (Box::new(scheduling_gates::SchedulingGates), 0),
        (Box::new(node_unschedulable::NodeUnschedulable), 0),
        (Box::new(node_name::NodeName), 0),
        (Box::new(taint_toleration::TaintToleration), 3),
        (Box::new(node_affinity::NodeAffinity), 2),
        (Box::new(node_ports::NodePorts), 0),
        (Box::new(resources_fit::NodeResourcesFit), 1),
        (Box::new(volume_restrictions::VolumeRestrictions), 0),
        (Box::new(node_volume_limits::NodeVolumeLimits), 0),
        (Box::new(volume_binding::VolumeBinding), 0),
        (Box::new(volume_zone::VolumeZone), 0),
        (Box::new(pod_topology_spread::PodTopologySpread), 2),
        (Box::new(inter_pod_affinity::InterPodAffinity), 2),
        (Box::new(balanced_allocation::NodeResourcesBalancedAllocation), 1),
        (Box::new(image_locality::ImageLocality), 1),
    ])
}
