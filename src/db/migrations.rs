//! The migrations of the schema, which are part of the program.

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::config::DatabaseConfig;
use super::error::describe;
use super::metrics::DatabaseMetrics;
use super::primary::Primary;
use crate::ports::plane::DatabaseError;

static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// One migration of the schema.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Migration {
    pub version: i64,
    pub description: String,
    pub applied: bool,
}

/// How far to undo migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// The last one that was applied.
    Last,
    /// All of them. This removes every table.
    All,
}

/// Applies every migration that the database lacks. Another process may do the same at the same time.
///
/// # Errors
/// Returns an error if no primary answers, or if a migration fails. A migration that fails changes nothing.
pub async fn up(config: DatabaseConfig, metrics: DatabaseMetrics) -> Result<Vec<Migration>, DatabaseError> {
    let mut connection = connect(config, metrics).await?;
    MIGRATOR.run_direct(None, &mut connection, false).await.map_err(|error| failed(&error))?;
    finish(connection).await
}

/// Undoes migrations.
///
/// # Errors
/// As [`up`].
pub async fn down(
    config: DatabaseConfig,
    metrics: DatabaseMetrics,
    undo: Undo,
) -> Result<Vec<Migration>, DatabaseError> {
    let mut connection = connect(config, metrics).await?;
    let applied = list(&mut connection).await?.into_iter().filter(|migration| migration.applied);
    let applied: Vec<i64> = applied.map(|migration| migration.version).collect();
    let target = match undo {
        Undo::Last => applied.iter().rev().nth(1).copied().unwrap_or(0),
        Undo::All => 0,
    };
    MIGRATOR.undo(&mut connection, target).await.map_err(|error| failed(&error))?;
    finish(connection).await
}

/// Every migration, and whether the database has it.
///
/// # Errors
/// Returns an error if no primary answers.
pub async fn status(config: DatabaseConfig, metrics: DatabaseMetrics) -> Result<Vec<Migration>, DatabaseError> {
    let connection = connect(config, metrics).await?;
    finish(connection).await
}

async fn connect(config: DatabaseConfig, metrics: DatabaseMetrics) -> Result<PgConnection, DatabaseError> {
    let pool = Primary::new(config, metrics).pool().await?;
    let mut connection = pool.connect_options().connect().await.map_err(|error| describe(&error))?;
    // A migration of many rows, or another process that migrates, may take long.
    let patient =
        sqlx::raw_sql("SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0");
    patient.execute(&mut connection).await.map_err(|error| describe(&error))?;
    Ok(connection)
}

async fn finish(mut connection: PgConnection) -> Result<Vec<Migration>, DatabaseError> {
    let migrations = list(&mut connection).await?;
    connection.close().await.map_err(|error| describe(&error))?;
    Ok(migrations)
}

async fn list(connection: &mut PgConnection) -> Result<Vec<Migration>, DatabaseError> {
    let exists = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL").fetch_one(&mut *connection);
    let applied: Vec<i64> = if exists.await.map_err(|error| describe(&error))? {
        let applied = connection.list_applied_migrations("_sqlx_migrations").await.map_err(|error| failed(&error))?;
        applied.into_iter().map(|migration| migration.version).collect()
    } else {
        Vec::new()
    };
    let known = MIGRATOR.iter().filter(|migration| !migration.migration_type.is_down_migration());
    Ok(known
        .map(|migration| Migration {
            version: migration.version,
            description: migration.description.to_string(),
            applied: applied.contains(&migration.version),
        })
        .collect())
}

fn failed(error: &MigrateError) -> DatabaseError {
    DatabaseError::Invalid(match error {
        MigrateError::ExecuteMigration(error, version) => format!("migration {version}: {error}"),
        MigrateError::VersionMissing(version) => {
            format!("the database has migration {version}, which this program does not know: it is older")
        }
        MigrateError::VersionMismatch(version) => {
            format!("migration {version} is not the one that the database has applied")
        }
        other => other.to_string(),
    })
}
