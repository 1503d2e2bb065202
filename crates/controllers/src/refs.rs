//! Owner references: who controls what, and taking and giving up control.

use crate::plan::{INVALID, NOT_FOUND, Op};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use meta::LabelSelector;
use serde_json::json;
use std::sync::Arc;

/// The reference with `controller: true`.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|r| r.controller == Some(true))
}

pub fn is_controlled_by(meta: &ObjectMeta, owner: &ObjectMeta) -> bool {
    controller_of(meta).is_some_and(|r| Some(&r.uid) == owner.uid.as_ref())
}

/// The reference with which an owner marks what it controls.
pub fn controller_ref<O: Resource<DynamicType = ()>>(owner: &O) -> OwnerReference {
    OwnerReference {
        api_version: O::api_version(&()).into_owned(),
        kind: O::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether labels are selected.
pub fn matches(selector: &LabelSelector, meta: &ObjectMeta) -> bool {
    selector.matches_by(|k| meta.labels.as_ref().and_then(|l| l.get(k)).map(String::as_str))
}

/// What an owner controls, and what makes it so.
pub struct Claim<K> {
    pub claimed: Vec<Arc<K>>,
    /// Adoptions, after a check that the owner lives, and releases.
    pub ops: Vec<Op>,
}

/// Adopts orphans that the selector matches and releases what it no longer matches. `objects` are those the owner
/// controls and the orphans of its namespace.
pub fn claim<O, K>(owner: &O, selector: &LabelSelector, objects: Vec<Arc<K>>) -> Claim<K>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()>,
{
    claim_where(owner, |m| matches(selector, m), objects)
}

/// [`claim`], where what is adopted gets a finalizer too, and loses it when it is released.
pub fn claim_finalized<O, K>(
    owner: &O,
    selector: &LabelSelector,
    objects: Vec<Arc<K>>,
    finalizer: &'static str,
) -> Claim<K>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()> + Clone,
{
    let mut claim = claim_with(owner, |m| matches(selector, m), objects, Some(finalizer));
    for object in &mut claim.claimed {
        let has = object.meta().finalizers.iter().flatten().any(|f| f == finalizer);
        if controller_of(object.meta()).is_none() && !has {
            Arc::make_mut(object).meta_mut().finalizers.get_or_insert_default().push(finalizer.into());
        }
    }
    claim
}

/// [`claim`], where more than labels says what belongs.
pub fn claim_where<O, K>(owner: &O, selected: impl Fn(&ObjectMeta) -> bool, objects: Vec<Arc<K>>) -> Claim<K>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()>,
{
    claim_with(owner, selected, objects, None)
}

fn claim_with<O, K>(
    owner: &O,
    selected: impl Fn(&ObjectMeta) -> bool,
    objects: Vec<Arc<K>>,
    finalizer: Option<&'static str>,
) -> Claim<K>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()>,
{
    let me = owner.meta();
    let going = me.deletion_timestamp.is_some();
    let mut claim = Claim { claimed: Vec::new(), ops: Vec::new() };
    let mut checked = false;
    for object in objects {
        let m = object.meta();
        let selected = selected(m);
        match controller_of(m) {
            Some(r) if Some(&r.uid) != me.uid.as_ref() => {}
            Some(_) if selected => claim.claimed.push(object),
            Some(_) if going => {}
            Some(_) => {
                let mut patch = json!({"metadata": {
                    "uid": m.uid,
                    "ownerReferences": [{"$patch": "delete", "uid": me.uid}],
                }});
                if let Some(finalizer) = finalizer {
                    patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
                }
                let op = Op::strategic_patch(&*object, &patch).tolerating(&[NOT_FOUND, INVALID]);
                claim.ops.push(op);
            }
            None if going || !selected || m.deletion_timestamp.is_some() || m.namespace != me.namespace => {}
            None => {
                if !checked {
                    // The cached owner may be gone: its children must not be adopted by the dead.
                    claim.ops.push(Op::verify_alive(owner));
                    checked = true;
                }
                let mut patch =
                    json!({"metadata": {"uid": m.uid, "ownerReferences": [controller_ref(owner)]}});
                if let Some(finalizer) = finalizer {
                    patch["metadata"]["finalizers"] = json!([finalizer]);
                }
                claim.ops.push(Op::strategic_patch(&*object, &patch));
                claim.claimed.push(object);
            }
        }
    }
    claim
}
