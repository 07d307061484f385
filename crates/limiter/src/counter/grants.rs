//! Which asks of an item are granted, and how many tokens it gets in advance. An [`Ask`] stands for `count` equal asks
//! in a row.

use super::batch::{Ask, Granted, Prefetch};
use crate::time::StoreTime;

/// Grants whole asks in order. Returns how many of each ask pass, and the tokens that are charged for them together.
pub fn grant_in_order(asks: &[Ask], available: u64) -> (Vec<u32>, u64) {
    let mut taken = 0;
    let counts = asks
        .iter()
        .map(|ask| {
            let left = available.saturating_sub(taken);
            let fitting = match ask.hits {
                // A peek takes nothing.
                0 if left == 0 => 0,
                0 => u64::MAX,
                hits => left / hits,
            };
            let count = fitting.min(u64::from(ask.count));
            taken += if ask.overdraft { u64::from(ask.count) } else { count } * ask.hits;
            u32::try_from(count).unwrap_or(ask.count)
        })
        .collect();
    (counts, taken)
}

/// The reply to each ask: how many passed and, if some did not, when one more would fit.
pub fn granted_runs(asks: &[Ask], counts: &[u32], fits_at: impl Fn(u64) -> Option<StoreTime>) -> Vec<Granted> {
    let run = |(ask, count): (&Ask, &u32)| Granted {
        count: *count,
        fits_at: if *count < ask.count { fits_at(ask.hits.max(1)) } else { None },
    };
    asks.iter().zip(counts).map(run).collect()
}

/// The tokens granted in advance: at most half of the available ones divided by the holders, and none if the cell, of
/// which `left_us` microseconds are left, ends too soon.
pub fn prefetch(lease: Prefetch, available: u64, left_us: u64) -> u32 {
    if left_us < lease.min_left {
        return 0;
    }
    let cap = available / (2 * u64::from(lease.holders.max(1)));
    u32::try_from(cap).unwrap_or(u32::MAX).min(lease.want)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_says_when_one_more_would_fit_only_if_one_was_denied() {
        let asks = [(2, 3), (5, 2), (0, 1)].map(|(hits, count)| Ask { hits, count, overdraft: false });
        let runs = granted_runs(&asks, &[3, 1, 0], |hits| Some(StoreTime(hits)));
        let granted = |count, fits_at: Option<u64>| Granted { count, fits_at: fits_at.map(StoreTime) };
        assert_eq!(runs, [granted(3, None), granted(1, Some(5)), granted(0, Some(1))], "a peek is for one hit");
    }
}
