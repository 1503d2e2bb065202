//! The scheduling framework, its plugins, the queue and the binding shell.
