//! What users may be admitted by a limit that all regions share, and whether they were admitted more.

use std::collections::BTreeMap;

use crate::users::{Answer, Outcome};

/// After so long, every region knows what another one admitted, if nothing is cut: the longest delay, an interval, and
/// what a busy machine adds.
const STALENESS_MS: u64 = 2000;
/// The weights in `deploy/regions/*/config.yaml`.
const WEIGHTS: [u64; 3] = [2, 1, 1];

/// What a limit promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// `strategy: gossip`, with its `on_partition`.
    Open,
    Share,
    Deny,
    /// `strategy: escrow`.
    Escrow,
}

/// A limit of the test. A user whose name begins with the name of the limit has it.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub name: &'static str,
    pub limit: u64,
    pub window_s: u64,
    pub promise: Promise,
    pub consistency: &'static str,
}

impl Limit {
    /// The line of the limit in a rule file.
    pub fn rule(&self) -> String {
        let Self { name, limit, window_s, promise, consistency } = self;
        let global = match promise {
            Promise::Open => "{ strategy: gossip, on_partition: open }",
            Promise::Share => "{ strategy: gossip, on_partition: share }",
            Promise::Deny => "{ strategy: gossip, on_partition: deny }",
            Promise::Escrow => "{ strategy: escrow }",
        };
        format!(
            "{{ name: {name}, match: {{ user: {{ prefix: {name}. }} }}, per: [user], limit: {limit}, window: {window_s}s, \
             algorithm: fixed_window, consistency: {consistency}, scope: global, global: {global} }}"
        )
    }

    /// The most that a region counts and does not tell, with the usual `gossip.floor`.
    const fn floor(&self) -> u64 {
        self.limit.div_ceil(10) - 1
    }

    /// The weighted part of a region.
    pub const fn part(&self, region: usize) -> u64 {
        self.limit * WEIGHTS[region] / (WEIGHTS[0] + WEIGHTS[1] + WEIGHTS[2])
    }
}

/// A time in which regions do not hear each other, in milliseconds since the epoch.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub begin_ms: u64,
    /// Every node says that it is partitioned.
    pub noticed_ms: u64,
    pub end_ms: u64,
}

/// What was admitted in a window, and what may be at most.
#[derive(Debug)]
pub struct Used {
    pub window: u64,
    pub admitted: [u64; 3],
    pub bound: u64,
}

/// Compares what a user was admitted in each window with the promise of the limit. Panics if it was more.
pub fn judge(limit: &Limit, user: &str, answers: &[Answer], cut: Option<Cut>) -> Vec<Used> {
    let admitted = answers.iter().filter(|answer| &*answer.user == user && answer.outcome == Outcome::Admitted);
    let mut windows: BTreeMap<u64, Vec<&Answer>> = BTreeMap::new();
    for answer in admitted {
        let window = |at_ms: u64| at_ms / (limit.window_s * 1000);
        // An answer around a turn may count in either window: it is left out, which is in favour of the regions.
        if window(answer.sent_ms) == window(answer.answered_ms) {
            windows.entry(window(answer.sent_ms)).or_default().push(answer);
        }
    }
    let used = windows.into_iter().map(|(window, admitted)| judge_window(limit, user, window, &admitted, cut));
    used.collect()
}

fn judge_window(limit: &Limit, user: &str, window: u64, admitted: &[&Answer], cut: Option<Cut>) -> Used {
    let by_region = count(admitted.iter().copied());
    let total: u64 = by_region.iter().sum();
    let begin_ms = window * limit.window_s * 1000;
    // In a window that began after the cut was noticed and has answers from before its end only.
    let within = cut
        .is_some_and(|cut| cut.noticed_ms < begin_ms && admitted.iter().all(|answer| answer.answered_ms < cut.end_ms));
    let bound = match limit.promise {
        Promise::Escrow => limit.limit,
        Promise::Open if cut.is_some() => 3 * limit.limit,
        Promise::Share if within => (0..3).map(|region| limit.part(region)).sum(),
        _ => {
            // What a region may not have known of the others: what they admitted since the cut, until it noticed that,
            // or just before the limit was reached.
            let reached_ms = nth_admitted_ms(admitted, limit.limit);
            let unseen = admitted.iter().copied().filter(|answer| {
                let near_end = reached_ms.is_some_and(|reached_ms| {
                    answer.answered_ms + STALENESS_MS > reached_ms && cut.is_none_or(|cut| reached_ms < cut.noticed_ms)
                });
                let in_cut = cut.is_some_and(|cut| {
                    answer.answered_ms + STALENESS_MS > cut.begin_ms && answer.sent_ms < cut.noticed_ms
                });
                near_end || in_cut
            });
            let mut unseen = count(unseen);
            for (unseen, admitted) in unseen.iter_mut().zip(by_region) {
                // What a region does not tell because it is too little.
                *unseen = (*unseen).max(admitted.min(limit.floor()));
            }
            let all: u64 = unseen.iter().sum();
            limit.limit + unseen.iter().map(|own| all - own).max().unwrap_or(0)
        }
    };
    assert!(
        total <= bound,
        "{user} was admitted {by_region:?} in window {window}, and may be admitted {bound}: {cut:?}"
    );
    if let Some(cut) = cut {
        let during = admitted
            .iter()
            .copied()
            .filter(|answer| answer.sent_ms > cut.noticed_ms && answer.answered_ms < cut.end_ms);
        let by_region = count(during);
        match limit.promise {
            Promise::Deny => assert_eq!(by_region, [0; 3], "{user}: during a partition"),
            Promise::Share if within => {
                for (region, admitted) in by_region.into_iter().enumerate() {
                    let part = limit.part(region);
                    assert!(admitted <= part, "{user}: region {region} admitted {admitted} of its part of {part}");
                }
            }
            _ => {}
        }
    }
    Used { window, admitted: by_region, bound }
}

/// The admitted requests of each region.
fn count<'a>(admitted: impl Iterator<Item = &'a Answer>) -> [u64; 3] {
    admitted.fold([0; 3], |mut all, answer| {
        all[answer.region] += 1;
        all
    })
}

/// When this many requests were admitted.
fn nth_admitted_ms(admitted: &[&Answer], count: u64) -> Option<u64> {
    let mut times: Vec<u64> = admitted.iter().map(|answer| answer.answered_ms).collect();
    times.sort_unstable();
    times.get(usize::try_from(count).ok()?.checked_sub(1)?).copied()
}

#[test]
fn more_than_a_promise_is_found() {
    let judged = |promise, admitted: [u64; 3]| {
        let limit = Limit { name: "l", limit: 60, window_s: 20, promise, consistency: "exact" };
        let of = |(region, count): (usize, u64)| {
            (0..count).map(move |n| Answer {
                user: "l.u".into(),
                region,
                sent_ms: 25_000 + 10 * n,
                answered_ms: 25_005 + 10 * n,
                outcome: Outcome::Admitted,
            })
        };
        let answers: Vec<Answer> = admitted.into_iter().enumerate().flat_map(of).collect();
        let cut = Cut { begin_ms: 10_000, noticed_ms: 12_000, end_ms: 60_000 };
        std::panic::catch_unwind(|| judge(&limit, "l.u", &answers, Some(cut))).is_ok()
    };
    assert!(judged(Promise::Share, [30, 15, 15]) && !judged(Promise::Share, [29, 16, 15]));
    assert!(judged(Promise::Escrow, [0, 0, 60]) && !judged(Promise::Escrow, [30, 15, 16]));
    assert!(judged(Promise::Deny, [0; 3]) && !judged(Promise::Deny, [0, 1, 0]));
}
