//! Reads the settings of `serve` from all sources: a file, the environment, and flags.

use std::path::{Path, PathBuf};

use super::{Exit, Output, output};
use crate::config::overlay::Setting;
#[cfg(feature = "cluster")]
use crate::config::plane::Postgres;
#[cfg(feature = "cluster")]
use crate::config::settings::read_postgres;
use crate::config::settings::{ConfigError, InvalidSettings, Settings};
use crate::host::machine;
use crate::rulefile::watch::{self, load};
use crate::yaml::tree::{Node, Value};
use limiter::Revision;

/// Reads all sources of settings, and prints every error of all of them: as JSON too, if `output` says so.
pub fn read(config: Option<&Path>, flags: impl Iterator<Item = Setting>, output: Output) -> Result<Settings, Exit> {
    let text = text(config)?;
    let name = config.map(|path| path.display().to_string());
    let (mut settings, mut invalid) = environment();
    match redis_cluster(&settings) {
        Ok(setting) => settings.extend(setting),
        Err(error) => {
            eprintln!("{error}");
            invalid = true;
        }
    }
    if has_cluster(text.as_deref(), &settings) {
        let database = database_variables(&settings);
        settings.extend(database);
    }
    settings.extend(flags);
    match Settings::read(name.as_deref().zip(text.as_deref()), settings, &machine::host()) {
        Ok(settings) if !invalid => Ok(settings),
        read => {
            let none = InvalidSettings { errors: Vec::new(), rules: PathBuf::new() };
            Err(print(&read.err().unwrap_or(none), output))
        }
    }
}

/// Reads the section `postgres` of all sources. Other sections may be missing or invalid. Prints every error.
#[cfg(feature = "cluster")]
pub fn postgres(config: Option<&Path>, output: Output) -> Result<Postgres, Exit> {
    let text = text(config)?;
    let name = config.map(|path| path.display().to_string());
    let (mut settings, invalid) = environment();
    let database = database_variables(&settings);
    settings.extend(database);
    match read_postgres(name.as_deref().zip(text.as_deref()), settings) {
        Ok(_) if invalid => Err(Exit::BadConfiguration),
        read => read.map_err(|invalid| print(&invalid, output)),
    }
}

fn text(config: Option<&Path>) -> Result<Option<String>, Exit> {
    config.map(watch::read).transpose().map_err(|invalid| {
        eprintln!("{invalid}");
        Exit::BadConfiguration
    })
}

/// The settings of environment variables. True if one of them is not UTF-8, which is printed.
fn environment() -> (Vec<Setting>, bool) {
    let (mut settings, mut invalid) = (Vec::new(), false);
    for (key, value) in std::env::vars_os() {
        let Some(key) = key.to_str().map(ToOwned::to_owned) else { continue };
        let Some(value) = value.to_str() else {
            if Setting::from_environment(&key, "").is_some() {
                eprintln!("{key}: expected UTF-8");
                invalid = true;
            }
            continue;
        };
        settings.extend(Setting::from_environment(&key, value));
    }
    (settings, invalid)
}

/// Prints every error.
fn print(invalid: &InvalidSettings, output: Output) -> Exit {
    let InvalidSettings { errors, rules } = invalid;
    errors.iter().for_each(|error| eprintln!("{error}"));
    let json = |e: &ConfigError| serde_json::json!({ "origin": e.origin, "field": e.field, "message": e.message });
    let mut errors: Vec<_> = errors.iter().map(json).collect();
    // The errors of the rules are shown at the same time.
    if let Some(invalid) = load(rules, Revision(1)).err().filter(|_| !rules.as_os_str().is_empty()) {
        eprintln!("{invalid}");
        errors.extend(invalid.errors());
    }
    output::wrong(output, &errors);
    Exit::BadConfiguration
}

/// The variable `REDIS_CLUSTER` of the user's document as `store.url`. Any other source of it takes precedence.
fn redis_cluster(settings: &[Setting]) -> Result<Option<Setting>, String> {
    let Ok(seeds) = std::env::var("REDIS_CLUSTER") else { return Ok(None) };
    if settings.iter().any(|setting| setting.path == ["store", "url"]) {
        return Ok(None);
    }
    let seeds: Vec<&str> = seeds.split(',').map(str::trim).filter(|seed| !seed.is_empty()).collect();
    let plain = |seed: &&str| seed.chars().all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c));
    if !seeds.iter().all(plain) {
        return Err("REDIS_CLUSTER: expected host:port, host:port and so on, or one DNS name".to_owned());
    }
    let Some((first, others)) = seeds.split_first() else { return Ok(None) };
    let others: Vec<String> = others.iter().map(|seed| format!("node={seed}")).collect();
    let text = format!("redis-cluster://{first}?{}", others.join("&"));
    Ok(Some(Setting { origin: "REDIS_CLUSTER".to_owned(), path: vec!["store".to_owned(), "url".to_owned()], text }))
}

/// The variables of the user's document for PostgreSQL. Any other source of the same setting takes precedence.
fn database_variables(settings: &[Setting]) -> Vec<Setting> {
    const VARIABLES: [(&str, &str); 3] =
        [("DB_HOST", "replica"), ("DB_USER", "user"), ("DB_PASSWORD_FILE", "password_file")];
    let variables = VARIABLES.into_iter().filter_map(|(variable, field)| {
        let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
        let path = vec!["postgres".to_owned(), field.to_owned()];
        let given = settings.iter().any(|setting| setting.path == path);
        (!given).then(|| Setting { origin: variable.to_owned(), path, text })
    });
    variables.collect()
}

/// True if a source has the section `cluster`. Without it, a node does not use PostgreSQL.
fn has_cluster(text: Option<&str>, settings: &[Setting]) -> bool {
    let in_file = || {
        let root = Node::parse(text?).ok()?;
        let Value::Map(entries) = &root.value else { return None };
        entries.iter().any(|(key, ..)| key == "cluster").then_some(())
    };
    settings.iter().any(|setting| setting.path.first().is_some_and(|first| first == "cluster")) || in_file().is_some()
}
