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
    let is_allowed = match (headers.get(header::ORIGIN), headers.get("sec-fetch-site")) {
        (None, None) => true,
        (Some(origin), site) => origins.contains(origin) || (site.is_none_or(is_same_site) && is_own(origin, headers)),
        (None, Some(site)) => is_same_site(site),
    };
    if is_allowed { Ok(()) } else { Err(Rejection::ForeignPage) }
}

/// True if the request comes from a page of the node's own origin, or from no page.
fn is_same_site(site: &HeaderValue) -> bool {
    site == "same-origin" || site == "none"
}

/// True if `origin` is the host that the request was sent to.
fn is_own(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    let origin = origin.as_bytes();
    let of_origin = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    host.is_some() && of_origin == host
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
    fn a_page_of_another_site_may_not_ask_unless_its_origin_is_listed() {
        let origins = [HeaderValue::from_static("https://app.example.com")];
        let is_allowed = |headers: &[(&'static str, &'static str)]| {
            let header = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            check(&headers.iter().map(header).collect(), &origins).is_ok()
        };
        // Programs, and pages of the node's own origin.
        assert!(is_allowed(&[]));
        assert!(is_allowed(&[("sec-fetch-site", "none")]));
        assert!(is_allowed(&[("sec-fetch-site", "same-origin")]));
        assert!(is_allowed(&[("origin", "http://node:8080"), ("host", "node:8080")]));
        assert!(is_allowed(&[("origin", "https://node"), ("host", "node"), ("sec-fetch-site", "same-origin")]));
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
