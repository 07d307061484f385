//! `tidegate migrate`: the schema of the configuration plane in PostgreSQL.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Exit, GlobalArgs, Output, output, settings};
use crate::db::DatabaseMetrics;
use crate::db::migrations::{self, Migration, Undo};
use crate::node::assemble;
use crate::telemetry::registry::MetricsRegistry;

#[derive(Subcommand)]
pub enum Migrate {
    /// Apply every migration that the database lacks
    Up(Database),
    /// Show which migrations the database has
    Status(Database),
    /// Undo the last migration, which removes its tables and their rows
    Down {
        #[command(flatten)]
        database: Database,
        /// Undo every migration, which removes all rules, users and API keys; needs --yes
        #[arg(long, requires = "yes")]
        all: bool,
        /// Confirm that all tables and their rows are removed
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
pub struct Database {
    /// Configuration file, as of serve, of which only `postgres` counts; without it, the environment has it
    #[arg(long)]
    config: Option<PathBuf>,
}

impl Migrate {
    pub fn run(self, global: &GlobalArgs) -> Exit {
        let (Self::Up(Database { config })
        | Self::Status(Database { config })
        | Self::Down { database: Database { config }, .. }) = &self;
        let database = match settings::postgres(config.as_deref(), global.output) {
            Ok(postgres) => assemble::database_config(&postgres),
            Err(exit) => return exit,
        };
        match self.migrate(database) {
            Ok(migrations) => {
                show(&migrations, global.output);
                Exit::Ok
            }
            Err(error) => {
                eprintln!("{error}");
                output::wrong(global.output, &[serde_json::json!({ "message": error })]);
                Exit::Failed
            }
        }
    }

    fn migrate(self, database: crate::db::DatabaseConfig) -> Result<Vec<Migration>, String> {
        let registry = MetricsRegistry::new("", "").map_err(|error| error.to_string())?;
        let metrics = DatabaseMetrics::new(&registry).map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let done = runtime.block_on(async {
            match self {
                Self::Up(_) => migrations::up(database, metrics).await,
                Self::Status(_) => migrations::status(database, metrics).await,
                Self::Down { all, .. } => {
                    migrations::down(database, metrics, if all { Undo::All } else { Undo::Last }).await
                }
            }
        });
        done.map_err(|error| error.to_string())
    }
}

fn show(migrations: &[Migration], output: Output) {
    if output == Output::Json {
        outln!("{}", serde_json::json!({ "migrations": migrations }));
        return;
    }
    let mut table = output::table(&["version", "migration", ""]);
    for migration in migrations {
        let Migration { version, description, applied } = migration;
        let state = output::verdict(if *applied { "applied" } else { "pending" }, *applied);
        table.add_row(vec![version.to_string().into(), description.into(), state]);
    }
    outln!("{table}");
}
