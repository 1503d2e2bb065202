//! Fields of features that v1.36 ships switched off: the server drops them, as upstream does.

use k8s_openapi::api::core::v1::{Lifecycle, PodSpec};

/// Drops what ContainerStopSignals, GenericWorkload, ClusterTrustBundleProjection and PodCertificateRequest
/// would allow.
pub(super) fn drop_disabled(spec: &mut PodSpec) {
    spec.scheduling_group = None;
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    let lifecycles = containers.map(|c| &mut c.lifecycle);
    let ephemeral = spec.ephemeral_containers.iter_mut().flatten().map(|c| &mut c.lifecycle);
    for lifecycle in lifecycles.chain(ephemeral) {
        if lifecycle.as_mut().is_some_and(|l| l.stop_signal.take().is_some() && *l == Lifecycle::default()) {
            *lifecycle = None;
        }
    }
    let projected = spec.volumes.iter_mut().flatten().filter_map(|v| v.projected.as_mut());
    for source in projected.flat_map(|p| p.sources.iter_mut().flatten()) {
        source.cluster_trust_bundle = None;
        source.pod_certificate = None;
    }
}
