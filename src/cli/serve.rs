//! `tidegate serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::node::{Plan, metrics, serve, workers};
use super::{Exit, Global, Output, output};
use crate::config::overlay::Setting;
use crate::config::settings::{ConfigError, RedisLocation, Settings, StoreLocation};
use crate::config::source::{FileRules, load};
use crate::config::{machine, source};
use crate::node::{Environment, NodeConfig, RedisConfig, RedisRegion, clock};
use crate::ports::RuleSource;
use crate::telemetry::logs;
use crate::telemetry::metrics::Metrics;
use limiter::Revision;

#[derive(Args)]
pub struct Serve {
    /// Configuration file; without it the environment says everything
    #[arg(long)]
    config: Option<PathBuf>,
    /// Only tell whether configuration and rules are good
    #[arg(long)]
    check: bool,
    /// Rule file (`rules.file`)
    #[arg(long)]
    rules: Option<PathBuf>,
    /// Address of the HTTP face (`listen.http`)
    #[arg(long)]
    http: Option<SocketAddr>,
    /// Address of the gRPC face (`listen.grpc`)
    #[arg(long)]
    grpc: Option<SocketAddr>,
    /// Where counters are kept (`store.url`)
    #[arg(long)]
    store: Option<String>,
    /// Region of this node (`region`)
    #[arg(long)]
    region: Option<String>,
    /// error, warn, info, debug or trace (`log.level`)
    #[arg(long)]
    log_level: Option<String>,
}

impl Serve {
    pub fn run(self, global: &Global) -> Exit {
        let settings = match self.settings(global) {
            Ok(settings) => settings,
            Err(exit) => return exit,
        };
        if self.check {
            if let StoreLocation::Redis(redis) = &settings.store.location
                && let Err(exit) = metrics().and_then(|metrics| region(&settings, redis, &node(&settings), &metrics))
            {
                return exit;
            }
            return match load(&settings.rules, Revision(1)) {
                Ok((_, book)) => {
                    output::checked(global.output, &settings, &book);
                    Exit::Ok
                }
                Err(refused) => {
                    output::wrong(global.output, &refused.errors());
                    bad(&refused)
                }
            };
        }
        logs::start(settings.level.into(), settings.format);
        let metrics = match metrics() {
            Ok(metrics) => metrics,
            Err(exit) => return exit,
        };
        let file = match FileRules::watch(settings.rules.clone(), Arc::clone(&metrics)) {
            Ok(file) => Arc::new(file),
            Err(refused) => return bad(&refused),
        };
        let plan = Plan { http: settings.http, grpc: settings.grpc, node: node(&settings) };
        let rules = Arc::clone(&file) as Arc<dyn RuleSource>;
        let environment = match &settings.store.location {
            StoreLocation::Memory => {
                tracing::warn!(
                    "counters are in this process's memory: no other node counts with it, and a restart forgets"
                );
                Environment::in_memory(&plan.node, rules, metrics)
            }
            StoreLocation::Redis(redis) => match region(&settings, redis, &plan.node, &metrics) {
                Ok(region) => Environment::in_region(region, rules, metrics),
                Err(exit) => return exit,
            },
        };
        serve(&plan, &environment, Some(file), |http, grpc| {
            let Settings { region, node, .. } = &settings;
            tracing::info!(region, node, %http, %grpc, workers = plan.node.workers, "serving");
        })
    }

    /// All sources in one, or every error of all of them.
    fn settings(&self, global: &Global) -> Result<Settings, Exit> {
        let text = self.config.as_ref().map(|path| source::read(path)).transpose().map_err(|refused| bad(&refused))?;
        let name = self.config.as_ref().map(|path| path.display().to_string());
        let mut settings = Vec::new();
        let mut wrong = false;
        for (key, value) in std::env::vars_os() {
            let Some(key) = key.to_str().map(ToOwned::to_owned) else { continue };
            let Some(value) = value.to_str() else {
                if Setting::from_environment(&key, "").is_some() {
                    eprintln!("{key}: expected UTF-8");
                    wrong = true;
                }
                continue;
            };
            settings.extend(Setting::from_environment(&key, value));
        }
        // The user's document names it; what says `store.url` itself comes after it, and holds.
        if let Ok(seeds) = std::env::var("REDIS_CLUSTER")
            && !settings.iter().any(|s| s.path == ["store", "url"])
        {
            let seeds: Vec<&str> = seeds.split(',').map(str::trim).filter(|seed| !seed.is_empty()).collect();
            let plain = |seed: &&str| seed.chars().all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c));
            if !seeds.iter().all(plain) {
                eprintln!("REDIS_CLUSTER: expected host:port, host:port and so on, or one DNS name");
                wrong = true;
            } else if let Some((first, others)) = seeds.split_first() {
                let path = vec!["store".to_owned(), "url".to_owned()];
                let others: Vec<String> = others.iter().map(|seed| format!("node={seed}")).collect();
                let text = format!("redis-cluster://{first}?{}", others.join("&"));
                settings.push(Setting { origin: "REDIS_CLUSTER".to_owned(), path, text });
            }
        }
        let rules = self.rules.as_ref().map(|path| path.display().to_string());
        let format = global.log_format.map(|format| if format == logs::Format::Json { "json" } else { "text" });
        let flags = [
            ("--rules", "rules.file", rules),
            ("--http", "listen.http", self.http.map(|a| a.to_string())),
            ("--grpc", "listen.grpc", self.grpc.map(|a| a.to_string())),
            ("--store", "store.url", self.store.clone()),
            ("--region", "region", self.region.clone()),
            ("--log-level", "log.level", self.log_level.clone()),
            ("--log-format", "log.format", format.map(ToOwned::to_owned)),
        ];
        settings
            .extend(flags.into_iter().filter_map(|(flag, path, value)| Some(Setting::from_flag(flag, path, value?))));
        let file = name.as_deref().zip(text.as_deref());
        let read = Settings::read(file, settings, &machine::host());
        match read {
            Ok(settings) if !wrong => Ok(settings),
            read => {
                let (mut told, mut rules) = (Vec::new(), PathBuf::new());
                if let Err(wrong) = read {
                    wrong.errors.iter().for_each(|error| eprintln!("{error}"));
                    let json = |e: &ConfigError| serde_json::json!({ "origin": e.origin, "field": e.field, "message": e.message });
                    told.extend(wrong.errors.iter().map(json));
                    rules = wrong.rules;
                }
                // What is wrong with the rules is told at the same time.
                if let Some(refused) = load(&rules, Revision(1)).err().filter(|_| !rules.as_os_str().is_empty()) {
                    eprintln!("{refused}");
                    told.extend(refused.errors());
                }
                output::wrong(if self.check { global.output } else { Output::Table }, &told);
                Err(Exit::BadConfiguration)
            }
        }
    }
}

fn bad(refused: &source::Refused) -> Exit {
    eprintln!("{refused}");
    Exit::BadConfiguration
}

/// The region's Redis, not yet connected.
fn region(
    settings: &Settings,
    redis: &RedisLocation,
    node: &NodeConfig,
    metrics: &Arc<Metrics>,
) -> Result<RedisRegion, Exit> {
    let (mut wrong, store) = (false, &settings.store);
    let mut file = |field: &str, path: &Option<PathBuf>| {
        let text = path.as_ref().map(|path| std::fs::read(path).map_err(|error| (path, error))).transpose();
        text.unwrap_or_else(|(path, error)| {
            eprintln!("store.{field}: {}: {error}", path.display());
            wrong = true;
            None
        })
    };
    let password = file("password_file", &store.password_file);
    let authorities = file("ca_file", &store.ca_file);
    let mut redis = redis.clone();
    if let Some(password) = password {
        // Editors end a file with a line's end, which is no part of the secret.
        redis.password = Some(String::from_utf8_lossy(&password).trim_end_matches(['\r', '\n']).to_owned());
    }
    redis.username = store.username.clone().or(redis.username);
    if wrong {
        return Err(Exit::BadConfiguration);
    }
    let config = RedisConfig {
        redis,
        authorities,
        region: settings.region.clone(),
        node: settings.node.clone(),
        boot: clock::random().map_err(|error| failed(&error))?,
        cores: node.cores(),
        key_prefix: store.key_prefix.clone(),
        tags: store.tags,
        deadline: Duration::from_millis(store.deadline_ms),
        metrics: Arc::clone(metrics),
    };
    RedisRegion::new(config).map_err(|error| {
        eprintln!("store.ca_file: {error}");
        Exit::BadConfiguration
    })
}

fn failed(error: &std::io::Error) -> Exit {
    eprintln!("{error}");
    Exit::Failed
}

fn node(settings: &Settings) -> NodeConfig {
    NodeConfig {
        workers: workers(settings.workers),
        max_keys: match settings.max_keys {
            0 => machine::keys(settings.store.location == StoreLocation::Memory),
            keys => keys,
        },
        max_pending: settings.max_pending,
        max_connections: settings.max_connections,
        lease_us: settings.store.lease_ms * 1000,
        deadline_us: settings.store.deadline_ms * 1000,
        min_holders: settings.store.min_holders,
        drain: Duration::from_millis(settings.drain_ms),
        trusted_proxies: settings.trusted_proxies.clone(),
    }
}
