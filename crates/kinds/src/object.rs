//! Kinds and objects without their type parameter: what the API server's generic request path handles.

use crate::kind::{Cell, Column, ColumnInfo, Info, Kind, Subresource, SubresourceForm, SubresourceInfo};
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::{FieldErrors, GroupVersionKind, Time};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::any::Any;
use std::sync::OnceLock;

/// A typed object behind a pointer.
pub trait AnyObject: Any + Send + Sync {
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// JSON with `apiVersion` and `kind` first, the other fields in the order of their names.
    fn encode(&self) -> Vec<u8>;
    fn to_value(&self) -> Value;
    fn boxed_clone(&self) -> Object;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// An object of a kind that is known at run time only.
pub type Object = Box<dyn AnyObject>;

impl Clone for Object {
    fn clone(&self) -> Self {
        (**self).boxed_clone()
    }
}

impl dyn AnyObject {
    /// The typed object, where it is a `T`.
    pub fn downcast<T: 'static>(&self) -> Option<&T> {
        self.as_any().downcast_ref()
    }

    pub fn downcast_mut<T: 'static>(&mut self) -> Option<&mut T> {
        self.as_any_mut().downcast_mut()
    }
}

/// What a type must be to be a kind's object: every `k8s-openapi` resource with object metadata is.
pub trait Typed:
    Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static
{
}
impl<T: Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Typed
    for T
{
}

impl<T: Typed> AnyObject for T {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("API objects have string keys and finite numbers")
    }

    fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("API objects have string keys and finite numbers")
    }

    fn boxed_clone(&self) -> Object {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// A kind without its type parameter. Objects passed in must be of this kind.
pub trait AnyKind: Send + Sync {
    fn info(&self) -> &Info;
    fn decode(&self, json: &[u8]) -> Result<Object, serde_json::Error>;
    #[allow(clippy::wrong_self_convention)] // `self` is the kind, not the object
    fn from_value(&self, value: Value) -> Result<Object, serde_json::Error>;
    fn default(&self, object: &mut Object);
    fn prepare_create(&self, object: &mut Object);
    /// `subresource`: empty for the main resource, else `status` or the name of a `Part`.
    fn prepare_update(&self, new: &mut Object, old: &Object, subresource: &str);
    /// Sets the times that the server tells; `old`: what it replaces.
    fn stamp(&self, new: &mut Object, old: Option<&Object>, now: Time);
    fn validate_create(&self, object: &Object) -> FieldErrors;
    fn validate_update(&self, new: &Object, old: &Object, subresource: &str) -> FieldErrors;
    /// What a valid object is warned of; `old`: what it replaces.
    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String>;
    /// Seconds; None where the kind is removed at once.
    fn grace_seconds(&self, object: &Object, requested: Option<i64>) -> Option<i64>;
    /// Values of [`Info::selectable`], in its order.
    fn fields(&self, object: &Object) -> Vec<String>;
    /// Cells of [`Info::columns`], in its order.
    fn cells(&self, object: &Object) -> Vec<Cell>;
    /// (spec replicas, status replicas, selector), where the kind has `/scale`.
    fn scale(&self, object: &Object) -> Option<(i32, i32, String)>;
    fn set_scale(&self, object: &mut Object, replicas: i32);
}

fn typed<T: Typed>(object: &Object) -> &T {
    (**object).downcast().expect("an object reaches only the kind that decoded it")
}

fn typed_mut<T: Typed>(object: &mut Object) -> &mut T {
    (**object).downcast_mut().expect("an object reaches only the kind that decoded it")
}

/// [`Kind`] with the [`Info`] derived from it; what a kind's file declares as its static.
pub struct Registered<T: 'static> {
    pub kind: Kind<T>,
    info: OnceLock<Info>,
}

impl<T: Typed> Registered<T> {
    pub const fn new(kind: Kind<T>) -> Self {
        Self { kind, info: OnceLock::new() }
    }
}

const READ_WRITE: &[&str] = &["get", "patch", "update"];

/// What prepares a change and what validates it.
type Access<T> = (fn(&mut T, &T), fn(&T, &T) -> FieldErrors);

impl<T: Typed> Registered<T> {
    /// Of the main resource where `subresource` is empty.
    fn access(&self, subresource: &str) -> Access<T> {
        if subresource.is_empty() {
            return (self.kind.strategy.prepare_update, self.kind.validate.update);
        }
        let of = |s: &Subresource<T>| match s {
            Subresource::Status(a) if subresource == "status" => Some((a.prepare, a.validate)),
            Subresource::Part(a) if subresource == a.name => Some((a.prepare, a.validate)),
            _ => None,
        };
        self.kind.subresources.iter().find_map(of).expect("the request path looks the subresource up first")
    }

    fn derive_info(&self) -> Info {
        let k = &self.kind;
        let own = || k.gvk.clone();
        let scale = || GroupVersionKind::of("autoscaling", "v1", "Scale");
        let subresource = |s: &Subresource<T>| {
            let (name, gvk, verbs, form) = match s {
                Subresource::Status(_) => ("status", own(), READ_WRITE, SubresourceForm::Status),
                Subresource::Scale(_) => ("scale", scale(), READ_WRITE, SubresourceForm::Scale),
                Subresource::Part(p) => (p.name, own(), p.verbs, SubresourceForm::Part),
                Subresource::Connect(c) => (c.name, c.gvk.clone(), c.verbs, SubresourceForm::Connect),
            };
            SubresourceInfo { name, gvk, verbs, form }
        };
        let column = |c: &Column<T>| {
            let Column { name, kind, format, description, priority, cell: _ } = *c;
            ColumnInfo { name, kind, format, description, priority }
        };
        Info {
            gvk: k.gvk.clone(),
            names: k.names.clone(),
            scope: k.scope,
            definition: k.definition,
            storage: k.storage,
            name_rule: k.name_rule,
            create_on_update: k.strategy.create_on_update,
            unconditional_update: k.strategy.unconditional_update,
            graceful: k.strategy.graceful_delete.is_some(),
            orphans_by_default: k.strategy.orphans_by_default,
            subresources: k.subresources.iter().map(subresource).collect(),
            selectable: k.selectable.iter().map(|s| s.path).collect(),
            columns: k.columns.iter().map(column).collect(),
        }
    }
}

impl<T: Typed> AnyKind for Registered<T> {
    fn info(&self) -> &Info {
        self.info.get_or_init(|| self.derive_info())
    }

    fn decode(&self, json: &[u8]) -> Result<Object, serde_json::Error> {
        Ok(Box::new(serde_json::from_slice::<T>(json)?))
    }

    fn from_value(&self, value: Value) -> Result<Object, serde_json::Error> {
        Ok(Box::new(serde_json::from_value::<T>(value)?))
    }

    fn default(&self, object: &mut Object) {
        (self.kind.default)(typed_mut(object));
    }

    fn prepare_create(&self, object: &mut Object) {
        (self.kind.strategy.prepare_create)(typed_mut(object));
    }

    fn prepare_update(&self, new: &mut Object, old: &Object, subresource: &str) {
        self.access(subresource).0(typed_mut(new), typed(old));
    }

    fn stamp(&self, new: &mut Object, old: Option<&Object>, now: Time) {
        if let Some(stamp) = self.kind.strategy.stamp {
            stamp(typed_mut(new), old.map(typed), now);
        }
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        (self.kind.validate.create)(typed(object))
    }

    fn validate_update(&self, new: &Object, old: &Object, subresource: &str) -> FieldErrors {
        self.access(subresource).1(typed(new), typed(old))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        (self.kind.strategy.warnings)(typed(new), old.map(typed))
    }

    fn grace_seconds(&self, object: &Object, requested: Option<i64>) -> Option<i64> {
        self.kind.strategy.graceful_delete.map(|f| f(typed(object), requested))
    }

    fn fields(&self, object: &Object) -> Vec<String> {
        self.kind.selectable.iter().map(|s| (s.value)(typed(object))).collect()
    }

    fn cells(&self, object: &Object) -> Vec<Cell> {
        self.kind.columns.iter().map(|c| (c.cell)(typed(object))).collect()
    }

    fn scale(&self, object: &Object) -> Option<(i32, i32, String)> {
        self.kind.subresources.iter().find_map(|s| match s {
            Subresource::Scale(a) => {
                let t = typed(object);
                Some(((a.spec_replicas)(t), (a.status_replicas)(t), (a.selector)(t)))
            }
            _ => None,
        })
    }

    fn set_scale(&self, object: &mut Object, replicas: i32) {
        for s in self.kind.subresources {
            if let Subresource::Scale(a) = s {
                (a.set_spec_replicas)(typed_mut(object), replicas);
            }
        }
    }
}
