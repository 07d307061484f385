//! The number of hits that clients were promised, and the number that were admitted.

use loadgen::Percentile;

use crate::clients::{DrillCheck, LIMIT, Mode};

/// Returns true if the check has no answer or a degraded one.
pub fn is_abnormal(check: &DrillCheck) -> bool {
    check.answer.is_none_or(|answer| answer.degraded)
}

pub fn is_allowed(check: &DrillCheck) -> bool {
    check.answer.is_some_and(|answer| answer.allowed)
}

/// Returns the maximum number of hits that may be admitted for the user who sent these checks. At each time of
/// `data_losses`, in microseconds since the epoch, the store may have lost all charges up to then.
pub fn promised(mode: Mode, checks: &[DrillCheck], data_losses: &[u64]) -> usize {
    let before = |at: &u64| checks.iter().filter(|check| check.sent_at <= *at && is_allowed(check)).count();
    let lost: usize = data_losses.iter().map(before).sum();
    // Decisions without the store may admit one further limit. A degraded answer shows such a decision.
    let without_store = matches!(mode, Mode::Local | Mode::Bucket) && checks.iter().any(is_abnormal);
    let limits = if without_store { 2 } else { 1 };
    limits * LIMIT + lost
}

/// Returns the number of admitted hits that count against the promise. With `allow`, hits that were admitted without
/// the store do not count.
pub fn admitted(mode: Mode, checks: &[DrillCheck]) -> usize {
    checks.iter().filter(|check| is_allowed(check) && (mode != Mode::Allow || !is_abnormal(check))).count()
}

/// Returns the 90th percentile of the waits, in milliseconds; `None` for too few checks.
pub fn p90_wait_ms(checks: &[DrillCheck]) -> Option<u64> {
    let mut waits: Vec<u64> = checks.iter().map(DrillCheck::wait_ms).collect();
    waits.sort_unstable();
    let supported = waits.len() as u64 >= Percentile::P90.needs();
    waits.get(waits.len() * 9 / 10).copied().filter(|_| supported)
}

/// Returns `part` divided by `whole`, or by 1 if `whole` is 0.
pub fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}
