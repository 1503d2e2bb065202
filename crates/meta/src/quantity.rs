//! Quantities (`500m`, `1Gi`): parsing, arithmetic and the canonical form (API reference: Quantity).

/// An exact decimal amount with its suffix family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity;
