//! `tidegate check`.

use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;

use super::Exit;

#[derive(Args)]
pub struct Check {
    /// Node to ask
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    addr: String,
    #[arg(long)]
    domain: String,
    /// Attributes
    #[arg(value_name = "KEY=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
    #[arg(long, default_value_t = 1)]
    hits: u32,
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| "expected key=value".to_owned())
}

impl Check {
    pub fn run(self) -> Exit {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("{error}");
                return Exit::Failed;
            }
        };
        match runtime.block_on(self.ask()) {
            Ok((status, body)) => {
                println!("{body}");
                match status {
                    200 => Exit::Ok,
                    429 => Exit::Refused,
                    _ => Exit::Failed,
                }
            }
            Err(error) => {
                eprintln!("{}: {error}", self.addr);
                Exit::Failed
            }
        }
    }

    async fn ask(&self) -> Result<(u16, String), Box<dyn std::error::Error>> {
        let host = self.addr.strip_prefix("http://").ok_or("expected http://host:port")?.trim_end_matches('/');
        let attributes: serde_json::Map<_, _> =
            self.attributes.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        let body = serde_json::json!({ "domain": self.domain, "attributes": attributes, "hits": self.hits });
        let stream = tokio::net::TcpStream::connect(host).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = hyper::Request::post("/v1/check")
            .header("host", host)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}
