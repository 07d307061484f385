//! The sections of the configuration plane: `cluster`, `postgres`, `identity` and `admin`.

use std::path::PathBuf;

use super::defaults::DEFAULTS;
use super::settings::name;
use super::tls;
use super::values::{length, section, size, within};
use crate::tls::settings::MutualFiles;
use crate::yaml::decode::{Errors, list, string};
use crate::yaml::tree::Node;
use limiter::rules::Path;

/// `cluster:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub name: String,
    /// `None` for `data_dir: none`: the node keeps nothing on disk, and can only be a learner.
    pub data_dir: Option<PathBuf>,
    /// `host:port` at which other nodes reach this one.
    pub advertise: String,
    pub encryption_key_file: Option<PathBuf>,
    /// Members that may admit this node, as `host:port`.
    pub join: Vec<String>,
    /// `cluster.tls`. `None`: nodes trust whoever reaches the port, which is on loopback.
    pub tls: Option<MutualFiles>,
}

/// `postgres:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgres {
    /// Every server that may be the primary, as `host:port`.
    pub hosts: Vec<String>,
    /// The server for this region's reads, as `host:port`. `None`: the primary.
    pub replica: Option<String>,
    pub database: String,
    pub user: String,
    pub password_file: Option<PathBuf>,
    /// With it, connections use TLS, and the server's certificate and name are verified.
    pub ca_file: Option<PathBuf>,
}

/// `identity:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The most keys that are cached.
    pub cache: usize,
    /// How long a cached key counts without a look-up.
    pub ttl_ms: u64,
    /// The most look-ups of this node in a second.
    pub lookups: u32,
    /// How long a known key counts while PostgreSQL is away.
    pub stale_ms: u64,
}

pub(super) fn cluster(node: Option<&Node>, advertised: &str, path: &Path, errors: &mut Errors) -> Option<Cluster> {
    let node = node?;
    Some(section(Some(node), path, errors, |fields, path, errors| {
        let name = fields.require("name", errors).and_then(|n| name(n, &path.field("name"), errors));
        let data_dir = fields.require("data_dir", errors).and_then(|n| string(n, &path.field("data_dir"), errors));
        let advertise = fields.get("advertise").and_then(|n| host_and_port(n, &path.field("advertise"), errors));
        let key_file = fields.get("encryption_key_file");
        let key_file = key_file.and_then(|n| string(n, &path.field("encryption_key_file"), errors));
        let join = fields.get("join").map(|n| list(n, &path.field("join"), errors, host_and_port));
        let tls = fields.get("tls").and_then(|n| tls::mutual(n, &path.field("tls"), errors));
        Cluster {
            name: name.unwrap_or_default(),
            data_dir: data_dir.filter(|folder| folder != "none").map(PathBuf::from),
            advertise: advertise.unwrap_or_else(|| advertised.to_owned()),
            encryption_key_file: key_file.map(PathBuf::from),
            join: join.unwrap_or_default(),
            tls,
        }
    }))
}

pub(super) fn postgres(node: Option<&Node>, path: &Path, errors: &mut Errors) -> Option<Postgres> {
    let node = node?;
    Some(section(Some(node), path, errors, |fields, path, errors| {
        let hosts = fields.require("hosts", errors);
        let hosts = hosts.map(|n| list(n, &path.field("hosts"), errors, host_and_port)).unwrap_or_default();
        if hosts.len() > 16 {
            errors.add(&path.field("hosts"), "expected at most 16 servers");
        }
        let replica = fields.get("replica").and_then(|n| host_and_port(n, &path.field("replica"), errors));
        let mut text = |field| fields.get(field).and_then(|n| string(n, &path.field(field), errors));
        let (database, user, password) = (text("database"), text("user"), text("password_file"));
        let ca_file = fields.get("tls").and_then(|node| {
            section(Some(node), &path.field("tls"), errors, |fields, path, errors| {
                fields.require("ca_file", errors).and_then(|n| string(n, &path.field("ca_file"), errors))
            })
        });
        Postgres {
            hosts,
            replica,
            database: database.unwrap_or_else(|| DEFAULTS.database.to_owned()),
            user: user.unwrap_or_else(|| DEFAULTS.database_user.to_owned()),
            password_file: password.map(PathBuf::from),
            ca_file: ca_file.map(PathBuf::from),
        }
    }))
}

pub(super) fn identity(node: Option<&Node>, path: &Path, errors: &mut Errors) -> Identity {
    section(node, path, errors, |fields, path, errors| {
        let cache = fields.get("cache").and_then(|n| within(n, &path.field("cache"), 1..=100_000_000, errors));
        let lookups = fields.get("lookups").and_then(|n| within(n, &path.field("lookups"), 1..=1_000_000, errors));
        let mut ms = |field, range| fields.get(field).and_then(|n| length(n, &path.field(field), range, errors));
        let (ttl, stale) = (ms("ttl", 100..=86_400_000), ms("stale", 0..=30 * 86_400_000));
        Identity {
            cache: size(cache.unwrap_or(DEFAULTS.identity_cache)),
            ttl_ms: ttl.unwrap_or(DEFAULTS.identity_ttl_ms),
            lookups: lookups.and_then(|n| u32::try_from(n).ok()).unwrap_or(DEFAULTS.identity_lookups),
            stale_ms: stale.unwrap_or(DEFAULTS.identity_stale_ms),
        }
    })
}

/// Reads the file of the one owner's admin token, for a node without PostgreSQL.
pub(super) fn admin(node: Option<&Node>, path: &Path, errors: &mut Errors) -> Option<PathBuf> {
    section(node, path, errors, |fields, path, errors| {
        let file = fields.get("token_file").and_then(|n| string(n, &path.field("token_file"), errors));
        file.map(PathBuf::from)
    })
}

/// Reads `host:port`.
pub(super) fn host_and_port(node: &Node, path: &Path, errors: &mut Errors) -> Option<String> {
    let text = string(node, path, errors)?;
    let valid = text.rsplit_once(':').is_some_and(|(host, port)| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if valid {
        return Some(text);
    }
    errors.add(path, "expected host:port, such as pg-1.internal:5432");
    None
}
