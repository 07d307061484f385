//! A check: what a client asks a node.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

/// The headers of the request on whose behalf is asked, which the node gets.
pub(crate) const CARRIED: [&str; 3] = ["traceparent", "tracestate", "x-request-id"];

/// The attributes by which rules match a request and count it.
pub type Attributes = BTreeMap<String, String>;

/// A check: may a request pass?
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The domain of the rules.
    pub domain: String,
    /// The attributes by which rules match the request and count it: one descriptor.
    #[serde(skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
    /// Several descriptors, 1 to 100, in place of `attributes`. The check is allowed if all limits of all of them allow
    /// it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub descriptors: Vec<Attributes>,
    /// The hits that the request costs. 0 asks whether one hit would pass, and charges nothing.
    pub hits: u32,
    /// True charges the hits even if they do not fit, for a cost that is known only afterwards. The decision still says
    /// whether they fit. Such a check always asks a node.
    pub overdraft: bool,
    /// The headers of the request on whose behalf is asked. Its `traceparent`, `tracestate` and `x-request-id` are sent
    /// to the node, up to 1,024 bytes each; the others are not.
    #[serde(skip)]
    pub headers: HeaderMap,
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

    /// A text that is equal for checks of the same counters.
    pub(crate) fn key(&self) -> String {
        format!("{:?} {:?} {:?}", self.domain, self.attributes, self.descriptors)
    }

    /// The hits of a denial that may cover this check. No denial covers 0 hits.
    pub(crate) const fn hits_of_denial(&self) -> u32 {
        if self.overdraft { 0 } else { self.hits }
    }
}
