//! Describes a batch at a primary for the trace.

use super::Region;
use crate::context::{Context, Packet};
use limiter::counter::{BatchOutcome, BatchReply, Counter, Item, ItemReply, StoreError};

impl Region {
    pub(super) fn describe_batch(
        &self,
        cx: &Context<'_>,
        packet: &Packet,
        reply: &Result<BatchReply, StoreError>,
    ) -> String {
        let Packet { core, primary, batch, duplicate, .. } = packet;
        let duplicate = if *duplicate { " (duplicate)" } else { "" };
        let mut text = format!("primary {primary}: batch {} of core {core}{duplicate}", batch.id);
        match reply.as_ref().map(|reply| &reply.outcome) {
            Err(error) => text += &format!(": {error}"),
            Ok(BatchOutcome::Late) => text += " arrives too late",
            Ok(BatchOutcome::Ran(replies)) => {
                let items = batch.items.iter().zip(replies);
                text.extend(items.map(|(item, reply)| self.describe_item(cx, item, reply)));
            }
        }
        text
    }

    fn describe_item(&self, cx: &Context<'_>, item: &Item, reply: &ItemReply) -> String {
        let counter = self.counters.get(&*item.key);
        let limit = counter.and_then(|counter| cx.plan.limits().get(counter.limit));
        let name = limit.map_or("?", |limit| limit.name.as_str());
        let user = counter.and_then(|counter| counter.user).map(|user| format!(" {user}")).unwrap_or_default();
        let returned: u64 = match &item.counter {
            Counter::Window { returns, .. } => returns.iter().map(|returned| returned.tokens).sum(),
            Counter::Bucket { returns, .. } => returns.iter().map(|returned| returned.hits).sum(),
            Counter::Import { .. } | Counter::Give { .. } | Counter::Take { .. } => 0,
        };
        let ItemReply::Done(grant) = reply else { return format!("; {name}{user}: {reply:?}") };
        let asks = item.asks.iter().zip(&grant.granted);
        let asks: Vec<String> =
            asks.map(|(ask, granted)| format!("{} of {} x {}", granted.count, ask.count, ask.hits)).collect();
        let mut text =
            format!("; {name}{user}: {} granted", if asks.is_empty() { "none".to_owned() } else { asks.join(", ") });
        if returned > 0 {
            text += &format!(", {returned} returned");
        }
        if grant.lease > 0 {
            text += &format!(", {} leased", grant.lease);
        }
        text + &format!(", {} left", grant.available)
    }
}
