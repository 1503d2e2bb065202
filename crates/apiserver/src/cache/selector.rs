//! What a list or watch selects: namespace, labels and fields, resolved against the kind.

use super::entry::Entry;
use kinds::Info;
use meta::{ApiError, FieldSelector, LabelSelector};

/// A field a selector may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldRef {
    Name,
    Namespace,
    /// Of the kind's `Info::selectable`.
    Index(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub field: FieldRef,
    pub value: Box<str>,
    pub negated: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Selector {
    /// None: all namespaces, or cluster scope.
    pub namespace: Option<Box<str>>,
    pub labels: LabelSelector,
    pub fields: Vec<FieldTerm>,
}

impl Selector {
    /// # Errors
    /// BadRequest where the kind does not support a field, in upstream's words.
    pub fn new(
        info: &Info,
        namespace: &str,
        labels: LabelSelector,
        fields: &FieldSelector,
    ) -> Result<Self, ApiError> {
        let mut terms = Vec::with_capacity(fields.terms.len());
        for term in &fields.terms {
            let field = match term.path.as_str() {
                "metadata.name" => FieldRef::Name,
                "metadata.namespace" => FieldRef::Namespace,
                path => match info.selectable.iter().position(|p| *p == path) {
                    Some(i) => FieldRef::Index(i),
                    None => return Err(ApiError::bad_request(unsupported(info, path))),
                },
            };
            terms.push(FieldTerm { field, value: term.value.as_str().into(), negated: term.negated });
        }
        Ok(Self { namespace: (!namespace.is_empty()).then(|| namespace.into()), labels, fields: terms })
    }

    /// Selects by labels and fields nothing less than all.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    pub fn matches(&self, entry: &Entry) -> bool {
        self.namespace.as_deref().is_none_or(|ns| ns == entry.namespace()) && self.matches_in_namespace(entry)
    }

    /// As [`matches`](Self::matches), where the namespace is known to be right.
    pub fn matches_in_namespace(&self, entry: &Entry) -> bool {
        let field = |f: FieldRef| match f {
            FieldRef::Name => entry.name(),
            FieldRef::Namespace => entry.namespace(),
            FieldRef::Index(i) => entry.attrs.field(i),
        };
        self.fields.iter().all(|t| (field(t.field) == &*t.value) != t.negated)
            && entry.attrs.match_labels(&self.labels)
    }

    /// The value a field must have.
    pub fn pinned(&self, field: FieldRef) -> Option<&str> {
        self.fields.iter().find(|t| t.field == field && !t.negated).map(|t| &*t.value)
    }
}

fn unsupported(info: &Info, path: &str) -> String {
    match (info.gvk.group.as_ref(), info.gvk.kind.as_ref()) {
        ("", "Pod" | "Node" | "Namespace" | "Event" | "Secret" | "Service" | "ReplicationController")
        | ("apps" | "batch", _) => {
            format!("field label not supported: {path}")
        }
        _ => {
            format!("{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
    }
}
