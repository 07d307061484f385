//! Limits calls with wrong tokens, with the decision core that decides every check of this node.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use limiter::rules::RuleBook;
use limiter::{Charging, Check, Descriptor, DryRun, NodeTime, Revision, StoreTime};

use crate::rulefile::decode::compile;

/// The limit of wrong tokens of all clients together.
const ALL: &str = "
version: 1
domains:
  - domain: admin
    limits:
      - { name: all, per: [], algorithm: token_bucket, limit: 100, window: 1m }
";

/// The limit of wrong tokens of one address, or of one network of IPv6.
const EACH: &str = "
version: 1
domains:
  - domain: admin
    limits:
      - { name: address, per: [{ ip: { v4: 32, v6: 64 } }], algorithm: token_bucket, limit: 10, window: 1m }
";

/// After this many questions, the counters of addresses begin anew, so that they do not fill the memory. Only calls
/// that the limit of all clients allows are questions.
const MAX_QUESTIONS: u32 = 20_000;

/// Counts calls with wrong tokens.
pub struct Attempts(Mutex<Counters>);

struct Counters {
    all: Counter,
    each: Counter,
}

struct Counter {
    book: Arc<RuleBook>,
    run: DryRun,
    begin: NodeTime,
    questions: u32,
}

impl Attempts {
    /// # Errors
    /// When the rules do not compile.
    pub fn new(now: NodeTime) -> Result<Self, String> {
        Ok(Self(Mutex::new(Counters { all: Counter::new(ALL, now)?, each: Counter::new(EACH, now)? })))
    }

    /// Counts a call before its token is known to be wrong, so that calls at the same time do not evade the limits.
    /// Returns how long the client at `ip` must wait; `None` if its token may be looked up.
    pub fn begin(&self, ip: IpAddr, now: NodeTime) -> Option<Duration> {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = counters.all.ask(ip, Charging::IfAllowed, now);
        if wait.is_some() {
            return wait;
        }
        if counters.each.questions >= MAX_QUESTIONS {
            counters.each.restart(now);
        }
        let wait = counters.each.ask(ip, Charging::IfAllowed, now);
        if wait.is_some() {
            counters.all.ask(ip, Charging::Refund, now);
        }
        wait
    }

    /// Returns how long the client at `ip` must wait because of its own wrong tokens. Others' do not count.
    pub fn own_wait(&self, ip: IpAddr, now: NodeTime) -> Option<Duration> {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = counters.each.ask(ip, Charging::IfAllowed, now);
        if wait.is_none() {
            counters.each.ask(ip, Charging::Refund, now);
        }
        wait
    }

    /// Takes back what [`Self::begin`] counted: the token was not wrong.
    pub fn take_back(&self, ip: IpAddr, now: NodeTime) {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counters.all.ask(ip, Charging::Refund, now);
        counters.each.ask(ip, Charging::Refund, now);
    }
}

impl Counter {
    fn new(rules: &str, now: NodeTime) -> Result<Self, String> {
        let book = compile("admin", rules, Revision(1))
            .map_err(|errors| errors.first().map_or_else(String::new, ToString::to_string))?;
        let book = Arc::new(book);
        let run = DryRun::new(Arc::clone(&book), StoreTime(0));
        Ok(Self { book, run, begin: now, questions: 0 })
    }

    fn restart(&mut self, now: NodeTime) {
        self.run = DryRun::new(Arc::clone(&self.book), StoreTime(0));
        (self.begin, self.questions) = (now, 0);
    }

    fn ask(&mut self, ip: IpAddr, charging: Charging, now: NodeTime) -> Option<Duration> {
        self.questions = self.questions.saturating_add(1);
        let ip = ip.to_string();
        let entries = [("ip", ip.as_str())];
        let descriptors = [Descriptor { entries: &entries, ordered: false, hits: 1, charging, limit: None }];
        let after = now.0.saturating_sub(self.begin.0);
        match self.run.check(&Check { domain: "admin", descriptors: &descriptors }, after) {
            Ok(decision) if decision.allowed => None,
            Ok(decision) => Some(Duration::from_micros(decision.retry_after.unwrap_or(1_000_000))),
            Err(_) => Some(Duration::from_secs(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> NodeTime {
        NodeTime(seconds * 1_000_000)
    }

    #[test]
    fn an_address_may_fail_ten_times_and_then_once_in_six_seconds() {
        let (attempts, ip) = (Attempts::new(at(5)).unwrap(), "192.0.2.1".parse().unwrap());
        for _ in 0..10 {
            assert_eq!(attempts.begin(ip, at(5)), None);
        }
        assert!(attempts.begin(ip, at(5)).is_some_and(|wait| wait <= Duration::from_secs(6)));
        assert_eq!(attempts.begin("192.0.2.2".parse().unwrap(), at(5)), None);
        assert_eq!(attempts.begin(ip, at(12)), None);
    }

    #[test]
    fn a_right_token_counts_for_nothing() {
        let (attempts, ip) = (Attempts::new(at(0)).unwrap(), "192.0.2.1".parse().unwrap());
        for _ in 0..1000 {
            assert_eq!(attempts.begin(ip, at(1)), None);
            attempts.take_back(ip, at(1));
        }
    }

    #[test]
    fn all_addresses_together_have_a_limit_and_many_addresses_take_no_memory() {
        let attempts = Attempts::new(at(0)).unwrap();
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        (0..100).for_each(|n| assert_eq!(attempts.begin(address(n), at(0)), None));
        assert!(attempts.begin(address(1000), at(0)).is_some());
        (0..MAX_QUESTIONS).for_each(|n| {
            attempts.begin(address(n), at(0));
        });
        assert!(attempts.0.lock().unwrap().each.questions < 200);
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let attempts = Attempts::new(at(0)).unwrap();
        let address = |n: u16| format!("2001:db8::{n:x}").parse().unwrap();
        (0..10).for_each(|n| assert_eq!(attempts.begin(address(n), at(0)), None));
        assert!(attempts.begin(address(99), at(0)).is_some());
    }
}
