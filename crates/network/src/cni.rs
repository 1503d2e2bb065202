//! The CNI configuration list (CNI specification 1.0.0). Pure.

use serde_json::{Value, json};
use std::path::Path;

/// File below the configuration directory.
pub const FILE: &str = "10-ironclad.conflist";

/// A bridge with the node's addresses. `leases`: where host-local keeps which pod has which address.
pub fn conflist(bridge: &str, pod_cidr: &str, leases: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "ironclad",
        "plugins": [{
            "type": "bridge",
            "bridge": bridge,
            "isGateway": true,
            // a pod reaches itself through a service
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": leases,
                "ranges": [[{"subnet": pod_cidr}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}
