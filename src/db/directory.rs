//! Look-ups of API keys.

use std::sync::Arc;

use limiter::Revision;
use plane::{CachedKey, KeyHash, KeyRow, KeyVerdict, PlaneState, UserRow, resolve};
use sqlx::types::Uuid;

use super::Database;
use super::changes::{mark, signed};
use super::error::{describe, late};
use super::metrics::Query;
use super::session::Session;
use crate::ports::BoxFuture;
use crate::ports::plane::{DatabaseError, KeyDirectory};

/// A key and its user, with the server's last transaction, and whether it has the last one of the node's state. One
/// statement sees one state.
const LOOK_UP: &str = "
SELECT head.revision, head.commit_id,
    EXISTS (SELECT FROM change_log WHERE revision = $2 AND commit_id = $3) AS has_known,
    key.key_id, key.user_id, key.tier, owner.tier AS user_tier,
    floor(extract(epoch FROM key.expires_at) * 1000)::bigint AS expires_at_ms,
    floor(extract(epoch FROM key.revoked_at) * 1000)::bigint AS revoked_at_ms
FROM config_revision AS head
LEFT JOIN api_keys AS key ON key.hash = $1
LEFT JOIN users AS owner ON owner.user_id = key.user_id";

#[derive(sqlx::FromRow)]
struct Answer {
    revision: i64,
    commit_id: Uuid,
    has_known: bool,
    key_id: Option<String>,
    user_id: Option<String>,
    tier: Option<String>,
    user_tier: Option<String>,
    expires_at_ms: Option<i64>,
    revoked_at_ms: Option<i64>,
}

impl KeyDirectory for Database {
    fn look_up(&self, hash: KeyHash, state: Arc<PlaneState>) -> BoxFuture<'_, Result<CachedKey, DatabaseError>> {
        let deadline = self.config.deadlines.look_up;
        Box::pin(Self::within(deadline, async move {
            let at_replica = self.look_up_at_replica(hash, &state).await?;
            // Expiry is for the node to judge.
            let settles = |key: &CachedKey| resolve(&hash, Some(key), state.recent(), 0, false) != KeyVerdict::LookUp;
            if let Some(key) = at_replica.as_ref().filter(|key| settles(key)) {
                return Ok(key.clone());
            }
            // The primary is asked within half of the time, so that the answer of the replica counts if it hangs.
            let at_primary = tokio::time::timeout(deadline / 2, async {
                let mut session = self.session().await?;
                let key = self.look_up_at(&mut session, hash, &state).await?;
                session.finish();
                Ok(key)
            });
            match (at_primary.await.unwrap_or_else(|_| Err(late())), at_replica) {
                (Ok(key), None) => Ok(key),
                (Ok(key), Some(_)) if settles(&key) => Ok(key),
                (_, Some(key)) => Ok(key),
                (Err(error), None) => Err(error),
            }
        }))
    }
}

impl Database {
    /// Asks the replica. `None` if there is none, or if it does not answer.
    async fn look_up_at_replica(&self, hash: KeyHash, state: &PlaneState) -> Result<Option<CachedKey>, DatabaseError> {
        let Some(replica) = &self.replica else { return Ok(None) };
        let Some(mut session) = replica.session(&self.primary).await? else { return Ok(None) };
        let asked = self.look_up_at(&mut session, hash, state);
        match tokio::time::timeout(self.config.deadlines.look_up / 4, asked).await {
            Ok(Ok(key)) => {
                session.finish();
                return Ok(Some(key));
            }
            Ok(Err(error)) => replica.failed(&error),
            Err(_) => replica.failed(&late()),
        }
        Ok(None)
    }

    async fn look_up_at(
        &self,
        session: &mut Session,
        hash: KeyHash,
        state: &PlaneState,
    ) -> Result<CachedKey, DatabaseError> {
        let _timer = self.metrics.start(Query::LookUp);
        let known = state.mark();
        let asked = sqlx::query_as::<_, Answer>(LOOK_UP).bind(hash.to_string());
        let asked = asked.bind(signed(known.revision)).bind(Uuid::from_u128(known.id.0));
        let answer = asked.fetch_one(&mut **session).await.map_err(|error| describe(&error))?;
        let head = mark(answer.revision, answer.commit_id);
        // What follows the node's transaction at the server need not be what the cluster will apply. The revisions of a
        // server that lacks it and has not lagged behind say nothing about what the cluster has applied.
        let revision = match answer.has_known {
            true => known.revision,
            false if state.has_passed(head) => head.revision,
            false => Revision::NONE,
        };
        let time = |ms: Option<i64>| ms.and_then(|ms| u64::try_from(ms).ok());
        let found = answer.key_id.zip(answer.user_id).map(|(key_id, user)| {
            let (expires_at_ms, revoked_at_ms) = (time(answer.expires_at_ms), time(answer.revoked_at_ms));
            let key = KeyRow { hash, key_id, user: user.clone(), tier: answer.tier, expires_at_ms, revoked_at_ms };
            (key, UserRow { user, tier: answer.user_tier })
        });
        Ok(CachedKey { revision, found })
    }
}
