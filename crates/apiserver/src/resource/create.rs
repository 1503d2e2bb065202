//! POST: a new object.

use super::admission_hook::Operation;
use super::body;
use super::{Call, rules, special, write_failure};
use crate::cache::{Attrs, Entry, EventType};
use crate::negotiate::content_encoding;
use crate::options::WriteOptions;
use crate::request::{Body, Response};
use bytes::Bytes;
use kinds::Object;
use meta::{ApiError, Reason};
use std::sync::Arc;
use store::{Expect, Key, KeyValue, Revision, StoreError, Write};

/// Names generated before giving up, as upstream.
const GENERATE_NAME_ATTEMPTS: usize = 8;

impl Call<'_> {
    pub(super) async fn create(&self, body: Body) -> Result<Response, ApiError> {
        let encoding = content_encoding(&self.parts.headers)?;
        let options = WriteOptions::parse(self.query, "CreateOptions", false)?;
        let json = body::to_json(encoding, body::read(body).await?)?;
        let mut object = body::object(self.target.kind, &json, options.field_validation, &self.warnings)?;
        self.target.kind.default(&mut object);
        rules::wipe_system_fields(object.meta_mut());
        rules::ensure_namespace(object.meta_mut(), self.target.info.scope, self.namespace)?;
        rules::dedup_owner_references(object.meta_mut(), false, &self.warnings);
        self.manage_fields(None, &mut object, options.manager(&self.context.agent));
        let name = object.meta().name.clone().unwrap_or_default();
        self.admit(Operation::Create, &name, options.dry_run, None, Some(&mut object)).await?;
        rules::dedup_owner_references(object.meta_mut(), true, &self.warnings);
        let entry = self.create_object(object, options.dry_run).await?;
        self.respond(201, &entry)
    }

    /// Commits a new object, defaulted and mutated; generates its name where it has none.
    pub(super) async fn create_object(&self, object: Object, dry_run: bool) -> Result<Arc<Entry>, ApiError> {
        let meta = object.meta();
        if meta.resource_version.as_deref().is_some_and(|v| !v.is_empty() && v != "0") {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(ApiError::new(Reason::Unknown(500), message));
        }
        let generates = meta.name.as_deref().unwrap_or("").is_empty()
            && meta.generate_name.as_deref().is_some_and(|g| !g.is_empty());
        if !generates {
            return self.create_named(object, dry_run).await;
        }
        let mut last = None;
        for _ in 0..GENERATE_NAME_ATTEMPTS {
            let mut attempt = object.clone();
            let base = attempt.meta().generate_name.clone().unwrap_or_default();
            attempt.meta_mut().name = Some(rules::generate_name(&base));
            match self.create_named(attempt, dry_run).await {
                Err(error) if error.reason == Reason::AlreadyExists => last = Some(error),
                done => return done,
            }
        }
        let mut error = last.expect("at least one attempt was made");
        error.message.push_str(", the server was not able to generate a unique name for the object");
        Err(error.retry_after(1))
    }

    async fn create_named(&self, mut object: Object, dry_run: bool) -> Result<Arc<Entry>, ApiError> {
        let kind = self.target.kind;
        rules::fill_system_fields(object.meta_mut(), self.now);
        let reservation = self.reserve(&mut object, None, dry_run).await?;
        rules::before_create(kind, &mut object, self.now)?;
        self.warnings.extend(kind.warnings(&object, None));
        let name = object.meta().name.clone().unwrap_or_default();
        self.validate(Operation::Create, &name, dry_run, None, Some(&object)).await?;
        let object = self.stored_form(object)?;
        let key = self.target.cache.key(self.namespace, &name);
        let written = self.commit(key, &object, Expect::Absent, None, dry_run).await;
        let entry = match written {
            Ok(entry) => entry,
            Err(Refused::Conflict(_)) => return Err(ApiError::already_exists(&self.target.gr, &name)),
            Err(Refused::Api(error)) => return Err(error),
        };
        if !dry_run {
            reservation.keep().await;
        }
        Ok(entry)
    }

    /// The object in the kind that is stored.
    pub(super) fn stored_form(&self, object: Object) -> Result<Object, ApiError> {
        if self.target.is_view() { special::events::to_stored(&object) } else { Ok(object) }
    }

    /// Writes an object, or on a dry run gives what would be. `old`: what it replaces.
    pub(super) async fn commit(
        &self,
        key: Key,
        object: &Object,
        expect: Expect,
        old: Option<&Entry>,
        dry_run: bool,
    ) -> Result<Arc<Entry>, Refused> {
        let kind = self.target.cache.kind;
        let value = encode(object);
        let attrs = Arc::new(Attrs::of(kind, object));
        let made_by = if old.is_some() { EventType::Modified } else { EventType::Added };
        let revision = if dry_run {
            old.map_or(Revision(0), |o| o.revision)
        } else {
            let prepared = self.resources.cache.prepare(&key, &value, attrs.clone());
            let ttl = special::events::ttl(self);
            let write = Write { key: key.clone(), expect, value: Some(value.clone()), ttl };
            let written = self.resources.cache.store().write(write).await?;
            prepared.committed();
            written.revision
        };
        if dry_run
            && expect == Expect::Absent
            && self.resources.cache.store().get(&key).await.map_err(|e| write_failure(&e))?.is_some()
        {
            return Err(Refused::Conflict(None));
        }
        let create_revision = old.map_or(revision, |o| o.create_revision);
        let kv = KeyValue { key, value, create_revision, mod_revision: revision };
        Ok(Arc::new(Entry::new(kind, self.target.cache.prefix.len(), &kv, made_by, Some(attrs))?))
    }
}

/// The stored bytes of an object: the revision is the store's to say.
pub(super) fn encode(object: &Object) -> Bytes {
    if object.meta().resource_version.is_none() {
        return object.encode().into();
    }
    let mut object = object.clone();
    object.meta_mut().resource_version = None;
    object.encode().into()
}

/// Why a commit did not happen.
pub(super) enum Refused {
    /// What is stored instead.
    Conflict(Option<KeyValue>),
    Api(ApiError),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { current } => Self::Conflict(current),
            other => Self::Api(write_failure(&other)),
        }
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}
