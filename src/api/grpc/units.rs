//! Envoy's units of time: a limit is a number of requests in a number of units.

use limiter::rules::{CalendarUnit, MAX_WINDOW_MS, Period};
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::RateLimitOverride;
use proto::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;

/// Envoy's units with their lengths in milliseconds, the longest first.
const UNITS: [(Unit, u64); 7] = [
    (Unit::Year, 365 * DAY),
    (Unit::Month, 30 * DAY),
    (Unit::Week, 7 * DAY),
    (Unit::Day, DAY),
    (Unit::Hour, 3_600_000),
    (Unit::Minute, 60_000),
    (Unit::Second, 1000),
];
const DAY: u64 = 86_400_000;

/// The limit of a descriptor; `None` if its unit is unknown. One week, month or year is a calendar period. Any other
/// window is as long as its units together, and at most as long as a window can be.
pub(super) fn read_limit(limit: RateLimitOverride) -> Option<(u64, Period)> {
    let RateLimitOverride { requests_per_unit, unit, unit_multiplier } = limit;
    let count = u64::from(unit_multiplier.unwrap_or(1).max(1));
    let (unit, length) = UNITS.into_iter().find(|(known, _)| i32::from(*known) == unit)?;
    let calendar = match unit {
        Unit::Week => Some(CalendarUnit::Week),
        Unit::Month => Some(CalendarUnit::Month),
        Unit::Year => Some(CalendarUnit::Year),
        _ => None,
    };
    let period = match calendar.filter(|_| count == 1) {
        Some(unit) => Period::Calendar { unit, time_zone: "UTC".to_owned() },
        None => Period::Window { ms: count.saturating_mul(length).min(MAX_WINDOW_MS) },
    };
    Some((u64::from(requests_per_unit), period))
}

/// A window as a number of Envoy's units, the longest unit that fits. `UNKNOWN` if there is none.
pub(super) fn in_units(window_ms: u64) -> (Unit, u32) {
    let fits = UNITS.into_iter().find(|(_, length)| window_ms >= *length && window_ms.is_multiple_of(*length));
    let counted = fits.and_then(|(unit, length)| Some((unit, u32::try_from(window_ms / length).ok()?)));
    counted.unwrap_or((Unit::Unknown, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_number_of_units() {
        let window = |ms| Period::Window { ms };
        let calendar = |unit| Period::Calendar { unit, time_zone: "UTC".to_owned() };
        let table = [
            (Unit::Second, None, window(1000)),
            (Unit::Second, Some(0), window(1000)),
            (Unit::Second, Some(1), window(1000)),
            (Unit::Second, Some(30), window(30_000)),
            (Unit::Minute, Some(5), window(300_000)),
            (Unit::Hour, None, window(3_600_000)),
            (Unit::Day, Some(2), window(2 * DAY)),
            (Unit::Week, None, calendar(CalendarUnit::Week)),
            (Unit::Week, Some(2), window(14 * DAY)),
            (Unit::Month, Some(1), calendar(CalendarUnit::Month)),
            (Unit::Month, Some(3), window(90 * DAY)),
            (Unit::Year, None, calendar(CalendarUnit::Year)),
            (Unit::Year, Some(u32::MAX), window(MAX_WINDOW_MS)),
            (Unit::Second, Some(u32::MAX), window(MAX_WINDOW_MS)),
        ];
        for (unit, unit_multiplier, period) in table {
            let limit = RateLimitOverride { requests_per_unit: 2, unit: unit.into(), unit_multiplier };
            assert_eq!(read_limit(limit), Some((2, period)), "{unit:?} {unit_multiplier:?}");
        }
        for unit in [0, 8, -1] {
            let limit = RateLimitOverride { requests_per_unit: 2, unit, unit_multiplier: Some(30) };
            assert_eq!(read_limit(limit), None, "{unit}");
        }
    }

    #[test]
    fn a_window_is_shown_in_the_longest_unit_that_fits() {
        let table = [
            (1000, (Unit::Second, 1)),
            (30_000, (Unit::Second, 30)),
            (60_000, (Unit::Minute, 1)),
            (90_000, (Unit::Second, 90)),
            (300_000, (Unit::Minute, 5)),
            (14 * DAY, (Unit::Week, 2)),
            (30 * DAY, (Unit::Month, 1)),
            (365 * DAY, (Unit::Year, 1)),
            (366 * DAY, (Unit::Day, 366)),
            (250, (Unit::Unknown, 1)),
            (1500, (Unit::Unknown, 1)),
            (0, (Unit::Unknown, 1)),
        ];
        for (window_ms, shown) in table {
            assert_eq!(in_units(window_ms), shown, "{window_ms}");
        }
    }
}
