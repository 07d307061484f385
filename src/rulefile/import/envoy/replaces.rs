//! `replaces`: a limit names others of the same domain, which do not apply to a request that it applies to.

use super::super::Report;
use limiter::rules::{Limit, Mode, Path};

/// What the file says about the replacements of a limit.
pub struct Named<'e> {
    pub name: Option<&'e str>,
    /// Each name with its place.
    pub replaces: &'e [(String, Path)],
}

/// Sets the `replaces` of `limits`. `named` has an entry for each of them.
pub fn resolve(limits: &mut [Limit], named: &[Named<'_>], report: &mut Report) {
    for at in 0..limits.len() {
        for (name, path) in named[at].replaces {
            if limits[at].mode == Mode::Shadow {
                report.notice(path, "is not carried over: a limit in mode: shadow replaces nothing here");
                continue;
            }
            let replaced: Vec<usize> =
                (0..limits.len()).filter(|other| named[*other].name == Some(name.as_str())).collect();
            if replaced.is_empty() {
                report.notice(path, "has no effect: no rate_limit that is carried over has this name");
            }
            for other in replaced {
                let other = limits[other].name.clone();
                if leads_to(limits, &other, &limits[at].name) {
                    let message =
                        format!("is not carried over: {other} comes to replace this limit, and a cycle is invalid");
                    report.notice(path, message);
                } else if !limits[at].replaces.contains(&other) {
                    limits[at].replaces.push(other);
                }
            }
        }
    }
}

/// True if the limit `from`, or what it replaces, comes to replace the limit `to`.
fn leads_to(limits: &[Limit], from: &str, to: &str) -> bool {
    let mut reached = vec![from];
    let mut next = 0;
    while let Some(name) = reached.get(next).copied() {
        next += 1;
        for replaced in limits.iter().filter(|limit| limit.name == name).flat_map(|limit| &limit.replaces) {
            if !reached.contains(&replaced.as_str()) {
                reached.push(replaced);
            }
        }
    }
    reached.contains(&to)
}
