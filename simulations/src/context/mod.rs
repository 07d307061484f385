//! The context of a simulation: everything that is not part of a region.

mod event;

use std::collections::BTreeMap;
use std::fmt::Write;

use super::bug_injector::BugInjector;
use super::faults::FaultKind;
use super::history::{ClientCheck, History};
use super::ids::{Boot, CheckIndex, CoreId, Instant, RegionIndex};
use super::rng::{Rng, Stream};
use super::scenario::{Asked, LimitSet, Plan};

pub use event::{Event, Packet, PacketKind, RegionAck, RegionMessage, RightsAnswer, RightsQuestion, Wake};

/// The largest number of checks in a simulation without probes. It bounds the time that a seed takes.
const MAX_CHECKS: usize = 4000;

/// The streams of random numbers that events draw from.
pub struct Rngs {
    pub traffic: Rng,
    pub network: Rng,
    pub faults: Rng,
    pub cores: Rng,
    pub hops: Rng,
    pub links: Rng,
    pub descriptors: Rng,
}

/// The state of a fault of the plan.
#[derive(Clone, Copy, Default)]
pub struct FaultState {
    pub active: bool,
    /// Drawn when the fault begins: the replica has the writes until this time.
    pub replicated_until: Instant,
}

/// The clock, the event queue, the plan, the history and the random numbers.
///
/// Methods of a region take the context as an argument. Time and random numbers come from here only, so one seed has
/// one history.
pub struct Context<'b> {
    pub plan: Plan,
    /// The time of the event that happens now.
    pub now: Instant,
    /// The events to come. Those of one instant happen in the order in which they were scheduled.
    queue: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    pub history: History,
    pub rng: Rngs,
    /// By index in the plan.
    pub faults: Vec<FaultState>,
    pub bugs: &'b mut dyn BugInjector,
    /// What happened, one line for each event; `None` if no trace is recorded.
    trace: Option<String>,
}

impl<'b> Context<'b> {
    pub fn new(plan: Plan, bugs: &'b mut dyn BugInjector, record_trace: bool) -> Self {
        let stream = |stream| Rng::new(plan.seed, stream);
        Self {
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            history: History::default(),
            rng: Rngs {
                traffic: stream(Stream::Traffic),
                network: stream(Stream::Network),
                faults: stream(Stream::Faults),
                cores: stream(Stream::Cores),
                hops: stream(Stream::Hops),
                links: stream(Stream::Links),
                descriptors: stream(Stream::Descriptors),
            },
            faults: vec![FaultState::default(); plan.faults.len()],
            bugs,
            trace: record_trace.then(String::new),
            plan,
        }
    }

    /// Schedules an event for a time, or for now if that time is over.
    pub fn schedule_at(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), event);
    }

    /// Schedules an event after a delay in microseconds.
    pub fn schedule_in(&mut self, delay_us: u64, event: Event) {
        self.schedule_at(self.now + delay_us, event);
    }

    /// Removes the next event, sets the clock to its time, and returns it. Returns `None` if there is none until `end`.
    pub fn next_event(&mut self, end: Instant) -> Option<Event> {
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= end)?;
        let ((at, _), event) = entry.remove_entry();
        self.now = at;
        Some(event)
    }

    /// Records a client's check, and schedules it.
    pub fn send_check(&mut self, check: ClientCheck) -> CheckIndex {
        let at = check.sent_at;
        let index = self.history.push_check(check);
        self.schedule_at(at, Event::CheckSent(index));
        index
    }

    /// Draws how long the client waits, records its check, and schedules it.
    pub fn send_client_check(
        &mut self,
        at: Instant,
        core: CoreId,
        boot: Boot,
        (limit_set, asked): (LimitSet, Vec<Asked>),
    ) {
        let deadline = self.plan.deadline_us;
        let is_impatient = self.rng.traffic.chance(self.plan.traffic.impatient);
        let timeout_us = if is_impatient { self.rng.traffic.between(0, deadline) } else { deadline };
        self.send_check(ClientCheck {
            sent_at: at,
            received_at: at,
            timeout_us,
            core,
            boot,
            limit_set,
            asked,
            probe: false,
            answer: None,
        });
    }

    /// True if no client sends further checks, because there are too many.
    pub const fn is_check_limit_reached(&self) -> bool {
        self.history.checks.len() >= MAX_CHECKS
    }

    /// Appends a line to the trace, if one is recorded.
    pub fn trace(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let (now, line) = (self.now, line(self));
            if let Some(trace) = &mut self.trace {
                // Writing to a `String` cannot fail.
                let _ = writeln!(trace, "{:>7}.{:03} ms  {line}", now / 1000, now % 1000);
            }
        }
    }

    /// Appends a line about a region to the trace, if one is recorded.
    pub fn trace_in(&mut self, region: RegionIndex, line: impl FnOnce(&Self) -> String) {
        self.trace(|cx| cx.plan.regions.prefix(region) + &line(cx));
    }

    /// Returns the plan, the history and the trace; the trace is empty if none was recorded.
    pub fn finish(self) -> (Plan, History, String) {
        (self.plan, self.history, self.trace.unwrap_or_default())
    }

    /// Returns the faults of a region that are active.
    pub fn active_faults(&self, region: RegionIndex) -> impl Iterator<Item = &FaultKind> {
        let faults = self.plan.faults.iter().zip(&self.faults);
        faults.filter(move |(fault, state)| state.active && fault.region == region).map(|(fault, _)| &fault.kind)
    }

    /// True if a fault of a region is active for which `is` returns true.
    pub fn is_faulty(&self, region: RegionIndex, is: impl Fn(&FaultKind) -> bool) -> bool {
        self.active_faults(region).any(is)
    }
}
