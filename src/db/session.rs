//! Connections that are lent out for one call.

use std::ops::{Deref, DerefMut};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres};

/// A connection for one call. Unless the call comes to its end, the connection is closed: a statement or a transaction
/// may be open in it.
pub(super) struct Session {
    connection: PoolConnection<Postgres>,
    finished: bool,
}

impl Session {
    pub const fn new(connection: PoolConnection<Postgres>) -> Self {
        Self { connection, finished: false }
    }

    /// Gives the connection back, for the next call.
    pub fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.finished {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Session {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
