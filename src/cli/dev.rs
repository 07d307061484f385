//! `tidegate dev`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tokio::sync::watch;

use super::Exit;
use crate::config::rules;
use crate::node::{NodeConfig, run};

const SAMPLE: &str = include_str!("sample.yaml");

#[derive(Args)]
pub struct Dev {
    /// Rule file; sample rules without it
    #[arg(long)]
    rules: Option<PathBuf>,
    /// Address of the HTTP face
    #[arg(long, default_value = "127.0.0.1:8080")]
    http: SocketAddr,
}

impl Dev {
    pub fn run(self) -> Exit {
        let (file, text) = match &self.rules {
            None => ("sample.yaml".to_owned(), Ok(SAMPLE.to_owned())),
            Some(path) => (path.display().to_string(), std::fs::read_to_string(path)),
        };
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{file}: {error}");
                return Exit::BadConfiguration;
            }
        };
        let book = match rules::compile(&file, &text, 1) {
            Ok(book) => book,
            Err(errors) => {
                errors.iter().for_each(|error| eprintln!("{error}"));
                return Exit::BadConfiguration;
            }
        };
        eprintln!("tidegate dev: HTTP on http://{}, counters in memory, rules from {file}", self.http);
        if self.rules.is_none() {
            eprintln!(
                "try: curl -s http://{}/v1/check -d '{{\"domain\":\"demo\",\"attributes\":{{\"user\":\"u1\"}}}}'",
                self.http
            );
        }
        // Kept until the process ends: a sender that is gone stops the node.
        let (_book, books) = watch::channel(Arc::new(book));
        let (_stop, stopped) = watch::channel(false);
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        match run(&NodeConfig { http: self.http, workers }, books, stopped) {
            Ok(()) => Exit::Ok,
            Err(error) => {
                eprintln!("{}: {error}", self.http);
                Exit::Failed
            }
        }
    }
}
