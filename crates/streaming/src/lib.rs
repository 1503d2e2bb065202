//! Exec, attach and port-forward streams.
