//! Disks that only one pod may write keep other pods off their node; a claim that only one pod may use keeps
//! other pods out of the cluster until it is free.

use crate::framework::{Event, Filter, Plugin, PreFilter, Refusal, Verdict, wakes};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use client::Key;
use k8s_openapi::api::core::v1::Volume;

pub struct VolumeRestrictions;

const DISK_TAKEN: &str = "node(s) had no available disk";
const CLAIM_TAKEN: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
const READ_WRITE_ONCE_POD: &str = "ReadWriteOncePod";

/// Whether two volumes are the same disk, and not all of it is read only.
fn conflict(a: &Volume, b: &Volume) -> bool {
    let both_read = |a: Option<bool>, b: Option<bool>| a == Some(true) && b == Some(true);
    if let (Some(a), Some(b)) = (&a.gce_persistent_disk, &b.gce_persistent_disk)
        && a.pd_name == b.pd_name
        && !both_read(a.read_only, b.read_only)
    {
        return true;
    }
    if let (Some(a), Some(b)) = (&a.aws_elastic_block_store, &b.aws_elastic_block_store)
        && a.volume_id == b.volume_id
    {
        return true;
    }
    if let (Some(a), Some(b)) = (&a.iscsi, &b.iscsi)
        && a.iqn == b.iqn
        && !both_read(a.read_only, b.read_only)
    {
        return true;
    }
    if let (Some(a), Some(b)) = (&a.rbd, &b.rbd) {
        return a.monitors.iter().any(|m| b.monitors.contains(m))
            && a.pool == b.pool
            && a.image == b.image
            && !both_read(a.read_only, b.read_only);
    }
    false
}

fn disks_conflict(pod: &PodInfo, other: &PodInfo) -> bool {
    pod.has_exclusive_disks
        && other.has_exclusive_disks
        && pod.volumes().iter().any(|a| other.volumes().iter().any(|b| conflict(a, b)))
}

#[derive(Clone)]
struct Restricted<'a> {
    pod: &'a PodInfo,
    /// The pod's claims that only one pod may use.
    exclusive: Vec<&'a Key>,
    /// How often pods on nodes use them.
    in_use: i64,
}

impl<'a> Filter<'a> for Restricted<'a> {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if self.pod.has_exclusive_disks && node.pods.iter().any(|p| disks_conflict(self.pod, p)) {
            return Err(Refusal::preemptible(DISK_TAKEN));
        }
        if self.in_use > 0 {
            return Err(Refusal::preemptible(CLAIM_TAKEN));
        }
        Ok(())
    }

    fn count_pod(&mut self, pod: &PodInfo, _: &NodeInfo, by: i64) {
        let uses = pod.claims.iter().filter(|c| !c.ephemeral && self.exclusive.contains(&&c.key)).count();
        self.in_use += by * uses as i64;
    }
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn wakes(&self) -> u32 {
        wakes::POD_GONE | wakes::NODE_ADDED | wakes::CLAIM
    }

    fn could_help(&self, pod: &PodInfo, event: &Event<'_>) -> bool {
        match event {
            Event::NodeAdded(_) => true,
            Event::PodGone(gone) => {
                let shared = |c: &crate::pod::PodClaim| !c.ephemeral && gone.claims.contains(c);
                gone.key.namespace == pod.key.namespace
                    && (disks_conflict(pod, gone) || pod.claims.iter().any(shared))
            }
            Event::Claim(claim, None) => pod.uses_claim(claim),
            _ => false,
        }
    }

    fn pre_filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Snapshot) -> PreFilter<'a> {
        let mut exclusive = Vec::new();
        for claim in pod.claims.iter().filter(|c| !c.ephemeral) {
            let Some(known) = cluster.volumes.claim(&claim.key) else {
                let name = &claim.key.name;
                return PreFilter::Refuse(Refusal::lasting(format!(
                    "persistentvolumeclaim \"{name}\" not found"
                )));
            };
            let modes = known.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
            if modes.iter().any(|m| m == READ_WRITE_ONCE_POD) && !exclusive.contains(&&claim.key) {
                exclusive.push(&claim.key);
            }
        }
        let in_use = exclusive.iter().filter(|c| cluster.is_claim_used(c)).count() as i64;
        if !pod.has_exclusive_disks && in_use == 0 {
            return PreFilter::Skip;
        }
        PreFilter::run(Restricted { pod, exclusive, in_use })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(a: Value, b: Value, expect: bool) {
        let volume = |mut v: Value| -> Volume {
            v["name"] = json!("v");
            serde_json::from_value(v).unwrap()
        };
        let (a, b) = (volume(a), volume(b));
        assert_eq!((conflict(&a, &b), conflict(&b, &a)), (expect, expect));
    }

    #[test]
    fn a_disk_has_one_writer() {
        let gce = |name: &str, ro: bool| json!({"gcePersistentDisk": {"pdName": name, "readOnly": ro}});
        check(gce("a", false), gce("a", true), true);
        check(gce("a", true), gce("a", true), false);
        check(gce("a", false), gce("b", false), false);
        let ebs = |id: &str| json!({"awsElasticBlockStore": {"volumeID": id, "readOnly": true}});
        check(ebs("a"), ebs("a"), true);
        check(ebs("a"), gce("a", false), false);
        let iscsi = |iqn: &str, ro: bool| json!({"iscsi": {"iqn": iqn, "lun": 0, "targetPortal": "p", "readOnly": ro}});
        check(iscsi("a", false), iscsi("a", false), true);
        check(iscsi("a", true), iscsi("a", true), false);
        let rbd = |monitors: &[&str], image: &str| json!({"rbd": {"monitors": monitors, "image": image, "pool": "rbd"}});
        check(rbd(&["a", "b"], "i"), rbd(&["b", "c"], "i"), true);
        check(rbd(&["a"], "i"), rbd(&["c"], "i"), false);
        check(rbd(&["a"], "i"), rbd(&["a"], "j"), false);
    }
}
