//! A check at its core: it is asked, waits, and is answered.

use super::ledger::{Asked, Decided, Limited, Said};
use super::plan::DOMAIN;
use super::world::{Event, World};
use limiter::{Check, Decision, Descriptor, Effects, Event as ShardEvent, Ticket, Verdict};

impl World<'_> {
    /// A check comes to its core.
    pub(super) fn ask(&mut self, at: usize) {
        let Some(asked) = self.ledger.asked.get_mut(at) else { return };
        asked.came = self.now;
        let Asked { holder, boot, family, user, hits, within_us, .. } = *asked;
        if self.holders[holder].boot != boot || !self.holders[holder].alive {
            self.answer(at, Said::Gone);
            return;
        }
        let name = user.to_string();
        let entries = [("kind", family.name()), ("user", name.as_str())];
        let descriptors = [Descriptor { entries: &entries, ordered: true, hits, limit: None }];
        let check = Check { domain: DOMAIN, descriptors: &descriptors };
        let it = &mut self.holders[holder];
        let now = it.clock(self.now);
        let tags = &self.tags;
        let verdict = it.shard.check(&check, |key| tags.of(key), now, || at);
        match verdict {
            Verdict::Decided(decision) => self.decided(at, &decision),
            Verdict::Overloaded(_) => self.answer(at, Said::Overload),
            Verdict::Waits(ticket) => {
                it.waiting.insert(at, ticket);
                self.at(self.now + within_us, Event::Deadline(at));
                if self.traffic.chance(self.plan.traffic.hang_up) && !self.ledger.asked[at].probe {
                    let after = self.traffic.between(0, within_us);
                    self.at(self.now + after, Event::HangUp(at));
                }
            }
        }
        let it = &self.holders[holder];
        let flush = it.shard.needs_flush(it.clock(self.now));
        self.carry_out(holder, Effects { flush, ..Effects::default() });
    }

    fn ticket(&self, at: usize) -> Option<(usize, Ticket)> {
        let Asked { holder, boot, .. } = *self.ledger.asked.get(at)?;
        let it = self.holders.get(holder).filter(|it| it.boot == boot)?;
        Some((holder, *it.waiting.get(&at)?))
    }

    pub(super) fn deadline(&mut self, at: usize) {
        let Some((holder, ticket)) = self.ticket(at) else { return };
        if !self.meddler.keeps_deadline(&self.ledger.asked[at]) {
            return;
        }
        self.handle(holder, ShardEvent::Expire(ticket));
    }

    pub(super) fn hang_up(&mut self, at: usize) {
        let Some((holder, ticket)) = self.ticket(at) else { return };
        self.holders[holder].waiting.remove(&at);
        self.answer(at, Said::Gone);
        self.handle(holder, ShardEvent::Cancel(ticket));
    }

    pub(super) fn decided(&mut self, at: usize, decision: &Decision) {
        let Decision { allowed, degraded, revision, .. } = *decision;
        let all = self.plan.edits.first().map(|edit| edit.limits.as_slice()).unwrap_or_default();
        let place = |name: &str| all.iter().position(|limit| limit.name == name).unwrap_or(usize::MAX);
        let limits = decision.limits.iter().map(|status| Limited {
            limit: place(&status.effective.name),
            of: status.limit(),
            refused: status.denied,
        });
        let mut decided = Decided { allowed, degraded, revision, limits: limits.collect() };
        self.meddler.decided(&self.ledger.asked[at], &mut decided);
        if let Some(wait) = decision.retry_after.filter(|_| !decided.allowed) {
            self.try_again(at, wait);
        }
        self.answer(at, Said::Decided(decided));
    }

    pub(super) fn answer(&mut self, at: usize, said: Said) {
        let now = self.now;
        self.tell(|world| world.describe(at, &said));
        if let Some(asked) = self.ledger.asked.get_mut(at) {
            asked.answer = Some((now, said));
        }
    }

    fn describe(&self, at: usize, said: &Said) -> String {
        let Asked { at: then, holder, family, user, hits, .. } = self.ledger.asked[at];
        let waited = self.now - then;
        let said = match said {
            Said::Overload => "shed".to_owned(),
            Said::Gone => "gone".to_owned(),
            Said::Decided(decided) => {
                let all = &self.plan.edits[0].limits;
                let by: Vec<&str> = decided
                    .limits
                    .iter()
                    .filter(|l| l.refused)
                    .filter_map(|l| all.get(l.limit))
                    .map(|l| l.name.as_str())
                    .collect();
                let word = if decided.allowed { "allowed".to_owned() } else { format!("refused by {}", by.join(", ")) };
                let alone = if decided.degraded { ", without the store" } else { "" };
                format!("{word}{alone}, revision {}", decided.revision)
            }
        };
        format!("core {holder}: {} user {user} asks {hits}, waits {waited} us: {said}", family.name())
    }
}
