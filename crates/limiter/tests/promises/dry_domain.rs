//! One domain on an empty store: checks at chosen instants, and what their answers say.

use std::sync::Arc;

use limiter::rules::{Domain, Limit, RuleBook, Rules};
use limiter::{Charging, Check, Decision, Descriptor, DryRun, LimitStatus, Revision, StoreTime};

/// The first instant of 14 November 2023 in UTC: a window whose length divides a day begins then.
pub const MIDNIGHT: StoreTime = StoreTime(1_699_920_000_000_000);
pub const SECOND_US: u64 = 1_000_000;

/// The entries of a descriptor.
pub type Entries<'e> = &'e [(&'e str, &'e str)];

/// One domain, whose counters are empty at [`MIDNIGHT`].
pub struct DryDomain(DryRun);

impl DryDomain {
    pub fn new(domain: Domain) -> Self {
        let rules = Rules { domains: vec![Domain { domain: "d".to_owned(), ..domain }] };
        let book = RuleBook::compile(Arc::new(rules), Revision(1)).unwrap();
        Self(DryRun::new(Arc::new(book), MIDNIGHT))
    }

    /// A domain with these limits, and the defaults for everything else.
    pub fn with_limits(limits: Vec<Limit>) -> Self {
        Self::new(Domain { limits, ..Domain::default() })
    }

    /// Decides a check that asks for `hits` of each descriptor, `at` microseconds after midnight.
    pub fn check(&mut self, at: u64, hits: u32, descriptors: &[Entries<'_>]) -> Decision {
        let asked = descriptors.iter().map(|entries| (*entries, hits)).collect::<Vec<_>>();
        self.check_hits(at, &asked)
    }

    /// Decides a check whose descriptors ask for different numbers of hits.
    pub fn check_hits(&mut self, at: u64, descriptors: &[(Entries<'_>, u32)]) -> Decision {
        let descriptors = descriptors.iter().map(|(entries, hits)| Descriptor {
            entries,
            ordered: true,
            hits: *hits,
            charging: Charging::IfAllowed,
            limit: None,
        });
        let descriptors: Vec<Descriptor<'_>> = descriptors.collect();
        self.0.check(&Check { domain: "d", descriptors: &descriptors }, at).unwrap()
    }
}

/// Each limit of an answer as a text: the position of its descriptor, its name, `left/limit`, and its verdict.
pub fn told(decision: &Decision) -> Vec<String> {
    let number = |hits: Option<u64>| hits.map_or_else(|| "unlimited".to_owned(), |hits| hits.to_string());
    let line = |limit: &LimitStatus| {
        let verdict = match (limit.denied, limit.shadow) {
            (true, false) => " denies",
            (true, true) => " would deny",
            (false, _) => "",
        };
        let (left, of) = (number(limit.remaining), number(limit.limit()));
        format!("{} {} {left}/{of}{verdict}", limit.descriptor, limit.effective.name)
    };
    decision.limits.iter().map(line).collect()
}
