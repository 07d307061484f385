//! The JSON of `/v1/check`: a request in, an answer out.

use serde::Serialize;
use serde_json::{Map, Value};

use super::desk::{MAX_DESCRIPTORS, MAX_ENTRIES, MAX_VALUE};
use super::status::{Fault, fault};
use limiter::{Decision, millis_up};

/// A request that was read and makes sense.
#[derive(Debug)]
pub struct Request {
    pub domain: String,
    pub hits: u32,
    pub descriptors: Vec<Vec<(String, String)>>,
}

impl Request {
    /// Reads a body, or tells every fault of it.
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Fault>> {
        let object: Map<String, Value> =
            serde_json::from_slice(body).map_err(|e| vec![fault("", format!("expected a JSON object: {e}"))])?;
        let mut faults = Vec::new();
        for key in object.keys().filter(|k| !["domain", "hits", "attributes", "descriptors"].contains(&k.as_str())) {
            let pointer = format!("/{}", escape(key));
            faults.push(fault(pointer, "expected one of domain, attributes, descriptors, hits; this field is unknown"));
        }
        let domain = match object.get("domain") {
            Some(Value::String(domain)) if (1..=MAX_VALUE).contains(&domain.len()) => domain.clone(),
            _ => {
                faults.push(fault("/domain", "expected a string of 1 to 4096 bytes: it is required"));
                String::new()
            }
        };
        let hits = match object.get("hits") {
            None => 1,
            Some(hits) => hits.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or_else(|| {
                faults.push(fault("/hits", format!("expected a whole number from 0 to {}", u32::MAX)));
                1
            }),
        };
        let descriptors = match (object.get("attributes"), object.get("descriptors")) {
            (Some(_), Some(_)) => {
                faults.push(fault("/descriptors", "expected either attributes or descriptors, not both"));
                Vec::new()
            }
            (None, None) => vec![Vec::new()],
            (Some(one), None) => vec![attributes(one, "/attributes", &mut faults)],
            (None, Some(Value::Array(all))) if (1..=MAX_DESCRIPTORS).contains(&all.len()) => {
                let each = all.iter().enumerate();
                each.map(|(at, one)| attributes(one, &format!("/descriptors/{at}"), &mut faults)).collect()
            }
            (None, Some(_)) => {
                faults.push(fault("/descriptors", format!("expected a list of 1 to {MAX_DESCRIPTORS} objects")));
                Vec::new()
            }
        };
        if faults.is_empty() { Ok(Self { domain, hits, descriptors }) } else { Err(faults) }
    }
}

fn attributes(value: &Value, pointer: &str, faults: &mut Vec<Fault>) -> Vec<(String, String)> {
    let Value::Object(map) = value else {
        faults.push(fault(pointer, "expected an object of strings"));
        return Vec::new();
    };
    if map.len() > MAX_ENTRIES {
        faults.push(fault(pointer, format!("expected at most {MAX_ENTRIES} attributes")));
        return Vec::new();
    }
    let mut all = Vec::with_capacity(map.len());
    for (key, value) in map {
        let pointer = format!("{pointer}/{}", escape(key));
        match value {
            _ if key.len() > MAX_VALUE => faults.push(fault(pointer, "expected a name of at most 4096 bytes")),
            Value::String(text) if text.len() <= MAX_VALUE => all.push((key.clone(), text.clone())),
            Value::String(_) => faults.push(fault(pointer, "expected a string of at most 4096 bytes")),
            Value::Number(n) => faults.push(fault(pointer, format!("expected a string: quote it, \"{n}\""))),
            _ => faults.push(fault(pointer, "expected a string")),
        }
    }
    all
}

/// A member name in a JSON pointer (RFC 6901).
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The answer.
#[derive(Serialize)]
pub struct Answer<'d> {
    allowed: bool,
    degraded: bool,
    revision: u64,
    request_id: &'d str,
    retry_after_ms: Option<u64>,
    limits: Vec<Limit<'d>>,
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
            window_ms: limit.effective.window_ms,
            reset_ms: millis_up(limit.reset),
            refused: limit.denied,
            shadow: limit.shadow,
        });
        Self {
            allowed: decision.allowed,
            degraded: decision.degraded,
            revision: decision.revision.0,
            request_id,
            retry_after_ms: decision.retry_after.map(millis_up),
            limits: limits.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told_with_its_pointer() {
        let body = r#"{"hits":4294967296,"attributes":{"a/b":5,"c~d":[],"e":null},"extra":1}"#;
        let faults = Request::parse(body.as_bytes()).unwrap_err();
        let pointers: Vec<&str> = faults.iter().map(|f| f.pointer.as_str()).collect();
        assert_eq!(pointers, ["/extra", "/domain", "/hits", "/attributes/a~1b", "/attributes/c~0d", "/attributes/e"]);
        assert!(faults.iter().all(|f| f.detail.starts_with("expected")));
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let many = |count: usize| format!(r#"{{"domain":"d","descriptors":[{}]}}"#, vec!["{}"; count].join(","));
        assert!(Request::parse(many(100).as_bytes()).is_ok());
        for body in [many(0), many(101), "[]".to_owned(), "null".to_owned(), "{\"domain\":\"\"}".to_owned()] {
            assert!(Request::parse(body.as_bytes()).is_err(), "{body}");
        }
        let value = |length: usize| format!(r#"{{"domain":"d","attributes":{{"u":"{}"}}}}"#, "x".repeat(length));
        assert!(Request::parse(value(4096).as_bytes()).is_ok());
        assert!(Request::parse(value(4097).as_bytes()).is_err());
    }
}
