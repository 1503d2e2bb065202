//! The pod network: CNI configuration, routes and masquerading.
