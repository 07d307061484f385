//! The calls about rules.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use limiter::Revision;
use limiter::rules::Rules;
use serde::Deserialize;
use serde_json::json;

use super::AdminState;
use super::auth::{Editor, Viewer};
use super::wire::{MAX_BODY, MAX_BOOK, Query, changed, json, listed, of_problem, precondition, tagged, text};
use crate::api::rejection::{Rejection, violation};
use crate::ports::admin::{AdminError, ConfigChange, List};
use crate::rulefile::{decode, encode};

/// The rule book in force, or that of a revision. `Accept: application/yaml` asks for YAML.
#[utoipa::path(get, path = "/admin/v1/rules", tag = "rules", security(("token" = [])),
    params(("revision" = Option<u64>, Query, description = "the rules as of this revision")),
    responses((status = 200, description = "the rule book as a rule file; its revision is the ETag"),
        (status = 404, description = "the history does not reach back to the revision")))]
pub async fn get_rules(
    State(state): State<AdminState>,
    _: Viewer,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    let revision = Query::read(query.as_deref(), &["revision"])?.revision()?;
    let (rules, revision) = match revision {
        None => {
            let book = state.plane.book();
            (Rules::clone(book.rules()), book.revision)
        }
        Some(revision) => (state.plane.rules_at(revision).await?, revision),
    };
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let answer = if accepted.contains("yaml") {
        ([(header::CONTENT_TYPE, "application/yaml")], encode::rules_yaml(&rules)).into_response()
    } else {
        Json(encode::rules_json(&rules)).into_response()
    };
    Ok(tagged(answer, revision))
}

/// Replaces the whole rule book. The body is a rule file, as YAML or JSON.
#[utoipa::path(put, path = "/admin/v1/rules", tag = "rules", security(("token" = [])),
    params(("If-Match" = Option<String>, Header, description = "the revision that the change is based on")),
    request_body(content((Object = "application/yaml"), (Object = "application/json")), description = "a rule file"),
    responses((status = 200, description = "the new revision, and whether this node has it in force"),
        (status = 400, description = "every invalid field"),
        (status = 409, description = "another revision is in force, or the rules come from a file")))]
pub async fn put_rules(
    State(state): State<AdminState>,
    Editor(actor): Editor,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Rejection> {
    let expected = precondition(&headers)?;
    let text = text(body, MAX_BOOK).await?;
    let read = tokio::task::spawn_blocking(move || decode::read_rules(&text)).await;
    let rules = read.map_err(|_| Rejection::Internal)?;
    let rules = rules.map_err(|problems| Rejection::Invalid(problems.into_iter().map(of_problem).collect()))?;
    Ok(changed(state.plane.change(actor, ConfigChange::PutRules(rules), expected).await?))
}

/// One limit of the rule book in force.
#[utoipa::path(get, path = "/admin/v1/domains/{domain}/limits/{limit}", tag = "rules", security(("token" = [])),
    params(("domain" = String, Path), ("limit" = String, Path)),
    responses((status = 200, description = "the limit as in a rule file"), (status = 404, description = "no such limit")))]
pub async fn get_limit(
    State(state): State<AdminState>,
    _: Viewer,
    Path((domain, name)): Path<(String, String)>,
) -> Result<Response, Rejection> {
    let book = state.plane.book();
    let limits = book.rules().domains.iter().filter(|known| known.domain == domain).flat_map(|domain| &domain.limits);
    let mut limits = limits.filter(|limit| limit.name == name);
    let limit = limits.next().ok_or_else(|| AdminError::NotFound(format!("the limit {domain}/{name}")))?;
    Ok(tagged(Json(encode::limit_json(limit)).into_response(), book.revision))
}

/// Puts one limit. The body is an entry of `limits` in a rule file, as YAML or JSON; `name` may be left out.
#[utoipa::path(put, path = "/admin/v1/domains/{domain}/limits/{limit}", tag = "rules", security(("token" = [])),
    request_body(content((Object = "application/yaml"), (Object = "application/json")), description = "one limit"),
    params(("domain" = String, Path), ("limit" = String, Path),
        ("If-Match" = Option<String>, Header, description = "the revision that the change is based on")),
    responses((status = 200, description = "the new revision, and whether this node has it in force"),
        (status = 400, description = "every invalid field"),
        (status = 409, description = "another revision is in force, or the rules come from a file")))]
pub async fn put_limit(
    State(state): State<AdminState>,
    Editor(actor): Editor,
    Path((domain, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Rejection> {
    let expected = precondition(&headers)?;
    let limit = decode::read_limit(&text(body, MAX_BODY).await?, Some(&name));
    let limit = limit.map_err(|problems| Rejection::Invalid(problems.into_iter().map(of_problem).collect()))?;
    if limit.name != name {
        let message = format!("expected the name in the path, {name:?}");
        return Err(Rejection::Invalid(vec![violation("/name", message)]));
    }
    let change = ConfigChange::PutLimit { domain, limit: Box::new(limit) };
    Ok(changed(state.plane.change(actor, change, expected).await?))
}

/// Removes one limit.
#[utoipa::path(delete, path = "/admin/v1/domains/{domain}/limits/{limit}", tag = "rules", security(("token" = [])),
    params(("domain" = String, Path), ("limit" = String, Path),
        ("If-Match" = Option<String>, Header, description = "the revision that the change is based on")),
    responses((status = 200, description = "the new revision, and whether this node has it in force"),
        (status = 404, description = "no such limit")))]
pub async fn remove_limit(
    State(state): State<AdminState>,
    Editor(actor): Editor,
    Path((domain, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    let expected = precondition(&headers)?;
    Ok(changed(state.plane.change(actor, ConfigChange::RemoveLimit { domain, name }, expected).await?))
}

/// The revisions of the rules, the newest first.
#[utoipa::path(get, path = "/admin/v1/rules/history", tag = "rules", security(("token" = [])),
    params(("limit" = Option<u32>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, description = "a page of revisions")))]
pub async fn history(
    State(state): State<AdminState>,
    _: Viewer,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    let page = Query::read(query.as_deref(), &["limit", "after"])?.page()?;
    Ok(listed(state.plane.list(List::History, page).await?))
}

/// The changes in PostgreSQL that are not in force, because the rules would not be valid with them.
#[utoipa::path(get, path = "/admin/v1/rules/refused", tag = "rules", security(("token" = [])),
    responses((status = 200, description = "all of them, each with its revision, its rows and why")))]
pub async fn refused(State(state): State<AdminState>, _: Viewer) -> Result<Response, Rejection> {
    Ok(Json(json!({ "items": state.plane.refused()?, "next": null })).into_response())
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The revision whose rules come into force again.
    revision: u64,
}

/// Puts the rules as of a revision in force again, under a new revision.
#[utoipa::path(post, path = "/admin/v1/rules/rollback", tag = "rules", security(("token" = [])),
    request_body = Rollback,
    responses((status = 200, description = "the new revision, and whether this node has it in force"),
        (status = 404, description = "the history does not reach back to the revision")))]
pub async fn rollback(
    State(state): State<AdminState>,
    Editor(actor): Editor,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Rejection> {
    let expected = precondition(&headers)?;
    let Rollback { revision } = json(body).await?;
    let change = ConfigChange::Rollback(Revision(revision));
    Ok(changed(state.plane.change(actor, change, expected).await?))
}
