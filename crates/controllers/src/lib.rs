//! The controllers, one module each, as plans from a snapshot.
