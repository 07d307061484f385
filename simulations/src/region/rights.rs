//! Rights of limits under `strategy: escrow`: which nodes ask other regions for some, and what a region gives.

use std::collections::BTreeMap;

use super::Region;
use super::gossip::{AVOIDED_FOR_US, first_core, number_of, receiver};
use crate::context::{Context, Event, Packet, PacketKind, RightsAnswer, RightsQuestion};
use crate::ids::{Boot, CoreIndex, NodeId, NodeIndex};
use crate::links;
use crate::scenario::Edit;
use crate::store::Health;
use limiter::counter::{Batch, BatchOutcome, BatchReply, Counter, Given, Item, ItemReply, StoreError, Take};
use limiter::escrow::{Question, RightsPlan, Want};
use limiter::{BatchId, LaneId, MAX_ITEMS, NodeTime, Reply};

/// In this percentage of cases no replica confirms a batch in time.
const UNCONFIRMED_PERCENT: u32 = 5;

/// A question of another region that is being answered.
pub struct Answering {
    pub question: RightsQuestion,
    /// The batches that have no reply yet, with the positions of their wants.
    waiting: BTreeMap<BatchId, Vec<usize>>,
    answers: Vec<Option<Given>>,
}

impl Region {
    /// Takes what a core of a node wants.
    pub(super) fn want_rights(&mut self, cx: &mut Context<'_>, core: CoreIndex, wants: Vec<(Want, NodeTime)>) {
        if wants.is_empty() {
            return;
        }
        let it = &self.cores[core.0];
        let (node, core_time) = (it.node, it.clock(cx.now));
        let now = self.node_time(cx, node);
        let Some(gossiper) = self.gossipers.get_mut(&node) else { return };
        for (want, ends) in wants {
            // The clocks of cores differ here.
            gossiper.requests.want(&want, now.plus(ends.since(core_time)), now);
        }
        self.ask_for_rights(cx, node);
    }

    /// Sends the questions that can be asked now.
    fn ask_for_rights(&mut self, cx: &mut Context<'_>, node: NodeIndex) {
        let (region, boot) = (self.index, self.boot_of(&cx.plan, node));
        let from = NodeId { region, node };
        let Some(gossiper) = self.gossiper(&cx.plan, node, boot) else { return };
        for question in gossiper.requests.questions() {
            let Some(other) = cx.plan.regions.indices().find(|other| number_of(*other) == question.to) else {
                continue;
            };
            let to =
                receiver(&cx.plan, from, other, |node| gossiper.avoided.get(node).is_none_or(|end| *end <= cx.now));
            gossiper.last_question += 1;
            let number = gossiper.last_question;
            gossiper.asked.insert(number, question.clone());
            cx.trace_in(region, |_| {
                let wants = question.wants.iter().map(|want| want.hits.to_string()).collect::<Vec<_>>().join(", ");
                format!("node {node} asks region {other} for {wants} rights, question {number}")
            });
            let asked = RightsQuestion { from, boot, to, number, wants: question.wants };
            let timeout_us = cx.plan.gossip.partition_after_us / 2;
            cx.schedule_in(timeout_us, Event::AnswerOverdue { node: from, boot, receiver: to, number });
            if cx.bugs.asks_for_rights(&asked) {
                links::send(cx, region, other, || Event::QuestionArrives(asked.clone()));
            }
        }
    }

    /// Gives rights to another region, as many as the store can spare.
    pub fn receive_question(&mut self, cx: &mut Context<'_>, question: RightsQuestion) {
        let NodeId { node, .. } = question.to;
        let boot = self.boot_of(&cx.plan, node);
        let first = first_core(&cx.plan, node);
        let Some(plan) = self.rights_plan(cx, first) else { return };
        let mut lanes: BTreeMap<LaneId, Vec<(usize, Item)>> = BTreeMap::new();
        for (position, want) in question.wants.iter().cloned().enumerate() {
            let escrow = plan.escrow(want.limit);
            if let Ok(item) = want.give(number_of(question.from.region), escrow) {
                lanes.entry(self.lane_of(&item.key)).or_default().push((position, item));
            }
        }
        let Some(gossiper) = self.gossiper(&cx.plan, node, boot) else { return };
        gossiper.last_answer += 1;
        let (answer, holder) = (gossiper.last_answer, gossiper.holder);
        let (mut batches, mut waiting) = (Vec::new(), BTreeMap::new());
        for (lane, items) in lanes {
            for items in items.chunks(MAX_ITEMS) {
                gossiper.last_batch.0 += 1;
                let (positions, items): (Vec<usize>, Vec<Item>) = items.iter().cloned().unzip();
                waiting.insert(gossiper.last_batch, positions);
                batches.push((lane, Batch { not_after: None, holder, id: gossiper.last_batch, items }));
            }
        }
        let answers = vec![None; question.wants.len()];
        gossiper.answering.insert(answer, Answering { question, waiting, answers });
        self.send_batches(cx, node, batches, PacketKind::Give(answer));
    }

    /// Sends batches that are not a core's, from a node to its store.
    pub(super) fn send_batches(
        &mut self,
        cx: &mut Context<'_>,
        node: NodeIndex,
        batches: Vec<(LaneId, Batch)>,
        kind: PacketKind,
    ) {
        let (first, boot) = (first_core(&cx.plan, node), self.boot_of(&cx.plan, node));
        for (lane, batch) in batches {
            let primary = self.lanes[usize::from(lane.0)];
            let to_replaced = self.sends_to_replaced(first, primary);
            let core = self.id_of(first);
            self.send(
                cx,
                Packet { core, boot, lane, batch, primary, to_replaced, held: false, duplicate: false, kind },
            );
        }
    }

    /// Draws when a replica confirms what a primary wrote, and delivers the reply then.
    pub(super) fn await_replica(
        &mut self,
        cx: &mut Context<'_>,
        packet: Packet,
        result: Result<BatchReply, StoreError>,
    ) {
        let takes = cx.rng.network.between(0, cx.plan.confirmation_us());
        let is_confirmed = !cx.rng.network.chance(UNCONFIRMED_PERCENT);
        let (ran_at, term) = (cx.now, self.primaries[packet.primary.0].term());
        cx.schedule_in(takes, Event::ReplicaConfirms { packet, result, ran_at, term, is_confirmed });
    }

    /// Handles that a replica has what a primary wrote until `ran_at`, or that the time to wait for it is over.
    pub fn confirm_replica(
        &mut self,
        cx: &mut Context<'_>,
        packet: Packet,
        mut result: Result<BatchReply, StoreError>,
        (ran_at, term): (u64, u32),
        is_confirmed: bool,
    ) {
        let primary = &mut self.primaries[packet.primary.0];
        // A server that was replaced has no replica any more.
        if primary.health != Health::Up || primary.term() != term || packet.to_replaced || !is_confirmed {
            result = Err(StoreError::Unknown);
        } else {
            primary.confirm(ran_at);
        }
        let delay = self.delay(cx, packet.primary);
        cx.schedule_in(delay, packet.reply_arrives(result));
    }

    /// Handles the reply to a batch that gave rights, or that there is none in time.
    pub fn receive_give_reply(&mut self, cx: &mut Context<'_>, core: CoreIndex, boot: Boot, answer: u64, reply: Reply) {
        let node = self.cores[core.0].node;
        let Some(gossiper) = self.gossiper(&cx.plan, node, boot) else { return };
        let Some(it) = gossiper.answering.get_mut(&answer) else { return };
        let Some(positions) = it.waiting.remove(&reply.batch) else { return };
        if let Ok(BatchOutcome::Ran(replies)) = reply.result.map(|reply| reply.outcome) {
            for (position, reply) in positions.into_iter().zip(replies) {
                if let ItemReply::Given(given) = reply {
                    it.answers[position] = Some(given);
                }
            }
        }
        if it.waiting.is_empty()
            && let Some(Answering { question, answers, .. }) = gossiper.answering.remove(&answer)
        {
            let RightsQuestion { from: to, boot, to: from, number, .. } = question;
            let mut answer = RightsAnswer { from, to, boot, number, answers };
            cx.bugs.alter_rights_answer(&mut answer);
            links::send(cx, from.region, to.region, || Event::AnswerArrives(answer.clone()));
        }
    }

    /// Takes the rights that another region gave.
    pub fn receive_answer(&mut self, cx: &mut Context<'_>, answer: RightsAnswer) {
        let RightsAnswer { from, to: NodeId { node, .. }, boot, number, answers } = answer;
        let Some(gossiper) = self.gossiper(&cx.plan, node, boot) else { return };
        let Some(question) = gossiper.asked.remove(&number) else { return };
        let answered = question.wants.iter().zip(&answers).filter_map(|(want, given)| Some((want, (*given)?)));
        let item = |(want, given): (&Want, Given)| {
            let take = Take { from: question.to, cell_ms: want.cell_ms, given, asked_ms: want.epoch_ms };
            let counter = Counter::Take { grid: want.grid, take };
            Item { key: want.key.clone(), asks: Vec::new(), refund: 0, counter }
        };
        let items: Vec<Item> = answered.map(item).collect();
        cx.trace_in(self.index, |_| {
            let totals =
                answers.iter().map(|given| given.map_or("nothing".to_owned(), |given| given.given.to_string()));
            let totals = totals.collect::<Vec<_>>().join(", ");
            format!("node {node} hears of region {}: it gave {totals}, question {number}", from.region)
        });
        self.end_question(cx, node, &question, &answers);
        self.take(cx, node, items);
    }

    /// Sends items that take rights, or that only visit their lanes.
    fn take(&mut self, cx: &mut Context<'_>, node: NodeIndex, items: Vec<Item>) {
        let lanes = self.by_lane(items);
        let boot = self.boot_of(&cx.plan, node);
        let Some(gossiper) = self.gossiper(&cx.plan, node, boot) else { return };
        let holder = gossiper.holder;
        let mut batch = |(lane, items)| {
            gossiper.last_batch.0 += 1;
            (lane, Batch { not_after: None, holder, id: gossiper.last_batch, items })
        };
        let batches: Vec<(LaneId, Batch)> = lanes.into_iter().map(&mut batch).collect();
        self.send_batches(cx, node, batches, PacketKind::Take);
    }

    /// Handles the end of the time for an answer.
    pub fn expire_question(
        &mut self,
        cx: &mut Context<'_>,
        node: NodeIndex,
        boot: Boot,
        receiver: NodeId,
        number: u64,
    ) {
        let until = cx.now + AVOIDED_FOR_US;
        let Some(gossiper) = self.gossiper(&cx.plan, node, boot) else { return };
        if let Some(question) = gossiper.asked.remove(&number) {
            gossiper.avoided.insert(receiver, until);
            self.end_question(cx, node, &question, &[]);
        }
    }

    fn end_question(&mut self, cx: &mut Context<'_>, node: NodeIndex, question: &Question, answers: &[Option<Given>]) {
        let now = self.node_time(cx, node);
        if let Some(gossiper) = self.gossipers.get_mut(&node) {
            gossiper.requests.answered(question, answers, now);
        }
        self.ask_for_rights(cx, node);
    }

    /// Leaves the record of each lane that rights need.
    pub(super) fn visit_lanes(&mut self, cx: &mut Context<'_>, node: NodeIndex) {
        self.take(cx, node, self.probes.clone());
    }

    /// Returns how the rights are split, as a core knows it.
    pub(super) fn rights_plan(&self, cx: &mut Context<'_>, core: CoreIndex) -> Option<RightsPlan> {
        let edit = cx.plan.edits.get(self.cores.get(core.0)?.edit)?;
        if cx.bugs.edits_weights_at_once() {
            return Edit { next_weights: None, ..edit.clone() }.rights_plan(self.index);
        }
        edit.rights_plan(self.index)
    }
}
