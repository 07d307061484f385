//! Plots runs: latency by percentile and latency over time.

use std::error::Error;

use plotters::coord::ranged1d::{KeyPointHint, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::full_palette::{BLUE_700, GREEN_700, GREY_300, ORANGE_700, PURPLE_700};

use crate::report::{Report, SecondSummary};

const SIZE: (u32, u32) = (1100, 860);
const FONT: &str = "sans-serif";
const COLOURS: [RGBColor; 4] = [BLUE_700, ORANGE_700, GREEN_700, PURPLE_700];

/// Returns an SVG of one or more runs, each with its name.
///
/// # Errors
/// Returns an error if no run measured a call, or if drawing fails.
pub fn plot_svg(runs: &[(&str, &Report)]) -> Result<String, Box<dyn Error>> {
    if runs.iter().all(|(_, run)| run.latency_us.curve.is_empty()) {
        return Err("no call was measured".into());
    }
    let mut out = String::new();
    {
        let root = SVGBackend::with_string(&mut out, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(plot_error)?;
        let (upper, lower) = root.split_vertically(SIZE.1 / 2);
        plot_by_percentile(&upper, runs)?;
        plot_over_time(&lower, runs)?;
        root.present().map_err(plot_error)?;
    }
    Ok(out)
}

fn plot_error(error: impl Error) -> Box<dyn Error> {
    error.to_string().into()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Returns the number of nines of a percentile: 1 for 90 %, 2 for 99 %.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

fn plot_by_percentile(area: &Area<'_>, runs: &[(&str, &Report)]) -> Result<(), Box<dyn Error>> {
    let points = |run: &Report| -> Vec<(f64, f64)> {
        run.latency_us.curve.iter().map(|(percentile, us)| (nines(*percentile), us / 1000.0)).collect()
    };
    let all: Vec<(f64, f64)> = runs.iter().flat_map(|(_, run)| points(run)).collect();
    let widest = all.iter().map(|(x, _)| *x).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("Latency by percentile", (FONT, 20))
        .margin(14)
        .margin_right(40)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(NinesAxis { from: 0.0, to: widest }, log_bounds(all.iter().map(|(_, y)| *y)).log_scale())
        .map_err(plot_error)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GREY_300)
        .y_desc("milliseconds")
        .y_labels(8)
        .x_label_formatter(&|nines| {
            let text = format!("{:.4}", 100.0 * (1.0 - 10f64.powf(-nines)));
            format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
        })
        .y_label_formatter(&|ms| format_milliseconds(*ms))
        .label_style((FONT, 14))
        .draw()
        .map_err(plot_error)?;
    for ((name, run), colour) in runs.iter().zip(COLOURS.iter().cycle()) {
        let colour = *colour;
        let load = match run.rate {
            Some(rate) => format!("{rate:.0} calls/s scheduled"),
            None => format!("{} x {} in flight", run.connections, run.in_flight),
        };
        chart
            .draw_series(LineSeries::new(points(run), colour.stroke_width(2)))
            .map_err(plot_error)?
            .label(format!("{name}: {}, {}, {load}, {} checks/s", run.call, run.keys, group_thousands(run.per_second)))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    // The curve rises to the upper right, so the lower right is free.
    draw_legend(&mut chart, SeriesLabelPosition::LowerRight)
}

fn plot_over_time(area: &Area<'_>, runs: &[(&str, &Report)]) -> Result<(), Box<dyn Error>> {
    let seconds = runs.iter().flat_map(|(_, run)| significant_seconds(run));
    #[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
    let duration = seconds.clone().map(|second| second.second as f64 + 1.0).fold(1.0, f64::max);
    let latencies = seconds.flat_map(|second| [second.p50_us, second.max_us]).flatten().map(|us| us / 1000.0);
    let axis = log_bounds(latencies);
    let mut chart = ChartBuilder::on(area)
        .caption("Latency over time: p50, p99 and maximum of each second", (FONT, 20))
        .margin(14)
        .x_label_area_size(36)
        .y_label_area_size(70)
        // The factor leaves room for the legend at the top.
        .build_cartesian_2d(0.0..duration, (axis.start..axis.end * 8.0).log_scale())
        .map_err(plot_error)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GREY_300)
        .x_desc("seconds")
        .y_desc("milliseconds")
        .x_label_formatter(&|second| if second.fract() == 0.0 { format!("{second:.0}") } else { String::new() })
        .y_labels(8)
        .y_label_formatter(&|ms| format_milliseconds(*ms))
        .label_style((FONT, 14))
        .draw()
        .map_err(plot_error)?;
    for ((name, run), colour) in runs.iter().zip(COLOURS.iter().cycle()) {
        let colour = *colour;
        for (statistic, width, latency) in [
            ("p50", 3, (|s| s.p50_us) as fn(&SecondSummary) -> Option<f64>),
            ("p99", 2, |s| s.p99_us),
            ("max", 1, |s| s.max_us),
        ] {
            let style = colour.mix(if statistic == "max" { 0.45 } else { 1.0 }).stroke_width(width);
            let mut name = Some(format!("{name}: {statistic}"));
            // Seconds without an answer leave a gap in the line.
            for consecutive in significant_seconds(run).chunk_by(|a, b| latency(a).is_some() == latency(b).is_some()) {
                #[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
                let point = |s: &SecondSummary| Some((s.second as f64 + 0.5, latency(s)? / 1000.0));
                let points: Vec<(f64, f64)> = consecutive.iter().filter_map(point).collect();
                let dot = points
                    .first()
                    .filter(|_| points.len() == 1)
                    .map(|point| Circle::new(*point, width, style.filled()));
                chart.draw_series(dot).map_err(plot_error)?;
                let line = chart.draw_series(LineSeries::new(points, style)).map_err(plot_error)?;
                if let Some(name) = name.take() {
                    line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
                }
            }
        }
    }
    draw_legend(&mut chart, SeriesLabelPosition::UpperLeft)
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

fn draw_legend<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) -> Result<(), Box<dyn Error>>
where
    X: Ranged,
    Y: Ranged,
{
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.85))
        .label_font((FONT, 14))
        .draw()
        .map_err(plot_error)
}

/// Returns the bounds of a logarithmic axis for `values`.
fn log_bounds(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (min, max) = values.filter(|v| *v > 0.0).fold((f64::MAX, 0.0f64), |(a, b), v| (a.min(v), b.max(v)));
    if max > 0.0 { min * 0.8..max * 1.6 } else { 0.1..1.0 }
}

fn format_milliseconds(ms: f64) -> String {
    if ms >= 1.0 { format!("{ms:.0}") } else { format!("{ms:.3}").trim_end_matches('0').to_owned() }
}

/// Formats a number with a space between groups of three digits.
pub fn group_thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    groups.iter().map(|group| String::from_utf8_lossy(group)).collect::<Vec<_>>().join(" ")
}

/// An axis of nines, with labels at 0 %, 50 %, 90 %, 99 % and so on.
struct NinesAxis {
    from: f64,
    to: f64,
}

impl Ranged for NinesAxis {
    type ValueType = f64;
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let fraction = (value - self.from) / (self.to - self.from);
        #[expect(clippy::cast_possible_truncation, reason = "a position in pixels")]
        let offset = (fraction * f64::from(to - from)).round() as i32;
        from + offset
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let whole = (1..=9).map(f64::from).take_while(|nines| *nines <= self.to);
        [0.0, nines(50.0)].into_iter().chain(whole).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for NinesAxis {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_become_nines() {
        assert!((nines(99.0) - 2.0).abs() < 1e-9 && (nines(99.99) - 4.0).abs() < 1e-9);
    }

    #[test]
    fn digits_are_grouped_by_thousands() {
        assert_eq!([group_thousands(999.0), group_thousands(1_234_567.0)], ["999", "1 234 567"]);
    }
}
