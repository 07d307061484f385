//! What the admin calls share: bodies, preconditions, pages, and answers.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use limiter::Revision;
use limiter::rules::{Path, Problem, Step};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::rejection::{FieldViolation, Rejection, violation};
use crate::ports::admin::{AdminError, Changed, Expiry, Listed, Page};
use crate::yaml::decode::parse_duration;

/// The largest rule book, in bytes.
pub const MAX_BOOK: usize = 32 * 1024 * 1024;
/// The largest body of any other call, in bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The rows of a page, if the call does not say how many.
const PAGE: u32 = 100;
const MAX_PAGE: u32 = 1000;

impl From<AdminError> for Rejection {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Invalid(problems) => Self::Invalid(problems.into_iter().map(of_problem).collect()),
            other => Self::Admin(other),
        }
    }
}

/// A problem with the place of its field as a JSON pointer.
pub fn of_problem(Problem { path, message }: Problem) -> FieldViolation {
    violation(pointer(&path), message)
}

fn pointer(path: &Path) -> String {
    let step = |step: &Step| match step {
        Step::Field(name) => format!("/{}", name.replace('~', "~0").replace('/', "~1")),
        Step::Index(at) => format!("/{at}"),
    };
    path.0.iter().map(step).collect()
}

/// Reads a body of at most `max` bytes.
pub async fn bytes(body: Body, max: usize) -> Result<Vec<u8>, Rejection> {
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, max).collect()).await;
    match read.map_err(|_| Rejection::TooSlow)? {
        Ok(all) => Ok(all.to_bytes().into()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Rejection::TooLarge(max)),
        Err(_) => Err(Rejection::Invalid(vec![violation("", "expected the whole body")])),
    }
}

/// Reads a body that is text.
pub async fn text(body: Body, max: usize) -> Result<String, Rejection> {
    String::from_utf8(bytes(body, max).await?).map_err(|_| Rejection::Invalid(vec![violation("", "expected UTF-8")]))
}

/// Reads a JSON body. An empty body is an empty object.
pub async fn json<T: DeserializeOwned>(body: Body) -> Result<T, Rejection> {
    let text = text(body, MAX_BODY).await?;
    let text = if text.trim().is_empty() { "{}" } else { &text };
    serde_json::from_str(text).map_err(|error| {
        // The text of the error shows no values of strings beyond what is expected in their place.
        Rejection::Invalid(vec![violation("", format!("expected JSON as the documentation says: {error}"))])
    })
}

/// The revision that a call expects, in `If-Match`.
pub fn precondition(headers: &HeaderMap) -> Result<Option<Revision>, Rejection> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text).parse();
    let invalid = |_| Rejection::Invalid(vec![violation("If-Match", "expected a revision in quotes, or *")]);
    number.map(|number| Some(Revision(number))).map_err(invalid)
}

/// The page that a call asks for, and its other parameters.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the query of a call that knows the parameters `known`.
    pub fn read(query: Option<&str>, known: &[&str]) -> Result<Self, Rejection> {
        let all = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned();
        let all: Vec<(String, String)> = all.collect();
        let mut violations = Vec::new();
        for (at, (name, value)) in all.iter().enumerate() {
            if value.contains('\0') {
                violations.push(violation(format!("?{name}"), "expected a text without NUL"));
            } else if !known.contains(&name.as_str()) {
                let expected = if known.is_empty() { "no parameter".to_owned() } else { known.join(", ") };
                violations.push(violation(format!("?{name}"), format!("expected {expected}; this one is unknown")));
            } else if all[..at].iter().any(|(earlier, _)| earlier == name) {
                violations.push(violation(format!("?{name}"), "expected this parameter at most once"));
            }
        }
        if violations.is_empty() { Ok(Self(all)) } else { Err(Rejection::Invalid(violations)) }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn revision(&self) -> Result<Option<Revision>, Rejection> {
        let Some(text) = self.get("revision") else { return Ok(None) };
        let invalid = |_| Rejection::Invalid(vec![violation("?revision", "expected a revision")]);
        text.parse().map(|number| Some(Revision(number))).map_err(invalid)
    }

    pub fn page(&self) -> Result<Page, Rejection> {
        let size = self.get("limit").map_or(Ok(PAGE), str::parse).ok().filter(|size| (1..=MAX_PAGE).contains(size));
        let Some(size) = size else {
            return Err(Rejection::Invalid(vec![violation("?limit", format!("expected 1 to {MAX_PAGE}"))]));
        };
        Ok(Page { size, after: self.get("after").map(ToOwned::to_owned) })
    }
}

/// Reads when a key expires: a length of time from now such as `90d`, or milliseconds since the epoch.
pub fn expiry(value: Option<&Value>) -> Result<Expiry, Rejection> {
    let read = match value {
        None | Some(Value::Null) => Some(Expiry::Never),
        Some(Value::Number(at)) => at.as_u64().map(Expiry::At),
        Some(Value::String(text)) => parse_duration(text).filter(|ms| *ms > 0).map(Expiry::After),
        Some(_) => None,
    };
    let message = "expected a length of time such as 90d, or milliseconds since the epoch";
    read.ok_or_else(|| Rejection::Invalid(vec![violation("/expires", message)]))
}

/// The answer to a change.
pub fn changed(changed: Changed) -> Response {
    let Changed { revision, in_force, key } = changed;
    let mut body = json!({ "revision": revision, "in_force": in_force });
    if let Some(key) = key {
        body["api_key"] = key.api_key.0.into();
        body["key_id"] = key.key_id.into();
    }
    let mut answer = Json(body).into_response();
    // Caches must not keep a key.
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    tagged(answer, revision)
}

/// Adds the revision as `ETag`.
pub fn tagged(mut answer: Response, revision: Revision) -> Response {
    if let Ok(tag) = HeaderValue::try_from(format!("\"{revision}\"")) {
        answer.headers_mut().insert(header::ETAG, tag);
    }
    answer
}

/// A page of a list.
pub fn listed(listed: Listed) -> Response {
    Json(json!({ "items": listed.rows, "next": listed.next })).into_response()
}
