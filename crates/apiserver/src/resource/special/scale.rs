//! `/scale`: autoscaling/v1 Scale over any kind that declares how.

use crate::cache::{Entry, When};
use crate::negotiate::{Shape, content_encoding};
use crate::options::{WriteOptions, get_when};
use crate::request::{Body, Response};
use crate::resource::body;
use crate::resource::respond::any;
use crate::resource::update::UpdateRules;
use crate::resource::{Call, patch};
use crate::table::render;
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use kinds::{Cell, Object};
use meta::{ApiError, FieldError, GroupVersionKind, ObjectMeta, Path};
use serde_json::{Value, json};

const SCALE: GroupVersionKind = GroupVersionKind::of("autoscaling", "v1", "Scale");

impl Call<'_> {
    fn scale_of(&self, object: &Object) -> Result<Scale, ApiError> {
        let (spec, status, selector) = self.target.kind.scale(object).ok_or_else(ApiError::page_not_found)?;
        let meta = object.meta();
        Ok(Scale {
            metadata: ObjectMeta {
                name: meta.name.clone(),
                namespace: meta.namespace.clone(),
                uid: meta.uid.clone(),
                resource_version: meta.resource_version.clone(),
                creation_timestamp: meta.creation_timestamp.clone(),
                ..ObjectMeta::default()
            },
            spec: Some(ScaleSpec { replicas: Some(spec) }),
            status: Some(ScaleStatus {
                replicas: status,
                selector: Some(selector).filter(|s| !s.is_empty()),
            }),
        })
    }

    pub(in crate::resource) async fn get_scale(&self) -> Result<Response, ApiError> {
        let entry = self.read(get_when(self.query)?).await?.ok_or_else(|| self.not_found())?;
        let scale = self.scale_of(&entry.object()?)?;
        if self.accepted.shape == Shape::Table {
            return any(self.accepted, 200, &self.scale_table(&scale));
        }
        any(self.accepted, 200, &scale)
    }

    /// What `kubectl get --subresource=scale` prints.
    fn scale_table(&self, scale: &Scale) -> Value {
        let meta = &scale.metadata;
        let created = meta.creation_timestamp.as_ref().map(|t| t.0);
        let desired = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        let available = scale.status.as_ref().map_or(0, |s| s.replicas);
        let column = |name: &str, kind: &str| json!({"name": name, "type": kind, "format": "", "description": "", "priority": 0});
        let version = self.accepted.shape_version;
        let object = json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta});
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": {"resourceVersion": meta.resource_version},
            "columnDefinitions": [
                column("Name", "string"), column("Desired", "integer"), column("Available", "integer"),
                column("Age", "string"),
            ],
            "rows": [{
                "cells": [meta.name, desired, available, render(&Cell::Age(created), self.now)],
                "object": object,
            }],
        })
    }

    pub(in crate::resource) async fn update_scale(&self, body: Body) -> Result<Response, ApiError> {
        let options = WriteOptions::parse(self.query, "UpdateOptions", false)?;
        let encoding = content_encoding(&self.parts.headers)?;
        let json = body::to_json(encoding, body::read(body).await?)?;
        let scale: Scale = body::plain(&SCALE, &json)?;
        self.write_scale(&options, &mut |_| Ok(scale.clone())).await
    }

    pub(in crate::resource) async fn patch_scale(&self, body: Body) -> Result<Response, ApiError> {
        let kind = patch::PatchType::of(&self.parts.headers)?;
        let options = WriteOptions::parse(self.query, "PatchOptions", kind == patch::PatchType::Apply)?;
        let bytes = body::read(body).await?;
        self.read(When::Newest).await?.ok_or_else(|| self.not_found())?;
        self.write_scale(&options, &mut |current| {
            let current = serde_json::to_value(current).map_err(ApiError::internal)?;
            let patched = patch::patch_plain(kind, "io.k8s.api.autoscaling.v1.Scale", current, &bytes)?;
            serde_json::from_value(patched).map_err(|e| ApiError::bad_request(e.to_string()))
        })
        .await
    }

    async fn write_scale(
        &self,
        options: &WriteOptions,
        make_scale: &mut (dyn FnMut(&Scale) -> Result<Scale, ApiError> + Send),
    ) -> Result<Response, ApiError> {
        let manager = options.manager(&self.context.agent).to_owned();
        let mut make = |old: Option<&Object>, _: Option<&Entry>| {
            let Some(old) = old else { return Err(self.not_found()) };
            let scale = make_scale(&self.scale_of(old)?)?;
            self.check_scale(&scale, old)?;
            let mut new = old.clone();
            self.target.kind.set_scale(&mut new, scale.spec.and_then(|s| s.replicas).unwrap_or(0));
            new.meta_mut().resource_version = scale.metadata.resource_version.filter(|v| !v.is_empty());
            self.manage_fields(Some(old), &mut new, &manager);
            Ok(new)
        };
        let changed = self.change(&mut make, &UpdateRules::of(options)).await?;
        any(self.accepted, 200, &self.scale_of(&changed.entry.object()?)?)
    }

    fn check_scale(&self, scale: &Scale, old: &Object) -> Result<(), ApiError> {
        let name = scale.metadata.name.as_deref().unwrap_or("");
        if name != self.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.name
            )));
        }
        let found = old.meta().uid.as_deref().unwrap_or("");
        if let Some(uid) = scale.metadata.uid.as_deref().filter(|u| !u.is_empty() && *u != found) {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {found}");
            return Err(ApiError::conflict(&self.target.gr, name, why));
        }
        let replicas = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        if replicas < 0 {
            let path = Path::new("spec").child("replicas");
            let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
            return Err(ApiError::invalid(&SCALE, name, &[error]));
        }
        Ok(())
    }
}
