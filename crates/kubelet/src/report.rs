//! Writes a pod's status to the API: only what changed, the newest first, one write at a time.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

/// Pause after a failed write, doubling up to the limit.
const RETRY: Duration = Duration::from_millis(200);
const MAX_RETRY: Duration = Duration::from_secs(10);

/// The status writer of one pod. Ends when it is dropped.
pub struct Reporter {
    wanted: watch::Sender<u64>,
    latest: Arc<parking_lot::Mutex<PodStatus>>,
    written: watch::Receiver<u64>,
}

impl Reporter {
    /// Starts the writer for the pod, whose status the API has as it is in `pod`.
    pub fn start(client: Client, pod: &Pod) -> Self {
        let (wanted, wanted_rx) = watch::channel(0);
        let (written_tx, written) = watch::channel(0);
        let current = pod.status.clone().unwrap_or_default();
        let latest = Arc::new(parking_lot::Mutex::new(current.clone()));
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let writer = Writer {
            pods: Api::namespaced(client, namespace),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            latest: latest.clone(),
            current,
        };
        tokio::spawn(writer.run(wanted_rx, written_tx));
        Self { wanted, latest, written }
    }

    /// Has this status written soon; a newer one overtakes it.
    pub fn report(&self, status: &PodStatus) {
        let mut latest = self.latest.lock();
        if &*latest == status {
            return;
        }
        latest.clone_from(status);
        drop(latest);
        self.wanted.send_modify(|n| *n += 1);
    }

    /// Returns when everything reported so far is written, or cannot be written any more.
    pub async fn flushed(&self) {
        let target = *self.wanted.borrow();
        let _ = self.written.clone().wait_for(|n| *n >= target).await;
    }
}

struct Writer {
    pods: Api<Pod>,
    name: String,
    uid: String,
    latest: Arc<parking_lot::Mutex<PodStatus>>,
    /// What the API has.
    current: PodStatus,
}

impl Writer {
    async fn run(mut self, mut wanted: watch::Receiver<u64>, written: watch::Sender<u64>) {
        while wanted.changed().await.is_ok() {
            let mut pause = RETRY;
            loop {
                let number = *wanted.borrow_and_update();
                let status = self.latest.lock().clone();
                match self.write(&status).await {
                    Ok(()) => {
                        written.send_replace(number);
                        break;
                    }
                    Err(e) if self.is_gone(&e).await => {
                        // the pod is gone: nobody wants to know any more
                        written.send_replace(u64::MAX);
                        return;
                    }
                    Err(e) => {
                        tracing::warn!(pod = self.name, error = %e, "a pod's status cannot be written yet");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(MAX_RETRY);
                        if wanted.has_changed().is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Whether the refusal says that the pod is gone, or that another one has its name.
    async fn is_gone(&self, error: &kube::Error) -> bool {
        if !client::is_conflict(error) {
            return client::is_not_found(error);
        }
        match self.pods.get_metadata_opt(&self.name).await {
            Ok(Some(pod)) => pod.metadata.uid.as_deref() != Some(&self.uid),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    async fn write(&mut self, status: &PodStatus) -> Result<(), kube::Error> {
        let Some(changes) = changes(&self.current, status) else { return Ok(()) };
        let patch = json!({"metadata": {"uid": self.uid}, "status": changes});
        self.pods.patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        self.current.clone_from(status);
        Ok(())
    }
}

/// The fields of the status that changed, as a strategic merge patch; `None` if there are none.
pub fn changes(old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (old, new) = (to_map(old), to_map(new));
    let mut patch = Map::new();
    for (key, value) in &new {
        if old.get(key) == Some(value) {
            continue;
        }
        let value = match key.as_str() {
            "conditions" => changed_conditions(old.get(key), value),
            // lists that the API merges by address: what is meant is all of it
            "podIPs" | "hostIPs" if old.contains_key(key) => with_directive(value),
            _ => value.clone(),
        };
        patch.insert(key.clone(), value);
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn to_map(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// Conditions are merged by type: those that did not change are left out, so that what others wrote
/// meanwhile stays.
fn changed_conditions(old: Option<&Value>, new: &Value) -> Value {
    let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let list = new.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut changed = Vec::new();
    for condition in list.iter().filter(|c| !old.contains(c)) {
        let mut condition = condition.clone();
        // a reason or message that is gone must be said to be gone
        let before = old.iter().find(|o| o["type"] == condition["type"]);
        if let (Some(Value::Object(before)), Value::Object(now)) = (before, &mut condition) {
            for key in before.keys() {
                now.entry(key.clone()).or_insert(Value::Null);
            }
        }
        changed.push(condition);
    }
    // a resize that is over is told by the absence of its conditions
    let gone = old.iter().filter(|o| !list.iter().any(|n| n["type"] == o["type"]));
    changed.extend(gone.map(|o| json!({"type": o["type"], "$patch": "delete"})));
    Value::Array(changed)
}

fn with_directive(list: &Value) -> Value {
    let mut items = list.as_array().cloned().unwrap_or_default();
    items.push(json!({"$patch": "replace"}));
    Value::Array(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_written() {
        #[track_caller]
        fn check(old: Value, new: Value, expect: Value) {
            let status = |v| serde_json::from_value::<PodStatus>(v).unwrap();
            assert_eq!(changes(&status(old), &status(new)).unwrap_or(Value::Null), expect);
        }
        check(json!({"phase": "Running"}), json!({"phase": "Running"}), Value::Null);
        check(
            json!({"phase": "Pending", "reason": "X"}),
            json!({"phase": "Running"}),
            json!({"phase": "Running", "reason": null}),
        );
        check(
            json!({"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "False", "reason": "R"}]}),
            json!({"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}),
            json!({"conditions": [{"type": "B", "status": "True", "reason": null}]}),
        );
        check(
            json!({"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}),
            json!({"conditions": [{"type": "A", "status": "True"}]}),
            json!({"conditions": [{"type": "B", "$patch": "delete"}]}),
        );
        check(json!({}), json!({"podIPs": [{"ip": "a"}]}), json!({"podIPs": [{"ip": "a"}]}));
        check(
            json!({"podIPs": [{"ip": "a"}]}),
            json!({"podIPs": [{"ip": "b"}]}),
            json!({"podIPs": [{"ip": "b"}, {"$patch": "replace"}]}),
        );
    }
}
