//! Reports as bytes.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use limiter::Incarnation;
use limiter::counter::{Cell, Entry, Given, Grid, MAX_COUNT};
use limiter::escrow::Want;
use limiter::gossip::Report;
use prost::Message;
use proto::tidegate::cluster as message;

/// Smaller reports are not compressed.
const COMPRESS_FROM: usize = 2048;
/// The most bytes of reports, before they are compressed.
pub const MAX_REPORT_BYTES: u32 = 8 << 20;

/// Why reports cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reports cannot be read")]
pub struct Unreadable;

/// The reports as bytes, and the bytes that they had before they were compressed, 0 if they are not.
pub fn encode(reports: &[Report]) -> (Vec<u8>, u32) {
    let bytes = message::Reports { reports: reports.iter().map(to_message).collect() }.encode_to_vec();
    let Some(length) = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() >= COMPRESS_FROM) else {
        return (bytes, 0);
    };
    let mut encoder = DeflateEncoder::new(Vec::with_capacity(bytes.len() / 2), Compression::fast());
    match encoder.write_all(&bytes).and_then(|()| encoder.finish()) {
        Ok(compressed) => (compressed, length),
        Err(_) => (bytes, 0),
    }
}

/// Reads reports. Whether a sound node sends them, only their import says.
///
/// # Errors
/// When they are no reports, or too long.
pub fn decode(bytes: &[u8], inflated_bytes: u32) -> Result<Vec<Report>, Unreadable> {
    let mut inflated = Vec::new();
    let bytes = if inflated_bytes == 0 {
        bytes
    } else {
        if inflated_bytes > MAX_REPORT_BYTES {
            return Err(Unreadable);
        }
        // What is longer than it says is not read to its end.
        let limit = u64::from(inflated_bytes) + 1;
        DeflateDecoder::new(bytes).take(limit).read_to_end(&mut inflated).map_err(|_| Unreadable)?;
        if inflated.len() as u64 >= limit {
            return Err(Unreadable);
        }
        &inflated
    };
    let reports = message::Reports::decode(bytes).map_err(|_| Unreadable)?;
    reports.reports.into_iter().map(|report| from_message(report).ok_or(Unreadable)).collect()
}

fn to_message(report: &Report) -> message::Report {
    let (grid, window_ms, older_cells) = match report.grid {
        Grid::Fixed { width_ms } => (message::Grid::Fixed, width_ms, 0),
        Grid::Sliding { width_ms } => (message::Grid::Sliding, width_ms, 0),
        Grid::Rolling { window_ms, cells } => (message::Grid::Rolling, window_ms, cells),
        // No other region is told of a calendar.
        Grid::Calendar { .. } => (message::Grid::Unspecified, 0, 0),
    };
    let entry = |entry: &Entry| message::Entry {
        incarnation: entry.incarnation.0,
        charged: entry.charged,
        returned: entry.returned,
    };
    let cell =
        |(start_ms, entries): (u64, &[Entry])| message::Cell { start_ms, entries: entries.iter().map(entry).collect() };
    message::Report {
        key: report.key.to_vec(),
        grid: grid.into(),
        window_ms,
        older_cells,
        cells: report.cells.iter().map(cell).collect(),
    }
}

fn from_message(report: message::Report) -> Option<Report> {
    let grid = match report.grid() {
        message::Grid::Fixed => Grid::Fixed { width_ms: report.window_ms },
        message::Grid::Sliding => Grid::Sliding { width_ms: report.window_ms },
        message::Grid::Rolling => Grid::Rolling { window_ms: report.window_ms, cells: report.older_cells },
        message::Grid::Calendar | message::Grid::Unspecified => return None,
    };
    let entry = |entry: message::Entry| Entry {
        incarnation: Incarnation(entry.incarnation),
        charged: entry.charged,
        returned: entry.returned,
    };
    let cell =
        |cell: message::Cell| Cell { start_ms: cell.start_ms, entries: cell.entries.into_iter().map(entry).collect() };
    let cells: Vec<Cell> = report.cells.into_iter().map(cell).collect();
    Some(Report { key: report.key.into(), grid, cells: cells.into() })
}

/// What a region wants, as a message.
pub fn want_to_message(want: &Want) -> message::Want {
    let (grid, window_ms, bounds) = match want.grid {
        Grid::Fixed { width_ms } => (message::Grid::Fixed, width_ms, Vec::new()),
        Grid::Calendar { bounds } => (message::Grid::Calendar, 0, bounds.to_vec()),
        // No limit under escrow has another window.
        Grid::Sliding { .. } | Grid::Rolling { .. } => (message::Grid::Unspecified, 0, Vec::new()),
    };
    let Want { limit, cell_ms, hits, denied, received, epoch_ms, .. } = *want;
    let key = want.key.to_vec();
    message::Want { key, grid: grid.into(), window_ms, bounds, limit, cell_ms, hits, denied, epoch_ms, received }
}

/// Reads what a region wants. `None` if it has another window than those of escrow.
pub fn want_from_message(want: message::Want) -> Option<Want> {
    let grid = match want.grid() {
        message::Grid::Fixed => Grid::Fixed { width_ms: want.window_ms },
        message::Grid::Calendar => Grid::Calendar { bounds: want.bounds.as_slice().try_into().ok()? },
        message::Grid::Sliding | message::Grid::Rolling | message::Grid::Unspecified => return None,
    };
    let message::Want { key, limit, cell_ms, hits, denied, received, epoch_ms, .. } = want;
    Some(Want { key: key.into(), grid, limit, cell_ms, hits, denied, received, epoch_ms })
}

/// An answer as a message.
pub fn answer_to_message(given: Option<Given>) -> message::Moved {
    let Given { epoch_ms, given: total, received, fenced } = given.unwrap_or_default();
    message::Moved { valid: given.is_some(), epoch_ms, given: total, received, fenced }
}

/// Reads answers. Numbers that no sound node sends make an answer worthless.
pub fn answers(answered: message::Answered) -> Vec<Option<Given>> {
    let given = |message::Moved { valid, epoch_ms, given, received, fenced }: message::Moved| {
        let sound = valid && epoch_ms < 1 << 48 && given < MAX_COUNT && received < MAX_COUNT;
        sound.then_some(Given { epoch_ms, given, received, fenced })
    };
    answered.answers.into_iter().map(given).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(count: u64) -> Vec<Report> {
        let report = |n: u64| {
            let entries = vec![Entry { incarnation: Incarnation(n + 1), charged: n * 7, returned: n }];
            let grid = match n % 3 {
                0 => Grid::Fixed { width_ms: 1000 },
                1 => Grid::Sliding { width_ms: 60_000 },
                _ => Grid::Rolling { window_ms: 60_000, cells: 10 },
            };
            let cells = [Cell { start_ms: 60_000 * n, entries }];
            Report { key: format!("key {n}").into_bytes().into(), grid, cells: cells.as_slice().into() }
        };
        (0..count).map(report).collect()
    }

    #[test]
    fn reports_are_read_as_they_were_written() {
        for count in [0, 1, 3, 5000] {
            let (bytes, inflated_bytes) = encode(&reports(count));
            assert_eq!(decode(&bytes, inflated_bytes), Ok(reports(count)));
            assert_eq!(inflated_bytes > 0, count == 5000);
        }
    }

    #[test]
    fn bytes_that_are_no_reports_or_longer_than_they_say_are_unreadable() {
        let (bytes, inflated_bytes) = encode(&reports(5000));
        assert_eq!(decode(&bytes, inflated_bytes - 1), Err(Unreadable));
        assert_eq!(decode(&bytes, MAX_REPORT_BYTES + 1), Err(Unreadable));
        assert_eq!(decode(&bytes, 0), Err(Unreadable));
        assert_eq!(decode(b"\xff\xff\xff", 0), Err(Unreadable));
        let (bytes, _) = encode(&[Report { grid: Grid::Calendar { bounds: [0; 4] }, ..reports(1).remove(0) }]);
        assert_eq!(decode(&bytes, 0), Err(Unreadable));
    }
}
