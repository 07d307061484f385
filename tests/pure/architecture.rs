//! The layers, read from the imports and the manifests: what each module may use of ours, and what the core may do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A module of `src/` and the modules that it may import, itself apart.
const MAY_IMPORT: [(&str, &[&str]); 12] = [
    ("ports", &[]),
    ("telemetry", &[]),
    ("yaml", &[]),
    ("server", &["telemetry"]),
    ("actors", &["ports"]),
    ("host", &["ports"]),
    ("store", &["ports", "telemetry"]),
    ("rulefile", &["ports", "telemetry", "yaml"]),
    ("api", &["ports", "telemetry", "server"]),
    ("config", &["store", "telemetry", "yaml"]),
    ("node", &["ports", "telemetry", "server", "actors", "host", "store", "rulefile", "api", "config"]),
    ("cli", &["ports", "telemetry", "yaml", "host", "rulefile", "api", "config", "node"]),
];

/// Modules that are adapters. Only `node/assemble.rs` names them, and `cli` the rule files that it reads.
const ADAPTERS: [&str; 2] = ["store", "rulefile"];

/// A crate of the workspace and those of ours that it may depend on.
const MAY_DEPEND: [(&str, &[&str]); 5] = [
    ("crates/limiter", &[]),
    ("crates/proto", &[]),
    ("crates/counter-script", &["limiter"]),
    ("crates/loadgen", &["proto"]),
    ("simulations", &["limiter", "counter-script"]),
];

/// What the pure crates must not name: clocks, randomness, threads, files, sockets. Their manifests exclude the rest.
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

/// Every source file below `folder`, or of the module that is one file, without its comments.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut todo = vec![folder.to_owned(), folder.with_extension("rs")];
    let mut found = Vec::new();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
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
        // Git keeps no empty folder.
        let empty = path.is_dir() && fs::read_dir(&path).unwrap().next().is_none();
        assert!(known || empty, "{name} has no layer: add it to MAY_IMPORT");
    }
}

#[test]
fn no_module_imports_what_its_layer_does_not_allow() {
    for (module, allowed) in MAY_IMPORT {
        for (path, code) in sources(&root().join("src").join(module)) {
            for (at, _) in code.match_indices("crate::") {
                let target: String = code[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let fits = target == module || allowed.contains(&target.as_str());
                assert!(fits, "{} imports {target}, which {module} may not", path.display());
            }
        }
    }
}

#[test]
fn only_the_assembly_names_adapters() {
    for (path, code) in sources(&root().join("src/node")) {
        for adapter in ADAPTERS {
            let named = code.contains(&format!("crate::{adapter}::"));
            assert!(!named || path.ends_with("assemble.rs"), "{} names the adapter {adapter}", path.display());
        }
    }
}

#[test]
fn no_crate_depends_on_what_its_layer_does_not_allow() {
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
    for folder in ["crates/limiter/src", "crates/counter-script/src", "simulations/src"] {
        for (path, code) in sources(&root().join(folder)) {
            for name in IMPURE {
                // The simulator runs its seeds on threads, which decide nothing.
                let campaign = path.ends_with("campaign.rs") && name == "std::thread";
                assert!(campaign || !code.contains(name), "{} names {name}", path.display());
            }
        }
    }
}

/// Fails if two folders of a crate import each other.
#[test]
fn no_two_folders_of_a_crate_import_each_other() {
    for source in ["crates/limiter/src", "crates/counter-script/src", "crates/loadgen/src", "simulations/src"] {
        let mut imports: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for entry in fs::read_dir(root().join(source)).unwrap() {
            let folder = entry.unwrap().path();
            if !folder.is_dir() {
                continue;
            }
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            for (_, code) in sources(&folder) {
                let code = code.split("#[cfg(test)]").next().unwrap().to_owned();
                let targets = code.match_indices("crate::").map(|(at, _)| {
                    code[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
                });
                imports.entry(name.clone()).or_default().extend(targets);
            }
        }
        for (folder, targets) in &imports {
            for target in targets.iter().filter(|target| *target != folder) {
                let back = imports.get(target).is_some_and(|back| back.contains(folder));
                assert!(!back, "{source}: {folder} and {target} import each other");
            }
        }
    }
}
