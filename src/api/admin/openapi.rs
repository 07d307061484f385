//! The OpenAPI document of the admin API.

use axum::Json;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{cluster, directory, rules};

#[derive(OpenApi)]
#[openapi(
    info(title = "Tidegate admin API", description = "Errors are application/problem+json (RFC 9457).", version = "1"),
    paths(
        rules::get_rules,
        rules::put_rules,
        rules::get_limit,
        rules::put_limit,
        rules::remove_limit,
        rules::history,
        rules::refused,
        rules::rollback,
        directory::tiers,
        directory::tier,
        directory::put_tier,
        directory::remove_tier,
        directory::users,
        directory::user,
        directory::put_user,
        directory::remove_user,
        directory::create_key,
        directory::keys,
        directory::revoke_key,
        directory::rotate_key,
        directory::audit,
        cluster::status,
        cluster::settings,
        cluster::put_settings,
        cluster::init,
        cluster::promote,
        cluster::demote,
        cluster::remove,
        cluster::snapshot,
        cluster::backup,
        cluster::restore,
        document,
    ),
    modifiers(&Token)
)]
pub struct Document;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("token", bearer);
    }
}

/// This document.
#[utoipa::path(get, path = "/admin/v1/openapi.json", tag = "openapi",
    responses((status = 200, description = "this document")))]
pub async fn document() -> Response {
    Json(Document::openapi()).into_response()
}
