//! `tidegate dev`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::run_node::{assembled, run};
use super::{BuildInfo, Exit, GlobalArgs};
use crate::node::assemble;
use crate::telemetry::logs;

const SAMPLE: &str = include_str!("sample.yaml");

#[derive(Args)]
pub struct Dev {
    /// Rule file, watched for changes; sample rules without it
    #[arg(long)]
    rules: Option<PathBuf>,
    /// Address of the HTTP listener
    #[arg(long, default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Address of the gRPC listener
    #[arg(long, default_value = "127.0.0.1:8081")]
    grpc: SocketAddr,
}

impl Dev {
    pub fn run(self, global: &GlobalArgs, build: BuildInfo) -> Exit {
        let format = global.log_format.unwrap_or_default();
        logs::start(tracing::level_filters::LevelFilter::INFO, format);
        let node = match assembled(assemble::dev(self.rules.as_deref(), SAMPLE, (build.version, build.commit))) {
            Ok(node) => node,
            Err(exit) => return exit,
        };
        let show_example = self.rules.is_none() && format == logs::Format::Text;
        let rules = self.rules.map_or_else(|| "sample.yaml".to_owned(), |path| path.display().to_string());
        run(node, self.http, self.grpc, |http, grpc| {
            tracing::info!(%http, %grpc, rules, "serving");
            if show_example {
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
