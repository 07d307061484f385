//! Where the parts of a picture are, in pixels.

use crate::Chart;

pub const WIDTH: f64 = 960.0;
/// The left and the right end of the area between the axes.
pub const LEFT: f64 = 64.0;
pub const RIGHT: f64 = WIDTH - 24.0;
/// The height of the picture's title.
pub const TITLE: f64 = 40.0;
pub const FONT_SIZE: f64 = 13.0;
/// The height of a row of the legend.
pub const LEGEND_ROW: f64 = 20.0;
/// The width of a sample in the legend, with the space after it.
pub const SAMPLE: f64 = 32.0;
/// Space between two names in the legend.
const LEGEND_GAP: f64 = 22.0;
/// The height of a chart's title.
const CHART_TITLE: f64 = 26.0;
/// The height of the label of the vertical axis, above the axis.
const Y_LABEL: f64 = 24.0;
/// The height of the texts below the horizontal axis, and the space after the chart.
const BELOW: f64 = 62.0;

/// Where the parts of one chart are.
pub struct Layout {
    /// The upper end of the chart.
    pub top: f64,
    /// Where each name of the legend begins.
    pub legend: Vec<(f64, f64)>,
    /// The upper and the lower end of the area between the axes.
    pub area: (f64, f64),
}

impl Layout {
    pub fn new(chart: &Chart, top: f64) -> Self {
        let (mut x, mut y) = (LEFT, top + CHART_TITLE + LEGEND_ROW / 2.0);
        let mut legend = Vec::new();
        for mark in &chart.marks {
            let width = SAMPLE + text_width(&mark.name);
            if x > LEFT && x + width > RIGHT {
                (x, y) = (LEFT, y + LEGEND_ROW);
            }
            legend.push((x, y));
            x += width + LEGEND_GAP;
        }
        let upper = y + LEGEND_ROW / 2.0 + Y_LABEL;
        Self { top, legend, area: (upper, upper + chart.height) }
    }

    /// Where the next chart begins.
    pub fn end(&self) -> f64 {
        self.area.1 + BELOW
    }

    /// The horizontal position of a fraction of the horizontal axis.
    pub fn x(fraction: f64) -> f64 {
        LEFT + fraction * (RIGHT - LEFT)
    }

    /// The vertical position of a fraction of the vertical axis.
    pub fn y(&self, fraction: f64) -> f64 {
        let (upper, lower) = self.area;
        lower - fraction * (lower - upper)
    }
}

/// An estimate of the width of a text: its font is the reader's.
#[expect(clippy::cast_precision_loss, reason = "a few hundred characters")]
pub fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * FONT_SIZE * 0.56
}
