//! Whom an admin call comes from: its bearer token, and what the role of the token may do.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use limiter::NodeTime;
use plane::KeyHash;

use super::AdminState;
use crate::api::http::Peer;
use crate::api::rejection::Rejection;
use crate::ports::admin::{Actor, AdminError, AdminRole};

/// How long a token that was looked up counts without another look-up, in microseconds. A removed token stops then.
const FRESH_US: u64 = 2_000_000;
/// How long a token that was looked up counts while PostgreSQL does not answer, in microseconds.
const STALE_US: u64 = 3_600_000_000;
/// The most tokens that are remembered.
const MAX_REMEMBERED: usize = 1000;
/// The longest token, in bytes.
const MAX_TOKEN: usize = 256;

/// Tokens that were valid when they were looked up, by their SHA-256, with the result of the last look-up.
#[derive(Default)]
pub struct TokenCache(Mutex<HashMap<KeyHash, LookedUp>>);

#[derive(Clone)]
struct LookedUp {
    /// `None`: the token was removed.
    actor: Option<Actor>,
    at: NodeTime,
}

impl LookedUp {
    const fn age(&self, now: NodeTime) -> u64 {
        now.0.saturating_sub(self.at.0)
    }
}

impl TokenCache {
    /// Whose token this is, and the time since a look-up said so, in microseconds; `None` if no recent one did.
    fn get(&self, token: &KeyHash, now: NodeTime) -> Option<(Actor, u64)> {
        let remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = remembered.get(token)?;
        Some((found.actor.clone()?, found.age(now))).filter(|(_, age)| *age < STALE_US)
    }

    /// Remembers what a look-up said that began at `began` and ended at `now`.
    fn put(&self, token: KeyHash, actor: Option<Actor>, began: NodeTime, now: NodeTime) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, found| found.age(now) < STALE_US);
        }
        let has_room = remembered.len() < MAX_REMEMBERED;
        match remembered.get_mut(&token) {
            // A slower look-up must not revive a token that was removed meanwhile.
            Some(found) if actor.is_none() || found.at <= began => {
                let at = if actor.is_none() { now } else { began };
                *found = LookedUp { actor, at };
            }
            // Wrong tokens take no room.
            None if actor.is_some() && has_room => {
                remembered.insert(token, LookedUp { actor, at: began });
            }
            _ => {}
        }
    }
}

/// The kind of a call. It decides which tokens count while PostgreSQL does not answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It reads, or it changes the cluster itself: a token that was valid a while ago counts.
    ReadOrAdminister,
    /// It writes to PostgreSQL.
    Write,
}

/// The SHA-256 of the bearer token. The token itself goes no further.
fn token(headers: &HeaderMap) -> Option<KeyHash> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    let fits = scheme.eq_ignore_ascii_case("bearer") && (1..=MAX_TOKEN).contains(&token.len());
    fits.then(|| KeyHash::of(token))
}

impl AdminState {
    /// Whom a call comes from, if its role is at least `role`.
    ///
    /// # Errors
    /// Why the call is not done.
    pub async fn caller(
        &self,
        headers: &HeaderMap,
        ip: IpAddr,
        role: AdminRole,
        action: Action,
    ) -> Result<Actor, Rejection> {
        let actor = self.authenticate(headers, ip, action).await?;
        if actor.role < role {
            return Err(Rejection::Forbidden(role));
        }
        Ok(actor)
    }

    async fn authenticate(&self, headers: &HeaderMap, ip: IpAddr, action: Action) -> Result<Actor, Rejection> {
        let Some(token) = token(headers) else { return Err(Rejection::Unauthorized) };
        let now = self.clock.now();
        if let Some(owner) = self.plane.owner(&token) {
            // A person chose this token, so it can be guessed: the guesses of one address are limited.
            return match self.attempts.own_wait(ip, now) {
                None => Ok(owner),
                Some(wait) => {
                    self.metrics.throttled();
                    Err(Rejection::TooManyAttempts(wait))
                }
            };
        }
        let known = self.tokens.get(&token, now);
        match known {
            Some((actor, age)) if age < FRESH_US => return Ok(actor),
            Some((actor, _)) => self.look_up(token, now, Some(actor), action).await,
            // Only a token that may be a guess counts as an attempt: others' guesses lock nobody out.
            None => {
                if let Some(wait) = self.attempts.begin(ip, now) {
                    self.metrics.throttled();
                    return Err(Rejection::TooManyAttempts(wait));
                }
                let found = self.look_up(token, now, None, action).await;
                if !matches!(found, Ok(None)) {
                    self.attempts.take_back(ip, self.clock.now());
                }
                found
            }
        }?
        .ok_or_else(|| {
            self.metrics.wrong_token();
            tracing::warn!(%ip, "an admin call had a wrong token");
            Rejection::Unauthorized
        })
    }

    /// Whom a token belongs to. `before` is what an earlier look-up said, which counts if PostgreSQL does not answer.
    async fn look_up(
        &self,
        token: KeyHash,
        began: NodeTime,
        before: Option<Actor>,
        action: Action,
    ) -> Result<Option<Actor>, Rejection> {
        match (self.plane.actor(token).await, before) {
            (Ok(found), _) => {
                self.tokens.put(token, found.clone(), began, self.clock.now());
                Ok(found)
            }
            (Err(AdminError::Unavailable(_)), Some(before)) if action == Action::ReadOrAdminister => Ok(Some(before)),
            (Err(error), _) => Err(error.into()),
        }
    }
}

async fn of_request(parts: &Parts, state: &AdminState, role: AdminRole, action: Action) -> Result<Actor, Rejection> {
    let peer = parts.extensions.get::<Peer>().ok_or(Rejection::Internal)?;
    state.caller(&parts.headers, peer.0, role, action).await
}

/// A caller who may read.
pub struct Viewer;
/// A caller who may change rules, tiers, users and keys.
pub struct Editor(pub Actor);
/// A caller who may change the cluster itself.
pub struct Owner(pub Actor);
/// A caller who may change the settings in PostgreSQL.
pub struct SettingsOwner(pub Actor);

impl FromRequestParts<AdminState> for Viewer {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, Rejection> {
        of_request(parts, state, AdminRole::Viewer, Action::ReadOrAdminister).await.map(|_| Self)
    }
}

impl FromRequestParts<AdminState> for Editor {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, Rejection> {
        of_request(parts, state, AdminRole::Editor, Action::Write).await.map(Self)
    }
}

impl FromRequestParts<AdminState> for Owner {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, Rejection> {
        of_request(parts, state, AdminRole::Owner, Action::ReadOrAdminister).await.map(Self)
    }
}

impl FromRequestParts<AdminState> for SettingsOwner {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, Rejection> {
        of_request(parts, state, AdminRole::Owner, Action::Write).await.map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_look_up_does_not_revive_a_token_that_was_removed_meanwhile() {
        let (cache, token) = (TokenCache::default(), KeyHash([7; 32]));
        let at = |seconds: u64| NodeTime(seconds * 1_000_000);
        let ana = || Some(Actor { name: "ana".to_owned(), role: AdminRole::Owner });
        cache.put(token, ana(), at(0), at(0));
        cache.put(token, None, at(11), at(12));
        cache.put(token, ana(), at(10), at(13));
        assert_eq!(cache.get(&token, at(13)), None);
        cache.put(token, ana(), at(14), at(14));
        assert_eq!(cache.get(&token, at(15)), ana().map(|ana| (ana, 1_000_000)));
        assert_eq!(cache.get(&token, at(14 + 3600)), None);
        let wrong = KeyHash([8; 32]);
        cache.put(wrong, None, at(14), at(14));
        assert!(!cache.0.lock().unwrap().contains_key(&wrong), "wrong tokens take no room");
    }
}
