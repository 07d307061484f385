//! Denials that have not ended.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::Decision;

/// The longest key that is remembered, in bytes, and the most limits of its denial. They bound the memory.
const MAX_KEY: usize = 2048;
const MAX_LIMITS: usize = 20;

/// Remembers denials until they end. Of a full cache, the oldest denial leaves.
#[derive(Debug)]
pub(crate) struct Denials {
    most: usize,
    longest: Duration,
    by_key: HashMap<String, Denial>,
    /// Keys with the numbers of their denials, the oldest first. Those of replaced and ended denials may be among them.
    order: VecDeque<(u64, String)>,
    last: u64,
}

/// It covers every check of its key that asks for at least as many hits.
#[derive(Debug)]
struct Denial {
    number: u64,
    hits: u32,
    decision: Decision,
    at: Instant,
    end: Instant,
}

impl Denials {
    pub(crate) fn new(most: usize, longest: Duration) -> Self {
        Self { most, longest, by_key: HashMap::new(), order: VecDeque::new(), last: 0 }
    }

    /// Remembers a decision if it denies and says when asking again helps.
    pub(crate) fn add(&mut self, key: String, hits: u32, decision: &Decision, now: Instant) {
        let Some(wait) = decision.retry_after.filter(|wait| !wait.is_zero()) else { return };
        if decision.allowed || hits == 0 || self.most == 0 {
            return;
        }
        if key.len() > MAX_KEY || decision.limits.len() > MAX_LIMITS {
            return;
        }
        self.last += 1;
        let number = self.last;
        let end = now + wait.min(self.longest);
        self.order.push_back((number, key.clone()));
        self.by_key.insert(key, Denial { number, hits, decision: decision.clone(), at: now, end });
        while self.by_key.len() > self.most || self.order.len() > 2 * self.most {
            let Some((number, key)) = self.order.pop_front() else { break };
            if self.by_key.get(&key).is_some_and(|denial| denial.number == number) {
                self.by_key.remove(&key);
            }
        }
    }

    /// Returns the denial that covers a check, with its times as they are now.
    pub(crate) fn find(&mut self, key: &str, hits: u32, now: Instant) -> Option<Decision> {
        let denial = self.by_key.get(key)?;
        if now >= denial.end {
            self.by_key.remove(key);
            return None;
        }
        (hits >= denial.hits).then(|| denial.decision.after(now - denial.at))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use super::*;
    use crate::Limit;

    const WAIT: Duration = Duration::from_secs(10);

    fn denied(wait: Option<Duration>) -> Decision {
        Decision { retry_after: wait, ..Decision::of_fail_mode(false, String::new()) }
    }

    #[test]
    fn a_denial_covers_as_many_hits_until_it_ends() {
        let (mut denials, now) = (Denials::new(10, WAIT), Instant::now());
        denials.add("k".into(), 3, &denied(Some(WAIT)), now);
        assert!(denials.find("k", 3, now).is_some() && denials.find("k", 4, now).is_some());
        assert!(denials.find("k", 2, now).is_none() && denials.find("other", 3, now).is_none());
        let nearly = now + WAIT - Duration::from_millis(1);
        assert_eq!(denials.find("k", 3, nearly).unwrap().retry_after, Some(Duration::from_millis(1)));
        assert!(denials.find("k", 3, now + WAIT).is_none());
    }

    #[test]
    fn what_ends_at_no_known_time_is_not_remembered_and_nothing_longer_than_the_bound() {
        let (mut denials, now) = (Denials::new(10, WAIT), Instant::now());
        denials.add("never".into(), 1, &denied(None), now);
        denials.add("peek".into(), 0, &denied(Some(WAIT)), now);
        denials.add("allowed".into(), 1, &Decision { allowed: true, ..denied(Some(WAIT)) }, now);
        denials.add("x".repeat(MAX_KEY + 1), 1, &denied(Some(WAIT)), now);
        let limit = Limit {
            name: "l".to_owned(),
            descriptor: 0,
            algorithm: "fixed_window".to_owned(),
            limit: Some(1),
            remaining: Some(0),
            window_ms: 1,
            reset_ms: 1,
            refused: true,
            shadow: false,
        };
        let many = Decision { limits: vec![limit; MAX_LIMITS + 1], ..denied(Some(WAIT)) };
        denials.add("many".into(), 1, &many, now);
        assert!(denials.by_key.is_empty());
        denials.add("long".into(), 1, &denied(Some(WAIT * 100)), now);
        assert!(denials.find("long", 1, now + WAIT).is_none());
    }

    #[test]
    fn the_cache_is_bounded() {
        let (mut denials, now) = (Denials::new(3, WAIT), Instant::now());
        for key in 0..100 {
            denials.add(format!("k{key}"), 1, &denied(Some(WAIT)), now);
            denials.add("again".into(), 1, &denied(Some(WAIT)), now);
        }
        assert!(denials.by_key.len() <= 3 && denials.order.len() <= 6);
        assert!(denials.find("again", 1, now).is_some() && denials.find("k99", 1, now).is_some());
        assert!(denials.find("k0", 1, now).is_none());
    }
}
