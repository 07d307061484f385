//! Liveness: after the faults, everything settles within the stated time, and every limit is fully usable. No token is
//! lost for good.

use super::violation::Violation;
use crate::history::History;

pub fn judge(history: &History, found: &mut Vec<Violation>) {
    let mut broken = |at, text| found.push(Violation { promise: "liveness", at, text });
    if !history.quiesced_in_time {
        broken(history.quiesced_at, "not quiet within the stated time".to_owned());
    }
    for probes in &history.refill_probes {
        let hits = usize::try_from(probes.hits).unwrap_or(usize::MAX);
        let checks = history.checks.iter().skip(probes.start).take(hits).enumerate();
        let first_failed = checks.into_iter().find(|(_, check)| !check.is_allowed() || check.is_degraded());
        if let Some((granted, check)) = first_failed {
            let answer = check.answer.as_ref().map(|(_, answer)| answer);
            let text = format!("user {} has {granted} of {} hits, then {answer:?}", probes.user, probes.hits);
            broken(check.sent_at, text);
        }
    }
}
