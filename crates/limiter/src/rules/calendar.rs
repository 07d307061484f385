//! Calendar windows: where an hour, day, week, month or year of a time zone begins.
//!
//! A cell runs from one beginning to the next. The cells therefore partition time, even if clocks are set back over
//! midnight, a day is skipped, or a zone changes by half an hour.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::rule::CalendarUnit;
use crate::counter::CalendarBounds;

/// The time zone with this IANA name in the bundled database.
pub fn zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok()
}

/// The bounds of the cells around `at_ms`. `None` outside the years of the calendar.
pub fn bounds(unit: CalendarUnit, zone: &TimeZone, at_ms: u64) -> Option<CalendarBounds> {
    let at = i64::try_from(at_ms).ok()?;
    let start = begin(unit, zone, at)?;
    let before = begin(unit, zone, start - 1)?;
    let next = next(unit, zone, start)?;
    let after = self::next(unit, zone, next)?;
    let ms = |t: i64| u64::try_from(t.max(0)).unwrap_or(0);
    Some([ms(before), ms(start), ms(next), ms(after)])
}

/// The latest beginning at or before `at`.
fn begin(unit: CalendarUnit, zone: &TimeZone, at: i64) -> Option<i64> {
    if unit == CalendarUnit::Hour {
        return hour_begin(zone, at);
    }
    let local = Timestamp::from_millisecond(at).ok()?.to_zoned_datetime(zone.clone());
    let mut period = period_of(unit, local.date())?;
    let mut start = instant(zone, period)?;
    // A clock that is set back over midnight shows yesterday's date while today has already begun.
    loop {
        let following = advance(unit, period)?;
        let following_start = instant(zone, following)?;
        if following_start > at {
            return Some(start);
        }
        (period, start) = (following, following_start);
    }
}

/// The first beginning after the one at `start`.
fn next(unit: CalendarUnit, zone: &TimeZone, start: i64) -> Option<i64> {
    if unit == CalendarUnit::Hour {
        // No change of a zone makes the cell of an hour longer than three hours.
        return (1..=12).filter_map(|quarter| hour_begin(zone, start + quarter * 900_000)).find(|begin| *begin > start);
    }
    // When a period begins, the local clock shows a date of it.
    let local = Timestamp::from_millisecond(start).ok()?.to_zoned_datetime(zone.clone());
    instant(zone, advance(unit, period_of(unit, local.date())?)?)
}

/// The latest instant at or before `at` when the local clock showed a full hour.
fn hour_begin(zone: &TimeZone, at: i64) -> Option<i64> {
    const HOUR: i64 = 3_600_000;
    let mut seek = at;
    for _ in 0..4 {
        let instant = Timestamp::from_millisecond(seek).ok()?;
        let offset = i64::from(zone.to_offset(instant).seconds()) * 1000;
        let full = seek - (seek + offset).rem_euclid(HOUR);
        let changed = zone.preceding(instant.checked_add(1.millisecond()).ok()?).next();
        match changed.map(|change| change.timestamp().as_millisecond()) {
            // The full hour would be before the last change of the zone, when the local clock showed another time.
            Some(change) if full < change => seek = change - 1,
            _ => return Some(full),
        }
    }
    None
}

fn period_of(unit: CalendarUnit, date: Date) -> Option<Date> {
    match unit {
        CalendarUnit::Hour | CalendarUnit::Day => Some(date),
        CalendarUnit::Week => date.checked_sub(i64::from(date.weekday().to_monday_zero_offset()).days()).ok(),
        CalendarUnit::Month => Some(date.first_of_month()),
        CalendarUnit::Year => Some(date.first_of_year()),
    }
}

fn advance(unit: CalendarUnit, date: Date) -> Option<Date> {
    let span = match unit {
        CalendarUnit::Hour | CalendarUnit::Day => 1.day(),
        CalendarUnit::Week => 1.week(),
        CalendarUnit::Month => 1.month(),
        CalendarUnit::Year => 1.year(),
    };
    date.checked_add(span).ok()
}

fn instant(zone: &TimeZone, date: Date) -> Option<i64> {
    Some(date.to_zoned_datetime(zone.clone()).ok()?.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    /// The start and the end of the cell that contains a time.
    fn cell(unit: CalendarUnit, name: &str, text: &str) -> (u64, u64) {
        let bounds = bounds(unit, &zone(name).unwrap(), millis(text)).unwrap();
        (bounds[1], bounds[2])
    }

    #[test]
    fn a_month_and_a_year_start_at_local_midnight() {
        let month = cell(CalendarUnit::Month, "Europe/Paris", "2024-02-29T22:59:59Z");
        assert_eq!(month, (millis("2024-01-31T23:00:00Z"), millis("2024-02-29T23:00:00Z")));
        let year = cell(CalendarUnit::Year, "Pacific/Auckland", "2024-12-31T11:00:00Z");
        assert_eq!(year, (millis("2024-12-31T11:00:00Z"), millis("2025-12-31T11:00:00Z")));
    }

    #[test]
    fn a_week_starts_on_monday() {
        let week = cell(CalendarUnit::Week, "UTC", "2024-09-01T12:00:00Z");
        assert_eq!(week, (millis("2024-08-26T00:00:00Z"), millis("2024-09-02T00:00:00Z")));
    }

    #[test]
    fn a_day_with_a_clock_change_is_23_or_25_hours_long() {
        let spring = cell(CalendarUnit::Day, "Europe/Paris", "2024-03-31T12:00:00Z");
        assert_eq!(spring.1 - spring.0, 23 * 3_600_000);
        let autumn = cell(CalendarUnit::Day, "Europe/Paris", "2024-10-27T12:00:00Z");
        assert_eq!(autumn.1 - autumn.0, 25 * 3_600_000);
    }

    #[test]
    fn cells_have_no_gaps_or_overlaps_at_zone_changes() {
        // Half-hour shifts, a skipped day, clocks set back over midnight, and an offset of 45 minutes.
        let changes = [
            ("Australia/Lord_Howe", "2024-04-06T12:00:00Z"),
            ("Australia/Lord_Howe", "2024-10-05T12:00:00Z"),
            ("Pacific/Apia", "2011-12-29T12:00:00Z"),
            ("America/Havana", "2024-11-03T02:00:00Z"),
            ("America/St_Johns", "2006-10-28T22:00:00Z"),
            ("Asia/Kathmandu", "1985-12-31T12:00:00Z"),
        ];
        for (name, from) in changes {
            let zone = zone(name).unwrap();
            for unit in [CalendarUnit::Hour, CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month] {
                let mut last = bounds(unit, &zone, millis(from)).unwrap();
                for minute in 1..48 * 60 {
                    let now = millis(from) + minute * 60_000;
                    let bounds = bounds(unit, &zone, now).unwrap();
                    assert!(bounds[0] < bounds[1] && bounds[1] <= now && now < bounds[2] && bounds[2] < bounds[3]);
                    if bounds[1] != last[1] {
                        assert_eq!(bounds[1], last[2], "{name} {unit:?} {now}");
                        assert_eq!(bounds[0], last[1], "{name} {unit:?} {now}");
                    }
                    last = bounds;
                }
            }
        }
    }

    #[test]
    fn a_time_outside_the_calendar_has_no_bounds() {
        assert_eq!(bounds(CalendarUnit::Year, &TimeZone::UTC, u64::MAX), None);
        assert!(bounds(CalendarUnit::Year, &TimeZone::UTC, 0).is_some());
    }

    #[test]
    fn an_hour_begins_when_the_local_clock_shows_a_full_hour() {
        for (name, at, start, end) in [
            ("UTC", "2024-05-01T10:20:30Z", "2024-05-01T10:00:00Z", "2024-05-01T11:00:00Z"),
            ("Asia/Kathmandu", "2024-05-01T10:20:30Z", "2024-05-01T10:15:00Z", "2024-05-01T11:15:00Z"),
            // The clocks are set forward at this full hour.
            ("Europe/Paris", "2024-03-31T01:30:00Z", "2024-03-31T01:00:00Z", "2024-03-31T02:00:00Z"),
            // The clocks are set back from two to half past one.
            ("Australia/Lord_Howe", "2024-04-06T15:10:00Z", "2024-04-06T14:00:00Z", "2024-04-06T15:30:00Z"),
        ] {
            assert_eq!(cell(CalendarUnit::Hour, name, at), (millis(start), millis(end)), "{name}");
        }
    }
}
