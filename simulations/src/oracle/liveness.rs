//! When everything is well again, all comes to rest within the stated time, and every limit is fully usable: no token is lost
//! for good.

use super::Violation;
use crate::ledger::{Ledger, Said};

pub fn judge(ledger: &Ledger, found: &mut Vec<Violation>) {
    let mut broken = |at, text| found.push(Violation { promise: "liveness", at, text });
    if !ledger.rested_in_time {
        broken(ledger.rested, "not at rest within the stated time".to_owned());
    }
    for fresh in &ledger.fresh {
        let hits = usize::try_from(fresh.hits).unwrap_or(usize::MAX);
        let lacking = ledger.asked.iter().skip(fresh.from).take(hits).enumerate().find(|(_, asked)| {
            let decided = asked.answer.as_ref().map(|(_, said)| said);
            !matches!(decided, Some(Said::Decided(decided)) if decided.allowed && !decided.degraded)
        });
        if let Some((granted, asked)) = lacking {
            let said = asked.answer.as_ref().map(|(_, said)| said);
            let text = format!("user {} has {granted} of {} hits, then {said:?}", fresh.user, fresh.hits);
            broken(asked.at, text);
        }
    }
}
