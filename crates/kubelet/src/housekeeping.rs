//! What is done now and then: logs are rotated, images that nobody needs make room, figures are set.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use cri::{ImageApi, v1};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::container_config::{container_log_path, pod_log_dir};
use crate::pods::Pods;
use crate::shared::Shared;
use crate::sync::{ContainerState, ObservedContainer};

/// Disk use is looked at this seldom, in seconds (upstream's `ImageGCPeriod`).
const IMAGE_GC_PERIOD_SECONDS: i64 = 300;

/// When images were first and last seen in use.
#[derive(Default)]
pub struct ImageGc(Mutex<ImageAges>);

/// Times in seconds.
#[derive(Default)]
struct ImageAges {
    last_run: i64,
    first_seen: HashMap<String, i64>,
    last_used: HashMap<String, i64>,
}

/// One round.
pub async fn run(shared: &Arc<Shared>, pods: &Pods, images: &dyn ImageApi) {
    pods.retry_resizes();
    let list = pods.list();
    let alive: Vec<&Pod> = list
        .iter()
        .map(|(pod, _)| &**pod)
        .filter(|p| {
            !matches!(p.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
        })
        .collect();
    if let Err(error) = shared.cgroups.share(&alive) {
        tracing::warn!(%error, "the burstable pods cannot be given their share of the CPU");
    }
    let running = |view: &crate::actor::View| {
        view.observed.containers.iter().filter(|c| c.state == ContainerState::Running).count()
    };
    let sandboxes = list.iter().filter(|(_, v)| v.observed.sandboxes.iter().any(|s| s.ready)).count();
    let containers: usize = list.iter().map(|(_, v)| running(v)).sum();
    shared.metrics.set_running(i64::try_from(sandboxes).unwrap_or(0), i64::try_from(containers).unwrap_or(0));
    collect_images(shared, pods, images).await;
}

/// Rotates the logs that are too large.
pub async fn rotate_logs(shared: &Arc<Shared>, pods: &Pods) {
    for (pod, view) in &pods.list() {
        for container in view.observed.containers.iter().filter(|c| c.state == ContainerState::Running) {
            let path = log_path(shared, pod, container);
            let limits = crate::logs::Limits {
                max_bytes: shared.config.container_log_max_bytes,
                max_files: shared.config.container_log_max_files,
            };
            let done =
                crate::logs::rotate(&*shared.runtime, &container.id, &path, limits, client::now()).await;
            if let Err(e) = done {
                tracing::warn!(error = %e, path = %path.display(), "a log cannot be rotated");
            }
        }
    }
}

fn log_path(shared: &Shared, pod: &Pod, container: &ObservedContainer) -> PathBuf {
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    let meta = &pod.metadata;
    let root = &shared.config.pod_logs_dir;
    pod_log_dir(root, &text(&meta.namespace), &text(&meta.name), &text(&meta.uid))
        .join(container_log_path(&container.name, container.restart_count))
}

/// What an image is to garbage collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: String,
    pub size_bytes: u64,
    pub last_used: i64,
    pub first_seen: i64,
}

/// The images to remove, the longest unused first, until enough is freed. Pure.
pub fn choose(
    mut candidates: Vec<Candidate>,
    to_free_bytes: u64,
    min_age_seconds: i64,
    now: i64,
) -> Vec<String> {
    candidates.sort_by_key(|c| (c.last_used, c.first_seen));
    let mut freed = 0;
    let mut chosen = Vec::new();
    for c in candidates {
        if freed >= to_free_bytes {
            break;
        }
        if now - c.first_seen < min_age_seconds {
            continue;
        }
        freed += c.size_bytes;
        chosen.push(c.id);
    }
    chosen
}

/// Whether an image could not be pulled again: the sandboxes' image, and what was imported. containerd before 1.7
/// does not tell what is pinned.
fn made_here(image: &v1::Image) -> bool {
    image.repo_tags.iter().any(|name| name.starts_with(cri::image::LOCAL_REGISTRY))
}

/// The images that nobody uses, with when they were first and last seen in use; and the directory they are in.
async fn unused_images(
    shared: &Shared,
    pods: &Pods,
    api: &dyn ImageApi,
    now: i64,
) -> Option<(Vec<Candidate>, String)> {
    let (Ok(images), Ok(info)) = (api.list_images().await, api.image_fs_info().await) else { return None };
    shared.images.keep(|id| images.iter().any(|i| i.id == id));
    let list = pods.list();
    let used: BTreeSet<&str> =
        list.iter().flat_map(|(_, v)| v.observed.containers.iter().map(|c| c.image_ref.as_str())).collect();
    // images that are volumes, by their whole names
    let volumes: BTreeSet<String> = list
        .iter()
        .flat_map(|(pod, _)| pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()))
        .filter_map(|v| v.image.as_ref()?.reference.clone())
        .filter_map(|name| cri::reference::Reference::parse(&name).ok().map(|r| r.to_string()))
        .collect();
    let in_use = |image: &v1::Image| {
        image.pinned
            || image.repo_digests.iter().chain(&image.repo_tags).any(|n| volumes.contains(n))
            || made_here(image)
            || used.contains(image.id.as_str())
            || image.repo_digests.iter().chain(&image.repo_tags).any(|n| used.contains(n.as_str()))
    };
    let mut ages = shared.image_gc.0.lock();
    ages.first_seen.retain(|id, _| images.iter().any(|i| &i.id == id));
    ages.last_used.retain(|id, _| images.iter().any(|i| &i.id == id));
    for image in &images {
        ages.first_seen.entry(image.id.clone()).or_insert(now);
        if in_use(image) {
            ages.last_used.insert(image.id.clone(), now);
        }
    }
    let unused = images.iter().filter(|i| !in_use(i)).map(|i| Candidate {
        id: i.id.clone(),
        size_bytes: i.size,
        last_used: ages.last_used.get(&i.id).copied().unwrap_or(0),
        first_seen: ages.first_seen.get(&i.id).copied().unwrap_or(now),
    });
    let mount = info.image_filesystems.into_iter().next()?.fs_id?.mountpoint;
    Some((unused.collect(), mount))
}

async fn remove(api: &dyn ImageApi, ids: Vec<String>, why: &str) {
    for id in ids {
        tracing::info!(image = id, why, "an unused image is removed");
        let spec = v1::ImageSpec { image: id, ..Default::default() };
        if let Err(e) = api.remove_image(spec).await {
            tracing::warn!(error = %e, "an image cannot be removed");
        }
    }
}

/// Removes every image that nobody uses, young ones too: the disk is short.
pub async fn remove_unused_images(shared: &Shared, pods: &Pods, api: &dyn ImageApi) {
    if let Some((unused, _)) = unused_images(shared, pods, api, client::now().as_second()).await {
        remove(api, unused.into_iter().map(|c| c.id).collect(), "the disk is short").await;
    }
}

async fn collect_images(shared: &Shared, pods: &Pods, api: &dyn ImageApi) {
    let now = client::now().as_second();
    {
        let mut ages = shared.image_gc.0.lock();
        if now - ages.last_run < IMAGE_GC_PERIOD_SECONDS {
            return;
        }
        ages.last_run = now;
    }
    let config = &shared.config;
    let Some((mut unused, mount)) = unused_images(shared, pods, api, now).await else { return };
    let seconds = |d: std::time::Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    if let Some(oldest) = config.image_maximum_gc_age.map(seconds) {
        let old = |c: &Candidate| now - c.last_used.max(c.first_seen) > oldest;
        let ids = unused.iter().filter(|c| old(c)).map(|c| c.id.clone()).collect();
        unused.retain(|c| !old(c));
        remove(api, ids, "it was not used for long").await;
    }
    let Ok(stat) = rustix::fs::statvfs(mount.as_str()) else { return };
    let capacity = stat.f_blocks * stat.f_frsize;
    let used_bytes = capacity.saturating_sub(stat.f_bavail * stat.f_frsize);
    let limit = |percent: u8| capacity / 100 * u64::from(percent);
    if capacity == 0 || used_bytes < limit(config.image_gc_high_percent) {
        return;
    }
    let to_free = used_bytes.saturating_sub(limit(config.image_gc_low_percent));
    let possible: u64 = unused.iter().map(|c| c.size_bytes).sum();
    let chosen = choose(unused, to_free, seconds(config.image_minimum_gc_age), now);
    remove(api, chosen, "the disk is filling up").await;
    if possible < to_free {
        let about = crate::node::reference(&config.node_name);
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {to_free} bytes, but only found \
             {possible} bytes eligible to free."
        );
        shared.recorder.warning(&about, "FreeDiskSpaceFailed", message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_registry_has_is_kept() {
        let image = |tag: &str| v1::Image { repo_tags: vec![tag.to_owned()], ..Default::default() };
        assert!(made_here(&image(cri::image::PAUSE_IMAGE)));
        assert!(!made_here(&image("docker.io/library/nginx:1")));
    }

    #[test]
    fn the_longest_unused_go_first_and_young_ones_stay() {
        let image = |id: &str, size_bytes, last_used, first_seen| Candidate {
            id: id.into(),
            size_bytes,
            last_used,
            first_seen,
        };
        let list = vec![
            image("new", 10, 0, 950),
            image("old", 10, 100, 0),
            image("older", 10, 50, 0),
            image("far", 99, 500, 0),
        ];
        assert_eq!(choose(list.clone(), 15, 120, 1000), ["older", "old"]);
        assert_eq!(choose(list, 0, 120, 1000), Vec::<String>::new());
    }
}
