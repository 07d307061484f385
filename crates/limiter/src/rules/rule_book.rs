//! The rule book: rules compiled under one revision. One book decides a check entirely.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use super::attribute::Attribute;
use super::counter_names::CounterNames;
use super::counter_prefixes::CounterPrefixes;
use super::effective::{EffectiveLimit, counter_digest};
use super::matcher::{Found, MatchTable, Matcher, Subject};
use super::path::Path;
use super::problem::Problem;
use super::rule::{Algorithm, Charge, Domain, Identity, Limit, Mode, OnIdentityFailure, Quota, Rules, Unmatched};
use super::rule_map::RuleMap;
use super::validate::validate;
use super::work::{APPLIED, BYTES_PER_STEP, MAX_WORK, REPLACED, USUAL_VALUES};
use crate::check::{Check, Descriptor};
use crate::revision::Revision;

/// The longest name that is shown for the limit of a descriptor, in bytes.
const MAX_SHOWN_NAME: usize = 120;

/// Compiled rules. They are immutable: an edit makes a new book with a higher revision.
#[derive(Debug)]
pub struct RuleBook {
    pub revision: Revision,
    /// SHA-256 of the rules. Equal hashes mean equal rules (I6).
    pub hash: [u8; 32],
    rules: Arc<Rules>,
    domains: RuleMap<Box<str>, DomainBook>,
    prefixes: CounterPrefixes,
}

#[derive(Debug)]
struct DomainBook {
    name: Arc<str>,
    charge: Charge,
    default: Unmatched,
    identity: IdentityTerms,
    table: MatchTable,
    limits: Vec<LimitBook>,
}

#[derive(Debug)]
struct LimitBook {
    names: CounterNames,
    base: Arc<EffectiveLimit>,
    /// Those of the overrides, and how each is matched.
    overrides: Vec<Arc<EffectiveLimit>>,
    override_table: MatchTable,
    /// Positions of the limits that this one replaces.
    replaces: Vec<u32>,
}

/// The limits that apply to a check. Few need no allocation.
pub type ApplicableLimits<'b> = SmallVec<[ApplicableLimit<'b>; 4]>;

/// A limit that applies to a descriptor of a check.
#[derive(Clone, Debug)]
pub struct ApplicableLimit<'b> {
    /// The position of the descriptor in the check.
    pub descriptor: usize,
    pub effective: &'b Arc<EffectiveLimit>,
    names: &'b CounterNames,
    place: u32,
}

impl ApplicableLimit<'_> {
    /// Writes the name of the counter that counts `descriptor` into `out`, with a hash of its values if `hash` is true.
    pub fn key(&self, descriptor: &Descriptor<'_>, hash: bool, out: &mut Vec<u8>) {
        self.names.write(self.effective, descriptor, hash, out);
    }
}

/// Where the identity of a domain's checks comes from, and the answer if an API key cannot be looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdentityTerms {
    pub identity: Identity,
    pub on_failure: OnIdentityFailure,
}

/// What the rules say about a whole domain.
#[derive(Clone, Copy, Debug)]
pub struct DomainTerms<'b> {
    /// The shared name.
    pub name: &'b Arc<str>,
    pub charge: Charge,
    pub default: Unmatched,
    /// The steps of the check. Beyond [`MAX_WORK`], the limits that apply are not known.
    pub work: usize,
}

impl DomainBook {
    /// Compiles the limits of a domain. The error says what was expected of them.
    fn compile(domain: &Domain, revision: Revision) -> Result<Self, String> {
        let name: Arc<str> = domain.domain.as_str().into();
        let live: Vec<&Limit> = domain.limits.iter().filter(|limit| can_apply(limit)).collect();
        let places: RuleMap<&str, u32> = live.iter().map(|limit| limit.name.as_str()).zip(0u32..).collect();
        let (mut matchers, mut limits) = (Vec::with_capacity(live.len()), Vec::with_capacity(live.len()));
        for limit in live {
            let per = limit.per.iter().map(|per| Attribute::parse(&per.attribute)).collect();
            matchers.push((Matcher::new(&limit.matches)?, per));
            let effective = |change| Arc::new(EffectiveLimit::new(&name, limit, change, revision));
            let of_overrides = limit.overrides.iter().map(|change| Ok((Matcher::new(&change.matches)?, Vec::new())));
            limits.push(LimitBook {
                names: CounterNames::new(&limit.per),
                base: effective(None),
                overrides: limit.overrides.iter().map(|change| effective(Some(change))).collect(),
                override_table: MatchTable::new(of_overrides.collect::<Result<_, String>>()?),
                replaces: limit.replaces.iter().filter_map(|name| places.get(name.as_str()).copied()).collect(),
            });
        }
        let table = MatchTable::new(matchers);
        let further: Vec<usize> = limits.iter().map(LimitBook::most_steps).collect();
        let most = table.most_steps(|place| further.get(place).copied().unwrap_or(0));
        if most > MAX_WORK {
            return Err(format!(
                "expected limits that cost one descriptor at most {MAX_WORK} steps, not {most}: fewer limits that may \
                 apply together, or cheaper conditions"
            ));
        }
        let Domain { charge, default, identity, on_identity_failure, .. } = *domain;
        let identity = IdentityTerms { identity, on_failure: on_identity_failure };
        Ok(Self { name, charge, default, identity, table, limits })
    }
}

impl LimitBook {
    /// The steps if the limit applies, without those of its overrides.
    fn steps(&self) -> usize {
        APPLIED + self.replaces.len() * REPLACED
    }

    /// At least the steps that the limit can take if it applies.
    fn most_steps(&self) -> usize {
        self.steps() + self.override_table.most_steps(|_| 0)
    }
}

/// The changes between two books, as `domain/limit`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
}

impl RuleBook {
    /// Compiles all of `rules`, or none.
    pub fn compile(rules: Arc<Rules>, revision: Revision) -> Result<Self, Vec<Problem>> {
        let problems = validate(&rules);
        if !problems.is_empty() {
            return Err(problems);
        }
        let (prefixes, mut problems) = counter_prefixes(&rules);
        let mut domains = RuleMap::default();
        for (at, domain) in rules.domains.iter().enumerate() {
            match DomainBook::compile(domain, revision) {
                Ok(book) => drop(domains.insert(domain.domain.as_str().into(), book)),
                Err(message) => {
                    let path = Path::default().field("domains").index(at).field("limits");
                    problems.push(Problem { path, message });
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let hash = Sha256::digest(serde_json::to_vec(&*rules).unwrap_or_default()).into();
        Ok(Self { revision, hash, rules, domains, prefixes })
    }

    /// A book without rules, at [`Revision::NONE`].
    pub fn empty() -> Self {
        Self {
            revision: Revision::NONE,
            hash: [0; 32],
            rules: Arc::default(),
            domains: RuleMap::default(),
            prefixes: CounterPrefixes::default(),
        }
    }

    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// True if a domain takes the identity of checks from API keys.
    pub fn uses_api_keys(&self) -> bool {
        self.rules.domains.iter().any(|domain| domain.identity != Identity::Caller)
    }

    /// Where the identity of the checks of a domain comes from.
    pub fn identity(&self, domain: &str) -> IdentityTerms {
        self.domains.get(domain).map_or_else(IdentityTerms::default, |domain| domain.identity)
    }

    /// The shared name of a domain; `None` if no rule has it.
    pub fn domain(&self, name: &str) -> Option<&Arc<str>> {
        self.domains.get(name).map(|d| &d.name)
    }

    /// Sets `out` to every limit that applies to the check, by descriptor and then in book order, without replaced
    /// limits. It is empty if the check is too much work. Returns what holds for the whole domain; `None` if no rule
    /// has the domain.
    pub fn applicable<'b>(&'b self, check: &Check<'_>, out: &mut ApplicableLimits<'b>) -> Option<DomainTerms<'b>> {
        out.clear();
        let book = self.domains.get(check.domain)?;
        let mut work = 0;
        let (mut found, mut changes) = (Found::new(), Found::new());
        for (position, descriptor) in check.descriptors.iter().enumerate() {
            let subject = Subject::new(check.domain, descriptor);
            let is_long = descriptor.entries.iter().map(|(_, value)| value.len()).sum::<usize>() > USUAL_VALUES;
            book.table.matching(&subject, &mut found, &mut work);
            for place in &found {
                let limit = &book.limits[*place as usize];
                work += limit.steps();
                if is_long {
                    work += limit.names.bytes(descriptor) / BYTES_PER_STEP;
                }
                let mut effective = &limit.base;
                // Most limits have none.
                if !limit.overrides.is_empty() {
                    let change = limit.override_table.first(&subject, &mut changes, &mut work);
                    effective = change.map_or(effective, |at| &limit.overrides[at]);
                }
                if effective.mode != Mode::Off {
                    out.push(ApplicableLimit { descriptor: position, effective, names: &limit.names, place: *place });
                }
            }
            if work > MAX_WORK {
                out.clear();
                break;
            }
        }
        let replaces = |applied: &ApplicableLimit<'_>| &book.limits[applied.place as usize].replaces;
        let enforced = || out.iter().filter(|a| a.effective.mode == Mode::Enforce);
        if enforced().any(|a| !replaces(a).is_empty()) {
            let replaced: BTreeSet<u32> = enforced().flat_map(|a| replaces(a).iter().copied()).collect();
            out.retain(|a| !replaced.contains(&a.place));
        }
        Some(DomainTerms { name: &book.name, charge: book.charge, default: book.default, work })
    }

    /// The effective limit of a descriptor that has its own (Envoy's `limit` field): a `fixed_window`. Its counter
    /// belongs to the entries of the descriptor and the window, so that another number of hits goes on with the same
    /// counter.
    pub(crate) fn descriptor_limit(&self, domain: &Arc<str>, descriptor: &Descriptor<'_>) -> Option<EffectiveLimit> {
        let (limit, period) = descriptor.limit.clone()?;
        let rule = Limit {
            // It names the counters. No limit of the rules can have it.
            name: "descriptor limit".to_owned(),
            matches: Default::default(),
            per: Vec::new(),
            limit: Quota::Hits(limit),
            period,
            algorithm: Algorithm::FixedWindow,
            cells: None,
            burst: None,
            consistency: None,
            scope: Default::default(),
            overdraft: false,
            on_store_failure: Default::default(),
            mode: Mode::Enforce,
            overrides: Vec::new(),
            replaces: Vec::new(),
            response_headers: BTreeMap::new(),
        };
        let name = descriptor_limit_name(descriptor).into();
        let effective = EffectiveLimit::new(domain, &rule, None, self.revision);
        let mut prefix = effective.key_prefix.to_vec();
        if self.prefixes.contains(&prefix) {
            // No counter of the rules has this character after its prefix.
            prefix.push(b'+');
        }
        Some(EffectiveLimit { name, from_request: true, key_prefix: prefix.into(), ..effective })
    }

    /// The changes of an edit from `self` to `next`.
    pub fn diff(&self, next: &Self) -> Diff {
        let (old, new) = (self.by_name(), next.by_name());
        Diff {
            added: new.keys().filter(|name| !old.contains_key(*name)).cloned().collect(),
            removed: old.keys().filter(|name| !new.contains_key(*name)).cloned().collect(),
            changed: new.iter().filter(|(n, l)| old.get(*n).is_some_and(|o| o != *l)).map(|(n, _)| n.clone()).collect(),
        }
    }

    fn by_name(&self) -> BTreeMap<String, &Limit> {
        let domains = self.rules.domains.iter();
        domains.flat_map(|d| d.limits.iter().map(move |l| (format!("{}/{}", d.domain, l.name), l))).collect()
    }
}

/// True if a limit can ever apply. An override may switch on a limit that is off.
fn can_apply(limit: &Limit) -> bool {
    limit.mode != Mode::Off || limit.overrides.iter().any(|c| c.mode.is_some_and(|m| m != Mode::Off))
}

/// The prefixes of the counters of all limits that can ever apply, and the limits whose prefix another one has.
fn counter_prefixes(rules: &Rules) -> (CounterPrefixes, Vec<Problem>) {
    let (mut prefixes, mut problems) = (CounterPrefixes::default(), Vec::new());
    for (place, domain) in rules.domains.iter().enumerate() {
        for (at, limit) in domain.limits.iter().enumerate().filter(|(_, limit)| can_apply(limit)) {
            let mut changes = std::iter::once(None).chain(limit.overrides.iter().map(Some));
            let mut add = |change| prefixes.add(counter_digest(&domain.domain, limit, change), (place, at));
            if let Err((other, with)) = changes.try_for_each(&mut add) {
                let other = &rules.domains[other];
                let path = Path::default().field("domains").index(place).field("limits").index(at).field("name");
                let message = format!(
                    "expected another name: the counters of this limit would be those of {}/{}",
                    other.domain, other.limits[with].name
                );
                problems.push(Problem { path, message });
            }
        }
    }
    (prefixes, problems)
}

/// The name that answers show for the limit of a descriptor: `descriptor-limit` and the keys of its entries. Gateways
/// write it into headers, so it has plain characters only.
fn descriptor_limit_name(descriptor: &Descriptor<'_>) -> String {
    let mut name = "descriptor-limit".to_owned();
    for (key, _) in descriptor.entries {
        if name.len() + 1 + key.len() > MAX_SHOWN_NAME {
            break;
        }
        name.push('/');
        name.extend(key.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' }));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Period;

    /// The book of one limit for each user of the domain `api`.
    fn book() -> RuleBook {
        let limit = Limit {
            name: "each-user".to_owned(),
            matches: Default::default(),
            per: vec!["user".into()],
            limit: Quota::Hits(5),
            period: Period::Window { ms: 1000 },
            algorithm: Algorithm::default(),
            cells: None,
            burst: None,
            consistency: None,
            scope: Default::default(),
            overdraft: false,
            on_store_failure: Default::default(),
            mode: Mode::Enforce,
            overrides: Vec::new(),
            replaces: Vec::new(),
            response_headers: BTreeMap::new(),
        };
        let domain = Domain { domain: "api".to_owned(), limits: vec![limit], ..Domain::default() };
        RuleBook::compile(Arc::new(Rules { domains: vec![domain] }), Revision(1)).unwrap()
    }

    #[test]
    fn a_book_knows_the_domains_of_its_rules() {
        let book = book();
        assert_eq!(book.domain("api").map(|name| &**name), Some("api"));
        assert_eq!(book.domain("web"), None);
    }

    #[test]
    fn a_check_takes_steps_for_long_values() {
        let book = book();
        let work = |bytes: usize| {
            let value = "u".repeat(bytes);
            let entries = [("user", value.as_str())];
            let descriptors =
                [Descriptor { entries: &entries, ordered: true, hits: 1, charging: Default::default(), limit: None }];
            let check = Check { domain: "api", descriptors: &descriptors };
            book.applicable(&check, &mut ApplicableLimits::new()).unwrap().work
        };
        // 10 for the limit, 2 for its attribute, and 90 because it applies.
        assert_eq!((work(1), work(1024)), (102, 102));
        assert_eq!(work(1025), 102 + 85, "12 bytes of a long value take a step");
    }
}
