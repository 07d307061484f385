//! Debts: what holders admitted by themselves while the store was away (`on_store_failure: local`), as the store takes them.
//!
//! A debt is charged to the counter's incarnation, like any other hit, and so costs the record nothing afterwards. A holder
//! whose report got no answer sends it again, and must not be charged twice: the record keeps how much of each debt it has
//! charged until the holder confirms that it was told so. Figures only grow, so copies merge by max.

use serde::{Deserialize, Serialize};

use super::window::{Cell, cell_at};

/// Debts that a record keeps until their holders confirm them. Beyond that the oldest is forgotten: should its holder have
/// heard no answer, and report it again, it is charged twice.
pub const MAX_DEBTS: usize = 128;

/// What one holder admitted in one cell by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    pub cell_ms: u64,
    /// Names the debt: random, below 2^48, and never used again.
    pub id: u64,
    pub hits: Hits,
}

/// Hits that were admitted, and those of them that were not used. Both only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hits {
    pub charged: u64,
    pub returned: u64,
}

impl Hits {
    /// Hits that count.
    pub const fn net(self) -> u64 {
        self.charged.saturating_sub(self.returned)
    }

    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { charged: self.charged.max(other.charged), returned: self.returned.max(other.returned) }
    }
}

/// A holder tells the store of a debt, or confirms it: then `known` is all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub debt: Debt,
    /// What a store has said that it charged.
    pub known: Hits,
}

/// Charges what a report brings that the record has not charged yet, in the name of `incarnation`.
pub fn take(kept: &mut Vec<Debt>, cells: &mut Vec<Cell>, report: &Report, incarnation: u64) {
    let Report { debt, known } = *report;
    let at = place_of(kept, &debt);
    let charged = at.map_or(known, |at| kept[at].hits.max(known));
    let confirms = debt.hits == known;
    match at {
        Some(at) if confirms => {
            kept.remove(at);
        }
        Some(at) => kept[at].hits = charged.max(debt.hits),
        None if confirms => {}
        None => {
            if kept.len() >= MAX_DEBTS {
                kept.remove(0);
            }
            kept.push(Debt { hits: charged.max(debt.hits), ..debt });
        }
    }
    let more = debt.hits.charged.saturating_sub(charged.charged);
    let back = debt.hits.returned.saturating_sub(charged.returned);
    if more > 0 {
        cell_at(cells, debt.cell_ms).charge(incarnation, more);
    }
    if let Some(cell) = cells.iter_mut().find(|cell| cell.start_ms == debt.cell_ms) {
        cell.give_back(incarnation, back);
    }
}

/// Takes in which debts somebody saw in a record that charged them. What there is no room for is charged again if its
/// holder has not heard of it.
pub fn merge(kept: &mut Vec<Debt>, seen: &[Debt]) {
    for debt in seen {
        match place_of(kept, debt) {
            Some(at) => kept[at].hits = kept[at].hits.max(debt.hits),
            None if kept.len() < MAX_DEBTS => kept.push(*debt),
            None => {}
        }
    }
}

fn place_of(kept: &[Debt], debt: &Debt) -> Option<usize> {
    kept.iter().position(|kept| (kept.cell_ms, kept.id) == (debt.cell_ms, debt.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(id: u64, charged: u64, known: u64) -> Report {
        let hits = |charged| Hits { charged, returned: 0 };
        Report { debt: Debt { cell_ms: 0, id, hits: hits(charged) }, known: hits(known) }
    }

    fn used(cells: &[Cell]) -> u64 {
        cells.iter().map(Cell::used).sum()
    }

    #[test]
    fn a_debt_is_charged_once_however_often_it_is_reported() {
        let (mut kept, mut cells) = (Vec::new(), Vec::new());
        for (charged, known, total) in [(5, 0, 5), (5, 0, 5), (8, 0, 8), (8, 5, 8), (9, 8, 9), (9, 9, 9)] {
            take(&mut kept, &mut cells, &report(1, charged, known), 7);
            assert_eq!(used(&cells), total);
        }
        assert!(kept.is_empty(), "its holder has confirmed it");
        take(&mut kept, &mut cells, &report(1, 12, 9), 7);
        assert_eq!((used(&cells), kept.len()), (12, 1), "only what is new is charged");
    }

    #[test]
    fn unused_hits_of_a_debt_go_back() {
        let (mut kept, mut cells) = (Vec::new(), Vec::new());
        let mut back = report(1, 5, 0);
        take(&mut kept, &mut cells, &back, 7);
        back.debt.hits.returned = 2;
        (0..2).for_each(|_| take(&mut kept, &mut cells, &back, 7));
        assert_eq!(used(&cells), 3);
    }

    #[test]
    fn a_record_keeps_so_many_debts_and_charges_them_all() {
        let (mut kept, mut cells) = (Vec::new(), Vec::new());
        let most = MAX_DEBTS as u64;
        (1..=2 * most).for_each(|id| take(&mut kept, &mut cells, &report(id, 1, 0), 7));
        assert_eq!((used(&cells), kept.len()), (2 * most, MAX_DEBTS));
        take(&mut kept, &mut cells, &report(2 * most, 1, 0), 7);
        assert_eq!(used(&cells), 2 * most, "the newest are known again");
    }

    #[test]
    fn a_record_that_forgot_charges_no_debt_twice_that_somebody_saw_charged() {
        let (mut kept, mut cells) = (Vec::new(), Vec::new());
        take(&mut kept, &mut cells, &report(1, 5, 0), 7);
        let (seen, seen_cells) = (kept.clone(), cells.clone());
        // Another server knows nothing; a node brings back what it saw, then the debtor asks again.
        let (mut kept, mut cells) = (Vec::new(), Vec::new());
        merge(&mut kept, &seen);
        cell_at(&mut cells, 0).merge(&seen_cells[0].entries, 8);
        take(&mut kept, &mut cells, &report(1, 6, 0), 8);
        assert_eq!(used(&cells), 6);
    }
}
