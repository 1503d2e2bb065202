//! PUT, and what every change of a stored object goes through (upstream's `Store.Update`).

use super::admission_hook::Operation;
use super::body;
use super::create::{Refused, encode};
use super::{Call, rules, special};
use crate::cache::{Entry, EventType, When};
use crate::negotiate::content_encoding;
use crate::options::WriteOptions;
use crate::request::{Body, Response};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kinds::Object;
use meta::{ApiError, FieldError, GroupVersionKind, Path};
use std::sync::Arc;
use store::{Expect, StoreError, Write};

/// How often a change is tried again when another writer was first. Upstream tries until the request times out.
const UPDATE_ATTEMPTS: usize = 64;

/// What a change produces.
pub(super) struct Changed {
    pub entry: Arc<Entry>,
    pub created: bool,
}

/// Makes the new object from the stored one (None: it does not exist), before admission.
pub(super) type Make<'m> = dyn FnMut(Option<&Object>, Option<&Entry>) -> Result<Object, ApiError> + Send + 'm;

/// How a change is made.
#[derive(Clone, Debug)]
pub(super) struct UpdateRules {
    pub dry_run: bool,
    /// Create where it does not exist, whatever the kind says (apply).
    pub force_create: bool,
    /// The uid that the stored object must have.
    pub uid: Option<String>,
    /// Skips the strategy's and admission's say: the API server's own changes (binding).
    pub internal: bool,
}

impl UpdateRules {
    pub fn of(options: &WriteOptions) -> Self {
        Self { dry_run: options.dry_run, force_create: false, uid: None, internal: false }
    }
}

impl Call<'_> {
    pub(super) async fn update(&self, body: Body) -> Result<Response, ApiError> {
        let options = WriteOptions::parse(self.query, "UpdateOptions", false)?;
        let encoding = content_encoding(&self.parts.headers)?;
        let json = body::to_json(encoding, body::read(body).await?)?;
        let kind = self.target.kind;
        let mut object = body::object(kind, &json, options.field_validation, &self.warnings)?;
        kind.default(&mut object);
        rules::ensure_namespace(object.meta_mut(), self.target.info.scope, self.namespace)?;
        self.check_name(&object)?;
        rules::dedup_owner_references(object.meta_mut(), false, &self.warnings);
        let uid = object.meta().uid.clone().filter(|u| !u.is_empty());
        let manager = options.manager(&self.context.agent).to_owned();
        let mut make = |old: Option<&Object>, _: Option<&Entry>| {
            let mut new = object.clone();
            self.manage_fields(old, &mut new, &manager);
            Ok(new)
        };
        let changed = self.change(&mut make, &UpdateRules { uid, ..UpdateRules::of(&options) }).await?;
        self.respond(if changed.created { 201 } else { 200 }, &changed.entry)
    }

    /// # Errors
    /// BadRequest, where body and path name different objects.
    pub(super) fn check_name(&self, object: &Object) -> Result<(), ApiError> {
        let given = object.meta().name.as_deref().unwrap_or("");
        if given != self.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({})",
                self.name
            )));
        }
        Ok(())
    }

    /// Changes the object that the path names, again and again until no other writer comes in between.
    pub(super) async fn change(&self, make: &mut Make<'_>, rules: &UpdateRules) -> Result<Changed, ApiError> {
        let cache = &self.target.cache;
        let mut current = self.read(When::Newest).await?;
        for _ in 0..UPDATE_ATTEMPTS {
            let attempt = match &current {
                Some(entry) => self.change_existing(entry, make, rules).await,
                None => self.create_by_change(make, rules).await,
            };
            match attempt {
                Ok(changed) => return Ok(changed),
                Err(Refused::Api(error)) => return Err(error),
                Err(Refused::Conflict(found)) => {
                    let entry =
                        |kv| Entry::new(cache.kind, cache.prefix.len(), kv, EventType::Modified, None);
                    current = found.as_ref().map(entry).transpose()?.map(Arc::new);
                }
            }
        }
        Err(ApiError::modified(&self.target.gr, self.name))
    }

    async fn create_by_change(&self, make: &mut Make<'_>, rules: &UpdateRules) -> Result<Changed, Refused> {
        if !(self.target.info.create_on_update || rules.force_create) || !self.subresource.is_empty() {
            return Err(self.not_found().into());
        }
        if let Some(uid) = &rules.uid {
            return Err(self.wrong_uid(uid, "").into());
        }
        let mut object = make(None, None)?;
        if let Some(uid) = object.meta().uid.as_deref().filter(|u| !u.is_empty()) {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(ApiError::conflict(&self.target.gr, self.name, why).into());
        }
        super::rules::wipe_system_fields(object.meta_mut());
        object.meta_mut().resource_version = None;
        super::rules::ensure_namespace(object.meta_mut(), self.target.info.scope, self.namespace)?;
        self.admit(Operation::Create, self.name, rules.dry_run, None, Some(&mut object)).await?;
        super::rules::dedup_owner_references(object.meta_mut(), true, &self.warnings);
        match self.create_object(object, rules.dry_run).await {
            Ok(entry) => Ok(Changed { entry, created: true }),
            Err(error) if error.reason == meta::Reason::AlreadyExists => {
                let key = self.target.cache.key(self.namespace, self.name);
                let found = self.resources.cache.store().get(&key).await?;
                Err(Refused::Conflict(found))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn wrong_uid(&self, wanted: &str, found: &str) -> ApiError {
        let key = self.target.cache.key(self.namespace, self.name);
        ApiError::conflict(
            &self.target.gr,
            self.name,
            format!(
                "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
            ),
        )
    }

    /// The resource version that the client saw must be the stored one.
    fn check_resource_version(&self, new: &mut Object, old: &Object) -> Result<(), ApiError> {
        let given = new.meta().resource_version.as_deref().filter(|v| !v.is_empty() && *v != "0");
        let stored = old.meta().resource_version.as_deref();
        match given {
            None if self.target.info.unconditional_update => {
                new.meta_mut().resource_version = stored.map(str::to_owned);
                Ok(())
            }
            None => {
                let path = Path::new("metadata").child("resourceVersion");
                let mut error = FieldError::invalid(&path, 0_i64, "must be specified for an update");
                // Go prints an unsigned number of an error so.
                error.value = Some("0x0".into());
                let resource = GroupVersionKind {
                    group: self.target.gr.group.clone(),
                    version: self.target.gvr.version.clone(),
                    kind: self.target.gr.resource.clone(),
                };
                Err(ApiError::invalid(&resource, self.name, &[error]))
            }
            Some(given) if given.parse::<u64>().is_err() => {
                let path = Path::new("metadata").child("resourceVersion");
                let why = format!("strconv.ParseUint: parsing {given:?}: invalid syntax");
                Err(ApiError::invalid(
                    &self.target.info.gvk,
                    self.name,
                    &[FieldError::invalid(&path, given, why)],
                ))
            }
            Some(given) if Some(given) == stored => Ok(()),
            Some(_) => Err(ApiError::modified(&self.target.gr, self.name)),
        }
    }

    /// The stored object in the kind of the path.
    pub(super) fn stored_object(&self, entry: &Entry) -> Result<Object, ApiError> {
        if self.target.is_view() {
            return self.target.kind.decode(&self.target.json(entry)).map_err(ApiError::internal);
        }
        entry.object()
    }

    async fn change_existing(
        &self,
        entry: &Arc<Entry>,
        make: &mut Make<'_>,
        how: &UpdateRules,
    ) -> Result<Changed, Refused> {
        let old = self.stored_object(entry)?;
        if let Some(uid) = &how.uid {
            let found = old.meta().uid.as_deref().unwrap_or("");
            if uid != found {
                return Err(self.wrong_uid(uid, found).into());
            }
        }
        let mut new = make(Some(&old), Some(entry))?;
        if !how.internal {
            self.admit(Operation::Update, self.name, how.dry_run, Some(&old), Some(&mut new)).await?;
            rules::dedup_owner_references(new.meta_mut(), true, &self.warnings);
        }
        self.check_resource_version(&mut new, &old)?;
        rules::ensure_namespace(new.meta_mut(), self.target.info.scope, self.namespace)?;
        let reservation =
            if how.internal { None } else { Some(self.reserve(&mut new, Some(&old), how.dry_run).await?) };
        if !how.internal {
            // A scale is written through the rules of the main resource.
            let subresource = if self.subresource == "scale" { "" } else { self.subresource };
            rules::before_update(self.target.kind, &mut new, &old, subresource, self.now)?;
            if subresource.is_empty() {
                self.warnings.extend(self.target.kind.warnings(&new, Some(&old)));
            }
            self.validate(Operation::Update, self.name, how.dry_run, Some(&old), Some(&new)).await?;
        }
        let before = self.stored_form(old)?;
        let mut new = self.stored_form(new)?;
        new.meta_mut().resource_version = None;
        if deletes_during_update(&new, &before) && special::namespaces::may_delete_during_update(&new) {
            return self.delete_emptied(entry, &new, how.dry_run).await;
        }
        if self.is_unchanged(entry, &mut new, &before) {
            return Ok(Changed { entry: entry.clone(), created: false });
        }
        let expect = Expect::Revision(entry.revision);
        let written = self.commit(entry.key.clone(), &new, expect, Some(entry), how.dry_run).await?;
        if !how.dry_run
            && let Some(reservation) = reservation
        {
            reservation.keep().await;
        }
        Ok(Changed { entry: written, created: false })
    }

    /// Whether nothing but times of managed fields differs: then nothing is written.
    fn is_unchanged(&self, entry: &Entry, new: &mut Object, old: &Object) -> bool {
        if entry.is_stored(&encode(new)) {
            return true;
        }
        let (new_fields, old_fields) = (&new.meta().managed_fields, &old.meta().managed_fields);
        if new_fields == old_fields || !same_but_times(new_fields.as_deref(), old_fields.as_deref()) {
            return false;
        }
        let mut as_before = new.clone();
        as_before.meta_mut().managed_fields.clone_from(old_fields);
        entry.is_stored(&encode(&as_before))
    }

    /// The last finalizer of an object under deletion is gone: so is the object.
    async fn delete_emptied(
        &self,
        entry: &Arc<Entry>,
        new: &Object,
        dry_run: bool,
    ) -> Result<Changed, Refused> {
        let gone = {
            let kv = store::KeyValue {
                key: entry.key.clone(),
                value: encode(new),
                create_revision: entry.create_revision,
                mod_revision: entry.revision,
            };
            Entry::new(entry.kind, self.target.cache.prefix.len(), &kv, EventType::Modified, None)?
        };
        if !dry_run {
            let expect = Expect::Revision(entry.revision);
            let write = Write { key: entry.key.clone(), expect, value: None, ttl: None };
            match self.resources.cache.store().write(write).await {
                Ok(_) => self.release(new).await,
                // Another writer's update removed the finalizers too.
                Err(StoreError::Conflict { current: None }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Changed { entry: Arc::new(gone), created: false })
    }
}

/// Upstream's `ShouldDeleteDuringUpdate`.
fn deletes_during_update(new: &Object, old: &Object) -> bool {
    new.meta().finalizers.as_ref().is_none_or(Vec::is_empty)
        && old.meta().deletion_timestamp.is_some()
        && old.meta().deletion_grace_period_seconds.is_none_or(|s| s == 0)
}

fn same_but_times(a: Option<&[ManagedFieldsEntry]>, b: Option<&[ManagedFieldsEntry]>) -> bool {
    let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            ManagedFieldsEntry { time: None, ..a.clone() } == ManagedFieldsEntry { time: None, ..b.clone() }
        })
}
