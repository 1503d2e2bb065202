//! Static pods: those of files. The API shows a mirror of each, which only reports; the file decides.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::Informer;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::pods::Pods;
use crate::shared::Shared;

/// On a mirror: the hash of the static pod it shows.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";
const SOURCE: &str = "kubernetes.io/config.source";
/// The directory is read again after this time even if the kernel told of nothing (upstream's
/// `fileCheckFrequency`).
const RECHECK: Duration = Duration::from_secs(20);
/// Bytes of a manifest.
const MAX_MANIFEST_BYTES: u64 = 10 << 20;

/// Whether a pod of the API only mirrors one of a file.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The pod of a manifest as it runs on this node. Pure.
///
/// # Errors
/// What is wrong with the manifest.
pub fn from_manifest(text: &str, path: &Path, node: &str) -> Result<Pod, String> {
    let value: serde_json::Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    if value["kind"] != "Pod" {
        return Err("not a Pod".into());
    }
    let mut pod: Pod = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let name = pod.metadata.name.clone().filter(|n| !n.is_empty()).ok_or("it has no name")?;
    let half = |first: u8| {
        let mut hasher = DefaultHasher::new();
        (first, text, path, node).hash(&mut hasher);
        hasher.finish()
    };
    let hash = format!("{:016x}{:016x}", half(0), half(1));
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{name}-{}", node.to_lowercase()));
    meta.namespace.get_or_insert_with(|| "default".into());
    meta.uid = Some(hash.clone());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(HASH.into(), hash);
    annotations.insert(SOURCE.into(), "file".into());
    let spec = pod.spec.as_mut().ok_or("it has no spec")?;
    spec.node_name = Some(node.to_owned());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    });
    for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        c.termination_message_path.get_or_insert_with(|| "/dev/termination-log".into());
    }
    Ok(pod)
}

/// The pod as the API gets it.
fn mirror_of(pod: &Pod, node_uid: Option<String>) -> Pod {
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    mirror.status = None;
    let hash = annotation(pod, HASH).unwrap_or_default().to_owned();
    mirror.metadata.annotations.get_or_insert_default().insert(MIRROR.into(), hash);
    mirror.metadata.owner_references = node_uid.map(|uid| {
        vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default(),
            uid,
            controller: Some(true),
            ..OwnerReference::default()
        }]
    });
    mirror
}

/// Reads the directory; files that cannot be read or are no pods are told of and left out.
fn read_all(dir: &Path, node: &str) -> BTreeMap<String, Arc<Pod>> {
    let mut pods = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        let path: PathBuf = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let small = std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= MAX_MANIFEST_BYTES);
        if hidden || !small {
            continue;
        }
        let read = std::fs::read_to_string(&path).map_err(|e| e.to_string());
        match read.and_then(|text| from_manifest(&text, &path, node)) {
            Ok(pod) => drop(pods.insert(pod.metadata.uid.clone().unwrap_or_default(), Arc::new(pod))),
            Err(e) => tracing::warn!(path = %path.display(), error = e, "a manifest is not used"),
        }
    }
    pods
}

/// Starts the pods of the directory without waiting for the API: before anything is taken for orphaned.
pub fn start(dir: &Path, shared: &Shared, pods: &Pods) {
    for pod in read_all(dir, &shared.config.node_name).into_values() {
        pods.update_static(pod, None);
    }
}

/// Runs the pods of the directory until told to stop.
pub async fn run(
    dir: PathBuf,
    shared: Arc<Shared>,
    pods: Arc<Pods>,
    informer: Informer<Pod>,
    shutdown: CancellationToken,
) {
    let changed = Arc::new(Notify::new());
    let notify = Arc::downgrade(&changed);
    informer.on_change(move |delta| {
        if let Some(notify) = notify.upgrade().filter(|_| is_mirror(delta.object())) {
            notify.notify_one();
        }
    });
    if let Err(e) = watch(&dir, Arc::downgrade(&changed)) {
        tracing::info!(error = %e, path = %dir.display(), "the directory of static pods cannot be watched");
    }
    let mut running: BTreeMap<String, Arc<Pod>> = BTreeMap::new();
    let mut told = BTreeSet::new();
    loop {
        let wanted = read_all(&dir, &shared.config.node_name);
        let alive = |uid: &String| pods.get(uid).is_some_and(|h| !h.done.is_cancelled());
        // one that has ended stays ended
        for (uid, pod) in running.iter().filter(|(uid, _)| !wanted.contains_key(*uid) && alive(uid)) {
            let mut ended = Pod::clone(pod);
            ended.metadata.deletion_grace_period_seconds =
                ended.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
            if told.insert(uid.clone()) {
                tracing::info!(uid, "the manifest of a static pod is gone");
            }
            pods.update_static(Arc::new(ended.clone()), None);
            pods.gone(&ended);
        }
        for pod in wanted.values() {
            let mirror = reconcile(&shared, &informer, pod).await;
            // an older version under the same name ends first
            let busy = running.values().filter(|old| old.metadata.uid != pod.metadata.uid).any(|old| {
                let same = old.metadata.name == pod.metadata.name
                    && old.metadata.namespace == pod.metadata.namespace;
                let uid = old.metadata.uid.as_deref().unwrap_or_default();
                same && pods.get(uid).is_some_and(|h| !h.done.is_cancelled())
            });
            if !busy {
                pods.update_static(pod.clone(), mirror);
            }
        }
        remove_stale_mirrors(&shared.client, &informer, &wanted).await;
        running.retain(|uid, _| wanted.contains_key(uid) || alive(uid));
        told.retain(|uid| running.contains_key(uid) && !wanted.contains_key(uid));
        let ending = running.keys().any(|uid| !wanted.contains_key(uid));
        running.extend(wanted);
        let pause = if ending { Duration::from_secs(1) } else { RECHECK };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = changed.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The mirror as it should be, made if it is not there.
async fn reconcile(shared: &Shared, informer: &Informer<Pod>, pod: &Pod) -> Option<Arc<Pod>> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if let Some(mirror) = informer.find(namespace, name) {
        let fits = annotation(&mirror, MIRROR) == annotation(pod, HASH);
        if fits && mirror.metadata.deletion_timestamp.is_none() {
            return Some(mirror);
        }
        if is_mirror(&mirror) {
            delete(&shared.client, &mirror).await;
        }
        return None;
    }
    let node_uid = shared.api_node.read().as_ref().and_then(|n| n.metadata.uid.clone());
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), namespace);
    if let Err(e) = api.create(&PostParams::default(), &mirror_of(pod, node_uid)).await
        // an older one that is about to go: its end wakes us
        && !client::is_already_exists(&e)
    {
        tracing::warn!(pod = name, error = %e, "the mirror of a static pod cannot be made");
    }
    None
}

async fn remove_stale_mirrors(
    client: &Client,
    informer: &Informer<Pod>,
    wanted: &BTreeMap<String, Arc<Pod>>,
) {
    for mirror in informer.list().iter().filter(|p| is_mirror(p)) {
        let named = |p: &Arc<Pod>| {
            p.metadata.name == mirror.metadata.name && p.metadata.namespace == mirror.metadata.namespace
        };
        if !wanted.values().any(named) {
            delete(client, mirror).await;
        }
    }
}

async fn delete(client: &Client, mirror: &Pod) {
    let api: Api<Pod> =
        Api::namespaced(client.clone(), mirror.metadata.namespace.as_deref().unwrap_or_default());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    let name = mirror.metadata.name.as_deref().unwrap_or_default();
    if let Err(e) = api.delete(name, &params).await {
        tracing::debug!(pod = name, error = %e, "a mirror pod cannot be deleted");
    }
}

/// Tells of changes in the directory by the kernel's means; without them the clock has to do. The thread
/// ends at the first change after its listener is gone.
fn watch(dir: &Path, changed: std::sync::Weak<Notify>) -> std::io::Result<()> {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    let fd = init(CreateFlags::CLOEXEC)?;
    let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
    add_watch(&fd, dir, flags)?;
    let read = move || {
        let mut buffer = [0_u8; 4096];
        while rustix::io::read(&fd, &mut buffer).is_ok_and(|n| n > 0) {
            let Some(changed) = changed.upgrade() else { return };
            changed.notify_one();
        }
    };
    std::thread::Builder::new().name("static-pods".into()).spawn(read).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let text =
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n";
        let pod = from_manifest(text, Path::new("/m/web.yaml"), "N1").unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("web-n1"));
        assert_eq!(pod.metadata.uid.as_deref(), annotation(&pod, HASH));
        let other =
            from_manifest(&text.replace("image: i", "image: j"), Path::new("/m/web.yaml"), "N1").unwrap();
        assert_ne!(pod.metadata.uid, other.metadata.uid, "another manifest is another pod");
        let mirror = mirror_of(&pod, Some("node-uid".into()));
        assert!(is_mirror(&mirror) && !is_mirror(&pod));
        assert_eq!(annotation(&mirror, MIRROR), annotation(&pod, HASH));
        for bad in ["kind: Service", "{", "kind: Pod\nmetadata: {name: x}"] {
            assert!(from_manifest(bad, Path::new("/m/x"), "n").is_err(), "{bad}");
        }
    }
}
