//! One core's door to its shard. Only this core's thread takes the lock, a reader of figures now and then apart.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ractor::ActorRef;
use tokio::sync::oneshot;

use crate::ports::{Answer, Clock, CounterStore, Limiter, Refusal};
use limiter::rules::{OpenMap, RuleBook};
use limiter::{Cause, Check, Decision, NodeTime, Revision, Shard, ShardConfig, ShardStats, Turns, Verdict};

/// A core's shard with those who wait for it.
pub struct Core {
    shard: Arc<Guarded>,
    store: Arc<dyn CounterStore>,
    flusher: Mutex<Option<ActorRef<Cause>>>,
    /// The flusher has been told, and has not looked yet.
    told: AtomicBool,
    /// Nothing is decided yet.
    starting: AtomicBool,
}

/// The shard, as those who wait for it know it.
struct Guarded {
    config: ShardConfig,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

pub(super) struct State {
    pub shard: Shard,
    waiting: OpenMap<u64, oneshot::Sender<Decision>>,
    pub turns: Turns,
    /// Counts the shards that a panic ended.
    pub restarts: u64,
}

impl State {
    /// Whether the flusher has something to do.
    pub fn wants_flusher(&self, now: NodeTime) -> bool {
        self.turns.are_due(&self.shard, now)
    }
}

impl Core {
    pub fn new(config: ShardConfig, clock: Arc<dyn Clock>, store: Arc<dyn CounterStore>) -> Self {
        let shard = Shard::new(config, clock.wall(), clock.now());
        let state = Mutex::new(State { shard, waiting: OpenMap::default(), turns: Turns::default(), restarts: 0 });
        let shard = Arc::new(Guarded { config, clock, state });
        let (told, starting) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { shard, store, flusher: Mutex::new(None), told, starting }
    }

    /// Tells which actor sends this core's batches.
    pub(super) fn attach(&self, flusher: ActorRef<Cause>) {
        *self.flusher.lock().unwrap_or_else(PoisonError::into_inner) = Some(flusher);
    }

    /// While a core is starting it decides nothing: whoever asks is to ask another node.
    pub fn set_starting(&self, starting: bool) {
        self.starting.store(starting, Ordering::Relaxed);
    }

    pub fn is_starting(&self) -> bool {
        self.starting.load(Ordering::Relaxed)
    }

    pub fn stats(&self) -> ShardStats {
        self.shard.state().shard.stats()
    }

    pub fn revision(&self) -> Revision {
        self.shard.state().shard.book().revision
    }

    /// Shards that a panic ended.
    pub fn restarts(&self) -> u64 {
        self.shard.state().restarts
    }

    /// Decides from now on under `book`, unless it is older than the one in force.
    pub fn set_book(&self, book: Arc<RuleBook>) {
        self.with(|state| state.shard.set_book(book));
        self.wake();
    }

    /// From now on so many cores of the region may hold tokens of a key.
    pub fn set_holders(&self, holders: u32) {
        self.with(|state| state.shard.set_holders(holders));
    }

    /// Gives back all tokens in hand, as before leaving.
    pub fn release(&self) {
        self.with(|state| state.shard.release_all());
        self.wake();
    }

    /// Whether nothing waits, and nothing is under way to the store or to be sent again.
    pub fn is_quiet(&self) -> bool {
        let state = self.shard.state();
        state.shard.is_quiet() && !state.shard.has_stalled()
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.shard.clock
    }

    pub fn store(&self) -> &Arc<dyn CounterStore> {
        &self.store
    }

    /// Does `work` on the shard. A panic ends the shard, not the node: it forgets its keys, which costs the tokens
    /// that they held, and goes on; those who wait are told.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> Option<T> {
        self.shard.with(work)
    }

    /// Lets the flusher send what is queued, if anything can be.
    pub(super) fn wake(&self) {
        if self.told.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(flusher) = &*self.flusher.lock().unwrap_or_else(PoisonError::into_inner) {
            // A flusher that is gone is being restarted, and begins with a look at the queues.
            let _ = flusher.cast(Cause::Queued);
        }
    }

    /// The flusher looks now: whoever queues something from here on tells it again.
    pub(super) fn looks(&self) {
        self.told.store(false, Ordering::Relaxed);
    }

    /// How long a batch may take, and a check may wait for it.
    pub(super) fn deadline(&self) -> Duration {
        Duration::from_micros(self.shard.config.deadline_us)
    }
}

impl Guarded {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.state();
        match catch_unwind(AssertUnwindSafe(|| work(&mut state))) {
            Ok(value) => {
                for (ticket, decision) in state.shard.take_done() {
                    if let Some(waiting) = state.waiting.remove(&ticket) {
                        // Whoever stopped waiting has expired the ticket.
                        let _ = waiting.send(decision);
                    }
                }
                Some(value)
            }
            Err(_) => {
                state.shard = state.shard.successor(self.clock.wall(), self.clock.now());
                state.waiting.clear();
                // What the flusher was to look at again is gone with the shard.
                state.turns = Turns::default();
                state.restarts += 1;
                tracing::error!(restarts = state.restarts, "a decision panicked: the shard forgot its keys");
                None
            }
        }
    }
}

/// A check that waits for the store. Who drops it unanswered waits no more, and is charged nothing.
struct Waiter {
    shard: Arc<Guarded>,
    ticket: u64,
    decision: oneshot::Receiver<Decision>,
    over: bool,
}

impl Waiter {
    async fn wait(mut self, within: Option<Duration>) -> Result<Decision, Refusal> {
        let deadline = Duration::from_micros(self.shard.config.deadline_us);
        let decision = tokio::time::timeout(within.map_or(deadline, |w| w.min(deadline)), &mut self.decision).await;
        self.over = true;
        match decision {
            Ok(decision) => decision.map_err(|_| Refusal::Restarted),
            Err(_) => self.leave(Shard::expire).flatten().ok_or(Refusal::Restarted),
        }
    }

    fn leave<T>(&self, by: impl FnOnce(&mut Shard, u64, NodeTime) -> T) -> Option<T> {
        let now = self.shard.clock.now();
        self.shard.with(|state| {
            state.waiting.remove(&self.ticket);
            by(&mut state.shard, self.ticket, now)
        })
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.over {
            self.leave(Shard::withdraw);
        }
    }
}

/// What a shard says at once.
enum Said {
    Decided(Result<Decision, Refusal>),
    /// It waits under this ticket.
    Waits(u64, oneshot::Receiver<Decision>),
}

impl Core {
    fn begin(&self, state: &mut State, check: &Check<'_>, now: NodeTime) -> Said {
        match state.shard.check(check, |key| self.store.lane(key), now) {
            Verdict::Decided(decision) => Said::Decided(Ok(decision)),
            Verdict::Shed(shed) => Said::Decided(Err(Refusal::Overloaded(shed))),
            Verdict::Waits(ticket) => {
                let (sender, receiver) = oneshot::channel();
                state.waiting.insert(ticket, sender);
                Said::Waits(ticket, receiver)
            }
        }
    }

    fn answer(&self, said: Said, within: Option<Duration>) -> Answer {
        match said {
            Said::Decided(decision) => Answer::Now(decision),
            Said::Waits(ticket, decision) => {
                let waiter = Waiter { shard: Arc::clone(&self.shard), ticket, decision, over: false };
                Answer::Later(Box::pin(waiter.wait(within)))
            }
        }
    }
}

impl Limiter for Core {
    fn check(&self, check: &Check<'_>, now: NodeTime, within: Option<Duration>) -> Answer {
        if self.is_starting() {
            return Answer::Now(Err(Refusal::Starting));
        }
        let outcome = self.with(|state| (self.begin(state, check, now), state.wants_flusher(now)));
        let Some((said, to_send)) = outcome else { return Answer::Now(Err(Refusal::Restarted)) };
        if to_send {
            self.wake();
        }
        self.answer(said, within)
    }

    fn check_all(&self, checks: &[Check<'_>], now: NodeTime, within: Option<Duration>) -> Vec<Answer> {
        if self.is_starting() {
            return checks.iter().map(|_| Answer::Now(Err(Refusal::Starting))).collect();
        }
        let mut said = Vec::with_capacity(checks.len());
        let to_send = self.with(|state| {
            said.extend(checks.iter().map(|check| self.begin(state, check, now)));
            state.wants_flusher(now)
        });
        if to_send == Some(true) {
            self.wake();
        }
        let mut answers: Vec<Answer> = said.into_iter().map(|said| self.answer(said, within)).collect();
        // After a panic those that came before it are told, too, and the rest were not asked.
        answers.resize_with(checks.len(), || Answer::Now(Err(Refusal::Restarted)));
        answers
    }
}
