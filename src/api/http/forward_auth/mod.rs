//! `/v1/authorize`: forward-auth. The attributes come from the request itself.
//!
//! Nothing that a gateway's client chooses is an error: a gateway may let a request pass whose check is an error.

mod address;
mod ambiguity;
mod attributes;
pub mod client_ip;
mod forwarded;
pub mod host;
pub mod notices;
pub mod path;
mod target;
pub mod trust;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use limiter::Decision;

use self::ambiguity::Ambiguity;
use self::attributes::{Call, attributes};
use self::notices::Notices;
use self::trust::Trust;
use super::check_json::Answer;
use super::{HttpState, Peer, decided, given_id, parameters, unknown_parameter, with_id};
use crate::api::attributes::{CheckRequest, DescriptorRequest, Field};
use crate::api::rejection::{FieldViolation, Rejection, violation};

/// What forward-auth needs beside the service.
pub struct ForwardAuth {
    pub trust: Trust,
    /// Those of all cores.
    pub notices: Arc<Notices>,
}

/// What the gateway's operator chose in the query.
struct Parameters {
    domain: String,
    /// The status of an answer that denies.
    deny_status: StatusCode,
}

pub async fn authorize(
    State(state): State<HttpState>,
    Extension(Peer(peer)): Extension<Peer>,
    method: Method,
    uri: Uri,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let given = given_id(&headers);
    let id = state.service.ids.take(given.as_deref());
    let reject = |violations| with_id(state.service.reject(Rejection::Invalid(violations), &id).into_response(), &id);
    let Parameters { domain, deny_status } = match read(query.as_deref()) {
        Ok(parameters) => parameters,
        Err(violations) => return reject(violations),
    };
    let ForwardAuth { trust, notices } = &*state.forward_auth;
    let attributes = match attributes(trust, notices, Call { peer, method: &method, uri: &uri, headers: &headers }) {
        Ok(attributes) => attributes,
        Err(ambiguity) => return with_id(denied(&state, &ambiguity, peer, deny_status, &id.to_text()), &id),
    };
    let descriptors = vec![DescriptorRequest::unordered(attributes, 1)];
    let check = match CheckRequest::from_gateway(domain, descriptors, Vec::new(), place) {
        Ok(check) => check,
        Err(violations) => return reject(violations),
    };
    drop((headers, uri, query));
    let answer = match state.service.check(check, None, &id).await {
        Ok(decision) => decided(&decision, deny_status, answer(&decision, &id.to_text())),
        Err(rejection) => rejection.into_response(),
    };
    with_id(answer, &id)
}

/// Reads the query. It is the operator's: no gateway passes a client's on.
fn read(query: Option<&str>) -> Result<Parameters, Vec<FieldViolation>> {
    let (mut domain, mut deny_status) = (String::new(), StatusCode::TOO_MANY_REQUESTS);
    let mut violations = Vec::new();
    for (key, value) in parameters(query, &mut violations) {
        match key.as_str() {
            "domain" => domain = value,
            "deny_status" => match value.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()) {
                Some(status) if status.is_client_error() || status.is_server_error() => deny_status = status,
                _ => violations.push(violation("?deny_status", "expected a status from 400 to 599")),
            },
            _ => violations.push(unknown_parameter(&key, "domain, deny_status")),
        }
    }
    if violations.is_empty() { Ok(Parameters { domain, deny_status }) } else { Err(violations) }
}

/// The place of a field of the check.
fn place(field: Field<'_>) -> String {
    match field {
        Field::Domain => "?domain".to_owned(),
        Field::Name(.., name) | Field::Value(.., name) => name.to_owned(),
        Field::Descriptors | Field::Attributes(_) => String::new(),
    }
}

/// The answer to a check. Gateways show the body of a denial to their client, and drop that of an answer that allows.
fn answer(decision: &Decision, id: &str) -> Response {
    if decision.allowed { StatusCode::OK.into_response() } else { json(&Answer::new(decision, id)) }
}

/// The answer to a check whose headers leave open what is asked.
fn denied(state: &HttpState, ambiguity: &Ambiguity, peer: IpAddr, deny_status: StatusCode, id: &str) -> Response {
    let Ambiguity { problem, detail } = ambiguity;
    state.forward_auth.notices.report(*problem, peer, || detail.clone());
    state.service.deny();
    let answer = Answer::without_limits(state.node.readiness().revision, id, problem.word(), detail);
    (deny_status, json(&answer)).into_response()
}

fn json(answer: &Answer<'_>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], serde_json::to_vec(answer).unwrap_or_default()).into_response()
}
