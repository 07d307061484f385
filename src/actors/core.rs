//! One core's door to its shard. Only this core's thread takes the lock, a reader of figures now and then apart.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ractor::ActorRef;
use tokio::sync::oneshot;

use super::flusher::Message;
use crate::limiter::decision::{Check, Decision};
use crate::limiter::rule_book::RuleBook;
use crate::limiter::shard::{Shard, ShardConfig, ShardStats, Verdict};
use crate::limiter::time::NodeTime;
use crate::ports::{Answer, Clock, CounterStore, Limiter, Refusal};

/// A core's shard with those who wait for it.
pub struct Core {
    config: ShardConfig,
    clock: Arc<dyn Clock>,
    store: Arc<dyn CounterStore>,
    state: Mutex<State>,
    flusher: Mutex<Option<ActorRef<Message>>>,
    /// The flusher has been told, and has not looked yet.
    told: AtomicBool,
}

pub(super) struct State {
    pub shard: Shard,
    waiting: HashMap<u64, oneshot::Sender<Decision>>,
    /// Counts the shards that a panic ended.
    pub restarts: u64,
}

impl Core {
    pub fn new(config: ShardConfig, clock: Arc<dyn Clock>, store: Arc<dyn CounterStore>) -> Self {
        let shard = Shard::new(config, clock.wall(), clock.now());
        let state = Mutex::new(State { shard, waiting: HashMap::new(), restarts: 0 });
        Self { config, clock, store, state, flusher: Mutex::new(None), told: AtomicBool::new(false) }
    }

    /// Tells which actor sends this core's batches.
    pub(super) fn attach(&self, flusher: ActorRef<Message>) {
        *self.flusher.lock().unwrap_or_else(PoisonError::into_inner) = Some(flusher);
    }

    pub fn stats(&self) -> ShardStats {
        self.state().shard.stats()
    }

    pub fn revision(&self) -> u64 {
        self.state().shard.book().revision
    }

    /// Shards that a panic ended.
    pub fn restarts(&self) -> u64 {
        self.state().restarts
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
        let state = self.state();
        state.shard.is_quiet() && !state.shard.has_stalled()
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub fn store(&self) -> &Arc<dyn CounterStore> {
        &self.store
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` on the shard. A panic ends the shard, not the node: it forgets its keys, which costs the tokens
    /// that they held, and goes on; those who wait are told.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> Option<T> {
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
                state.restarts += 1;
                tracing::error!(restarts = state.restarts, "a decision panicked: the shard forgot its keys");
                None
            }
        }
    }

    /// Lets the flusher send what is queued, if anything can be.
    pub(super) fn wake(&self) {
        if self.told.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(flusher) = &*self.flusher.lock().unwrap_or_else(PoisonError::into_inner) {
            // A flusher that is gone is being restarted, and begins with a look at the queues.
            let _ = flusher.cast(Message::Flush);
        }
    }

    /// The flusher looks now: whoever queues something from here on tells it again.
    pub(super) fn looks(&self) {
        self.told.store(false, Ordering::Relaxed);
    }

    /// How long a batch may take, and a check may wait for it.
    pub(super) const fn deadline(&self) -> Duration {
        Duration::from_micros(self.config.deadline_us)
    }
}

/// A check that waits for the store. Who drops it unanswered waits no more, and is charged nothing.
struct Waiter<'a> {
    core: &'a Core,
    ticket: u64,
    decision: oneshot::Receiver<Decision>,
    over: bool,
}

impl Waiter<'_> {
    async fn wait(mut self, within: Option<Duration>) -> Result<Decision, Refusal> {
        let deadline = self.core.deadline();
        let decision = tokio::time::timeout(within.map_or(deadline, |w| w.min(deadline)), &mut self.decision).await;
        self.over = true;
        match decision {
            Ok(decision) => decision.map_err(|_| Refusal::Restarted),
            Err(_) => self.leave(Shard::expire).flatten().ok_or(Refusal::Restarted),
        }
    }

    fn leave<T>(&self, by: impl FnOnce(&mut Shard, u64, NodeTime) -> T) -> Option<T> {
        let now = self.core.clock.now();
        self.core.with(|state| {
            state.waiting.remove(&self.ticket);
            by(&mut state.shard, self.ticket, now)
        })
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.leave(Shard::withdraw);
        }
    }
}

impl Limiter for Core {
    fn check<'a>(&'a self, check: &Check<'_>, within: Option<Duration>) -> Answer<'a> {
        let now = self.clock.now();
        let outcome = self.with(|state| {
            let verdict = state.shard.check(check, |key| self.store.lane(key), now);
            let waiting = match verdict {
                Verdict::Decided(decision) => Ok(Err(decision)),
                Verdict::Shed(shed) => Err(Refusal::Overloaded(shed)),
                Verdict::Waits(ticket) => {
                    let (sender, receiver) = oneshot::channel();
                    state.waiting.insert(ticket, sender);
                    Ok(Ok((ticket, receiver)))
                }
            };
            (waiting, state.shard.has_batches(now))
        });
        let Some((waiting, to_send)) = outcome else { return Answer::Now(Err(Refusal::Restarted)) };
        if to_send {
            self.wake();
        }
        match waiting {
            Err(refusal) => Answer::Now(Err(refusal)),
            Ok(Err(decision)) => Answer::Now(Ok(decision)),
            Ok(Ok((ticket, decision))) => {
                Answer::Later(Box::pin(Waiter { core: self, ticket, decision, over: false }.wait(within)))
            }
        }
    }
}
