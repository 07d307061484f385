//! What an error of PostgreSQL means to whoever asked.

use sqlx::postgres::PgDatabaseError;
use sqlx::{Error, PgConnection};

use crate::ports::plane::DatabaseError;

/// The time for a call is over.
pub(super) fn late() -> DatabaseError {
    DatabaseError::Unavailable("no answer within the deadline".to_owned())
}

/// Describes an error of a read. Values of rows are left out.
pub(super) fn describe(error: &Error) -> DatabaseError {
    DatabaseError::Unavailable(match error {
        Error::Database(error) => match error.code().as_deref().unwrap_or_default() {
            "42P01" | "42883" | "42703" | "3F000" => {
                format!("{}: the schema is missing or old; run `tidegate migrate up`", error.message())
            }
            _ => error.message().to_owned(),
        },
        Error::PoolTimedOut => "no connection within the deadline".to_owned(),
        other => other.to_string(),
    })
}

/// Describes an error of a write: which constraint was broken, and what it expects. `edited` names the row.
///
/// The comment of a constraint says what it expects, so `connection` is asked for it. Its transaction is rolled back.
pub(super) async fn explain(connection: &mut PgConnection, error: Error, edited: &str) -> DatabaseError {
    let Error::Database(database) = &error else { return describe(&error) };
    let Some(postgres) = database.try_downcast_ref::<PgDatabaseError>() else { return describe(&error) };
    match (postgres.code(), postgres.constraint()) {
        ("23505", _) => DatabaseError::Exists(edited.to_owned()),
        ("23502", _) => {
            let column = postgres.column().unwrap_or("a column");
            DatabaseError::Invalid(format!("{column}: expected a value"))
        }
        ("23503" | "23514", Some(constraint)) => {
            let rolled_back = sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await;
            if let Err(error) = rolled_back {
                return describe(&error);
            }
            let comment = sqlx::query_scalar::<_, Option<String>>(
                "SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conname = $1 AND contype <> 't' \
                 ORDER BY conparentid LIMIT 1",
            );
            let comment = comment.bind(constraint).fetch_optional(connection).await;
            let expected = comment.ok().flatten().flatten();
            DatabaseError::Invalid(expected.unwrap_or_else(|| format!("expected what {constraint} requires")))
        }
        // A value that PostgreSQL cannot store, such as a text with a NUL.
        (code, _) if code.starts_with("22") => DatabaseError::Invalid(format!("{edited}: {}", postgres.message())),
        _ => describe(&error),
    }
}

/// True if the server says that it is no primary, or is stopping: another may be primary now.
pub(super) fn is_of_server(error: &Error) -> bool {
    match error {
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            code.starts_with("57P") || code.starts_with("08") || code == "25006"
        }
        Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::PoolTimedOut | Error::PoolClosed => true,
        _ => false,
    }
}
