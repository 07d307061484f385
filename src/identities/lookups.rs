//! Look-ups of keys at the replica of the region: one at a time for each key, within a budget.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use limiter::NodeTime;
use plane::{CachedKey, KeyHash};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::budget::Budget;
use super::{Entry, Shared, answer};
use crate::ports::Shutdown;
use crate::ports::identity::KeyAnswer;
use crate::ports::plane::{DatabaseError, KeyDirectory};

/// The most look-ups in flight.
const MAX_IN_FLIGHT: usize = 64;
/// The most checks that wait for one look-up.
const MAX_WAITING: usize = 1000;
/// After a failed look-up, how long further keys are answered without one.
const PAUSE: Duration = Duration::from_millis(500);

/// A key to look up, and who waits for it.
pub(super) struct LookUp {
    pub hash: KeyHash,
    pub answer: oneshot::Sender<KeyAnswer>,
}

/// The look-ups of a node.
pub(super) struct Lookups {
    shared: Arc<Shared>,
    directory: Arc<dyn KeyDirectory>,
    queued: mpsc::Receiver<LookUp>,
    budget: Budget,
    /// Who waits for each key that is being looked up.
    waiting: HashMap<KeyHash, Vec<oneshot::Sender<KeyAnswer>>>,
    /// The key of each look-up in flight.
    running: HashMap<tokio::task::Id, KeyHash>,
    paused_until: NodeTime,
}

type Found = (KeyHash, NodeTime, Result<CachedKey, DatabaseError>);

impl Lookups {
    pub fn new(shared: Arc<Shared>, directory: Arc<dyn KeyDirectory>, queued: mpsc::Receiver<LookUp>) -> Self {
        let budget = Budget::new(shared.config.lookups);
        let (waiting, running) = (HashMap::new(), HashMap::new());
        Self { shared, directory, queued, budget, waiting, running, paused_until: NodeTime::default() }
    }

    /// Looks keys up until `shutdown`.
    pub async fn run(&mut self, mut shutdown: Shutdown) {
        let mut running: JoinSet<Found> = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                Some(found) = running.join_next_with_id(), if !running.is_empty() => match found {
                    Ok((id, found)) => {
                        self.running.remove(&id);
                        self.found(found);
                    }
                    // Nobody waits for a look-up that has panicked.
                    Err(error) => {
                        if let Some(hash) = self.running.remove(&error.id()) {
                            self.found((hash, NodeTime::default(), Err(DatabaseError::Unavailable(error.to_string()))));
                        }
                    }
                },
                Some(look_up) = self.queued.recv(), if running.len() < MAX_IN_FLIGHT => {
                    self.begin(look_up, &mut running);
                }
            }
        }
    }

    fn begin(&mut self, LookUp { hash, answer: waiter }: LookUp, running: &mut JoinSet<Found>) {
        // Another check may have looked the key up meanwhile.
        if let Some(known) = answer(self.shared.known(&hash, false)) {
            let _ = waiter.send(known);
            return;
        }
        if let Some(waiting) = self.waiting.get_mut(&hash) {
            if waiting.len() < MAX_WAITING {
                waiting.push(waiter);
            } else {
                self.shared.metrics.over_budget.inc();
                let _ = waiter.send(self.shared.without_look_up(&hash));
            }
            return;
        }
        let now = self.shared.clock.now();
        if now < self.paused_until || !self.budget.take(now) {
            self.shared.metrics.over_budget.inc();
            let _ = waiter.send(self.shared.without_look_up(&hash));
            return;
        }
        self.waiting.insert(hash, vec![waiter]);
        let directory = Arc::clone(&self.directory);
        let state = Arc::clone(&self.shared.states.borrow());
        let task = running.spawn(async move { (hash, now, directory.look_up(hash, state).await) });
        self.running.insert(task.id(), hash);
    }

    fn found(&mut self, (hash, looked_up_at, found): Found) {
        let metrics = &self.shared.metrics;
        let answered = match found {
            Ok(key) => {
                if key.found.is_some() {
                    metrics.found.inc()
                } else {
                    metrics.missed.inc()
                }
                let forgotten = self.shared.states.borrow().recent().forgotten();
                self.shared.cache.put(hash, Entry { key, looked_up_at }, forgotten, self.shared.config.stale);
                answer(self.shared.known(&hash, false))
            }
            Err(error) => {
                metrics.failed.inc();
                let now = self.shared.clock.now();
                if now >= self.paused_until {
                    tracing::warn!(%error, "an API key cannot be looked up");
                }
                self.paused_until = now.plus(u64::try_from(PAUSE.as_micros()).unwrap_or(u64::MAX));
                None
            }
        };
        // A replica that lags behind a forgotten change does not settle the matter.
        let answered = answered.unwrap_or_else(|| self.shared.without_look_up(&hash));
        for waiter in self.waiting.remove(&hash).unwrap_or_default() {
            let _ = waiter.send(answered.clone());
        }
    }
}
