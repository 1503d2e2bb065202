//! The request path, the watch cache, discovery, streaming and the TLS front.
