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
use crate::ports::admin::{Actor, AdminRole};

/// How long a token that was looked up counts without another look-up, in microseconds. A revoked token stops then.
const CACHED_US: u64 = 2_000_000;
/// The most tokens that are cached.
const MAX_CACHED: usize = 1000;
/// The longest token, in bytes.
const MAX_TOKEN: usize = 256;

/// Tokens that were valid a moment ago, by their SHA-256.
#[derive(Default)]
pub struct TokenCache(Mutex<HashMap<KeyHash, (Actor, NodeTime)>>);

impl TokenCache {
    fn get(&self, token: &KeyHash, now: NodeTime) -> Option<Actor> {
        let cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (actor, since) = cached.get(token)?;
        (now.0.saturating_sub(since.0) < CACHED_US).then(|| actor.clone())
    }

    fn put(&self, token: KeyHash, actor: Actor, now: NodeTime) {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.len() >= MAX_CACHED {
            cached.retain(|_, (_, since)| now.0.saturating_sub(since.0) < CACHED_US);
        }
        if cached.len() < MAX_CACHED {
            cached.insert(token, (actor, now));
        }
    }
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
    pub async fn caller(&self, headers: &HeaderMap, ip: IpAddr, role: AdminRole) -> Result<Actor, Rejection> {
        let actor = self.authenticate(headers, ip).await?;
        if actor.role < role {
            return Err(Rejection::Forbidden(role));
        }
        Ok(actor)
    }

    async fn authenticate(&self, headers: &HeaderMap, ip: IpAddr) -> Result<Actor, Rejection> {
        let Some(token) = token(headers) else { return Err(Rejection::Unauthorized) };
        let now = self.clock.now();
        if let Some(actor) = self.tokens.get(&token, now) {
            return Ok(actor);
        }
        if let Some(wait) = self.attempts.begin(ip, now) {
            self.metrics.throttled();
            return Err(Rejection::TooManyAttempts(wait));
        }
        let found = self.plane.actor(token).await;
        if !matches!(found, Ok(None)) {
            self.attempts.take_back(ip, self.clock.now());
        }
        let Some(actor) = found? else {
            self.metrics.wrong_token();
            tracing::warn!(%ip, "an admin call had a wrong token");
            return Err(Rejection::Unauthorized);
        };
        self.tokens.put(token, actor.clone(), now);
        Ok(actor)
    }
}

async fn of_request(parts: &Parts, state: &AdminState, role: AdminRole) -> Result<Actor, Rejection> {
    let peer = parts.extensions.get::<Peer>().ok_or(Rejection::Internal)?;
    state.caller(&parts.headers, peer.0, role).await
}

/// A caller who may read.
pub struct Viewer;
/// A caller who may change rules, tiers, users and keys.
pub struct Editor(pub Actor);
/// A caller who may change the cluster.
pub struct Owner(pub Actor);

impl FromRequestParts<AdminState> for Viewer {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, Rejection> {
        of_request(parts, state, AdminRole::Viewer).await.map(|_| Self)
    }
}

impl FromRequestParts<AdminState> for Editor {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, Rejection> {
        of_request(parts, state, AdminRole::Editor).await.map(Self)
    }
}

impl FromRequestParts<AdminState> for Owner {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, Rejection> {
        of_request(parts, state, AdminRole::Owner).await.map(Self)
    }
}
