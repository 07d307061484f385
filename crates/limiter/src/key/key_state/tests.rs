use super::*;
use crate::counter::{Cell, Counter, Entry, Grant, Grid, Item, Part, Prefetch, Seen, SeenCells, Share, Spending};
use crate::escrow::Want;
use crate::gossip::Report;
use crate::key::messages::{AskResult, BatchTimes, MayHaveRun, Regions};
use crate::key::samples::{self, CELL_MS, CX, INCARNATION, bucket, fixed_window, grant};
use crate::revision::Revision;
use crate::rules::{GlobalStrategy, OnPartition, Scope};
use crate::time::StoreTime;

const GRID: Grid = Grid::Fixed { width_ms: 1000 };

fn key(effective: EffectiveLimit) -> KeyState {
    KeyState::new(Arc::new(effective))
}

fn ask(key: &mut KeyState, hits: u64) {
    key.ask(samples::ask(1, hits, &key.effective));
}

fn send(key: &mut KeyState, cx: &Context) -> Option<Item> {
    key.next_item(b"k", cx)
}

fn complete(key: &mut KeyState, grant: Grant, cx: &Context) -> Vec<AskResult> {
    let mut out = Vec::new();
    key.complete(grant, &BatchTimes { sent: cx.now, ran: cx.store_now }, cx, &mut out);
    out.into_iter().map(|(_, result)| result).collect()
}

/// The store grants `hits`, and tokens in advance. Returns the tokens that the key asked for.
fn spend_at_store(key: &mut KeyState, hits: u64, lease: u32, cx: &Context) -> Option<Prefetch> {
    ask(key, hits);
    let item = send(key, cx).unwrap();
    complete(key, grant(CELL_MS, &[1], lease), cx);
    lease_of(&item)
}

fn lease_of(item: &Item) -> Option<Prefetch> {
    if let Counter::Window { lease, .. } = &item.counter { *lease } else { None }
}

/// The cells and the numbers of the tokens that an item gives back.
fn returns_of(item: Option<Item>) -> Vec<(u64, u64)> {
    match item.map(|item| item.counter) {
        Some(Counter::Window { returns, .. }) => returns.iter().map(|back| (back.cell_ms, back.tokens)).collect(),
        _ => Vec::new(),
    }
}

fn spend(key: &mut KeyState, hits: u64, now: NodeTime) -> Option<Receipt> {
    key.spend(hits, key.effective.terms(), now)
}

/// A key that wants 64 tokens and holds 20, and the context of its last reply.
fn busy_key() -> (KeyState, Context) {
    let (mut key, mut cx) = (key(fixed_window(10_000)), CX);
    for (lease, want) in [(0, 0), (0, 4), (0, 16), (20, 64)] {
        cx.now = cx.now.plus(10_000);
        let asked = spend_at_store(&mut key, 100, lease, &cx);
        let lease = Prefetch { want, holders: 3, min_left: 6_250 };
        assert_eq!(asked, (want > 0).then_some(lease), "none if the cell ends within a sixteenth of the lease time");
    }
    (key, cx)
}

#[test]
fn a_refund_takes_back_what_the_key_admitted_from_its_cell_and_no_more() {
    let mut key = key(fixed_window(100));
    spend_at_store(&mut key, 3, 10, &CX);
    let receipt = spend(&mut key, 4, CX.now).unwrap();
    assert!(!key.refund(2, receipt, CX.now), "two tokens are in hand again");
    key.take_back_own(9);
    assert_eq!(returns_of(send(&mut key, &CX)), [(CELL_MS, 5)]);
    complete(&mut key, grant(CELL_MS, &[], 0), &CX);
    key.take_back_own(9);
    assert!(!key.needs_flush(), "nothing is left to take back");
}

#[test]
fn a_refund_takes_nothing_back_of_a_cell_before_the_newest() {
    let mut key = key(fixed_window(100));
    spend_at_store(&mut key, 3, 0, &CX);
    ask(&mut key, 1);
    send(&mut key, &CX);
    complete(&mut key, grant(CELL_MS + 1000, &[0], 0), &CX);
    key.take_back_own(9);
    assert!(!key.needs_flush());
}

#[test]
fn a_key_that_has_nothing_to_give_back_sends_nothing() {
    let mut key = key(fixed_window(100));
    spend_at_store(&mut key, 3, 0, &CX);
    let receipt = Receipt::Window(ChargeOrigin { cell_ms: CELL_MS, incarnation: INCARNATION });
    assert!(!key.release(), "no tokens are in hand");
    assert!(!key.refund(0, receipt, CX.now), "0 hits");
    key.take_back_own(0);
    assert!(!key.needs_flush());
}

#[test]
fn a_key_whose_tokens_run_low_asks_for_more_once_and_not_while_an_item_is_in_flight() {
    let (mut key, mut cx) = busy_key();
    assert!(!key.wants_refill(), "20 tokens are more than a quarter of 64");
    spend(&mut key, 5, cx.now).unwrap();
    key.take_back_own(1);
    assert_eq!(send(&mut key, &cx).map(|item| lease_of(&item)), Some(None));
    assert!(!key.wants_refill(), "an item is in flight");
    complete(&mut key, grant(CELL_MS, &[], 0), &cx);
    assert!(key.wants_refill());
    assert!(!key.wants_refill(), "it is said once");
    cx.now = cx.now.plus(10_000);
    // It spends 50 tokens in one lease time, and holds 15.
    let lease = Prefetch { want: 35, holders: 3, min_left: 6_250 };
    assert_eq!(send(&mut key, &cx).map(|item| lease_of(&item)), Some(Some(lease)));
}

#[test]
fn a_refill_joins_the_tokens_of_its_cell_and_replaces_those_of_another() {
    let next_ms = CELL_MS + 1000;
    let cases = [
        (CELL_MS, 30, 45, vec![]),
        (next_ms, 30, 30, vec![(CELL_MS, 15)]),
        // A reply without tokens leaves the key those that it holds.
        (next_ms, 0, 15, vec![]),
    ];
    for (cell_ms, lease, in_hand, returns) in cases {
        let (mut key, cx) = busy_key();
        spend(&mut key, 5, cx.now).unwrap();
        assert!(key.wants_refill());
        send(&mut key, &cx).unwrap();
        complete(&mut key, grant(cell_ms, &[], lease), &cx);
        assert_eq!(spend(&mut key, in_hand + 1, cx.now), None);
        assert!(spend(&mut key, in_hand, cx.now).is_some());
        assert_eq!(returns_of(send(&mut key, &cx)), returns);
    }
}

#[test]
fn a_peek_that_passes_is_charged_nowhere() {
    let mut key = key(fixed_window(100));
    for hits in [0, 1] {
        ask(&mut key, hits);
    }
    send(&mut key, &CX);
    let charged = Receipt::Window(ChargeOrigin { cell_ms: CELL_MS, incarnation: INCARNATION });
    let results = complete(&mut key, grant(CELL_MS, &[1, 1], 0), &CX);
    assert_eq!(results, [Receipt::Free, charged].map(AskResult::Granted));
}

#[test]
fn a_key_remembers_the_denial_of_the_fewest_hits() {
    let fits_after_ms = |hits| if hits == 2 { 200 } else { 300 };
    for order in [[5, 2], [2, 5]] {
        let mut key = key(fixed_window(100));
        order.into_iter().for_each(|hits| ask(&mut key, hits));
        send(&mut key, &CX);
        let mut denied = grant(CELL_MS, &[0, 0], 0);
        for (run, hits) in denied.granted.iter_mut().zip(order) {
            run.fits_at = Some(CX.store_now.plus_millis(fits_after_ms(hits)));
        }
        complete(&mut key, denied, &CX);
        let denial = |hits| key.remembered_denial(hits, key.effective.terms(), CX.now);
        assert_eq!([1, 2].map(denial), [None, Some(Some(CX.now.plus(200_000)))]);
        assert_eq!(denial(5), Some(Some(CX.now.plus(600_000))), "more hits fit when the cell ends");
    }
}

#[test]
fn what_is_left_is_unknown_after_an_edit_of_the_limit_or_the_burst() {
    let cases = [
        (fixed_window(10), fixed_window(20), 20),
        (bucket(10, 10), bucket(10, 20), 20),
        (fixed_window(10), fixed_window(10), 3),
    ];
    for (before, after, remaining) in cases {
        let mut key = key(before);
        key.estimate = Some(Estimate { available: Some(3), reset_at: CX.now.plus(700) });
        let after = Arc::new(EffectiveLimit { revision: Revision(2), ..after });
        key.adopt(&after);
        assert_eq!((key.remaining(&after), key.reset(CX.now)), (Some(remaining), 700));
    }
}

#[test]
fn a_key_is_idle_once_its_limit_is_free_again_and_it_holds_and_owes_nothing() {
    let late = CX.now.plus(600_000);
    let mut unused = key(fixed_window(100));
    assert!(unused.is_idle(CX.now));
    spend_at_store(&mut unused, 3, 0, &CX);
    assert!(!unused.is_idle(NodeTime(late.0 - 1)) && unused.is_idle(late));

    let mut holder = key(fixed_window(100));
    spend_at_store(&mut holder, 3, 1, &CX);
    assert!(!holder.is_idle(late), "a token is in hand");

    let mut debtor = key(fixed_window(100));
    debtor.decide_locally(3, false, &fixed_window(100), &CX, DebtId(1)).unwrap();
    assert!(!debtor.is_idle(late), "the store does not know of a debt");
}

#[test]
fn a_key_has_a_queue_only_while_it_has_business_with_the_store() {
    let mut key = key(fixed_window(100));
    assert!(send(&mut key, &CX).is_none() && key.queue.is_none(), "there is nothing to send");
    let mut end = |how: fn(&mut KeyState)| {
        ask(&mut key, 1);
        assert!(key.queue.is_some());
        how(&mut key);
        key.queue.is_none()
    };
    assert!(end(|key| {
        send(key, &CX).unwrap();
        complete(key, grant(CELL_MS, &[1], 0), &CX);
    }));
    assert!(end(|key| {
        send(key, &CX).unwrap();
        key.fail(MayHaveRun::Unknown, &mut Vec::new());
    }));
    assert!(end(|key| key.fail_waiting(&mut Vec::new())));
}

#[test]
fn an_item_names_the_beginning_of_a_partition_if_the_region_admits_its_part_meanwhile() {
    let part = Part { weight: 1, weights: 3 };
    let regions = Regions { part, floor_thousandths: 0, partitioned_since: Some(NodeTime(2_000_000)), rights: None };
    let cx = Context { regions: Some(regions), ..CX };
    let three_seconds_ago = Share { since_ms: CELL_MS + 400 - 3000, part };
    let cases = [(OnPartition::Share, Some(three_seconds_ago)), (OnPartition::Open, None), (OnPartition::Deny, None)];
    for (on_partition, expected) in cases {
        let scope = Scope::Global(GlobalStrategy::Gossip { on_partition });
        let mut key = key(EffectiveLimit { scope, ..fixed_window(30) });
        ask(&mut key, 1);
        let Some(Item { counter: Counter::Window { share, .. }, .. }) = send(&mut key, &cx) else {
            panic!("expected an item for a window")
        };
        assert_eq!(share, expected, "{on_partition:?}");
    }
}

/// Cells with this many hits of the own region, the newest first.
fn cells(used: &[(u64, u64)]) -> SeenCells {
    let entries = |charged| vec![Entry { incarnation: INCARNATION, charged, returned: 0 }];
    let cells: Vec<Cell> =
        used.iter().map(|(start_ms, used)| Cell { start_ms: *start_ms, entries: entries(*used) }).collect();
    cells.into()
}

#[test]
fn a_region_reports_what_it_used_of_a_shared_counter_from_the_floor_on() {
    let regions =
        |floor_thousandths| Regions { part: Part::ONE, floor_thousandths, partitioned_since: None, rights: None };
    let scope = Scope::Global(GlobalStrategy::Gossip { on_partition: OnPartition::Open });
    let mut shared = key(EffectiveLimit { scope, ..fixed_window(30) });
    shared.seen = LastSeen::Window(cells(&[(CELL_MS, 3)]));
    let report = Report { key: b"k".as_slice().into(), grid: GRID, cells: cells(&[(CELL_MS, 3)]) };
    assert_eq!(shared.report(b"k", &regions(100), &CX), Some((report, CX.now.plus(600_000))));
    assert_eq!(shared.report(b"k", &regions(101), &CX), None, "the floor is 4 hits");

    let mut local = key(fixed_window(30));
    local.seen = LastSeen::Window(cells(&[(CELL_MS, 3)]));
    assert_eq!(local.report(b"k", &regions(0), &CX), None, "regions do not share the counter");
}

#[test]
fn a_region_wants_the_rights_that_it_used_in_the_cell_before() {
    let mut key = key(EffectiveLimit { scope: Scope::Global(GlobalStrategy::Escrow), ..fixed_window(100) });
    key.seen = LastSeen::Window(cells(&[(CELL_MS, 3), (CELL_MS - 1000, 40)]));
    ask(&mut key, 7);
    send(&mut key, &CX);
    // The cell ends in a millisecond, so no further hits are expected.
    let times = BatchTimes { sent: CX.now, ran: StoreTime::from_millis(CELL_MS + 999) };
    let ends = CX.now.plus(1000);
    let want = |hits, denied, epoch_ms| {
        let (name, cell_ms) = (b"k".as_slice().into(), CELL_MS);
        Some((Want { key: name, grid: GRID, limit: 100, cell_ms, hits, denied, received: 0, epoch_ms }, ends))
    };
    let cases = [
        (1, 4, Spending::Allowed, want(40 - 10 - 4, false, 0)),
        (1, 50, Spending::Allowed, None),
        (0, 50, Spending::Allowed, want(7, true, 0)),
        (1, 50, Spending::Unconfirmed { epoch_ms: 9 }, want(0, false, 9)),
        (1, 4, Spending::Lost, None),
    ];
    for (granted, available, spending, expected) in cases {
        let mut grant = Grant { available, ..grant(CELL_MS, &[granted], 0) };
        if let Seen::Window { cells: seen, .. } = &mut grant.seen {
            *seen = cells(&[(CELL_MS, 10)]);
        }
        assert_eq!(key.want(b"k", &grant, spending, &times, &CX), expected);
    }
}
