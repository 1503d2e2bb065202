//! What becomes of an object, given its owners and its dependents. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// What is known of an owner that a reference names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It exists.
    Solid,
    /// It does not exist, or another object has its name.
    Absent,
    /// It exists, and waits for its dependents to go first.
    Waiting,
}

/// An object that names another as its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dependent {
    /// It holds up the owner's deletion (`blockOwnerDeletion`).
    pub blocks: bool,
    /// It waits for its own dependents in turn.
    pub deleting_dependents: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Leave it.
    Keep,
    /// Its dependents lose their reference to it, then it loses this finalizer.
    OrphanDependents,
    /// Nothing holds it up any more: remove the finalizer of foreground deletion.
    Release,
    /// It waits; look at the dependents that hold it up and have not begun to go.
    AwaitDependents,
    /// Some of its owners exist: the references to the others go.
    DropReferences(Vec<String>),
    /// None of its owners exists, or those that do wait for it.
    Delete { propagation: &'static str, unblock: bool },
}

pub fn is_going(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

pub fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == name)
}

pub fn is_deleting_dependents(meta: &ObjectMeta) -> bool {
    is_going(meta) && has_finalizer(meta, FOREGROUND)
}

/// `owners` in the order of the references.
pub fn decide(meta: &ObjectMeta, owners: &[Owner], dependents: &[Dependent]) -> Decision {
    if is_going(meta) {
        return if has_finalizer(meta, ORPHAN) {
            Decision::OrphanDependents
        } else if !has_finalizer(meta, FOREGROUND) {
            Decision::Keep
        } else if dependents.iter().any(|d| d.blocks) {
            Decision::AwaitDependents
        } else {
            Decision::Release
        };
    }
    let references: Vec<&OwnerReference> = meta.owner_references.iter().flatten().collect();
    if references.is_empty() {
        return Decision::Keep;
    }
    if owners.contains(&Owner::Solid) {
        let gone = references.iter().zip(owners).filter(|(_, o)| **o != Owner::Solid);
        let uids: Vec<String> = gone.map(|(r, _)| r.uid.clone()).collect();
        return if uids.is_empty() { Decision::Keep } else { Decision::DropReferences(uids) };
    }
    if owners.contains(&Owner::Waiting) && !dependents.is_empty() {
        // Dependents that wait for theirs may form a ring with this one: it must not hold up its owner then.
        return Decision::Delete {
            propagation: "Foreground",
            unblock: dependents.iter().any(|d| d.deleting_dependents),
        };
    }
    let propagation = if has_finalizer(meta, ORPHAN) {
        "Orphan"
    } else if has_finalizer(meta, FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    };
    Decision::Delete { propagation, unblock: false }
}

/// A merge patch that leaves only some of the references; the resourceVersion guards the list it replaces.
pub fn keep_references(meta: &ObjectMeta, keep: impl Fn(&OwnerReference) -> bool) -> Value {
    let kept: Vec<_> = meta.owner_references.iter().flatten().filter(|r| keep(r)).collect();
    json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": kept}})
}

/// A merge patch after which no reference holds up its owner.
pub fn unblock_references(meta: &ObjectMeta) -> Value {
    let mut references = meta.owner_references.clone().unwrap_or_default();
    references.iter_mut().for_each(|r| r.block_owner_deletion = Some(false));
    json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": references}})
}

/// A merge patch without one finalizer.
pub fn remove_finalizer(meta: &ObjectMeta, name: &str) -> Value {
    let kept: Vec<_> = meta.finalizers.iter().flatten().filter(|f| *f != name).collect();
    json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": kept}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as MetaTime;

    fn object(going: bool, finalizers: &[&str], owners: usize) -> ObjectMeta {
        ObjectMeta {
            deletion_timestamp: going.then_some(MetaTime(meta::Time::UNIX_EPOCH)),
            finalizers: Some(finalizers.iter().map(|f| (*f).to_owned()).collect()),
            owner_references: Some(
                (0..owners).map(|i| OwnerReference { uid: format!("u{i}"), ..Default::default() }).collect(),
            ),
            ..Default::default()
        }
    }

    #[test]
    fn the_table_of_decisions() {
        use Owner::{Absent, Solid, Waiting};
        let blocking = Dependent { blocks: true, deleting_dependents: false };
        let free = Dependent { blocks: false, deleting_dependents: false };
        let ring = Dependent { blocks: true, deleting_dependents: true };
        let delete = |propagation, unblock| Decision::Delete { propagation, unblock };
        let check = |m: &ObjectMeta, owners: &[Owner], deps: &[Dependent], expect: Decision| {
            assert_eq!(decide(m, owners, deps), expect, "{owners:?} {deps:?}");
        };
        let plain = object(false, &[], 0);
        check(&plain, &[], &[], Decision::Keep);
        let owned = object(false, &[], 1);
        check(&owned, &[Solid], &[], Decision::Keep);
        check(&owned, &[Absent], &[], delete("Background", false));
        check(&owned, &[Waiting], &[], delete("Background", false));
        check(&owned, &[Waiting], &[free], delete("Foreground", false));
        check(&owned, &[Waiting], &[ring], delete("Foreground", true));
        check(&object(false, &[ORPHAN], 1), &[Absent], &[], delete("Orphan", false));
        check(&object(false, &[FOREGROUND], 1), &[Absent], &[], delete("Foreground", false));
        let two = object(false, &[], 2);
        check(&two, &[Solid, Absent], &[], Decision::DropReferences(vec!["u1".into()]));
        check(&two, &[Waiting, Solid], &[], Decision::DropReferences(vec!["u0".into()]));
        check(&two, &[Absent, Absent], &[], delete("Background", false));
        check(&object(true, &[], 1), &[Absent], &[], Decision::Keep);
        check(&object(true, &[ORPHAN], 0), &[], &[blocking], Decision::OrphanDependents);
        check(&object(true, &[FOREGROUND], 0), &[], &[blocking], Decision::AwaitDependents);
        check(&object(true, &[FOREGROUND], 0), &[], &[free], Decision::Release);
    }
}
