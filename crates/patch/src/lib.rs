//! What becomes of an object under a patch, as pure functions over JSON values: JSON patch, merge patch, strategic
//! merge patch, server-side apply, and who manages which field.
//!
//! The clock is a parameter; nothing here does I/O. Rules follow upstream's `apimachinery/pkg/util/strategicpatch`,
//! `apimachinery/pkg/util/managedfields` and structured-merge-diff v6.

pub mod apply;
mod compare;
mod error;
pub mod fieldset;
mod json;
pub mod managed;
mod managers;
mod merge;
mod shape;
mod strategic;
mod validate;

pub use compare::{Comparison, compare, field_set_of};
pub use error::{Conflict, Conflicts, Error};
pub use fieldset::FieldSet;
pub use json::{MAX_JSON_PATCH_OPERATIONS, json_patch, merge_patch};
pub use shape::Shape;
pub use strategic::strategic_merge;
