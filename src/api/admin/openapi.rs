//! The OpenAPI document of the admin API.

use axum::Json;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, Ref, ResponseBuilder};
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
    components(schemas(Problem)),
    modifiers(&Token, &Errors)
)]
pub struct Document;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("token", bearer);
    }
}

/// An error (RFC 9457).
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it only describes what rejections write")]
struct Problem {
    title: String,
    status: u16,
    errors: Vec<ProblemField>,
    /// With 409: the revision of the rules in force.
    revision: Option<u64>,
    /// With 409: the file that the rules come from.
    file: Option<String>,
    /// `unknown` with 504: the change may have been made.
    outcome: Option<String>,
}

/// One field that is not valid.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it only describes what rejections write")]
struct ProblemField {
    /// A JSON pointer; empty if no single field is wrong.
    pointer: String,
    detail: String,
}

/// Gives each call the answer to an error.
struct Errors;

impl Modify for Errors {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let problem = ResponseBuilder::new().description("an error").content("application/problem+json", content);
        let problem = problem.build();
        for path in document.paths.paths.values_mut() {
            for call in [&mut path.get, &mut path.put, &mut path.post, &mut path.delete].into_iter().flatten() {
                call.responses.responses.insert("default".to_owned(), problem.clone().into());
            }
        }
    }
}

/// This document.
#[utoipa::path(get, path = "/admin/v1/openapi.json", tag = "openapi",
    responses((status = 200, description = "this document")))]
pub async fn document() -> Response {
    Json(Document::openapi()).into_response()
}
