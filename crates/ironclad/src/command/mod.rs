//! Commands that are no component.

pub mod image;
pub mod reset;
pub mod server;
