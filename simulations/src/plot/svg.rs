//! A picture as an SVG. Faults are shades behind the levels.

use plotters::prelude::*;
use plotters::style::full_palette::{BLUE_200, GREY_400, GREY_700, ORANGE_400, RED_700};

use super::busiest::{BusyCounter, busiest, end};
use super::usage_levels::Level;
use crate::run::Run;

const WIDTH: u32 = 1100;
/// The height of one counter's chart.
const CHART_HEIGHT: u32 = 300;
/// The height of a line in the list of faults.
const LINE_HEIGHT: u32 = 20;
const FONT: &str = "sans-serif";

/// Draws the busiest counters and the faults.
///
/// # Errors
/// Returns an error if the picture cannot be drawn.
pub fn svg(run: &Run) -> Result<String, String> {
    let counters = busiest(run);
    let faults = u32::try_from(run.plan.faults.len()).unwrap_or(0);
    let height = CHART_HEIGHT * u32::try_from(counters.len()).unwrap_or(0) + LINE_HEIGHT * (faults + 2);
    let mut out = String::new();
    draw(run, &counters, SVGBackend::with_string(&mut out, (WIDTH, height)).into_drawing_area())
        .map_err(|error| error.to_string())?;
    Ok(out)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Error<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

#[expect(clippy::cast_precision_loss, reason = "a position in a picture")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn draw<'a>(run: &Run, counters: &[BusyCounter<'_>], root: Area<'a>) -> Result<(), Error<'a>> {
    root.fill(&WHITE)?;
    let mut rest = root.clone();
    for counter in counters {
        let (area, below) = rest.split_vertically(CHART_HEIGHT);
        draw_counter(run, counter, &area)?;
        rest = below;
    }
    let text = (FONT, 14).into_font().color(&GREY_700);
    for (at, fault) in run.plan.faults.iter().enumerate() {
        let y = LINE_HEIGHT * (u32::try_from(at).unwrap_or(0) + 1);
        let line = format!("{:.2} to {:.2} s: {}", seconds(fault.begin), seconds(fault.end), fault.kind);
        rest.draw_text(&line, &text, (70, i32::try_from(y).unwrap_or(0)))?;
    }
    root.present()
}

#[expect(clippy::cast_precision_loss, reason = "hits in a picture")]
fn draw_counter<'a>(run: &Run, counter: &BusyCounter<'_>, area: &Area<'a>) -> Result<(), Error<'a>> {
    let limits: Vec<(f64, f64)> = counter.allowed.iter().map(|(at, limit)| (seconds(*at), *limit as f64)).collect();
    let limit = limits.iter().map(|(_, limit)| *limit).fold(0.0, f64::max);
    // With `on_store_failure: allow`, any number of hits may be admitted without the store.
    let highest =
        counter.levels.iter().map(|level| level.hits as f64).fold(limit, f64::max).min(3.0 * limit) * 1.35 + 1.0;
    let end = seconds(end(run));
    let mut chart = ChartBuilder::on(area)
        .caption(counter.title(), (FONT, 15))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end, 0.0..highest)?;
    for fault in &run.plan.faults {
        let corners = [(seconds(fault.begin), 0.0), (seconds(fault.end), highest)];
        chart.draw_series([Rectangle::new(corners, GREY_400.mix(0.35).filled())])?;
    }
    chart.configure_mesh().disable_mesh().x_desc("seconds").y_desc("hits that count").y_labels(6).draw()?;
    // A level lasts until the next one.
    let steps = |of: fn(&Level) -> u64| {
        let mut points = vec![(0.0, 0.0)];
        for level in &counter.levels {
            let (at, before) = (seconds(level.at).min(end), points.last().map_or(0.0, |(_, y)| *y));
            points.extend([(at, before), (at, (of(level) as f64).min(highest))]);
        }
        points
    };
    let areas = [
        ("admitted", steps(|level| level.hits), BLUE_200),
        ("of these without the store", steps(|level| level.degraded), ORANGE_400),
    ];
    for (name, points, colour) in areas {
        let shape = AreaSeries::new(points, 0.0, colour.mix(0.8)).border_style(colour.stroke_width(1));
        chart
            .draw_series(shape)?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], colour.filled()));
    }
    // A limit is in force until the next edit.
    let mut edges: Vec<(f64, f64)> = Vec::new();
    for (at, limit) in limits {
        edges.extend(edges.last().map(|(_, before)| (at, *before)));
        edges.push((at, limit));
    }
    edges.extend(edges.last().map(|(_, last)| (end, *last)));
    chart
        .draw_series(LineSeries::new(edges, RED_700.stroke_width(2)))?
        .label("the limit")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], RED_700.stroke_width(2)));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .label_font((FONT, 13))
        .draw()
}
