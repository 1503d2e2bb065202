//! Services: from Service and EndpointSlice to nftables maps.
