//! The binary: command line, wiring, certificates.
fn main() {}
