//! Volumes whose files show objects of the API: `configMap`, `secret`, `downwardAPI` and `projected`.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Pod, ProjectedVolumeSource, Volume, VolumeProjection};

use super::payload::{of_config_map, of_downward, of_secret};
use super::{Context, FileEntry, HostOp, Mounted, Payload, Plugin, VolumeError};

/// The mode of files when nothing is said.
const DEFAULT_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o777;

pub(super) struct ConfigMap;
pub(super) struct Secret;
pub(super) struct DownwardApi;
pub(super) struct Projected;

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(DEFAULT_MODE)
}

fn mounted(context: &Context<'_>, path: PathBuf, payload: Payload, memory: bool) -> Mounted {
    let mut ops = vec![HostOp::Mkdir { path: path.clone(), mode: DIR_MODE }];
    if memory {
        ops.push(HostOp::MountTmpfs { path: path.clone(), size_bytes: None });
        ops.push(HostOp::Mkdir { path: path.clone(), mode: DIR_MODE });
    }
    ops.push(HostOp::WriteAtomic { dir: path.clone(), payload, fs_group: context.fs_group() });
    Mounted { ops, path, read_only: true, live: true }
}

impl Plugin for ConfigMap {
    fn plan(&self, context: &Context<'_>, volume: &Volume) -> Option<Result<Mounted, VolumeError>> {
        let source = volume.config_map.as_ref()?;
        let optional = source.optional == Some(true);
        let payload = match context.env.objects.config_map(&source.name) {
            Some(map) => of_config_map(map, source.items.as_deref(), mode(source.default_mode), optional),
            None if optional => Ok(Payload::new()),
            None => Err(VolumeError(format!("configmap {:?} not found", source.name))),
        };
        Some(payload.map(|p| mounted(context, context.volume_dir("configmap", &volume.name), p, false)))
    }
}

impl Plugin for Secret {
    fn plan(&self, context: &Context<'_>, volume: &Volume) -> Option<Result<Mounted, VolumeError>> {
        let source = volume.secret.as_ref()?;
        let name = source.secret_name.as_deref().unwrap_or_default();
        let optional = source.optional == Some(true);
        let payload = match context.env.objects.secret(name) {
            Some(secret) => of_secret(secret, source.items.as_deref(), mode(source.default_mode), optional),
            None if optional => Ok(Payload::new()),
            None => Err(VolumeError(format!("secret {name:?} not found"))),
        };
        // secrets stay in memory
        Some(payload.map(|p| mounted(context, context.volume_dir("secret", &volume.name), p, true)))
    }
}

impl Plugin for DownwardApi {
    fn plan(&self, context: &Context<'_>, volume: &Volume) -> Option<Result<Mounted, VolumeError>> {
        let source = volume.downward_api.as_ref()?;
        let items = source.items.as_deref().unwrap_or_default();
        let payload = of_downward(&context.env, items, mode(source.default_mode));
        Some(payload.map(|p| mounted(context, context.volume_dir("downward-api", &volume.name), p, true)))
    }
}

impl Plugin for Projected {
    fn plan(&self, context: &Context<'_>, volume: &Volume) -> Option<Result<Mounted, VolumeError>> {
        let source = volume.projected.as_ref()?;
        let path = context.volume_dir("projected", &volume.name);
        Some(project(context, &volume.name, source).map(|p| mounted(context, path, p, true)))
    }
}

/// All sources into one tree; every failure is told.
fn project(
    context: &Context<'_>,
    volume: &str,
    source: &ProjectedVolumeSource,
) -> Result<Payload, VolumeError> {
    let mode = mode(source.default_mode);
    let (mut payload, mut errors) = (Payload::new(), Vec::new());
    for part in source.sources.iter().flatten() {
        match one_source(context, volume, part, mode) {
            Ok(files) => payload.extend(files),
            Err(e) => errors.push(e.0),
        }
    }
    match errors.len() {
        0 => Ok(payload),
        1 => Err(VolumeError(errors.remove(0))),
        _ => Err(VolumeError(format!("[{}]", errors.join(", ")))),
    }
}

fn one_source(
    context: &Context<'_>,
    volume: &str,
    part: &VolumeProjection,
    mode: u32,
) -> Result<Payload, VolumeError> {
    let objects = context.env.objects;
    let namespace = context.env.pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(s) = &part.config_map {
        let optional = s.optional == Some(true);
        return match objects.config_map(&s.name) {
            Some(map) => of_config_map(map, s.items.as_deref(), mode, optional),
            None if optional => Ok(Payload::new()),
            None => Err(VolumeError(format!("configmap {:?} not found", s.name))),
        };
    }
    if let Some(s) = &part.secret {
        let optional = s.optional == Some(true);
        return match objects.secret(&s.name) {
            Some(secret) => of_secret(secret, s.items.as_deref(), mode, optional),
            None if optional => Ok(Payload::new()),
            None => Err(VolumeError(format!("secret {:?} not found", s.name))),
        };
    }
    if let Some(s) = &part.downward_api {
        return of_downward(&context.env, s.items.as_deref().unwrap_or_default(), mode);
    }
    if let Some(s) = &part.service_account_token {
        let Some(token) = objects.tokens.get(&(volume.to_owned(), s.path.clone())) else {
            let account = context.env.pod.spec.as_ref().and_then(|s| s.service_account_name.clone());
            let account = account.unwrap_or_else(|| "default".into());
            return Err(VolumeError(format!("failed to fetch token: no token for {namespace}/{account}")));
        };
        let uid = common_user(context.env.pod);
        // only its user may read a token, if there is one
        let mode = if uid.is_some() || context.fs_group().is_some() { 0o600 } else { mode };
        let file = FileEntry { data: token.clone().into_bytes(), mode, uid };
        return Ok([(s.path.clone(), file)].into());
    }
    if part.cluster_trust_bundle.is_some() {
        return Err(VolumeError("ClusterTrustBundle projection is not supported by this kubelet".into()));
    }
    Ok(Payload::new())
}

/// The user all containers run as, if it is one.
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut users = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok())?
}
