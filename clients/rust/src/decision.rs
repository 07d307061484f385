//! The answer to a check.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;

/// The headers of an answer that a response to the client has, too.
const SHOWN: [HeaderName; 4] = [
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
];

/// Where a decision comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A node answered this check.
    Node,
    /// An earlier denial has not ended. No node was asked.
    DenialCache,
    /// No node answered. The text says why. An allowed decision was not counted by any node.
    FailMode(String),
}

/// The answer to a check.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// True if the request may pass.
    pub allowed: bool,
    /// The status to answer with: 200; 429; 401 for an API key that is not valid; 503 if no node answered and the fail
    /// mode denies.
    pub status: StatusCode,
    pub source: Source,
    /// True if the node decided without its store.
    pub degraded: bool,
    /// True if the region decided without the counts of other regions.
    pub partitioned: bool,
    /// Why the check is denied if no limit denied it, such as `unknown_key`.
    pub reason: Option<String>,
    /// The revision of the rules.
    pub revision: u64,
    /// The id under which the node knows the check.
    pub request_id: String,
    /// When asking again helps. `None` if the check is allowed, and if no wait helps.
    pub retry_after: Option<Duration>,
    /// The limits that apply.
    pub limits: Vec<Limit>,
    /// `RateLimit`, `RateLimit-Policy`, `Retry-After` and `WWW-Authenticate`, to be copied to the response.
    pub headers: HeaderMap,
}

/// The state of one limit after a check.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Limit {
    pub name: String,
    /// The position of the descriptor.
    pub descriptor: usize,
    pub algorithm: String,
    /// `None`: unlimited.
    pub limit: Option<u64>,
    /// `None`: unlimited.
    pub remaining: Option<u64>,
    pub window_ms: u64,
    /// The time until the whole limit is free again if nothing more is asked.
    pub reset_ms: u64,
    /// True if this limit denies the check.
    pub refused: bool,
    /// True if the limit only reports.
    pub shadow: bool,
}

/// An error of one field of a check.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FieldError {
    /// The JSON pointer of the field, such as `/attributes/user`.
    pub pointer: String,
    pub detail: String,
}

/// The JSON of a decision.
#[derive(Deserialize)]
pub(crate) struct Answer {
    pub(crate) allowed: bool,
    degraded: bool,
    #[serde(default)]
    partitioned: bool,
    reason: Option<String>,
    revision: u64,
    request_id: String,
    retry_after_ms: Option<u64>,
    limits: Vec<Limit>,
}

impl Answer {
    /// The status that this decision has if it is the answer to one check.
    pub(crate) fn status(&self) -> StatusCode {
        match &self.reason {
            _ if self.allowed => StatusCode::OK,
            Some(reason) if reason.ends_with("_key") => StatusCode::UNAUTHORIZED,
            _ => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    pub(crate) fn decision(self, status: StatusCode, headers: &HeaderMap) -> Decision {
        let Self { allowed, degraded, partitioned, reason, revision, request_id, retry_after_ms, limits } = self;
        Decision {
            allowed,
            status,
            source: Source::Node,
            degraded,
            partitioned,
            reason,
            revision,
            request_id,
            retry_after: retry_after_ms.map(Duration::from_millis),
            limits,
            headers: shown(headers),
        }
    }
}

/// The headers of an answer that belong on the response to the client.
fn shown(headers: &HeaderMap) -> HeaderMap {
    SHOWN.into_iter().filter_map(|name| headers.get(&name).map(|value| (name, value.clone()))).collect()
}

impl Decision {
    /// A denial by an answer whose body is not that of a decision. A `Retry-After` with a date is not read.
    pub(crate) fn of_status(status: StatusCode, headers: &HeaderMap) -> Self {
        let wait = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            status,
            source: Source::Node,
            retry_after: wait.map(|seconds: u32| Duration::from_secs(seconds.into())),
            headers: shown(headers),
            ..Self::of_fail_mode(false, String::new())
        }
    }

    /// The decision of the fail mode.
    pub(crate) fn of_fail_mode(allowed: bool, failure: String) -> Self {
        Self {
            allowed,
            status: if allowed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE },
            source: Source::FailMode(failure),
            degraded: false,
            partitioned: false,
            reason: None,
            revision: 0,
            request_id: String::new(),
            retry_after: None,
            limits: Vec::new(),
            headers: HeaderMap::new(),
        }
    }

    /// A denial as it reads when some time has passed.
    pub(crate) fn after(&self, passed: Duration) -> Self {
        let mut later = self.clone();
        later.source = Source::DenialCache;
        later.retry_after = self.retry_after.map(|wait| wait.saturating_sub(passed));
        let passed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        later.limits.iter_mut().for_each(|limit| limit.reset_ms = limit.reset_ms.saturating_sub(passed_ms));
        let (before, now) = (seconds(self.retry_after), seconds(later.retry_after));
        later.headers.insert(header::RETRY_AFTER, now.into());
        if let Some(limits) = self.headers.get("ratelimit").and_then(|value| value.to_str().ok())
            && let Ok(value) = HeaderValue::try_from(earlier(limits, before - now))
        {
            later.headers.insert("ratelimit", value);
        }
        later
    }
}

/// Whole seconds, rounded up as a node does.
fn seconds(wait: Option<Duration>) -> u64 {
    wait.map_or(0, |wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}

/// The header `RateLimit` with `gone` seconds less in each `t`.
fn earlier(limits: &str, gone: u64) -> String {
    let mut parts = limits.split(";t=");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let (time, rest) = part.split_at(digits);
        let left = time.parse().unwrap_or(0_u64).saturating_sub(gone);
        text += &format!(";t={left}{rest}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_a_denial_run_on() {
        let json = r#"{"allowed":false,"degraded":false,"revision":1,"request_id":"i","retry_after_ms":2500,"limits":
            [{"name":"l","descriptor":0,"algorithm":"fixed_window","limit":1,"remaining":0,"window_ms":60000,
            "reset_ms":2500,"refused":true,"shadow":false}]}"#;
        let answer: Answer = serde_json::from_str(json).unwrap();
        let sent = [("ratelimit", r#""l";r=0;t=3, "m";r=4;t=40"#), ("retry-after", "3"), ("server", "x")];
        let value = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let denied = answer.decision(StatusCode::TOO_MANY_REQUESTS, &sent.map(value).into_iter().collect());
        assert_eq!(denied.headers.len(), 2);
        let later = denied.after(Duration::from_millis(1600));
        assert_eq!(later.retry_after, Some(Duration::from_millis(900)));
        assert_eq!((later.limits[0].reset_ms, later.source), (900, Source::DenialCache));
        assert_eq!(later.headers["retry-after"], "1");
        assert_eq!(later.headers["ratelimit"], r#""l";r=0;t=1, "m";r=4;t=38"#);
    }
}
