//! What an error of PostgreSQL means to whoever asked.

use sqlx::postgres::PgDatabaseError;
use sqlx::{Error, PgConnection};

use crate::ports::plane::DatabaseError;

/// Codes of errors, as PostgreSQL's documentation lists them.
const DEADLOCK: &str = "40P01";
const SERIALIZATION_FAILURE: &str = "40001";
const LOCK_TIMEOUT: &str = "55P03";
const READ_ONLY: &str = "25006";

/// The time for a call is over.
pub(super) fn late() -> DatabaseError {
    DatabaseError::Unavailable("no answer within the deadline".to_owned())
}

/// Describes an error of a read. Values of rows are left out.
pub(super) fn describe(error: &Error) -> DatabaseError {
    let busy = |reason: &str| DatabaseError::Busy(reason.to_owned());
    DatabaseError::Unavailable(match error {
        Error::Database(error) => match error.code().as_deref().unwrap_or_default() {
            DEADLOCK => return busy("this transaction and another one waited for each other (a deadlock)"),
            SERIALIZATION_FAILURE => return busy("another transaction changed the same rows at the same time"),
            LOCK_TIMEOUT => return busy("another transaction held a lock for too long"),
            "42P01" | "42883" | "42703" | "3F000" => {
                format!("{}: the schema is missing or old; run `tidegate migrate up`", error.message())
            }
            _ => error.message().to_owned(),
        },
        Error::PoolTimedOut => "no free connection within the deadline".to_owned(),
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

/// True if another transaction was in the way, and this one may succeed if it is tried again at once.
pub(super) fn is_conflict(error: &Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| [DEADLOCK, SERIALIZATION_FAILURE].contains(&code.as_ref()))
}

/// True if the server is gone, says that it is no primary, or is stopping: another may be primary now.
pub(super) fn is_of_server(error: &Error) -> bool {
    match error {
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            code.starts_with("57P") || code == READ_ONLY
        }
        Error::Io(_) => true,
        _ => false,
    }
}
