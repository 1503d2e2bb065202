//! `componentstatuses` (core/v1): how scheduler, controller manager and store are. Deprecated since v1.19, but
//! `kubectl get cs` still asks. Nothing is stored: each answer looks.

use super::Front;
use crate::cache::{Entry, EventType};
use crate::negotiate::{self, Accepted, Encoding, Shape};
use crate::options::{ListOptions, Query};
use crate::request::{Context, Request, Response};
use crate::resource::respond::{self, Form, list_meta};
use crate::table::{IncludeObject, put_partial};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ComponentCondition, ComponentStatus};
use kinds::component_status::COMPONENT_STATUS;
use kinds::{AnyKind, AnyObject};
use meta::{ApiError, GroupResource, ObjectMeta, Time};
use parking_lot::RwLock;
use std::collections::BTreeSet;
use store::{KeyValue, Revision};

/// Name of the status, and of the component: its lease in `kube-system`. The store has no lease.
const COMPONENTS: [(&str, Option<&str>); 3] = [
    ("controller-manager", Some("kube-controller-manager")),
    ("etcd-0", None),
    ("scheduler", Some("kube-scheduler")),
];

/// Components that run in this process: it ends when one of them does.
#[derive(Debug, Default)]
pub struct Components(RwLock<BTreeSet<&'static str>>);

impl Components {
    /// `component`: as upstream's binary is called (`kube-scheduler`).
    pub fn runs_here(&self, component: &'static str) {
        self.0.write().insert(component);
    }
}

/// Whether a component that holds a lease has renewed it lately.
fn leads(lease: Option<&Lease>, now: Time) -> Result<(), String> {
    let spec = lease.and_then(|l| l.spec.as_ref());
    let holder = spec.and_then(|s| s.holder_identity.as_deref()).filter(|h| !h.is_empty());
    let (Some(spec), Some(holder)) = (spec, holder) else { return Err("no instance is active".to_owned()) };
    let renewed = spec.renew_time.as_ref().map_or(i64::MIN, |t| t.0.as_second());
    let until = renewed.saturating_add(i64::from(spec.lease_duration_seconds.unwrap_or(0)));
    if until < now.as_second() { Err(format!("{holder} has not renewed its lease in time")) } else { Ok(()) }
}

impl Front {
    async fn component(&self, name: &str, lease: Option<&str>, now: Time) -> ComponentStatus {
        let health = match lease {
            None => {
                self.look_at_store("/readyz").await;
                self.health.store.read().as_ref().map_or(Ok(()), |why| Err(why.clone()))
            }
            Some(component) if self.components.0.read().contains(component) => Ok(()),
            Some(component) => {
                let stored = self.stored("coordination.k8s.io", "leases", "kube-system", component);
                leads(stored.as_ref().and_then(|o| o.downcast::<Lease>()), now)
            }
        };
        let (status, message) = match health {
            Ok(()) => ("True", "ok".to_owned()),
            Err(why) => ("False", why),
        };
        ComponentStatus {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            conditions: Some(vec![ComponentCondition {
                type_: "Healthy".to_owned(),
                status: status.to_owned(),
                message: Some(message),
                error: None,
            }]),
        }
    }
}

pub fn serves(group: &str, version: &str, resource: &str) -> bool {
    group.is_empty() && version == "v1" && resource == "componentstatuses"
}

/// # Errors
/// MethodNotAllowed for anything but get and list; NotFound.
pub async fn handle(
    front: &Front,
    context: &Context,
    request: Request,
    now: Time,
) -> Result<Response, ApiError> {
    let info = &context.info;
    let (parts, _) = request.into_parts();
    let query = Query::of(&parts.uri);
    let accepted = negotiate::accepted(&parts.headers, query.flag("pretty"))?;
    let mut response = match info.verb.as_str() {
        "get" => {
            let found = COMPONENTS.iter().find(|(name, _)| *name == info.name);
            let (name, lease) = found
                .ok_or_else(|| ApiError::not_found(&GroupResource::of("", "componentstatus"), &info.name))?;
            answer(&accepted, &query, &front.component(name, *lease, now).await, now)?
        }
        "list" => {
            let options = ListOptions::parse(&query, false)?;
            let mut all = Vec::new();
            for (name, lease) in COMPONENTS {
                let field = |path: &str| (path == "metadata.name").then_some(name);
                if options.labels.matches_by(|_| None) && options.fields.matches(field) {
                    all.push(front.component(name, lease, now).await);
                }
            }
            answer_list(&accepted, &query, &all, now)?
        }
        _ => return Err(super::method_not_allowed(info)),
    };
    if let Some(warning) = respond::deprecation(&COMPONENT_STATUS.info().gvk) {
        respond::add_warnings(&mut response, vec![warning]);
    }
    Ok(response)
}

fn entry(status: &ComponentStatus) -> Result<Entry, ApiError> {
    let kv = KeyValue {
        key: format!("/{}", status.metadata.name.as_deref().unwrap_or("")).into(),
        value: status.encode().into(),
        create_revision: Revision(0),
        mod_revision: Revision(0),
    };
    Entry::new(&COMPONENT_STATUS, 1, &kv, EventType::Added, None)
}

fn form<'a>(accepted: &'a Accepted, query: &Query<'_>, now: Time) -> Result<Form<'a>, ApiError> {
    let include = IncludeObject::parse(query.get("includeObject").unwrap_or(""))?;
    Ok(Form { accepted, include, info: COMPONENT_STATUS.info(), now })
}

fn answer(
    accepted: &Accepted,
    query: &Query<'_>,
    status: &ComponentStatus,
    now: Time,
) -> Result<Response, ApiError> {
    match accepted.shape {
        Shape::Whole => respond::any(accepted, 200, status),
        Shape::Table | Shape::Partial => {
            let entry = entry(status)?;
            form(accepted, query, now)?.object(200, &entry, entry.json_bytes())
        }
    }
}

fn answer_list(
    accepted: &Accepted,
    query: &Query<'_>,
    all: &[ComponentStatus],
    now: Time,
) -> Result<Response, ApiError> {
    let entries = || all.iter().map(entry).collect::<Result<Vec<_>, _>>();
    let body = match accepted.shape {
        Shape::Whole if accepted.encoding == Encoding::Protobuf => {
            let list = serde_json::json!({
                "kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": all,
            });
            return respond::any(accepted, 200, &list);
        }
        Shape::Whole => {
            let items: Vec<String> =
                all.iter().map(|s| String::from_utf8_lossy(&s.encode()).into_owned()).collect();
            let items = items.join(",");
            format!(r#"{{"kind":"ComponentStatusList","apiVersion":"v1","metadata":{{}},"items":[{items}]}}"#)
        }
        Shape::Table => {
            let entries = entries()?;
            form(accepted, query, now)?.table(entries.iter(), &list_meta(0, None, None), true)
        }
        Shape::Partial => {
            let version = accepted.shape_version;
            let mut out = format!(
                r#"{{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/{version}","metadata":{{}},"items":["#
            );
            for (i, entry) in entries()?.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                put_partial(entry, version, &mut out);
            }
            out + "]}"
        }
    };
    let bytes = respond::encode(accepted, body.into())?;
    Ok(respond::response(200, accepted.encoding.media_type(), respond::full(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_component_is_well_while_it_renews_its_lease() {
        let now: Time = "2026-01-01T00:00:20Z".parse().expect("a time");
        let check = |spec: serde_json::Value, expect: Result<(), &str>| {
            let lease: Lease =
                serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a lease");
            assert_eq!(leads(Some(&lease), now), expect.map_err(str::to_owned));
        };
        let held = |renewed: &str| json!({"holderIdentity": "a_1", "leaseDurationSeconds": 15, "renewTime": renewed});
        check(held("2026-01-01T00:00:10.000000Z"), Ok(()));
        check(held("2026-01-01T00:00:01.000000Z"), Err("a_1 has not renewed its lease in time"));
        check(json!({"holderIdentity": "", "leaseDurationSeconds": 1}), Err("no instance is active"));
        assert!(leads(None, now).is_err());
    }
}
