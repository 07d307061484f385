//! The calls about the cluster.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;

use super::AdminState;
use super::auth::{Owner, SettingsOwner, Viewer};
use super::wire::{bytes, changed, json};
use crate::api::rejection::Rejection;
use crate::ports::admin::{Actor, ConfigChange, MemberChange};

/// The largest backup, in bytes.
pub const MAX_BACKUP: usize = 64 * 1024 * 1024;

/// The leader, the revision, the members, and the number of refused changes, as far as this node knows. A node with a
/// rule file has no members.
#[utoipa::path(get, path = "/admin/v1/cluster", tag = "cluster", security(("token" = [])),
    responses((status = 200, description =
        "leader, revision, members, refused, and what this node knows of the other regions; `last_seen_ms` of a member is \
        how long ago the leader heard of it")))]
pub async fn status(State(state): State<AdminState>, _: Viewer) -> Result<Response, Rejection> {
    let mut status = serde_json::to_value(state.plane.cluster()?).map_err(|_| Rejection::Internal)?;
    status["regions"] = serde_json::to_value(state.plane.regions()).map_err(|_| Rejection::Internal)?;
    status["refused"] = state.plane.refused()?.len().into();
    Ok(Json(status).into_response())
}

/// The settings that all nodes share.
#[utoipa::path(get, path = "/admin/v1/cluster/settings", tag = "cluster", security(("token" = [])),
    responses((status = 200, description = "every setting that was set")))]
pub async fn settings(State(state): State<AdminState>, _: Viewer) -> Result<Response, Rejection> {
    Ok(Json(state.plane.settings()?).into_response())
}

/// Sets settings. Those that the body does not name stay as they are.
#[utoipa::path(put, path = "/admin/v1/cluster/settings", tag = "cluster", security(("token" = [])),
    request_body = Object,
    responses((status = 200, description = "the new revision"), (status = 400, description = "every invalid setting")))]
pub async fn put_settings(
    State(state): State<AdminState>,
    SettingsOwner(actor): SettingsOwner,
    body: Body,
) -> Result<Response, Rejection> {
    let settings: BTreeMap<String, Value> = json(body).await?;
    let change = ConfigChange::PutSettings(settings.into_iter().collect());
    Ok(changed(state.plane.change(actor, change, None).await?))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// The addresses of the voters, `host:port` of the cluster listener, by name.
    voters: BTreeMap<String, String>,
}

/// Forms a new cluster. It is done once.
#[utoipa::path(post, path = "/admin/v1/cluster/init", tag = "cluster", security(("token" = [])), request_body = Init,
    responses((status = 204, description = "the cluster is formed")))]
pub async fn init(State(state): State<AdminState>, Owner(actor): Owner, body: Body) -> Result<StatusCode, Rejection> {
    let Init { voters } = json(body).await?;
    administer(&state, actor, MemberChange::Init { voters: voters.into_iter().collect() }).await
}

/// Makes a learner a voter.
#[utoipa::path(post, path = "/admin/v1/cluster/members/{node}/promote", tag = "cluster", security(("token" = [])),
    params(("node" = String, Path)), responses((status = 204, description = "done")))]
pub async fn promote(
    State(state): State<AdminState>,
    Owner(actor): Owner,
    Path(node): Path<String>,
) -> Result<StatusCode, Rejection> {
    administer(&state, actor, MemberChange::Promote { node }).await
}

/// Makes a voter a learner.
#[utoipa::path(post, path = "/admin/v1/cluster/members/{node}/demote", tag = "cluster", security(("token" = [])),
    params(("node" = String, Path)), responses((status = 204, description = "done")))]
pub async fn demote(
    State(state): State<AdminState>,
    Owner(actor): Owner,
    Path(node): Path<String>,
) -> Result<StatusCode, Rejection> {
    administer(&state, actor, MemberChange::Demote { node }).await
}

/// Removes a member.
#[utoipa::path(delete, path = "/admin/v1/cluster/members/{node}", tag = "cluster", security(("token" = [])),
    params(("node" = String, Path)), responses((status = 204, description = "done")))]
pub async fn remove(
    State(state): State<AdminState>,
    Owner(actor): Owner,
    Path(node): Path<String>,
) -> Result<StatusCode, Rejection> {
    administer(&state, actor, MemberChange::Remove { node }).await
}

/// Writes a snapshot and compacts the log of the node that is asked.
#[utoipa::path(post, path = "/admin/v1/cluster/snapshot", tag = "cluster", security(("token" = [])),
    responses((status = 204, description = "done")))]
pub async fn snapshot(State(state): State<AdminState>, Owner(actor): Owner) -> Result<StatusCode, Rejection> {
    administer(&state, actor, MemberChange::Snapshot).await
}

/// The replicated configuration as a file.
#[utoipa::path(get, path = "/admin/v1/cluster/backup", tag = "cluster", security(("token" = [])),
    responses((status = 200, description = "the backup")))]
pub async fn backup(State(state): State<AdminState>, _: Owner) -> Result<Response, Rejection> {
    let plane = std::sync::Arc::clone(&state.plane);
    let backup = tokio::task::spawn_blocking(move || plane.backup()).await.map_err(|_| Rejection::Internal)??;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], backup).into_response())
}

/// Replaces the state of the whole cluster by that of a backup.
#[utoipa::path(post, path = "/admin/v1/cluster/restore", tag = "cluster", security(("token" = [])),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "a backup"),
    responses((status = 204, description = "done"), (status = 400, description = "why the backup is not used")))]
pub async fn restore(
    State(state): State<AdminState>,
    Owner(actor): Owner,
    body: Body,
) -> Result<StatusCode, Rejection> {
    let backup = bytes(body, MAX_BACKUP).await?;
    administer(&state, actor, MemberChange::Restore { backup }).await
}

async fn administer(state: &AdminState, actor: Actor, change: MemberChange) -> Result<StatusCode, Rejection> {
    state.plane.administer(actor, change).await?;
    Ok(StatusCode::NO_CONTENT)
}
