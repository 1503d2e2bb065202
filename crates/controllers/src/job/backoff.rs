//! How long a job waits before it replaces pods that failed.

use crate::pods::condition;
use client::Key;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::SignedDuration;
use meta::Time;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

const FIRST_DELAY: SignedDuration = SignedDuration::from_secs(10);
const MAX_DELAY: SignedDuration = SignedDuration::from_mins(10);

/// Failures since the last success, by job.
#[derive(Default)]
pub(super) struct Failures(Mutex<HashMap<Key, Record>>);

#[derive(Clone, Default)]
struct Record {
    uid: Option<String>,
    failures: i32,
    last: Option<Time>,
    /// Uids of ended pods that are counted here and not yet in the job's status: a write that failed must not count
    /// them twice.
    counted: HashSet<String>,
}

impl Failures {
    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }

    /// Counts pods that have ended and are not in the status yet; until when new pods must wait.
    pub fn count(
        &self,
        key: &Key,
        uid: Option<&String>,
        succeeded: &[&Arc<Pod>],
        failed: &[&Arc<Pod>],
    ) -> Option<Time> {
        let mut all = self.0.lock();
        let record = all.entry(key.clone()).or_default();
        if record.uid.as_ref() != uid {
            *record = Record { uid: uid.cloned(), ..Record::default() };
        }
        let uid_of = |p: &Pod| p.metadata.uid.clone().unwrap_or_default();
        let fresh = |pods: &[&Arc<Pod>], counted: &HashSet<String>| -> Vec<Time> {
            let mut ends: Vec<Time> =
                pods.iter().filter(|p| !counted.contains(&uid_of(p))).map(|p| ended_at(p)).collect();
            ends.sort_unstable();
            ends
        };
        let successes = fresh(succeeded, &record.counted);
        let mut failures = fresh(failed, &record.counted);
        if let Some(success) = successes.last() {
            (record.failures, record.last) = (0, None);
            failures.retain(|t| t > success);
        }
        record.failures = record.failures.saturating_add(failures.len().try_into().unwrap_or(i32::MAX));
        record.last = failures.last().copied().or(record.last);
        record.counted = succeeded.iter().chain(failed).map(|p| uid_of(p)).collect();
        record.last.map(|last| last + delay(record.failures))
    }
}

/// How long to wait after so many failures in a row.
fn delay(failures: i32) -> SignedDuration {
    let doublings = u32::try_from(failures - 1).unwrap_or(0);
    let factor = 1i32.checked_shl(doublings).filter(|_| doublings < 30).unwrap_or(i32::MAX);
    FIRST_DELAY.checked_mul(factor).unwrap_or(MAX_DELAY).min(MAX_DELAY)
}

/// Until when the replacement of a failed pod must wait, which was the so many-th of its index.
pub(super) fn until(pod: &Pod, failures: i32) -> Time {
    ended_at(pod) + delay(failures)
}

/// When a pod ended: as its containers say; else when it was no longer ready; else when it was deleted.
pub(super) fn ended_at(pod: &Pod) -> Time {
    let not_ready = condition(pod, "Ready").filter(|c| c.status == "False");
    let deleted =
        pod.metadata.deletion_timestamp.as_ref().map(|t| {
            t.0 - SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0))
        });
    containers_ended_at(pod)
        .or_else(|| not_ready?.last_transition_time.as_ref().map(|t| t.0))
        .or(deleted)
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|t| t.0))
        .unwrap_or(Time::UNIX_EPOCH)
}

/// None where a container, or a sidecar, has not ended.
fn containers_ended_at(pod: &Pod) -> Option<Time> {
    let status = pod.status.as_ref()?;
    let init = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
    let sidecars: HashSet<&str> =
        init.filter(|c| c.restart_policy.as_deref() == Some("Always")).map(|c| c.name.as_str()).collect();
    let of_sidecars = status.init_container_statuses.iter().flatten();
    let of_sidecars = of_sidecars.filter(|s| sidecars.contains(s.name.as_str()));
    let end = |s: &ContainerStatus| Some(s.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0);
    let ends: Option<Vec<Time>> =
        status.container_statuses.iter().flatten().chain(of_sidecars).map(end).collect();
    ends?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, second: u32) -> Arc<Pod> {
        let end = format!("2026-01-01T00:00:{second:02}Z");
        let status = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 1, "finishedAt": end}}});
        let pod = json!({"metadata": {"uid": uid}, "status": {"containerStatuses": [status]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn delays_grow_with_failures_and_end_with_a_success() {
        let failures = Failures::default();
        let (key, uid) = (Key::new("ns", "j"), Some("u".to_owned()));
        let count = |succeeded: &[&Arc<Pod>], failed: &[&Arc<Pod>]| {
            failures.count(&key, uid.as_ref(), succeeded, failed).map(|t| t.to_string())
        };
        let (a, b, c, d) = (pod("a", 1), pod("b", 2), pod("c", 5), pod("d", 7));
        assert_eq!(count(&[], &[&a]).unwrap(), "2026-01-01T00:00:11Z");
        // seen again, because the status was not written
        assert_eq!(count(&[], &[&a]).unwrap(), "2026-01-01T00:00:11Z");
        assert_eq!(count(&[], &[&a, &b]).unwrap(), "2026-01-01T00:00:22Z");
        assert_eq!(count(&[], &[]).unwrap(), "2026-01-01T00:00:22Z");
        assert_eq!(count(&[&c], &[]), None);
        assert_eq!(count(&[], &[&d]).unwrap(), "2026-01-01T00:00:17Z");
        let other = Some("v".to_owned());
        assert_eq!(failures.count(&key, other.as_ref(), &[], &[]), None);
        assert_eq!([1, 2, 6, 7, 99].map(|n| delay(n).as_secs()), [10, 20, 320, 600, 600]);
    }
}
