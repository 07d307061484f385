//! `tidegate dev`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;

use super::node::{Plan, metrics, serve, workers};
use super::{Exit, Global};
use crate::config::machine;
use crate::config::rules::compile;
use crate::config::settings::DEFAULTS;
use crate::config::source::FileRules;
use crate::node::{Environment, NodeConfig};
use crate::ports::RuleSource;
use crate::telemetry::logs;
use limiter::Revision;
use limiter::rules::RuleBook;

const SAMPLE: &str = include_str!("sample.yaml");

#[derive(Args)]
pub struct Dev {
    /// Rule file, watched; sample rules without it
    #[arg(long)]
    rules: Option<PathBuf>,
    /// Address of the HTTP face
    #[arg(long, default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Address of the gRPC face
    #[arg(long, default_value = "127.0.0.1:8081")]
    grpc: SocketAddr,
}

/// Rules that never change.
struct Sample(watch::Sender<Arc<RuleBook>>);

impl RuleSource for Sample {
    fn follow(&self) -> watch::Receiver<Arc<RuleBook>> {
        self.0.subscribe()
    }
}

impl Dev {
    pub fn run(self, global: &Global) -> Exit {
        logs::start(tracing::level_filters::LevelFilter::INFO, global.log_format.unwrap_or_default());
        let metrics = match metrics() {
            Ok(metrics) => metrics,
            Err(exit) => return exit,
        };
        let (rules, file): (Arc<dyn RuleSource>, _) = match &self.rules {
            Some(path) => match FileRules::watch(path.clone(), Arc::clone(&metrics)) {
                Ok(file) => {
                    let file = Arc::new(file);
                    (Arc::clone(&file) as Arc<dyn RuleSource>, Some(file))
                }
                Err(refused) => {
                    eprintln!("{refused}");
                    return Exit::BadConfiguration;
                }
            },
            None => match compile("sample.yaml", SAMPLE, Revision(1)) {
                Ok(book) => (Arc::new(Sample(watch::Sender::new(Arc::new(book)))), None),
                Err(errors) => {
                    errors.iter().for_each(|error| eprintln!("{error}"));
                    return Exit::BadConfiguration;
                }
            },
        };
        let node = NodeConfig {
            workers: workers(0),
            max_keys: machine::keys(true),
            max_pending: DEFAULTS.max_pending,
            max_connections: DEFAULTS.max_connections,
            lease_us: DEFAULTS.lease_ms * 1000,
            deadline_us: DEFAULTS.deadline_ms * 1000,
            min_holders: DEFAULTS.min_holders,
            drain: Duration::from_secs(1),
            trusted_proxies: Vec::new(),
        };
        let text = global.log_format.unwrap_or_default() == logs::Format::Text;
        let plan = Plan { http: self.http, grpc: self.grpc, node };
        let sample = self.rules.is_none();
        let source = self.rules.as_ref().map_or_else(|| "sample.yaml".to_owned(), |path| path.display().to_string());
        let environment = Environment::in_memory(&plan.node, rules, metrics);
        serve(&plan, &environment, file, |http, grpc| {
            tracing::info!(%http, %grpc, rules = source, "serving");
            if sample && text {
                eprintln!(
                    "The sample rules allow five a minute to each user of the domain demo. Try, in another terminal:"
                );
                eprintln!(
                    "  curl -s http://{http}/v1/check -d '{{\"domain\":\"demo\",\"attributes\":{{\"user\":\"u1\"}}}}'"
                );
            }
        })
    }
}
