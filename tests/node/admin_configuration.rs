//! What commands need of the configuration: `serve --check` reads the files that it names, and commands that write
//! straight to PostgreSQL need its section only.

use std::path::Path;

use serde_json::Value;

use super::node::tidegate;

/// Runs a command with a configuration file: its exit code, and what it printed.
fn run(folder: &Path, configuration: &str, arguments: &[&str]) -> (i32, String, String) {
    let file = folder.join("tidegate.yaml");
    std::fs::write(&file, configuration).unwrap();
    let output = tidegate(arguments).arg("--config").arg(file).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn serve_check_names_every_file_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let configuration = format!(
        "
region: a
store: {{ url: 'redis://127.0.0.1:1', password_file: {redis} }}
cluster:
  name: c
  data_dir: {data}
  encryption_key_file: {key}
  tls: {{ ca_file: {ca}, cert_file: {cert}, key_file: {cert} }}
postgres: {{ hosts: ['127.0.0.1:1'], password_file: {password}, tls: {{ ca_file: {pg_ca} }} }}
tls: {{ cert_file: {http}, key_file: {http} }}
admin: {{ token_file: {token} }}
",
        redis = path("redis-password"),
        data = path("data"),
        key = path("encryption-key"),
        ca = path("ca.pem"),
        cert = path("node.pem"),
        password = path("pg-password"),
        pg_ca = path("pg-ca.pem"),
        http = path("http.pem"),
        token = path("token"),
    );
    let (code, out, err) = run(folder.path(), &configuration, &["serve", "--check", "--output", "json"]);
    assert_eq!(code, 78, "{err}");
    let named = [
        ("store.password_file", "redis-password"),
        ("cluster.encryption_key_file", "encryption-key"),
        ("cluster.tls", "pem"),
        ("postgres.password_file", "pg-password"),
        ("postgres.tls.ca_file", "pg-ca.pem"),
        ("tls.cert_file", "http.pem"),
        ("admin.token_file", "token"),
    ];
    for (field, file) in named {
        assert!(err.lines().any(|line| line.starts_with(field) && line.contains(file)), "{field}: {err}");
    }
    let errors: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(errors["errors"].as_array().unwrap().len(), named.len(), "{out}");
    assert!(!Path::new(&path("data")).exists(), "--check changes nothing");
}

#[test]
fn migrate_and_token_create_need_the_section_postgres_only() {
    let folder = tempfile::tempdir().unwrap();
    let (migrate, token) = (&["migrate", "status"][..], &["token", "create", "--role", "owner"][..]);
    for command in [migrate, token] {
        // Nobody listens there: the configuration is good enough to try.
        let (code, _, err) = run(folder.path(), "postgres: { hosts: ['127.0.0.1:1'] }", command);
        assert!(code == 1 && err.contains("PostgreSQL"), "{code}: {err}");
        let (code, _, err) = run(folder.path(), "region: a", command);
        assert!(code == 78 && err.contains("postgres: expected this section"), "{code}: {err}");
        let (code, _, err) = run(folder.path(), "postgres: { hosts: ['127.0.0.1:1'], usr: x }", command);
        assert!(code == 78 && err.contains("tidegate.yaml:1:42: postgres.usr"), "{code}: {err}");
    }
}
