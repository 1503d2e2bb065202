//! All pods of the node: one actor each, from the API's pods, from the runtime's, and from files.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use client::Informer;
use cri::{RuntimeApi, v1};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use crate::actor::{self, Desired, Handle, Input};
use crate::admission::{admit, refuse, requests};
use crate::container_config::labels;
use crate::qos::qos_class;
use crate::resizing::{read_allocation, write_allocation};
use crate::shared::Shared;
use crate::static_pods::is_mirror;
use crate::sync::Failure;
use crate::sync::resize::{Allocation, Pending, event_message};

/// The pods of this node by uid.
#[derive(Default)]
pub struct Pods {
    actors: RwLock<HashMap<String, Handle>>,
    /// Held while resources are granted: what is granted to one pod is not there for another.
    granting: Mutex<()>,
    /// Containers and sandboxes by id, to find the pod of a runtime event.
    shared: std::sync::OnceLock<Arc<Shared>>,
}

impl Pods {
    /// Tells where new actors find everything. To be called once.
    pub fn attach(&self, shared: Arc<Shared>) {
        let _ = self.shared.set(shared);
    }

    /// The actor of a pod.
    pub fn get(&self, uid: &str) -> Option<Handle> {
        self.actors.read().get(uid).cloned()
    }

    /// All pods with what is known of them.
    pub fn list(&self) -> Vec<(Arc<Pod>, actor::View)> {
        let actors = self.actors.read();
        actors.values().map(|h| (h.input.borrow().pod.clone(), h.view.borrow().clone())).collect()
    }

    /// A pod by namespace and name; the newest if there are several of that name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<(Arc<Pod>, actor::View)> {
        let mut found: Vec<_> = self
            .list()
            .into_iter()
            .filter(|(p, _)| {
                p.metadata.namespace.as_deref() == Some(namespace) && p.metadata.name.as_deref() == Some(name)
            })
            .collect();
        found.sort_by_key(|(p, _)| p.metadata.creation_timestamp.as_ref().map(|t| t.0));
        found.pop()
    }

    /// An object that the pod refers to changed.
    pub fn wake_objects(&self, uid: &str) {
        if let Some(handle) = self.get(uid) {
            handle.wake.objects();
        }
    }

    /// Something happened to a container: its pod looks, or all do if nobody knows it.
    pub fn wake_runtime(&self, pod_uid: Option<&str>, container_id: &str) {
        let actors = self.actors.read();
        if let Some(handle) = pod_uid.and_then(|uid| actors.get(uid)) {
            handle.wake.runtime();
            return;
        }
        let owns = |handle: &Handle| {
            let view = handle.view.borrow();
            view.observed.containers.iter().any(|c| c.id == container_id)
                || view.observed.sandboxes.iter().any(|s| s.id == container_id)
        };
        match actors.values().find(|h| owns(h)) {
            Some(handle) => handle.wake.runtime(),
            None => actors.values().for_each(|h| h.wake.runtime()),
        }
    }

    /// Every pod looks: events may have been missed.
    pub fn wake_all(&self) {
        self.actors.read().values().for_each(|h| h.wake.runtime());
    }

    /// Takes a pod as the API has it now.
    pub fn update(&self, pod: Arc<Pod>) {
        let Some(uid) = pod.metadata.uid.clone().filter(|_| !is_mirror(&pod)) else { return };
        let known = self.get(&uid);
        if let Some(handle) = known.filter(|h| !h.done.is_cancelled()) {
            let _granting = self.granting.lock();
            let granted = Allocation::of(&handle.input.borrow().pod);
            self.grant(&handle, &granted, pod);
            return;
        }
        let ended = self.actors.read().contains_key(&uid);
        if ended {
            // it has been carried to its end; what the API still shows waits for somebody else
            return;
        }
        let _granting = self.granting.lock();
        let remembered = self.shared.get().and_then(|s| read_allocation(&s.config.pod_dir(&uid)));
        if let Some(granted) = remembered {
            // it ran before this kubelet did, and may have been asked to change meanwhile
            let allocated = granted.applied_to(&pod).map_or_else(|| pod.clone(), Arc::new);
            if let Some(handle) = self.start(uid, Input::new(allocated)) {
                self.grant(&handle, &granted, pod);
            }
            return;
        }
        let failure = self.refusal(&pod).map(|f| (f, true));
        self.start(uid, Input { failure, ..Input::new(pod) });
    }

    /// Takes a static pod, with its mirror in the API if there is one.
    pub fn update_static(&self, pod: Arc<Pod>, mirror: Option<Arc<Pod>>) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let Some(handle) = self.get(&uid).filter(|h| !h.done.is_cancelled()) else {
            let failure = self.refusal(&pod).map(|f| (f, true));
            self.start(uid, Input { mirror, failure, ..Input::new(pod) });
            return;
        };
        let version = |p: &Option<Arc<Pod>>| p.as_ref().and_then(|p| p.metadata.uid.clone());
        handle.input.send_if_modified(|input| {
            let changed = version(&input.mirror) != version(&mirror) || input.pod.metadata != pod.metadata;
            input.mirror = mirror;
            input.pod = pod;
            changed
        });
    }

    /// The API does not have the pod any more.
    pub fn gone(&self, pod: &Pod) {
        let Some(uid) = pod.metadata.uid.as_deref() else { return };
        let Some(handle) = self.get(uid) else { return };
        if handle.done.is_cancelled() {
            self.actors.write().remove(uid);
            return;
        }
        handle.input.send_modify(|input| input.gone = true);
    }

    /// Ends a pod, for instance to free memory.
    pub fn evict(&self, uid: &str, failure: Failure) {
        if let Some(handle) = self.get(uid) {
            handle.input.send_modify(|input| input.failure = Some((failure, false)));
        }
    }

    fn start(&self, uid: String, input: Input) -> Option<Handle> {
        let handle = actor::spawn(self.shared.get()?.clone(), input);
        self.actors.write().insert(uid, handle.clone());
        Some(handle)
    }

    /// Gives a pod what it asks for, if the node has room beside the other pods; else it keeps what it was granted
    /// and waits.
    fn grant(&self, handle: &Handle, granted: &Allocation, pod: Arc<Pod>) {
        let Some(allocated) = granted.applied_to(&pod) else {
            handle.input.send_modify(|input| (input.pod, input.desired) = (pod, None));
            return;
        };
        let Some(shared) = self.shared.get() else { return };
        let generation = pod.metadata.generation;
        let Some(failure) = self.does_not_fit(&pod) else {
            let dir = shared.config.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
            if let Err(e) = write_allocation(&dir, &Allocation::of(&pod)) {
                tracing::warn!(pod = ?pod.metadata.name, error = %e, "what a pod was granted cannot be noted");
            }
            let message = event_message("Pod resize started", &pod, generation, "");
            shared.event(&pod, None, false, "ResizeStarted", message);
            handle.input.send_modify(|input| {
                (input.pod, input.desired, input.granted_generation) = (pod, None, generation);
            });
            return;
        };
        let before = handle.input.borrow().desired.clone();
        let message =
            failure.message.strip_prefix("Pod was rejected: ").unwrap_or(&failure.message).to_owned();
        if before.as_ref().is_none_or(|b| b.pending.generation != generation) {
            let text = event_message("Pod resize Deferred", &pod, generation, &message);
            shared.event(&pod, None, true, "ResizeDeferred", text);
        }
        let pending = Pending { message, generation };
        let since = before.map_or_else(client::now, |b| b.since);
        handle.input.send_modify(|input| {
            (input.pod, input.desired) = (Arc::new(allocated), Some(Desired { pod, pending, since }));
        });
    }

    /// Tries the resizes that wait again: those that ask for no more first, then by priority, class, and how long
    /// they have been waiting.
    pub fn retry_resizes(&self) {
        let _granting = self.granting.lock();
        let mut waiting: Vec<(Handle, Arc<Pod>, Desired)> = {
            let actors = self.actors.read();
            let waits = |h: &Handle| {
                let input = h.input.borrow();
                Some((h.clone(), input.pod.clone(), input.desired.clone()?))
            };
            actors.values().filter(|h| !h.done.is_cancelled()).filter_map(waits).collect()
        };
        waiting.sort_by_key(|(_, allocated, desired)| {
            let (had, wants) = (requests(allocated), requests(&desired.pod));
            let more = ["cpu", "memory"].iter().any(|n| wants.get(*n) > had.get(*n));
            let priority = desired.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
            (more, Reverse(priority), qos_class(&desired.pod) != "Guaranteed", desired.since)
        });
        for (handle, allocated, desired) in waiting {
            self.grant(&handle, &Allocation::of(&allocated), desired.pod);
        }
    }

    /// Drops actors that have ended and whose pod the API does not have.
    pub fn sweep(&self, exists: impl Fn(&str) -> bool) {
        self.actors.write().retain(|uid, handle| !handle.done.is_cancelled() || exists(uid));
    }

    /// Why a new pod may not run here.
    fn refusal(&self, pod: &Pod) -> Option<Failure> {
        let known = pod.status.as_ref().is_some_and(|s| s.start_time.is_some());
        if known || pod.metadata.deletion_timestamp.is_some() {
            // it was admitted before, or will not run at all
            return None;
        }
        let shared = self.shared.get()?;
        let allowed = &shared.config.allowed_unsafe_sysctls;
        let sysctls = || crate::sysctls::forbidden(pod, allowed, &shared.node.kernel_version);
        let failure = shared
            .pressure
            .refuses(pod)
            .map(|message| refuse("Evicted", message))
            .or_else(|| sysctls().map(|message| refuse("SysctlForbidden", message)))
            .or_else(|| self.does_not_fit(pod))?;
        let text = failure.message.strip_prefix("Pod was rejected: ").unwrap_or(&failure.message);
        shared.event(pod, None, true, &failure.reason, text.to_owned());
        Some(failure)
    }

    /// Why a pod does not fit beside the others with what these were granted.
    fn does_not_fit(&self, pod: &Pod) -> Option<Failure> {
        let node = self.shared.get()?.api_node.read().clone()?;
        let list = self.list();
        let active: Vec<&Pod> = list
            .iter()
            .filter(|(_, view)| {
                let phase = view.status.as_ref().and_then(|s| s.phase.as_deref());
                !view.finished && !matches!(phase, Some("Succeeded" | "Failed"))
            })
            .map(|(p, _)| &**p)
            .filter(|p| p.metadata.uid != pod.metadata.uid)
            .collect();
        admit(pod, &active, &node)
    }

    /// Ends pods that are in the runtime but not in the API: they were deleted while this kubelet was away.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn end_orphans(&self, runtime: &dyn RuntimeApi) -> cri::Result<()> {
        let sandboxes = runtime.list_pod_sandboxes(None).await?;
        let containers = runtime.list_containers(None).await?;
        for sandbox in sandboxes {
            let Some(uid) = sandbox.labels.get(labels::POD_UID).cloned() else { continue };
            if self.actors.read().contains_key(&uid) {
                continue;
            }
            let own: Vec<_> =
                containers.iter().filter(|c| c.labels.get(labels::POD_UID) == Some(&uid)).collect();
            let pod = pod_from_labels(&sandbox, &own);
            tracing::info!(pod = ?pod.metadata.name, uid, "a pod that the API does not have any more is ended");
            self.start(uid, Input { gone: true, ..Input::new(Arc::new(pod)) });
        }
        Ok(())
    }
}

/// As much of a pod as its labels and annotations in the runtime tell: enough to end it well.
fn pod_from_labels(sandbox: &v1::PodSandbox, containers: &[&v1::Container]) -> Pod {
    let label = |key: &str| sandbox.labels.get(key).cloned();
    let mut pod = Pod::default();
    pod.metadata.name = label(labels::POD_NAME);
    pod.metadata.namespace = label(labels::POD_NAMESPACE);
    pod.metadata.uid = label(labels::POD_UID);
    let number = |c: &v1::Container, key: &str| c.annotations.get(key).and_then(|v| v.parse::<i64>().ok());
    pod.metadata.deletion_grace_period_seconds =
        containers.iter().find_map(|c| number(c, labels::POD_DELETION_GRACE));
    let mut spec = k8s_openapi::api::core::v1::PodSpec {
        termination_grace_period_seconds: containers
            .iter()
            .find_map(|c| number(c, labels::POD_TERMINATION_GRACE)),
        ..Default::default()
    };
    for c in containers {
        let name = c.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default();
        if spec.containers.iter().any(|known| known.name == name) {
            continue;
        }
        let pre_stop = c.annotations.get(labels::PRE_STOP).and_then(|json| serde_json::from_str(json).ok());
        let mut container = meta::pod::as_container(&k8s_openapi::api::core::v1::EphemeralContainer {
            name,
            ..Default::default()
        });
        container.lifecycle = pre_stop.map(|handler| k8s_openapi::api::core::v1::Lifecycle {
            pre_stop: Some(handler),
            ..Default::default()
        });
        spec.containers.push(container);
    }
    pod.spec = Some(spec);
    pod
}

/// A change of the API's pods.
pub enum Change {
    Update(Arc<Pod>),
    Gone(Arc<Pod>),
}

/// Passes an informer's changes on, in order.
pub fn follow(informer: &Informer<Pod>) -> mpsc::UnboundedReceiver<Change> {
    let (tx, rx) = mpsc::unbounded_channel();
    informer.on_change(move |delta| {
        // a pod of the same name is another pod
        let uid = |pod: &Option<Arc<Pod>>| pod.as_ref().and_then(|p| p.metadata.uid.clone());
        if let Some(old) = delta.old.as_ref().filter(|_| uid(&delta.old) != uid(&delta.new)) {
            let _ = tx.send(Change::Gone(old.clone()));
        }
        if let Some(new) = &delta.new {
            let _ = tx.send(Change::Update(new.clone()));
        }
    });
    rx
}
