//! The built-in admission plugins.
