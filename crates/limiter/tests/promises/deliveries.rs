//! What batches and replies say, as the tests of the world read them.

use limiter::counter::{Batch, BatchOutcome, BatchReply, Counter, Item, ItemReply, Seen, StoreError};
use limiter::{Event, Outgoing, Reply};

pub fn reply_event(out: &Outgoing, result: Result<BatchReply, StoreError>) -> Event {
    Event::Reply(Reply { lane: out.lane, batch: out.batch.id, result })
}

/// Returns the store times at which the hits of users 0 and 1 count, as the reply states them.
pub fn charge_times(batch: &Batch, reply: &BatchReply) -> [u64; 2] {
    let mut at = [reply.now.0; 2];
    if let BatchOutcome::Ran(replies) = &reply.outcome {
        for (item, reply) in batch.items.iter().zip(replies) {
            let user = usize::from(item.key.ends_with(b"/1"));
            if let ItemReply::Done(grant) = reply {
                at[user] = match &grant.seen {
                    Seen::Window { cell_ms, .. } => at[user].max(cell_ms * 1000),
                    Seen::Bucket { at, .. } => at.0,
                };
            }
        }
    }
    at
}

/// Returns the hits that a batch may charge or return.
pub fn hits_of(batch: &Batch) -> u64 {
    let asks = batch.items.iter().flat_map(|i| &i.asks).map(|a| a.hits * u64::from(a.count));
    let returns = |item: &Item| match &item.counter {
        Counter::Window { returns, .. } => returns.iter().map(|back| back.tokens).sum::<u64>(),
        Counter::Bucket { returns, .. } => returns.iter().map(|back| back.hits).sum(),
        Counter::Import { .. } | Counter::Give { .. } | Counter::Take { .. } => 0,
    };
    asks.sum::<u64>() + batch.items.iter().map(returns).sum::<u64>()
}
