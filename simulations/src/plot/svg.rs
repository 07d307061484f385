//! A picture as an SVG. Faults are shades behind the levels.

use charts::{Axis, Chart, Colour, Mark, Picture, Point, Shape};

use super::busiest::{BusyCounter, busiest, end};
use super::usage_levels::Level;
use crate::run::Run;
use limiter::rules::{Algorithm, OnStoreFailure};

/// The height of one counter's chart.
const HEIGHT: f64 = 200.0;
/// A chart shows at most this many times the limit.
const MAX_LIMITS: u64 = 3;
/// The colours of the regions.
const REGION_COLOURS: [Colour; 3] = [Colour::Green, Colour::Purple, Colour::Ink];
/// The height of a line in the chart of faults.
const FAULT_HEIGHT: f64 = 32.0;

/// Draws the busiest counters and the faults.
pub fn svg(run: &Run) -> String {
    let (scenario, seed) = (run.plan.scenario.name(), run.plan.seed);
    let title = format!("How full counters were: tidegate simulate --scenario {scenario} --seed {seed}");
    let counters = busiest(run).iter().map(|counter| counter_chart(run, counter)).collect::<Vec<_>>();
    let faults = (!run.plan.faults.is_empty()).then(|| fault_chart(run));
    Picture { title, charts: counters.into_iter().chain(faults).collect() }.svg()
}

#[expect(clippy::cast_precision_loss, reason = "a position in a picture")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// The time of the whole run.
fn time_axis(run: &Run) -> Axis {
    Axis::linear("seconds", 0.0, seconds(end(run)), 0.0)
}

fn counter_chart(run: &Run, counter: &BusyCounter<'_>) -> Chart {
    let end = seconds(end(run));
    let mut marks = Vec::new();
    let (between, others): (Vec<_>, Vec<_>) = run.plan.faults.iter().partition(|fault| fault.kind.is_between_regions());
    for (name, colour, faults) in
        [("a fault", Colour::Shade, others), ("regions do not hear each other", Colour::Red, between)]
    {
        let bands: Vec<_> = faults.iter().map(|fault| (seconds(fault.begin), seconds(fault.end))).collect();
        if !bands.is_empty() {
            marks.push(Mark { name: name.to_owned(), colour, shape: Shape::Bands(bands) });
        }
    }
    let mut area = |name: &str, colour, of| {
        let shape = Shape::Area(steps(&counter.levels, of, end));
        marks.push(Mark { name: name.to_owned(), colour, shape });
    };
    area("admitted hits that count", Colour::Blue, |level| level.hits);
    if counter.levels.iter().any(|level| level.degraded > 0) {
        let name = match counter.limit.on_store_failure {
            OnStoreFailure::Allow => "of these without the store, which on_store_failure: allow does not limit",
            _ => "of these without the store",
        };
        area(name, Colour::Orange, |level| level.degraded);
    }
    for ((region, levels), colour) in counter.by_region.iter().zip(REGION_COLOURS) {
        let shape = Shape::Line { parts: vec![steps(levels, |level| level.hits, end)], width: 1.5, dashed: false };
        marks.push(Mark { name: format!("those of region {region}"), colour, shape });
    }
    for ((region, levels), colour) in counter.rights.iter().zip(REGION_COLOURS) {
        let shape = Shape::Line { parts: vec![steps(levels, |level| level.hits, end)], width: 1.5, dashed: true };
        marks.push(Mark { name: format!("rights that region {region} had left"), colour, shape });
    }
    let limit = Shape::Line { parts: vec![limit_line(counter, end)], width: 2.0, dashed: false };
    let name = match counter.limit.algorithm {
        Algorithm::TokenBucket => "the limit: the burst, and what one window refills",
        _ => "the limit",
    };
    marks.push(Mark { name: name.to_owned(), colour: Colour::Red, shape: limit });
    let limit = counter.allowed.iter().map(|(_, limit)| *limit).max().unwrap_or(0);
    let (highest, most) = (counter.levels.iter().map(|level| level.hits).max().unwrap_or(0), MAX_LIMITS * limit);
    // With `on_store_failure: allow`, any number of hits may be admitted without the store.
    let label = if highest > most { format!("hits, up to {most}; there were more") } else { "hits".to_owned() };
    #[expect(clippy::cast_precision_loss, reason = "hits in a picture")]
    let y = Axis::linear(label, 0.0, highest.clamp(limit, most) as f64 * 1.05, 1.0);
    Chart { title: counter.title.clone(), x: time_axis(run), y, height: HEIGHT, marks, labels: Vec::new() }
}

/// Returns the line of the levels. A level lasts until the next one.
#[expect(clippy::cast_precision_loss, reason = "hits in a picture")]
fn steps(levels: &[Level], of: fn(&Level) -> u64, end: f64) -> Vec<Point> {
    let mut points: Vec<Point> = vec![(0.0, 0.0)];
    for level in levels {
        let (at, before) = (seconds(level.at).min(end), points.last().map_or(0.0, |(_, y)| *y));
        points.extend([(at, before), (at, of(level) as f64)]);
    }
    points.extend(points.last().map(|(_, last)| (end, *last)));
    points
}

/// Returns the line of the limit. A limit is in force until the next edit.
#[expect(clippy::cast_precision_loss, reason = "hits in a picture")]
fn limit_line(counter: &BusyCounter<'_>, end: f64) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::new();
    for (at, limit) in &counter.allowed {
        let at = seconds(*at);
        points.extend(points.last().map(|(_, before)| (at, *before)));
        points.push((at, *limit as f64));
    }
    points.extend(points.last().map(|(_, last)| (end, *last)));
    points
}

#[expect(clippy::cast_precision_loss, reason = "a few faults")]
fn fault_chart(run: &Run) -> Chart {
    let faults = &run.plan.faults;
    let bar = |fault: &crate::faults::Fault| {
        (seconds(fault.begin), seconds(fault.end), run.plan.regions.prefix(fault.region) + &fault.kind.to_string())
    };
    let shape = Shape::Bars(faults.iter().map(bar).collect());
    Chart {
        title: "Faults".to_owned(),
        x: time_axis(run),
        y: Axis::with_ticks("", 0.0, 1.0, Vec::new()),
        height: FAULT_HEIGHT * faults.len() as f64,
        marks: vec![Mark { name: "from its beginning to its end".to_owned(), colour: Colour::Shade, shape }],
        labels: Vec::new(),
    }
}
