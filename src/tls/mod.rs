//! TLS: certificates from files, reloaded when they change, and pinned peers.
