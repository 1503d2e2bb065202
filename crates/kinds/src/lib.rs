//! Each built-in kind's behaviour, declared once: names, scope, defaults, validation, who may write what,
//! subresources, selectable fields and printer columns. Routes, discovery, OpenAPI, tables, selectors and
//! garbage collection follow from the declaration.
//!
//! A new kind is one new file and one line in [`ALL`].

pub mod kind;
pub mod object;
pub mod strategy;

pub use kind::*;
pub use object::{AnyKind, AnyObject, Object};

/// Every built-in kind that is stored.
pub static ALL: &[&dyn AnyKind] = &[];

/// The kind that serves a resource, if it is built in.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static dyn AnyKind> {
    ALL.iter().copied().find(|k| {
        let info = k.info();
        info.gvk.group == group && info.gvk.version == version && info.names.plural == plural
    })
}
