//! The servers of the tests: real nodes, and stand-ins before them that record and fail.

use std::future::pending;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use tidegate_client::{Check, Config};

/// Far longer than a shared machine takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A node.
pub struct Node {
    child: Child,
    pub url: String,
}

impl Node {
    /// Starts a node with the sample rules: five checks a minute for each user in the domain `demo`.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a node that allows ten checks an hour to each user in the domain `demo`.
    pub fn of_ten() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.yaml");
        let limit = "{ name: ten, per: [user], limit: 10, window: 1h, algorithm: fixed_window }";
        std::fs::write(&path, format!("version: 1\ndomains: [{{ domain: demo, limits: [{limit}] }}]")).unwrap();
        Self::start_with(&["--rules", path.to_str().unwrap()])
    }

    fn start_with(options: &[&str]) -> Self {
        let program = std::env::var("TIDEGATE_PROGRAM").expect("TIDEGATE_PROGRAM must name the program");
        let mut child = Command::new(program)
            .args(["dev", "--log-format", "json", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"])
            .args(options)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let serving = log.find(|line| line.contains("\"serving\"")).expect("the node must serve");
        let serving: serde_json::Value = serde_json::from_str(&serving).unwrap();
        let address = serving["http"].as_str().unwrap();
        std::thread::spawn(move || log.for_each(drop));
        // A node that starts answers 503.
        let start = Instant::now();
        while !is_ready(address) {
            assert!(start.elapsed() < PATIENCE, "the node must be ready");
            std::thread::yield_now();
        }
        Self { child, url: format!("http://{address}") }
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_ready(address: &str) -> bool {
    let mut answer = String::new();
    let asked = TcpStream::connect(address).and_then(|mut stream| {
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")?;
        stream.read_to_string(&mut answer)
    });
    asked.is_ok() && answer.starts_with("HTTP/1.1 200")
}

/// A server that answers each request with these bytes, and tells what it got.
pub fn server(answer: &'static str) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (send, requests) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut buffer = [0; 8192];
            let read = stream.read(&mut buffer).unwrap_or(0);
            if send.send(String::from_utf8_lossy(&buffer[..read]).into_owned()).is_err() {
                break;
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (url, requests)
}

pub fn config(nodes: &[&str]) -> Config {
    Config { deadline: PATIENCE, ..Config::new(nodes.iter().copied()) }
}

pub fn check(user: &str) -> Check {
    Check::new("demo").with("user", user)
}

/// An address where nobody listens: the port is reserved, so no other test gets it.
pub const NOBODY: &str = "http://127.0.0.1:1";

/// A server before a node. It answers nothing while it has more than `most` requests at once, and counts what it got.
pub async fn before(node: &Node, most: usize) -> (String, Arc<AtomicUsize>) {
    let http = HttpClient::builder(TokioExecutor::new()).build_http::<Body>();
    let (in_flight, count) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (node, counted) = (node.url.clone(), Arc::clone(&count));
    let answer = async move |mut request: Request| -> Response {
        counted.fetch_add(1, Ordering::Relaxed);
        if in_flight.fetch_add(1, Ordering::Relaxed) >= most {
            return pending().await;
        }
        *request.uri_mut() = format!("{node}{}", request.uri().path()).parse().unwrap();
        let answer = http.request(request).await.unwrap().map(Body::new);
        // The client may send its next request when it has the answer.
        in_flight.fetch_sub(1, Ordering::Relaxed);
        answer
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    (url, count)
}
