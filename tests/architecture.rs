//! The layers, read from the imports: what each room may use of ours, and what the core may use of others.

use std::fs;
use std::path::{Path, PathBuf};

/// A room and the rooms that it may import, itself apart.
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("limiter", &[]),
    ("ports", &["limiter"]),
    ("actors", &["limiter", "ports"]),
    ("telemetry", &["limiter"]),
    ("store", &["limiter", "ports", "telemetry"]),
    ("api", &["limiter", "ports", "telemetry"]),
    ("config", &["limiter", "ports", "telemetry"]),
    ("bench", &["api"]),
    ("simulations", &["limiter", "ports", "actors", "store"]),
    ("node", &["limiter", "ports", "telemetry", "actors", "store", "api"]),
    ("cli", &["limiter", "ports", "telemetry", "config", "api", "bench", "simulations", "node"]),
];

/// Crates that the core may use beside std: pure ones.
const CORE_CRATES: [&str; 13] = [
    "ahash",
    "cel",
    "hashbrown",
    "ipnet",
    "jiff",
    "proptest",
    "regex",
    "serde",
    "serde_json",
    "sha2",
    "smallvec",
    "std",
    "thiserror",
];

/// What the core must not name: clocks, randomness, threads, files, sockets.
const CORE_BANS: [&str; 8] = [
    "Instant::now",
    "SystemTime",
    "getrandom",
    "std::thread",
    "std::fs",
    "std::net::Tcp",
    "std::env",
    "RandomState::new",
];

fn sources(room: &str) -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // One room is beside the others.
    let mut todo = vec![src.join(room), src.join(format!("{room}.rs")), src.with_file_name(room)];
    todo.retain(|path| room == "simulations" || path.starts_with(&src));
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
    assert!(!found.is_empty(), "room {room} has no sources");
    found
}

#[test]
fn every_room_is_known() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let room = name.trim_end_matches(".rs");
        let known = ["main", "lib"].contains(&room) || MAY_IMPORT.iter().any(|(known, _)| *known == room);
        // A folder that git keeps nothing of is no room.
        let empty = !name.ends_with(".rs")
            && fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(&name)).unwrap().next().is_none();
        assert!(known || empty, "{name} is in no layer: say in this test what it may import");
    }
}

#[test]
fn no_room_imports_what_its_layer_does_not_allow() {
    for (room, allowed) in MAY_IMPORT {
        for (path, code) in sources(room) {
            for (at, _) in code.match_indices("crate::") {
                let target: String = code[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let fits = target == room || allowed.contains(&target.as_str());
                assert!(fits, "{} imports {target}, which {room} may not", path.display());
            }
        }
    }
}

#[test]
fn the_core_is_pure() {
    for (path, code) in sources("limiter") {
        for line in code.lines().map(str::trim).filter(|l| l.starts_with("use ")) {
            let root: String = line[4..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            // A capital begins a type of the file's own.
            let own_type = root.starts_with(char::is_uppercase);
            let ours = own_type || ["crate", "super", "self", "index"].contains(&root.as_str());
            assert!(ours || CORE_CRATES.contains(&root.as_str()), "{}: {line}", path.display());
        }
        // A crate may be named without being imported, too.
        let crates = include_str!("../Cargo.toml").split("dependencies]\n").skip(1).flat_map(|part| part.lines());
        let named = crates.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_"));
        for other in named.filter(|name| !CORE_CRATES.contains(&name.as_str())) {
            let own = |at: usize| code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            let used = code.match_indices(&format!("{other}::")).any(|(at, _)| !own(at));
            assert!(!used, "{} names {other}", path.display());
        }
        for ban in CORE_BANS {
            assert!(!code.contains(ban), "{} names {ban}", path.display());
        }
    }
}
