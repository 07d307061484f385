//! The settings of `serve`: their types, their defaults, and every error at once. Times are in milliseconds.

use std::fmt;
use std::path::PathBuf;

use super::defaults::DEFAULTS;
use super::listen::{Listen, listen};
use super::overlay::{Overlay, Setting};
use super::regions::{self, Regions};
use super::values::{length, section, size, within};
use super::{plane, tls};
use crate::store::location::{LocationError, StoreLocation};
use crate::telemetry::logs;
use crate::tls::settings::ServerFiles;
use crate::yaml::decode::{Errors, Fields, boolean, string, word};
use crate::yaml::tree::Node;
use limiter::rules::Path;

/// The configuration of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub region: String,
    pub node: String,
    pub listen: Listen,
    /// 0: the cores that the cgroup allows.
    pub workers: usize,
    pub store: Store,
    pub rules: RulesFrom,
    /// `None` without PostgreSQL.
    pub postgres: Option<plane::Postgres>,
    pub identity: plane::Identity,
    pub regions: Regions,
    /// `tls`: of HTTP, gRPC and the admin API. `None`: they are plain.
    pub tls: Option<ServerFiles>,
    /// `auth.tokens_file`: checks over HTTP and gRPC need one of its tokens. `None`: they need none.
    pub tokens_file: Option<PathBuf>,
    /// `admin.token_file`
    pub admin_token_file: Option<PathBuf>,
    pub limits: Limits,
    pub log: Log,
}

/// Where the rules come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RulesFrom {
    /// `rules.file`
    File(PathBuf),
    Cluster(plane::Cluster),
}

/// `limits:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// 0: from the memory that the cgroup allows.
    pub max_keys: usize,
    pub max_pending: usize,
    /// On each listener.
    pub max_connections: usize,
    /// On each listener, of one peer that is neither a trusted proxy nor this machine.
    pub max_connections_per_peer: usize,
    pub drain_ms: u64,
}

/// `log:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: Level,
    pub format: logs::Format,
}

/// `store:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    pub location: StoreLocation,
    /// It takes precedence over the URL.
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    /// The certificate authorities that signed the certificates of the servers.
    pub ca_file: Option<PathBuf>,
    pub deadline_ms: u64,
    pub key_prefix: String,
    pub lease_ms: u64,
    pub min_holders: u32,
    pub hash_keys: bool,
    pub tags: u16,
}

/// `log.level`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<Level> for tracing::level_filters::LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// One error: the origin of the value, its path, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// `file:line:column`, an environment variable or a flag.
    pub origin: String,
    pub field: String,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, field, message } = self;
        if field.is_empty() { write!(f, "{origin}: {message}") } else { write!(f, "{origin}: {field}: {message}") }
    }
}

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSettings {
    pub errors: Vec<ConfigError>,
    /// The rule file, if it is named all the same, so that its errors are shown at the same time.
    pub rules: PathBuf,
}

/// Sections that are not built yet.
const LATER: [&str; 1] = ["kafka"];

impl Settings {
    /// Reads a file (name and text), with settings of the environment and of flags laid over it. `host` is the default
    /// name of the node.
    ///
    /// # Errors
    /// Every error of all sources.
    pub fn read(file: Option<(&str, &str)>, settings: Vec<Setting>, host: &str) -> Result<Self, InvalidSettings> {
        let overlay = overlay(file, settings)?;
        let mut errors = Errors::default();
        let settings = decode(&overlay.root, host, &mut errors);
        if errors.0.is_empty() {
            return Ok(settings);
        }
        let rules = match settings.rules {
            RulesFrom::File(file) => file,
            RulesFrom::Cluster(_) => PathBuf::new(),
        };
        Err(InvalidSettings { errors: placed(errors, &overlay), rules })
    }
}

/// Reads the section `postgres` alone, as [`Settings::read`] reads all. Commands that write straight to PostgreSQL need
/// nothing else, so that nothing else has to be valid.
///
/// # Errors
/// Every error of the section, or that it is missing.
pub fn read_postgres(file: Option<(&str, &str)>, settings: Vec<Setting>) -> Result<plane::Postgres, InvalidSettings> {
    let overlay = overlay(file, settings)?;
    let (mut errors, top) = (Errors::default(), Path::default());
    let section = Fields::new(&overlay.root, top.clone(), &mut errors).get("postgres");
    let postgres = plane::postgres(section, &top.field("postgres"), &mut errors);
    if postgres.is_none() && errors.0.is_empty() {
        errors.add(&top.field("postgres"), "expected this section: it says where the database is");
    }
    match postgres {
        Some(postgres) if errors.0.is_empty() => Ok(postgres),
        _ => Err(InvalidSettings { errors: placed(errors, &overlay), rules: PathBuf::new() }),
    }
}

fn overlay(file: Option<(&str, &str)>, settings: Vec<Setting>) -> Result<Overlay, InvalidSettings> {
    Overlay::new(file, settings).map_err(|e| {
        let name = file.map_or("", |(name, _)| name);
        let origin = format!("{name}:{}:{}", e.place.line, e.place.column);
        let errors = vec![ConfigError { origin, field: String::new(), message: e.message }];
        InvalidSettings { errors, rules: PathBuf::new() }
    })
}

/// The errors, each with the origin of its value.
fn placed(errors: Errors, overlay: &Overlay) -> Vec<ConfigError> {
    let placed = errors.0.into_iter().map(|problem| ConfigError {
        origin: overlay.origin(&problem.path),
        field: problem.path.to_string(),
        message: problem.message,
    });
    placed.collect()
}

fn decode(root: &Node, host: &str, errors: &mut Errors) -> Settings {
    let top = Path::default();
    let mut fields = Fields::new(root, top.clone(), errors);
    let region = fields.require("region", errors).and_then(|n| name(n, &top.field("region"), errors));
    let node = fields.get("node").and_then(|n| name(n, &top.field("node"), errors));
    let workers = fields.get("workers").and_then(|n| within(n, &top.field("workers"), 0..=1024, errors));
    let listen = listen(fields.get("listen"), &top.field("listen"), errors);
    let store = store(fields.get("store"), &top.field("store"), errors);
    let default_node = node.unwrap_or_else(|| host.to_owned());
    // On loopback a name may not be known. Elsewhere the address that a node listens at may be all of them.
    let advertised = match listen.cluster.ip().is_loopback() {
        true => listen.cluster.to_string(),
        false => format!("{default_node}:{}", listen.cluster.port()),
    };
    let cluster = plane::cluster(fields.get("cluster"), &advertised, &top.field("cluster"), errors);
    if !listen.cluster.ip().is_loopback() && cluster.as_ref().is_some_and(|cluster| cluster.tls.is_none()) {
        errors.add(&top.field("cluster").field("tls"), "expected certificates, or a listen.cluster on loopback");
    }
    let tls = fields.get("tls").and_then(|n| tls::server(n, &top.field("tls"), errors));
    let tokens_file = fields.get("auth").and_then(|node| tls::tokens_file(node, &top.field("auth"), errors));
    let postgres = plane::postgres(fields.get("postgres"), &top.field("postgres"), errors);
    if cluster.is_none() && postgres.is_some() {
        errors.add(&top.field("postgres"), "expected only with cluster");
    }
    let identity = plane::identity(fields.get("identity"), &top.field("identity"), errors);
    let own_region = region.clone().unwrap_or_default();
    let regions = regions::regions(&mut fields, &own_region, cluster.is_some(), errors);
    if !regions.peers.is_empty() && !listen.cluster.ip().is_loopback() && regions.gossip.tls.is_none() {
        errors.add(&top.field("gossip").field("tls"), "expected certificates, or a listen.cluster on loopback");
    }
    let admin_token_file = plane::admin(fields.get("admin"), &top.field("admin"), errors);
    let rules = fields.get("rules");
    let rules = match cluster {
        Some(cluster) => {
            if rules.is_some() {
                errors.add(&top.field("rules"), "expected nothing: with cluster, the rules come from PostgreSQL");
            }
            RulesFrom::Cluster(cluster)
        }
        None => section(rules, &top.field("rules"), errors, |fields, path, errors| {
            let file = fields.require("file", errors).and_then(|n| string(n, &path.field("file"), errors));
            RulesFrom::File(file.map(PathBuf::from).unwrap_or_default())
        }),
    };
    let limits = limits(fields.get("limits"), &top.field("limits"), errors);
    let log = log(fields.get("log"), &top.field("log"), errors);
    for section in LATER {
        if fields.get(section).is_some() {
            errors.add(&top.field(section), "expected nothing: this section is not built yet");
        }
    }
    fields.finish(errors);
    Settings {
        region: region.unwrap_or_default(),
        node: default_node,
        listen,
        workers: size(workers.unwrap_or(0)),
        store,
        rules,
        postgres,
        identity,
        regions,
        tls,
        tokens_file,
        admin_token_file,
        limits,
        log,
    }
}

fn limits(node: Option<&Node>, path: &Path, errors: &mut Errors) -> Limits {
    section(node, path, errors, |fields, path, errors| {
        let mut get = |field, range| fields.get(field).and_then(|n| within(n, &path.field(field), range, errors));
        let max_keys = get("max_keys", 0..=1 << 31).unwrap_or(0);
        let max_pending = get("max_pending", 1..=1 << 24).unwrap_or(DEFAULTS.max_pending as u64);
        let max_connections = get("max_connections", 1..=1 << 20).unwrap_or(DEFAULTS.max_connections as u64);
        let of_peer = get("max_connections_per_peer", 1..=1 << 20).unwrap_or(DEFAULTS.max_connections_per_peer as u64);
        let drain = fields.get("drain").and_then(|n| length(n, &path.field("drain"), 0..=600_000, errors));
        Limits {
            max_keys: size(max_keys),
            max_pending: size(max_pending),
            max_connections: size(max_connections),
            max_connections_per_peer: size(of_peer),
            drain_ms: drain.unwrap_or(DEFAULTS.drain_ms),
        }
    })
}

fn log(node: Option<&Node>, path: &Path, errors: &mut Errors) -> Log {
    const LEVELS: [(&str, Level); 5] = [
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
        ("trace", Level::Trace),
    ];
    const FORMATS: [(&str, logs::Format); 2] = [("text", logs::Format::Text), ("json", logs::Format::Json)];
    section(node, path, errors, |fields, path, errors| {
        let level = fields.get("level").and_then(|n| word(n, &path.field("level"), &LEVELS, errors));
        let format = fields.get("format").and_then(|n| word(n, &path.field("format"), &FORMATS, errors));
        Log { level: level.unwrap_or(Level::Info), format: format.unwrap_or_default() }
    })
}

fn store(node: Option<&Node>, path: &Path, errors: &mut Errors) -> Store {
    section(node, path, errors, |fields, path, errors| {
        let url = path.field("url");
        let text = fields.require("url", errors).and_then(|n| string(n, &url, errors));
        let location = text.map(|text| text.parse()).transpose().unwrap_or_else(|error: LocationError| {
            // A URL may hold a secret: it is not repeated.
            errors.add(&url, error.to_string());
            None
        });
        let mut remote = |field, only_tls| {
            let value = string(fields.get(field)?, &path.field(field), errors)?;
            match &location {
                Some(StoreLocation::Memory) => {
                    errors.add(&path.field(field), "expected only with a store outside this process")
                }
                Some(StoreLocation::Redis(redis)) if only_tls && !redis.tls => {
                    errors.add(
                        &path.field(field),
                        "expected only with TLS: rediss://, rediss-sentinel:// or rediss-cluster://",
                    );
                }
                _ => {}
            }
            Some(value)
        };
        let username = remote("username", false);
        let password_file = remote("password_file", false).map(PathBuf::from);
        let ca_file = remote("ca_file", true).map(PathBuf::from);
        let prefix = fields.get("key_prefix").and_then(|n| name(n, &path.field("key_prefix"), errors));
        let mut ms = |field, range| fields.get(field).and_then(|n| length(n, &path.field(field), range, errors));
        let deadline = ms("deadline", 1..=10_000);
        let lease = ms("lease", 10..=60_000);
        let mut count = |field| fields.get(field).and_then(|n| within(n, &path.field(field), 1..=1024, errors));
        let holders = count("min_holders").and_then(|n| u32::try_from(n).ok());
        let tags = count("tags").and_then(|n| u16::try_from(n).ok());
        let hash_keys = fields.get("hash_keys").and_then(|n| boolean(n, &path.field("hash_keys"), errors));
        Store {
            location: location.unwrap_or(StoreLocation::Memory),
            username,
            password_file,
            ca_file,
            deadline_ms: deadline.unwrap_or(DEFAULTS.deadline_ms),
            key_prefix: prefix.unwrap_or_else(|| DEFAULTS.key_prefix.to_owned()),
            lease_ms: lease.unwrap_or(DEFAULTS.lease_ms),
            min_holders: holders.unwrap_or(DEFAULTS.min_holders),
            hash_keys: hash_keys.unwrap_or(DEFAULTS.hash_keys),
            tags: tags.unwrap_or(DEFAULTS.tags),
        }
    })
}

/// Reads a name that goes into keys and logs.
pub(super) fn name(node: &Node, path: &Path, errors: &mut Errors) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let text = string(node, path, errors)?;
    if (1..=64).contains(&text.len()) && text.chars().all(fits) {
        return Some(text);
    }
    errors.add(path, "expected 1 to 64 letters, digits, dots, dashes or underscores");
    None
}
