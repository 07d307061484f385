//! Texts that look like a pattern and are compared as they are, and conditions that an attribute never fits.
//!
//! Two attributes have one form in forward-auth, whatever the client sends: `host` and `path`. A caller of the other
//! interfaces may send another form. A rule that depends on that is warned of all the same.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Warnings;
use crate::rules::path::Path;
use crate::rules::rule::{Condition, Match};

/// Attributes of forward-auth and of Envoy that are no addresses.
const NO_ADDRESSES: [(&str, &str); 6] = [
    ("api_key", "it is a key"),
    ("masked_remote_address", "Envoy sends a network; remote_address is the address"),
    ("method", "it is a method"),
    ("path", "it is a path"),
    ("raw_path", "it is a path"),
    ("user_agent", "it is the name of a program"),
];

pub fn of_match(matches: &Match, path: &Path, found: &mut Warnings) {
    for (name, condition) in &matches.conditions {
        of_condition(name, condition, &path.field("match").field(name), found);
    }
}

fn of_condition(name: &str, condition: &Condition, path: &Path, found: &mut Warnings) {
    match condition {
        Condition::Equal(text) => of_text(name, text, path, found),
        Condition::AnyOf(all) => {
            for (at, text) in all.iter().enumerate() {
                of_text(name, text, &path.index(at), found);
            }
        }
        Condition::Prefix(text) if text.contains('*') || is_route(text) => {
            let message = format!("a prefix is compared as it is: for a pattern, write {}", pattern(text));
            found.add(&path.field("prefix"), message);
        }
        Condition::Suffix(text) if text.contains('*') => {
            found.add(
                &path.field("suffix"),
                format!("a suffix is compared as it is: for a pattern, write {{ glob: {text:?} }}"),
            );
        }
        Condition::Glob(text) if text.contains('{') => {
            let message = "a glob takes { as it is: write { route: … } for a path such as /a/{id}";
            found.add(&path.field("glob"), message);
        }
        Condition::Route(text) if text.split('/').any(|part| part.contains('*') && !part.starts_with("{*")) => {
            let message = "a route takes * as it is: {name} is one segment, and {*name} is the rest of the path";
            found.add(&path.field("route"), message);
        }
        Condition::Prefix(text) => of_form(name, text, true, &path.field("prefix"), found),
        Condition::Cidr(_) => {
            if let Some((_, why)) = NO_ADDRESSES.iter().find(|(known, _)| *known == name) {
                found.add(&path.field("cidr"), format!("{name} is never an address: {why}"));
            }
        }
        Condition::Not(inner) => of_condition(name, inner, &path.field("not"), found),
        _ => {}
    }
}

/// Warns of a text that is compared as it is, and that looks as if it were not.
fn of_text(name: &str, text: &str, path: &Path, found: &mut Warnings) {
    let is_regex = text.starts_with('^') || text.contains(".*") || text.contains(".+");
    let is_network = text.parse::<IpNet>().is_ok() && text.parse::<IpAddr>().is_err();
    let advice = match text {
        "*" | "**" => "for any value, write { present: true }".to_owned(),
        _ if is_regex => format!("for a regular expression, write {{ regex: {text:?} }}"),
        _ if text.contains('*') || is_route(text) => format!("for a pattern, write {}", pattern(text)),
        _ if is_network && name != "masked_remote_address" => format!("for a network, write {{ cidr: [{text:?}] }}"),
        _ => return of_form(name, text, false, path, found),
    };
    found.add(path, format!("{text:?} is compared as it is: {advice}"));
}

/// Warns of a host or a path that forward-auth never sends. `begins`: the text is only the beginning.
fn of_form(name: &str, text: &str, begins: bool, path: &Path, found: &mut Warnings) {
    let mut escapes = text.match_indices('%').filter_map(|(at, _)| text.get(at + 1..at + 3));
    // The other bytes of ASCII are decoded.
    let is_decoded = |hex: &str| {
        let byte = u8::from_str_radix(hex, 16).unwrap_or(u8::MAX);
        byte.is_ascii() && hex != "2F" && hex != "25"
    };
    let mut segments: Vec<&str> = text.split('/').collect();
    if begins {
        // The last segment may go on.
        segments.pop();
    }
    let has_port =
        || text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) && !text.ends_with(']');
    let form = match name {
        "host" if text.bytes().any(|byte| byte.is_ascii_uppercase()) => "hosts in lower case",
        "host" if !begins && text.ends_with('.') => "hosts without a final dot",
        "host" if !begins && has_port() && text.parse::<IpAddr>().is_err() => "hosts without a port",
        "path" if text.contains("//") => "paths with repeated slashes merged",
        "path" if segments.iter().any(|segment| matches!(*segment, "." | "..")) => "paths without . and .. segments",
        "path" if escapes.any(is_decoded) => "paths in which only %2F and %25 are encoded",
        _ => return,
    };
    found.add(path, format!("{text:?} never matches in forward-auth, which has {form}"));
}

/// True if a text looks like `/a/{id}`.
fn is_route(text: &str) -> bool {
    text.starts_with('/') && text.split_once('{').is_some_and(|(_, rest)| rest.contains('}'))
}

fn pattern(text: &str) -> String {
    if is_route(text) { format!("{{ route: {text:?} }}") } else { format!("{{ glob: {text:?} }}") }
}
