//! Who the members of a set are: their ordinals, names, labels and volumes.

use super::claims::claim_name;
use crate::children::pod_from;
use crate::history::HASH_LABEL;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The set's name and the ordinal that a pod's name says; None where it is no member's name.
pub(super) fn parse(name: &str) -> Option<(&str, i32)> {
    let (parent, ordinal) = name.rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit());
    if digits { Some((parent, ordinal.parse().ok()?)) } else { None }
}

pub(super) fn ordinal(pod: &Pod) -> Option<i32> {
    parse(pod.metadata.name.as_deref()?).map(|(_, n)| n)
}

/// Whether a pod's name makes it a member.
pub(super) fn is_member(set: &StatefulSet, pod: &ObjectMeta) -> bool {
    let parent = pod.name.as_deref().and_then(parse).map(|(parent, _)| parent);
    parent.is_some() && parent == set.metadata.name.as_deref()
}

fn claim_templates(set: &StatefulSet) -> impl Iterator<Item = &PersistentVolumeClaim> {
    set.spec.iter().flat_map(|s| s.volume_claim_templates.iter().flatten())
}

/// The volumes that a member's claims make.
fn volumes(set: &StatefulSet, ordinal: i32) -> Vec<Volume> {
    let volume = |template: &PersistentVolumeClaim| Volume {
        name: template.metadata.name.clone().unwrap_or_default(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            read_only: None,
        }),
        ..Default::default()
    };
    claim_templates(set).map(volume).collect()
}

/// A member that does not exist yet, of a revision.
pub(super) fn member(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pod_from(set, template);
    let name = format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or(""));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    labels.insert(HASH_LABEL.into(), revision.into());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone()).filter(|s| !s.is_empty());
    let mut all = volumes(set, ordinal);
    let others = spec.volumes.take().unwrap_or_default();
    let others: Vec<_> = others.into_iter().filter(|o| all.iter().all(|v| v.name != o.name)).collect();
    all.extend(others);
    spec.volumes = (!all.is_empty()).then_some(all);
    pod.metadata.name = Some(name);
    pod
}

/// What a member that exists must be given to be what it should be; None where it is.
pub(super) fn correction(set: &StatefulSet, pod: &Pod) -> Option<Value> {
    let name = pod.metadata.name.as_deref()?;
    let ordinal = ordinal(pod)?;
    let known = pod.metadata.labels.as_ref().and_then(|l| l.get(POD_NAME)).is_some_and(|l| l == name);
    let mounted = |wanted: &Volume| {
        pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|have| {
            let claim = |v: &Volume| v.persistent_volume_claim.as_ref().map(|c| c.claim_name.clone());
            have.name == wanted.name && claim(have) == claim(wanted)
        })
    };
    let missing: Vec<_> = volumes(set, ordinal).into_iter().filter(|v| !mounted(v)).collect();
    if known && missing.is_empty() {
        return None;
    }
    let mut patch = json!({"metadata": {
        "uid": pod.metadata.uid,
        "labels": {POD_NAME: name, POD_INDEX: ordinal.to_string()},
    }});
    if !missing.is_empty() {
        patch["spec"] = json!({"volumes": missing});
    }
    Some(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_set_and_ordinal() {
        let check = |name: &str, expect| assert_eq!(parse(name), expect, "{name}");
        check("web-0", Some(("web", 0)));
        check("my-web-12", Some(("my-web", 12)));
        check("web", None);
        check("web-", None);
        check("web-x", None);
        check("web-+1", None);
        check("web-99999999999", None);
    }
}
