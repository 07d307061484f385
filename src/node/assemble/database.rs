//! The database of a node, from its settings.

use crate::config::plane::Postgres;
use crate::db::{DatabaseConfig, Deadlines};

/// How the node, and commands that have its settings, reach PostgreSQL.
pub fn database_config(settings: &Postgres) -> DatabaseConfig {
    let Postgres { hosts, replica, database, user, password_file, ca_file } = settings.clone();
    DatabaseConfig { hosts, replica, database, user, password_file, ca_file, deadlines: Deadlines::default() }
}
