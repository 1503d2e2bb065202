//! What the pods of `tests/workloads.rs` run to be probed: see `testkit::target`.

fn main() {
    testkit::target::serve();
}
