//! storage.k8s.io/v1 VolumeAttachment.

use crate::kind::{
    Cell, Column, Kind, NameRule, Names, Scope, StatusAccess, Strategy, Subresource, Validate,
};
use crate::object::Registered;
use crate::pod_spec::validate_csi_driver;
use crate::strategy::{plain, semantic_eq};
use crate::support::{FIELD_IMMUTABLE, age, column, json, no_change, push_invalid, text, typed_column};
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeError};
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};

/// Bytes.
const MAX_METADATA: usize = 256 * 1024;
const MAX_ERROR_MESSAGE: usize = 1024;
const EXACTLY_ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";

const COLUMNS: &[Column<VolumeAttachment>] = &[
    Column {
        format: "name",
        ..column(
            "Attacher",
            "attacher indicates the name of the volume driver that MUST handle this request. This is the name returned by GetPluginName().",
            |a| Cell::str(a.spec.attacher.clone()),
        )
    },
    column("PV", "persistentVolumeName represents the name of the persistent volume to attach.", |a| {
        Cell::str(text(a.spec.source.persistent_volume_name.as_ref()))
    }),
    column("Node", "nodeName represents the node that the volume should be attached to.", |a| {
        Cell::str(a.spec.node_name.clone())
    }),
    typed_column(
        "Attached",
        "boolean",
        "attached indicates the volume is successfully attached. This field must only be set by the entity completing the attach operation, i.e. the external-attacher.",
        |a| Cell::Value(a.status.as_ref().is_some_and(|s| s.attached).into()),
    ),
    age(),
];

const SUBRESOURCES: &[Subresource<VolumeAttachment>] = &[Subresource::Status(StatusAccess {
    prepare: |new, old| {
        new.spec = old.spec.clone();
        crate::strategy::reset_meta_for_status(&mut new.metadata, &old.metadata);
    },
    validate: |new, _| validate(new),
})];

pub static VOLUME_ATTACHMENT: Registered<VolumeAttachment> = Registered::new(Kind {
    gvk: GroupVersionKind::of("storage.k8s.io", "v1", "VolumeAttachment"),
    names: Names { plural: "volumeattachments", singular: "volumeattachment", short: &[], categories: &[] },
    scope: Scope::Cluster,
    definition: "io.k8s.api.storage.v1.VolumeAttachment",
    storage: "volumeattachments",
    name_rule: NameRule::DnsSubdomain,
    default: no_change,
    validate: Validate {
        create: validate,
        update: |new, old| {
            let mut errors = validate(new);
            if !semantic_eq(&new.spec, &old.spec) {
                errors.push(FieldError::invalid(&Path::new("spec"), json(&new.spec), FIELD_IMMUTABLE));
            }
            errors
        },
    },
    strategy: Strategy {
        prepare_create: |a| a.status = Some(Default::default()),
        prepare_update: |new, old| new.status = old.status.clone(),
        unconditional_update: false,
        ..plain()
    },
    subresources: SUBRESOURCES,
    selectable: &[],
    columns: COLUMNS,
});

fn validate(attachment: &VolumeAttachment) -> FieldErrors {
    let spec = &attachment.spec;
    let path = Path::new("spec");
    let mut errors = Vec::new();
    validate_csi_driver(&mut errors, &spec.attacher, &path.child("attacher"));
    let source = path.child("source");
    match (&spec.source.inline_volume_spec, spec.source.persistent_volume_name.as_deref()) {
        (None, None) => errors.push(FieldError::required(&source, EXACTLY_ONE)),
        (Some(_), Some(_)) => errors.push(FieldError::forbidden(&source, EXACTLY_ONE)),
        (None, Some(name)) => {
            let path = source.child("persistentVolumeName");
            if name.is_empty() {
                errors.push(FieldError::required(&path, "must specify non empty persistentVolumeName"));
            } else {
                push_invalid(&mut errors, &path, name, rules::is_dns1123_subdomain(name));
            }
        }
        (Some(inline), None) if inline.csi.is_none() => {
            let path = source.child("inlineVolumeSpec").child("csi");
            errors.push(FieldError::required(&path, "has to be specified in the context of inline volumes"));
        }
        (Some(_), None) => {}
    }
    let messages = rules::is_dns1123_subdomain(&spec.node_name);
    push_invalid(&mut errors, &path.child("nodeName"), &spec.node_name, messages);
    if let Some(status) = &attachment.status {
        let path = Path::new("status");
        let bytes: usize = status.attachment_metadata.iter().flatten().map(|(k, v)| k.len() + v.len()).sum();
        if bytes > MAX_METADATA {
            errors.push(FieldError::too_long(&path.child("attachmentMetadata"), MAX_METADATA));
        }
        errors.extend(volume_error(status.attach_error.as_ref(), &path.child("attachError")));
        errors.extend(volume_error(status.detach_error.as_ref(), &path.child("detachError")));
    }
    errors
}

fn volume_error(error: Option<&VolumeError>, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let Some(error) = error else { return errors };
    if text(error.message.as_ref()).len() > MAX_ERROR_MESSAGE {
        errors.push(FieldError::too_long(&path.child("message"), MAX_METADATA));
    }
    if let Some(code) = error.error_code.filter(|c| *c < 0) {
        let why = rules::inclusive_range_error(0, i64::from(i32::MAX));
        errors.push(FieldError::invalid(&path.child("errorCode"), code, why));
    }
    errors
}
