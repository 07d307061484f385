//! The contract of every counter store, independent of its implementation and its clock.

use limiter::counter::SeenCells;
use limiter::{BatchId, DebtId, HolderId, Incarnation, LaneId};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use limiter::counter::{
    Ask, Batch, BatchOutcome, BatchReply, BucketReturn, Cell, Counter, Debt, Debts, Entry, Grant, Granted, Grid, Hits,
    Item, ItemReply, Prefetch, Rate, Report, Seen, WindowReturn,
};
use limiter::{Revision, StoreTime};
use tidegate::ports::CounterStore;

use crate::support::wait::TIMEOUT;

const YEAR_MS: u64 = 31_536_000_000;
/// A window so long that it does not end during a test.
const LONG_WINDOW: Grid = Grid::Rolling { window_ms: YEAR_MS, cells: 1 };

/// The contract tests for one store.
pub struct ContractSuite<'s> {
    store: &'s dyn CounterStore,
    /// The prefix of all keys. It separates runs that share a store.
    prefix: String,
    next_batch: AtomicU64,
}

impl<'s> ContractSuite<'s> {
    pub fn new(store: &'s dyn CounterStore, prefix: impl Into<String>) -> Self {
        Self { store, prefix: prefix.into(), next_batch: AtomicU64::new(1) }
    }

    /// Runs every test.
    pub async fn run(&self) {
        self.a_key_has_one_lane().await;
        self.asks_are_charged_in_full_and_in_order().await;
        self.a_peek_charges_nothing().await;
        self.a_late_batch_changes_nothing().await;
        self.an_item_for_a_record_of_another_kind_fails_alone().await;
        self.a_repeated_batch_returns_tokens_once().await;
        self.charges_that_a_node_saw_are_restored_once().await;
        self.a_debt_is_charged_once().await;
        self.more_incarnations_than_a_cell_keeps_apart_count_once().await;
        self.a_time_outside_the_calendar_bounds_changes_nothing().await;
        self.a_bucket_grants_its_burst_and_accepts_returns().await;
        self.debts_empty_a_bucket_and_no_further().await;
        self.a_lease_is_a_share_of_the_remaining_hits().await;
        self.each_window_grants_the_limit_again().await;
    }

    fn key(&self, name: &str) -> Box<[u8]> {
        format!("{}{name}", self.prefix).into_bytes().into()
    }

    async fn send(&self, not_after: Option<StoreTime>, id: u64, items: Vec<Item>) -> BatchReply {
        let lane = items.first().map_or(LaneId(0), |item| self.store.lane(&item.key));
        let batch = Batch { not_after, holder: HolderId(4711), id: BatchId(id), items };
        self.store.run(lane, batch).await.expect("the store runs the batch")
    }

    /// Runs the items in a new batch.
    async fn send_items(&self, items: Vec<Item>) -> Vec<ItemReply> {
        let number = self.next_batch.fetch_add(1, Ordering::Relaxed);
        ran_items(self.send(Some(self.far_not_after().await), number, items).await)
    }

    /// Runs one item in a new batch.
    async fn send_item(&self, item: Item) -> Grant {
        expect_grant(self.send_items(vec![item]).await.pop())
    }

    async fn now(&self) -> StoreTime {
        self.send(None, 1, vec![window(self.key("clock"), &[(0, 1)], 1)]).await.now
    }

    /// Returns a `not_after` that no batch of a test exceeds.
    async fn far_not_after(&self) -> StoreTime {
        StoreTime(self.now().await.0 + 3_600_000_000)
    }

    async fn a_key_has_one_lane(&self) {
        let key = self.key("lane");
        assert!(self.store.lane(&key) < LaneId(self.store.lanes()));
        assert_eq!(self.store.lane(&key), self.store.lane(&key));
    }

    async fn asks_are_charged_in_full_and_in_order(&self) {
        let asks = [(3, 2), (2, 1), (1, 1)];
        let grant = self.send_item(window(self.key("whole"), &asks, 5)).await;
        assert_eq!(counts(&grant), [1, 1, 0], "3 are granted, not 3 more, then 2, and nothing is left");
        assert_eq!(grant.available, 0);
        assert!(grant.granted[0].fits_at.is_some() && grant.granted[1].fits_at.is_none());
        let grant = self.send_item(window(self.key("whole"), &[(6, 1)], 5)).await;
        assert_eq!(grant.granted, [Granted { count: 0, fits_at: None }], "an ask above the limit never fits");
    }

    async fn a_peek_charges_nothing(&self) {
        let peek = |limit| window(self.key("peek"), &[(0, 3)], limit);
        assert_eq!(counts(&self.send_item(peek(1)).await), [3]);
        assert_eq!(counts(&self.send_item(window(self.key("peek"), &[(1, 2)], 1)).await), [1]);
        assert_eq!(counts(&self.send_item(peek(1)).await), [0]);
    }

    async fn a_late_batch_changes_nothing(&self) {
        let now = self.now().await;
        let item = || vec![window(self.key("late"), &[(5, 1)], 5)];
        let reply = self.send(Some(StoreTime(now.0 - 1_000_000)), 901, item()).await;
        assert_eq!(reply.outcome, BatchOutcome::Late);
        let reply = self.send(Some(self.far_not_after().await), 902, item()).await;
        assert_eq!(counts(&expect_grant(ran_items(reply).pop())), [1], "the late batch charged nothing");
    }

    async fn an_item_for_a_record_of_another_kind_fails_alone(&self) {
        self.send_item(bucket(self.key("{kind}a"), &[(1, 1)], Vec::new())).await;
        let items = vec![window(self.key("{kind}a"), &[(1, 1)], 5), window(self.key("{kind}b"), &[(1, 1)], 5)];
        let replies = self.send_items(items).await;
        assert_eq!(replies.len(), 2);
        assert_eq!(replies[0], ItemReply::Failed);
        assert_eq!(counts(&expect_grant(replies.into_iter().nth(1))), [1]);
    }

    async fn a_repeated_batch_returns_tokens_once(&self) {
        let grant = self.send_item(window(self.key("back"), &[(4, 1)], 5)).await;
        let (incarnation, cell_ms) = incarnation_and_cell(&grant);
        let returns = || vec![WindowReturn { cell_ms, incarnation, tokens: 1 }];
        let item = || vec![with_details(window(self.key("back"), &[], 5), returns(), Vec::new(), None)];
        let not_after = Some(self.far_not_after().await);
        for (number, available) in [(777, 2), (777, 2), (778, 3), (777, 3)] {
            let grant = expect_grant(ran_items(self.send(not_after, number, item()).await).pop());
            assert_eq!(grant.available, available, "a repeated batch returns nothing");
        }
        let unbounded = expect_grant(ran_items(self.send(None, 779, item()).await).pop());
        assert_eq!(unbounded.available, 3, "a batch without a not_after could be repeated at any time");
        self.next_batch.store(1000, Ordering::Relaxed);
        let unknown = vec![WindowReturn { cell_ms, incarnation: Incarnation(incarnation.0 + 1), tokens: 2 }];
        let grant = self.send_item(with_details(window(self.key("back"), &[], 5), unknown, Vec::new(), None)).await;
        assert_eq!(grant.available, 3, "no charge has that incarnation");
    }

    async fn charges_that_a_node_saw_are_restored_once(&self) {
        let (_, cell_ms) = incarnation_and_cell(&self.send_item(window(self.key("probe"), &[(1, 1)], 5)).await);
        let entries = vec![Entry { incarnation: Incarnation(4242), charged: 4, returned: 1 }];
        let seen = || vec![Cell { start_ms: cell_ms, entries: entries.clone() }];
        for left in [2, 1] {
            let item = with_details(window(self.key("seen"), &[(1, 1)], 5), Vec::new(), seen(), None);
            assert_eq!(self.send_item(item).await.available, left - 1, "the 3 seen hits count once");
        }
    }

    async fn a_debt_is_charged_once(&self) {
        let (_, cell_ms) = incarnation_and_cell(&self.send_item(window(self.key("debt"), &[(1, 1)], 20)).await);
        let hits = |charged| Hits { charged, returned: 0 };
        // The debt is reported, repeated as after a lost reply, reported with more hits, confirmed, and reported with
        // more again.
        for (charged, known, left) in [(5, 0, 14), (5, 0, 14), (7, 0, 12), (7, 7, 12), (8, 7, 11)] {
            let report = Report { debt: Debt { cell_ms, id: DebtId(77), hits: hits(charged) }, known: hits(known) };
            let mut item = window(self.key("debt"), &[], 20);
            if let Counter::Window { debts, .. } = &mut item.counter {
                debts.reports = vec![report];
            }
            let grant = self.send_item(item).await;
            assert_eq!((grant.available, grant.reported), (left, true));
            let Seen::Window { debts, .. } = grant.seen else { panic!("expected a window") };
            assert_eq!(debts.len(), usize::from(charged != known), "a confirmed debt is not kept");
        }
    }

    async fn more_incarnations_than_a_cell_keeps_apart_count_once(&self) {
        let (_, cell_ms) = incarnation_and_cell(&self.send_item(window(self.key("many"), &[(1, 1)], 1000)).await);
        for _ in 0..3 {
            for node in 0..5 {
                let incarnations = (0..20).map(|number| 10_000 + 20 * node + number);
                let entries =
                    incarnations.map(|n| Entry { incarnation: Incarnation(n), charged: 2, returned: 0 }).collect();
                let seen = vec![Cell { start_ms: cell_ms, entries }];
                self.send_item(with_details(window(self.key("many"), &[], 1000), Vec::new(), seen, None)).await;
            }
        }
        let left = self.send_item(window(self.key("many"), &[], 1000)).await.available;
        assert!(
            (1000 - 201..1000 - 64).contains(&left),
            "{left} left: no charge counts twice, and the charges of every node count"
        );
    }

    async fn a_time_outside_the_calendar_bounds_changes_nothing(&self) {
        let grid = Grid::Calendar { bounds: [1, 2, 3, 4] };
        let replies = self.send_items(vec![on_grid(window(self.key("bounds"), &[(5, 1)], 5), grid)]).await;
        assert_eq!(replies, [ItemReply::OutOfBounds { newest_ms: 0 }]);
        assert_eq!(counts(&self.send_item(window(self.key("bounds"), &[(5, 1)], 5)).await), [1]);
    }

    async fn a_bucket_grants_its_burst_and_accepts_returns(&self) {
        let grant = self.send_item(bucket(self.key("bucket"), &[(9, 1), (2, 1), (1, 1)], Vec::new())).await;
        assert_eq!(counts(&grant), [1, 0, 1]);
        assert!(grant.granted[1].fits_at.is_some(), "the bucket refills");
        let Seen::Bucket { incarnation, at, .. } = grant.seen else { panic!("{grant:?}") };
        let step = RATE.step;
        let back = vec![BucketReturn { incarnation, step, hits: 4, charged_at: at }];
        let grant = self.send_item(bucket(self.key("bucket"), &[(4, 2)], back)).await;
        assert_eq!(counts(&grant), [1]);
    }

    async fn debts_empty_a_bucket_and_no_further(&self) {
        for left in [2, 0, 0] {
            let item = bucket(self.key("owed"), &[], Vec::new());
            let Counter::Bucket { rate, revision, seen, returns, .. } = item.counter else { return };
            let grant = self
                .send_item(Item { counter: Counter::Bucket { rate, revision, seen, owed: 8, returns }, ..item })
                .await;
            assert_eq!(grant.available, left);
            assert!(
                grant.reset_at.since(self.now().await) <= 10 * YEAR_MS * 1000,
                "the bucket is never less than empty"
            );
        }
    }

    async fn a_lease_is_a_share_of_the_remaining_hits(&self) {
        let lease = Some(Prefetch { want: 1000, holders: 2, min_left: 0 });
        let item = with_details(window(self.key("lease"), &[(1, 1)], 101), Vec::new(), Vec::new(), lease);
        let grant = self.send_item(item).await;
        assert_eq!((grant.lease, grant.available), (25, 75), "100 are left, and a lease is at most 100 / (2 x 2)");
    }

    /// The whole limit is granted again at the instant that the denials named, and not before, over several windows.
    async fn each_window_grants_the_limit_again(&self) {
        let grids = [
            Grid::Fixed { width_ms: 250 },
            Grid::Sliding { width_ms: 250 },
            Grid::Rolling { window_ms: 250, cells: 2 },
        ];
        for (at, grid) in grids.into_iter().enumerate() {
            // The first ask may be granted. The second one says when the whole limit is free.
            let item = || on_grid(window(self.key(&format!("windows-{at}")), &[(30, 2)], 30), grid);
            let (mut fits_at, mut grants) = (StoreTime(0), 0);
            let all_granted = async {
                while grants < 3 {
                    let number = self.next_batch.fetch_add(1, Ordering::Relaxed);
                    let reply = self.send(Some(self.far_not_after().await), number, vec![item()]).await;
                    let now = reply.now;
                    let [granted] = expect_grant(ran_items(reply).pop()).granted[..] else { panic!("one run of asks") };
                    assert_eq!(granted.count == 1, now >= fits_at, "{grid:?} at {now:?}, and {fits_at:?} was named");
                    grants += granted.count;
                    fits_at = granted.fits_at.expect("the limit is free later");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(TIMEOUT, all_granted).await.expect("three windows end");
        }
    }
}

/// A burst of ten hits and one more each year.
const RATE: Rate = Rate::new(1, YEAR_MS, 10);

fn ran_items(reply: BatchReply) -> Vec<ItemReply> {
    match reply.outcome {
        BatchOutcome::Ran(replies) => replies,
        BatchOutcome::Late => panic!("the store says that a batch in time is late"),
    }
}

fn expect_grant(reply: Option<ItemReply>) -> Grant {
    match reply {
        Some(ItemReply::Done(grant)) => grant,
        other => panic!("{other:?}"),
    }
}

fn counts(grant: &Grant) -> Vec<u32> {
    grant.granted.iter().map(|run| run.count).collect()
}

/// Returns the incarnation and the start of the cell that a window's reply names.
fn incarnation_and_cell(grant: &Grant) -> (Incarnation, u64) {
    match &grant.seen {
        Seen::Window { incarnation, cell_ms, .. } => (*incarnation, *cell_ms),
        Seen::Bucket { .. } => panic!("{grant:?}"),
    }
}

fn asks(runs: &[(u64, u32)]) -> Vec<Ask> {
    runs.iter().map(|(hits, count)| Ask { hits: *hits, count: *count, overdraft: false }).collect()
}

fn window(key: Box<[u8]>, runs: &[(u64, u32)], limit: u64) -> Item {
    let counter = Counter::Window {
        grid: LONG_WINDOW,
        limit,
        seen: SeenCells::Empty,
        returns: Vec::new(),
        debts: Debts::default(),
        lease: None,
        share: None,
        escrow: None,
    };
    Item { key, asks: asks(runs), refund: 0, counter }
}

fn with_details(item: Item, returns: Vec<WindowReturn>, seen: Vec<Cell>, lease: Option<Prefetch>) -> Item {
    let Counter::Window { grid, limit, .. } = item.counter else { return item };
    Item {
        counter: Counter::Window {
            grid,
            limit,
            seen: seen.as_slice().into(),
            returns,
            debts: Debts::default(),
            lease,
            share: None,
            escrow: None,
        },
        ..item
    }
}

fn on_grid(item: Item, grid: Grid) -> Item {
    let Counter::Window { limit, seen, returns, lease, .. } = item.counter else { return item };
    Item {
        counter: Counter::Window {
            grid,
            limit,
            seen,
            returns,
            debts: Debts::default(),
            lease,
            share: None,
            escrow: None,
        },
        ..item
    }
}

fn bucket(key: Box<[u8]>, runs: &[(u64, u32)], returns: Vec<BucketReturn>) -> Item {
    Item {
        key,
        asks: asks(runs),
        refund: 0,
        counter: Counter::Bucket { rate: RATE, revision: Revision(1), seen: None, owed: 0, returns },
    }
}
