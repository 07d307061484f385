//! `/v1/authorize`: forward-auth. The attributes come from the request itself.

use std::collections::HashSet;
use std::net::IpAddr;

use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use super::forwarded::attributes;
use super::{HttpState, Peer, decided, parameters, unknown_parameter, with_id};
use crate::api::attributes::{CheckRequest, DescriptorRequest, Field};
use crate::api::rejection::{FieldViolation, Rejection, violation};

pub async fn authorize(
    State(state): State<HttpState>,
    Extension(Peer(peer)): Extension<Peer>,
    method: Method,
    uri: Uri,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let id = state.take_id(&headers);
    let outcome = match read(&state, peer, &method, &uri, query.as_deref(), &headers) {
        Ok((request, deny_status)) => {
            state.service.check(request, None, &id).await.map(|decision| (decision, deny_status))
        }
        Err(violations) => Err(state.service.reject(Rejection::Invalid(violations), &id)),
    };
    let answer = match outcome {
        Ok((decision, deny_status)) => decided(&decision, deny_status, StatusCode::OK.into_response()),
        Err(rejection) => rejection.into_response(),
    };
    with_id(answer, &id)
}

/// Reads the check, and the status of an answer that denies.
fn read(
    state: &HttpState,
    peer: IpAddr,
    method: &Method,
    uri: &Uri,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<(CheckRequest, StatusCode), Vec<FieldViolation>> {
    let mut violations = Vec::new();
    let (mut domain, mut deny_status) = (String::new(), StatusCode::TOO_MANY_REQUESTS);
    let mut seen = HashSet::new();
    for (key, value) in parameters(query) {
        if !seen.insert(key.clone()) {
            violations.push(violation(format!("?{key}"), "expected this parameter at most once"));
        }
        match key.as_str() {
            "domain" => domain = value,
            "deny_status" => match value.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()) {
                Some(status) if status.is_client_error() || status.is_server_error() => deny_status = status,
                _ => violations.push(violation("?deny_status", "expected a status from 400 to 599")),
            },
            _ => violations.push(unknown_parameter(&key, "domain, deny_status")),
        }
    }
    let attributes = attributes(&state.trusted_proxies, peer, method, uri, headers).unwrap_or_else(|name| {
        let detail = "expected the headers that name it to agree: the proxy must remove those that clients send";
        violations.push(violation(name, detail));
        Vec::new()
    });
    let path = |field: Field<'_>| match field {
        Field::Domain => "?domain".to_owned(),
        Field::Name(.., name) | Field::Value(.., name) => name.to_owned(),
        Field::Descriptors | Field::Attributes(_) => String::new(),
    };
    let descriptors = vec![DescriptorRequest::unordered(attributes, 1)];
    Ok((CheckRequest::new(domain, descriptors, violations, path)?, deny_status))
}
