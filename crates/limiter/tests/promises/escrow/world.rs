//! Regions with a store each, which move rights, and what may happen to them.

use limiter::counter::{
    Ask, BatchContext, Counter, Debts, Escrow, Give, Given, Grid, Item, ItemReply, LaneEpoch, Note, Record, Seen,
    SeenCells, Spending, Take, apply,
};
use limiter::escrow::{RightsPlan, Weight};
use limiter::{BatchId, HolderId, RegionNumber, StoreTime};
use proptest::prelude::*;

pub const REGIONS: [&str; 3] = ["ap", "eu", "us"];
pub const WIDTH_MS: u64 = 60_000;
/// A window begins here.
pub const NOW_MS: u64 = 90 * WIDTH_MS;
pub const LIMIT: u64 = 30;

#[derive(Clone, Debug)]
pub enum Step {
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

pub fn any_step() -> impl Strategy<Value = Step> {
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
        1 => region().prop_map(|region| Step::Wipe { region }),
        1 => (region(), -90_000..90_000_i64).prop_map(|(region, ms)| Step::Leap { region, ms }),
    ]
}

/// What a primary stores.
#[derive(Clone, Default)]
pub struct Data {
    pub record: Option<Record>,
    pub lane: Option<LaneEpoch>,
    /// What was admitted of each cell, as far as this copy of the data knows.
    pub spent: Vec<(u64, u64)>,
}

pub struct Region {
    pub data: Data,
    /// What the replica has.
    pub replica: Data,
    pub escrow: Escrow,
    pub replication: u64,
    pub batches: u64,
    pub now_ms: i64,
    /// What was admitted of each cell.
    pub admitted: Vec<(u64, u64)>,
    /// What failovers forgot of each cell.
    pub forgotten: Vec<(u64, u64)>,
}

pub fn add(to: &mut Vec<(u64, u64)>, cell_ms: u64, hits: u64) {
    match to.iter_mut().find(|(at, _)| *at == cell_ms) {
        Some((_, sum)) => *sum += hits,
        None => to.push((cell_ms, hits)),
    }
}

pub fn of(sums: &[(u64, u64)], cell_ms: u64) -> u64 {
    sums.iter().find(|(at, _)| *at == cell_ms).map_or(0, |(_, sum)| *sum)
}

impl Region {
    pub fn new(region: usize) -> Self {
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

    pub fn run(&mut self, counter: Counter, asks: Vec<Ask>) -> ItemReply {
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
    pub fn spend(&mut self, hits: u64) -> (bool, u64) {
        self.spend_having_seen(hits, SeenCells::Empty)
    }

    /// As [`Self::spend`], by a node that saw these cells.
    pub fn spend_having_seen(&mut self, hits: u64, seen: SeenCells) -> (bool, u64) {
        let counter = Counter::Window {
            grid: grid(),
            limit: LIMIT,
            seen,
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

    pub fn give(&mut self, give: Give) -> Given {
        let reply = self.run(Counter::Give { grid: grid(), escrow: self.escrow, give }, Vec::new());
        let ItemReply::Given(given) = reply else { panic!("{reply:?}") };
        // `WAIT`: the other region hears of it only once the replica has it.
        self.replicate();
        given
    }

    pub fn take(&mut self, from: usize, cell_ms: u64, given: Given, asked_ms: u64) {
        self.run(Counter::Take { grid: grid(), take: Take { from: number(from), cell_ms, given, asked_ms } }, vec![]);
    }

    pub fn replicate(&mut self) {
        self.replica = self.data.clone();
    }

    pub fn fail_over(&mut self) {
        for (cell_ms, hits) in std::mem::take(&mut self.data.spent) {
            add(&mut self.forgotten, cell_ms, hits - of(&self.replica.spent, cell_ms));
        }
        self.data = self.replica.clone();
        self.replication += 1;
    }

    pub fn cell_ms(&mut self) -> (u64, u64) {
        let now_ms = u64::try_from(self.now_ms).unwrap();
        (now_ms - now_ms % WIDTH_MS, self.spend_nothing())
    }

    /// The rights of a cell that the region has received from another.
    pub fn received(&self, cell_ms: u64, from: usize) -> u64 {
        let Some(Record::Window(window)) = &self.data.record else { return 0 };
        let cell = window.cells.iter().find(|cell| cell.start_ms == cell_ms);
        cell.map_or(0, |cell| cell.note(Note::TakenFrom(number(from))))
    }

    /// Returns the epoch that must be confirmed.
    pub fn spend_nothing(&mut self) -> u64 {
        self.spend(u64::from(u32::MAX)).1
    }
}

pub const fn grid() -> Grid {
    Grid::Fixed { width_ms: WIDTH_MS }
}

pub fn number(region: usize) -> RegionNumber {
    RegionNumber::of(REGIONS[region])
}

#[derive(Default)]
pub struct World {
    pub regions: Vec<Region>,
    /// From, to, the cell, the epoch that was named, and the answer.
    pub answers: Vec<(usize, usize, u64, u64, Given)>,
}

impl World {
    pub fn new() -> Self {
        Self { regions: (0..REGIONS.len()).map(Region::new).collect(), answers: Vec::new() }
    }

    pub fn ask(&mut self, from: usize, to: usize, hits: u64, denied: bool) {
        let (cell_ms, epoch_ms) = self.regions[from].cell_ms();
        let received = self.regions[from].received(cell_ms, to);
        let give = Give { to: number(from), cell_ms, wanted: hits, denied, received, epoch_ms };
        let given = self.regions[to].give(give);
        self.answers.push((to, from, cell_ms, epoch_ms, given));
    }

    pub fn deliver(&mut self, answer: usize) {
        if !self.answers.is_empty() {
            let (from, to, cell_ms, epoch_ms, given) = self.answers[answer % self.answers.len()];
            self.regions[to].take(from, cell_ms, given, epoch_ms);
        }
    }

    pub fn apply(&mut self, step: &Step) {
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
    pub fn check(&self) {
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
