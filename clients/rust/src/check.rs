//! A check: what a client asks a node.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

/// The headers of the request on whose behalf is asked, which the node gets.
const CARRIED: [&str; 3] = ["traceparent", "tracestate", "x-request-id"];

/// A check: may a request pass?
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// The domain of the rules.
    pub domain: String,
    /// The attributes by which rules match the request and count it.
    pub attributes: BTreeMap<String, String>,
    /// The hits that the request costs. 0 asks whether one hit would pass, and charges nothing.
    pub hits: u32,
    /// `traceparent`, `tracestate` and `x-request-id` of the request on whose behalf is asked.
    pub headers: HeaderMap,
}

#[derive(Serialize)]
struct Body<'a> {
    domain: &'a str,
    attributes: &'a BTreeMap<String, String>,
    hits: u32,
}

impl Check {
    /// Returns a check of one hit without attributes.
    pub fn new(domain: impl Into<String>) -> Self {
        Self { domain: domain.into(), hits: 1, ..Self::default() }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// Carries the trace context and the request id of a request.
    #[must_use]
    pub fn on_behalf_of(mut self, request: &HeaderMap) -> Self {
        let carried = CARRIED.map(HeaderName::from_static).into_iter();
        let values =
            carried.flat_map(|name| request.get_all(&name).into_iter().map(move |value| (name.clone(), value)));
        self.headers = values.map(|(name, value): (HeaderName, &HeaderValue)| (name, value.clone())).collect();
        self
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        let Self { domain, attributes, hits, .. } = self;
        serde_json::to_vec(&Body { domain, attributes, hits: *hits }).unwrap_or_default()
    }

    /// A text that is equal for checks of the same counters.
    pub(crate) fn key(&self) -> String {
        format!("{:?} {:?}", self.domain, self.attributes)
    }
}
