//! The world on virtual time: its regions, and the loop that takes the events in order.

mod clients;
mod closing_phases;

use std::sync::Arc;

use super::bug_injector::BugInjector;
use super::context::{Context, Event};
use super::history::History;
use super::ids::{CoreId, CoreIndex, FaultIndex, Instant, NodeId, RegionIndex};
use super::region::Region;
use super::scenario::Plan;
use limiter::rules::RuleBook;

/// The world of a simulation.
///
/// The context holds the clock, the event queue, the plan and the history. Everything else is in the regions.
pub struct World<'b> {
    cx: Context<'b>,
    /// By index.
    regions: Vec<Region>,
    /// By user: the region to which the user's next checks go.
    region_of_user: Vec<RegionIndex>,
}

impl<'b> World<'b> {
    /// # Errors
    /// Returns an error if the script does not compile.
    pub fn new(plan: Plan, bugs: &'b mut dyn BugInjector, record_trace: bool) -> mlua::Result<Self> {
        let mut cx = Context::new(plan, bugs, record_trace);
        for edit in &mut cx.plan.edits {
            let rules = cx.bugs.rules((**edit.book.rules()).clone());
            // Rules that are not valid change nothing.
            if let Some(book) = rules.and_then(|rules| RuleBook::compile(Arc::new(rules), edit.book.revision).ok()) {
                edit.book = Arc::new(book);
            }
        }
        let indices = cx.plan.regions.indices();
        let mut regions = indices.map(|index| Region::new(index, &mut cx)).collect::<mlua::Result<Vec<_>>>()?;
        let count = regions.len();
        let region_of_user = (0..cx.plan.users).map(|_| RegionIndex(cx.rng.hops.index(count))).collect();
        for index in 0..cx.plan.faults.len() {
            let (begin, end) = (cx.plan.faults[index].begin, cx.plan.faults[index].end);
            cx.schedule_at(begin, Event::FaultBegins(FaultIndex(index)));
            cx.schedule_at(end, Event::FaultEnds(FaultIndex(index)));
        }
        for region in &mut regions {
            region.start(&mut cx);
        }
        if cx.plan.demand.is_none() {
            cx.schedule_at(0, Event::NextClient);
        } else {
            cx.plan.regions.indices().for_each(|region| cx.schedule_at(0, Event::NextCheckOf(region)));
        }
        Ok(Self { cx, regions, region_of_user })
    }

    /// Handles the events until a time, and sets the clock to it.
    pub fn run_until(&mut self, end: Instant) {
        while let Some(event) = self.cx.next_event(end) {
            match self.stopped_until(&event) {
                Some(until) => self.cx.schedule_at(until, event),
                None => self.handle(event),
            }
        }
        self.cx.now = end;
    }

    /// Runs the phase with faults.
    pub fn run_faults(&mut self) {
        self.run_until(self.cx.plan.heals_at);
        self.cx.trace(|_| "-- all faults have ended".to_owned());
    }

    /// Returns the plan, the history and the trace.
    pub fn finish(self) -> (Plan, History, String) {
        self.cx.finish()
    }

    fn handle(&mut self, event: Event) {
        let Self { cx, regions, .. } = self;
        let region_of = |cx: &Context<'_>, check| cx.history.check(check).map_or(0, |check| check.core.region.0);
        match event {
            Event::NextClient => self.next_client(),
            Event::NextCheckOf(region) => self.next_check_of(region),
            Event::ClientHops(denied) => self.hop(denied),
            Event::FaultBegins(fault) => self.begin_fault(fault),
            Event::FaultEnds(fault) => self.end_fault(fault),
            Event::CheckSent(check) => regions[region_of(cx, check)].receive_check(cx, check),
            Event::DeadlineOver(check) => regions[region_of(cx, check)].expire_check(cx, check),
            Event::HangUp(check) => regions[region_of(cx, check)].hang_up(cx, check),
            Event::FlusherRuns { core, boot, wake } => {
                regions[core.region.0].run_flusher(cx, core.core, boot, wake);
            }
            Event::Probe { core, boot } => regions[core.region.0].probe_primaries(cx, core.core, boot),
            Event::PacketArrives(packet) => regions[packet.core.region.0].receive_packet(cx, packet),
            Event::ReplyArrives { core, boot, reply } => {
                regions[core.region.0].receive_reply(cx, core.core, boot, reply);
            }
            Event::NodeReplyArrives { core, boot, kind, reply } => {
                regions[core.region.0].receive_node_reply(cx, core.core, boot, kind, reply);
            }
            Event::ReplicaConfirms { packet, result, ran_at, term, is_confirmed } => {
                regions[packet.core.region.0].confirm_replica(cx, packet, result, (ran_at, term), is_confirmed);
            }
            Event::QuestionArrives(question) => regions[question.to.region.0].receive_question(cx, question),
            Event::AnswerArrives(answer) => regions[answer.to.region.0].receive_answer(cx, answer),
            Event::AnswerOverdue { node, boot, receiver, number } => {
                regions[node.region.0].expire_question(cx, node.node, boot, receiver, number);
            }
            Event::GossipTick { node, boot } => regions[node.region.0].gossip_tick(cx, node.node, boot),
            Event::MessageArrives(message) => regions[message.to.region.0].receive_message(cx, message),
            Event::AckArrives(ack) => regions[ack.to.region.0].receive_ack(cx, ack),
            Event::AckOverdue { node, boot, receiver, number } => {
                regions[node.region.0].expire_message(cx, node.node, boot, receiver, number);
            }
            Event::ReplyOverdue(packet) => regions[packet.core.region.0].expire_packet(cx, packet),
            Event::ReplacementDetected { region, node, primary } => {
                regions[region.0].detect_replacement(cx, node, primary);
            }
            Event::ReplacementFollowed { region, node, primary } => {
                regions[region.0].follow_replacement(cx, node, primary);
            }
            Event::RulesArrive { core, edit } => regions[core.region.0].receive_rules(cx, core.core, edit),
        }
    }

    /// If the core to which the event happens is stopped, returns the end of the stop.
    fn stopped_until(&self, event: &Event) -> Option<Instant> {
        let core = match event {
            Event::CheckSent(check) | Event::DeadlineOver(check) | Event::HangUp(check) => {
                self.cx.history.check(*check)?.core
            }
            Event::FlusherRuns { core, .. }
            | Event::Probe { core, .. }
            | Event::ReplyArrives { core, .. }
            | Event::NodeReplyArrives { core, .. }
            | Event::RulesArrive { core, .. } => *core,
            Event::ReplyOverdue(packet) => packet.core,
            // All cores of a node stop together.
            Event::ReplacementDetected { region, node, .. } | Event::ReplacementFollowed { region, node, .. } => {
                self.first_core(NodeId { region: *region, node: *node })
            }
            Event::GossipTick { node, .. } | Event::AckOverdue { node, .. } | Event::AnswerOverdue { node, .. } => {
                self.first_core(*node)
            }
            Event::QuestionArrives(question) => self.first_core(question.to),
            Event::AnswerArrives(answer) => self.first_core(answer.to),
            Event::MessageArrives(message) => self.first_core(message.to),
            Event::AckArrives(ack) => self.first_core(ack.to),
            Event::NextClient
            | Event::NextCheckOf(_)
            | Event::ClientHops(_)
            | Event::PacketArrives(_)
            | Event::ReplicaConfirms { .. }
            | Event::FaultBegins(_)
            | Event::FaultEnds(_) => return None,
        };
        let core = self.regions.get(core.region.0)?.cores.get(core.core.0)?;
        Some(core.stopped_until).filter(|until| *until > self.cx.now)
    }

    fn first_core(&self, node: NodeId) -> CoreId {
        CoreId { region: node.region, core: CoreIndex(node.node.0 * self.cx.plan.cores) }
    }

    fn begin_fault(&mut self, index: FaultIndex) {
        let Self { cx, regions, .. } = self;
        let fault = cx.plan.faults[index.0].clone();
        cx.faults[index.0].active = true;
        let (kind, end_ms) = (&fault.kind, fault.end / 1000);
        let until = if kind.is_sudden() { String::new() } else { format!(", until {end_ms} ms") };
        cx.trace(|cx| format!("-- {}{kind}{until}", cx.plan.regions.prefix(fault.region)));
        let lag_us = cx.rng.faults.between(0, cx.plan.lag_us);
        cx.faults[index.0].replicated_until = cx.now.saturating_sub(lag_us);
        let state = cx.faults[index.0];
        regions[fault.region.0].begin_fault(cx, &fault, state);
    }

    fn end_fault(&mut self, index: FaultIndex) {
        let Self { cx, regions, .. } = self;
        let fault = cx.plan.faults[index.0].clone();
        cx.faults[index.0].active = false;
        if !fault.kind.is_sudden() {
            cx.trace(|cx| format!("-- ended: {}{}", cx.plan.regions.prefix(fault.region), fault.kind));
        }
        let state = cx.faults[index.0];
        regions[fault.region.0].end_fault(cx, &fault, state);
    }
}
