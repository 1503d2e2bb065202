//! Fixtures and helpers for tests; development only.
