//! Contents of file volumes from the objects they show.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret};

use super::{FileEntry, Payload, VolumeError};
use crate::env::{EnvInput, field_value, resource_value};

fn entry(data: Vec<u8>, mode: u32) -> FileEntry {
    FileEntry { data, mode, uid: None }
}

fn mode_of(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(default)
}

/// All entries, or those that `items` names.
fn select(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
    missing: impl Fn(&str) -> String,
) -> Result<Payload, VolumeError> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(data.iter().map(|(k, v)| (k.clone(), entry(v.clone(), mode))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(value) => {
                drop(payload.insert(item.path.clone(), entry(value.clone(), mode_of(item.mode, mode))))
            }
            None if optional => {}
            None => return Err(VolumeError(missing(&item.key))),
        }
    }
    Ok(payload)
}

pub(super) fn of_config_map(
    map: &ConfigMap,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<Payload, VolumeError> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    let data = text.chain(binary).collect();
    select(&data, items, mode, optional, |key| format!("configmap references non-existent config key: {key}"))
}

pub(super) fn of_secret(
    secret: &Secret,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<Payload, VolumeError> {
    let data = secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect();
    select(&data, items, mode, optional, |key| format!("references non-existent secret key: {key}"))
}

pub(super) fn of_downward(
    input: &EnvInput<'_>,
    items: &[DownwardAPIVolumeFile],
    mode: u32,
) -> Result<Payload, VolumeError> {
    let mut payload = Payload::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => field_value(input, field),
            (None, Some(resource)) => resource_value(input, None, resource),
            (None, None) => Ok(String::new()),
        };
        let value = value.map_err(|e| VolumeError(e.to_string()))?;
        payload.insert(item.path.clone(), entry(value.into_bytes(), mode_of(item.mode, mode)));
    }
    Ok(payload)
}
