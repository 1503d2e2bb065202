//! Automation: tidy checks, schema facts, benches; development only.
fn main() {}
