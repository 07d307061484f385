//! A check at its core: from its arrival to its answer.

use super::Region;
use crate::context::{Context, Event};
use crate::history::{Answer, ClientCheck, Decided, LimitDecision};
use crate::ids::{CheckIndex, CoreIndex};
use crate::scenario::DOMAIN;
use limiter::{Check, Decision, Descriptor, Effects, Event as ShardEvent, Ticket, Verdict};

impl Region {
    /// Passes a check to its core's shard.
    pub fn receive_check(&mut self, cx: &mut Context<'_>, index: CheckIndex) {
        let Some(check) = cx.history.checks.get_mut(index.0) else { return };
        check.received_at = cx.now;
        let ClientCheck { core, boot, limit_set, ref asked, timeout_us, probe, .. } = *check;
        let asked = asked.clone();
        let core = core.core;
        if !self.cores[core.0].is_running(boot) {
            answer(cx, index, Answer::Abandoned);
            return;
        }
        let entries: Vec<Vec<(&str, String)>> = asked.iter().map(|asked| asked.entries(limit_set)).collect();
        let entries: Vec<Vec<(&str, &str)>> =
            entries.iter().map(|of| of.iter().map(|(key, value)| (*key, value.as_str())).collect()).collect();
        let descriptors = entries.iter().zip(&asked).map(|(entries, asked)| Descriptor {
            entries,
            ordered: true,
            hits: asked.hits,
            charging: Default::default(),
            limit: None,
        });
        let descriptors: Vec<Descriptor<'_>> = descriptors.collect();
        let check = Check { domain: DOMAIN, descriptors: &descriptors };
        let it = &mut self.cores[core.0];
        let now = it.clock(cx.now);
        let tags = &self.tags;
        let verdict = it.shard.check(&check, |key| tags.of(key), now, || index);
        match verdict {
            Verdict::Decided(decision) => self.deliver_decision(cx, index, &decision),
            Verdict::Overloaded(_) => answer(cx, index, Answer::Overloaded),
            Verdict::Waits { ticket, .. } => {
                it.waiting.insert(index, ticket);
                cx.schedule_in(timeout_us, Event::DeadlineOver(index));
                if cx.rng.traffic.chance(cx.plan.traffic.hang_up) && !probe {
                    let after = cx.rng.traffic.between(0, timeout_us);
                    cx.schedule_in(after, Event::HangUp(index));
                }
            }
        }
        let it = &self.cores[core.0];
        let flush = it.shard.needs_flush(it.clock(cx.now));
        self.carry_out(cx, core, Effects { flush, ..Effects::default() });
    }

    /// Returns the core and the ticket of a check that waits.
    fn ticket(&self, cx: &Context<'_>, index: CheckIndex) -> Option<(CoreIndex, Ticket)> {
        let ClientCheck { core, boot, .. } = *cx.history.check(index)?;
        let it = self.cores.get(core.core.0).filter(|it| it.boot == boot)?;
        Some((core.core, *it.waiting.get(&index)?))
    }

    /// Handles the end of a check's deadline.
    pub fn expire_check(&mut self, cx: &mut Context<'_>, index: CheckIndex) {
        let Some((core, ticket)) = self.ticket(cx, index) else { return };
        if cx.bugs.enforces_deadline(&cx.history.checks[index.0]) {
            self.handle(cx, core, ShardEvent::Expire(ticket));
        }
    }

    /// Cancels a check whose client hangs up.
    pub fn hang_up(&mut self, cx: &mut Context<'_>, index: CheckIndex) {
        let Some((core, ticket)) = self.ticket(cx, index) else { return };
        self.cores[core.0].waiting.remove(&index);
        answer(cx, index, Answer::Abandoned);
        self.handle(cx, core, ShardEvent::Cancel(ticket));
    }

    /// Gives a client its decision. A client that was denied may ask another region at once, or ask again at the stated
    /// retry time.
    pub(super) fn deliver_decision(&mut self, cx: &mut Context<'_>, index: CheckIndex, decision: &Decision) {
        let Decision { allowed, degraded, partitioned, revision, .. } = *decision;
        let limits = cx.plan.limits();
        let index_of = |name: &str| limits.iter().position(|limit| limit.name == name).unwrap_or(usize::MAX);
        let limits = decision.limits.iter().map(|status| LimitDecision {
            limit: index_of(&status.effective.name),
            descriptor: status.descriptor,
            quota: status.limit(),
            denied: status.denied,
            shadow: status.shadow,
        });
        let mut decided = Decided { allowed, degraded, partitioned, revision, limits: limits.collect() };
        cx.bugs.decided(&cx.history.checks[index.0], &mut decided);
        let may_hop = !decided.allowed && !cx.history.checks[index.0].probe;
        if may_hop && cx.rng.hops.chance(cx.plan.traffic.hop) {
            cx.schedule_in(0, Event::ClientHops(index));
        } else if let Some(wait_us) = decision.retry_after.filter(|_| !decided.allowed) {
            self.retry_later(cx, index, wait_us);
        }
        answer(cx, index, Answer::Decided(decided));
    }

    /// Sends a denied check again after a wait, if its client draws to retry.
    fn retry_later(&self, cx: &mut Context<'_>, denied: CheckIndex, wait_us: u64) {
        let ClientCheck { core, limit_set, ref asked, probe, .. } = cx.history.checks[denied.0];
        let asked = asked.clone();
        let at = cx.now + wait_us;
        let is_possible = !probe && !cx.is_check_limit_reached() && at < cx.plan.heals_at;
        if is_possible && cx.rng.traffic.chance(cx.plan.traffic.retry) {
            let boot = self.cores[core.core.0].boot;
            cx.send_client_check(at, core, boot, (limit_set, asked));
        }
    }

    /// Kills a core. The clients that wait there get no answer.
    pub(super) fn kill(&mut self, cx: &mut Context<'_>, core: CoreIndex) {
        for check in self.cores[core.0].kill() {
            answer(cx, check, Answer::Abandoned);
        }
    }
}

/// Records the answer to a check.
fn answer(cx: &mut Context<'_>, index: CheckIndex, answer: Answer) {
    let Some(region) = cx.history.check(index).map(|check| check.core.region) else { return };
    cx.trace_in(region, |cx| describe(cx, index, &answer));
    if let Some(check) = cx.history.checks.get_mut(index.0) {
        check.answer = Some((cx.now, answer));
    }
}

fn describe(cx: &Context<'_>, index: CheckIndex, answer: &Answer) -> String {
    let ClientCheck { sent_at, core, limit_set, ref asked, .. } = cx.history.checks[index.0];
    let waited = cx.now - sent_at;
    let answer = match answer {
        Answer::Overloaded => "overloaded".to_owned(),
        Answer::Abandoned => "abandoned".to_owned(),
        Answer::Decided(decided) => {
            let denied = decided.limits.iter().filter(|limit| limit.denied && !limit.shadow);
            let limits = denied.filter_map(|limit| cx.plan.limits().get(limit.limit));
            let names: Vec<&str> = limits.map(|limit| limit.name.as_str()).collect();
            let word = if decided.allowed { "allowed".to_owned() } else { format!("denied by {}", names.join(", ")) };
            let degraded = if decided.degraded { ", without the store" } else { "" };
            let partitioned = if decided.partitioned { ", beside a region that does not hear it" } else { "" };
            format!("{word}{degraded}{partitioned}, revision {}", decided.revision)
        }
    };
    let asked = asked.iter().map(ToString::to_string).collect::<Vec<_>>().join(", and ");
    format!("core {core}: {} {asked}, after {waited} us: {answer}", limit_set.name())
}
