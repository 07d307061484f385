use super::*;
use crate::counter::{
    Cell, Debt, Debts, Escrow, Give, Given, Hits, Note, Prefetch, REPLICATION_MARKS, Rate, Report, SeenCells, Take,
    WindowReturn,
};
use crate::ids::{DebtId, RegionNumber};
use crate::revision::Revision;
use crate::{BatchId, HolderId, Incarnation};

const OTHER: RegionNumber = RegionNumber(7);

fn item(grid: Grid, limit: u64, asks: &[(u64, u32)]) -> Item {
    Item {
        key: b"k".as_slice().into(),
        asks: asks.iter().map(|(hits, count)| Ask { hits: *hits, count: *count, overdraft: false }).collect(),
        refund: 0,
        counter: Counter::Window {
            grid,
            limit,
            seen: SeenCells::Empty,
            returns: Vec::new(),
            debts: Debts::default(),
            lease: None,
            share: None,
            escrow: None,
        },
    }
}

fn run(record: &mut Option<Record>, item: &Item, now_ms: u64) -> Grant {
    let at = BatchContext {
        now: StoreTime::from_millis(now_ms),
        replication: 1,
        holder: HolderId(10),
        batch: BatchId(1),
        not_after: None,
        epoch: LaneEpoch::default(),
    };
    grant(record, item, at)
}

fn item_of(counter: Counter) -> Item {
    Item { key: b"k".as_slice().into(), asks: Vec::new(), refund: 0, counter }
}

fn with_escrow(limit: u64, part: u64, asks: &[(u64, u32)]) -> Item {
    let mut item = item(GRID, limit, asks);
    if let Counter::Window { escrow, .. } = &mut item.counter {
        *escrow = Some(escrow_of(part));
    }
    item
}

fn escrow_of(part: u64) -> Escrow {
    Escrow { part, others: [OTHER].into_iter().collect() }
}

fn import() -> Item {
    item_of(Counter::Import { grid: GRID, cells: SeenCells::Empty })
}

fn give(wanted: u64) -> Item {
    let give = Give { to: OTHER, cell_ms: 5000, wanted, denied: false, received: 0, epoch_ms: 0 };
    item_of(Counter::Give { grid: GRID, escrow: escrow_of(10), give })
}

fn take(given: u64) -> Item {
    let given = Given { epoch_ms: 10, given, ..Given::default() };
    item_of(Counter::Take { grid: GRID, take: Take { from: OTHER, cell_ms: 5000, given, asked_ms: 10 } })
}

/// An item for a bucket of 10 hits, one of which is refilled each second.
fn bucket() -> Item {
    let (rate, revision) = (Rate::new(1, 1000, 10), Revision(1));
    item_of(Counter::Bucket { rate, revision, seen: None, owed: 0, returns: Vec::new() })
}

/// A batch that may run for a second from `now_ms` on.
fn context(now_ms: u64, batch: u64) -> BatchContext {
    BatchContext {
        now: StoreTime::from_millis(now_ms),
        replication: 1,
        holder: HolderId(10),
        batch: BatchId(batch),
        not_after: Some(StoreTime::from_millis(now_ms + 1000)),
        epoch: LaneEpoch { mark: 1, since_ms: 10, data_since_ms: 10, latest_ms: now_ms },
    }
}

fn grant(record: &mut Option<Record>, item: &Item, cx: BatchContext) -> Grant {
    match apply(record, item, cx) {
        ItemReply::Done(grant) => grant,
        other => panic!("{other:?}"),
    }
}

fn window(record: &Option<Record>) -> &WindowRecord {
    match record {
        Some(Record::Window(window)) => window,
        other => panic!("{other:?}"),
    }
}

fn counts(grant: &Grant) -> Vec<u32> {
    grant.granted.iter().map(|g| g.count).collect()
}

const GRID: Grid = Grid::Fixed { width_ms: 1000 };

#[test]
fn a_record_whose_charges_were_all_returned_is_kept_while_they_would_count() {
    // A holder that saw the charges before the return would charge them again to a record without them.
    let grid = Grid::Sliding { width_ms: 1000 };
    let mut record = None;
    let seen = run(&mut record, &item(grid, 10, &[(1, 2)]), 5100).seen;
    let Seen::Window { incarnation, cell_ms, .. } = seen else { panic!("expected a window") };
    let mut giving_back = item(grid, 10, &[]);
    let Counter::Window { returns, .. } = &mut giving_back.counter else { panic!("expected a window") };
    returns.push(WindowReturn { cell_ms, incarnation, tokens: 2 });
    let end = Some(StoreTime::from_millis(5300));
    let at = BatchContext {
        now: StoreTime::from_millis(5200),
        replication: 1,
        holder: HolderId(10),
        batch: BatchId(2),
        not_after: end,
        epoch: LaneEpoch::default(),
    };
    assert!(matches!(apply(&mut record, &giving_back, at), ItemReply::Done(grant) if grant.available == 10));
    assert_eq!(expires_at(&record.unwrap(), &giving_back), StoreTime::from_millis(7000));
}

#[test]
fn asks_are_granted_in_full_and_in_order() {
    let mut record = None;
    let grant = run(&mut record, &item(GRID, 35, &[(50, 1), (35, 1), (1, 1)]), 0);
    assert_eq!(counts(&grant), [0, 1, 0]);
    assert_eq!(grant.granted[0].fits_at, None, "more than the limit never fits");
    assert_eq!(grant.granted[2].fits_at, Some(StoreTime::from_millis(1000)));
}

#[test]
fn a_peek_charges_nothing_and_is_granted_if_one_hit_would_be() {
    let mut record = None;
    assert_eq!(counts(&run(&mut record, &item(GRID, 1, &[(0, 3)]), 0)), [3]);
    assert_eq!(record, None, "a peek stores nothing");
    assert_eq!(counts(&run(&mut record, &item(GRID, 1, &[(1, 1), (0, 2)]), 0)), [1, 0]);
}

#[test]
fn after_a_clock_step_back_the_newest_cell_is_charged() {
    let mut record = None;
    assert_eq!(counts(&run(&mut record, &item(GRID, 5, &[(5, 1)]), 9000)), [1]);
    assert_eq!(counts(&run(&mut record, &item(GRID, 5, &[(1, 1)]), 3000)), [0]);
    assert_eq!(counts(&run(&mut record, &item(GRID, 5, &[(1, 1)]), 10_000)), [1]);
}

#[test]
fn charges_that_a_node_saw_are_restored_after_the_store_lost_them() {
    let mut record = None;
    let first = run(&mut record, &item(GRID, 10, &[(1, 8)]), 0);
    let Seen::Window { cells, .. } = first.seen else { panic!() };
    let mut empty = None;
    let mut next = item(GRID, 10, &[(1, 5)]);
    if let Counter::Window { seen, .. } = &mut next.counter {
        *seen = cells;
    }
    let at = BatchContext {
        now: StoreTime(0),
        replication: 2,
        holder: HolderId(11),
        batch: BatchId(1),
        not_after: None,
        epoch: LaneEpoch::default(),
    };
    let ItemReply::Done(grant) = apply(&mut empty, &next, at) else { panic!() };
    assert_eq!(counts(&grant), [2]);
}

#[test]
fn a_new_primary_charges_under_a_new_incarnation() {
    let mut record = None;
    run(&mut record, &item(GRID, 10, &[(1, 1)]), 0);
    let at = BatchContext {
        now: StoreTime(0),
        replication: 2,
        holder: HolderId(11),
        batch: BatchId(1),
        not_after: None,
        epoch: LaneEpoch::default(),
    };
    apply(&mut record, &item(GRID, 10, &[(1, 1)]), at);
    let Some(Record::Window(window)) = record else { panic!() };
    assert_eq!(window.incarnation, Incarnation(12 * REPLICATION_MARKS + 2));
    assert_eq!(window.cells[0].entries.len(), 2);
}

#[test]
fn an_item_for_a_record_of_another_kind_fails_and_changes_nothing() {
    let other = Some(Record::Bucket(Bucket::new(Incarnation(1), StoreTime(0), Rate::default(), Revision(1))));
    let of_windows = [item(GRID, 1, &[(1, 1)]), import(), give(1), take(1)].map(|item| (item, other.clone()));
    let of_a_bucket = (bucket(), Some(Record::Window(WindowRecord::new(Incarnation(1)))));
    for (item, stored) in of_windows.into_iter().chain([of_a_bucket]) {
        let mut record = stored.clone();
        assert_eq!(apply(&mut record, &item, context(5000, 1)), ItemReply::Failed, "{item:?}");
        assert_eq!(record, stored, "{item:?}");
    }
}

#[test]
fn a_batch_runs_until_its_last_instant() {
    let batch = Batch { not_after: Some(StoreTime(5)), holder: HolderId(1), id: BatchId(1), items: Vec::new() };
    let outcome = |now| super::run(&batch, StoreTime(now), 1, &mut None, |_, _| ItemReply::Failed).outcome;
    assert_eq!([5, 6].map(outcome), [BatchOutcome::Ran(Vec::new()), BatchOutcome::Late]);
}

#[test]
fn imports_and_items_under_escrow_leave_a_record_of_their_lane() {
    let lane_after = |item: Item| {
        let batch = Batch { not_after: None, holder: HolderId(1), id: BatchId(1), items: vec![item] };
        let mut lane = None;
        super::run(&batch, StoreTime::from_millis(5000), 7, &mut lane, |_, _| ItemReply::Failed);
        lane
    };
    let begun = LaneEpoch { mark: 7, since_ms: 5000, data_since_ms: 5000, latest_ms: 5000 };
    for item in [import(), give(1), take(1), with_escrow(10, 5, &[])] {
        assert_eq!(lane_after(item.clone()), Some(begun), "{item:?}");
    }
    for item in [item(GRID, 10, &[]), bucket()] {
        assert_eq!(lane_after(item.clone()), None, "{item:?}");
    }
}

#[test]
fn a_record_expires_when_it_counts_nothing_and_half_a_minute_later_under_escrow() {
    let mut record = None;
    run(&mut record, &item(GRID, 10, &[(1, 1)]), 5000);
    let expires = |item: Item| expires_at(record.as_ref().unwrap(), &item).millis();
    assert_eq!([item(GRID, 10, &[]), import()].map(expires), [6000, 6000]);
    assert_eq!([with_escrow(10, 5, &[]), give(1), take(1)].map(expires), [36_000, 36_000, 36_000]);
    let (mut record, mut item) = (None, bucket());
    item.asks = vec![Ask { hits: 3, count: 1, overdraft: false }];
    run(&mut record, &item, 5000);
    assert_eq!(expires_at(&record.unwrap(), &item).millis(), 8000, "the bucket is full");
}

#[test]
fn a_repeated_batch_takes_hits_back_once_and_is_forgotten_after_its_end() {
    let mut record = None;
    grant(&mut record, &item(GRID, 10, &[(6, 1)]), context(5000, 1));
    assert_eq!(window(&record).received, None, "a batch that brings nothing is not remembered");
    let mut back = item(GRID, 10, &[]);
    if let Counter::Window { returns, .. } = &mut back.counter {
        returns.push(WindowReturn { cell_ms: 5000, incarnation: window(&record).incarnation, tokens: 2 });
    }
    for _ in 0..2 {
        assert_eq!(grant(&mut record, &back, context(5100, 2)).available, 6);
    }
    grant(&mut record, &item(GRID, 10, &[]), context(6101, 3));
    assert_eq!(window(&record).received, None);
}

#[test]
fn debts_of_a_cell_that_is_over_and_of_a_batch_that_came_too_late_are_not_charged() {
    let owing = |cell_ms, charged| {
        let hits = Hits { charged, returned: 0 };
        let report = Report { debt: Debt { cell_ms, id: DebtId(1), hits }, known: Hits::default() };
        let mut item = item(GRID, 10, &[]);
        if let Counter::Window { debts, .. } = &mut item.counter {
            debts.reports.push(report);
        }
        item
    };
    let mut record = None;
    let answer = |grant: Grant| (grant.available, grant.reported);
    assert_eq!(answer(grant(&mut record, &owing(4000, 5), context(5000, 1))), (10, true));
    assert_eq!(record, None);
    assert_eq!(answer(grant(&mut record, &owing(5000, 5), context(5000, 3))), (5, true));
    assert_eq!(answer(grant(&mut record, &owing(5000, 7), context(5000, 2))), (5, false), "its holder gave it up");
}

#[test]
fn a_bucket_remembers_only_batches_that_take_hits_back() {
    let remembers = |record: &Option<Record>| match record {
        Some(Record::Bucket(bucket)) => !bucket.replay_guard.is_empty(),
        other => panic!("{other:?}"),
    };
    let (mut record, mut item) = (None, bucket());
    item.asks = vec![Ask { hits: 4, count: 1, overdraft: false }];
    grant(&mut record, &item, context(5000, 1));
    assert!(!remembers(&record));
    let refund = Item { refund: 3, ..bucket() };
    for _ in 0..2 {
        assert_eq!(grant(&mut record, &refund, context(5000, 2)).available, 9, "10 less 4, and 3 once");
    }
    assert!(remembers(&record));
}

#[test]
fn a_transfer_that_moves_nothing_leaves_no_record() {
    let mut record = None;
    let nothing = ItemReply::Given(Given { epoch_ms: 10, ..Given::default() });
    assert_eq!(apply(&mut record, &give(0), context(5000, 1)), nothing);
    assert_eq!(record, None);
    assert_eq!(apply(&mut record, &take(0), context(5000, 2)), ItemReply::Taken { epoch_ms: 10, gained: 0 });
    assert_eq!(record, None);
}

#[test]
fn a_store_that_lost_its_data_hears_from_nodes_with_which_rights_a_cell_began() {
    let mut cell = Cell::new(5000);
    cell.charge(Incarnation(3), 4);
    escrow_of(10).begin(&mut cell);
    cell.set_note(Note::TakenFrom(OTHER), 7);
    let mut item = with_escrow(100, 30, &[]);
    if let Counter::Window { seen, .. } = &mut item.counter {
        *seen = vec![cell].into();
    }
    // The other region says itself what it gave.
    assert_eq!(grant(&mut None, &item, context(5000, 1)).available, 6);
}

#[test]
fn an_ask_beyond_the_rights_of_the_region_fits_in_the_next_cell_at_the_earliest() {
    let grant = grant(&mut None, &with_escrow(10, 3, &[(5, 1)]), context(5100, 1));
    assert_eq!((grant.granted[0].count, grant.granted[0].fits_at), (0, Some(StoreTime::from_millis(6000))));
}

#[test]
fn an_item_outside_its_calendar_bounds_changes_nothing() {
    let grid = Grid::Calendar { bounds: [0, 1000, 2000, 3000] };
    let at = BatchContext {
        now: StoreTime::from_millis(3000),
        replication: 1,
        holder: HolderId(1),
        batch: BatchId(0),
        not_after: None,
        epoch: LaneEpoch::default(),
    };
    let mut record = None;
    assert_eq!(apply(&mut record, &item(grid, 1, &[(1, 1)]), at), ItemReply::OutOfBounds { newest_ms: 0 });
    assert_eq!(record, None);
}

#[test]
fn a_lease_is_half_of_a_fair_share_and_zero_near_the_end_of_the_cell() {
    let mut wants = item(GRID, 100, &[(1, 1)]);
    if let Counter::Window { lease, .. } = &mut wants.counter {
        *lease = Some(Prefetch { want: 1000, holders: 4, min_left: 100_000 });
    }
    assert_eq!(run(&mut None, &wants, 900).lease, 12);
    assert_eq!(run(&mut None, &wants, 901).lease, 0);
}
