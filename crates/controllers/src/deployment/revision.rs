//! The annotations that deployments keep on their replica sets: revision, its history, and the sizes that
//! proportional scaling compares.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of the deployment that its replica sets do not inherit.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// Bound of the history annotation in bytes: the oldest go first.
const MAX_HISTORY_BYTES: usize = 2000;

/// 0 where there is none or it is no number.
pub(super) fn revision_of(set: &ReplicaSet) -> i64 {
    let a = set.metadata.annotations.as_ref();
    a.and_then(|a| a.get(REVISION)).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Copies the deployment's annotations and raises the revision; whether anything changed.
pub(super) fn set_annotations(deployment: &Deployment, set: &mut ObjectMeta, next: i64) -> bool {
    let annotations = set.annotations.get_or_insert_default();
    let mut changed = false;
    for (k, v) in deployment.metadata.annotations.iter().flatten() {
        if !OWN.contains(&k.as_str()) && annotations.get(k) != Some(v) {
            annotations.insert(k.clone(), v.clone());
            changed = true;
        }
    }
    let was = annotations.get(REVISION).cloned();
    let number = match was.as_deref() {
        None | Some("") => 0,
        Some(text) => match text.parse() {
            Ok(n) => n,
            // Somebody else's: left alone.
            Err(_) => return changed,
        },
    };
    if number >= next {
        return changed;
    }
    annotations.insert(REVISION.into(), next.to_string());
    if let Some(was) = was {
        // Rolled back to: the earlier numbers stay known.
        let history = annotations.get(HISTORY).cloned().unwrap_or_default();
        let mut numbers: Vec<&str> = history.split(',').filter(|n| !n.is_empty()).collect();
        numbers.push(&was);
        while numbers.len() > 1 && numbers.join(",").len() > MAX_HISTORY_BYTES {
            numbers.remove(0);
        }
        annotations.insert(HISTORY.into(), numbers.join(","));
    }
    true
}

/// Records the sizes that the deployment has now; whether anything changed.
pub(super) fn set_sizes(set: &mut ObjectMeta, desired: i32, max: i32) -> bool {
    let annotations = set.annotations.get_or_insert_default();
    let mut changed = false;
    for (name, value) in [(DESIRED, desired.to_string()), (MAX, max.to_string())] {
        if annotations.get(name) != Some(&value) {
            annotations.insert(name.into(), value);
            changed = true;
        }
    }
    changed
}
