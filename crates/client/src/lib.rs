//! The kube client over TLS or in memory; informers, work queue, leader election, events.
