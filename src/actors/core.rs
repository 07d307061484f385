//! One core's shard, shared by the tasks of that core. Only this core's thread takes the lock, apart from a reader of
//! statistics now and then.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use limiter::rules::{IdentityTerms, MAX_BATCH_WORK, RuleBook};
use limiter::{
    Check, Decision, Effects, Event, IdentityProblem, NodeTime, Outgoing, Regions, Revision, Shard, ShardConfig,
    ShardStats, Ticket, Verdict,
};
use ractor::ActorRef;
use tokio::sync::oneshot;

use super::messages::FlusherMessage;
use crate::ports::{Answer, Clock, CounterStore, Gossip, Limiter, Unavailable, Wait};

/// A core's shard, its store, and its flusher.
pub struct Core {
    shard: Arc<SharedShard>,
    store: Arc<dyn CounterStore>,
    flusher: Mutex<Option<ActorRef<FlusherMessage>>>,
    /// The flusher has a message that it has not handled yet.
    wake_pending: AtomicBool,
    /// No check is decided yet.
    starting: AtomicBool,
    /// The revision of the rules in force. Probes read it without the lock.
    revision: AtomicU64,
    /// The rules in force, if a domain takes identities from API keys. Most books have none, and then no check asks.
    uses_api_keys: AtomicBool,
    api_key_rules: Mutex<Option<Arc<RuleBook>>>,
}

/// The shard under its lock. Waiting checks share its ownership.
struct SharedShard {
    config: ShardConfig,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Takes what the region counted, if there are other regions.
    gossip: OnceLock<Arc<dyn Gossip>>,
}

type Waiter = oneshot::Sender<Decision>;

struct State {
    shard: Shard<Waiter>,
    /// How many shards a panic has ended.
    restarts: u64,
}

/// What the flusher must do after an event: something only after [`Event::Flush`].
#[derive(Default)]
pub(super) struct FlushWork {
    pub batches: Vec<Outgoing>,
    /// [`Event::FlushDelayOver`] must follow in this many microseconds.
    pub flush_in: Option<u64>,
}

impl Core {
    /// A core without rules. Its flusher must be started for it.
    pub fn new(config: ShardConfig, clock: Arc<dyn Clock>, store: Arc<dyn CounterStore>) -> Self {
        let shard = Shard::new(config, clock.wall(), clock.now());
        let state = Mutex::new(State { shard, restarts: 0 });
        let shard = Arc::new(SharedShard { config, clock, state, gossip: OnceLock::new() });
        Self {
            shard,
            store,
            flusher: Mutex::new(None),
            wake_pending: AtomicBool::new(false),
            starting: AtomicBool::new(false),
            revision: AtomicU64::new(0),
            uses_api_keys: AtomicBool::new(false),
            api_key_rules: Mutex::new(None),
        }
    }

    /// Sets the actor that sends this core's batches.
    pub(super) fn attach(&self, flusher: ActorRef<FlusherMessage>) {
        *self.flusher.lock().unwrap_or_else(PoisonError::into_inner) = Some(flusher);
    }

    /// A core that is starting decides no check.
    pub fn set_starting(&self, starting: bool) {
        self.starting.store(starting, Ordering::Relaxed);
    }

    pub fn is_starting(&self) -> bool {
        self.starting.load(Ordering::Relaxed)
    }

    pub fn stats(&self) -> ShardStats {
        self.shard.lock().shard.stats()
    }

    /// The revision of the rules in force.
    pub fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Relaxed))
    }

    /// Returns how many shards a panic has ended.
    pub fn restarts(&self) -> u64 {
        self.shard.lock().restarts
    }

    /// Decides the next checks under `book`, unless it is older than the book in force.
    pub fn set_book(&self, book: Arc<RuleBook>) {
        let revision = book.revision;
        if revision < self.revision() {
            return;
        }
        let uses_api_keys = book.uses_api_keys();
        *self.api_key_rules.lock().unwrap_or_else(PoisonError::into_inner) = uses_api_keys.then(|| Arc::clone(&book));
        self.uses_api_keys.store(uses_api_keys, Ordering::Relaxed);
        self.handle(Event::Rules(book));
        self.revision.fetch_max(revision.0, Ordering::Relaxed);
    }

    /// Sets how many shards of the region may hold tokens of a key.
    pub fn set_holders(&self, holders: u32) {
        self.handle(Event::Holders(holders));
    }

    /// Passes what the region counted to `gossip`. Only the first call has an effect.
    pub fn tell(&self, gossip: Arc<dyn Gossip>) {
        let _ = self.shard.gossip.set(gossip);
    }

    /// Sets what is known of the other regions; `None` if there are none.
    pub fn set_regions(&self, regions: Option<Regions>) {
        self.handle(Event::Regions(regions));
    }

    /// Gives back every token in hand, as before the node leaves.
    pub fn release(&self) {
        self.handle(Event::ReleaseTokens);
    }

    /// True if no check waits, and nothing is in flight to the store or to be sent to it.
    pub fn is_quiet(&self) -> bool {
        let state = self.shard.lock();
        state.shard.is_quiet() && !state.shard.has_stalled()
    }

    pub fn store(&self) -> &Arc<dyn CounterStore> {
        &self.store
    }

    /// Passes an event to the shard, delivers the decisions, and wakes the flusher if it must run.
    pub(super) fn handle(&self, event: Event) -> FlushWork {
        // After a panic the flusher may have to run for the new shard.
        let (work, flush) = self.shard.handle(event).unwrap_or((FlushWork::default(), true));
        if flush {
            self.wake();
        }
        work
    }

    /// Lets the flusher run, unless it is about to.
    fn wake(&self) {
        if self.wake_pending.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(flusher) = &*self.flusher.lock().unwrap_or_else(PoisonError::into_inner) {
            // A flusher that has ended is started again, and begins with a flush.
            let _ = flusher.cast(FlusherMessage::Flush);
        }
    }

    /// The flusher runs now. What is queued from here on wakes it again.
    pub(super) fn clear_wake(&self) {
        self.wake_pending.store(false, Ordering::Relaxed);
    }
}

impl SharedShard {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn deadline(&self) -> Duration {
        Duration::from_micros(self.config.deadline_us)
    }

    /// Calls `work` on the shard. A panic ends the shard, not the node: a new one goes on without keys, which costs the
    /// tokens that they held. Checks that waited get no decision.
    fn with<T>(&self, work: impl FnOnce(&mut Shard<Waiter>) -> T) -> Option<T> {
        let mut state = self.lock();
        if let Ok(value) = catch_unwind(AssertUnwindSafe(|| work(&mut state.shard))) {
            return Some(value);
        }
        state.shard = state.shard.successor(self.clock.wall(), self.clock.now());
        state.restarts += 1;
        tracing::error!(restarts = state.restarts, "a decision panicked: the shard lost its keys");
        None
    }

    /// Passes an event to the shard and delivers the decisions. Returns what to send, and whether the flusher must run.
    fn handle(&self, event: Event) -> Option<(FlushWork, bool)> {
        let now = self.clock.now();
        let Effects { send, decided, news, flush, flush_in } = self.with(|shard| shard.handle(event, now))?;
        for (waiter, decision) in decided {
            // The caller may be gone: overdrafts and refunds are decided all the same.
            let _ = waiter.send(decision);
        }
        if !news.is_empty()
            && let Some(gossip) = self.gossip.get()
        {
            gossip.tell(news);
        }
        Some((FlushWork { batches: send, flush_in }, flush))
    }
}

/// A check that waits for the store. If it is dropped before it has an answer, it is cancelled.
/// Then it is charged nothing, unless it charges usage that has happened.
struct WaitingCheck {
    shard: Arc<SharedShard>,
    ticket: Ticket,
    decision: oneshot::Receiver<Decision>,
    finished: bool,
}

impl WaitingCheck {
    async fn wait(mut self, Wait { time, is_hasty }: Wait) -> Result<Decision, Unavailable> {
        let deadline = self.shard.deadline();
        let time = time.map_or(deadline, |time| time.min(deadline));
        let decision = tokio::time::timeout(time, &mut self.decision).await;
        self.finished = true;
        if decision.is_err() {
            let ticket = self.ticket;
            self.shard.handle(if is_hasty { Event::ExpireEarly(ticket) } else { Event::Expire(ticket) });
        }
        let decision = decision.map_or_else(|_| self.decision.try_recv().ok(), Result::ok);
        decision.ok_or(Unavailable::Restarted)
    }
}

impl Drop for WaitingCheck {
    fn drop(&mut self) {
        if !self.finished {
            self.shard.handle(Event::Cancel(self.ticket));
        }
    }
}

impl Core {
    fn begin_check(&self, shard: &mut Shard<Waiter>, check: &Check<'_>, now: NodeTime, wait: Wait) -> Answer {
        let mut waiting = None;
        let before = shard.work();
        let waiter = || {
            let (sender, receiver) = oneshot::channel();
            waiting = Some(receiver);
            sender
        };
        match shard.check(check, |key| self.store.lane(key), now, waiter) {
            Verdict::Decided(decision) => Answer::Now(Ok(decision)),
            Verdict::Overloaded(overload) => Answer::Now(Err(Unavailable::Overloaded(overload))),
            Verdict::Waits { ticket, bytes } => match waiting {
                Some(decision) => {
                    let check = WaitingCheck { shard: Arc::clone(&self.shard), ticket, decision, finished: false };
                    let work = shard.work().wrapping_sub(before);
                    Answer::Later { work, bytes, decision: Box::pin(check.wait(wait)) }
                }
                None => Answer::Now(Err(Unavailable::Restarted)),
            },
        }
    }
}

impl Limiter for Core {
    fn deadline(&self) -> Duration {
        self.shard.deadline()
    }

    fn identity(&self, domain: &str) -> IdentityTerms {
        if !self.uses_api_keys.load(Ordering::Relaxed) {
            return IdentityTerms::default();
        }
        let rules = self.api_key_rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.as_ref().map_or_else(IdentityTerms::default, |book| book.identity(domain))
    }

    fn denied(&self, domain: &str, problem: IdentityProblem) -> Decision {
        let rules = self.api_key_rules.lock().unwrap_or_else(PoisonError::into_inner);
        let domain = rules.as_ref().and_then(|book| book.domain(domain)).cloned();
        Decision::unidentified(domain, self.revision(), problem)
    }

    fn check(&self, check: &Check<'_>, now: NodeTime, wait: Wait) -> Answer {
        if self.is_starting() {
            return Answer::Now(Err(Unavailable::Starting));
        }
        let checked = self.shard.with(|shard| {
            let answer = self.begin_check(shard, check, now, wait);
            (answer, shard.needs_flush(now))
        });
        let Some((answer, flush)) = checked else { return Answer::Now(Err(Unavailable::Restarted)) };
        if flush {
            self.wake();
        }
        answer
    }

    fn check_all(&self, checks: &[Check<'_>], now: NodeTime, wait: Wait) -> Vec<Answer> {
        if self.is_starting() {
            return checks.iter().map(|_| Answer::Now(Err(Unavailable::Starting))).collect();
        }
        let mut answers = Vec::with_capacity(checks.len());
        let flush = self.shard.with(|shard| {
            let before = shard.work();
            for check in checks {
                if shard.work().wrapping_sub(before) > MAX_BATCH_WORK {
                    break;
                }
                answers.push(self.begin_check(shard, check, now, wait));
            }
            shard.needs_flush(now)
        });
        match flush {
            Some(true) => self.wake(),
            Some(false) => {}
            // A panic leaves the rest of the checks undecided.
            None => answers.resize_with(checks.len(), || Answer::Now(Err(Unavailable::Restarted))),
        }
        answers
    }
}
