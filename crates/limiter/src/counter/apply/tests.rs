use super::*;
use crate::counter::{Debts, Prefetch, REPLICATION_MARKS, SeenCells, WindowReturn};
use crate::revision::Revision;
use crate::{BatchId, HolderId, Incarnation};

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
    match apply(record, item, at) {
        ItemReply::Done(grant) => grant,
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
fn an_item_for_a_record_of_another_kind_fails() {
    let bucket = Bucket::new(Incarnation(1), StoreTime(0), Default::default(), Revision(1));
    let mut record = Some(Record::Bucket(bucket));
    let at = BatchContext {
        now: StoreTime(0),
        replication: 1,
        holder: HolderId(1),
        batch: BatchId(0),
        not_after: None,
        epoch: LaneEpoch::default(),
    };
    assert_eq!(apply(&mut record, &item(GRID, 1, &[(1, 1)]), at), ItemReply::Failed);
    assert!(record.is_some());
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
