//! `tidegate rules`.

use std::path::PathBuf;

use clap::Subcommand;

use super::Exit;
use crate::config::rules::compile;

#[derive(Subcommand)]
pub enum Rules {
    /// Tell every error of a rule file
    Validate { file: PathBuf },
}

impl Rules {
    pub fn run(self) -> Exit {
        let Self::Validate { file } = self;
        let name = file.display().to_string();
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{name}: {error}");
                return Exit::BadConfiguration;
            }
        };
        match compile(&name, &text, 1) {
            Ok(book) => {
                let limits: usize = book.rules().domains.iter().map(|d| d.limits.len()).sum();
                println!("{name}: {} domains, {limits} limits", book.rules().domains.len());
                Exit::Ok
            }
            Err(errors) => {
                errors.iter().for_each(|error| eprintln!("{error}"));
                Exit::BadConfiguration
            }
        }
    }
}
