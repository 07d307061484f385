//! `tidegate serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::run_node::{assembled, run};
use super::{BuildInfo, Exit, GlobalArgs, Output, output};
use crate::config::overlay::Setting;
use crate::config::settings::{ConfigError, Settings};
use crate::host::machine;
use crate::node::assemble;
use crate::rulefile::watch::{self, InvalidRuleFile, load};
use crate::telemetry::logs;
use limiter::Revision;

#[derive(Args)]
pub struct Serve {
    /// Configuration file; without it, the environment has all settings
    #[arg(long)]
    config: Option<PathBuf>,
    /// Only check the configuration and the rules
    #[arg(long)]
    check: bool,
    /// Rule file (`rules.file`)
    #[arg(long)]
    rules: Option<PathBuf>,
    /// Address of the HTTP listener (`listen.http`)
    #[arg(long)]
    http: Option<SocketAddr>,
    /// Address of the gRPC listener (`listen.grpc`)
    #[arg(long)]
    grpc: Option<SocketAddr>,
    /// URL of the counter store (`store.url`)
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
    pub fn run(self, global: &GlobalArgs, build: BuildInfo) -> Exit {
        let settings = match self.settings(global) {
            Ok(settings) => settings,
            Err(exit) => return exit,
        };
        let build = (build.version, build.commit);
        if self.check {
            return check(&settings, global.output, build);
        }
        logs::start(settings.log.level.into(), settings.log.format);
        let node = match assembled(assemble::serve(&settings, build)) {
            Ok(node) => node,
            Err(exit) => return exit,
        };
        let workers = node.config.workers;
        run(node, settings.listen.http, settings.listen.grpc, |http, grpc| {
            let Settings { region, node, .. } = &settings;
            tracing::info!(region, node, %http, %grpc, workers, "serving");
        })
    }

    /// Reads all sources of settings, and prints every error of all of them.
    fn settings(&self, global: &GlobalArgs) -> Result<Settings, Exit> {
        let text = self.config.as_ref().map(|path| watch::read(path)).transpose().map_err(|invalid| print(&invalid))?;
        let name = self.config.as_ref().map(|path| path.display().to_string());
        let mut settings = Vec::new();
        let mut invalid = false;
        for (key, value) in std::env::vars_os() {
            let Some(key) = key.to_str().map(ToOwned::to_owned) else { continue };
            let Some(value) = value.to_str() else {
                if Setting::from_environment(&key, "").is_some() {
                    eprintln!("{key}: expected UTF-8");
                    invalid = true;
                }
                continue;
            };
            settings.extend(Setting::from_environment(&key, value));
        }
        // The variable of the user's document. Any other source of `store.url` takes precedence.
        if let Ok(seeds) = std::env::var("REDIS_CLUSTER")
            && !settings.iter().any(|s| s.path == ["store", "url"])
        {
            let seeds: Vec<&str> = seeds.split(',').map(str::trim).filter(|seed| !seed.is_empty()).collect();
            let plain = |seed: &&str| seed.chars().all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c));
            if !seeds.iter().all(plain) {
                eprintln!("REDIS_CLUSTER: expected host:port, host:port and so on, or one DNS name");
                invalid = true;
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
            Ok(settings) if !invalid => Ok(settings),
            read => {
                let (mut errors, mut rules) = (Vec::new(), PathBuf::new());
                if let Err(invalid) = read {
                    invalid.errors.iter().for_each(|error| eprintln!("{error}"));
                    let json = |e: &ConfigError| serde_json::json!({ "origin": e.origin, "field": e.field, "message": e.message });
                    errors.extend(invalid.errors.iter().map(json));
                    rules = invalid.rules;
                }
                // The errors of the rules are shown at the same time.
                if let Some(invalid) = load(&rules, Revision(1)).err().filter(|_| !rules.as_os_str().is_empty()) {
                    eprintln!("{invalid}");
                    errors.extend(invalid.errors());
                }
                output::wrong(if self.check { global.output } else { Output::Table }, &errors);
                Err(Exit::BadConfiguration)
            }
        }
    }
}

fn check(settings: &Settings, output: Output, build: (&str, &str)) -> Exit {
    if let Err(exit) = assembled(assemble::check(settings, build)) {
        return exit;
    }
    match load(&settings.rules, Revision(1)) {
        Ok(loaded) => {
            output::checked(output, settings, &loaded.book, &loaded.warnings(settings.store.min_holders));
            Exit::Ok
        }
        Err(invalid) => {
            output::wrong(output, &invalid.errors());
            print(&invalid)
        }
    }
}

fn print(invalid: &InvalidRuleFile) -> Exit {
    eprintln!("{invalid}");
    Exit::BadConfiguration
}
