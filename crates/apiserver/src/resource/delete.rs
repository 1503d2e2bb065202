//! DELETE: preconditions, grace, propagation, finalizers (upstream's `Store.Delete`).

use super::admission_hook::Operation;
use super::body;
use super::create::{Refused, encode};
use super::respond::status;
use super::special::namespaces::{Deletion, begin_delete};
use super::{Call, truncate};
use crate::cache::{Entry, EventType, ListRequest, When};
use crate::negotiate::content_encoding;
use crate::options::{ListOptions, delete_options, is_dry_run};
use crate::request::{Body, Response};
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    DeleteOptions, Status, StatusDetails, Time as MetaTime,
};
use kinds::Object;
use meta::{ApiError, Reason, Time};
use std::sync::Arc;
use store::{Expect, Write};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// How often a delete is tried again when a writer was first.
const DELETE_ATTEMPTS: usize = 64;
/// Deletes of a collection under way at once.
const COLLECTION_CONCURRENCY: usize = 16;

/// Resources whose delete answers with the object (upstream's `ReturnDeletedObject`).
const RETURNS_OBJECT: [(&str, &str); 17] = [
    ("", "pods"),
    ("", "namespaces"),
    ("", "services"),
    ("", "serviceaccounts"),
    ("", "persistentvolumes"),
    ("", "persistentvolumeclaims"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("resource.k8s.io", "deviceclasses"),
];

/// What became of a delete.
pub(super) struct Deleted {
    pub entry: Arc<Entry>,
    /// False: the object remains, marked.
    pub gone: bool,
}

/// What a delete does to the object next.
enum Step {
    /// Remove it now.
    Remove,
    /// Write it, marked; `then_remove` where no grace is left.
    Mark { then_remove: bool },
    /// Nothing: its deletion is under way.
    Wait,
}

impl Call<'_> {
    async fn options(&self, body: Body) -> Result<DeleteOptions, ApiError> {
        let body = body::read(body).await?;
        let from_body = if body.is_empty() {
            None
        } else {
            body::delete_options(content_encoding(&self.parts.headers)?, body)?
        };
        delete_options(self.query, from_body)
    }

    pub(super) async fn delete(&self, body: Body) -> Result<Response, ApiError> {
        let options = self.options(body).await?;
        let deleted = self.delete_named(self.name, &options).await?;
        let code = if !deleted.gone && options.orphan_dependents == Some(false) { 202 } else { 200 };
        let returns = RETURNS_OBJECT.iter().any(|(g, r)| self.target.is(g, r));
        if deleted.gone && !returns {
            let object = deleted.entry.object()?;
            let gr = &self.target.gr;
            let details = StatusDetails {
                name: Some(deleted.entry.name().to_owned()),
                group: Some(gr.group.to_string()).filter(|g| !g.is_empty()),
                kind: Some(gr.resource.to_string()),
                uid: object.meta().uid.clone(),
                ..StatusDetails::default()
            };
            let said = Status { status: Some("Success".into()), details: Some(details), ..Status::default() };
            return Ok(status(self.accepted, &said, code));
        }
        self.respond(code, &deleted.entry)
    }

    /// Deletes one object of the collection that the path names.
    pub(super) async fn delete_named(
        &self,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        self.resources.cache.catch_up().await?;
        let cache = &self.target.cache;
        let mut current = cache.get(self.namespace, name);
        // As this call marked it for removal at once: whoever saw that may have been faster to remove it.
        let mut marked = None;
        for _ in 0..DELETE_ATTEMPTS {
            let Some(entry) = current else {
                let gone = marked.map(|entry| Deleted { entry, gone: true });
                return gone.ok_or_else(|| ApiError::not_found(&self.target.gr, name));
            };
            match self.delete_once(&entry, options.clone(), &mut marked).await {
                Ok(deleted) => return Ok(deleted),
                Err(Refused::Api(error)) => return Err(error),
                Err(Refused::Conflict(found)) => {
                    let again =
                        |kv| Entry::new(cache.kind, cache.prefix.len(), kv, EventType::Modified, None);
                    current = found.as_ref().map(again).transpose()?.map(Arc::new);
                }
            }
        }
        Err(ApiError::modified(&self.target.gr, name))
    }

    async fn delete_once(
        &self,
        entry: &Arc<Entry>,
        options: DeleteOptions,
        to_remove: &mut Option<Arc<Entry>>,
    ) -> Result<Deleted, Refused> {
        let dry_run = is_dry_run(&options);
        let name = entry.name();
        let mut object = entry.object()?;
        self.check_preconditions(&object, &options)?;
        self.admit(Operation::Delete, name, dry_run, Some(&object), None).await?;
        self.validate(Operation::Delete, name, dry_run, Some(&object), None).await?;
        let namespace = self.target.is("", "namespaces");
        let deletion = if namespace { begin_delete(&mut object, self.now)? } else { Deletion::Free };
        let step = match deletion {
            Deletion::Begun => {
                set_finalizers(&mut object, &options, self.target.info.orphans_by_default);
                Step::Mark { then_remove: false }
            }
            Deletion::Held => Step::Wait,
            Deletion::Free => self.step(&mut object, options.grace_period_seconds, &options)?,
        };
        match step {
            Step::Wait => Ok(Deleted { entry: entry.clone(), gone: false }),
            Step::Remove => self.remove(entry, dry_run).await,
            Step::Mark { then_remove } => {
                object.meta_mut().resource_version = None;
                let marked = if entry.is_stored(&encode(&object)) {
                    entry.clone()
                } else {
                    let expect = Expect::Revision(entry.revision);
                    self.commit(entry.key.clone(), &object, expect, Some(entry), dry_run).await?
                };
                if !then_remove {
                    return Ok(Deleted { entry: marked, gone: false });
                }
                if dry_run {
                    return Ok(Deleted { entry: marked, gone: true });
                }
                *to_remove = Some(marked.clone());
                self.remove(&marked, false).await
            }
        }
    }

    async fn remove(&self, entry: &Arc<Entry>, dry_run: bool) -> Result<Deleted, Refused> {
        if dry_run {
            return Ok(Deleted { entry: entry.clone(), gone: true });
        }
        let expect = Expect::Revision(entry.revision);
        let write = Write { key: entry.key.clone(), expect, value: None, ttl: None };
        let written = self.resources.cache.store().write(write).await?;
        self.release(&entry.object()?).await;
        Ok(Deleted { entry: Arc::new(entry.at(written.revision, EventType::Deleted)?), gone: true })
    }

    fn check_preconditions(&self, object: &Object, options: &DeleteOptions) -> Result<(), ApiError> {
        let Some(wanted) = &options.preconditions else { return Ok(()) };
        let meta = object.meta();
        let name = meta.name.as_deref().unwrap_or("");
        let about = meta::GroupResource {
            group: self.target.info.gvk.group.clone(),
            resource: self.target.info.gvk.kind.clone(),
        };
        let found = meta.uid.as_deref().unwrap_or("");
        if let Some(uid) = wanted.uid.as_deref().filter(|u| *u != found) {
            return Err(ApiError::conflict(
                &about,
                name,
                format!(
                    "the UID in the precondition ({uid}) does not match the UID in record ({found}). The object might have been deleted and then recreated"
                ),
            ));
        }
        let found = meta.resource_version.as_deref().unwrap_or("");
        if let Some(version) = wanted.resource_version.as_deref().filter(|v| *v != found) {
            return Err(ApiError::conflict(
                &about,
                name,
                format!(
                    "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({found}). The object might have been modified"
                ),
            ));
        }
        Ok(())
    }

    /// Decides what to do and marks the object (`BeforeDelete`, `updateForGracefulDeletionAndFinalizers`).
    fn step(
        &self,
        object: &mut Object,
        requested: Option<i64>,
        options: &DeleteOptions,
    ) -> Result<Step, ApiError> {
        // A negative period counts as one second.
        let requested = requested.map(|s| if s < 0 { 1 } else { s });
        let graceful = match self.target.kind.grace_seconds(object, requested) {
            None => Grace::None,
            Some(default_seconds) => grace(object, requested, default_seconds, self.now),
        };
        if matches!(graceful, Grace::Pending) {
            return Ok(Step::Wait);
        }
        if !self.target.is("", "events") && !self.target.is("events.k8s.io", "events") {
            set_finalizers(object, options, self.target.info.orphans_by_default);
        }
        let pending_finalizers = object.meta().finalizers.as_ref().is_some_and(|f| !f.is_empty());
        match graceful {
            Grace::Set(seconds) => Ok(Step::Mark { then_remove: seconds == 0 && !pending_finalizers }),
            _ if pending_finalizers => {
                mark_as_deleting(object, self.now);
                Ok(Step::Mark { then_remove: false })
            }
            _ => Ok(Step::Remove),
        }
    }

    pub(super) async fn delete_collection(&self, body: Body) -> Result<Response, ApiError> {
        let list = ListOptions::parse(self.query, false)?;
        let options = self.options(body).await?;
        let request = ListRequest {
            selector: self.selector(&list)?,
            when: if list.resource_version.is_empty() { When::Newest } else { list.when()? },
            limit: list.limit,
            continue_token: list.continue_token,
        };
        let page = self.resources.cache.list(&self.target.cache, &request).await.map_err(|e| match e {
            crate::cache::pages::ListRefused::Api(e) => e,
            crate::cache::pages::ListRefused::ContinueExpired { error, .. } => error,
        })?;
        let mut results = futures::stream::iter(page.entries.iter().cloned().map(|entry| {
            let options = &options;
            async move {
                // a collection of all namespaces
                let call = self.on(self.target, entry.namespace(), self.name, self.subresource);
                call.delete_named(entry.name(), options).await
            }
        }))
        .buffered(COLLECTION_CONCURRENCY);
        while let Some(result) = results.next().await {
            match result {
                Err(error) if error.reason != Reason::NotFound => return Err(error),
                _ => {}
            }
        }
        drop(results);
        self.respond_list(page)
    }
}

enum Grace {
    /// The kind or this object has none.
    None,
    /// It ends already, and no sooner for this request.
    Pending,
    /// Marked to end after this many seconds.
    Set(i64),
}

fn grace(object: &mut Object, requested: Option<i64>, default_seconds: i64, now: Time) -> Grace {
    let meta = object.meta_mut();
    if let Some(period) = meta.deletion_grace_period_seconds.as_mut().filter(|s| **s < 0) {
        *period = 1;
    }
    if let Some(MetaTime(at)) = meta.deletion_timestamp {
        let current = match meta.deletion_grace_period_seconds {
            None | Some(0) => return Grace::None,
            Some(seconds) => seconds,
        };
        let Some(mut period) = requested.filter(|s| *s < current) else { return Grace::Pending };
        let mut new = after(at, period - current);
        if new < now {
            new = now;
            if period != 0 {
                period = 1;
            }
        }
        meta.deletion_timestamp = Some(MetaTime(truncate(new)));
        meta.deletion_grace_period_seconds = Some(period);
        return Grace::Set(period);
    }
    meta.deletion_timestamp = Some(MetaTime(after(now, default_seconds)));
    meta.deletion_grace_period_seconds = Some(default_seconds);
    if let Some(generation) = meta.generation.as_mut().filter(|g| **g > 0) {
        *generation += 1;
    }
    Grace::Set(default_seconds)
}

fn after(time: Time, seconds: i64) -> Time {
    Time::from_second(time.as_second().saturating_add(seconds)).unwrap_or(time)
}

/// Upstream's `markAsDeleting`.
pub(super) fn mark_as_deleting(object: &mut Object, now: Time) {
    let meta = object.meta_mut();
    if meta.deletion_timestamp.is_none()
        && let Some(generation) = meta.generation.as_mut().filter(|g| **g > 0)
    {
        *generation += 1;
    }
    if meta.deletion_timestamp.as_ref().is_none_or(|t| t.0 > now) {
        meta.deletion_timestamp = Some(MetaTime(now));
    }
    meta.deletion_grace_period_seconds = Some(0);
}

/// Sets or removes the finalizers that stand for the propagation policy
/// (`deletionFinalizersForGarbageCollection`).
fn set_finalizers(object: &mut Object, options: &DeleteOptions, orphans_by_default: bool) {
    let meta = object.meta_mut();
    let has = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
    let policy = options.propagation_policy.as_deref();
    let (orphan, foreground) = match (options.orphan_dependents, policy) {
        (Some(orphan), _) => (orphan, false),
        (None, Some("Orphan")) => (true, false),
        (None, Some("Foreground")) => (false, true),
        (None, Some(_)) => (false, false),
        (None, None) => {
            let first = meta.finalizers.iter().flatten().find(|f| *f == ORPHAN || *f == FOREGROUND).cloned();
            let orphan = first.as_deref() == Some(ORPHAN) || first.is_none() && orphans_by_default;
            (orphan, first.as_deref() == Some(FOREGROUND))
        }
    };
    if has(ORPHAN) == orphan && has(FOREGROUND) == foreground {
        return;
    }
    let mut finalizers = meta.finalizers.take().unwrap_or_default();
    finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
    if orphan {
        finalizers.push(ORPHAN.into());
    }
    if foreground {
        finalizers.push(FOREGROUND.into());
    }
    meta.finalizers = (!finalizers.is_empty()).then_some(finalizers);
}
