//! The headers that a decision adds to a response: `RateLimit` and `RateLimit-Policy`
//! (draft-ietf-httpapi-ratelimit-headers-11), `X-RateLimit-*`, `Retry-After`, `X-Tidegate-Shadow`, and those of a limit
//! that denies.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use limiter::{Decision, IdentityProblem, LimitStatus, by_part_left};

/// Names the limits in mode `shadow` that would have denied.
pub const SHADOW: &str = "x-tidegate-shadow";

/// The most limits that are named in headers: those that deny, then the tightest.
const MAX_SHOWN: usize = 10;

/// The header that names a reason which is no limit.
pub const REASON: &str = "x-tidegate-reason";
/// The reason of a denial by the default of the domain.
pub const NO_LIMIT_MATCHES: &str = "no_limit_matches";
/// The reason of a denial because too many limits may apply to the descriptors.
pub const TOO_MUCH_WORK: &str = "too_much_work";
/// The reason of a denial because too many bytes of requests were arriving.
pub const TOO_MANY_BYTES: &str = "too_many_bytes";

/// Adds the headers of a decision to `headers`.
pub fn add(decision: &Decision, headers: &mut HeaderMap) {
    let mut put = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    // The reset of a limit that denies is what `Retry-After` says: asking earlier does not help.
    let wait = |limit: &LimitStatus| decision.retry_after.filter(|_| limit.denied);
    let reset = |limit: &LimitStatus| seconds(wait(limit).unwrap_or_else(|| limit.shown_reset()));
    let mut shown = enforced(decision);
    // Proxies bound the size of headers.
    if shown.len() > MAX_SHOWN {
        shown.sort_by(|a, b| b.denied.cmp(&a.denied).then_with(|| by_part_left(a, b)));
    }
    shown.truncate(MAX_SHOWN);
    if !shown.is_empty() {
        put("ratelimit-policy", list(&shown, policy));
        put(
            "ratelimit",
            list(&shown, |limit, out| {
                let _ = write!(out, ";r={};t={}", limit.remaining.unwrap_or(0), reset(limit));
            }),
        );
    }
    if let Some(limit) = decision.tightest()
        && let (Some(most), Some(remaining)) = (limit.limit(), limit.remaining)
    {
        put("x-ratelimit-limit", most.to_string());
        put("x-ratelimit-remaining", remaining.to_string());
        put("x-ratelimit-reset", reset(limit).to_string());
    }
    if let Some(wait) = decision.retry_after {
        put("retry-after", seconds(wait).to_string());
    }
    if let Some(names) = shadow_denials(decision) {
        put(SHADOW, names);
    }
    if let Some(reason) = reason(decision) {
        put(REASON, reason.to_owned());
    }
    if decision.identity.is_some_and(IdentityProblem::is_unauthorized) {
        put("www-authenticate", "ApiKey".to_owned());
    }
    for (name, value) in of_denying_limits(decision.limits.iter()) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
}

/// The reason of a decision that is no limit: a word for programs.
pub fn reason(decision: &Decision) -> Option<&'static str> {
    if decision.too_much_work {
        return Some(TOO_MUCH_WORK);
    }
    let of_identity = decision.identity.map(IdentityProblem::as_str);
    of_identity.or_else(|| denied_without_limits(decision).then_some(NO_LIMIT_MATCHES))
}

/// True if the check is denied and no limit was asked: none matches and the domain denies such checks, the caller is
/// not known, or too many limits may apply.
pub fn denied_without_limits(decision: &Decision) -> bool {
    !decision.allowed && decision.limits.is_empty()
}

/// The headers of the limits that deny. A limit that denies several descriptors comes once.
pub fn of_denying_limits<'d>(
    limits: impl Iterator<Item = &'d LimitStatus>,
) -> impl Iterator<Item = (&'d str, &'d str)> {
    let mut named = HashSet::new();
    let denying = limits.filter(|l| l.denied && !l.shadow && !l.effective.response_headers.is_empty());
    let once = denying.filter(move |l| named.insert(Arc::as_ptr(&l.effective)));
    once.flat_map(|l| l.effective.response_headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

/// The names of the limits in mode `shadow` that would have denied, each once. `None` if there are none.
pub fn shadow_denials(decision: &Decision) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for limit in decision.limits.iter().filter(|l| l.denied && l.shadow) {
        if names.len() < MAX_SHOWN && !names.contains(&&*limit.effective.name) {
            names.push(&limit.effective.name);
        }
    }
    (!names.is_empty()).then(|| names.join(", "))
}

/// The limits that can deny, each name once. If several descriptors have one limit, the tightest of them is shown.
fn enforced(decision: &Decision) -> Vec<&LimitStatus> {
    let limits = decision.limits.iter().enumerate().filter(|(_, limit)| !limit.shadow && limit.limit().is_some());
    let mut shown: Vec<(usize, &LimitStatus)> = limits.collect();
    if shown.len() > 1 {
        shown.sort_by(|(_, a), (_, b)| a.effective.name.cmp(&b.effective.name).then(a.remaining.cmp(&b.remaining)));
        // The tightest one of a name stays, at the place of the first one.
        shown.dedup_by(|(place, limit), (first, tightest)| {
            let same = limit.effective.name == tightest.effective.name;
            *first = if same { (*first).min(*place) } else { *first };
            same
        });
        shown.sort_unstable_by_key(|(place, _)| *place);
    }
    shown.into_iter().map(|(_, limit)| limit).collect()
}

/// A list of structured fields (RFC 9651). Names of limits need no escape.
fn list(limits: &[&LimitStatus], parameters: impl Fn(&LimitStatus, &mut String)) -> String {
    let mut out = String::new();
    for limit in limits {
        let comma = if out.is_empty() { "" } else { ", " };
        let _ = write!(out, "{comma}\"{}\"", limit.effective.name);
        parameters(limit, &mut out);
    }
    out
}

fn policy(limit: &LimitStatus, out: &mut String) {
    let _ = write!(out, ";q={}", limit.limit().unwrap_or(0));
    let window = limit.window_ms();
    // The draft counts whole seconds. A shorter window has none.
    if window >= 1000 {
        let _ = write!(out, ";w={}", window.div_ceil(1000));
    }
}

/// Whole seconds, rounded up.
pub const fn seconds(micros: u64) -> u64 {
    micros.div_ceil(1_000_000)
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
