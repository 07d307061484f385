//! What every counter store promises, whatever it is made of and whatever its clock says.

use limiter::counter::SeenCells;
use limiter::{BatchId, DebtId, HolderId, Incarnation, LaneId};
use std::sync::atomic::{AtomicU64, Ordering};

use limiter::counter::{
    Ask, Batch, BatchOutcome, BatchReply, BucketReturn, Cell, Counter, Debt, Debts, Entry, Grant, Granted, Grid, Hits,
    Item, ItemReply, Prefetch, Rate, Report, Seen, WindowReturn,
};
use limiter::{Revision, StoreTime};
use tidegate::ports::CounterStore;

const YEAR_MS: u64 = 31_536_000_000;
/// Long enough that nothing rolls during a test.
const LONG: Grid = Grid::Rolling { width_ms: YEAR_MS, cells: 1 };

/// A store and a name of its own for each of the keys.
pub struct Suite<'s> {
    store: &'s dyn CounterStore,
    /// Keeps runs apart that share a store.
    prefix: String,
    numbers: AtomicU64,
}

impl<'s> Suite<'s> {
    pub fn new(store: &'s dyn CounterStore, prefix: impl Into<String>) -> Self {
        Self { store, prefix: prefix.into(), numbers: AtomicU64::new(1) }
    }

    /// All of it.
    pub async fn run(&self) {
        self.lanes_are_stable().await;
        self.asks_are_charged_whole_and_in_order().await;
        self.a_peek_charges_nothing().await;
        self.a_late_batch_does_nothing().await;
        self.a_key_of_another_kind_fails_alone().await;
        self.tokens_go_back_once().await;
        self.what_a_node_saw_is_restored().await;
        self.a_debt_is_charged_once().await;
        self.more_sources_than_a_cell_keeps_apart_count_once().await;
        self.an_instant_out_of_bounds_does_nothing().await;
        self.a_bucket_holds_its_burst_and_takes_back().await;
        self.a_bucket_is_emptied_by_what_is_owed().await;
        self.a_lease_takes_a_share_of_what_is_left().await;
    }

    fn key(&self, name: &str) -> Box<[u8]> {
        format!("{}{name}", self.prefix).into_bytes().into()
    }

    async fn send(&self, not_after: Option<StoreTime>, id: u64, items: Vec<Item>) -> BatchReply {
        let lane = items.first().map_or(LaneId(0), |item| self.store.lane(&item.key));
        let batch = Batch { not_after, holder: HolderId(4711), id: BatchId(id), items };
        self.store.run(lane, batch).await.expect("a store that is well")
    }

    async fn all(&self, items: Vec<Item>) -> Vec<ItemReply> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        ran(self.send(Some(self.soon().await), number, items).await)
    }

    async fn one(&self, item: Item) -> Grant {
        done(self.all(vec![item]).await.pop())
    }

    async fn now(&self) -> StoreTime {
        self.send(None, 1, vec![window(self.key("clock"), &[(0, 1)], 1)]).await.now
    }

    /// An end that no batch of a test sees.
    async fn soon(&self) -> StoreTime {
        StoreTime(self.now().await.0 + 3_600_000_000)
    }

    async fn lanes_are_stable(&self) {
        let key = self.key("lane");
        assert!(self.store.lane(&key) < LaneId(self.store.lanes()));
        assert_eq!(self.store.lane(&key), self.store.lane(&key));
    }

    async fn asks_are_charged_whole_and_in_order(&self) {
        let asks = [(3, 2), (2, 1), (1, 1)];
        let grant = self.one(window(self.key("whole"), &asks, 5)).await;
        assert_eq!(counts(&grant), [1, 1, 0], "3, not 3 more, then 2, and nothing is left");
        assert_eq!(grant.available, 0);
        assert!(grant.granted[0].fits_at.is_some() && grant.granted[1].fits_at.is_none());
        let grant = self.one(window(self.key("whole"), &[(6, 1)], 5)).await;
        assert_eq!(grant.granted, [Granted { count: 0, fits_at: None }], "it never fits");
    }

    async fn a_peek_charges_nothing(&self) {
        let peek = |limit| window(self.key("peek"), &[(0, 3)], limit);
        assert_eq!(counts(&self.one(peek(1)).await), [3]);
        assert_eq!(counts(&self.one(window(self.key("peek"), &[(1, 2)], 1)).await), [1]);
        assert_eq!(counts(&self.one(peek(1)).await), [0]);
    }

    async fn a_late_batch_does_nothing(&self) {
        let now = self.now().await;
        let item = || vec![window(self.key("late"), &[(5, 1)], 5)];
        let answer = self.send(Some(StoreTime(now.0 - 1_000_000)), 901, item()).await;
        assert_eq!(answer.outcome, BatchOutcome::Late);
        let answer = self.send(Some(self.soon().await), 902, item()).await;
        assert_eq!(counts(&done(ran(answer).pop())), [1], "the late one charged nothing");
    }

    async fn a_key_of_another_kind_fails_alone(&self) {
        self.one(bucket(self.key("{kind}a"), &[(1, 1)], Vec::new())).await;
        let items = vec![window(self.key("{kind}a"), &[(1, 1)], 5), window(self.key("{kind}b"), &[(1, 1)], 5)];
        let answers = self.all(items).await;
        assert_eq!(answers.len(), 2);
        assert_eq!(answers[0], ItemReply::Failed);
        assert_eq!(counts(&done(answers.into_iter().nth(1))), [1]);
    }

    async fn tokens_go_back_once(&self) {
        let grant = self.one(window(self.key("back"), &[(4, 1)], 5)).await;
        let (incarnation, cell_ms) = place(&grant);
        let returns = || vec![WindowReturn { cell_ms, incarnation, tokens: 1 }];
        let item = || vec![with(window(self.key("back"), &[], 5), returns(), Vec::new(), None)];
        let soon = Some(self.soon().await);
        for (number, available) in [(777, 2), (777, 2), (778, 3), (777, 3)] {
            let grant = done(ran(self.send(soon, number, item()).await).pop());
            assert_eq!(grant.available, available, "the repeat of a batch gives nothing back");
        }
        let endless = done(ran(self.send(None, 779, item()).await).pop());
        assert_eq!(endless.available, 3, "it could be repeated at any time");
        self.numbers.store(1000, Ordering::Relaxed);
        let foreign = vec![WindowReturn { cell_ms, incarnation: Incarnation(incarnation.0 + 1), tokens: 2 }];
        let grant = self.one(with(window(self.key("back"), &[], 5), foreign, Vec::new(), None)).await;
        assert_eq!(grant.available, 3, "nobody charged under that name");
    }

    async fn what_a_node_saw_is_restored(&self) {
        let (_, cell_ms) = place(&self.one(window(self.key("probe"), &[(1, 1)], 5)).await);
        let entries = vec![Entry { incarnation: Incarnation(4242), charged: 4, returned: 1 }];
        let seen = || vec![Cell { start_ms: cell_ms, entries: entries.clone() }];
        for left in [2, 1] {
            let item = with(window(self.key("seen"), &[(1, 1)], 5), Vec::new(), seen(), None);
            assert_eq!(self.one(item).await.available, left - 1, "3 were seen, and count once");
        }
    }

    async fn a_debt_is_charged_once(&self) {
        let (_, cell_ms) = place(&self.one(window(self.key("owes"), &[(1, 1)], 20)).await);
        let hits = |charged| Hits { charged, returned: 0 };
        // Reported, repeated as after a lost answer, reported with more, confirmed, and reported with more again.
        for (charged, known, left) in [(5, 0, 14), (5, 0, 14), (7, 0, 12), (7, 7, 12), (8, 7, 11)] {
            let report = Report { debt: Debt { cell_ms, id: DebtId(77), hits: hits(charged) }, known: hits(known) };
            let mut item = window(self.key("owes"), &[], 20);
            if let Counter::Window { debts, .. } = &mut item.counter {
                debts.reports = vec![report];
            }
            let grant = self.one(item).await;
            assert_eq!((grant.available, grant.reported), (left, true));
            let Seen::Window { debts, .. } = grant.seen else { panic!("it is a window") };
            assert_eq!(debts.len(), usize::from(charged != known), "a confirmed debt is not kept");
        }
    }

    async fn more_sources_than_a_cell_keeps_apart_count_once(&self) {
        let (_, cell_ms) = place(&self.one(window(self.key("crowd"), &[(1, 1)], 1000)).await);
        for _ in 0..3 {
            for node in 0..5 {
                let sources = (0..20).map(|source| 10_000 + 20 * node + source);
                let entries = sources.map(|n| Entry { incarnation: Incarnation(n), charged: 2, returned: 0 }).collect();
                let seen = vec![Cell { start_ms: cell_ms, entries }];
                self.one(with(window(self.key("crowd"), &[], 1000), Vec::new(), seen, None)).await;
            }
        }
        let left = self.one(window(self.key("crowd"), &[], 1000)).await.available;
        assert!((1000 - 201..1000 - 64).contains(&left), "{left}: none counts twice, and no node's are lost");
    }

    async fn an_instant_out_of_bounds_does_nothing(&self) {
        let grid = Grid::Calendar { bounds: [1, 2, 3, 4] };
        let answers = self.all(vec![on_grid(window(self.key("bounds"), &[(5, 1)], 5), grid)]).await;
        assert_eq!(answers, [ItemReply::OutOfBounds]);
        assert_eq!(counts(&self.one(window(self.key("bounds"), &[(5, 1)], 5)).await), [1]);
    }

    async fn a_bucket_holds_its_burst_and_takes_back(&self) {
        let grant = self.one(bucket(self.key("bucket"), &[(9, 1), (2, 1), (1, 1)], Vec::new())).await;
        assert_eq!(counts(&grant), [1, 0, 1]);
        assert!(grant.granted[1].fits_at.is_some(), "it refills");
        let Seen::Bucket { incarnation, at, .. } = grant.seen else { panic!("{grant:?}") };
        let step = RATE.step;
        let back = vec![BucketReturn { incarnation, step, hits: 4, charged_at: at }];
        let grant = self.one(bucket(self.key("bucket"), &[(4, 2)], back)).await;
        assert_eq!(counts(&grant), [1]);
    }

    async fn a_bucket_is_emptied_by_what_is_owed(&self) {
        for left in [2, 0, 0] {
            let item = bucket(self.key("owed"), &[], Vec::new());
            let Counter::Bucket { rate, revision, seen, returns, .. } = item.counter else { return };
            let grant =
                self.one(Item { counter: Counter::Bucket { rate, revision, seen, owed: 8, returns }, ..item }).await;
            assert_eq!(grant.available, left);
            assert!(grant.reset_at.since(self.now().await) <= 10 * YEAR_MS * 1000, "never driven below empty");
        }
    }

    async fn a_lease_takes_a_share_of_what_is_left(&self) {
        let lease = Some(Prefetch { want: 1000, holders: 2, min_left: 0 });
        let item = with(window(self.key("lease"), &[(1, 1)], 101), Vec::new(), Vec::new(), lease);
        let grant = self.one(item).await;
        assert_eq!((grant.lease, grant.available), (25, 75), "100 are left; a lease is at most 100 / (2 x 2)");
    }
}

/// Ten hits, one more each year.
const RATE: Rate = Rate::new(1, YEAR_MS, 10);

fn ran(answer: BatchReply) -> Vec<ItemReply> {
    match answer.outcome {
        BatchOutcome::Ran(answers) => answers,
        BatchOutcome::Late => panic!("the store calls a batch late that has no end"),
    }
}

fn done(answer: Option<ItemReply>) -> Grant {
    match answer {
        Some(ItemReply::Done(grant)) => grant,
        other => panic!("{other:?}"),
    }
}

fn counts(grant: &Grant) -> Vec<u32> {
    grant.granted.iter().map(|run| run.count).collect()
}

fn place(grant: &Grant) -> (Incarnation, u64) {
    match &grant.seen {
        Seen::Window { incarnation, cell_ms, .. } => (*incarnation, *cell_ms),
        Seen::Bucket { .. } => panic!("{grant:?}"),
    }
}

fn asks(of: &[(u64, u32)]) -> Vec<Ask> {
    of.iter().map(|(hits, count)| Ask { hits: *hits, count: *count }).collect()
}

fn window(key: Box<[u8]>, of: &[(u64, u32)], limit: u64) -> Item {
    let counter = Counter::Window {
        grid: LONG,
        limit,
        seen: SeenCells::None,
        returns: Vec::new(),
        debts: Debts::default(),
        lease: None,
    };
    Item { key, asks: asks(of), counter }
}

fn with(item: Item, returns: Vec<WindowReturn>, seen: Vec<Cell>, lease: Option<Prefetch>) -> Item {
    let Counter::Window { grid, limit, .. } = item.counter else { return item };
    Item {
        counter: Counter::Window { grid, limit, seen: seen.as_slice().into(), returns, debts: Debts::default(), lease },
        ..item
    }
}

fn on_grid(item: Item, grid: Grid) -> Item {
    let Counter::Window { limit, seen, returns, lease, .. } = item.counter else { return item };
    Item { counter: Counter::Window { grid, limit, seen, returns, debts: Debts::default(), lease }, ..item }
}

fn bucket(key: Box<[u8]>, of: &[(u64, u32)], returns: Vec<BucketReturn>) -> Item {
    Item {
        key,
        asks: asks(of),
        counter: Counter::Bucket { rate: RATE, revision: Revision(1), seen: None, owed: 0, returns },
    }
}
