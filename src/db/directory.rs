//! Look-ups of API keys.

use plane::{CachedKey, KeyHash, KeyRow, UserRow};

use super::Database;
use super::error::describe;
use super::metrics::Query;
use crate::ports::BoxFuture;
use crate::ports::plane::{DatabaseError, KeyDirectory};
use limiter::Revision;

/// A key and its user, with the revision of the server. One statement sees one state.
const LOOK_UP: &str = "
SELECT head.revision, key.key_id, key.user_id, key.tier, owner.tier AS user_tier,
    floor(extract(epoch FROM key.expires_at) * 1000)::bigint AS expires_at_ms,
    floor(extract(epoch FROM key.revoked_at) * 1000)::bigint AS revoked_at_ms
FROM config_revision AS head
LEFT JOIN api_keys AS key ON key.hash = $1
LEFT JOIN users AS owner ON owner.user_id = key.user_id";

#[derive(sqlx::FromRow)]
struct Found {
    revision: i64,
    key_id: Option<String>,
    user_id: Option<String>,
    tier: Option<String>,
    user_tier: Option<String>,
    expires_at_ms: Option<i64>,
    revoked_at_ms: Option<i64>,
}

impl KeyDirectory for Database {
    fn look_up(&self, hash: KeyHash) -> BoxFuture<'_, Result<CachedKey, DatabaseError>> {
        Box::pin(Self::within(self.config.deadlines.look_up, async move {
            let mut session = self.replica_session().await?;
            let _timer = self.metrics.start(Query::LookUp);
            let asked = sqlx::query_as::<_, Found>(LOOK_UP).bind(hash.to_string());
            let found = asked.fetch_one(&mut *session).await.map_err(|error| describe(&error))?;
            session.finish();
            let time = |ms: Option<i64>| ms.and_then(|ms| u64::try_from(ms).ok());
            let row = found.key_id.zip(found.user_id).map(|(key_id, user)| {
                let (expires_at_ms, revoked_at_ms) = (time(found.expires_at_ms), time(found.revoked_at_ms));
                let key = KeyRow { hash, key_id, user: user.clone(), tier: found.tier, expires_at_ms, revoked_at_ms };
                (key, UserRow { user, tier: found.user_tier })
            });
            Ok(CachedKey { revision: Revision(u64::try_from(found.revision).unwrap_or(0)), found: row })
        }))
    }
}
