//! A region on virtual time: cores, primaries, what is on its way between them, and the queue of what happens next.
//!
//! Nothing here knows a clock or randomness but what the seed began: one seed, one history.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::dice::{Dice, Stream};
use super::faults::{Instant, Kind};
use super::ledger::{Counter, Ledger};
use super::meddler::Meddler;
use super::node::Holder;
use super::plan::{DOMAIN, Plan};
use super::primary::Primary;
use counter_script::{COUNTERS, Tags};
use limiter::rules::{EffectiveLimit, Limit};
use limiter::{Effects, Event as ShardEvent, LaneId, Outgoing, Reply, Revision, TICK};

/// What happens at an instant.
pub(super) enum Event {
    /// A client asks.
    Ask(usize),
    /// A client waits no longer than this.
    Deadline(usize),
    /// A client does not wait.
    HangUp(usize),
    /// The next client comes.
    Client,
    /// The flusher of a core runs.
    Flusher {
        holder: usize,
        boot: u32,
        wake: Wake,
    },
    /// A core probes the primaries that its breakers are open for.
    Probe {
        holder: usize,
        boot: u32,
    },
    Arrives(Parcel),
    /// The result of a batch reaches its core.
    Replied {
        holder: usize,
        boot: u32,
        reply: Reply,
    },
    /// A batch got no answer in time.
    Overdue(Parcel),
    /// A node notices that a primary was replaced.
    Notices {
        node: usize,
        primary: usize,
    },
    /// From here on the node asks the new primary.
    Follows {
        node: usize,
        primary: usize,
    },
    /// A fault begins or ends.
    Begins(usize),
    Ends(usize),
    /// The rules of an edit reach a core.
    Rules {
        holder: usize,
        edit: usize,
    },
}

/// Why a flusher runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    Flush,
    DelayOver,
    Tick,
}

/// A batch on its way.
#[derive(Clone)]
pub(super) struct Parcel {
    pub holder: usize,
    pub boot: u32,
    pub lane: LaneId,
    pub batch: limiter::counter::Batch,
    pub primary: usize,
    /// It goes to the server that was replaced.
    pub old: bool,
    /// It came to a server that stood still, and runs when that wakes.
    pub held: bool,
    /// It comes a second time, and nobody waits for its answer.
    pub again: bool,
}

pub struct World<'m> {
    pub plan: Plan,
    pub(super) now: Instant,
    queue: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    pub(super) holders: Vec<Holder>,
    pub(super) primaries: Vec<Primary>,
    /// The primary of each lane.
    pub(super) lanes: Vec<usize>,
    /// What came to primaries that are stopped.
    pub(super) held: Vec<Vec<Parcel>>,
    /// Which faults are under way.
    pub(super) active: Vec<bool>,
    /// Nodes that still ask a replaced server, each with the primary.
    pub(super) unaware: BTreeSet<(usize, usize)>,
    /// When the first node noticed that a primary was replaced, by primary.
    pub(super) noticed: BTreeMap<usize, Instant>,
    /// Drawn when a fault began: since when a replica does not know.
    pub(super) behind: Vec<Instant>,
    pub(super) traffic: Dice,
    pub(super) network: Dice,
    pub(super) chaos: Dice,
    pub(super) names: Dice,
    pub(super) counters: BTreeMap<Vec<u8>, Counter>,
    pub(super) tags: Tags,
    pub ledger: Ledger,
    pub(super) meddler: &'m mut dyn Meddler,
    /// What happened, line by line, where somebody wants to read it.
    story: Option<String>,
}

impl<'m> World<'m> {
    /// # Errors
    /// When the script cannot be read.
    pub fn new(plan: Plan, meddler: &'m mut dyn Meddler, tells: bool) -> mlua::Result<Self> {
        let stream = |stream| Dice::new(plan.seed, stream);
        let mut names = stream(Stream::Names);
        let script = meddler.script(COUNTERS.text().to_owned());
        let replication = |at: usize| u32::try_from(at * 1000 + 1).unwrap_or(1);
        let primaries = (0..plan.primaries).map(|at| Primary::new(script.clone(), replication(at), plan.lag_us));
        let primaries = primaries.collect::<mlua::Result<Vec<_>>>()?;
        let holders = (0..plan.holders()).map(|at| {
            let mut config = Holder::config(&plan, &mut names);
            meddler.config(&mut config);
            let notices = meddler.notices_suspension();
            Holder::new(&plan, at, config, notices, &mut names)
        });
        let mut world = Self {
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            holders: holders.collect(),
            lanes: (0..usize::from(plan.lanes)).map(|lane| lane % plan.primaries).collect(),
            held: primaries.iter().map(|_| Vec::new()).collect(),
            primaries,
            active: vec![false; plan.faults.len()],
            behind: vec![0; plan.faults.len()],
            unaware: BTreeSet::new(),
            noticed: BTreeMap::new(),
            traffic: stream(Stream::Traffic),
            network: stream(Stream::Network),
            chaos: stream(Stream::Faults),
            names,
            counters: counters(&plan),
            tags: Tags::new(plan.lanes),
            ledger: Ledger::default(),
            meddler,
            story: tells.then(String::new),
            plan,
        };
        world.begin();
        Ok(world)
    }

    fn begin(&mut self) {
        for at in 0..self.plan.faults.len() {
            let fault = &self.plan.faults[at];
            let (begin, end) = (fault.begin, fault.end);
            self.at(begin, Event::Begins(at));
            self.at(end, Event::Ends(at));
        }
        for holder in 0..self.holders.len() {
            self.hear(holder, 0);
            for edit in 1..self.plan.edits.len() {
                let at = self.plan.edits[edit].at + self.chaos.between(0, 50_000);
                self.at(at, Event::Rules { holder, edit });
            }
            self.keep(holder);
        }
        self.at(0, Event::Client);
    }

    /// What a core does as long as it lives.
    pub(super) fn keep(&mut self, holder: usize) {
        let boot = self.holders[holder].boot;
        let jitter = self.names.between(0, 50_000);
        self.at(self.now + jitter, Event::Flusher { holder, boot, wake: Wake::Tick });
        self.at(self.now + jitter, Event::Probe { holder, boot });
    }

    pub(super) fn at(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), event);
    }

    pub(super) fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.story.is_some() {
            let (now, line) = (self.now, line(self));
            if let Some(story) = &mut self.story {
                // Writing to a text cannot fail.
                let _ = writeln!(story, "{:>7}.{:03} ms  {line}", now / 1000, now % 1000);
            }
        }
    }

    /// What happened, so far.
    pub fn take_story(&mut self) -> String {
        self.story.take().unwrap_or_default()
    }

    /// Lets happen what does until an instant.
    pub(super) fn run_until(&mut self, end: Instant) {
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.happens(event);
        }
        self.now = end;
    }

    fn happens(&mut self, event: Event) {
        if let Some(until) = self.stopped(&event) {
            self.at(until, event);
            return;
        }
        match event {
            Event::Ask(asked) => self.ask(asked),
            Event::Deadline(asked) => self.deadline(asked),
            Event::HangUp(asked) => self.hang_up(asked),
            Event::Client => self.client(),
            Event::Flusher { holder, boot, wake } => self.flush(holder, boot, wake),
            Event::Probe { holder, boot } => self.probe_primaries(holder, boot),
            Event::Arrives(parcel) => self.arrives(parcel),
            Event::Replied { holder, boot, reply } => self.replied(holder, boot, reply),
            Event::Overdue(parcel) => self.overdue(parcel),
            Event::Notices { node, primary } => self.notices(node, primary),
            Event::Follows { node, primary } => self.follows(node, primary),
            Event::Begins(fault) => self.begins(fault),
            Event::Ends(fault) => self.ends(fault),
            Event::Rules { holder, edit } => self.hear(holder, edit),
        }
    }

    /// Until when the core is stopped that this happens to.
    fn stopped(&self, event: &Event) -> Option<Instant> {
        let holder = match event {
            Event::Ask(asked) | Event::Deadline(asked) | Event::HangUp(asked) => self.ledger.asked.get(*asked)?.holder,
            Event::Flusher { holder, .. }
            | Event::Probe { holder, .. }
            | Event::Replied { holder, .. }
            | Event::Rules { holder, .. } => *holder,
            Event::Overdue(parcel) => parcel.holder,
            Event::Notices { node, .. } | Event::Follows { node, .. } => node * self.plan.cores,
            Event::Client | Event::Arrives(_) | Event::Begins(_) | Event::Ends(_) => return None,
        };
        Some(self.holders.get(holder)?.stopped_until).filter(|until| *until > self.now)
    }

    /// The core comes to know rules.
    pub(super) fn hear(&mut self, holder: usize, edit: usize) {
        let edit = &self.plan.edits[edit];
        let (book, revision) = (edit.book.clone(), edit.book.revision);
        let boot = self.holders[holder].boot;
        // A core that was started meanwhile knows what came before.
        let known = self.ledger.told.iter().any(|told| (told.0, told.1) == (holder, boot) && told.2 >= revision);
        if !self.holders[holder].alive || known {
            return;
        }
        if self.meddler.hears(holder, revision) {
            self.handle(holder, ShardEvent::Rules(book));
        }
        self.ledger.told.push((holder, boot, revision, self.now));
        self.tell(|_| format!("core {holder} hears of revision {revision}"));
    }

    /// Something happens to a core's shard, and what must be done then is done.
    pub(super) fn handle(&mut self, holder: usize, event: ShardEvent) {
        let it = &mut self.holders[holder];
        let effects = it.shard.handle(event, it.clock(self.now));
        self.carry_out(holder, effects);
    }

    pub(super) fn carry_out(&mut self, holder: usize, effects: Effects<usize>) {
        let Effects { send, decided, flush, flush_in } = effects;
        for (check, decision) in decided {
            self.holders[holder].waiting.remove(&check);
            self.decided(check, &decision);
        }
        let it = &mut self.holders[holder];
        let (boot, stats) = (it.boot, it.shard.stats());
        self.ledger.most_keys = self.ledger.most_keys.max(stats.keys);
        self.ledger.most_waiting = self.ledger.most_waiting.max(stats.waiting);
        if flush && !std::mem::replace(&mut it.flush_pending, true) {
            let soon = self.network.between(0, 20);
            self.at(self.now + soon, Event::Flusher { holder, boot, wake: Wake::Flush });
        }
        if let Some(delay) = flush_in {
            self.at(self.now + delay, Event::Flusher { holder, boot, wake: Wake::DelayOver });
        }
        for Outgoing { lane, batch } in send {
            let primary = self.lanes[usize::from(lane.0)];
            let old = self.asks_the_old(holder, primary);
            self.send(Parcel { holder, boot, lane, batch, primary, old, held: false, again: false });
        }
    }

    fn flush(&mut self, holder: usize, boot: u32, wake: Wake) {
        let it = &mut self.holders[holder];
        if it.boot != boot || !it.alive {
            return;
        }
        it.flush_pending = false;
        if wake == Wake::Tick {
            let tick = u64::try_from(TICK.as_micros()).unwrap_or(u64::MAX);
            self.at(self.now + tick, Event::Flusher { holder, boot, wake });
        }
        self.handle(
            holder,
            match wake {
                Wake::Flush => ShardEvent::Flush,
                Wake::DelayOver => ShardEvent::FlushDelayOver,
                Wake::Tick => ShardEvent::Tick,
            },
        );
    }

    pub(super) fn is_faulty(&self, is: impl Fn(&Kind) -> bool) -> bool {
        self.plan.faults.iter().zip(&self.active).any(|(fault, active)| *active && is(&fault.kind))
    }

    pub(super) fn lane_of(&self, key: &[u8]) -> LaneId {
        self.tags.of(key)
    }
}

/// The counter of a limit that a user's checks meet.
pub fn counter(plan: &Plan, limit: usize, user: u32) -> Counter {
    let all = plan.edits.first().map(|edit| edit.limits.as_slice()).unwrap_or_default();
    let shared = all.get(limit).is_some_and(|limit| limit.per.is_empty());
    Counter { limit, user: (!shared).then_some(user) }
}

/// Every counter that there can be, by its name in the store.
fn counters(plan: &Plan) -> BTreeMap<Vec<u8>, Counter> {
    let mut counters = BTreeMap::new();
    let all: &[Limit] = plan.edits.first().map(|edit| edit.limits.as_slice()).unwrap_or_default();
    for (at, limit) in all.iter().enumerate() {
        let effective = EffectiveLimit::new(&DOMAIN.into(), limit, None, Revision(1));
        // Probes bring users of their own.
        for user in 0..plan.users + super::run::FRESH_USERS {
            let (name, mut key) = (user.to_string(), Vec::new());
            effective.key(limit.per.iter().map(|_| name.as_str()), &mut key);
            counters.insert(key, counter(plan, at, user));
        }
    }
    counters
}
