//! Pod lifecycle, volumes, probes, resources and node status.
