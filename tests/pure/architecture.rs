//! The layers of the code, checked in the imports and the manifests: the modules and crates that each may use, and the
//! purity of the core.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module of `src/` and the other modules that it may import.
const MAY_IMPORT: [(&str, &[&str]); 19] = [
    ("ports", &[]),
    ("telemetry", &[]),
    ("yaml", &[]),
    ("tls", &["ports", "telemetry"]),
    ("server", &["telemetry", "tls"]),
    ("actors", &["ports"]),
    ("host", &["ports"]),
    ("store", &["ports", "telemetry", "tls"]),
    ("db", &["ports", "telemetry", "tls"]),
    ("peers", &["ports", "tls"]),
    ("raft", &["ports", "telemetry", "tls", "peers"]),
    ("regions", &["ports", "telemetry", "tls", "peers"]),
    ("identities", &["ports", "telemetry"]),
    ("control", &["ports", "telemetry"]),
    ("rulefile", &["ports", "telemetry", "yaml"]),
    ("api", &["ports", "telemetry", "server", "rulefile", "yaml"]),
    ("config", &["api", "store", "telemetry", "tls", "yaml"]),
    (
        "node",
        &[
            "ports",
            "telemetry",
            "tls",
            "server",
            "actors",
            "host",
            "store",
            "db",
            "peers",
            "raft",
            "regions",
            "identities",
            "control",
            "rulefile",
            "api",
            "config",
        ],
    ),
    ("cli", &["ports", "telemetry", "tls", "yaml", "host", "rulefile", "api", "config", "node", "db"]),
];

/// The adapters. Only `src/node/assemble.rs` may name them. One exception: `cli` imports `rulefile`, because it reads
/// rule files.
const ADAPTERS: [&str; 7] = ["store", "db", "peers", "raft", "regions", "identities", "rulefile"];

/// Each crate of the workspace and the workspace crates that it may depend on.
const MAY_DEPEND: [(&str, &[&str]); 8] = [
    ("crates/limiter", &[]),
    ("crates/plane", &["limiter"]),
    ("crates/proto", &[]),
    ("crates/counter-script", &["limiter"]),
    ("crates/charts", &[]),
    ("crates/loadgen", &["charts", "proto"]),
    ("crates/links", &[]),
    ("simulations", &["charts", "limiter", "counter-script"]),
];

/// Names that the pure crates must not use: clocks, randomness, threads, files, sockets. Their manifests exclude the
/// rest.
const IMPURE: [&str; 8] = [
    "Instant::now",
    "SystemTime",
    "getrandom",
    "std::thread",
    "std::fs",
    "std::net::Tcp",
    "std::env",
    "RandomState::new",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every source file below `folder`, or the single file of the module, without comments.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut pending = vec![folder.to_owned(), folder.with_extension("rs")];
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs")
            && let Ok(text) = fs::read_to_string(&path)
        {
            let code: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
            found.push((path, code.join("\n")));
        }
    }
    assert!(!found.is_empty(), "{} has no sources", folder.display());
    found
}

#[test]
fn every_module_has_a_layer() {
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let known = ["main", "lib"].contains(&name) || MAY_IMPORT.iter().any(|(known, _)| *known == name);
        // Git does not store an empty folder, so a checkout may have a left-over one.
        let empty = path.is_dir() && fs::read_dir(&path).unwrap().next().is_none();
        assert!(known || empty, "{name} has no layer: add it to MAY_IMPORT");
    }
}

#[test]
fn modules_import_only_what_their_layer_allows() {
    for (module, allowed) in MAY_IMPORT {
        for (path, code) in sources(&root().join("src").join(module)) {
            for (start, _) in code.match_indices("crate::") {
                let target: String =
                    code[start + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let allowed = target == module || allowed.contains(&target.as_str());
                assert!(allowed, "{} imports {target}, which {module} may not", path.display());
            }
        }
    }
}

#[test]
fn only_the_assembly_of_a_node_names_adapters() {
    for (path, code) in sources(&root().join("src/node")) {
        for adapter in ADAPTERS {
            let named = code.contains(&format!("crate::{adapter}::"));
            let assembles = path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("assemble"));
            assert!(!named || assembles, "{} names the adapter {adapter}", path.display());
        }
    }
}

#[test]
fn crates_depend_only_on_what_their_layer_allows() {
    for (folder, allowed) in MAY_DEPEND {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
        for line in dependencies.lines() {
            let name = line.split(['.', ' ']).next().unwrap();
            let ours =
                name == "tidegate" || MAY_DEPEND.iter().any(|(folder, _)| folder.rsplit('/').next() == Some(name));
            assert!(!ours || allowed.contains(&name), "{folder} depends on {name}, which it may not");
        }
    }
}

#[test]
fn the_core_and_the_simulator_are_pure() {
    for folder in
        ["crates/limiter/src", "crates/plane/src", "crates/counter-script/src", "crates/charts/src", "simulations/src"]
    {
        for (path, code) in sources(&root().join(folder)) {
            for name in IMPURE {
                // The simulator runs its seeds on several threads. They do not change the result of a seed.
                let campaign = path.ends_with("campaign.rs") && name == "std::thread";
                assert!(campaign || !code.contains(name), "{} names {name}", path.display());
            }
        }
    }
}

/// The modules of the crate root that a source file below `root` imports, through `crate::` or `super::`.
fn imported_modules(root: &Path, path: &Path, code: &str) -> Vec<String> {
    let below = path.strip_prefix(root).unwrap();
    let depth = below.components().count() - usize::from(path.ends_with("mod.rs"));
    let code = code.split("#[cfg(test)]").next().unwrap().replace(&"super::".repeat(depth), "crate::");
    let first = |from: &str| from.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    code.match_indices("crate::").map(|(start, found)| first(&code[start + found.len()..])).collect()
}

#[test]
fn the_folders_of_a_crate_have_no_import_cycle() {
    for source in ["crates/limiter/src", "crates/counter-script/src", "crates/loadgen/src", "simulations/src", "src"] {
        let source = root().join(source);
        let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for entry in fs::read_dir(&source).unwrap() {
            let folder = entry.unwrap().path();
            if folder.is_dir() && fs::read_dir(&folder).unwrap().next().is_some() {
                let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
                let targets = sources(&folder).into_iter();
                let targets = targets.flat_map(|(path, code)| imported_modules(&source, &path, &code));
                let targets = targets.filter(|target| *target != name).collect();
                imports.insert(name, targets);
            }
        }
        // Folders that import no other are removed, until none is left. What cannot be removed is a cycle.
        while let Some(leaf) = imports.keys().find(|name| imports[*name].iter().all(|t| !imports.contains_key(t))) {
            let leaf = leaf.clone();
            imports.remove(&leaf);
        }
        assert!(imports.is_empty(), "{} has a cycle: {imports:?}", source.display());
    }
}

/// Environment variables with this prefix are settings of a node, and unknown ones are errors.
#[test]
fn the_scripts_environment_has_no_variable_that_a_node_takes_for_a_setting() {
    let script = fs::read_to_string(root().join("scripts/env")).unwrap();
    assert!(script.contains("export BUILD_COMMIT"));
    assert!(!script.contains("TIDEGATE_"), "scripts/env sets a variable that `tidegate serve` rejects");
}
