//! The values of settings that are not given.

/// The values of settings that are not given. `region`, `store.url` and either `rules.file` or `cluster` must be given.
pub struct Defaults {
    pub http: &'static str,
    pub grpc: &'static str,
    pub cluster: &'static str,
    pub admin: &'static str,
    pub deadline_ms: u64,
    pub key_prefix: &'static str,
    pub lease_ms: u64,
    pub min_holders: u32,
    pub hash_keys: bool,
    pub tags: u16,
    pub max_pending: usize,
    pub max_connections: usize,
    pub drain_ms: u64,
    pub database: &'static str,
    pub database_user: &'static str,
    pub identity_cache: u64,
    pub identity_ttl_ms: u64,
    pub identity_lookups: u32,
    pub identity_stale_ms: u64,
}

/// The one place of defaults.
pub const DEFAULTS: Defaults = Defaults {
    http: "0.0.0.0:8080",
    grpc: "0.0.0.0:8081",
    cluster: "0.0.0.0:8082",
    admin: "127.0.0.1:8083",
    deadline_ms: 100,
    key_prefix: "tidegate",
    lease_ms: 1000,
    min_holders: 3,
    hash_keys: false,
    tags: 32,
    max_pending: 100_000,
    max_connections: 10_000,
    drain_ms: 10_000,
    database: "ratelimiter",
    database_user: "tidegate",
    identity_cache: 100_000,
    identity_ttl_ms: 60_000,
    identity_lookups: 1000,
    identity_stale_ms: 3_600_000,
};
