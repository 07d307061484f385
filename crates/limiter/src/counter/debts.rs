//! Debts: hits that holders admitted during an outage (`on_store_failure: local`), and how a record charges each once.
//!
//! A debt is charged to the current incarnation of the counter, like any other hit. A holder whose report got no reply
//! reports the debt again. Therefore the record keeps how much of each debt it has charged, until the holder confirms
//! that it knows. The numbers only grow, so two versions of a debt
//! merge by taking each maximum.

use serde::{Deserialize, Serialize};

use super::cell::{Cell, cell_mut};
use crate::ids::{DebtId, Incarnation};

/// A record keeps this many debts until their holders confirm them. Beyond that it forgets the oldest. If the holder of
/// a forgotten debt got no reply, it reports the debt again and the debt is charged twice.
pub const MAX_DEBTS: usize = 128;

/// The hits that one holder admitted in one cell during one outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    pub cell_ms: u64,
    pub id: DebtId,
    pub hits: Hits,
}

/// Hits that were admitted, and those among them that were given back unused. Both numbers only grow.
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

/// A holder's report of a debt. If `known` equals the hits of the debt, it confirms that the holder has the
/// acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub debt: Debt,
    /// The hits that the store has acknowledged as charged.
    pub known: Hits,
}

/// Charges to `incarnation` the hits of a report that the record has not charged yet.
pub fn charge(kept: &mut Vec<Debt>, cells: &mut Vec<Cell>, report: &Report, incarnation: Incarnation) {
    let Report { debt, known } = *report;
    let at = position(kept, &debt);
    let already = at.map_or(known, |at| kept[at].hits.max(known));
    let confirms = debt.hits == known;
    match at {
        Some(at) if confirms => {
            kept.remove(at);
        }
        Some(at) => kept[at].hits = already.max(debt.hits),
        None if confirms => {}
        None => {
            if kept.len() >= MAX_DEBTS {
                kept.remove(0);
            }
            kept.push(Debt { hits: already.max(debt.hits), ..debt });
        }
    }
    let more = debt.hits.charged.saturating_sub(already.charged);
    let back = debt.hits.returned.saturating_sub(already.returned);
    if more > 0 {
        cell_mut(cells, debt.cell_ms).charge(incarnation, more);
    }
    if let Some(cell) = cells.iter_mut().find(|cell| cell.start_ms == debt.cell_ms) {
        cell.give_back(incarnation, back);
    }
}

/// Merges debts that a node saw as charged. If `kept` is full, a debt is skipped. It is charged again if
/// its holder does not know yet that it was charged.
pub fn merge<'a>(kept: &mut Vec<Debt>, seen: impl Iterator<Item = &'a Debt>) {
    for debt in seen {
        match position(kept, debt) {
            Some(at) => kept[at].hits = kept[at].hits.max(debt.hits),
            None if kept.len() < MAX_DEBTS => kept.push(*debt),
            None => {}
        }
    }
}

fn position(kept: &[Debt], debt: &Debt) -> Option<usize> {
    kept.iter().position(|kept| (kept.cell_ms, kept.id) == (debt.cell_ms, debt.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(id: u64, charged: u64, known: u64) -> Report {
        let hits = |charged| Hits { charged, returned: 0 };
        Report { debt: Debt { cell_ms: 0, id: DebtId(id), hits: hits(charged) }, known: hits(known) }
    }

    fn used(cells: &[Cell]) -> u64 {
        cells.iter().map(Cell::used).sum()
    }

    #[test]
    fn a_debt_that_is_reported_repeatedly_is_charged_once() {
        let (mut kept, mut cells) = (Vec::new(), Vec::new());
        for (charged, known, total) in [(5, 0, 5), (5, 0, 5), (8, 0, 8), (8, 5, 8), (9, 8, 9), (9, 9, 9)] {
            charge(&mut kept, &mut cells, &report(1, charged, known), Incarnation(7));
            assert_eq!(used(&cells), total);
        }
        assert!(kept.is_empty(), "the holder confirmed the debt");
        charge(&mut kept, &mut cells, &report(1, 12, 9), Incarnation(7));
        assert_eq!((used(&cells), kept.len()), (12, 1), "only the new hits are charged");
    }

    #[test]
    fn unused_hits_of_a_debt_are_returned() {
        let (mut kept, mut cells) = (Vec::new(), Vec::new());
        let mut reported = report(1, 5, 0);
        charge(&mut kept, &mut cells, &reported, Incarnation(7));
        reported.debt.hits.returned = 2;
        (0..2).for_each(|_| charge(&mut kept, &mut cells, &reported, Incarnation(7)));
        assert_eq!(used(&cells), 3);
    }

    #[test]
    fn a_record_charges_all_debts_and_keeps_the_newest() {
        let (mut kept, mut cells) = (Vec::new(), Vec::new());
        let max = MAX_DEBTS as u64;
        (1..=2 * max).for_each(|id| charge(&mut kept, &mut cells, &report(id, 1, 0), Incarnation(7)));
        assert_eq!((used(&cells), kept.len()), (2 * max, MAX_DEBTS));
        charge(&mut kept, &mut cells, &report(2 * max, 1, 0), Incarnation(7));
        assert_eq!(used(&cells), 2 * max, "the newest debts are recognised");
    }

    #[test]
    fn a_record_that_lost_data_charges_no_debt_twice_that_a_holder_saw_charged() {
        let (mut kept, mut cells) = (Vec::new(), Vec::new());
        charge(&mut kept, &mut cells, &report(1, 5, 0), Incarnation(7));
        let (seen, seen_cells) = (kept.clone(), cells.clone());
        // Another server has no data. One node restores what it saw, then the holder of the debt reports it again.
        let (mut kept, mut cells) = (Vec::new(), Vec::new());
        merge(&mut kept, seen.iter());
        cell_mut(&mut cells, 0).merge(&seen_cells[0].entries, Incarnation(8));
        charge(&mut kept, &mut cells, &report(1, 6, 0), Incarnation(8));
        assert_eq!(used(&cells), 6);
    }

    #[test]
    fn a_confirmed_debt_that_a_record_does_not_know_leaves_no_trace() {
        let (mut kept, mut cells) = (Vec::new(), Vec::new());
        charge(&mut kept, &mut cells, &report(1, 5, 5), Incarnation(7));
        assert_eq!((kept, cells), (Vec::new(), Vec::new()));
    }

    #[test]
    fn hits_that_a_holder_knew_to_be_charged_are_not_charged_again() {
        let (mut kept, mut cells) = (Vec::new(), Vec::new());
        for (charged, known) in [(5, 9), (9, 0)] {
            charge(&mut kept, &mut cells, &report(1, charged, known), Incarnation(7));
        }
        assert_eq!(cells, []);
    }

    #[test]
    fn a_record_takes_over_no_more_debts_than_it_keeps() {
        let mut kept = Vec::new();
        let seen: Vec<Debt> = (1..=MAX_DEBTS as u64 + 2).map(|id| report(id, 1, 0).debt).collect();
        merge(&mut kept, seen.iter());
        assert_eq!(kept, seen[..MAX_DEBTS]);
    }
}
