//! Calls the admin API of a node.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http_body_util::Full;
use hyper::body::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::node_address::{NodeAddress, Protocol, TlsArgs};
use super::{Exit, Output, output};
use crate::config::overlay::TOKEN;

/// How long to wait for an answer. The node ends every call earlier.
const PATIENCE: Duration = Duration::from_secs(90);
/// The longest token file, in bytes.
const MAX_TOKEN: u64 = 4096;
/// The most pages of a list.
const MAX_PAGES: usize = 100_000;

/// Where the admin API is, and the token for it.
#[derive(Args)]
pub struct AdminArgs {
    /// Admin API of a node: http://host:port, or https://host:port if the node has `tls`
    #[arg(long, default_value = "http://127.0.0.1:8083", value_name = "URL")]
    addr: String,
    #[command(flatten)]
    tls: TlsArgs,
    /// File with the admin token; without it, TIDEGATE_TOKEN holds the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// An admin API.
pub struct AdminClient {
    addr: String,
    node: NodeAddress,
    token: String,
    pub output: Output,
}

/// An answer with a status of success.
pub struct Reply {
    /// The revision in `ETag`.
    pub revision: Option<u64>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// One call.
pub struct Call<'a> {
    pub method: &'a str,
    /// Below `/admin/v1`.
    pub path: String,
    pub headers: Vec<(&'a str, String)>,
    pub body: Vec<u8>,
}

impl<'a> Call<'a> {
    pub fn new(method: &'a str, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn json(self, body: &Value) -> Self {
        Self { body: body.to_string().into(), ..self }
    }
}

/// A name as one segment of a path.
pub fn segment(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

impl AdminArgs {
    /// Reads the token. Prints why it cannot be read.
    pub fn client(&self, output: Output) -> Result<AdminClient, Exit> {
        let fail = |message: String| {
            eprintln!("{message}");
            Exit::Failed
        };
        let token = match &self.token_file {
            Some(path) => {
                let mut text = String::new();
                let read = std::fs::File::open(path).and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text));
                read.map_err(|error| fail(format!("{}: {error}", path.display())))?;
                text
            }
            None => std::env::var(TOKEN).unwrap_or_default(),
        };
        let token = token.trim().to_owned();
        if token.is_empty() {
            return Err(fail(format!("expected an admin token: in {TOKEN}, or in a file with --token-file")));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(fail("expected an admin token without spaces".to_owned()));
        }
        let node = NodeAddress::parse(&self.addr, &self.tls, &[Protocol::Http]).map_err(fail)?;
        Ok(AdminClient { addr: self.addr.clone(), node, token, output })
    }
}

impl AdminClient {
    /// Makes a call. Prints why it fails.
    pub fn call(&self, call: Call<'_>) -> Result<Reply, Exit> {
        match self.answer(call)? {
            (200..300, reply) => Ok(reply),
            (status, reply) => Err(self.rejected(status, &reply)),
        }
    }

    /// Reads one row; `None` if there is none. Prints why it fails.
    pub fn find(&self, path: &str) -> Result<Option<Value>, Exit> {
        match self.answer(Call::new("GET", path))? {
            (200..300, reply) => Ok(Some(reply.json())),
            (404, _) => Ok(None),
            (status, reply) => Err(self.rejected(status, &reply)),
        }
    }

    fn answer(&self, call: Call<'_>) -> Result<(u16, Reply), Exit> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let asked = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
            runtime.block_on(async {
                let late = |_| format!("{}: no answer came in 90 s", self.addr);
                tokio::time::timeout(PATIENCE, self.ask(call)).await.map_err(late)?
            })
        });
        asked.map_err(|error| {
            eprintln!("the admin API of the node cannot be reached: {error}");
            self.print_error(&serde_json::json!({ "title": error }));
            Exit::Failed
        })
    }

    /// Every row of a list, from all pages.
    pub fn list(&self, path: &str) -> Result<Vec<Value>, Exit> {
        self.list_up_to(path, usize::MAX)
    }

    /// The first `most` rows of a list, from as many pages as it takes.
    pub fn list_up_to(&self, path: &str, most: usize) -> Result<Vec<Value>, Exit> {
        let mut rows = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let joint = if path.contains('?') { '&' } else { '?' };
            let after = next.map(|after| format!("&after={}", segment(&after))).unwrap_or_default();
            let size = (most - rows.len()).clamp(1, 1000);
            let mut page = self.call(Call::new("GET", format!("{path}{joint}limit={size}{after}")))?.json();
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                rows.extend(items);
                rows.truncate(most);
            }
            next = page["next"].as_str().map(ToOwned::to_owned);
            if next.is_none() || rows.len() >= most {
                break;
            }
        }
        Ok(rows)
    }

    fn rejected(&self, status: u16, reply: &Reply) -> Exit {
        let problem = reply.json();
        let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let title = text(&problem, "title");
        match status {
            401 => eprintln!("{}: the node rejects the admin token", self.addr),
            _ if title.is_empty() => eprintln!("{}: expected the admin API, got HTTP status {status}", self.addr),
            _ => eprintln!("{}: {title}", self.addr),
        }
        for error in problem["errors"].as_array().into_iter().flatten() {
            eprintln!("  {}", output::field_error(error));
        }
        self.print_error(&problem);
        Exit::Failed
    }

    fn print_error(&self, problem: &Value) {
        if self.output == Output::Json {
            outln!("{problem}");
        }
    }

    async fn ask(&self, call: Call<'_>) -> Result<(u16, Reply), String> {
        let Call { method, path, headers, body } = call;
        let mut request = hyper::Request::builder()
            .method(method)
            .uri(format!("/admin/v1{path}"))
            .header("authorization", format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
        let answer = self.node.send(request).await?;
        let tag = answer.headers().get("etag");
        let revision = tag.and_then(|tag| tag.to_str().ok()?.trim_matches('"').parse().ok());
        Ok((answer.status().as_u16(), Reply { revision, body: answer.into_body().to_vec() }))
    }
}
