//! `tidegate serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::run_node::{assembled, run};
use super::{BuildInfo, Exit, GlobalArgs, Output, output, settings};
use crate::config::overlay::Setting;
use crate::config::settings::{RulesFrom, Settings};
use crate::node::assemble::{self, AssembleError};
use crate::rulefile::watch::{InvalidRuleFile, load};
use crate::telemetry::logs;
use limiter::Revision;

#[derive(Args)]
pub struct Serve {
    /// Configuration file; without it, the environment has all settings
    #[arg(long)]
    config: Option<PathBuf>,
    /// Only check the configuration, the files that it names, and the rules
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
        let flags = flags.into_iter().filter_map(|(flag, path, value)| Some(Setting::from_flag(flag, path, value?)));
        settings::read(self.config.as_deref(), flags, if self.check { global.output } else { Output::Table })
    }
}

fn check(settings: &Settings, output: Output, build: (&str, &str)) -> Exit {
    let usable = assemble::check(settings, build);
    if let Err(AssembleError::Settings(errors)) = &usable {
        let errors: Vec<_> = errors.iter().map(|error| serde_json::json!({ "message": error })).collect();
        output::wrong(output, &errors);
    }
    if let Err(exit) = assembled(usable) {
        return exit;
    }
    let RulesFrom::File(rules) = &settings.rules else {
        output::checked(output, settings, None, &[]);
        return Exit::Ok;
    };
    match load(rules, Revision(1)) {
        Ok(loaded) => {
            output::checked(output, settings, Some(&loaded.book), &loaded.warnings(settings.store.min_holders));
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
