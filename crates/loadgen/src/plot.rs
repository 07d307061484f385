//! Runs as a picture: latency by percentile, and over time.

use std::error::Error;

use plotters::coord::ranged1d::{KeyPointHint, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::full_palette::{BLUE_700, GREEN_700, GREY_300, ORANGE_700, PURPLE_700};

use super::report::{Report, Second};

const SIZE: (u32, u32) = (1100, 860);
const FONT: &str = "sans-serif";
const COLOURS: [RGBColor; 4] = [BLUE_700, ORANGE_700, GREEN_700, PURPLE_700];

/// An SVG of one run or several, each with its name.
///
/// # Errors
/// When there is nothing to draw.
pub fn svg(runs: &[(&str, &Report)]) -> Result<String, Box<dyn Error>> {
    if runs.iter().all(|(_, run)| run.latency_us.curve.is_empty()) {
        return Err("no call was measured".into());
    }
    let mut out = String::new();
    {
        let root = SVGBackend::with_string(&mut out, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(drawn)?;
        let (above, below) = root.split_vertically(SIZE.1 / 2);
        by_percentile(&above, runs)?;
        over_time(&below, runs)?;
        root.present().map_err(drawn)?;
    }
    Ok(out)
}

fn drawn(error: impl Error) -> Box<dyn Error> {
    error.to_string().into()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// How many nines a percentile has: 90 % has one, 99 % two.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

fn by_percentile(area: &Area<'_>, runs: &[(&str, &Report)]) -> Result<(), Box<dyn Error>> {
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
        .build_cartesian_2d(Nines(0.0, widest), bounds(all.iter().map(|(_, y)| *y)).log_scale())
        .map_err(drawn)?;
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
        .y_label_formatter(&|ms| milliseconds(*ms))
        .label_style((FONT, 14))
        .draw()
        .map_err(drawn)?;
    for ((name, run), colour) in runs.iter().zip(COLOURS.iter().cycle()) {
        let colour = *colour;
        let how = match run.rate {
            Some(rate) => format!("{rate:.0} a second were due"),
            None => format!("{} x {} at once", run.connections, run.in_flight),
        };
        chart
            .draw_series(LineSeries::new(points(run), colour.stroke_width(2)))
            .map_err(drawn)?
            .label(format!("{name}: {}, {}, {how}, {} checks/s", run.call, run.keys, thousands(run.per_second)))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    // Where a curve of latencies is not.
    legend(&mut chart, SeriesLabelPosition::LowerRight)
}

fn over_time(area: &Area<'_>, runs: &[(&str, &Report)]) -> Result<(), Box<dyn Error>> {
    let seconds = runs.iter().flat_map(|(_, run)| whole_seconds(run));
    #[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
    let longest = seconds.clone().map(|second| second.second as f64 + 1.0).fold(1.0, f64::max);
    let latencies = seconds.flat_map(|second| [second.p50_us, second.max_us]).flatten().map(|us| us / 1000.0);
    // With room for the legend above.
    let axis = bounds(latencies);
    let mut chart = ChartBuilder::on(area)
        .caption("Latency over time: p50, p99 and the longest of each second", (FONT, 20))
        .margin(14)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..longest, (axis.start..axis.end * 8.0).log_scale())
        .map_err(drawn)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GREY_300)
        .x_desc("seconds")
        .y_desc("milliseconds")
        .x_label_formatter(&|second| if second.fract() == 0.0 { format!("{second:.0}") } else { String::new() })
        .y_labels(8)
        .y_label_formatter(&|ms| milliseconds(*ms))
        .label_style((FONT, 14))
        .draw()
        .map_err(drawn)?;
    for ((name, run), colour) in runs.iter().zip(COLOURS.iter().cycle()) {
        let colour = *colour;
        for (what, width, of) in [
            ("p50", 3, (|s| s.p50_us) as fn(&Second) -> Option<f64>),
            ("p99", 2, |s| s.p99_us),
            ("longest", 1, |s| s.max_us),
        ] {
            let style = colour.mix(if what == "longest" { 0.45 } else { 1.0 }).stroke_width(width);
            let mut name = Some(format!("{name}: {what}"));
            // Where nothing was answered there is a gap.
            for together in whole_seconds(run).chunk_by(|a, b| of(a).is_some() == of(b).is_some()) {
                #[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
                let point = |s: &Second| Some((s.second as f64 + 0.5, of(s)? / 1000.0));
                let points: Vec<(f64, f64)> = together.iter().filter_map(point).collect();
                let dot =
                    points.first().filter(|_| points.len() == 1).map(|at| Circle::new(*at, width, style.filled()));
                chart.draw_series(dot).map_err(drawn)?;
                let line = chart.draw_series(LineSeries::new(points, style)).map_err(drawn)?;
                if let Some(name) = name.take() {
                    line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
                }
            }
        }
    }
    legend(&mut chart, SeriesLabelPosition::UpperLeft)
}

/// All but a last second of which there was less than a tenth: the few calls that were under way when the run ended, whose
/// percentiles say nothing of a second.
fn whole_seconds(run: &Report) -> &[Second] {
    match run.each_second.as_slice() {
        #[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
        [whole @ .., last] if run.seconds - (last.second as f64) < 0.1 => whole,
        all => all,
    }
}

fn legend<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    at: SeriesLabelPosition,
) -> Result<(), Box<dyn Error>>
where
    X: Ranged,
    Y: Ranged,
{
    chart
        .configure_series_labels()
        .position(at)
        .background_style(WHITE.mix(0.85))
        .label_font((FONT, 14))
        .draw()
        .map_err(drawn)
}

/// Bounds of a logarithmic axis.
fn bounds(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (least, most) = values.filter(|v| *v > 0.0).fold((f64::MAX, 0.0f64), |(a, b), v| (a.min(v), b.max(v)));
    if most > 0.0 { least * 0.8..most * 1.6 } else { 0.1..1.0 }
}

fn milliseconds(ms: f64) -> String {
    if ms >= 1.0 { format!("{ms:.0}") } else { format!("{ms:.3}").trim_end_matches('0').to_owned() }
}

/// A number with its thousands apart.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    groups.iter().map(|group| String::from_utf8_lossy(group)).collect::<Vec<_>>().join(" ")
}

/// An axis of nines: labelled at 0 %, 50 %, 90 %, 99 % and so on.
struct Nines(f64, f64);

impl Ranged for Nines {
    type ValueType = f64;
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let part = (value - self.0) / (self.1 - self.0);
        #[expect(clippy::cast_possible_truncation, reason = "a place in a picture")]
        let along = (part * f64::from(to - from)).round() as i32;
        from + along
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let whole = (1..=9).map(f64::from).take_while(|nines| *nines <= self.1);
        [0.0, nines(50.0)].into_iter().chain(whole).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.0..self.1
    }
}

impl ValueFormatter<f64> for Nines {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_as_far_apart_as_their_nines() {
        assert!((nines(99.0) - 2.0).abs() < 1e-9 && (nines(99.99) - 4.0).abs() < 1e-9);
        assert_eq!([thousands(999.0), thousands(1_234_567.0)], ["999", "1 234 567"]);
    }
}
