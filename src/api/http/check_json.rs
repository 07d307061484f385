//! The JSON of `/v1/check`: reads a request, writes an answer.

use std::collections::HashSet;

use limiter::{Charging, Decision, Revision, millis_up};
use serde::Serialize;

use super::json::Json;
use crate::api::attributes::{
    CheckRequest, DescriptorRequest, Field, MAX_BATCH, MAX_BATCH_DESCRIPTORS, MAX_DESCRIPTORS,
};
use crate::api::headers;
use crate::api::rejection::{FieldViolation, violation};

/// A check of a batch, or its violations. Their pointers begin at the check.
pub type Parsed = Result<CheckRequest, Vec<FieldViolation>>;

/// Reads the body of a batch: `{"checks": [...]}`. A check that is not valid does not affect the others.
///
/// # Errors
/// Every violation of the batch itself.
pub fn parse_batch(body: &[u8]) -> Result<Vec<Parsed>, Vec<FieldViolation>> {
    let members = match serde_json::from_slice(body) {
        Ok(Json::Object(members)) => members,
        Ok(_) => return Err(vec![violation("", "expected a JSON object")]),
        Err(error) => return Err(vec![violation("", format!("expected a JSON object: {error}"))]),
    };
    let (mut violations, mut checks) = (Vec::new(), None);
    for (key, value) in each_once(members, "", &mut violations) {
        match (key.as_str(), value) {
            ("checks", Json::Array(all)) => checks = Some(all),
            ("checks", _) => violations.push(violation("/checks", "expected a list of checks")),
            _ => violations
                .push(violation(format!("/{}", escape(&key)), "expected the field checks; this field is unknown")),
        }
    }
    let count = checks.as_ref().map_or(0, Vec::len);
    if violations.is_empty() && !(1..=MAX_BATCH).contains(&count) {
        violations.push(violation("/checks", format!("expected 1 to {MAX_BATCH} checks")));
    }
    if !violations.is_empty() {
        return Err(violations);
    }
    let read_one = |check| match check {
        Json::Object(members) => read(members, Vec::new()),
        _ => Err(vec![violation("", "expected a JSON object")]),
    };
    let checks: Vec<Parsed> = checks.unwrap_or_default().into_iter().map(read_one).collect();
    let descriptors: usize = checks.iter().flatten().map(CheckRequest::size).sum();
    if descriptors > MAX_BATCH_DESCRIPTORS {
        let expected = format!("expected at most {MAX_BATCH_DESCRIPTORS} descriptors in all of them");
        return Err(vec![violation("/checks", expected)]);
    }
    Ok(checks)
}

/// Reads a body.
///
/// # Errors
/// Every violation, those in `violations` included.
pub fn parse(body: &[u8], mut violations: Vec<FieldViolation>) -> Result<CheckRequest, Vec<FieldViolation>> {
    let detail = match serde_json::from_slice(body) {
        Ok(Json::Object(members)) => return read(members, violations),
        Ok(_) => "expected a JSON object".to_owned(),
        Err(error) => format!("expected a JSON object: {error}"),
    };
    violations.push(violation("", detail));
    Err(violations)
}

/// Reads the members of a body.
fn read(
    members: Vec<(String, Json)>,
    mut violations: Vec<FieldViolation>,
) -> Result<CheckRequest, Vec<FieldViolation>> {
    let (mut domain, mut hits, mut overdraft) = (None, None, None);
    let (mut attributes, mut descriptors) = (None, None);
    for (key, value) in each_once(members, "", &mut violations) {
        match key.as_str() {
            "domain" => domain = Some(value),
            "hits" => hits = Some(value),
            "overdraft" => overdraft = Some(value),
            "attributes" => attributes = Some(value),
            "descriptors" => descriptors = Some(value),
            _ => {
                let detail = "expected one of domain, attributes, descriptors, hits, overdraft; this field is unknown";
                violations.push(violation(format!("/{}", escape(&key)), detail));
            }
        }
    }
    // A domain of another type is as invalid as an empty one.
    let domain = if let Some(Json::String(domain)) = domain { domain } else { String::new() };
    let hits = match hits {
        None => Some(1),
        Some(Json::Number(hits)) => hits.as_u64().and_then(|hits| u32::try_from(hits).ok()),
        Some(_) => None,
    };
    if hits.is_none() {
        violations.push(violation("/hits", format!("expected a whole number from 0 to {}", u32::MAX)));
    }
    let hits = hits.unwrap_or(1);
    let charging = match overdraft {
        None | Some(Json::Bool(false)) => Charging::IfAllowed,
        Some(Json::Bool(true)) => Charging::Always,
        Some(_) => {
            violations.push(violation("/overdraft", "expected true or false"));
            Charging::IfAllowed
        }
    };
    let one = attributes.is_some();
    let objects = match (attributes, descriptors) {
        (Some(_), Some(_)) => {
            violations.push(violation("/descriptors", "expected either attributes or descriptors, not both"));
            return Err(violations);
        }
        (None, None) => vec![Json::Object(Vec::new())],
        (Some(one), None) => vec![one],
        (None, Some(Json::Array(all))) => all,
        (None, Some(_)) => {
            let detail = format!("expected a list of 1 to {MAX_DESCRIPTORS} objects");
            violations.push(violation("/descriptors", detail));
            return Err(violations);
        }
    };
    let place = |at: usize| if one { "/attributes".to_owned() } else { format!("/descriptors/{at}") };
    let each = objects.into_iter().enumerate().take(MAX_DESCRIPTORS + 1);
    let each = each.map(|(at, value)| read_descriptor(value, hits, &mut violations, &place(at)));
    let descriptors = each.map(|descriptor| DescriptorRequest { charging, ..descriptor }).collect();
    CheckRequest::new(domain, descriptors, violations, |field| match field {
        Field::Domain => "/domain".to_owned(),
        Field::Descriptors => "/descriptors".to_owned(),
        Field::Attributes(at) => place(at),
        Field::Name(at, _, name) | Field::Value(at, _, name) => format!("{}/{}", place(at), escape(name)),
    })
}

/// Reads the attributes of the descriptor at `place`.
fn read_descriptor(value: Json, hits: u32, violations: &mut Vec<FieldViolation>, place: &str) -> DescriptorRequest {
    let Json::Object(members) = value else {
        violations.push(violation(place, "expected an object of strings"));
        return DescriptorRequest::unordered([], hits);
    };
    let attributes = each_once(members, place, violations).into_iter().map(|(name, value)| {
        let mut expect = |detail: String| violations.push(violation(format!("{place}/{}", escape(&name)), detail));
        let text = match value {
            Json::String(text) => text,
            Json::Number(n) => {
                expect(format!("expected a string: quote it, \"{n}\""));
                String::new()
            }
            _ => {
                expect("expected a string".to_owned());
                String::new()
            }
        };
        (name, text)
    });
    DescriptorRequest::unordered(attributes.collect::<Vec<_>>(), hits)
}

/// The members of the object at `place`, each key once. Which of several values would count is not for a node to guess.
fn each_once(
    mut members: Vec<(String, Json)>,
    place: &str,
    violations: &mut Vec<FieldViolation>,
) -> Vec<(String, Json)> {
    let mut keys = HashSet::with_capacity(members.len());
    if members.iter().all(|(key, _)| keys.insert(key.as_str())) {
        return members;
    }
    let (mut seen, mut repeated) = (HashSet::new(), HashSet::new());
    members.retain(|(key, _)| {
        let first = seen.insert(key.clone());
        if !first && repeated.insert(key.clone()) {
            violations.push(violation(format!("{place}/{}", escape(key)), format!("expected the key {key:?} once")));
        }
        first
    });
    members
}

/// A member name in a JSON pointer (RFC 6901).
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The answer to a check, over `/v1/check`, in a batch, and in the body of a denial over `/v1/authorize`.
#[derive(Serialize)]
pub struct Answer<'d> {
    allowed: bool,
    degraded: bool,
    /// Only in an answer that it applies to.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partitioned: bool,
    revision: u64,
    request_id: &'d str,
    retry_after_ms: Option<u64>,
    limits: Vec<Limit<'d>>,
    /// Why a check is denied although no limit denies it: a word for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'d str>,
}

#[derive(Serialize)]
struct Limit<'d> {
    name: &'d str,
    descriptor: usize,
    algorithm: &'static str,
    limit: Option<u64>,
    remaining: Option<u64>,
    window_ms: u64,
    reset_ms: u64,
    refused: bool,
    shadow: bool,
}

impl<'d> Answer<'d> {
    pub fn new(decision: &'d Decision, request_id: &'d str) -> Self {
        let limits = decision.limits.iter().map(|limit| Limit {
            name: &limit.effective.name,
            descriptor: limit.descriptor,
            algorithm: limit.effective.algorithm.as_str(),
            limit: limit.limit(),
            remaining: limit.remaining,
            window_ms: limit.window_ms(),
            reset_ms: millis_up(limit.reset),
            refused: limit.denied,
            shadow: limit.shadow,
        });
        Self {
            allowed: decision.allowed,
            degraded: decision.degraded,
            partitioned: decision.partitioned,
            revision: decision.revision.0,
            request_id,
            retry_after_ms: decision.retry_after.map(millis_up),
            limits: limits.collect(),
            reason: headers::reason(decision),
            detail: None,
        }
    }

    /// A denial for which no limit was asked.
    pub const fn without_limits(
        revision: Revision,
        request_id: &'d str,
        reason: &'static str,
        detail: &'d str,
    ) -> Self {
        Self {
            allowed: false,
            degraded: false,
            partitioned: false,
            revision: revision.0,
            request_id,
            retry_after_ms: None,
            limits: Vec::new(),
            reason: Some(reason),
            detail: Some(detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use limiter::{Check, Descriptor, DryRun, StoreTime};

    use super::*;
    use crate::rulefile::decode::compile;

    #[test]
    fn every_violation_has_its_pointer() {
        let body = r#"{"hits":4294967296,"attributes":{"a/b":5,"c~d":[],"e":null},"extra":1}"#;
        let violations = parse(body.as_bytes(), Vec::new()).unwrap_err();
        let pointers: Vec<&str> = violations.iter().map(|f| f.pointer.as_str()).collect();
        assert_eq!(pointers, ["/domain", "/extra", "/hits", "/attributes/a~1b", "/attributes/c~0d", "/attributes/e"]);
        assert!(violations.iter().all(|f| f.detail.starts_with("expected")));
    }

    #[test]
    fn a_key_that_comes_twice_is_named_at_every_level() {
        let cases: [(&str, &[&str]); 8] = [
            (r#"{"domain":"d","domain":"e"}"#, &["/domain"]),
            (r#"{"domain":"d","hits":1,"hits":0,"hits":2}"#, &["/hits"]),
            (r#"{"domain":"d","attributes":{},"attributes":{"u":"x"}}"#, &["/attributes"]),
            (r#"{"domain":"d","attributes":{"u":"x","u":"x"}}"#, &["/attributes/u"]),
            (r#"{"domain":"d","attributes":{"u":"x","\u0075":"y"}}"#, &["/attributes/u"]),
            (
                r#"{"domain":"d","attributes":{"a/b":"x","a/b":"y","c":"","c":""}}"#,
                &["/attributes/a~1b", "/attributes/c"],
            ),
            (r#"{"domain":"d","descriptors":[{"u":"x"},{"u":"x","u":"y"}]}"#, &["/descriptors/1/u"]),
            (r#"{"domain":"d","descriptors":[],"descriptors":[{}],"more":1,"more":1}"#, &["/descriptors", "/more"]),
        ];
        for (body, expected) in cases {
            let violations = parse(body.as_bytes(), Vec::new()).unwrap_err();
            let repeated = violations.iter().filter(|v| v.detail.starts_with("expected the key"));
            assert_eq!(repeated.map(|v| v.pointer.as_str()).collect::<Vec<_>>(), expected, "{body}");
        }
        assert!(parse(br#"{"domain":"d","descriptors":[{"u":"x"},{"u":"x"}]}"#, Vec::new()).is_ok());
    }

    #[test]
    fn a_batch_has_a_result_for_each_check_or_names_what_is_wrong_with_it() {
        let body = br#"{"checks":[{"domain":"d"},{"domain":"d","hits":-1},[],{"domain":"e"}]}"#;
        let checks = parse_batch(body).unwrap();
        let pointers =
            |at: usize| -> Vec<&str> { checks[at].as_ref().unwrap_err().iter().map(|v| &*v.pointer).collect() };
        assert!(checks[0].is_ok() && checks[3].is_ok());
        assert_eq!((pointers(1), pointers(2)), (vec!["/hits"], vec![""]));
        let many = |count: usize, descriptors: usize| {
            let check = format!(r#"{{"domain":"d","descriptors":[{}]}}"#, vec!["{}"; descriptors].join(","));
            format!(r#"{{"checks":[{}]}}"#, vec![check.as_str(); count].join(","))
        };
        assert_eq!(parse_batch(many(1000, 4).as_bytes()).unwrap().len(), 1000);
        for (body, pointer) in [
            (many(0, 1), "/checks"),
            (many(1001, 1), "/checks"),
            (many(41, 100), "/checks"),
            (r#"{"checks":{}}"#.to_owned(), "/checks"),
            (r#"{"checks":[{"domain":"d"}],"more":1}"#.to_owned(), "/more"),
            (r#"{"checks":[{"domain":"d"}],"checks":[]}"#.to_owned(), "/checks"),
            ("[]".to_owned(), ""),
            ("{".to_owned(), ""),
        ] {
            assert_eq!(parse_batch(body.as_bytes()).unwrap_err()[0].pointer, pointer, "{body:.80}");
        }
    }

    #[test]
    fn a_body_out_of_bounds_is_invalid() {
        let many = |count: usize| format!(r#"{{"domain":"d","descriptors":[{}]}}"#, vec!["{}"; count].join(","));
        assert!(parse(many(100).as_bytes(), Vec::new()).is_ok());
        for body in [many(0), many(101), "[]".to_owned(), "null".to_owned(), "{\"domain\":\"\"}".to_owned()] {
            assert!(parse(body.as_bytes(), Vec::new()).is_err(), "{body}");
        }
        let value = |length: usize| format!(r#"{{"domain":"d","attributes":{{"u":"{}"}}}}"#, "x".repeat(length));
        assert!(parse(value(4096).as_bytes(), Vec::new()).is_ok());
        assert!(parse(value(4097).as_bytes(), Vec::new()).is_err());
    }

    #[test]
    fn an_answer_says_of_each_limit_what_is_left_and_whether_it_denies() {
        let rules = "{ version: 1, domains: [{ domain: d, limits: [\
            { name: loud, per: [], limit: 2, window: 1m, algorithm: fixed_window },\
            { name: quiet, per: [], limit: 1, window: 1h, algorithm: fixed_window, mode: shadow },\
            { name: all, per: [], limit: unlimited, window: 1s, algorithm: token_bucket }] }] }";
        let book = compile("rules.yaml", rules, Revision(7)).unwrap();
        // The first instant of 2026 in UTC.
        let mut dry_run = DryRun::new(Arc::new(book), StoreTime(1_767_225_600_000_000));
        let descriptors =
            [Descriptor { entries: &[], ordered: false, hits: 1, charging: Charging::IfAllowed, limit: None }];
        let mut answer = |after| {
            let decision = dry_run.check(&Check { domain: "d", descriptors: &descriptors }, after).unwrap();
            serde_json::to_value(Answer::new(&decision, "id")).unwrap()
        };
        let limit = |name: &str, algorithm: &str, limit: Option<u64>, remaining: Option<u64>| {
            serde_json::json!({ "name": name, "descriptor": 0, "algorithm": algorithm, "limit": limit,
                "remaining": remaining, "window_ms": 60_000, "reset_ms": 60_000, "refused": false, "shadow": false })
        };
        let with = |mut limit: serde_json::Value, fields: &[(&str, serde_json::Value)]| {
            for (name, value) in fields {
                limit[*name] = value.clone();
            }
            limit
        };
        let loud = |left| limit("loud", "fixed_window", Some(2), Some(left));
        let hour = [("window_ms", 3_600_000.into()), ("reset_ms", 3_600_000.into()), ("shadow", true.into())];
        let quiet = with(limit("quiet", "fixed_window", Some(1), Some(0)), &hour);
        let all = with(limit("all", "token_bucket", None, None), &[("window_ms", 1000.into()), ("reset_ms", 0.into())]);
        let expected = |allowed: bool, retry_after_ms: Option<u64>, limits: [serde_json::Value; 3]| {
            serde_json::json!({ "allowed": allowed, "degraded": false, "revision": 7, "request_id": "id",
                "retry_after_ms": retry_after_ms, "limits": limits })
        };
        assert_eq!(answer(0), expected(true, None, [loud(1), quiet.clone(), all.clone()]));
        let would_deny = with(quiet.clone(), &[("refused", true.into())]);
        assert_eq!(answer(0), expected(true, None, [loud(0), would_deny, all.clone()]));
        // 59,999.5 milliseconds are left. A wait is rounded up.
        let (denied, last) = (answer(500), with(loud(0), &[("refused", true.into())]));
        assert_eq!((&denied["allowed"], &denied["retry_after_ms"]), (&false.into(), &60_000.into()));
        assert_eq!(denied["limits"][0], last);
    }
}
