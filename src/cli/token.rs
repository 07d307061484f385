//! `tidegate token`: admin tokens.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use plane::KeyHash;
use serde_json::json;

use super::{Exit, GlobalArgs, Output, output, settings};
use crate::db::{Database, DatabaseMetrics};
use crate::host::clock::random;
use crate::node::assemble;
use crate::ports::plane::{Actor, AdminRole, ConfigStore, Edit};
use crate::rulefile::decode::limit_from_json;
use crate::rulefile::encode::limit_json;
use crate::telemetry::registry::MetricsRegistry;

#[derive(Subcommand)]
pub enum Token {
    /// Create an admin token in PostgreSQL; it is shown this once
    Create(Create),
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Viewer,
    Editor,
    Owner,
}

impl From<Role> for AdminRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Editor => Self::Editor,
            Role::Owner => Self::Owner,
        }
    }
}

#[derive(Args)]
pub struct Create {
    /// What its holder may do
    #[arg(long)]
    role: Role,
    /// The name of its holder in the audit; otherwise a random one
    #[arg(long)]
    name: Option<String>,
    /// Configuration file, as of serve, of which only `postgres` counts; without it, the environment has it
    #[arg(long)]
    config: Option<PathBuf>,
}

impl Token {
    pub fn run(self, global: &GlobalArgs) -> Exit {
        let Self::Create(create) = self;
        create.run(global.output).err().unwrap_or(Exit::Ok)
    }
}

fn failed(message: impl std::fmt::Display) -> Exit {
    eprintln!("{message}");
    Exit::Failed
}

impl Create {
    fn run(self, output: Output) -> Result<(), Exit> {
        let postgres = settings::postgres(self.config.as_deref(), output)?;
        let draw = || random().map_err(|error| failed(format!("no randomness: {error}")));
        let token = format!("tgat_{:016x}{:016x}{:016x}", draw()?, draw()?, draw()?);
        let role = AdminRole::from(self.role);
        let name = match self.name {
            Some(name) => name,
            None => format!("{role}-{:08x}", draw()? >> 32),
        };
        let hash = KeyHash::of(&token);
        let edit = Edit::CreateToken { name: name.clone(), role, hash };
        let actor = Actor { name: "tidegate token create".to_owned(), role: AdminRole::Owner };
        let metrics = MetricsRegistry::new("", "").and_then(|registry| DatabaseMetrics::new(&registry));
        let database =
            Database::new(assemble::database_config(&postgres), metrics.map_err(failed)?, limit_from_json, limit_json);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        runtime.block_on(database.edit(&actor, edit, None)).map_err(failed)?;
        if output == Output::Json {
            outln!("{}", json!({ "token": token, "name": name, "role": role }));
        } else {
            outln!("{token}");
            eprintln!("{}: {name} has the role {role}. The token is shown this once.", output::word("done", true));
        }
        Ok(())
    }
}
