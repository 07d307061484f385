use super::*;
use crate::counter::{BatchOutcome, BatchReply, ItemReply, StoreError};
use crate::key::samples::{ask, fixed_window};
use crate::shard::event::{News, Outgoing, Reply};
use crate::time::StoreTime;

const CONFIG: ShardConfig = ShardConfig {
    max_keys: 100,
    max_waiting: 100,
    lease_us: 100_000,
    deadline_us: 100_000,
    holders: 1,
    min_holders: 3,
    lanes: 1,
    max_items: 2,
    hash_keys: false,
    seeds: [1, 2, 3, 4],
};

fn complete(keys: &mut Keys, out: &Outgoing, result: Result<BatchReply, StoreError>, now: NodeTime) {
    let reply = Reply { lane: out.lane, batch: out.batch.id, result };
    keys.complete(reply, &mut News::default(), now);
}

/// The keys of a shard that knows from a round trip of 10 µs that the store's clock is one second ahead.
fn keys() -> Keys {
    let mut keys = Keys::new(CONFIG, IdGenerator::new(1), BatchId(0), WallTime(0), NodeTime(0));
    let batches = keys.take_batches(NodeTime(0));
    assert_eq!(batches.iter().map(|out| out.batch.items.len()).collect::<Vec<_>>(), [0], "it asks for the clock");
    let reply = BatchReply { now: StoreTime(1_000_005), outcome: BatchOutcome::Ran(Vec::new()) };
    complete(&mut keys, &batches[0], Ok(reply), NodeTime(10));
    keys
}

/// Queues an ask at a key, and the key on its lane.
fn queue_ask(keys: &mut Keys, name: &str) {
    let effective = Arc::new(fixed_window(10));
    let slot = keys.activate(&effective, name.as_bytes(), |_| LaneId(0)).unwrap();
    keys.get_mut(slot).unwrap().state.ask(ask(1, 1, &effective));
    keys.queue(slot);
}

/// The next batch, which has this many items.
fn take_batch(keys: &mut Keys, items: usize, now: NodeTime) -> Outgoing {
    let out = keys.take_batches(now).pop().unwrap();
    assert_eq!(out.batch.items.len(), items);
    out
}

#[test]
fn a_batch_has_a_bounded_number_of_items_and_all_that_failed_are_counted() {
    let mut keys = keys();
    assert!(!keys.lanes.is_failing(LaneId(0)), "a reply without items is no failure");
    let now = NodeTime(1000);
    ["a", "b", "c"].into_iter().for_each(|name| queue_ask(&mut keys, name));
    let out = take_batch(&mut keys, 2, now);
    let failed = BatchOutcome::Ran(vec![ItemReply::Failed; 2]);
    complete(&mut keys, &out, Ok(BatchReply { now: StoreTime(1_001_000), outcome: failed }), now);
    assert!(keys.lanes.is_failing(LaneId(0)), "no item could be served");
    let out = take_batch(&mut keys, 1, now);
    complete(&mut keys, &out, Err(StoreError::NotApplied), now);
    let expected =
        ShardStats { keys: 3, batches: 3, items: 3, failed_batches: 1, failed_items: 2, ..Default::default() };
    assert_eq!(keys.stats(), expected);
}

#[test]
fn a_slow_reply_changes_the_clock_only_if_the_batch_came_too_late() {
    let ran = BatchOutcome::Ran(vec![ItemReply::Failed]);
    for (outcome, store_now) in [(ran, 1_006_000), (BatchOutcome::Late, 9_002_500)] {
        let mut keys = keys();
        queue_ask(&mut keys, "a");
        let out = take_batch(&mut keys, 1, NodeTime(1000));
        assert_eq!(out.batch.not_after, Some(StoreTime(1_101_000)));
        let received = NodeTime(6000);
        complete(&mut keys, &out, Ok(BatchReply { now: StoreTime(9_000_000), outcome }), received);
        assert_eq!(keys.lanes.store_now(LaneId(0), received), StoreTime(store_now));
    }
}

#[test]
fn tokens_are_shared_by_all_holders_and_shares_by_no_fewer_than_are_configured() {
    let mut keys = keys();
    for (said, holders, divisor) in [(0, 1, 3), (2, 2, 3), (4, 4, 4)] {
        keys.set_holders(said);
        let cx = keys.context(LaneId(0), NodeTime(1000));
        assert_eq!((cx.holders, cx.divisor), (holders, divisor));
    }
}
