//! A primary of the store with its replica: the script on a server, a clock, and what faults do to them.

use std::collections::VecDeque;

use super::faults::Instant;
use super::redis::{Redis, Stored};
use limiter::counter::{Batch, BatchReply, StoreError};

/// Store time at which simulations begin, in microseconds since the epoch.
pub const BEGIN: u64 = 1_700_000_000_000_000;

/// Whether a primary answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Up,
    /// What comes to it waits.
    Stopped,
    Dead,
}

/// A key as it was before a write.
struct Written {
    at: Instant,
    key: Vec<u8>,
    was: Option<Stored>,
}

pub struct Primary {
    server: Redis,
    /// The server that was replaced, which some nodes still ask.
    replaced: Option<Redis>,
    /// The replaced server is stopped.
    pub replaced_stops: bool,
    pub health: Health,
    /// Its clock less the world's, in microseconds.
    pub clock_us: i64,
    /// What its replica may not have yet.
    journal: VecDeque<Written>,
    lag_us: u64,
    script: String,
    /// Grows with each one that takes over.
    replication: u32,
}

impl Primary {
    /// # Errors
    /// When the script cannot be read.
    pub fn new(script: String, replication: u32, lag_us: u64) -> mlua::Result<Self> {
        let server = Redis::running(&script, replication)?;
        let journal = VecDeque::new();
        Ok(Self {
            server,
            replaced: None,
            replaced_stops: false,
            health: Health::Up,
            clock_us: 0,
            journal,
            lag_us,
            script,
            replication,
        })
    }

    /// Its clock, in microseconds since the epoch.
    pub fn clock(&self, now: Instant) -> u64 {
        BEGIN.saturating_add(now).saturating_add_signed(self.clock_us)
    }

    /// Runs a batch now; `old` asks the server that was replaced.
    ///
    /// # Errors
    /// As a store does.
    pub fn run(&mut self, batch: &Batch, now: Instant, old: bool) -> Result<BatchReply, StoreError> {
        let clock = self.clock(now);
        if old {
            // Without a replaced server, that server has become a replica since.
            return self.replaced.as_ref().map_or(Err(StoreError::NotApplied), |server| server.run(batch, clock));
        }
        let answer = self.server.run(batch, clock);
        let written = self.server.take_journal();
        self.journal.extend(written.into_iter().map(|(key, was)| Written { at: now, key, was }));
        while self.journal.front().is_some_and(|written| written.at + self.lag_us < now) {
            self.journal.pop_front();
        }
        answer
    }

    /// A replica takes over that has what was written until `since`.
    pub fn fail_over(&mut self, since: Instant) {
        while let Some(Written { key, was, .. }) = self.journal.pop_back_if(|written| written.at > since) {
            self.server.put_back(key, was);
        }
        self.journal.clear();
        self.begin_anew();
    }

    /// A replica takes over that has what was written until `since`, and the old one goes on beside it.
    ///
    /// # Errors
    /// When the script cannot be read.
    pub fn split(&mut self, since: Instant) -> mlua::Result<()> {
        let old = Redis::running(&self.script, self.replication)?;
        old.set_data(self.server.data());
        self.replaced = Some(old);
        self.fail_over(since);
        Ok(())
    }

    /// Fences the replaced server, if it runs.
    pub fn fence(&self, now: Instant) {
        if let Some(replaced) = self.replaced.as_ref().filter(|_| !self.replaced_stops) {
            replaced.fence(self.replication, self.clock(now));
        }
    }

    /// The one that was replaced is gone.
    pub fn heal_split(&mut self) {
        (self.replaced, self.replaced_stops) = (None, false);
    }

    /// It starts again with another replication id.
    pub fn begin_anew(&mut self) {
        self.replication += 1;
        self.server.take_over(self.replication);
    }

    /// Keeps the keys of which this says so, and answers which it forgot.
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

    /// Takes these keys from another primary.
    pub fn take_from(&mut self, other: &Self, these: impl Fn(&[u8]) -> bool) {
        let moved = other.server.data().keys.into_iter().filter(|(key, _)| these(key));
        moved.for_each(|(key, value)| self.server.put_back(key, Some(value)));
    }

    pub fn set_full(&mut self, full: bool) {
        self.server.set_full(full);
    }
}
