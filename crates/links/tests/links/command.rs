//! The program: it runs the proxy, and changes its links while it runs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// Ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn links(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_links"));
    command.args(arguments);
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    links(arguments).current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn links_change_while_the_proxy_runs() {
    let folder = tempfile::tempdir().unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    // The proxy takes the port of a listener that has just closed.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!(
        r#"{{ "control": "links.sock", "regions": {{ "east": ["10.1.0.0/16"], "west": ["127.0.0.0/8"] }},
            "links": [{{ "from": "east", "to": "west", "both": true, "delay_ms": 1 }}],
            "listen": [{{ "address": "{free}", "region": "east", "target": "{}" }}] }}"#,
        server.local_addr().unwrap()
    );
    std::fs::write(folder.path().join("links.json"), config).unwrap();
    let mut command = links(&["run", "--config", "links.json"]);
    let child = command.current_dir(folder.path()).stderr(Stdio::piped()).spawn().unwrap();
    let mut program = Program(child);
    let mut client = loop {
        assert!(program.0.try_wait().unwrap().is_none(), "the proxy has ended");
        if let Ok(client) = TcpStream::connect(free) {
            break client;
        }
        std::thread::yield_now();
    };
    client.write_all(b"ping").unwrap();
    let (mut accepted, _) = server.accept().unwrap();
    accepted.read_exact(&mut [0; 4]).unwrap();

    let status = loop {
        let output = run(folder.path(), &["status", "--control", "links.sock"]);
        if output.status.success() {
            break text(&output.stdout);
        }
    };
    assert!(status.contains("west         -> east         up  delay    1 ms"), "{status}");
    let set = ["set", "--control", "links.sock", "--from", "west", "--to", "east"];
    let changed = run(folder.path(), &[&set[..], &["--delay", "40ms", "--loss", "0.01", "--cut", "--json"]].concat());
    let changed: serde_json::Value = serde_json::from_slice(&changed.stdout).unwrap();
    let link = changed["status"]["links"].as_array().unwrap().iter().find(|l| l["from"] == "west" && l["to"] == "east");
    let link = link.unwrap();
    assert_eq!((&link["delay_ms"], &link["loss"], &link["cut"]), (&40.0.into(), &0.01.into(), &true.into()), "{link}");
    assert_eq!((&link["bytes"], &link["connections"]), (&4.into(), &1.into()), "{link}");

    let wrong = run(folder.path(), &["set", "--control", "links.sock", "--from", "mars", "--to", "all", "--cut"]);
    assert!(!wrong.status.success());
    assert!(text(&wrong.stderr).contains("unknown region mars: expected east, west or all"), "{wrong:?}");
    let second = run(folder.path(), &["run", "--config", "links.json"]);
    assert!(!second.status.success() && text(&second.stderr).contains(&free.to_string()), "{second:?}");

    // SIGTERM ends it, and the socket goes with it.
    let signalled = Command::new("kill").arg(program.0.id().to_string()).status().unwrap();
    assert!(signalled.success() && program.0.wait().unwrap().success());
    assert!(!folder.path().join("links.sock").exists());
    let gone = run(folder.path(), &["status", "--control", "links.sock"]);
    assert!(!gone.status.success() && text(&gone.stderr).starts_with("links: links.sock: "), "{gone:?}");
}
