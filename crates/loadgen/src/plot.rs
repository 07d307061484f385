//! Plots runs: latency by percentile and latency over time.

use std::error::Error;

use charts::{Axis, Chart, Colour, Label, Mark, Picture, Point, Shape, group_thousands};

use crate::percentile::Percentile;
use crate::report::{Report, SecondSummary, format_latency};

/// The colours of the runs, in their order.
const COLOURS: [Colour; 4] = [Colour::Blue, Colour::Orange, Colour::Green, Colour::Purple];
const HEIGHT: f64 = 280.0;

/// Returns an SVG of one or more runs, each with its name.
///
/// # Errors
/// Returns an error if no run measured enough calls for a percentile.
pub fn plot_svg(runs: &[(&str, &Report)]) -> Result<String, Box<dyn Error>> {
    if runs.iter().all(|(_, run)| run.latency_us.curve.is_empty()) {
        return Err("too few calls were measured for a plot".into());
    }
    let runs: Vec<Run<'_>> = runs.iter().zip(COLOURS.iter().cycle()).map(|(run, colour)| (*run, *colour)).collect();
    let title = "Latency of calls, from the instant at which a call was due".to_owned();
    Ok(Picture { title, charts: vec![by_percentile(&runs), over_time(&runs)] }.svg())
}

/// A run with its name and its colour.
type Run<'r> = ((&'r str, &'r Report), Colour);

/// Returns the number of nines of a quantile: 1 for 90 %, 2 for 99 %.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

fn by_percentile(runs: &[Run<'_>]) -> Chart {
    let points = |run: &Report| -> Vec<Point> {
        run.latency_us.curve.iter().map(|(percentile, us)| (nines(percentile / 100.0), us / 1000.0)).collect()
    };
    let all: Vec<Point> = runs.iter().flat_map(|((_, run), _)| points(run)).collect();
    let widest = all.iter().map(|(x, _)| *x).fold(0.01, f64::max);
    let tick = |p: Percentile| (nines(p.quantile()), format!("{} %", p.name.trim_start_matches('p')));
    let ticks = std::iter::once((0.0, "0 %".to_owned())).chain(Percentile::ALL.map(tick));
    let ticks = ticks.filter(|(nines, _)| *nines <= widest + 1e-9).collect();
    let curve = |((name, run), colour): &Run<'_>| Mark {
        name: describe(name, run),
        colour: *colour,
        shape: Shape::Line { parts: vec![points(run)], width: 2.0, dashed: false },
    };
    let mut marks: Vec<Mark> = runs.iter().map(curve).collect();
    let supported = |p: &Percentile| all.iter().any(|(x, _)| *x >= nines(p.quantile()) - 1e-9);
    let guides: Vec<Percentile> = [Percentile::P50, Percentile::P99].into_iter().filter(supported).collect();
    if !guides.is_empty() {
        marks.push(Mark {
            name: guides.iter().map(|p| p.name).collect::<Vec<_>>().join(" and "),
            colour: Colour::Muted,
            shape: Shape::Verticals { at: guides.iter().map(|p| nines(p.quantile())).collect(), width: 1.0 },
        });
    }
    let mut labels = Vec::new();
    for (at, ((_, run), colour)) in runs.iter().enumerate() {
        for (percentile, us) in [(Percentile::P50, run.latency_us.p50), (Percentile::P99, run.latency_us.p99)] {
            labels.extend(us.map(|us| Label {
                at: (nines(percentile.quantile()), us / 1000.0),
                text: format!("{} {}", percentile.name, format_latency(us)),
                colour: *colour,
                bold: percentile == Percentile::P99,
                // The curves rise to the right, so both sides are free, and two runs do not write over each other.
                below: at % 2 == 1,
            }));
        }
    }
    Chart {
        title: "Latency by percentile".to_owned(),
        x: Axis::with_ticks("percentile of the calls", 0.0, widest, ticks),
        y: Axis::logarithmic("milliseconds", all.iter().map(|(_, ms)| *ms)),
        height: HEIGHT,
        marks,
        labels,
    }
}

/// A statistic of each second of a run.
struct Statistic {
    name: &'static str,
    of: fn(&SecondSummary) -> Option<f64>,
    width: f64,
    dashed: bool,
}

/// p99 is the boldest: it is what users of a limiter notice.
const STATISTICS: [Statistic; 3] = [
    Statistic { name: "maximum", of: |second| second.max_us, width: 1.0, dashed: true },
    Statistic { name: "p99", of: |second| second.p99_us, width: 3.5, dashed: false },
    Statistic { name: "p50", of: |second| second.p50_us, width: 1.5, dashed: false },
];

#[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
fn over_time(runs: &[Run<'_>]) -> Chart {
    let seconds = || runs.iter().flat_map(|((_, run), _)| significant_seconds(run));
    let duration = seconds().map(|second| second.second as f64 + 1.0).fold(1.0, f64::max);
    let latencies = seconds().flat_map(|second| STATISTICS.iter().filter_map(|s| (s.of)(second)));
    let mut marks = Vec::new();
    for ((name, run), colour) in runs {
        for Statistic { name: statistic, of, width, dashed } in &STATISTICS {
            // Seconds without the statistic leave a gap in the line.
            let consecutive = significant_seconds(run).chunk_by(|a, b| of(a).is_some() == of(b).is_some());
            let point = |second: &SecondSummary| Some((second.second as f64 + 0.5, of(second)? / 1000.0));
            let parts: Vec<Vec<Point>> = consecutive.map(|part| part.iter().filter_map(point).collect()).collect();
            let parts: Vec<Vec<Point>> = parts.into_iter().filter(|part: &Vec<Point>| !part.is_empty()).collect();
            let name = if runs.len() > 1 { format!("{name}: {statistic}") } else { (*statistic).to_owned() };
            if !parts.is_empty() {
                let shape = Shape::Line { parts, width: *width, dashed: *dashed };
                marks.push(Mark { name, colour: *colour, shape });
            }
        }
    }
    let missing = seconds().any(|second| second.max_us.is_some() && second.p99_us.is_none());
    let note = format!(" (p99 needs {} calls in a second)", group_thousands(Percentile::P99.needs() as f64));
    Chart {
        title: format!("Latency of each second{}", if missing { note.as_str() } else { "" }),
        x: Axis::linear("seconds", 0.0, duration, 1.0),
        y: Axis::logarithmic("milliseconds", latencies.map(|us| us / 1000.0)),
        height: HEIGHT,
        marks,
        labels: Vec::new(),
    }
}

/// Describes a run for the legend.
fn describe(name: &str, run: &Report) -> String {
    let load = match run.rate {
        Some(rate) => format!("{} calls/s due", group_thousands(rate)),
        None => format!("{} x {} in flight", run.connections, run.in_flight),
    };
    format!("{name}: {}, {}, {load}, {} checks/s answered", run.call, run.keys, group_thousands(run.per_second))
}

/// Returns the seconds of a run, without a last second that is shorter than a tenth of a second. Such a second holds
/// only the few calls that were in flight when the run ended, so its percentiles say nothing about a second.
fn significant_seconds(run: &Report) -> &[SecondSummary] {
    match run.each_second.as_slice() {
        #[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
        [others @ .., last] if run.seconds - (last.second as f64) < 0.1 => others,
        all => all,
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use serde_json::json;

    use super::*;
    use crate::report::LatencySummary;

    /// Returns the report of a run that answered `calls` calls in each of three seconds, each after 1 to 2 ms.
    fn report(calls: u64) -> Report {
        let mut histogram = Histogram::new_with_bounds(1000, 1_000_000_000, 3).unwrap();
        (0..calls).for_each(|call| histogram.record(1_000_000 + 1_000_000 * call / calls).unwrap());
        let seconds: Vec<_> = (0..3).map(|second| SecondSummary::new(second, calls, 0, &histogram)).collect();
        let report = json!({
            "target": "127.0.0.1:1", "call": "envoy", "batch": 1, "connections": 8, "in_flight": 32, "threads": 1,
            "rate": null, "keys": "hot", "seed": 1, "warm_up_s": 0.0, "interrupted": false, "unlimited": false,
            "question": { "domain": "d", "attribute": "user", "prefix": "u", "hits": 1 }, "seconds": 3.0,
            "sent": calls, "calls": calls, "checks": calls, "per_second": 1234.0, "admitted": calls, "refused": 0,
            "failed": { "errors": 0, "connection": 0, "unanswered": 0, "unsent": 0, "first": null },
            "most_admitted_of_a_key": null, "latency_us": LatencySummary::new(&histogram), "each_second": seconds,
        });
        serde_json::from_value(report).unwrap()
    }

    #[test]
    fn p99_is_the_boldest_line_and_the_values_of_p50_and_p99_are_written() {
        let (first, second) = (report(20_000), report(20_000));
        let runs = [("a", &first), ("b", &second)].map(|run| (run, Colour::Blue));
        let chart = over_time(&runs);
        let width = |mark: &Mark| if let Shape::Line { width, .. } = &mark.shape { *width } else { 0.0 };
        let boldest = chart.marks.iter().max_by(|a, b| width(a).total_cmp(&width(b))).unwrap();
        assert!(boldest.name.ends_with(": p99") && chart.marks.len() == 6, "{:?}", chart.marks);
        let svg = plot_svg(&[("a", &first), ("b", &second)]).unwrap();
        for text in
            ["Latency by percentile", ">p50 1.50 ms<", ">p99 1.99 ms<", ">p50 and p99<", ">a: p50<", ">b: maximum<"]
        {
            assert!(svg.contains(text), "{text} is missing in {svg}");
        }
    }

    #[test]
    fn a_percentile_that_the_number_of_calls_does_not_support_is_not_drawn() {
        for (calls, shown, missing) in [
            (15, &["p99 needs 1 000 calls in a second"][..], &[">p50", ">p99", ">50 %<"][..]),
            (500, &[">p50 1.50 ms<", ">p50<", "p99 needs"], &[">p99", ">99 %<", "p50 and"]),
            (1000, &[">p99 1.99 ms<", ">p99<", ">99 %<"], &["p99 needs", ">99.9 %<"]),
        ] {
            let svg = plot_svg(&[("a", &report(calls))]).unwrap();
            shown.iter().for_each(|text| assert!(svg.contains(text), "{calls} calls: {text} is missing in {svg}"));
            missing.iter().for_each(|text| assert!(!svg.contains(text), "{calls} calls: {text} is in {svg}"));
        }
        assert!(plot_svg(&[("a", &report(5))]).is_err(), "there is nothing to draw");
    }
}
