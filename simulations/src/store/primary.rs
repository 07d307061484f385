//! A primary of the store with its replica: a server that runs the script, a clock, and the effects of faults.

use std::collections::VecDeque;

use super::redis::{Redis, Stored};
use crate::ids::Instant;
use limiter::counter::{Batch, BatchReply, StoreError};

/// The state of a primary's server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Up,
    /// Packets to it wait until it goes on.
    Stopped,
    Dead,
}

/// A write that the replica may not have yet.
struct Write {
    at: Instant,
    key: Vec<u8>,
    /// The value before the write.
    previous: Option<Stored>,
}

/// A primary with its replica.
pub struct Primary {
    server: Redis,
    /// The server that was replaced. Some nodes still send batches to it.
    replaced: Option<Redis>,
    /// True if the replaced server is stopped.
    pub replaced_is_stopped: bool,
    pub health: Health,
    /// The store's time at which the simulation begins, in microseconds since the Unix epoch.
    epoch_us: u64,
    /// The primary's clock less the world's, in microseconds.
    pub clock_us: i64,
    /// The writes that the replica may not have yet.
    journal: VecDeque<Write>,
    /// A replica has confirmed that it has the writes until this time.
    confirmed: Instant,
    lag_us: u64,
    script: String,
    /// The replication id. Each server that takes over has the next one.
    replication_id: u32,
}

impl Primary {
    /// # Errors
    /// Returns an error if the script does not compile.
    pub fn new(
        script: String,
        replication_id: u32,
        (lag_us, epoch_us): (u64, u64),
        clock_us: i64,
    ) -> mlua::Result<Self> {
        let server = Redis::with_script(&script, replication_id)?;
        let journal = VecDeque::new();
        Ok(Self {
            server,
            replaced: None,
            replaced_is_stopped: false,
            health: Health::Up,
            epoch_us,
            clock_us,
            journal,
            confirmed: 0,
            lag_us,
            script,
            replication_id,
        })
    }

    /// Returns the primary's clock, in microseconds since the Unix epoch.
    pub fn clock(&self, now: Instant) -> u64 {
        self.epoch_us.saturating_add(now).saturating_add_signed(self.clock_us)
    }

    /// Runs a batch. `on_replaced` is true if it runs on the server that was replaced.
    ///
    /// # Errors
    /// Returns the error that the store replies.
    pub fn run(&mut self, batch: &Batch, now: Instant, on_replaced: bool) -> Result<BatchReply, StoreError> {
        let clock = self.clock(now);
        if on_replaced {
            // If there is no replaced server any more, the old server is a replica now.
            return self.replaced.as_ref().map_or(Err(StoreError::NotApplied), |server| server.run(batch, clock));
        }
        let reply = self.server.run(batch, clock);
        let written = self.server.take_journal();
        self.journal.extend(written.into_iter().map(|(key, previous)| Write { at: now, key, previous }));
        while self.journal.front().is_some_and(|write| write.at + self.lag_us < now) {
            self.journal.pop_front();
        }
        reply
    }

    /// Returns what tells this primary from those that take over from it.
    pub const fn term(&self) -> u32 {
        self.replication_id
    }

    /// Notes that a replica has the writes until `at`.
    pub fn confirm(&mut self, at: Instant) {
        self.confirmed = self.confirmed.max(at);
    }

    /// Returns until when the replica has the writes that has those until `since` and those that were confirmed.
    pub fn replicated_until(&self, since: Instant) -> Instant {
        since.max(self.confirmed)
    }

    /// Lets a replica take over that has the writes until `since`.
    pub fn fail_over(&mut self, since: Instant) {
        while let Some(Write { key, previous, .. }) = self.journal.pop_back_if(|write| write.at > since) {
            self.server.restore(key, previous);
        }
        self.journal.clear();
        self.change_replication_id();
    }

    /// Like [`Self::fail_over`], but the old server goes on beside the new one.
    ///
    /// # Errors
    /// Returns an error if the script does not compile.
    pub fn split(&mut self, since: Instant) -> mlua::Result<()> {
        let old = Redis::with_script(&self.script, self.replication_id)?;
        old.set_data(self.server.data());
        self.replaced = Some(old);
        self.fail_over(since);
        Ok(())
    }

    /// Fences the replaced server, if it runs.
    pub fn fence(&self, now: Instant) {
        if let Some(replaced) = self.replaced.as_ref().filter(|_| !self.replaced_is_stopped) {
            replaced.fence(self.replication_id, self.clock(now));
        }
    }

    /// Removes the server that was replaced.
    pub fn remove_replaced(&mut self) {
        (self.replaced, self.replaced_is_stopped) = (None, false);
    }

    /// Forgets every key for which `keeps` returns false, and returns these keys.
    pub fn forget(&mut self, mut keeps: impl FnMut(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let mut data = self.server.data();
        let mut gone = Vec::new();
        data.keys.retain(|key, _| {
            let keep = keeps(key);
            if !keep {
                gone.push(key.clone());
            }
            keep
        });
        self.server.set_data(data);
        gone
    }

    /// Copies the keys for which `selects` returns true from another primary.
    pub fn copy_from(&mut self, other: &Self, selects: impl Fn(&[u8]) -> bool) {
        let moved = other.server.data().keys.into_iter().filter(|(key, _)| selects(key));
        moved.for_each(|(key, value)| self.server.restore(key, Some(value)));
    }

    /// Sets whether the server accepts no writes.
    pub fn set_full(&mut self, full: bool) {
        self.server.set_full(full);
    }

    fn change_replication_id(&mut self) {
        self.replication_id += 1;
        self.server.set_replication_id(self.replication_id);
    }
}
