//! Tables of single plans, and rollouts that are played to their end.
