//! What holds for the metadata of every kind on create and update (upstream's `rest.BeforeCreate`, `BeforeUpdate`).

use super::admission_hook::Warnings;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time as MetaTime};
use kinds::{AnyKind, Info, NameRule, Object, Scope};
use meta::validation::{
    Messages, name_is_dns_label, name_is_dns_subdomain, name_is_ip, name_is_path_segment,
    validate_object_meta, validate_object_meta_update,
};
use meta::{ApiError, FieldErrors, ObjectMeta, Path, Time};
use rand::Rng;

/// Characters of generated names: no vowels, nothing that looks like something else.
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const NAME_RANDOM_CHARS: usize = 5;
const GENERATED_NAME_MAX_BYTES: usize = 63;

/// A rule of names: the name, and whether it is only the prefix of one.
type NameFn = fn(&str, bool) -> Messages;

pub fn name_rule(info: &Info) -> NameFn {
    match info.name_rule {
        NameRule::DnsSubdomain => name_is_dns_subdomain,
        NameRule::DnsLabel => name_is_dns_label,
        NameRule::PathSegment => name_is_path_segment,
        NameRule::IpAddress => name_is_ip,
    }
}

/// A name from `generateName`.
pub fn generate_name(base: &str) -> String {
    let max = GENERATED_NAME_MAX_BYTES - NAME_RANDOM_CHARS;
    let cut = (0..=base.len().min(max)).rev().find(|i| base.is_char_boundary(*i)).unwrap_or(0);
    let mut name = base[..cut].to_owned();
    let mut random = rand::rng();
    name.extend(
        (0..NAME_RANDOM_CHARS)
            .map(|_| char::from(NAME_ALPHABET[random.random_range(0..NAME_ALPHABET.len())])),
    );
    name
}

/// Takes away what only the server sets.
pub fn wipe_system_fields(meta: &mut ObjectMeta) {
    meta.creation_timestamp = None;
    meta.uid = None;
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.self_link = None;
}

/// Sets uid and time of a new object.
pub fn fill_system_fields(meta: &mut ObjectMeta, now: Time) {
    meta.creation_timestamp = Some(MetaTime(now));
    meta.uid = Some(uuid::Uuid::new_v4().to_string());
}

/// Sets the namespace from the path, or refuses one that differs from it.
///
/// # Errors
/// BadRequest in upstream's words.
pub fn ensure_namespace(meta: &mut ObjectMeta, scope: Scope, namespace: &str) -> Result<(), ApiError> {
    let given = meta.namespace.as_deref().unwrap_or("");
    if scope == Scope::Cluster || given.is_empty() {
        meta.namespace = (scope == Scope::Namespaced).then(|| namespace.to_owned());
        return Ok(());
    }
    if given == namespace {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}

/// Drops repeated owner references, with a warning.
pub fn dedup_owner_references(meta: &mut ObjectMeta, after_admission: bool, warnings: &Warnings) {
    let Some(owners) = meta.owner_references.as_mut().filter(|o| o.len() > 1) else { return };
    let mut kept: Vec<OwnerReference> = Vec::with_capacity(owners.len());
    let mut repeated = Vec::new();
    for owner in owners.drain(..) {
        if kept.contains(&owner) {
            repeated.push(owner.uid);
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    if !repeated.is_empty() {
        let list = repeated.join(", ");
        warnings.add(if after_admission {
            format!(".metadata.ownerReferences contains duplicate entries after mutating admission happens; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {list}")
        } else {
            format!(".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {list}")
        });
    }
}

fn metadata() -> Path {
    Path::new("metadata")
}

/// Strategy and validation of a new object.
///
/// # Errors
/// Invalid, with every field error.
pub fn before_create(kind: &dyn AnyKind, object: &mut Object, now: Time) -> Result<(), ApiError> {
    let info = kind.info();
    kind.prepare_create(object);
    kind.stamp(object, None, now);
    let meta = object.meta();
    let mut errors =
        validate_object_meta(meta, info.scope == Scope::Namespaced, name_rule(info), &metadata());
    errors.extend(kind.validate_create(object));
    invalid(info, object, &errors)
}

fn invalid(info: &Info, object: &Object, errors: &FieldErrors) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&info.gvk, object.meta().name.as_deref().unwrap_or(""), errors))
}

/// Strategy and validation of a change: takes back what an update may not set, then checks.
///
/// # Errors
/// Invalid, with every field error.
pub fn before_update(
    kind: &dyn AnyKind,
    new: &mut Object,
    old: &Object,
    subresource: &str,
    now: Time,
) -> Result<(), ApiError> {
    let info = kind.info();
    new.meta_mut().generation = old.meta().generation;
    new.meta_mut().self_link = None;
    kind.prepare_update(new, old, subresource);
    kind.stamp(new, Some(old), now);
    let (meta, before) = (new.meta_mut(), old.meta());
    if meta.uid.as_deref().unwrap_or("").is_empty() {
        meta.uid.clone_from(&before.uid);
    }
    if before.creation_timestamp.is_some() {
        meta.creation_timestamp.clone_from(&before.creation_timestamp);
    }
    if before.deletion_timestamp.is_some() {
        meta.deletion_timestamp.clone_from(&before.deletion_timestamp);
    }
    if before.deletion_grace_period_seconds.is_some() && meta.deletion_grace_period_seconds.is_none() {
        meta.deletion_grace_period_seconds = before.deletion_grace_period_seconds;
    }
    let mut errors =
        validate_object_meta(meta, info.scope == Scope::Namespaced, name_rule(info), &metadata());
    errors.extend(validate_object_meta_update(meta, before, &metadata()));
    errors.extend(kind.validate_update(new, old, subresource));
    invalid(info, new, &errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_keep_within_a_label() {
        let name = generate_name("web-");
        assert_eq!(name.len(), 9);
        assert!(
            name.starts_with("web-") && name.bytes().skip(4).all(|b| NAME_ALPHABET.contains(&b)),
            "{name}"
        );
        assert_eq!(generate_name(&"a".repeat(80)).len(), 63);
    }

    #[test]
    fn each_kind_has_its_rule_of_names() {
        let check = |group: &str, plural: &str, name: &str, ok: bool| {
            let kind = kinds::find(group, "v1", plural).expect("a built-in kind");
            assert_eq!(name_rule(kind.info())(name, false).is_empty(), ok, "{plural} {name}");
        };
        check("", "pods", "My_Pod", false);
        check("", "services", "1-web", true);
        check("apps", "statefulsets", "a.b", false);
        check("", "events", "system:node.17ab", true);
        check("events.k8s.io", "events", "system:node.17ab", false);
        check("policy", "poddisruptionbudgets", "My_Budget", true);
    }
}
