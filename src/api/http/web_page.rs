//! Requests that web pages send: which pages may ask, and what their browsers may show them (CORS).
//!
//! A browser sends a simple request of any page without asking. A page of another site could therefore use up limits
//! from within a network that trusts its clients. Browsers say where a request comes from (`Origin`, `Sec-Fetch-Site`).

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::api::rejection::Rejection;
use crate::api::request_id;

/// How long a browser may remember what a page may ask.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// The headers of an answer that a page may read, beside those that every page may.
const EXPOSED: [HeaderName; 8] = [
    header::RETRY_AFTER,
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
    HeaderName::from_static("x-tidegate-reason"),
    HeaderName::from_static(request_id::HEADER),
];

/// Rejects the request of a page that may not ask. `origins` are those that may.
pub(super) fn check(headers: &HeaderMap, origins: &[HeaderValue]) -> Result<(), Rejection> {
    // A node serves no page, so no honest page is of its own origin: the name of another site may lead to its address.
    let is_allowed = match (headers.get(header::ORIGIN), headers.get("sec-fetch-site")) {
        (Some(origin), _) => origins.contains(origin),
        (None, site) => site.is_none_or(|site| site == "none"),
    };
    if is_allowed { Ok(()) } else { Err(Rejection::ForeignPage) }
}

/// Answers preflights, which are no checks, and adds what browsers need to show answers to pages of these origins.
pub(super) fn cors(origins: &[HeaderValue]) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::POST])
        .allow_headers([header::CONTENT_TYPE, header::AUTHORIZATION, HeaderName::from_static(request_id::HEADER)])
        .expose_headers(EXPOSED)
        .max_age(MAX_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_may_not_ask_unless_its_origin_is_listed() {
        let origins = [HeaderValue::from_static("https://app.example.com")];
        let is_allowed = |headers: &[(&'static str, &'static str)]| {
            let header = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            check(&headers.iter().map(header).collect(), &origins).is_ok()
        };
        // Programs, and people who type the address.
        assert!(is_allowed(&[]));
        assert!(is_allowed(&[("sec-fetch-site", "none")]));
        // Pages that are listed.
        assert!(is_allowed(&[("origin", "https://app.example.com"), ("sec-fetch-site", "cross-site")]));
        // Others.
        assert!(!is_allowed(&[("sec-fetch-site", "cross-site")]));
        assert!(!is_allowed(&[("sec-fetch-site", "same-site")]));
        assert!(!is_allowed(&[("origin", "null")]));
        assert!(!is_allowed(&[("origin", "https://evil.example"), ("host", "node:8080")]));
        assert!(!is_allowed(&[("origin", "http://app.example.com")]), "another scheme is another origin");
        assert!(!is_allowed(&[
            ("origin", "http://node:8080"),
            ("host", "node:8080"),
            ("sec-fetch-site", "cross-site")
        ]));
    }
}
