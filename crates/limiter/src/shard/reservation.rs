//! A check over several limits: tokens are reserved at every key, and given back when one refuses.
//!
//! All or nothing holds within a **group**: all of a check, or each descriptor where the domain says `charge: each`.

use std::sync::Arc;

use smallvec::SmallVec;

use super::key_table::Key;
use super::shard_core::Shard;
use crate::decision::{Check, Decision, LimitStatus};
use crate::invariant::{self, Invariant};
use crate::key::{KeyState, Outcome, Receipt, Waiting};
use crate::revision::Revision;
use crate::rules::{Charge, Effective, Mode, RuleBook, Subject, descriptor_limit, push_values};
use crate::time::NodeTime;

/// A check that has its limits, and waits for what it lacks.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    pub revision: Revision,
    pub domain: Option<Arc<str>>,
    pub parts: SmallVec<[Part; 1]>,
    /// What to report: a part and the descriptor that it matched.
    pub shown: SmallVec<[(usize, usize); 2]>,
    /// Parts that wait for the store.
    pub waits: usize,
    /// A part found no room in the table.
    pub homeless: bool,
    /// Some part was decided without the store.
    pub degraded: bool,
}

/// One counter's part of a check.
#[derive(Debug)]
pub(super) struct Part {
    /// `None` where no counter is needed to decide.
    pub slot: Option<u32>,
    pub group: usize,
    pub hits: u64,
    pub effective: Arc<Effective>,
    pub state: PartState,
    /// Hits left of this node's share, where it decided without the store.
    pub left: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartState {
    Untried,
    /// A bucket's, asked once the others of its group have granted: what goes back to a bucket may have been absorbed by
    /// its refill, so a check that another limit refuses must not have been charged there.
    Deferred,
    Waits,
    Granted(Receipt),
    Refused(Option<NodeTime>),
    /// The store did not decide.
    Failed,
}

impl Part {
    /// Waits at its key for the store.
    fn wait(&mut self, at: usize, slot: u32, ticket: u64, key: &mut KeyState) {
        self.state = PartState::Waits;
        let effective = Arc::clone(&self.effective);
        key.ask(Waiting { ticket, slot, part: at, hits: self.hits, effective, resent: false });
    }

    /// Whether it makes its group refused.
    fn refuses(&self) -> bool {
        self.effective.mode == Mode::Enforce && matches!(self.state, PartState::Refused(_))
    }
}

impl Shard {
    /// Every limit that applies, with its counter's slot; `None` when no more keys can be held.
    pub(super) fn gather(
        &mut self,
        book: &RuleBook,
        check: &Check<'_>,
        lane_of: impl Fn(&[u8]) -> u16,
    ) -> Option<UnderWay> {
        let domain = check.domain;
        let subject =
            check.descriptors.iter().map(|d| Subject { domain, entries: d.entries, ordered: d.ordered, hits: d.hits });
        let subjects: SmallVec<[Subject<'_>; 4]> = subject.collect();
        let mut applied = Vec::new();
        let known = book.applying(domain, &subjects, &mut applied);
        let each = known.is_some_and(|(_, charge)| charge == Charge::Each);
        let name = known.map(|(name, _)| Arc::clone(name));
        let mut under_way = UnderWay { revision: book.revision, domain: name, ..UnderWay::default() };
        let mut applied = applied.into_iter().peekable();
        for (at, descriptor) in check.descriptors.iter().enumerate() {
            let group = if each { at } else { 0 };
            let mut name = std::mem::take(&mut self.name);
            let own = descriptor.limit.as_ref().zip(under_way.domain.as_ref());
            let own = own.map(|((limit, period), name)| descriptor_limit(name, *limit, period.clone(), book.revision));
            while let Some(limit) = applied.next_if(|a| a.descriptor == at) {
                if own.is_none() {
                    let values = limit.per.iter().map(|key| subjects[at].value(key).unwrap_or_default());
                    limit.effective.key(values, &mut name);
                    self.add_part(&mut under_way, at, group, descriptor.hits, limit.effective, &name, &lane_of);
                }
            }
            if let Some(effective) = own.map(Arc::new) {
                name.clear();
                name.extend_from_slice(&effective.key_prefix);
                push_values(&mut name, descriptor.entries.iter().flat_map(|(key, value)| [*key, *value]));
                self.add_part(&mut under_way, at, group, descriptor.hits, &effective, &name, &lane_of);
            }
            self.name = name;
        }
        if under_way.homeless {
            self.unpin(&under_way);
            return None;
        }
        Some(under_way)
    }

    #[expect(clippy::too_many_arguments, reason = "one call site, and a struct would only name them twice")]
    fn add_part(
        &mut self,
        under_way: &mut UnderWay,
        descriptor: usize,
        group: usize,
        hits: u32,
        effective: &Arc<Effective>,
        name: &[u8],
        lane_of: impl Fn(&[u8]) -> u16,
    ) {
        let slot = if effective.decides_alone() {
            None
        } else {
            let slot = self.activate(effective, name, lane_of);
            under_way.homeless |= slot.is_none();
            slot
        };
        // Descriptors that share a counter ask for the sum.
        let shared = under_way.parts.iter().position(|p| slot.is_some() && p.slot == slot && p.group == group);
        let part = shared.unwrap_or_else(|| {
            let effective = Arc::clone(effective);
            // No other part's activation may take its slot.
            if let Some(key) = slot.and_then(|slot| self.keys.get_mut(slot)) {
                key.pins += 1;
            }
            under_way.parts.push(Part { slot, group, hits: 0, effective, state: PartState::Untried, left: None });
            under_way.parts.len() - 1
        });
        under_way.parts[part].hits += u64::from(hits);
        under_way.shown.push((part, descriptor));
    }

    fn activate(&mut self, effective: &Arc<Effective>, name: &[u8], lane_of: impl Fn(&[u8]) -> u16) -> Option<u32> {
        let mut spare = Vec::new();
        let make = || Key::new(name, lane_of(name), effective);
        let slot = self.keys.activate(name, make, &mut spare);
        for slot in spare {
            self.queue(slot);
        }
        let slot = slot?;
        let key = self.keys.get_mut(slot)?;
        if key.state.adopt(effective) {
            self.queue(slot);
        }
        Some(slot)
    }

    /// Takes the tokens of every part, or queues it. Returns whether something waits for the store.
    pub(super) fn reserve(&mut self, under_way: &mut UnderWay, ticket: u64, now: NodeTime) -> bool {
        let revision = under_way.revision;
        let UnderWay { parts, waits, .. } = under_way;
        // What is known to be refused is refused before anything is charged.
        for part in parts.iter_mut() {
            let refusal = match part.slot {
                None => (part.effective.limit == 0).then_some(None),
                Some(slot) => self.keys.get_mut(slot).and_then(|key| key.state.refuses(part.hits, revision, now)),
            };
            if let Some(fits_at) = refusal {
                part.state = PartState::Refused(fits_at);
            }
        }
        let refused: Vec<usize> = parts.iter().filter(|p| p.refuses()).map(|p| p.group).collect();
        let mut waiting_groups = Vec::new();
        // Windows first.
        let count = parts.len();
        let order = [false, true].into_iter().flat_map(|buckets| (0..count).map(move |at| (at, buckets)));
        for (at, buckets) in order {
            let part = &mut parts[at];
            let passed = part.effective.is_bucket() != buckets || part.state != PartState::Untried;
            if passed || refused.contains(&part.group) {
                continue;
            }
            if buckets && waiting_groups.contains(&part.group) {
                part.state = PartState::Deferred;
                continue;
            }
            let Some((slot, key)) = part.slot.and_then(|slot| Some((slot, self.keys.get_mut(slot)?))) else {
                part.state = PartState::Granted(Receipt::Free);
                continue;
            };
            let to_send = match key.state.spend(part.hits, revision, now) {
                Some(receipt) => {
                    part.state = PartState::Granted(receipt);
                    key.state.wants_refill()
                }
                None => {
                    part.wait(at, slot, ticket, &mut key.state);
                    *waits += 1;
                    if !buckets && part.effective.mode == Mode::Enforce {
                        waiting_groups.push(part.group);
                    }
                    true
                }
            };
            if to_send {
                self.queue(slot);
            }
        }
        *waits > 0
    }

    /// Asks the buckets whose groups nothing has refused. Returns whether something waits now.
    fn ask_deferred(&mut self, under_way: &mut UnderWay, ticket: u64, now: NodeTime) -> bool {
        let UnderWay { parts, waits, degraded, .. } = under_way;
        if parts.iter().any(|part| part.state == PartState::Deferred) {
            // What the store did not decide of the windows may refuse, too.
            *degraded |= self.decide_failed(parts, now);
        }
        let refused: Vec<usize> = parts.iter().filter(|p| p.refuses()).map(|p| p.group).collect();
        for (at, part) in parts.iter_mut().enumerate().filter(|(_, part)| part.state == PartState::Deferred) {
            part.state = PartState::Untried;
            let key = part.slot.and_then(|slot| Some((slot, self.keys.get_mut(slot)?)));
            if let Some((slot, key)) = key.filter(|_| !refused.contains(&part.group)) {
                part.wait(at, slot, ticket, &mut key.state);
                *waits += 1;
                self.queue(slot);
            }
        }
        *waits > 0
    }

    /// A part that waited has its outcome; the last one settles the check.
    pub(super) fn land(&mut self, waiting: Waiting, outcome: Outcome, now: NodeTime) {
        let Some(under_way) = self.checks.get_mut(&waiting.ticket) else {
            // Nobody waits any more: what was granted goes back.
            if let Outcome::Granted(receipt) = outcome {
                self.refund(waiting.slot, waiting.hits, receipt, now);
            }
            return;
        };
        let Some(part) = under_way.parts.get_mut(waiting.part) else { return };
        part.state = match outcome {
            Outcome::Granted(receipt) => PartState::Granted(receipt),
            Outcome::Refused(fits_at) => PartState::Refused(fits_at),
            Outcome::Failed => PartState::Failed,
        };
        under_way.waits -= 1;
        if under_way.waits == 0
            && let Some(mut under_way) = self.checks.remove(&waiting.ticket)
        {
            if self.ask_deferred(&mut under_way, waiting.ticket, now) {
                self.checks.insert(waiting.ticket, under_way);
                return;
            }
            self.unpin(&under_way);
            let decision = self.settle(under_way, now);
            self.done.push((waiting.ticket, decision));
        }
    }

    pub(super) fn unpin(&mut self, under_way: &UnderWay) {
        for slot in under_way.parts.iter().filter_map(|part| part.slot) {
            if let Some(key) = self.keys.get_mut(slot) {
                key.pins = key.pins.saturating_sub(1);
            }
        }
    }

    /// Makes the decision of a check all of whose parts are known; what a refused group had reserved goes back.
    pub(super) fn settle(&mut self, mut under_way: UnderWay, now: NodeTime) -> Decision {
        let degraded = self.decide_failed(&mut under_way.parts, now) || under_way.degraded;
        let refused: Vec<usize> = under_way.parts.iter().filter(|p| p.refuses()).map(|p| p.group).collect();
        if !refused.is_empty() {
            for part in under_way.parts.iter_mut().filter(|p| refused.contains(&p.group)) {
                if let (PartState::Granted(receipt), Some(slot)) = (part.state, part.slot) {
                    part.state = PartState::Untried;
                    self.refund(slot, part.hits, receipt, now);
                }
            }
        }
        let kept = |p: &Part| matches!(p.state, PartState::Granted(_)) && refused.contains(&p.group);
        invariant::check(Invariant::I4AllOrNothing, !under_way.parts.iter().any(kept));
        let shown = under_way.shown.iter().map(|(part, descriptor)| (&under_way.parts[*part], *descriptor));
        let limits: Vec<LimitStatus> = shown.map(|(part, descriptor)| self.status(part, descriptor, now)).collect();
        let waits = || limits.iter().filter(|l| l.refused && !l.shadow).map(|l| l.retry_after);
        // The longest wait of all; no wait helps where one limit will never grant.
        let retry_after = waits().collect::<Option<Vec<u64>>>().and_then(|waits| waits.into_iter().max());
        let UnderWay { revision, domain, .. } = under_way;
        Decision { allowed: refused.is_empty(), degraded, revision, domain, retry_after, limits }
    }

    /// Decides what the store did not. Returns whether there was any such part.
    fn decide_failed(&mut self, parts: &mut [Part], now: NodeTime) -> bool {
        let mut degraded = false;
        for at in 0..parts.len() {
            if parts[at].state != PartState::Failed {
                continue;
            }
            degraded = true;
            let debtor = self.next_name();
            let part = &parts[at];
            // Where another limit refuses for sure, nothing need be admitted on this node's own account.
            let refused = parts.iter().any(|p| p.group == part.group && p.refuses());
            let slot = part.slot.filter(|_| !refused);
            let lane = slot.and_then(|slot| Some(self.keys.get_mut(slot)?.lane)).unwrap_or(0);
            let around = self.surroundings(lane, now);
            let key = slot.and_then(|slot| Some((slot, self.keys.get_mut(slot)?)));
            let mut left = None;
            let decided = key.map(|(slot, key)| {
                let decided = key.state.decide_alone(part.hits, &part.effective, &around, debtor);
                left = key.state.left_alone(&part.effective);
                (slot, decided)
            });
            let (hits, most) = (part.hits, part.effective.most());
            parts[at].left = left;
            parts[at].state = match decided {
                Some((slot, decided)) => match decided {
                    Some(receipt) => {
                        if matches!(receipt, Receipt::Local { .. }) {
                            self.after_failure(slot);
                        }
                        PartState::Granted(receipt)
                    }
                    // The store may be back by then.
                    None if hits <= most => PartState::Refused(Some(now.plus(around.lease_us))),
                    None => PartState::Refused(None),
                },
                None => PartState::Untried,
            };
        }
        degraded
    }

    fn status(&mut self, part: &Part, descriptor: usize, now: NodeTime) -> LimitStatus {
        let effective = &part.effective;
        let key = part.slot.and_then(|slot| self.keys.get_mut(slot));
        let alone = if effective.limit == 0 { Some(0) } else { None };
        let (refused, fits_at) = match part.state {
            PartState::Refused(fits_at) => (true, fits_at),
            _ => (false, None),
        };
        LimitStatus {
            effective: Arc::clone(effective),
            descriptor,
            remaining: key.as_ref().map_or(alone, |key| part.left.or_else(|| key.state.remaining(effective))),
            reset: key.map_or(0, |key| key.state.reset(now)),
            refused,
            retry_after: fits_at.map(|at| at.since(now)),
            shadow: effective.mode == Mode::Shadow,
        }
    }

    pub(super) fn refund(&mut self, slot: u32, hits: u64, receipt: Receipt, now: NodeTime) {
        if self.keys.get_mut(slot).is_some_and(|key| key.state.refund(hits, receipt, now)) {
            self.queue(slot);
        }
        self.list(slot);
    }
}
