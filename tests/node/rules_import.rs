//! `tidegate rules import`, and that the other commands take what it prints.

use std::fs;
use std::path::Path;

use crate::node::output;
use serde_json::Value;

const LIMITADOR: &str = "
- { namespace: api, max_value: 2, seconds: 60, conditions: [\"descriptors[0].tier == 'free'\"], variables: [user] }
- { namespace: api, max_value: 2, seconds: 60, conditions: [\"descriptors[1].tier == 'free'\"] }
";

/// The files of envoyproxy/ratelimit that the tests without a server use, and their answers.
fn envoy(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pure/import/envoy");
    folder.join(file).to_str().unwrap().to_owned()
}

/// Runs `tidegate rules` and returns the exit code, the standard output and the standard error output.
fn rules(args: &[&str]) -> (Option<i32>, String, String) {
    let output = output(&[&["rules"], args].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn an_imported_configuration_is_valid_and_answers_as_documented() {
    let files =
        ["edge", "messaging", "replaces", "files", "internal", "tenants"].map(|name| envoy(&format!("{name}.yaml")));
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let (code, printed, listed) = rules(&[&["import", "--from", "envoy"], &files[..]].concat());
    assert_eq!(code, Some(0), "{listed}");
    let notices = listed.lines().filter(|line| line.contains(".yaml:")).count();
    assert!(listed.ends_with(&format!("limits, {notices} notices\n")) && notices > 10, "{listed}");
    let folder = tempfile::tempdir().unwrap();
    let book = folder.path().join("rules.yaml");
    fs::write(&book, printed).unwrap();
    let book = book.to_str().unwrap();
    let (code, out, errors) = rules(&["validate", book]);
    assert!(code == Some(0) && out.contains("6 domains"), "{out}{errors}");
    assert!(!errors.contains("ever reached") && !errors.contains("ever match"), "{errors}");
    let (code, out, _) = rules(&["test", book, "--cases", &envoy("answers.test.yaml")]);
    assert!(code == Some(0) && out.contains("51 of 51 cases pass"), "{out}");
}

#[test]
fn notices_are_listed_for_people_and_for_programs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("limits.yaml");
    fs::write(&file, LIMITADOR).unwrap();
    let file = file.to_str().unwrap();
    let (code, out, listed) = rules(&["import", "--from", "limitador", file]);
    assert_eq!((code, out.matches("name: ").count()), (Some(0), 1), "{out}");
    assert!(listed.contains(&format!("{file}:3:61: [1].conditions[0]: the limit is not carried over")), "{listed}");
    let (code, out, _) = rules(&["import", "--from", "limitador", file, "--output", "json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["ok"]), (Some(0), &true.into()));
    assert_eq!(json["rules"]["domains"][0]["limits"][0]["match"]["tier"], "free");
    let notice = json["notices"].as_array().unwrap().iter().find(|notice| notice["line"] == 3).unwrap();
    assert_eq!((&notice["field"], &notice["column"]), (&"[1].conditions[0]".into(), &61.into()), "{json}");
}

#[test]
fn a_file_with_errors_prints_no_rules() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    fs::write(&file, "domain: d\ndescriptors:\n  - key: a\n    rate_limit: { unit: eon, requests_per_unit: x }\n")
        .unwrap();
    let file = file.to_str().unwrap();
    let (code, out, errors) = rules(&["import", "--from", "envoy", file]);
    assert_eq!((code, out.as_str(), errors.lines().count()), (Some(78), "", 2), "{errors}");
    assert!(
        errors.starts_with(&format!("{file}:4:25: descriptors[0].rate_limit.unit: expected second | ")),
        "{errors}"
    );
    let (code, out, _) = rules(&["import", "--from", "envoy", file, "--output", "json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["ok"], json["errors"].as_array().unwrap().len()), (Some(78), &false.into(), 2));
    for (from, wrong) in [("limitador", file), ("envoy", "no/such/file.yaml")] {
        let (code, out, errors) = rules(&["import", "--from", from, wrong]);
        assert_eq!((code, out.as_str()), (Some(78), ""), "{errors}");
        assert!(errors.starts_with(wrong), "{errors}");
    }
    assert_eq!(rules(&["import", "--from", "envoy"]).0, Some(2));
    assert_eq!(rules(&["import", file]).0, Some(2));
}
