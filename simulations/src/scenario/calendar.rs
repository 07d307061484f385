//! The calendars of limits under escrow. One window of a calendar ends within a simulation and the next one begins.

use std::fmt;

use crate::ids::Instant;
use crate::rng::Rng;
use limiter::rules::{CalendarUnit, Limit, Period};

const MS: u64 = 1000;
const SECOND_US: u64 = 1_000_000;

/// The calendars: a unit, a time zone, and an instant in seconds since the Unix epoch at which a window begins. The
/// windows around it are so long that no other one begins within a simulation.
const CALENDARS: [(CalendarUnit, &str, u64); 8] = [
    // 14 November 2023, 23:00 UTC.
    (CalendarUnit::Hour, "UTC", 1_700_002_800),
    // 15 November 2023, 04:00 in India. Its hours begin at half past of UTC.
    (CalendarUnit::Hour, "Asia/Kolkata", 1_700_001_000),
    // 15 November 2023.
    (CalendarUnit::Day, "UTC", 1_700_006_400),
    // 31 March 2024 in Paris, a day of 23 hours.
    (CalendarUnit::Day, "Europe/Paris", 1_711_839_600),
    // 3 November 2024 in Havana, a day that has its midnight twice.
    (CalendarUnit::Day, "America/Havana", 1_730_606_400),
    // Monday, 20 November 2023.
    (CalendarUnit::Week, "UTC", 1_700_438_400),
    // 1 December 2023.
    (CalendarUnit::Month, "UTC", 1_701_388_800),
    // 1 January 2024.
    (CalendarUnit::Year, "UTC", 1_704_067_200),
];

/// A calendar, and when one of its windows begins in a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    unit: CalendarUnit,
    time_zone: &'static str,
    /// When the window begins, by the store's time, in microseconds since the Unix epoch.
    pub begins_us: u64,
    /// When the window begins in the simulation, if clocks are right.
    pub turns_at: Instant,
}

impl Calendar {
    /// Draws a calendar. A window begins between two instants of the simulation.
    pub fn draw(rng: &mut Rng, earliest: Instant, latest: Instant) -> Self {
        let [first, others @ ..] = CALENDARS;
        let (unit, time_zone, begins_s) = rng.pick(first, &others);
        let turns_at = rng.between(earliest / MS, latest / MS) * MS;
        Self { unit, time_zone, begins_us: begins_s * SECOND_US, turns_at }
    }

    /// Returns the store's time at which the simulation begins, in microseconds since the Unix epoch.
    pub const fn epoch_us(&self) -> u64 {
        self.begins_us - self.turns_at
    }

    /// Gives a limit the windows of the calendar.
    pub fn set(&self, limit: &mut Limit) {
        limit.period = Period::Calendar { unit: self.unit, time_zone: self.time_zone.to_owned() };
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unit, time_zone, turns_at, .. } = self;
        write!(f, "  calendar a new {unit:?} of {time_zone} begins at {} ms", turns_at / MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;
    use crate::scenario::draw_limits::draw_limits;
    use crate::scenario::{DOMAIN, Scenario};
    use limiter::counter::Grid;
    use limiter::rules::{Algorithm, EffectiveLimit};
    use limiter::{Revision, StoreTime};

    #[test]
    fn windows_begin_at_the_stated_instants_and_none_begins_within_half_an_hour_of_them() {
        let [drawn, ..] = &draw_limits(&mut Rng::new(0, Stream::Plan), Scenario::Calm, false)[..] else { panic!() };
        for (unit, time_zone, begins_s) in CALENDARS {
            let (begins_ms, half_an_hour_ms) = (begins_s * 1000, 1_800_000);
            let calendar = Calendar { unit, time_zone, begins_us: begins_ms * MS, turns_at: 0 };
            let mut limit = Limit { algorithm: Algorithm::FixedWindow, ..drawn.clone() };
            calendar.set(&mut limit);
            let effective = EffectiveLimit::new(&DOMAIN.into(), &limit, None, Revision(1));
            let Some(Grid::Calendar { bounds: [before, begin, end, _] }) = effective.grid(StoreTime(begins_ms * MS))
            else {
                panic!("{unit:?} of {time_zone}")
            };
            assert_eq!(begin, begins_ms, "{unit:?} of {time_zone}");
            assert!(before + half_an_hour_ms < begin && begin + half_an_hour_ms < end, "{unit:?} of {time_zone}");
        }
    }
}
