//! I6: a check is decided under the rules that its core knew when it came, and under them only.

use super::Violation;
use super::allowance::hits;
use crate::ledger::{Asked, Ledger, Said};
use crate::plan::Plan;
use limiter::Revision;

pub fn judge(plan: &Plan, ledger: &Ledger, found: &mut Vec<Violation>) {
    for asked in &ledger.asked {
        let Some((at, Said::Decided(decided))) = &asked.answer else { continue };
        let mut broken = |text| found.push(Violation { promise: "I6", at: *at, text });
        let (least, most) = known(ledger, asked);
        if !(least..=most).contains(&decided.revision) {
            broken(format!("core {} decided by revision {}, and knew {least}", asked.holder, decided.revision));
            continue;
        }
        let edit = plan.edits.iter().find(|edit| edit.book.revision == decided.revision);
        for said in &decided.limits {
            let of = edit.and_then(|edit| edit.limits.get(said.limit)).map(hits);
            if said.of != of {
                broken(format!("revision {} grants {of:?}, the answer says {:?}", decided.revision, said.of));
            }
        }
    }
}

/// The revisions that the core may have known at the instant when the check came, which may be the one of an edit.
fn known(ledger: &Ledger, asked: &Asked) -> (Revision, Revision) {
    let told = ledger.told.iter().filter(|told| (told.0, told.1) == (asked.holder, asked.boot));
    let before = told.clone().filter(|told| told.3 < asked.came).map(|told| told.2).max();
    let until = told.filter(|told| told.3 <= asked.came).map(|told| told.2).max();
    (before.or(until).unwrap_or_default(), until.unwrap_or_default())
}
