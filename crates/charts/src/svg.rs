//! Writes a picture as SVG.

use std::fmt::Write as _;

use crate::layout::{FONT_SIZE, LEFT, Layout, RIGHT, SAMPLE, TITLE, WIDTH, text_width};
use crate::theme::{Colour, style};
use crate::{Chart, Label, Mark, Picture, Point, Shape};

/// How opaque areas are: they keep their colour above each other.
const AREA: f64 = 0.85;
/// How opaque shades are.
const SHADE: f64 = 0.22;
/// The height of a bar.
const BAR: f64 = 8.0;

pub fn draw(picture: &Picture) -> String {
    let mut top = TITLE;
    let mut layouts = Vec::new();
    for chart in &picture.charts {
        let layout = Layout::new(chart, top);
        top = layout.end();
        layouts.push(layout);
    }
    let (title, style) = (escape(&picture.title), style());
    let mut svg = Svg(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{top:.0}\" \
         viewBox=\"0 0 {WIDTH} {top:.0}\" role=\"img\" aria-labelledby=\"title\" font-size=\"{FONT_SIZE}\" \
         font-family=\"system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif\">\n\
         <title id=\"title\">{title}</title>\n<style>{style}</style>\n"
    ));
    svg.text((LEFT, 26.0), &picture.title, Colour::Ink, "font-size=\"17\" font-weight=\"600\"");
    for (chart, layout) in picture.charts.iter().zip(&layouts) {
        svg.chart(chart, layout);
    }
    svg.0 + "</svg>\n"
}

struct Svg(String);

impl Svg {
    /// Appends an element of one colour.
    fn element(&mut self, colour: Colour, element: std::fmt::Arguments<'_>) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.0, "<{element} class=\"{}\"/>", colour.class());
    }

    fn text(&mut self, (x, y): Point, text: &str, colour: Colour, attributes: &str) {
        let (class, text) = (colour.class(), escape(text));
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" fill=\"currentColor\" {attributes}>{text}</text>"
        );
    }

    fn line(&mut self, colour: Colour, (x1, y1): Point, (x2, y2): Point, width: f64, dashed: bool) {
        let dashes = if dashed { " stroke-dasharray=\"5 4\"" } else { "" };
        self.element(
            colour,
            format_args!(
                "line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"currentColor\" \
                 stroke-width=\"{width}\"{dashes}"
            ),
        );
    }

    fn rectangle(&mut self, colour: Colour, (x, y): Point, (width, height): Point, opacity: f64) {
        self.element(
            colour,
            format_args!(
                "rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"currentColor\" \
                 fill-opacity=\"{opacity}\""
            ),
        );
    }

    fn chart(&mut self, chart: &Chart, layout: &Layout) {
        self.text((LEFT, layout.top + 16.0), &chart.title, Colour::Ink, "font-size=\"14\" font-weight=\"600\"");
        for (mark, at) in chart.marks.iter().zip(&layout.legend) {
            self.sample(mark, *at);
        }
        self.axes(chart, layout);
        for mark in &chart.marks {
            self.mark(mark, chart, layout);
        }
        for label in &chart.labels {
            self.label(label, chart, layout);
        }
    }

    /// A sample of a mark and its name.
    fn sample(&mut self, Mark { name, colour, shape }: &Mark, (x, y): Point) {
        let width = SAMPLE - 8.0;
        match shape {
            Shape::Line { width: stroke, dashed, .. } => {
                self.line(*colour, (x, y), (x + width, y), *stroke, *dashed);
            }
            Shape::Verticals { width: stroke, .. } => {
                self.line(*colour, (x + width / 2.0, y - 7.0), (x + width / 2.0, y + 7.0), *stroke, true);
            }
            Shape::Area(_) => self.rectangle(*colour, (x, y - 6.0), (width, 12.0), AREA),
            Shape::Bands(_) => self.rectangle(*colour, (x, y - 6.0), (width, 12.0), SHADE),
            Shape::Bars(_) => self.rectangle(*colour, (x, y - BAR / 2.0), (width, BAR), 1.0),
        }
        self.text((x + SAMPLE, y + 4.5), name, Colour::Ink, "");
    }

    /// The lines, ticks and labels of both axes.
    fn axes(&mut self, chart: &Chart, layout: &Layout) {
        let (upper, lower) = layout.area;
        for (value, text) in &chart.y.ticks {
            let y = layout.y(chart.y.fraction(*value));
            self.line(Colour::Grid, (LEFT, y), (RIGHT, y), 1.0, false);
            self.text((LEFT - 8.0, y + 4.5), text, Colour::Muted, "text-anchor=\"end\"");
        }
        for (value, text) in &chart.x.ticks {
            let x = Layout::x(chart.x.fraction(*value));
            self.line(Colour::Muted, (x, lower), (x, lower + 5.0), 1.0, false);
            self.text((x, lower + 20.0), text, Colour::Muted, "text-anchor=\"middle\"");
        }
        self.line(Colour::Muted, (LEFT, lower), (RIGHT, lower), 1.0, false);
        self.text((LEFT, upper - 10.0), &chart.y.label, Colour::Muted, "");
        self.text((RIGHT, lower + 38.0), &chart.x.label, Colour::Muted, "text-anchor=\"end\"");
    }

    fn mark(&mut self, Mark { colour, shape, .. }: &Mark, chart: &Chart, layout: &Layout) {
        let (upper, lower) = layout.area;
        let at = |(x, y): &Point| (Layout::x(chart.x.fraction(*x)), layout.y(chart.y.fraction(*y)));
        match shape {
            Shape::Line { parts, width, dashed } => {
                for part in parts {
                    self.polyline(*colour, part.iter().map(at), *width, *dashed);
                }
            }
            Shape::Area(points) => {
                if let (Some(first), Some(last)) = (points.first(), points.last()) {
                    let path = path(points.iter().map(at));
                    let (first, last) = (at(first).0, at(last).0);
                    self.element(
                        *colour,
                        format_args!(
                            "polygon points=\"{first:.1},{lower:.1} {path} {last:.1},{lower:.1}\" \
                             fill=\"currentColor\" fill-opacity=\"{AREA}\""
                        ),
                    );
                }
            }
            Shape::Bands(bands) => {
                for (from, to) in bands {
                    let (from, to) = (Layout::x(chart.x.fraction(*from)), Layout::x(chart.x.fraction(*to)));
                    self.rectangle(*colour, (from, upper), ((to - from).max(2.0), lower - upper), SHADE);
                }
            }
            Shape::Bars(bars) => self.bars(*colour, bars, chart, layout),
            Shape::Verticals { at, width } => {
                for value in at {
                    let x = Layout::x(chart.x.fraction(*value));
                    self.line(*colour, (x, upper), (x, lower), *width, true);
                }
            }
        }
    }

    fn polyline(&mut self, colour: Colour, points: impl Iterator<Item = Point> + Clone, width: f64, dashed: bool) {
        let mut few = points.clone();
        if let (Some((x, y)), None) = (few.next(), few.next()) {
            let radius = width + 1.0;
            let circle = format_args!("circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"currentColor\"");
            return self.element(colour, circle);
        }
        let (path, dashes) = (path(points), if dashed { " stroke-dasharray=\"5 4\"" } else { "" });
        self.element(
            colour,
            format_args!(
                "polyline points=\"{path}\" fill=\"none\" stroke=\"currentColor\" stroke-width=\"{width}\" \
                 stroke-linejoin=\"round\"{dashes}"
            ),
        );
    }

    /// Bars below each other. The text of a bar is above it, and within the chart.
    fn bars(&mut self, colour: Colour, bars: &[(f64, f64, String)], chart: &Chart, layout: &Layout) {
        let (upper, lower) = layout.area;
        let mut bottom = upper;
        for (from, to, text) in bars {
            #[expect(clippy::cast_precision_loss, reason = "a few bars")]
            let height = (lower - upper) / bars.len() as f64;
            bottom += height;
            let (from, to) = (Layout::x(chart.x.fraction(*from)), Layout::x(chart.x.fraction(*to)));
            self.rectangle(colour, (from, bottom - BAR - 2.0), ((to - from).max(2.0), BAR), 1.0);
            let y = bottom - BAR - 7.0;
            if from + text_width(text) <= RIGHT {
                self.text((from, y), text, Colour::Ink, "");
            } else {
                self.text((RIGHT, y), text, Colour::Ink, "text-anchor=\"end\"");
            }
        }
    }

    /// A dot at a point, and its value beside it.
    fn label(&mut self, label: &Label, chart: &Chart, layout: &Layout) {
        let (x, y) = (Layout::x(chart.x.fraction(label.at.0)), layout.y(chart.y.fraction(label.at.1)));
        let radius = if label.bold { 5 } else { 4 };
        self.element(
            label.colour,
            format_args!("circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"currentColor\""),
        );
        let weight = if label.bold { " font-weight=\"700\"" } else { "" };
        let width = text_width(&label.text);
        // Near an end of the axis the text stays within it, and is further away from the line.
        let (x, y, anchor) = match label.below {
            true if x + 8.0 + width <= RIGHT => (x + 8.0, y + 18.0, "start"),
            true => (RIGHT - 4.0, y + 26.0, "end"),
            false if x - 8.0 - width >= LEFT => (x - 8.0, y - 9.0, "end"),
            false => (LEFT + 4.0, y - 17.0, "start"),
        };
        self.text((x, y), &label.text, label.colour, &format!("text-anchor=\"{anchor}\"{weight}"));
    }
}

/// The points of a line, without those that are drawn where the one before is.
fn path(points: impl Iterator<Item = Point>) -> String {
    let mut path = String::new();
    let mut last = String::new();
    for (x, y) in points {
        let point = format!("{x:.1},{y:.1}");
        if point != last {
            path += if path.is_empty() { "" } else { " " };
            path += &point;
            last = point;
        }
    }
    path
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Axis;

    fn picture() -> Picture {
        let shapes = [
            Shape::Bands(vec![(1.0, 2.0)]),
            Shape::Area(vec![(0.0, 1.0), (4.0, 3.0)]),
            Shape::Line { parts: vec![vec![(0.0, 1.0), (2.0, 9.0)], vec![(3.0, 2.0)]], width: 3.0, dashed: false },
            Shape::Verticals { at: vec![2.0], width: 1.0 },
            Shape::Bars(vec![(0.0, 1.0, "a < b".to_owned()), (3.9, 4.0, "a long text ".repeat(9))]),
        ];
        let colours = [Colour::Shade, Colour::Blue, Colour::Orange, Colour::Muted, Colour::Red];
        let marks = shapes.into_iter().zip(colours).enumerate();
        let marks = marks.map(|(at, (shape, colour))| Mark { name: format!("mark {at}"), colour, shape }).collect();
        let label = |x: f64, below: bool| Label {
            at: (x, 3.0),
            text: format!("p{x} is 3 ms"),
            colour: Colour::Orange,
            bold: !below,
            below,
        };
        let chart = Chart {
            title: "A & B".to_owned(),
            x: Axis::linear("seconds", 0.0, 4.0, 0.0),
            y: Axis::linear("hits", 0.0, 5.0, 1.0),
            height: 200.0,
            marks,
            labels: vec![label(0.0, false), label(4.0, true)],
        };
        Picture { title: "\"Title\"".to_owned(), charts: vec![chart.clone(), chart] }
    }

    /// Returns the values of an attribute.
    fn values<'s>(svg: &'s str, attribute: &str) -> Vec<&'s str> {
        let start = format!(" {attribute}=\"");
        svg.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
    }

    #[test]
    fn every_mark_and_every_tick_has_its_text_and_texts_are_escaped() {
        let svg = picture().svg();
        let expected = ["mark 0", "mark 4", "seconds", "hits", ">2.5<", "p0 is 3 ms", "A &amp; B", "&quot;Title&quot;"];
        for text in expected.iter().chain(&["a &lt; b"]) {
            assert!(svg.contains(text), "{text} is missing in {svg}");
        }
    }

    #[test]
    fn the_picture_has_no_background_and_no_colour_apart_from_its_style_sheet() {
        let svg = picture().svg();
        let (before, rest) = svg.split_once("<style>").unwrap();
        let (style, after) = rest.split_once("</style>").unwrap();
        assert!(style.contains("prefers-color-scheme:dark"));
        assert!(!before.contains('#') && !after.contains('#'), "{svg}");
        for paint in values(after, "fill").into_iter().chain(values(after, "stroke")) {
            assert!(["currentColor", "none"].contains(&paint), "{paint}");
        }
        let whole = |width: &&str| width.parse::<f64>().unwrap() > RIGHT - LEFT;
        assert!(!values(after, "width").iter().any(whole), "nothing is as wide as the picture");
    }

    #[test]
    fn everything_is_within_the_picture() {
        let svg = picture().svg();
        let height: f64 = values(&svg, "height")[0].parse().unwrap();
        for (attribute, most) in
            [("x", WIDTH), ("cx", WIDTH), ("x1", WIDTH), ("x2", WIDTH), ("y", height), ("cy", height)]
        {
            for value in values(&svg, attribute) {
                assert!((0.0..=most).contains(&value.parse::<f64>().unwrap()), "{attribute}={value}");
            }
        }
        for points in values(&svg, "points") {
            for point in points.split(' ') {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=RIGHT).contains(&x) && (0.0..=height).contains(&y), "{point}");
            }
        }
    }
}
