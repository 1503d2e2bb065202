//! Where a container mounts the volumes of its pod.

use super::required;
use super::validate::Context;
use crate::support::text;
use k8s_openapi::api::core::v1::{Container, Volume, VolumeMount};
use meta::{FieldError, FieldErrors, Path};

/// Refuses `..` among the elements of a path.
pub(crate) fn no_backsteps(errors: &mut FieldErrors, value: &str, at: impl Fn() -> Path) {
    if value.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(&at(), value, "must not contain '..'"));
    }
}

/// Refuses a path that leaves the directory it is relative to.
pub(super) fn descending_path(errors: &mut FieldErrors, value: &str, at: impl Fn() -> Path) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(&at(), value, "must be a relative path"));
    }
    no_backsteps(errors, value, at);
}

/// As [`descending_path`], and no name that atomic writes use.
pub(super) fn local_path(errors: &mut FieldErrors, value: &str, at: impl Fn() -> Path) {
    descending_path(errors, value, &at);
    if value.starts_with("..") && !value.starts_with("../") {
        errors.push(FieldError::invalid(&at(), value, "must not start with '..'"));
    }
}

fn find<'a>(context: &Context<'a>, name: &str) -> Option<&'a Volume> {
    context.volumes.iter().copied().find(|v| v.name == name)
}

pub(super) fn validate_volume_mounts(
    errors: &mut FieldErrors,
    container: &Container,
    context: &Context<'_>,
    path: &Path,
) {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    for (i, mount) in mounts.iter().enumerate() {
        let list = || path.child("volumeMounts");
        let at = |name: &str| list().index(i).child(name);
        required(errors, || at("name"), &mount.name);
        if find(context, &mount.name).is_none() {
            errors.push(FieldError::not_found(&at("name"), &mount.name));
        }
        required(errors, || at("mountPath"), &mount.mount_path);
        if mounts[..i].iter().any(|m| m.mount_path == mount.mount_path) {
            errors.push(FieldError::invalid(&at("mountPath"), &mount.mount_path, "must be unique"));
        }
        let others = devices.iter().map(|d| (d.name.as_str(), d.device_path.as_str()));
        let own = [("name", mount.name.as_str()), ("mountPath", &mount.mount_path)];
        used_once(errors, own, "volumeDevices", others, at);
        let sub_path = text(mount.sub_path.as_ref());
        if !sub_path.is_empty() {
            descending_path(errors, sub_path, || list().child("subPath"));
        }
        let expression = text(mount.sub_path_expr.as_ref());
        if !expression.is_empty() {
            if !sub_path.is_empty() {
                let why = "subPathExpr and subPath are mutually exclusive";
                errors.push(FieldError::invalid(&at("subPathExpr"), expression, why));
            }
            descending_path(errors, expression, || list().child("subPathExpr"));
        }
        if let Some(propagation) = mount.mount_propagation.as_deref() {
            validate_propagation(errors, propagation, container, &list().child("mountPropagation"));
        }
        validate_recursive_read_only(errors, mount, || list().child("recursiveReadOnly"));
    }
}

fn validate_propagation(errors: &mut FieldErrors, propagation: &str, container: &Container, path: &Path) {
    let known = ["Bidirectional", "HostToContainer", "None"];
    if !known.contains(&propagation) {
        errors.push(FieldError::not_supported(path, propagation, &known));
    }
    let privileged = container.security_context.as_ref().is_some_and(|s| s.privileged == Some(true));
    if propagation == "Bidirectional" && !privileged {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(path, why));
    }
}

fn validate_recursive_read_only(errors: &mut FieldErrors, mount: &VolumeMount, at: impl Fn() -> Path) {
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                errors.push(FieldError::forbidden(&at(), "may only be specified when readOnly is true"));
            }
            if mount.mount_propagation.as_deref().is_some_and(|p| p != "None") {
                let why = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(&at(), why));
            }
        }
        Some(other) => {
            errors.push(FieldError::not_supported(&at(), other, &["Disabled", "Enabled", "IfPossible"]));
        }
    }
}

pub(super) fn validate_volume_devices(
    errors: &mut FieldErrors,
    container: &Container,
    context: &Context<'_>,
    path: &Path,
) {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    for (i, device) in devices.iter().enumerate() {
        let at = |name: &str| path.child("volumeDevices").index(i).child(name);
        let earlier = &devices[..i];
        required(errors, || at("name"), &device.name);
        if !device.name.is_empty() && earlier.iter().any(|d| d.name == device.name) {
            errors.push(FieldError::invalid(&at("name"), &device.name, "must be unique"));
        }
        match find(context, &device.name) {
            Some(v) if v.persistent_volume_claim.is_none() && v.ephemeral.is_none() => {
                let why =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(FieldError::invalid(&at("name"), &device.name, why));
            }
            Some(_) => {}
            None => errors.push(FieldError::not_found(&at("name"), &device.name)),
        }
        required(errors, || at("devicePath"), &device.device_path);
        if earlier.iter().any(|d| d.device_path == device.device_path) {
            errors.push(FieldError::invalid(&at("devicePath"), &device.device_path, "must be unique"));
        }
        if device.device_path.split('/').any(|part| part == "..") {
            let why = "can not contain backsteps ('..')";
            errors.push(FieldError::invalid(&at("devicePath"), &device.device_path, why));
        }
        let others = mounts.iter().map(|m| (m.name.as_str(), m.mount_path.as_str()));
        let own = [("name", device.name.as_str()), ("devicePath", &device.device_path)];
        used_once(errors, own, "volumeMounts", others, at);
    }
}

/// A volume is mounted or a device, and so is a path: refuses the name and path (each with its field) that stand in
/// the other list as well.
fn used_once<'a>(
    errors: &mut FieldErrors,
    [name, place]: [(&str, &str); 2],
    list: &str,
    others: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    at: impl Fn(&str) -> Path,
) {
    if others.clone().any(|(other, _)| other == name.1) {
        let why = format!("must not already exist in {list}");
        errors.push(FieldError::invalid(&at(name.0), name.1, why));
    }
    if others.clone().any(|(_, other)| other == place.1) {
        let why = format!("must not already exist as a path in {list}");
        errors.push(FieldError::invalid(&at(place.0), place.1, why));
    }
}
