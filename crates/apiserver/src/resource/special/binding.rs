//! `pods/binding` (and the older `bindings`): the scheduler's decision, written once and for all.

use crate::cache::Entry;
use crate::negotiate::content_encoding;
use crate::options::WriteOptions;
use crate::request::{Body, Response};
use crate::resource::admission_hook::Operation;
use crate::resource::body;
use crate::resource::respond::created;
use crate::resource::update::UpdateRules;
use crate::resource::{Call, rules};
use k8s_openapi::api::core::v1::{Binding, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as MetaTime;
use kinds::Object;
use meta::{ApiError, FieldError, GroupResource, GroupVersionKind, Path, Reason, Time};

const BINDING: GroupVersionKind = GroupVersionKind::of("", "v1", "Binding");
const PODS_BINDING: GroupResource = GroupResource::of("", "pods/binding");

fn check(binding: &Binding) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let path = Path::new("target");
    let kind = binding.target.kind.as_deref().unwrap_or("");
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
    }
    if binding.target.name.as_deref().unwrap_or("").is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    if errors.is_empty() {
        return Ok(());
    }
    // Upstream gives the bare list here, which the client sees as an internal error.
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let message = if lines.len() == 1 { lines[0].clone() } else { format!("[{}]", lines.join(", ")) };
    Err(ApiError::new(Reason::Unknown(500), message))
}

/// Sets the condition, with a new transition time where its status changes.
pub(super) fn set_condition(pod: &mut Pod, condition: PodCondition, now: Time) {
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut condition = PodCondition { last_transition_time: Some(MetaTime(now)), ..condition };
    match conditions.iter_mut().find(|c| c.type_ == condition.type_) {
        Some(old) => {
            if old.status == condition.status {
                condition.last_transition_time.clone_from(&old.last_transition_time);
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
}

fn assign(pod: &mut Pod, binding: &Binding, now: Time) -> Result<(), ApiError> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let refuse = |why: String| Err(ApiError::conflict(&PODS_BINDING, &name, why));
    if pod.metadata.deletion_timestamp.is_some() {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let spec = pod.spec.get_or_insert_default();
    if let Some(node) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return refuse(format!("pod {name} is already assigned to node {node:?}"));
    }
    if spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()) {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    spec.node_name.clone_from(&binding.target.name);
    pod.status.get_or_insert_default().nominated_node_name = None;
    if let Some(annotations) = binding.metadata.annotations.as_ref().filter(|a| !a.is_empty()) {
        pod.metadata.annotations.get_or_insert_default().extend(annotations.clone());
    }
    if let Some(labels) = binding.metadata.labels.as_ref().filter(|l| !l.is_empty()) {
        pod.metadata.labels.get_or_insert_default().extend(labels.clone());
    }
    let scheduled =
        PodCondition { type_: "PodScheduled".into(), status: "True".into(), ..PodCondition::default() };
    set_condition(pod, scheduled, now);
    Ok(())
}

impl Call<'_> {
    pub(in crate::resource) async fn binding(&self, body: Body) -> Result<Response, ApiError> {
        let options = WriteOptions::parse(self.query, "CreateOptions", false)?;
        let encoding = content_encoding(&self.parts.headers)?;
        let json = body::to_json(encoding, body::read(body).await?)?;
        let mut binding: Binding = body::plain(&BINDING, &json)?;
        rules::ensure_namespace(&mut binding.metadata, kinds::Scope::Namespaced, self.namespace)?;
        let name = binding.metadata.name.clone().unwrap_or_default();
        if !self.name.is_empty() && self.name != name {
            return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
        }
        check(&binding)?;
        let mut object: Object = Box::new(binding.clone());
        self.admit(Operation::Create, &name, options.dry_run, None, Some(&mut object)).await?;
        self.validate(Operation::Create, &name, options.dry_run, None, Some(&object)).await?;
        let binding = object.downcast::<Binding>().cloned().unwrap_or(binding);
        let uid = binding.metadata.uid.clone().filter(|u| !u.is_empty());
        let wanted = binding.metadata.resource_version.clone().filter(|v| !v.is_empty());
        let mut make = |old: Option<&Object>, _: Option<&Entry>| {
            let Some(pod) = old.and_then(|o| o.downcast::<Pod>()) else { return Err(self.not_found()) };
            let found = pod.metadata.resource_version.as_deref().unwrap_or("");
            if let Some(wanted) = wanted.as_deref().filter(|w| *w != found) {
                let pods = &self.target.gr;
                return Err(ApiError::conflict(
                    pods,
                    &name,
                    format!(
                        "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {found}",
                        self.target.cache.key(self.namespace, &name)
                    ),
                ));
            }
            let mut pod = pod.clone();
            assign(&mut pod, &binding, self.now)?;
            Ok(Box::new(pod) as Object)
        };
        let call = self.on(self.target, self.namespace, &name, "");
        call.change(&mut make, &UpdateRules { internal: true, uid, ..UpdateRules::of(&options) }).await?;
        Ok(created(self.accepted))
    }
}
