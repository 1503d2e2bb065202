//! Labels that several components read (well-known labels of the API reference).

/// Of a node: its name, as it calls itself.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// Of a node: where it stands, with the zones of a region apart from each other's failures.
pub const ZONE: &str = "topology.kubernetes.io/zone";
pub const REGION: &str = "topology.kubernetes.io/region";
/// Of an EndpointSlice: the service it is of.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
