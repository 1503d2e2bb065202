//! The container runtime's client, image building and stream protocols.
