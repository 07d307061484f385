//! A web page in a real browser (Chromium) asks a node of another origin.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use serde_json::Value;

use crate::support::node::{Node, serve_command};
use crate::support::wait::TIMEOUT;

const RULES: &str = "version: 1\ndomains: [{ domain: web, limits: [{ name: l, per: [], limit: 2, window: 1d }] }]\n";

/// A page that asks `node` three times, and shows the answers as JSON.
fn page(node: &str) -> String {
    format!(
        r#"<!doctype html><body><script>
const ask = async () => {{
  try {{
    const answer = await fetch("http://{node}/v1/check", {{
      method: "POST", headers: {{ "content-type": "application/json" }}, body: '{{"domain":"web"}}',
    }});
    const headers = ["retry-after", "ratelimit", "ratelimit-policy", "x-ratelimit-remaining", "x-request-id"];
    return {{ status: answer.status, allowed: (await answer.json()).allowed,
      headers: headers.filter((name) => answer.headers.get(name) !== null) }};
  }} catch (error) {{
    return {{ error: String(error) }};
  }}
}};
(async () => {{
  const answers = [await ask(), await ask(), await ask()];
  await fetch("/done", {{ method: "POST", body: JSON.stringify(answers) }});
}})();
</script>"#
    )
}

/// Reads one request and answers it with `body`. Returns the request; `None` if the browser opened the connection in
/// advance and sent nothing.
fn answer(stream: &mut TcpStream, body: &str) -> Option<String> {
    let mut request = String::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        request += std::str::from_utf8(&buffer[..read]).unwrap();
        let Some((head, sent)) = request.split_once("\r\n\r\n") else { continue };
        let lines = head.lines().map(str::to_ascii_lowercase);
        let length = lines.filter_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok()).next();
        if sent.len() >= length.unwrap_or(0) {
            break;
        }
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close";
    write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).ok()?;
    Some(request)
}

/// Serves `page` to every request, each on a thread. Returns the first POST.
#[expect(clippy::disallowed_methods, reason = "each thread ends with the browser's connection")]
fn serve_until_posted(pages: &TcpListener, page: &str) -> String {
    let (send, posted) = mpsc::channel();
    let (pages, page) = (pages.try_clone().unwrap(), page.to_owned());
    std::thread::spawn(move || {
        for mut stream in pages.incoming().map_while(Result::ok) {
            let (send, page) = (send.clone(), page.clone());
            std::thread::spawn(move || {
                if let Some(request) = answer(&mut stream, &page).filter(|request| request.starts_with("POST")) {
                    let _ = send.send(request);
                }
            });
        }
    });
    posted.recv_timeout(TIMEOUT).expect("the page must post its answers")
}

/// Returns what a page saw that asked a node which lists the page's origin, or lists another.
fn answers_of_a_page(is_listed: bool) -> (Node, Vec<Value>) {
    let pages = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", pages.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, RULES).unwrap();
    let listed = if is_listed { origin.as_str() } else { "https://app.example.com" };
    let node = Node::start(serve_command(&rules, "memory:", &[("TIDEGATE_LISTEN__CORS_ORIGINS", listed)]));
    let mut browser = Command::new("chromium")
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(&origin)
        .env("HOME", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("Chromium must be installed");
    let done = serve_until_posted(&pages, &page(&node.http));
    browser.kill().unwrap();
    browser.wait().unwrap();
    let (_, body) = done.split_once("\r\n\r\n").unwrap();
    (node, serde_json::from_str(body).unwrap())
}

#[test]
fn a_page_of_a_listed_origin_reads_decisions_and_their_headers() {
    let (_node, answers) = answers_of_a_page(true);
    let statuses: Vec<u64> = answers.iter().map(|answer| answer["status"].as_u64().unwrap_or(0)).collect();
    assert_eq!(statuses, [200, 200, 429], "preflights are not counted: {answers:?}");
    let headers = |at: usize| answers[at]["headers"].to_string();
    assert_eq!(headers(0), r#"["ratelimit","ratelimit-policy","x-ratelimit-remaining","x-request-id"]"#);
    assert_eq!(headers(2), r#"["retry-after","ratelimit","ratelimit-policy","x-ratelimit-remaining","x-request-id"]"#);
    assert_eq!(answers[2]["allowed"], false);
}

#[test]
fn a_page_of_another_origin_gets_nothing_and_charges_nothing() {
    let (node, answers) = answers_of_a_page(false);
    assert!(answers.iter().all(|answer| answer["error"].is_string()), "{answers:?}");
    assert_eq!(node.check(r#"{"domain":"web"}"#).header("x-ratelimit-remaining"), Some("1"));
}
