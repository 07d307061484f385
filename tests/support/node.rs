//! Starts `tidegate` as a user does and ends it with the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use super::wait::TIMEOUT;
pub use super::wait::wait_for;

pub const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");

/// A running node.
pub struct Node {
    pub child: Child,
    /// The HTTP address.
    pub http: String,
    /// The gRPC address.
    pub grpc: String,
    /// The standard error output so far.
    log: Arc<Mutex<String>>,
}

/// An HTTP response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// Returns a command that runs the program with these arguments and an empty environment. A measurement may name a
/// program that was built with optimisation in `TIDEGATE_PROGRAM`.
pub fn tidegate(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("TIDEGATE_PROGRAM").unwrap_or(TIDEGATE.into()));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

pub fn output(args: &[&str]) -> Output {
    tidegate(args).output().unwrap()
}

/// Returns a command that runs `tidegate serve` on free ports with these environment variables.
pub fn serve_command(rules: &std::path::Path, url: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = tidegate(&["serve", "--log-format", "json"]);
    command
        .env("TIDEGATE_REGION", "us-east")
        .env("TIDEGATE_STORE__URL", url)
        .env("TIDEGATE_RULES__FILE", rules)
        .env("TIDEGATE_LISTEN__HTTP", "127.0.0.1:0")
        .env("TIDEGATE_LISTEN__GRPC", "127.0.0.1:0")
        .envs(settings.iter().copied());
    command
}

/// Sends a request to a listener of a node. `head` is the request line and the headers, without the final empty line.
pub fn send_to(address: &str, head: &[u8], body: &str) -> Response {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let end = format!("\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    // A node that responds before it has read everything may reset the connection.
    let _ = stream.write_all(&[head, end.as_bytes(), body.as_bytes()].concat());
    let mut response = String::new();
    let _ = stream.read_to_string(&mut response);
    let status = response.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_default();
    Response { status, head: head.to_owned(), body: body.to_owned() }
}

impl Node {
    /// Starts `tidegate dev` on free ports with these further arguments.
    pub fn dev(args: &[&str]) -> Self {
        let mut all = vec!["dev", "--log-format", "json", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"];
        all.extend(args);
        Self::start(tidegate(&all))
    }

    /// Starts `tidegate serve` on free ports with these environment variables.
    pub fn serve(rules: &std::path::Path, url: &str, settings: &[(&str, &str)]) -> Self {
        Self::start(serve_command(rules, url, settings))
    }

    /// Starts a node and waits until it is ready. The node must log its addresses in JSON.
    pub fn start(command: Command) -> Self {
        let node = Self::spawn(command);
        wait_for("readiness", || (node.get("/ready").status == 200).then_some(()));
        node
    }

    /// Starts a node and waits until it has logged its addresses in JSON.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let (mut http, mut grpc) = (String::new(), String::new());
        while http.is_empty() {
            let line = lines.next().unwrap_or_else(|| panic!("the node exited: {}", log.lock().unwrap())).unwrap();
            *log.lock().unwrap() += &format!("{line}\n");
            if let Ok(event) = serde_json::from_str::<serde_json::Value>(&line)
                && event["message"] == "serving"
            {
                http = event["http"].as_str().unwrap().to_owned();
                grpc = event["grpc"].as_str().unwrap().to_owned();
            }
        }
        let shared_log = Arc::clone(&log);
        #[expect(clippy::disallowed_methods, reason = "the thread ends with the process whose log it reads")]
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *shared_log.lock().unwrap() += &format!("{line}\n");
            }
        });
        Self { child, http, grpc, log }
    }

    /// Returns the value of a metric of `/metrics`, or 0 if it is absent. `name` includes the labels and the space
    /// after them.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or(0.0)
    }

    /// The address of the admin API, once the log has it.
    pub fn admin(&self) -> String {
        wait_for("the admin address in the log", || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains("serving the admin API"))?.to_owned();
            let at = line.find("127.0.0.1:")?;
            line[at..].split(|c: char| !(c.is_ascii_digit() || ".:".contains(c))).next().map(ToOwned::to_owned)
        })
    }

    /// Returns the standard error output so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Sends a request. `head` is the request line and the headers, without the final empty line.
    pub fn send(&self, head: &str, body: &str) -> Response {
        self.send_bytes(head.as_bytes(), body)
    }

    /// Like [`Self::send`], with a head of any bytes.
    pub fn send_bytes(&self, head: &[u8], body: &str) -> Response {
        send_to(&self.http, head, body)
    }

    pub fn get(&self, path: &str) -> Response {
        self.send(&format!("GET {path} HTTP/1.1"), "")
    }

    pub fn check(&self, body: &str) -> Response {
        self.send("POST /v1/check HTTP/1.1\r\ncontent-type: application/json", body)
    }

    /// Sends a signal to this process only.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
