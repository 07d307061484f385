//! What the documents say holds: the paths that they name exist, and the simulation that they show is a good first one.

use std::fs;
use std::path::Path;

use simulations::campaign::run_seed;
use simulations::plot;
use simulations::scenario::Scenario;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the parts of the text that are in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_row_of_the_users_document_names_a_path_or_a_status() {
    let text = fs::read_to_string(root().join("docs/document.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| The document")).collect();
    assert!(rows.len() > 50, "{}", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [_, answer] = cells.as_slice() else { panic!("{row}: expected two cells") };
        let paths =
            || quoted(answer).filter(|word| word.contains('/') && !word.starts_with('/') && !word.ends_with('/'));
        let has_status = answer.contains("planned") || answer.contains("differs") || answer.starts_with("outside");
        assert!(has_status || paths().next().is_some(), "{row}: expected a path, planned, differs or outside");
        for path in paths() {
            assert!(root().join(path).exists(), "{row}: {path} does not exist");
        }
    }
}

#[test]
fn paths_in_the_other_documents_exist() {
    let folders = ["src/", "tests/", "docs/", "scripts/", "benches/", "proto/", "deploy/", "clients/"];
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/guarantees.md",
        "docs/security.md",
        "docs/operations.md",
        "docs/gateways.md",
        "docs/gateways/aws.md",
        "docs/gateways/caddy.md",
        "docs/gateways/envoy.md",
        "docs/gateways/haproxy.md",
        "docs/gateways/kong.md",
        "docs/gateways/nginx.md",
        "docs/gateways/results.md",
        "docs/gateways/traefik.md",
        "docs/gateways/tyk.md",
        "docs/gateways/worker.md",
        "docs/clients.md",
        "docs/rules.md",
        "docs/admin.md",
        "docs/performance.md",
    ] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let words = quoted(&text).flat_map(str::split_whitespace);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let links = links.filter(|link| !link.contains("://") && !link.starts_with('#'));
        let document_folder = Path::new(document).parent().unwrap();
        for path in words.filter(|word| folders.iter().any(|folder| word.starts_with(folder))) {
            let path = path.split("::").next().unwrap().trim_end_matches([',', '.', ';', ':']);
            assert!(root().join(path).exists(), "{document}: {path} does not exist");
        }
        for link in links {
            let file = link.split('#').next().unwrap();
            assert!(root().join(document_folder).join(file).exists(), "{document}: {link} does not exist");
        }
    }
}

#[test]
fn the_lines_that_the_pages_of_gateways_quote_are_in_their_files() {
    for (page, language, file) in [("envoy", "yaml", "envoy/envoy.yaml"), ("caddy", "caddyfile", "caddy/Caddyfile")] {
        let text = fs::read_to_string(root().join(format!("docs/gateways/{page}.md"))).unwrap();
        let file = fs::read_to_string(root().join("deploy/gateways").join(file)).unwrap();
        let known: Vec<&str> = file.lines().map(str::trim).collect();
        let (_, rest) = text.split_once(&format!("```{language}\n")).unwrap();
        for line in rest.split("```").next().unwrap().lines() {
            assert!(known.contains(&line.trim()), "{page}.md: {line}");
        }
    }
}

/// A reader who tries the first simulation of the README should see limits that are kept although Redis failed.
#[test]
fn the_first_simulation_of_the_readme_shows_limits_that_are_kept_without_the_store() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let command = text.lines().find(|line| line.starts_with("tidegate simulate")).unwrap();
    let after = |flag: &str| command.split_whitespace().skip_while(|word| *word != flag).nth(1);
    let name = after("--scenario").unwrap();
    let scenario = Scenario::ALL.into_iter().find(|scenario| scenario.name() == name).unwrap();
    let run = run_seed(scenario, after("--seed").unwrap().parse().unwrap(), false).unwrap();
    let picture = plot::text(&run);
    let good = run.violations.is_empty() && picture.contains('█') && picture.contains('!') && !picture.contains('▲');
    assert!(good, "expected a seed that uses a limit up and never exceeds it: choose another one\n{picture}");
    assert!(command.contains("--brief"), "{command}");
    let lines = run.plan.to_string().lines().count() + picture.lines().count();
    assert!(lines < 50, "{lines} lines are too long for a first look");
}
