//! Regions that move rights of a limit under `escrow`, over a network that loses, repeats and reorders messages, with
//! stores that fail over and lose what no replica had.

use limiter::counter::{
    Ask, BatchContext, Counter, Debts, Escrow, Give, Given, Grid, Item, ItemReply, LaneEpoch, Record, Seen, SeenCells,
    Spending, Take, apply,
};
use limiter::escrow::{RightsPlan, Weight};
use limiter::{BatchId, HolderId, RegionNumber, StoreTime};
use proptest::collection::vec;
use proptest::prelude::*;

const REGIONS: [&str; 3] = ["ap", "eu", "us"];
const WIDTH_MS: u64 = 60_000;
/// A window begins here.
const NOW_MS: u64 = 90 * WIDTH_MS;
const LIMIT: u64 = 30;

#[derive(Clone, Debug)]
enum Step {
    /// A user of a region spends hits.
    Spend { region: usize, hits: u64 },
    /// A region asks another for rights. The question arrives and the answer is on its way.
    Ask { from: usize, to: usize, hits: u64, denied: bool },
    /// An answer that was once sent arrives, perhaps again.
    Deliver { answer: usize },
    /// The replica of a region's primary has all that the primary wrote.
    Replicate { region: usize },
    /// The replica of a region's primary takes over, with what it has.
    FailOver { region: usize },
    /// A region loses all its data.
    Wipe { region: usize },
    /// The clock of a region's store steps back or ahead.
    Leap { region: usize, ms: i64 },
}

fn any_step() -> impl Strategy<Value = Step> {
    let region = || 0..REGIONS.len();
    prop_oneof![
        6 => (region(), 1..12_u64).prop_map(|(region, hits)| Step::Spend { region, hits }),
        6 => (region(), 1..3_usize, 1..20_u64, any::<bool>()).prop_map(|(from, further, hits, denied)| Step::Ask {
            from,
            to: (from + further) % REGIONS.len(),
            hits,
            denied,
        }),
        6 => any::<usize>().prop_map(|answer| Step::Deliver { answer }),
        1 => region().prop_map(|region| Step::Replicate { region }),
        1 => region().prop_map(|region| Step::FailOver { region }),
        1 => (region(), -90_000..90_000_i64).prop_map(|(region, ms)| Step::Leap { region, ms }),
    ]
}

/// What a primary stores.
#[derive(Clone, Default)]
struct Data {
    record: Option<Record>,
    lane: Option<LaneEpoch>,
    /// What was admitted of each cell, as far as this copy of the data knows.
    spent: Vec<(u64, u64)>,
}

struct Region {
    data: Data,
    /// What the replica has.
    replica: Data,
    escrow: Escrow,
    replication: u64,
    batches: u64,
    now_ms: i64,
    /// What was admitted of each cell.
    admitted: Vec<(u64, u64)>,
    /// What failovers forgot of each cell.
    forgotten: Vec<(u64, u64)>,
}

fn add(to: &mut Vec<(u64, u64)>, cell_ms: u64, hits: u64) {
    match to.iter_mut().find(|(at, _)| *at == cell_ms) {
        Some((_, sum)) => *sum += hits,
        None => to.push((cell_ms, hits)),
    }
}

fn of(sums: &[(u64, u64)], cell_ms: u64) -> u64 {
    sums.iter().find(|(at, _)| *at == cell_ms).map_or(0, |(_, sum)| *sum)
}

impl Region {
    fn new(region: usize) -> Self {
        let weights = REGIONS.iter().map(|name| ((*name).to_owned(), Weight { now: 1, next: 1 })).collect();
        let mut new = Self {
            data: Data::default(),
            replica: Data::default(),
            escrow: RightsPlan::new(REGIONS[region], &weights).unwrap().escrow(LIMIT),
            replication: 1,
            batches: 0,
            now_ms: i64::try_from(NOW_MS - WIDTH_MS).unwrap(),
            admitted: Vec::new(),
            forgotten: Vec::new(),
        };
        // The lane is known before the window begins.
        new.take(0, NOW_MS, Given::default(), 0);
        new.replica = new.data.clone();
        new.now_ms += i64::try_from(WIDTH_MS).unwrap();
        new
    }

    fn run(&mut self, counter: Counter, asks: Vec<Ask>) -> ItemReply {
        self.batches += 1;
        let now = StoreTime::from_millis(u64::try_from(self.now_ms).unwrap());
        let lane = LaneEpoch::arrive(self.data.lane, self.replication, now);
        self.data.lane = Some(lane);
        let cx = BatchContext {
            now,
            replication: self.replication,
            holder: HolderId(0x0123_4567_89ab),
            batch: BatchId(self.batches),
            not_after: Some(now),
            epoch: lane,
        };
        let item = Item { key: b"k".as_slice().into(), asks, refund: 0, counter };
        apply(&mut self.data.record, &item, cx)
    }

    /// Spends hits if the region has rights. Returns whether it has, and the epoch that must be confirmed.
    fn spend(&mut self, hits: u64) -> (bool, u64) {
        let counter = Counter::Window {
            grid: grid(),
            limit: LIMIT,
            seen: SeenCells::Empty,
            returns: Vec::new(),
            debts: Debts::default(),
            lease: None,
            share: None,
            escrow: Some(self.escrow),
        };
        let reply = self.run(counter, vec![Ask { hits, count: 1, overdraft: false }]);
        let ItemReply::Done(grant) = reply else { panic!("{reply:?}") };
        let Seen::Window { cell_ms, .. } = grant.seen else { panic!("expected a window") };
        let granted = grant.granted[0].count > 0;
        if granted {
            add(&mut self.admitted, cell_ms, hits);
            add(&mut self.data.spent, cell_ms, hits);
        }
        let epoch_ms = match grant.spending {
            Some(Spending::Unconfirmed { epoch_ms }) => epoch_ms,
            _ => 0,
        };
        (granted, epoch_ms)
    }

    fn give(&mut self, give: Give) -> Given {
        let reply = self.run(Counter::Give { grid: grid(), escrow: self.escrow, give }, Vec::new());
        let ItemReply::Given(given) = reply else { panic!("{reply:?}") };
        // `WAIT`: the other region hears of it only once the replica has it.
        self.replicate();
        given
    }

    fn take(&mut self, from: usize, cell_ms: u64, given: Given, asked_ms: u64) {
        self.run(Counter::Take { grid: grid(), take: Take { from: number(from), cell_ms, given, asked_ms } }, vec![]);
    }

    fn replicate(&mut self) {
        self.replica = self.data.clone();
    }

    fn fail_over(&mut self) {
        for (cell_ms, hits) in std::mem::take(&mut self.data.spent) {
            add(&mut self.forgotten, cell_ms, hits - of(&self.replica.spent, cell_ms));
        }
        self.data = self.replica.clone();
        self.replication += 1;
    }

    fn cell_ms(&mut self) -> (u64, u64) {
        let now_ms = u64::try_from(self.now_ms).unwrap();
        (now_ms - now_ms % WIDTH_MS, self.spend_nothing())
    }

    /// Returns the epoch that must be confirmed.
    fn spend_nothing(&mut self) -> u64 {
        self.spend(u64::from(u32::MAX)).1
    }
}

const fn grid() -> Grid {
    Grid::Fixed { width_ms: WIDTH_MS }
}

fn number(region: usize) -> RegionNumber {
    RegionNumber::of(REGIONS[region])
}

#[derive(Default)]
struct World {
    regions: Vec<Region>,
    /// From, to, the cell, the epoch that was named, and the answer.
    answers: Vec<(usize, usize, u64, u64, Given)>,
}

impl World {
    fn new() -> Self {
        Self { regions: (0..REGIONS.len()).map(Region::new).collect(), answers: Vec::new() }
    }

    fn ask(&mut self, from: usize, to: usize, hits: u64, denied: bool) {
        let (cell_ms, epoch_ms) = self.regions[from].cell_ms();
        let give = Give { to: number(from), cell_ms, wanted: hits, denied, epoch_ms };
        let given = self.regions[to].give(give);
        self.answers.push((to, from, cell_ms, epoch_ms, given));
    }

    fn deliver(&mut self, answer: usize) {
        if !self.answers.is_empty() {
            let (from, to, cell_ms, epoch_ms, given) = self.answers[answer % self.answers.len()];
            self.regions[to].take(from, cell_ms, given, epoch_ms);
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Spend { region, hits } => drop(self.regions[region].spend(hits)),
            Step::Ask { from, to, hits, denied } => self.ask(from, to, hits, denied),
            Step::Deliver { answer } => self.deliver(answer),
            Step::Replicate { region } => self.regions[region].replicate(),
            Step::FailOver { region } => self.regions[region].fail_over(),
            Step::Wipe { region } => {
                self.regions[region].replica = Data::default();
                self.regions[region].fail_over();
            }
            Step::Leap { region, ms } => self.regions[region].now_ms += ms,
        }
    }

    /// Checks that all regions together admitted at most the limit of each cell, apart from what stores forgot.
    fn check(&self) {
        let cells = self.regions.iter().flat_map(|region| region.admitted.iter().map(|(cell_ms, _)| *cell_ms));
        for cell_ms in cells {
            let sum = |sums: &dyn Fn(&Region) -> u64| self.regions.iter().map(sums).sum::<u64>();
            let (admitted, forgotten) = (sum(&|r| of(&r.admitted, cell_ms)), sum(&|r| of(&r.forgotten, cell_ms)));
            assert!(
                admitted <= LIMIT + forgotten,
                "{admitted} of {LIMIT} in the cell {cell_ms}, {forgotten} forgotten"
            );
        }
    }
}

proptest! {
    #[test]
    fn all_regions_together_never_admit_more_than_the_limit(steps in vec(any_step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
            world.check();
        }
    }
}

#[test]
fn rights_that_one_region_does_not_use_are_spent_in_another() {
    let mut world = World::new();
    let mut admitted = 0;
    for _ in 0..200 {
        if world.regions[0].spend(1).0 {
            admitted += 1;
        } else {
            for to in [1, 2] {
                world.ask(0, to, 5, true);
                world.deliver(world.answers.len() - 1);
            }
        }
    }
    world.check();
    assert_eq!(admitted, LIMIT);
}

#[test]
fn an_answer_of_an_earlier_primary_is_rejected_once_its_successor_was_told_what_the_region_has() {
    let mut world = World::new();
    // Region 1 gives region 0 rights. Its replica had them, but another server without them takes over.
    let before = world.regions[1].data.clone();
    world.ask(0, 1, 7, false);
    world.regions[1].replica = before;
    world.regions[1].fail_over();
    // The new primary asks what the others got. The answer of the old one is still on its way.
    for to in [0, 2] {
        assert!(!world.regions[1].spend(1).0, "nobody has confirmed yet");
        world.ask(1, to, 0, false);
        world.deliver(world.answers.len() - 1);
    }
    assert!(world.regions[1].spend(10).0);
    world.deliver(0);
    while world.regions[0].spend(1).0 || world.regions[2].spend(1).0 {}
    world.check();
}

#[test]
fn a_new_primary_learns_what_the_old_one_gave() {
    let mut world = World::new();
    let before = world.regions[1].data.clone();
    world.ask(0, 1, 7, false);
    world.deliver(0);
    world.regions[1].replica = before;
    world.regions[1].fail_over();
    for to in [0, 2] {
        world.ask(1, to, 0, false);
        world.deliver(world.answers.len() - 1);
    }
    while world.regions[0].spend(1).0 || world.regions[1].spend(1).0 || world.regions[2].spend(1).0 {}
    world.check();
    assert_eq!(world.regions.iter().map(|region| of(&region.admitted, NOW_MS)).sum::<u64>(), LIMIT);
}

#[test]
fn a_store_that_has_lost_everything_spends_nothing_of_the_window() {
    let mut world = World::new();
    assert!(world.regions[0].spend(10).0);
    world.apply(&Step::Wipe { region: 0 });
    for to in [1, 2] {
        world.ask(0, to, 5, true);
        world.deliver(world.answers.len() - 1);
    }
    assert!(!world.regions[0].spend(1).0);
    world.regions[0].now_ms += i64::try_from(WIDTH_MS).unwrap();
    assert!(world.regions[0].spend(10).0, "the next window has its rights");
}

#[test]
fn a_transfer_counts_in_the_cell_that_it_names_alone() {
    let mut world = World::new();
    world.ask(0, 1, 7, false);
    world.regions[0].now_ms += i64::try_from(WIDTH_MS).unwrap();
    assert!(world.regions[0].spend(1).0);
    world.deliver(0);
    assert!(!world.regions[0].spend(10).0 && world.regions[0].spend(9).0, "the next window has ten rights");
    // The clock of region 0 is in the next window, that of region 1 is not: it has nothing to give of it yet.
    world.ask(0, 1, 7, true);
    assert_eq!(world.answers.last().unwrap().4.total, 0);
}
