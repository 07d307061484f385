//! Bugs of escrow: at least two for each condition under which rights are safe (docs/guarantees.md).

use super::patch;
use simulations::bug_injector::{BugInjector, RightsAnswer, RightsQuestion};
use simulations::scenario::Scenario;

/// The bugs of escrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// Rights that a region gave away stay its own, too.
    GiftsAreNotDebited,
    /// Rights that a region got count twice.
    CountsGiftsTwice,
    /// A new primary spends before other regions have said what they got.
    SpendsUnconfirmed,
    /// A new primary does not notice that it is new.
    NoticesNoReplacement,
    /// A primary that lost its data takes itself for an old one.
    DatesLanesBack,
    /// A primary that lost its data takes it for older than it is, by a few seconds.
    DatesLostDataBack,
    /// Rights that a region gets count in its current window, not in the window that they are of.
    TakesIntoTheCurrentCell,
    /// Rights that a region gives leave its current window, not the window that they are of.
    GivesFromTheCurrentCell,
    /// Each region rounds its part of a limit up.
    RoundsPartsUp,
    /// Each region begins a window with all rights.
    IgnoresWeights,
    /// Regions take new weights without the step in which each takes the smaller part.
    EditsWeightsAtOnce,
    /// A window of a calendar ends after two seconds, and the next one begins.
    EndsCalendarsEarly,
    /// A region asks no other one for rights.
    NeverAsks,
    /// A region gives nothing.
    NeverGives,
}

/// Each bug, the promise that it breaks, and the scenario that shows it.
pub const PLANTED: [(Bug, &str, Scenario); 14] = [
    (Bug::GiftsAreNotDebited, "I2", Scenario::Escrow),
    (Bug::CountsGiftsTwice, "I2", Scenario::Escrow),
    (Bug::SpendsUnconfirmed, "I2", Scenario::Handover),
    (Bug::NoticesNoReplacement, "I2", Scenario::Handover),
    (Bug::DatesLanesBack, "I2", Scenario::Handover),
    (Bug::DatesLostDataBack, "I2", Scenario::Handover),
    (Bug::TakesIntoTheCurrentCell, "I2", Scenario::Escrow),
    (Bug::GivesFromTheCurrentCell, "I2", Scenario::Escrow),
    (Bug::RoundsPartsUp, "I2", Scenario::Escrow),
    (Bug::IgnoresWeights, "I2", Scenario::Escrow),
    (Bug::EditsWeightsAtOnce, "I2", Scenario::Escrow),
    (Bug::EndsCalendarsEarly, "I2", Scenario::Escrow),
    (Bug::NeverAsks, "rights", Scenario::Demand),
    (Bug::NeverGives, "rights", Scenario::Demand),
];

/// Plants one bug.
pub struct Planted {
    bug: Bug,
}

impl Planted {
    pub const fn new(bug: Bug) -> Self {
        Self { bug }
    }
}

impl BugInjector for Planted {
    fn script(&mut self, text: String) -> String {
        let change = match self.bug {
            Bug::GiftsAreNotDebited => {
                ("if entry.region == 0 then gone = gone + entry.charged else", "if entry.region ~= 0 then")
            }
            Bug::CountsGiftsTwice => ("else has = has + entry.charged end", "else has = has + 2 * entry.charged end"),
            Bug::SpendsUnconfirmed => ("if start_ms <= epoch.since_ms then", "if false then"),
            Bug::NoticesNoReplacement => ("if mark ~= replication_mark then", "if false then"),
            Bug::DatesLanesBack => (
                "lane = { mark = replication_mark, since_ms = now_ms, data_since_ms = now_ms, latest_ms = now_ms }",
                "lane = { mark = replication_mark, since_ms = 0, data_since_ms = 0, latest_ms = now_ms }",
            ),
            Bug::DatesLostDataBack => (
                "lane = { mark = replication_mark, since_ms = now_ms, data_since_ms = now_ms, latest_ms = now_ms }",
                "lane = { mark = replication_mark, since_ms = now_ms - 5000, data_since_ms = now_ms - 5000, latest_ms = now_ms }",
            ),
            Bug::TakesIntoTheCurrentCell => (
                "local cell = transfer_cell(window, span, cell_ms)\n  local gained = 0",
                "local cell = transfer_cell(window, span, span.start_ms)\n  local gained = 0",
            ),
            Bug::GivesFromTheCurrentCell => (
                "local cell = transfer_cell(window, span, cell_ms)\n  local given, received, fenced = 0, 0, 0",
                "cell_ms = span.start_ms\n  local cell = transfer_cell(window, span, cell_ms)\n  local given, received, fenced = 0, 0, 0",
            ),
            Bug::RoundsPartsUp => (
                "return { part = part, others = others }, position",
                "return { part = part + 1, others = others }, position",
            ),
            Bug::IgnoresWeights => (
                "return { part = part, others = others }, position",
                "return { part = part * (#others + 1), others = others }, position",
            ),
            Bug::EndsCalendarsEarly => (
                "return { start_ms = bounds[i], end_ms = bounds[i + 1], oldest_ms = bounds[i] }",
                "local start_ms = ms - ms % 2000\n        return { start_ms = start_ms, end_ms = start_ms + 2000, oldest_ms = start_ms }",
            ),
            _ => return text,
        };
        patch(text, &[change])
    }

    fn asks_for_rights(&mut self, _: &RightsQuestion) -> bool {
        self.bug != Bug::NeverAsks
    }

    fn alter_rights_answer(&mut self, answer: &mut RightsAnswer) {
        if self.bug == Bug::NeverGives {
            answer.answers.clear();
        }
    }

    fn edits_weights_at_once(&mut self) -> bool {
        self.bug == Bug::EditsWeightsAtOnce
    }
}
