//! The nftables rule-set model: desired sets, maps and chains, and the difference between two.
