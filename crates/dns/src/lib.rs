//! Cluster DNS: services, headless, SRV, PTR, pods and upstream forwarding.
