//! Validates rules, and finds every error at once: its path, and what was expected there.
//!
//! Every source of rules uses this. Rule files are the only source today.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::attribute::Attribute;
use super::calendar;
use super::headers::check_headers;
use super::matcher::{check_condition, check_expression};
use super::path::Path;
use super::per::Prefixes;
use super::problem::{Problem, Problems};
use super::rule::{
    Algorithm, Consistency, Domain, GlobalStrategy, Limit, MAX_REFILL_MS, MAX_WINDOW_MS, MIN_WINDOW_MS, Match, Mode,
    Override, Period, Quota, Rules, Scope,
};
use crate::counter::MAX_LIMIT;

/// Returns every error of `rules`. They can be compiled if there is none.
pub fn validate(rules: &Rules) -> Vec<Problem> {
    let mut found = Problems::default();
    let root = Path::default().field("domains");
    let mut names = HashSet::new();
    for (at, domain) in rules.domains.iter().enumerate() {
        let path = root.index(at);
        let name = path.field("domain");
        found.expect(!domain.domain.is_empty() && domain.domain.len() <= 256, &name, "expected 1 to 256 bytes");
        found.expect(names.insert(&domain.domain), &name, "expected a domain that no other entry has");
        check_domain(domain, &path.field("limits"), &mut found);
    }
    found.all
}

fn check_domain(domain: &Domain, path: &Path, found: &mut Problems) {
    let mut index_of = HashMap::new();
    for (at, limit) in domain.limits.iter().enumerate() {
        let name = path.index(at).field("name");
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let fits = (1..=64).contains(&limit.name.len()) && limit.name.bytes().all(plain);
        found.expect(fits, &name, "expected 1 to 64 of a-z, 0-9, _ and -");
        let first = index_of.insert(limit.name.as_str(), at).is_none();
        found.expect(first, &name, "expected a name that no other limit of the domain has");
    }
    for (at, limit) in domain.limits.iter().enumerate() {
        check_limit(limit, &path.index(at), found);
        for (place, name) in limit.replaces.iter().enumerate() {
            let path = path.index(at).field("replaces").index(place);
            let known = index_of.contains_key(name.as_str());
            found.expect(known, &path, &format!("expected the name of a limit of this domain, not {name:?}"));
        }
    }
    for at in replacement_cycles(&domain.limits, &index_of) {
        found.expect(
            false,
            &path.index(at).field("replaces"),
            "expected no cycle: a limit that this one replaces comes to replace it",
        );
    }
}

/// The limits whose `replaces` closes a cycle. Visits each limit once, depth first.
fn replacement_cycles(limits: &[Limit], index_of: &HashMap<&str, usize>) -> Vec<usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum Visit {
        Unknown,
        Open,
        Done,
    }
    let mut visits = vec![Visit::Unknown; limits.len()];
    let mut cycles = BTreeSet::new();
    for start in 0..limits.len() {
        // Limits that are being visited, each with the position of the next one that it replaces.
        let mut path = vec![(start, 0)];
        while let Some((at, next)) = path.pop() {
            if next == 0 && visits[at] != Visit::Unknown {
                continue;
            }
            visits[at] = Visit::Open;
            let Some(name) = limits[at].replaces.get(next) else {
                visits[at] = Visit::Done;
                continue;
            };
            path.push((at, next + 1));
            match index_of.get(name.as_str()) {
                Some(replaced) if visits[*replaced] == Visit::Open => drop(cycles.insert(at)),
                Some(replaced) => path.push((*replaced, 0)),
                None => {}
            }
        }
    }
    cycles.into_iter().collect()
}

fn check_limit(limit: &Limit, path: &Path, found: &mut Problems) {
    check_match(&limit.matches, path, found);
    check_per(limit, path, found);
    check_quota(limit.limit, &path.field("limit"), found);
    check_period(limit, path, found);

    let bucket = limit.algorithm == Algorithm::TokenBucket;
    if let Some(cells) = limit.cells {
        let path = path.field("cells");
        found.expect(limit.algorithm == Algorithm::RollingWindow, &path, "expected only with rolling_window");
        found.expect((2..=20).contains(&cells), &path, "expected 2 to 20");
    }
    let leased = limit.consistency == Some(Consistency::Leased);
    found.expect(!(bucket && leased), &path.field("consistency"), "expected exact: a token_bucket takes no leases");
    check_scope(limit, path, found);
    check_burst(limit, limit.limit, limit.burst, &path.field("burst"), found);
    check_headers(&limit.response_headers, &path.field("response_headers"), found);
    for (at, change) in limit.overrides.iter().enumerate() {
        check_override(limit, change, &path.field("overrides").index(at), found);
    }
}

fn check_scope(limit: &Limit, path: &Path, found: &mut Problems) {
    let Scope::Global(strategy) = limit.scope else { return };
    let bucket = limit.algorithm == Algorithm::TokenBucket;
    let windowed = matches!(limit.period, Period::Window { .. });
    found.expect(!bucket, &path.field("scope"), "expected region: a token_bucket cannot be global");
    let strategy_path = path.field("global").field("strategy");
    match strategy {
        GlobalStrategy::Gossip { .. } => {
            found.expect(windowed, &strategy_path, "expected escrow: gossip does not support a calendar");
        }
        GlobalStrategy::Escrow => {
            let fixed = !windowed || limit.algorithm == Algorithm::FixedWindow || bucket;
            found.expect(fixed, &strategy_path, "expected gossip: escrow supports only fixed_window and calendar");
        }
    }
}

fn check_per(limit: &Limit, path: &Path, found: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (at, per) in limit.per.iter().enumerate() {
        let path = path.field("per").index(at);
        let name = &per.attribute;
        found.expect(!name.is_empty(), &path, "expected an attribute name");
        let once =
            format!("expected an attribute name that occurs once: {name}#2 is a second entry with the key {name}");
        found.expect(seen.insert(Attribute::parse(name)), &path, &once);
        if let Some(Prefixes { v4, v6 }) = per.prefixes {
            let path = path.field(name);
            found.expect(v4 <= Prefixes::MAX.v4, &path.field("v4"), "expected 0 to 32 bits");
            found.expect(v6 <= Prefixes::MAX.v6, &path.field("v6"), "expected 0 to 128 bits");
        }
    }
}

fn check_override(limit: &Limit, change: &Override, path: &Path, found: &mut Problems) {
    check_match(&change.matches, path, found);
    let Override { limit: quota, burst, mode, on_store_failure, response_headers, .. } = change;
    let changes = quota.is_some() || burst.is_some() || mode.is_some() || on_store_failure.is_some();
    let expected = "expected one of limit, burst, mode, on_store_failure, response_headers";
    found.expect(changes || response_headers.is_some(), path, expected);
    if let Some(quota) = quota {
        check_quota(*quota, &path.field("limit"), found);
    }
    let off = *mode == Some(Mode::Off);
    let mode_allowed = limit.replaces.is_empty() || !off;
    found.expect(mode_allowed, &path.field("mode"), "expected enforce or shadow where the limit has `replaces`");
    let burst = burst.or(if quota.is_some() { None } else { limit.burst });
    check_burst(limit, quota.unwrap_or(limit.limit), burst, &path.field("burst"), found);
    if let Some(headers) = response_headers {
        check_headers(headers, &path.field("response_headers"), found);
    }
}

fn check_match(matches: &Match, path: &Path, found: &mut Problems) {
    for (key, condition) in &matches.conditions {
        let result = check_condition(condition, &mut found.patterns);
        found.check(result, &path.field("match").field(key));
    }
    if let Some(keys) = &matches.exact_keys {
        let fits = !keys.is_empty() && keys.iter().all(|k| !k.is_empty());
        found.expect(fits, &path.field("exact_keys"), "expected at least one attribute name");
        for (at, key) in keys.iter().enumerate() {
            let bare = Attribute::parse(key);
            let message = format!("expected a key without a position: write {} once for each entry", bare.key);
            found.expect(*bare.key == **key, &path.field("exact_keys").index(at), &message);
        }
    }
    if let Some(when) = &matches.when {
        let result = check_expression(when, &mut found.patterns);
        found.check(result, &path.field("when"));
    }
}

fn check_quota(quota: Quota, path: &Path, found: &mut Problems) {
    if let Quota::Hits(hits) = quota {
        found.expect(hits <= MAX_LIMIT, path, &format!("expected 0 to {MAX_LIMIT}, or unlimited"));
    }
}

fn check_period(limit: &Limit, path: &Path, found: &mut Problems) {
    match &limit.period {
        Period::Window { ms } => {
            let fits = (MIN_WINDOW_MS..=MAX_WINDOW_MS).contains(ms);
            found.expect(fits, &path.field("window"), "expected 250ms to 400d");
        }
        Period::Calendar { time_zone, .. } => {
            let fixed = limit.algorithm == Algorithm::FixedWindow;
            found.expect(fixed, &path.field("calendar"), "expected only with algorithm: fixed_window");
            let message = format!("expected an IANA time zone such as Europe/Paris, not {time_zone:?}");
            found.expect(calendar::zone(time_zone).is_some(), &path.field("time_zone"), &message);
        }
    }
}

fn check_burst(limit: &Limit, quota: Quota, burst: Option<u64>, path: &Path, found: &mut Problems) {
    let Some(burst) = burst else { return };
    if limit.algorithm != Algorithm::TokenBucket {
        found.expect(false, path, "expected only with token_bucket");
        return;
    }
    found.expect((1..=MAX_LIMIT).contains(&burst), path, &format!("expected 1 to {MAX_LIMIT}"));
    if let (Quota::Hits(hits @ 1..), Period::Window { ms }) = (quota, &limit.period) {
        let refill_ms = u128::from(burst) * u128::from(*ms) / u128::from(hits);
        let fits = refill_ms <= u128::from(MAX_REFILL_MS);
        found.expect(fits, path, "expected a burst that refills within 3650 days");
    }
}
