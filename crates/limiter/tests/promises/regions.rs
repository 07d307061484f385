//! Regions that tell each other what they counted, over a network that loses, repeats and reorders messages, with
//! stores that fail over.

use limiter::counter::{
    Ask, BatchContext, Cell, Counter, Debts, Entry, Grid, Item, ItemReply, LaneEpoch, Record, Seen, SeenCells,
    WindowReturn, apply, used_by,
};
use limiter::gossip::Report;
use limiter::{BatchId, HolderId, Incarnation, RegionNumber, StoreTime};
use proptest::collection::vec;
use proptest::prelude::*;

const REGIONS: usize = 3;
const KEY: &[u8] = b"k";
const WIDTH_MS: u64 = 60_000;
const NOW_MS: u64 = 90 * WIDTH_MS;

#[derive(Clone, Debug)]
enum Step {
    /// A holder of a region charges hits and gives some back.
    Charge { region: usize, hits: u64, back: u64 },
    /// Another server with the same data becomes the primary of a region.
    FailOver { region: usize },
    /// A message that was sent at some time is delivered, perhaps again.
    Deliver { message: usize, to: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    let region = || 0..REGIONS;
    prop_oneof![
        4 => (region(), 1..20_u64, 0..20_u64).prop_map(|(region, hits, back)| Step::Charge { region, hits, back }),
        1 => region().prop_map(|region| Step::FailOver { region }),
        4 => (any::<usize>(), region()).prop_map(|(message, to)| Step::Deliver { message, to }),
    ]
}

#[derive(Default)]
struct Region {
    record: Option<Record>,
    seen: SeenCells,
    replication: u64,
    batches: u64,
    admitted: u64,
    /// Milliseconds since [`NOW_MS`].
    now_ms: u64,
}

impl Region {
    fn run(&mut self, item: &Item) -> ItemReply {
        self.batches += 1;
        let now = StoreTime::from_millis(NOW_MS + self.now_ms);
        let cx = BatchContext {
            now,
            replication: self.replication,
            holder: HolderId(0x0123_4567_89ab),
            batch: BatchId(self.batches),
            not_after: Some(now),
            epoch: LaneEpoch::default(),
        };
        apply(&mut self.record, item, cx)
    }

    fn window(&mut self, hits: u64, returns: Vec<WindowReturn>) -> WindowReturn {
        let counter = Counter::Window {
            grid: grid(),
            limit: 1_000_000,
            seen: self.seen.clone(),
            returns,
            debts: Debts::default(),
            lease: None,
            share: None,
            escrow: None,
        };
        let asks = (hits > 0).then_some(Ask { hits, count: 1, overdraft: false }).into_iter().collect();
        let item = Item { key: KEY.into(), asks, refund: 0, counter };
        let ItemReply::Done(grant) = self.run(&item) else { panic!("expected a grant") };
        let Seen::Window { cells, incarnation, cell_ms, .. } = grant.seen else { panic!("expected a window") };
        self.seen = cells;
        WindowReturn { cell_ms, incarnation, tokens: hits }
    }
}

const fn grid() -> Grid {
    Grid::Fixed { width_ms: WIDTH_MS }
}

/// How other regions call a region.
fn number(region: usize) -> RegionNumber {
    RegionNumber(u16::try_from(region).unwrap() + 100)
}

/// What a region calls the entries of another.
fn used_of(at: &Region, own: usize, of: usize) -> u64 {
    let number = if own == of { RegionNumber::OWN } else { number(of) };
    let Some(Record::Window(window)) = &at.record else { return 0 };
    window.cells.iter().map(|cell| used_by(&cell.entries, number)).sum()
}

/// A report of another region about one cell.
fn report(start_ms: u64, charged: u64) -> Item {
    let entries = vec![Entry { incarnation: Incarnation(1 << 30), charged, returned: 0 }];
    let cells = [Cell { start_ms, entries }].as_slice().into();
    Report { key: KEY.into(), grid: grid(), cells }.import(number(1)).unwrap()
}

#[test]
fn an_import_never_advances_the_time_of_a_counter_and_counts_when_its_cell_begins() {
    let mut region = Region::default();
    region.window(5, Vec::new());
    // The clock of the other region is ahead: it is in the next window already.
    region.run(&report(NOW_MS + WIDTH_MS, 70));
    assert_eq!(region.window(5, Vec::new()).cell_ms, NOW_MS);
    assert_eq!((used_of(&region, 0, 0), used_of(&region, 0, 1)), (10, 70));
    region.now_ms = WIDTH_MS;
    let back = region.window(1, Vec::new());
    assert_eq!(back.cell_ms, NOW_MS + WIDTH_MS);
    assert_eq!((used_of(&region, 0, 0), used_of(&region, 0, 1)), (1, 70), "the last window is over");
}

#[test]
fn an_import_creates_no_cell_that_is_over_or_far_ahead() {
    let mut region = Region::default();
    region.run(&report(NOW_MS - WIDTH_MS, 70));
    region.run(&report(NOW_MS + 2 * WIDTH_MS, 70));
    assert_eq!(region.record, None);
    region.run(&report(NOW_MS, 70));
    assert_eq!(used_of(&region, 0, 1), 70);
}

#[test]
fn a_region_can_neither_be_told_of_its_own_charges_nor_of_those_of_a_third() {
    let mut region = Region::default();
    region.window(5, Vec::new());
    let Some(Record::Window(window)) = &region.record else { panic!("expected a window") };
    let own = window.cells[0].entries[0];
    for entry in [Entry { charged: 90, ..own }, Entry { incarnation: own.incarnation.of_region(number(2)), ..own }] {
        let cells = [Cell { start_ms: NOW_MS, entries: vec![entry] }].as_slice().into();
        // What comes from another region is of that region, whatever it says.
        if let Ok(item) = (Report { key: KEY.into(), grid: grid(), cells }).import(number(1)) {
            region.run(&item);
        }
    }
    assert_eq!([0, 1, 2].map(|of| used_of(&region, 0, of)), [5, 90, 0]);
}

proptest! {
    /// However messages are lost, repeated and reordered, and however often stores fail over: each region counts its
    /// own hits exactly, and once the newest messages are delivered all count the same.
    #[test]
    fn regions_agree_whatever_the_network_does(steps in vec(any_step(), 1..80)) {
        let mut regions: [Region; REGIONS] = Default::default();
        let mut sent: Vec<(usize, Report)> = Vec::new();
        for step in steps {
            match step {
                Step::Charge { region, hits, back } => {
                    let back = back.min(hits);
                    let charged = regions[region].window(hits, Vec::new());
                    if back > 0 {
                        regions[region].window(0, vec![WindowReturn { tokens: back, ..charged }]);
                    }
                    regions[region].admitted += hits - back;
                    sent.extend(Report::new(KEY, grid(), &regions[region].seen, 0).map(|report| (region, report)));
                }
                Step::FailOver { region } => regions[region].replication += 1,
                Step::Deliver { message, to } if !sent.is_empty() => {
                    let (from, report) = sent[message % sent.len()].clone();
                    if from != to {
                        let reply = regions[to].run(&report.import(number(from)).unwrap());
                        let imported = matches!(reply, ItemReply::Imported { .. });
                        prop_assert!(imported, "{reply:?}");
                    }
                }
                Step::Deliver { .. } => {}
            }
            for (at, region) in regions.iter().enumerate() {
                prop_assert_eq!(used_of(region, at, at), region.admitted);
            }
        }
        for from in 0..REGIONS {
            if let Some(report) = Report::new(KEY, grid(), &regions[from].seen, 0) {
                for to in (0..REGIONS).filter(|to| *to != from) {
                    // Twice: the second time changes nothing.
                    for _ in 0..2 {
                        regions[to].run(&report.clone().import(number(from)).unwrap());
                    }
                }
            }
        }
        for (at, region) in regions.iter().enumerate() {
            for (of, other) in regions.iter().enumerate() {
                prop_assert_eq!(used_of(region, at, of), other.admitted, "{} at {}", of, at);
            }
        }
    }
}
