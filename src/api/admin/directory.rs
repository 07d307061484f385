//! The calls about tiers, users, keys, and the audit.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use plane::UserRow;
use serde::Deserialize;
use serde_json::Value;

use super::AdminState;
use super::auth::{Editor, Owner, Viewer};
use super::wire::{Query, changed, expiry, json, listed};
use crate::api::rejection::{Rejection, violation};
use crate::ports::admin::{AdminError, ConfigChange, List, Page};
use crate::yaml::decode::parse_duration;

async fn list(state: &AdminState, list: List, query: Option<&str>) -> Result<Response, Rejection> {
    let page = Query::read(query, &["limit", "after"])?.page()?;
    Ok(listed(state.plane.list(list, page).await?))
}

/// The only row of a list.
async fn one(state: &AdminState, list: List, what: String) -> Result<Response, Rejection> {
    let listed = state.plane.list(list, Page { size: 1, after: None }).await?;
    let row = listed.rows.into_iter().next().ok_or(AdminError::NotFound(what))?;
    Ok(Json(row).into_response())
}

/// The tiers.
#[utoipa::path(get, path = "/admin/v1/tiers", tag = "users", security(("token" = [])),
    params(("limit" = Option<u32>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, description = "a page of tiers")))]
pub async fn tiers(
    State(state): State<AdminState>,
    _: Viewer,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    list(&state, List::Tiers { tier: None }, query.as_deref()).await
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// For people.
    #[serde(default)]
    description: String,
}

/// One tier.
#[utoipa::path(get, path = "/admin/v1/tiers/{tier}", tag = "users", security(("token" = [])),
    params(("tier" = String, Path)),
    responses((status = 200, description = "the tier"), (status = 404, description = "no such tier")))]
pub async fn tier(State(state): State<AdminState>, _: Viewer, Path(tier): Path<String>) -> Result<Response, Rejection> {
    one(&state, List::Tiers { tier: Some(tier.clone()) }, format!("the tier {tier}")).await
}

/// Creates a tier, or replaces what it has.
#[utoipa::path(put, path = "/admin/v1/tiers/{tier}", tag = "users", security(("token" = [])),
    params(("tier" = String, Path)), request_body = Tier,
    responses((status = 200, description = "the new revision")))]
pub async fn put_tier(
    State(state): State<AdminState>,
    Editor(actor): Editor,
    Path(tier): Path<String>,
    body: Body,
) -> Result<Response, Rejection> {
    let Tier { description } = json(body).await?;
    Ok(changed(state.plane.change(actor, ConfigChange::PutTier { tier, description }, None).await?))
}

/// Removes a tier that no user and no key has.
#[utoipa::path(delete, path = "/admin/v1/tiers/{tier}", tag = "users", security(("token" = [])),
    params(("tier" = String, Path)), responses((status = 200, description = "the new revision")))]
pub async fn remove_tier(
    State(state): State<AdminState>,
    Editor(actor): Editor,
    Path(tier): Path<String>,
) -> Result<Response, Rejection> {
    Ok(changed(state.plane.change(actor, ConfigChange::RemoveTier { tier }, None).await?))
}

/// The users.
#[utoipa::path(get, path = "/admin/v1/users", tag = "users", security(("token" = [])),
    params(("limit" = Option<u32>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, description = "a page of users")))]
pub async fn users(
    State(state): State<AdminState>,
    _: Viewer,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    list(&state, List::Users { user: None }, query.as_deref()).await
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The tier of the user's keys that have none.
    tier: Option<String>,
}

/// One user.
#[utoipa::path(get, path = "/admin/v1/users/{user}", tag = "users", security(("token" = [])),
    params(("user" = String, Path)),
    responses((status = 200, description = "the user"), (status = 404, description = "no such user")))]
pub async fn user(State(state): State<AdminState>, _: Viewer, Path(user): Path<String>) -> Result<Response, Rejection> {
    one(&state, List::Users { user: Some(user.clone()) }, format!("the user {user}")).await
}

/// Creates a user, or replaces what the user has.
#[utoipa::path(put, path = "/admin/v1/users/{user}", tag = "users", security(("token" = [])),
    params(("user" = String, Path)), request_body = User,
    responses((status = 200, description = "the new revision")))]
pub async fn put_user(
    State(state): State<AdminState>,
    Editor(actor): Editor,
    Path(user): Path<String>,
    body: Body,
) -> Result<Response, Rejection> {
    let User { tier } = json(body).await?;
    Ok(changed(state.plane.change(actor, ConfigChange::PutUser(UserRow { user, tier }), None).await?))
}

/// Removes a user, with the user's keys.
#[utoipa::path(delete, path = "/admin/v1/users/{user}", tag = "users", security(("token" = [])),
    params(("user" = String, Path)), responses((status = 200, description = "the new revision")))]
pub async fn remove_user(
    State(state): State<AdminState>,
    Editor(actor): Editor,
    Path(user): Path<String>,
) -> Result<Response, Rejection> {
    Ok(changed(state.plane.change(actor, ConfigChange::RemoveUser { user }, None).await?))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// The tier of this key; otherwise that of its user.
    tier: Option<String>,
    /// A length of time such as `90d`, or milliseconds since the epoch.
    expires: Option<Value>,
}

/// Creates a key. The answer shows it this once.
#[utoipa::path(post, path = "/admin/v1/users/{user}/keys", tag = "keys", security(("token" = [])),
    params(("user" = String, Path)), request_body = NewKey,
    responses((status = 200, description = "api_key and key_id")))]
pub async fn create_key(
    State(state): State<AdminState>,
    Editor(actor): Editor,
    Path(user): Path<String>,
    body: Body,
) -> Result<Response, Rejection> {
    let NewKey { tier, expires } = json(body).await?;
    let expires = expiry(expires.as_ref())?;
    Ok(changed(state.plane.change(actor, ConfigChange::CreateKey { user, tier, expires }, None).await?))
}

/// The keys, of one user or of all. Nobody can see the keys themselves.
#[utoipa::path(get, path = "/admin/v1/keys", tag = "keys", security(("token" = [])),
    params(("user" = Option<String>, Query), ("limit" = Option<u32>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, description = "a page of keys")))]
pub async fn keys(
    State(state): State<AdminState>,
    _: Viewer,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    let query = Query::read(query.as_deref(), &["user", "limit", "after"])?;
    let user = query.get("user").map(ToOwned::to_owned);
    Ok(listed(state.plane.list(List::Keys { user }, query.page()?).await?))
}

/// Revokes a key.
#[utoipa::path(delete, path = "/admin/v1/keys/{key_id}", tag = "keys", security(("token" = [])),
    params(("key_id" = String, Path)), responses((status = 200, description = "the new revision")))]
pub async fn revoke_key(
    State(state): State<AdminState>,
    Editor(actor): Editor,
    Path(key_id): Path<String>,
) -> Result<Response, Rejection> {
    Ok(changed(state.plane.change(actor, ConfigChange::RevokeKey { key_id }, None).await?))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// How long the old key still counts, such as `1h`. Default: not at all.
    overlap: Option<String>,
    /// A length of time such as `90d`, or milliseconds since the epoch. Default: when the old key would have expired.
    expires: Option<Value>,
}

/// Creates a key for the same user, and lets the old one expire.
#[utoipa::path(post, path = "/admin/v1/keys/{key_id}/rotate", tag = "keys", security(("token" = [])),
    params(("key_id" = String, Path)), request_body = Rotation,
    responses((status = 200, description = "api_key and key_id of the new key")))]
pub async fn rotate_key(
    State(state): State<AdminState>,
    Editor(actor): Editor,
    Path(key_id): Path<String>,
    body: Body,
) -> Result<Response, Rejection> {
    let Rotation { overlap, expires } = json(body).await?;
    let overlap = overlap.as_deref().map_or(Some(0), parse_duration);
    let message = "expected a length of time such as 1h";
    let overlap_ms = overlap.ok_or_else(|| Rejection::Invalid(vec![violation("/overlap", message)]))?;
    let expires = expiry(expires.as_ref())?;
    Ok(changed(state.plane.change(actor, ConfigChange::RotateKey { key_id, overlap_ms, expires }, None).await?))
}

/// Who changed what, the newest first.
#[utoipa::path(get, path = "/admin/v1/audit", tag = "audit", security(("token" = [])),
    params(("limit" = Option<u32>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, description = "a page of the audit")))]
pub async fn audit(
    State(state): State<AdminState>,
    _: Owner,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    list(&state, List::Audit, query.as_deref()).await
}
