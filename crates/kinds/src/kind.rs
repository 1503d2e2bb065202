//! The declaration of a kind. All fields are mandatory: what is forgotten does not compile.

use meta::{FieldErrors, GroupVersionKind, Time};
use serde_json::Value;

/// What the API server knows of a kind whose objects are of type `T`.
pub struct Kind<T: 'static> {
    pub gvk: GroupVersionKind,
    pub names: Names,
    pub scope: Scope,
    /// The definition in the `schema` crate: `io.k8s.api.apps.v1.ReplicaSet`.
    pub definition: &'static str,
    /// Path of the key in the store below `/registry/`, as upstream's: `pods`, `services/specs`.
    pub storage: &'static str,
    /// What `metadata.name` may be.
    pub name_rule: NameRule,
    /// Fills what the client left out, as upstream's `SetDefaults_*`.
    pub default: fn(&mut T),
    /// Upstream's paths and reasons. Object metadata is checked by the caller, for all kinds alike.
    pub validate: Validate<T>,
    /// Who may write what, and when `metadata.generation` grows.
    pub strategy: Strategy<T>,
    pub subresources: &'static [Subresource<T>],
    /// Fields a field selector may name, besides `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [Selectable<T>],
    /// Columns of the server-side table after NAME, which every kind has first.
    pub columns: &'static [Column<T>],
}

/// What the resource is called, as discovery says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub plural: &'static str,
    pub singular: &'static str,
    pub short: &'static [&'static str],
    pub categories: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, 253 bytes: most kinds.
    DnsSubdomain,
    /// RFC 1123 label, 63 bytes: namespaces, services.
    DnsLabel,
    /// Any single path segment: RBAC objects, events, disruption budgets.
    PathSegment,
    /// An IP address in its canonical form: IPAddress.
    IpAddress,
}

/// What a valid object is.
pub struct Validate<T> {
    /// Errors of a new object, defaults filled in.
    pub create: fn(&T) -> FieldErrors,
    /// Errors of a change of the main resource: the new object, then the one it replaces.
    pub update: fn(&T, &T) -> FieldErrors,
}

/// What a write through the main resource may change.
pub struct Strategy<T> {
    /// Clears what a client may not set on create (status) and sets the first generation.
    pub prepare_create: fn(&mut T),
    /// Given the new object and the one it replaces: takes back what only a subresource may write, and
    /// raises the generation where the specification changed. The caller has put back the stored generation,
    /// here and for subresources (upstream's `rest.BeforeUpdate`).
    pub prepare_update: fn(&mut T, &T),
    /// Given the new object, the stored one if there is one and the time of the write: sets the times that the server
    /// tells, through the main resource and subresources.
    pub stamp: Option<fn(&mut T, Option<&T>, Time)>,
    /// PUT of an absent name creates (leases, endpoints, events, nodes... as upstream's strategies say).
    pub create_on_update: bool,
    /// PUT without a resourceVersion overwrites.
    pub unconditional_update: bool,
    /// The grace period of a delete in seconds, for kinds that end gracefully (pods): the object and the
    /// requested period.
    pub graceful_delete: Option<fn(&T, Option<i64>) -> i64>,
    /// What a delete that does not say leaves alone what the object owns, as kinds from before garbage collection do.
    pub orphans_by_default: bool,
    /// What a valid object is warned of, and the stored one where it replaces one.
    pub warnings: fn(&T, Option<&T>) -> Vec<String>,
}

/// A path below the object.
pub enum Subresource<T: 'static> {
    /// `/status`: get, patch, update of the status alone.
    Status(StatusAccess<T>),
    /// `/scale`: autoscaling/v1 Scale.
    Scale(ScaleAccess<T>),
    /// Another way to write the same object (`pods/resize`, `pods/ephemeralcontainers`,
    /// `namespaces/finalize`): get, patch, update.
    Part(PartAccess<T>),
    /// Served by the API server's own code (`pods/log`, `pods/exec`, `pods/binding`, `serviceaccounts/token`):
    /// declared here for discovery, OpenAPI and authorization.
    Connect(Connect),
}

/// How `/status` is written.
pub struct StatusAccess<T> {
    /// Given the new object and the stored one: takes back everything but the status.
    pub prepare: fn(&mut T, &T),
    pub validate: fn(&T, &T) -> FieldErrors,
}

/// How a path is written that has the whole object for a body, of which it takes a part.
pub struct PartAccess<T> {
    pub name: &'static str,
    /// Given the new object and the stored one: takes back everything this path may not write.
    pub prepare: fn(&mut T, &T),
    pub validate: fn(&T, &T) -> FieldErrors,
    /// Verbs in discovery.
    pub verbs: &'static [&'static str],
}

/// What `/scale` shows and sets.
pub struct ScaleAccess<T> {
    pub spec_replicas: fn(&T) -> i32,
    pub set_spec_replicas: fn(&mut T, i32),
    pub status_replicas: fn(&T) -> i32,
    /// The selector in query-string form.
    pub selector: fn(&T) -> String,
}

/// What discovery says of a path that the API server's own code serves.
#[derive(Clone, Debug)]
pub struct Connect {
    pub name: &'static str,
    /// Kind of the body or answer: (`policy`, `v1`, `Eviction`) for `pods/eviction`.
    pub gvk: GroupVersionKind,
    pub verbs: &'static [&'static str],
}

/// A field that a field selector may name.
pub struct Selectable<T> {
    /// `spec.nodeName`.
    pub path: &'static str,
    pub value: fn(&T) -> String,
}

/// A column of the server-side table (meta.k8s.io/v1 Table).
pub struct Column<T> {
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean`.
    pub kind: &'static str,
    pub format: &'static str,
    /// From the API reference's field documentation.
    pub description: &'static str,
    /// 0 is always shown; 1 with `-o wide`.
    pub priority: i32,
    pub cell: fn(&T) -> Cell,
}

/// A cell that does not go stale: what depends on the clock is rendered when the table is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Value(Value),
    /// Time since then, as `5m30s`; `<unknown>` where absent.
    Age(Option<Time>),
    /// A count with the time since it last rose: `3 (5m ago)`.
    CountSince(i64, Option<Time>),
    /// A span of time in seconds, as `5m30s`.
    Span(i64),
}

impl Cell {
    pub fn str(s: impl Into<String>) -> Self {
        Self::Value(Value::String(s.into()))
    }

    pub fn int(i: impl Into<i64>) -> Self {
        Self::Value(Value::from(i.into()))
    }
}

/// What the declaration says without its type parameter.
#[derive(Clone, Debug)]
pub struct Info {
    pub gvk: GroupVersionKind,
    pub names: Names,
    pub scope: Scope,
    pub definition: &'static str,
    pub storage: &'static str,
    pub name_rule: NameRule,
    pub create_on_update: bool,
    pub unconditional_update: bool,
    pub graceful: bool,
    pub orphans_by_default: bool,
    pub subresources: Vec<SubresourceInfo>,
    pub selectable: Vec<&'static str>,
    pub columns: Vec<ColumnInfo>,
}

/// A [`Subresource`] without its type parameter.
#[derive(Clone, Debug)]
pub struct SubresourceInfo {
    pub name: &'static str,
    /// Of the body: the parent's kind for `status`, `autoscaling/v1 Scale` for `scale`.
    pub gvk: GroupVersionKind,
    pub verbs: &'static [&'static str],
    pub form: SubresourceForm,
}

/// Which of the [`Subresource`]s it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubresourceForm {
    Status,
    Scale,
    Part,
    Connect,
}

/// A [`Column`] without its type parameter.
#[derive(Clone, Copy, Debug)]
pub struct ColumnInfo {
    pub name: &'static str,
    pub kind: &'static str,
    pub format: &'static str,
    pub description: &'static str,
    pub priority: i32,
}
