//! Draws charts as SVG, for the load tool and the simulator.
//!
//! A [`Picture`] has a title and charts below each other. Every [`Mark`] of a chart is in its legend. The picture has
//! no background of its own, and its colours follow the light or dark background that the reader prefers.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::todo,
        clippy::unimplemented,
        clippy::dbg_macro
    )
)]

mod axis;
mod layout;
mod svg;
mod theme;

pub use axis::{Axis, group_thousands, round_ticks};
pub use theme::Colour;

/// A title and charts below each other.
#[derive(Clone, Debug)]
pub struct Picture {
    pub title: String,
    pub charts: Vec<Chart>,
}

impl Picture {
    /// Draws the picture as an SVG document.
    pub fn svg(&self) -> String {
        svg::draw(self)
    }
}

/// A point: x, then y.
pub type Point = (f64, f64);

/// One chart.
#[derive(Clone, Debug)]
pub struct Chart {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    /// The height of the area between the axes, in pixels.
    pub height: f64,
    /// They are drawn in this order, and named in the legend in this order.
    pub marks: Vec<Mark>,
    pub labels: Vec<Label>,
}

/// What a chart shows in one colour, with its name in the legend.
#[derive(Clone, Debug)]
pub struct Mark {
    pub name: String,
    pub colour: Colour,
    pub shape: Shape,
}

#[derive(Clone, Debug)]
pub enum Shape {
    /// A line, in parts: between two parts there is a gap. A part of one point is a dot.
    Line { parts: Vec<Vec<Point>>, width: f64, dashed: bool },
    /// The area between a line and the lower end of y.
    Area(Vec<Point>),
    /// Shades between two values of x, as high as the chart.
    Bands(Vec<(f64, f64)>),
    /// Bars between two values of x, each with a text, below each other.
    Bars(Vec<(f64, f64, String)>),
    /// Lines at values of x, as high as the chart.
    Verticals { at: Vec<f64>, width: f64 },
}

/// A value that is written beside its point.
#[derive(Clone, Debug)]
pub struct Label {
    pub at: Point,
    pub text: String,
    pub colour: Colour,
    pub bold: bool,
    /// True for a text to the lower right of the point, false for one to the upper left.
    pub below: bool,
}
