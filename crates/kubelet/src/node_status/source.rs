//! The shell around the report: facts gathered, status made.

use std::path::PathBuf;
use std::sync::Arc;

use cri::{ImageApi, RuntimeApi};
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::NodeStatus;

use super::{Conditions, Report, Settings, gather, report};
use crate::eviction::Pressure;
use crate::eviction::threshold::Condition;
use crate::node::StatusSource;

/// Where a kubelet's node status comes from.
pub struct Source {
    pub runtime: Arc<dyn RuntimeApi>,
    pub images: Arc<dyn ImageApi>,
    /// The kubelet's directory, whose file system is the node's.
    pub kubelet_dir: PathBuf,
    pub pressure: Arc<Pressure>,
    pub settings: Settings,
}

impl StatusSource for Source {
    fn report(&self, previous: &NodeStatus, now: meta::Time) -> BoxFuture<'_, Report> {
        let previous = previous.clone();
        async move {
            let mut facts = gather(self.runtime.as_ref(), self.images.as_ref(), &self.kubelet_dir).await;
            facts.pressure = Conditions {
                memory: self.pressure.has(Condition::Memory),
                disk: self.pressure.has(Condition::Disk),
                pid: self.pressure.has(Condition::Pid),
            };
            let known = previous.conditions.is_some().then_some(&previous);
            report(known, &facts, &self.settings, now)
        }
        .boxed()
    }
}
