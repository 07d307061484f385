//! What clients were promised, and what they were admitted.

use crate::crowd::{Asked, LIMIT, Mode};

/// Not decided as always.
pub fn odd(asked: &Asked) -> bool {
    asked.answer.is_none_or(|answer| answer.degraded)
}

pub fn allowed(asked: &Asked) -> bool {
    asked.answer.is_some_and(|answer| answer.allowed)
}

/// The most that one user may be admitted, who asked all of this. At each of `forgotten`, in microseconds since the epoch, the
/// store may have forgotten all that it had charged before.
pub fn promised(mode: Mode, asked: &[Asked], forgotten: &[u64]) -> usize {
    let before = |at: &u64| asked.iter().filter(|a| a.asked <= *at && allowed(a)).count();
    let forgotten: usize = forgotten.iter().map(before).sum();
    // One further limit where nodes decided by themselves, and they say where they did.
    let alone = matches!(mode, Mode::Local | Mode::Bucket) && asked.iter().any(odd);
    let limits = if alone { 2 } else { 1 };
    limits * LIMIT + forgotten
}

/// What a user was admitted of what is counted: with `allow` whatever the store did not decide passes.
pub fn admitted(mode: Mode, asked: &[Asked]) -> usize {
    asked.iter().filter(|a| allowed(a) && (mode != Mode::Allow || !odd(a))).count()
}

/// The longest wait of 99 in a hundred, in milliseconds.
pub fn slow(asked: &[Asked]) -> u64 {
    let mut waits: Vec<u64> = asked.iter().map(Asked::waited).collect();
    waits.sort_unstable();
    waits.get(waits.len() * 99 / 100).copied().unwrap_or(0)
}

pub fn share(part: usize, of: usize) -> f64 {
    part as f64 / of.max(1) as f64
}
