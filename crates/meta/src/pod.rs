//! What several components derive from a pod: its effective resource requests and its QoS class.
