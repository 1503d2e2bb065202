//! Prefers nodes that hold the pod's images already, the more so the larger and the more widespread they are.

use crate::framework::{BoxedScorer, MAX_NODE_SCORE, Plugin, Scorer};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// Bytes. Images smaller than this together do not count, ...
const MIN_THRESHOLD: i64 = 23 * 1024 * 1024;
/// ... and more than this for each container counts no more.
const MAX_CONTAINER_THRESHOLD: i64 = 1000 * 1024 * 1024;

pub struct ImageLocality;

struct Images {
    /// Each image with the share of nodes that hold it.
    images: Vec<(String, f64)>,
    containers: i64,
}

impl Scorer for Images {
    fn score(&self, node: &NodeInfo) -> i64 {
        let sum: i64 = self
            .images
            .iter()
            .filter_map(|(name, spread)| Some((*node.images.get(name)? as f64 * spread) as i64))
            .sum();
        let max = MAX_CONTAINER_THRESHOLD * self.containers;
        MAX_NODE_SCORE * (sum.clamp(MIN_THRESHOLD, max.max(MIN_THRESHOLD)) - MIN_THRESHOLD)
            / (max - MIN_THRESHOLD).max(1)
    }
}

/// An image without a tag means its `latest`.
fn normalized(name: &str) -> String {
    if name.rfind(':') <= name.rfind('/') { format!("{name}:latest") } else { name.to_owned() }
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn wakes(&self) -> u32 {
        0
    }

    fn pre_score<'a>(
        &self,
        pod: &'a PodInfo,
        cluster: &'a Snapshot,
        _: &[&NodeInfo],
    ) -> Option<BoxedScorer<'a>> {
        let volumes = pod.spec()?.volumes.iter().flatten();
        let of_volumes = volumes.filter_map(|v| v.image.as_ref()?.reference.as_deref());
        let of_containers = pod.containers().filter_map(|c| c.image.as_deref());
        let total = cluster.node_count().max(1) as f64;
        let images: Vec<(String, f64)> = of_containers
            .chain(of_volumes)
            .map(normalized)
            .map(|name| {
                let spread = cluster.image_nodes(&name) as f64 / total;
                (name, spread)
            })
            .filter(|(_, spread)| *spread > 0.0)
            .collect();
        let containers = pod.containers().count() as i64;
        (!images.is_empty()).then(|| Box::new(Images { images, containers }) as BoxedScorer)
    }
}
