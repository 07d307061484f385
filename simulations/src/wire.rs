//! The way between cores and primaries: delays, losses, repeats, and servers that do not answer.

use super::faults::{Instant, Kind};
use super::ledger::{Forgot, Granted, Said};
use super::primary::Health;
use super::world::{Event, Parcel, World};
use limiter::counter::{BatchOutcome, BatchReply, Counter, Item, ItemReply, StoreError};
use limiter::{Event as ShardEvent, PROBE_INTERVAL, Reply, StoreTime};

/// What is not sent fails within so many microseconds.
const AT_ONCE_US: u64 = 200;

impl Parcel {
    fn reply(&self, result: Result<BatchReply, StoreError>) -> Reply {
        Reply { lane: self.lane, batch: self.batch.id, result }
    }
}

impl World<'_> {
    /// A batch leaves its core.
    pub(super) fn send(&mut self, mut parcel: Parcel) {
        self.meddler.batch(parcel.holder, &mut parcel.batch);
        let Parcel { holder, boot, primary, old, .. } = parcel;
        let silent = self.holders[holder].breakers[primary].is_open();
        if silent || self.primaries[primary].health == Health::Dead && !old {
            let soon = self.network.between(0, AT_ONCE_US);
            let reply = parcel.reply(Err(StoreError::NotApplied));
            self.at(self.now + soon, Event::Replied { holder, boot, reply });
            return;
        }
        self.at(self.now + self.plan.deadline_us, Event::Overdue(parcel.clone()));
        if self.repeats() {
            let after = self.delay(primary) + self.network.between(0, 2 * self.plan.deadline_us);
            self.at(self.now + after, Event::Arrives(Parcel { again: true, ..parcel.clone() }));
        }
        if !self.is_lost(holder, primary) {
            let delay = self.delay(primary);
            self.at(self.now + delay, Event::Arrives(parcel));
        }
    }

    /// Whether the core's node still asks a server that was replaced.
    pub(super) fn asks_the_old(&self, holder: usize, primary: usize) -> bool {
        self.unaware.contains(&(self.holders[holder].node, primary))
    }

    fn delay(&mut self, of: usize) -> u64 {
        let slow = |kind: &Kind| match kind {
            Kind::Slow { primary, up_to_ms } if primary.is_none_or(|primary| primary == of) => Some(up_to_ms * 1000),
            _ => None,
        };
        let faults = self.plan.faults.iter().zip(&self.active).filter(|(_, active)| **active);
        let slowest = faults.filter_map(|(fault, _)| slow(&fault.kind)).max();
        let longest = slowest.unwrap_or(0).max(self.plan.delay_us);
        self.network.between(longest.min(20), longest)
    }

    fn repeats(&mut self) -> bool {
        let percent = self.percent(|kind| if let Kind::Repeat { percent } = kind { *percent } else { 0 });
        self.network.chance(percent)
    }

    fn is_lost(&mut self, holder: usize, primary: usize) -> bool {
        let of = self.holders[holder].node;
        let cut =
            self.is_faulty(|kind| matches!(kind, Kind::Cut { node, primary: to } if (*node, *to) == (of, primary)));
        let percent = self.percent(|kind| if let Kind::Loss { percent } = kind { *percent } else { 0 });
        self.network.chance(percent) || cut
    }

    fn percent(&self, of: impl Fn(&Kind) -> u32) -> u32 {
        let faults = self.plan.faults.iter().zip(&self.active);
        faults.filter(|(_, active)| **active).map(|(fault, _)| of(&fault.kind)).max().unwrap_or(0)
    }

    /// A batch comes to a primary.
    pub(super) fn arrives(&mut self, parcel: Parcel) {
        let Parcel { holder, boot, lane, primary, old, again, .. } = parcel;
        let owner = self.lanes[usize::from(lane.0)];
        if owner != primary {
            // It is sent on.
            let delay = self.delay(owner);
            self.at(self.now + delay, Event::Arrives(Parcel { primary: owner, old: false, ..parcel }));
            return;
        }
        let held = old && self.primaries[primary].replaced_stops;
        let result = match self.primaries[primary].health {
            _ if held => {
                self.held[primary].push(Parcel { held: true, ..parcel });
                return;
            }
            Health::Stopped if !old => {
                self.held[primary].push(parcel);
                return;
            }
            // The connection breaks.
            Health::Dead if !old => Err(StoreError::Unknown),
            _ => self.run(&parcel, old),
        };
        let reply = parcel.reply(result);
        if !again && !self.is_lost(holder, primary) {
            let delay = self.delay(primary);
            self.at(self.now + delay, Event::Replied { holder, boot, reply });
        }
    }

    fn run(&mut self, parcel: &Parcel, old: bool) -> Result<BatchReply, StoreError> {
        let (now, primary) = (self.now, parcel.primary);
        let answer = self.primaries[primary].run(&parcel.batch, now, old);
        let outcome = answer.as_ref().map(|answer| &answer.outcome);
        if let Ok(BatchOutcome::Ran(answers)) = outcome {
            for (item, answer) in parcel.batch.items.iter().zip(answers) {
                let (ItemReply::Done(grant), Some(counter)) = (answer, self.counters.get(&*item.key)) else {
                    continue;
                };
                let asked =
                    item.asks.iter().zip(&grant.granted).map(|(ask, granted)| ask.hits * u64::from(granted.count));
                let tokens = asked.sum::<u64>() + u64::from(grant.lease);
                let granted = Granted { at: now, tokens, holder: parcel.holder, boot: parcel.boot };
                self.ledger.granted.entry(*counter).or_default().push(granted);
                self.ledger.primary.insert(*counter, primary);
                let fenced = self.noticed.get(&primary).is_some_and(|at| at + self.round_trip_us() < now);
                // A server that wakes runs what its sockets hold before anybody can fence it.
                if old && (!fenced || parcel.held) {
                    let forgot = Forgot { at: now, since: now.saturating_sub(1) };
                    self.ledger.forgot.entry(*counter).or_default().push(forgot);
                }
            }
        }
        self.tell(|world| world.describe_batch(parcel, &answer));
        answer
    }

    fn describe_batch(&self, parcel: &Parcel, answer: &Result<BatchReply, StoreError>) -> String {
        let Parcel { holder, primary, batch, again, .. } = parcel;
        let twice = if *again { " again" } else { "" };
        let mut text = format!("primary {primary}: batch {} of core {holder}{twice}", batch.id);
        match answer.as_ref().map(|answer| &answer.outcome) {
            Err(error) => text += &format!(": {error}"),
            Ok(BatchOutcome::Late) => text += " comes too late",
            Ok(BatchOutcome::Ran(answers)) => {
                let items = batch.items.iter().zip(answers);
                text.extend(items.map(|(item, answer)| self.describe_item(item, answer)));
            }
        }
        text
    }

    fn describe_item(&self, item: &Item, answer: &ItemReply) -> String {
        let counter = self.counters.get(&*item.key);
        let limits = self.plan.edits.first().map(|edit| edit.limits.as_slice()).unwrap_or_default();
        let name = counter.and_then(|counter| limits.get(counter.limit)).map_or("?", |limit| limit.name.as_str());
        let user = counter.and_then(|counter| counter.user).map(|user| format!(" {user}")).unwrap_or_default();
        let back: u64 = match &item.counter {
            Counter::Window { returns, .. } => returns.iter().map(|back| back.tokens).sum(),
            Counter::Bucket { returns, .. } => returns.iter().map(|back| back.hits).sum(),
        };
        let ItemReply::Done(grant) = answer else { return format!("; {name}{user}: {answer:?}") };
        let asked = item.asks.iter().zip(&grant.granted);
        let asked: Vec<String> =
            asked.map(|(ask, granted)| format!("{} of {} x {}", granted.count, ask.count, ask.hits)).collect();
        let mut text =
            format!("; {name}{user}: {} granted", if asked.is_empty() { "none".to_owned() } else { asked.join(", ") });
        if back > 0 {
            text += &format!(", {back} back");
        }
        if grant.lease > 0 {
            text += &format!(", {} lent", grant.lease);
        }
        text + &format!(", {} left", grant.available)
    }

    /// The result of a batch reaches its core.
    pub(super) fn replied(&mut self, holder: usize, boot: u32, mut reply: Reply) {
        if let Ok(answer) = &mut reply.result {
            self.meddler.answer(holder, answer);
        }
        let it = &mut self.holders[holder];
        if it.boot != boot || !it.alive {
            return;
        }
        if reply.result.is_ok() {
            it.breakers[self.lanes[usize::from(reply.lane.0)]].record_answer();
        }
        self.handle(holder, ShardEvent::Reply(reply));
    }

    /// A batch got no reply in time: its outcome is unknown.
    pub(super) fn overdue(&mut self, parcel: Parcel) {
        let Parcel { holder, boot, lane, primary, .. } = parcel;
        let it = &mut self.holders[holder];
        if it.boot != boot || !it.alive {
            return;
        }
        let failed = it.shard.stats().failed_batches;
        self.handle(holder, ShardEvent::Reply(parcel.reply(Err(StoreError::Unknown))));
        let it = &mut self.holders[holder];
        if it.shard.stats().failed_batches > failed {
            it.breakers[primary].record_timeout();
            let id = parcel.batch.id;
            self.tell(|_| format!("core {holder}: batch {id}, lane {lane}, got no answer"));
            if self.meddler.resends(holder) {
                let mut batch = parcel.batch;
                batch.id.0 += 1 << 40;
                batch.not_after = batch.not_after.map(|end| StoreTime(end.0 + 4 * self.plan.deadline_us));
                let delay = self.delay(primary);
                self.at(self.now + delay, Event::Arrives(Parcel { again: true, batch, ..parcel }));
            }
        }
    }

    /// A core probes the primaries that its breakers are open for.
    pub(super) fn probe_primaries(&mut self, holder: usize, boot: u32) {
        if self.holders[holder].boot != boot || !self.holders[holder].alive {
            return;
        }
        let pause = u64::try_from(PROBE_INTERVAL.as_micros()).unwrap_or(u64::MAX);
        self.at(self.now + pause, Event::Probe { holder, boot });
        for primary in 0..self.primaries.len() {
            if self.holders[holder].breakers[primary].is_open()
                && self.answers(holder, primary)
                && !self.is_lost(holder, primary)
                && self.meddler.looks(holder)
            {
                self.holders[holder].breakers[primary].record_answer();
            }
        }
    }

    /// Whether the server that the core asks answers.
    fn answers(&self, holder: usize, primary: usize) -> bool {
        let of = &self.primaries[primary];
        if self.asks_the_old(holder, primary) { !of.replaced_stops } else { of.health == Health::Up }
    }

    /// A primary that was stopped, or the one that it replaced, goes on: what came meanwhile runs.
    pub(super) fn release(&mut self, primary: usize) {
        for parcel in std::mem::take(&mut self.held[primary]) {
            self.arrives(parcel);
        }
    }

    /// A node notices that the primary was replaced, and asks the new one from then on.
    pub(super) fn notices(&mut self, node: usize, primary: usize) {
        if self.unaware.contains(&(node, primary)) {
            self.noticed.entry(primary).or_insert(self.now);
            if self.meddler.fences(node) {
                self.primaries[primary].fence(self.now);
            }
            let delay = self.delay(primary);
            self.at(self.now + delay, Event::Follows { node, primary });
        }
    }

    pub(super) fn follows(&mut self, node: usize, primary: usize) {
        self.unaware.remove(&(node, primary));
        self.tell(|_| format!("node {node} asks the new primary {primary}"));
    }

    /// Clients of a core get no answer any more.
    pub(super) fn lose(&mut self, holder: usize) {
        for asked in self.holders[holder].die() {
            self.answer(asked, Said::Gone);
        }
    }

    /// How long the longest batch and its answer can be under way when nothing is wrong.
    pub(super) const fn round_trip_us(&self) -> Instant {
        2 * self.plan.delay_us
    }
}
