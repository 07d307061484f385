//! A small world for property tests: holders (the real shards) and one store (the real store function), with the
//! network between them in the test's hands.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::test_runner::Config as ProptestConfig;

use limiter::counter::{
    Batch, BatchOutcome, BatchReply, Counter, Item, ItemReply, Record, Seen, StoreError, apply, run,
};
use limiter::rules::{
    Algorithm, Charge, Consistency, Domain, Limit, Match, OnStoreFailure, Period, Quota, RuleBook, Rules,
};
use limiter::{
    Check, Decision, Descriptor, Effects, Event, LaneId, NodeTime, Outgoing, Overload, Reply, Revision, Shard,
    ShardConfig, StoreTime, Ticket, Verdict, WallTime,
};

/// The world begins here, in microseconds since the epoch; a full second.
pub const BEGIN: u64 = 1_700_000_000_000_000;
pub const LEASE_US: u64 = 300_000;

/// 1,000 cases of each property, or as many as `TIDEGATE_CASES` says.
pub fn cases() -> ProptestConfig {
    let cases = std::env::var("TIDEGATE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    ProptestConfig { cases, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() }
}

/// A hit that passed, at the store's instant that counts.
#[derive(Clone, Copy, Debug)]
pub struct Admitted {
    pub user: u8,
    pub at: u64,
    pub hits: u64,
    /// The store did not decide.
    pub degraded: bool,
}

pub struct World {
    pub now: u64,
    /// Store's clock less the world's.
    pub leap: i64,
    pub store: BTreeMap<Box<[u8]>, Option<Record>>,
    pub replica: BTreeMap<Box<[u8]>, Option<Record>>,
    pub replication: u64,
    pub holders: Vec<Holder>,
    pub admitted: Vec<Admitted>,
    pub refused: u64,
    /// Hits of batches that may have been charged without an answer.
    pub lost: u64,
    pub revision: Revision,
}

pub struct Holder {
    pub shard: Shard<u64>,
    skew: u64,
    out: Option<Outgoing>,
    answer: Option<(Outgoing, BatchReply, [u64; 2])>,
    /// Checks that wait, by number.
    waiting: BTreeMap<u64, Waiting>,
    checks: u64,
    sent: Vec<Batch>,
}

/// A check that waits for the store.
#[derive(Clone, Copy)]
struct Waiting {
    ticket: Ticket,
    user: u8,
    hits: u64,
}

pub fn limit(name: &str, algorithm: Algorithm, hits: u64, window_ms: u64, consistency: Consistency) -> Limit {
    let bucket = algorithm == Algorithm::TokenBucket;
    Limit {
        name: name.to_owned(),
        matches: Match::default(),
        per: vec!["user".to_owned()],
        limit: Quota::Hits(hits),
        period: Period::Window { ms: window_ms },
        algorithm,
        cells: (algorithm == Algorithm::RollingWindow).then_some(4),
        burst: None,
        consistency: (!bucket).then_some(consistency),
        scope: Default::default(),
        on_store_failure: OnStoreFailure::Deny,
        mode: Default::default(),
        overrides: Vec::new(),
        replaces: Vec::new(),
        response_headers: Default::default(),
    }
}

pub fn book(limits: Vec<Limit>, revision: Revision) -> Arc<RuleBook> {
    let domain = Domain { domain: "d".to_owned(), charge: Charge::AllOrNothing, limits };
    Arc::new(RuleBook::compile(Arc::new(Rules { domains: vec![domain] }), revision).unwrap())
}

impl World {
    pub fn new(holders: usize, limits: Vec<Limit>) -> Self {
        Self::with_keys(holders, limits, 1000)
    }

    /// A world whose holders have room for so many keys, and know the store's clock.
    pub fn with_keys(holders: usize, limits: Vec<Limit>, max_keys: usize) -> Self {
        let mut world = Self::without_clock(holders, limits, max_keys);
        for holder in 0..holders {
            world.deliver(holder, false);
            world.answer(holder);
        }
        world
    }

    /// A world whose holders have not heard from the store yet.
    pub fn without_clock(holders: usize, limits: Vec<Limit>, max_keys: usize) -> Self {
        let make = |at: usize| {
            let skew = at as u64 * 7_777_777;
            let seed = at as u64 + 1;
            let config = ShardConfig {
                max_keys,
                max_waiting: 1000,
                lease_us: LEASE_US,
                deadline_us: 100_000,
                holders: u32::try_from(holders).unwrap(),
                min_holders: 3,
                lanes: 1,
                max_items: 100,
                seeds: [seed, seed << 20, seed << 30, seed << 40],
            };
            // A node's wall clock may be far off.
            let wall = WallTime(BEGIN + skew * 1000);
            let mut shard = Shard::new(config, wall, NodeTime(skew));
            let _ = shard.handle(Event::Rules(book(limits.clone(), Revision(1))), NodeTime(skew));
            Holder { shard, skew, out: None, answer: None, waiting: BTreeMap::new(), checks: 0, sent: Vec::new() }
        };
        Self {
            now: 0,
            leap: 0,
            store: BTreeMap::new(),
            replica: BTreeMap::new(),
            replication: 1,
            holders: (0..holders).map(make).collect(),
            admitted: Vec::new(),
            refused: 0,
            lost: 0,
            revision: Revision(1),
        }
    }

    pub fn store_now(&self) -> u64 {
        (BEGIN + self.now).saturating_add_signed(self.leap)
    }

    fn node_now(&self, holder: usize) -> NodeTime {
        NodeTime(self.now + self.holders[holder].skew)
    }

    pub fn check(&mut self, holder: usize, user: u8, hits: u32) {
        let (now, at) = (self.node_now(holder), self.store_now());
        let name = user.to_string();
        let entries = [("user", name.as_str())];
        let descriptors = [Descriptor { entries: &entries, ordered: true, hits, limit: None }];
        let check = Check { domain: "d", descriptors: &descriptors };
        let it = &mut self.holders[holder];
        it.checks += 1;
        let (number, hits) = (it.checks, u64::from(hits));
        match it.shard.check(&check, |_| LaneId(0), now, || number) {
            Verdict::Decided(decision) => self.decided(&decision, user, hits, at),
            Verdict::Waits(ticket) => {
                it.waiting.insert(number, Waiting { ticket, user, hits });
            }
            Verdict::Overloaded(Overload::TooManyKeys) => self.refused += 1,
            Verdict::Overloaded(overload) => panic!("{overload:?}"),
        }
    }

    fn decided(&mut self, decision: &Decision, user: u8, hits: u64, at: u64) {
        if decision.allowed {
            self.admitted.push(Admitted { user, at, hits, degraded: decision.degraded });
        } else {
            self.refused += 1;
        }
    }

    /// The holder's next batch leaves, if none is on its way. It has an end, and nothing in it asks for who has left.
    pub fn depart(&mut self, holder: usize) {
        let now = self.node_now(holder);
        let it = &mut self.holders[holder];
        if it.out.is_some() || it.answer.is_some() {
            return;
        }
        it.out = it.shard.handle(Event::Flush, now).send.pop();
        let waits: u64 = it.waiting.values().map(|waiting| waiting.hits).sum();
        let endless = it.out.as_ref().is_some_and(|out| out.batch.not_after.is_none() && !out.batch.items.is_empty());
        assert!(!endless, "a batch that carries items has an end");
        for item in it.out.iter().flat_map(|out| &out.batch.items) {
            let asked: u64 = item.asks.iter().map(|ask| ask.hits * u64::from(ask.count)).sum();
            assert!(asked <= waits, "{asked} hits are asked for, and checks for {waits} wait");
        }
    }

    /// The holder's next batch reaches the store and runs; `twice` runs it once more.
    pub fn deliver(&mut self, holder: usize, twice: bool) {
        self.depart(holder);
        let Some(out) = self.holders[holder].out.take() else { return };
        let answer = self.run(&out.batch);
        if twice {
            self.run(&out.batch);
            self.lost += weight(&out.batch);
        }
        let at = instants(&out.batch, &answer);
        self.holders[holder].sent.push(out.batch.clone());
        self.holders[holder].answer = Some((out, answer, at));
    }

    fn run(&mut self, batch: &Batch) -> BatchReply {
        let now = StoreTime(self.store_now());
        let store = &mut self.store;
        run(batch, now, self.replication, |item, at| apply(store.entry(item.key.clone()).or_default(), item, at))
    }

    /// The network brings one of the holder's batches once more, the `back`th before its last.
    pub fn again(&mut self, holder: usize, back: usize) {
        let sent = &self.holders[holder].sent;
        let Some(batch) = sent.iter().rev().nth(back).cloned() else { return };
        self.run(&batch);
        self.lost += weight(&batch);
    }

    /// The answer reaches the holder. Hits that waited count at the instant when the batch ran.
    pub fn answer(&mut self, holder: usize) {
        let now = self.node_now(holder);
        let it = &mut self.holders[holder];
        let Some((out, answer, ran)) = it.answer.take() else { return };
        let effects = it.shard.handle(reply(&out, Ok(answer.clone())), now);
        // A reply that comes twice changes nothing.
        assert!(it.shard.handle(reply(&out, Ok(answer)), now).decided.is_empty());
        self.carry_out(holder, effects, ran);
    }

    /// The batch or its answer is lost: the outcome is unknown.
    pub fn lose(&mut self, holder: usize, charged: bool) {
        self.fail(holder, charged, StoreError::Unknown);
    }

    /// The store is not reached.
    pub fn refuse(&mut self, holder: usize) {
        if self.holders[holder].answer.is_none() {
            self.fail(holder, false, StoreError::NotApplied);
        }
    }

    /// The store answers, and serves none of the keys.
    pub fn serve_none(&mut self, holder: usize) {
        let (now, store_now) = (self.node_now(holder), StoreTime(self.store_now()));
        let it = &mut self.holders[holder];
        for out in it.shard.handle(Event::Flush, now).send {
            let items = vec![ItemReply::Failed; out.batch.items.len()];
            let answer = BatchReply { now: store_now, outcome: BatchOutcome::Ran(items) };
            let _ = it.shard.handle(reply(&out, Ok(answer)), now);
        }
    }

    fn fail(&mut self, holder: usize, charged: bool, error: StoreError) {
        if charged {
            self.deliver(holder, false);
        } else {
            self.depart(holder);
        }
        let now = self.node_now(holder);
        let it = &mut self.holders[holder];
        let Some(out) = it.out.take().or_else(|| it.answer.take().map(|(out, ..)| out)) else { return };
        let effects = it.shard.handle(reply(&out, Err(error)), now);
        if error == StoreError::Unknown {
            self.lost += weight(&out.batch);
        }
        let at = self.store_now();
        self.carry_out(holder, effects, [at; 2]);
    }

    /// Records decisions for checks that waited. Those of users 0 and 1 count at the instants `at`, others at the first.
    fn carry_out(&mut self, holder: usize, effects: Effects<u64>, at: [u64; 2]) {
        for (number, decision) in effects.decided {
            if let Some(Waiting { user, hits, .. }) = self.holders[holder].waiting.remove(&number) {
                let at = at.get(usize::from(user)).copied().unwrap_or(at[0]);
                self.decided(&decision, user, hits, at);
            }
        }
    }

    /// The holder gives up on its batch, which is still on its way: [`Self::run_late`] runs it.
    pub fn strand(&mut self, holder: usize) -> Option<Batch> {
        self.depart(holder);
        let batch = self.holders[holder].out.as_ref()?.batch.clone();
        self.lose(holder, false);
        Some(batch)
    }

    /// A batch that its holder gave up on reaches the store after all.
    pub fn run_late(&mut self, batch: &Batch) -> BatchReply {
        self.run(batch)
    }

    /// Hits that the store has charged to the counters of `user`, in all cells.
    pub fn charged(&self, user: u8) -> u64 {
        let name = format!("/{user}");
        self.charged_to(|key| key.ends_with(name.as_bytes()))
    }

    /// Hits that the store has charged to the counters whose key is one of these, in all cells.
    pub fn charged_to(&self, these: impl Fn(&[u8]) -> bool) -> u64 {
        let of = |record: &Option<Record>| match record {
            Some(Record::Window(window)) => window.cells.iter().map(|cell| cell.used()).sum(),
            _ => 0,
        };
        self.store.iter().filter(|(key, _)| these(key)).map(|(_, record)| of(record)).sum()
    }

    /// Hits that are missing in the bucket of `user`, as the store has it.
    pub fn missing(&self, user: u8) -> u64 {
        let name = format!("/{user}");
        let of = |record: &Option<Record>| match record {
            Some(Record::Bucket(bucket)) => bucket.missing(),
            _ => 0,
        };
        self.store.iter().filter(|(key, _)| key.ends_with(name.as_bytes())).map(|(_, record)| of(record)).sum()
    }

    /// Hits that `user` was granted.
    pub fn granted(&self, user: u8) -> u64 {
        self.admitted.iter().filter(|a| a.user == user).map(|a| a.hits).sum()
    }

    /// Every check of the holder runs into its deadline.
    pub fn expire(&mut self, holder: usize) {
        let tickets = self.holders[holder].waiting.values().map(|waiting| waiting.ticket).collect();
        self.expire_these(holder, tickets);
    }

    /// One of the holder's checks runs into its deadline, the `nth` of those that wait.
    pub fn expire_one(&mut self, holder: usize, nth: usize) {
        let waiting = &self.holders[holder].waiting;
        let one = nth.checked_rem(waiting.len()).and_then(|nth| waiting.values().nth(nth)).map(|one| one.ticket);
        self.expire_these(holder, one.into_iter().collect());
    }

    fn expire_these(&mut self, holder: usize, tickets: Vec<Ticket>) {
        let (now, at) = (self.node_now(holder), self.store_now());
        for ticket in tickets {
            let effects = self.holders[holder].shard.handle(Event::Expire(ticket), now);
            assert_eq!(effects.decided.len(), 1, "a check that expires is decided");
            self.carry_out(holder, effects, [at; 2]);
        }
    }

    pub fn advance(&mut self, micros: u64) {
        self.now += micros;
        for holder in 0..self.holders.len() {
            let now = self.node_now(holder);
            let _ = self.holders[holder].shard.handle(Event::Tick, now);
        }
    }

    pub fn edit(&mut self, limits: Vec<Limit>) {
        self.revision = self.revision.next(0);
        let book = book(limits, self.revision);
        for holder in 0..self.holders.len() {
            let now = self.node_now(holder);
            let _ = self.holders[holder].shard.handle(Event::Rules(Arc::clone(&book)), now);
        }
    }

    /// The holder's clock leaps forward.
    pub fn leap_holder(&mut self, holder: usize, micros: u64) {
        self.holders[holder].skew += micros;
    }

    /// Debts that the store keeps until they are confirmed.
    pub fn unconfirmed(&self) -> usize {
        let of = |record: &Option<Record>| match record {
            Some(Record::Window(window)) => window.received.as_ref().map_or(0, |received| received.debts.len()),
            _ => 0,
        };
        self.store.values().map(of).sum()
    }

    /// The store loses everything (`all`), or what came since the replica was last in step.
    pub fn forget(&mut self, all: bool) {
        self.replication += 1;
        self.store = if all { BTreeMap::new() } else { self.replica.clone() };
    }

    /// Delivers everything until nothing is under way.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            for holder in 0..self.holders.len() {
                self.deliver(holder, false);
                self.answer(holder);
            }
            if self.holders.iter().all(|h| h.shard.is_quiet()) {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// Lets all leases end, and everything come to rest.
    pub fn rest(&mut self) {
        self.settle();
        self.advance(LEASE_US + 1);
        self.settle();
    }
}

fn reply(out: &Outgoing, result: Result<BatchReply, StoreError>) -> Event {
    Event::Reply(Reply { lane: out.lane, batch: out.batch.id, result })
}

/// The instant at which the store charged each user, as it says itself.
fn instants(batch: &Batch, answer: &BatchReply) -> [u64; 2] {
    let mut at = [answer.now.0; 2];
    if let BatchOutcome::Ran(answers) = &answer.outcome {
        for (item, answer) in batch.items.iter().zip(answers) {
            let user = usize::from(item.key.ends_with(b"/1"));
            if let ItemReply::Done(grant) = answer {
                at[user] = match &grant.seen {
                    Seen::Window { cell_ms, .. } => at[user].max(cell_ms * 1000),
                    Seen::Bucket { at, .. } => at.0,
                };
            }
        }
    }
    at
}

/// Hits that a batch may charge, or bring back.
fn weight(batch: &Batch) -> u64 {
    let asks = batch.items.iter().flat_map(|i| &i.asks).map(|a| a.hits * u64::from(a.count));
    let returns = |item: &Item| match &item.counter {
        Counter::Window { returns, .. } => returns.iter().map(|back| back.tokens).sum::<u64>(),
        Counter::Bucket { returns, .. } => returns.iter().map(|back| back.hits).sum(),
    };
    asks.sum::<u64>() + batch.items.iter().map(returns).sum::<u64>()
}
