//! A chart as data (axes, lines, points, rules), and the one way in which all charts are drawn.
//!
//! The drawing is `plotters`' SVG. An invisible circle over each point shows its value when the
//! pointer rests on it, so the page needs no script.

use std::fmt::Display;

use maud::{Markup, PreEscaped, html};
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, Cross, PathElement};
use plotters::prelude::{ChartBuilder, SVGBackend};
use plotters::style::{Color, IntoFont, ShapeStyle, TextStyle};

use super::axis::Axis;
use super::palette::{Palette, legend};

pub(super) struct Chart {
    /// The words below it.
    pub(super) caption: String,
    /// The same for readers who do not see it: what is drawn, with its main figures.
    pub(super) alternative: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) rules: Vec<ChartRule>,
    pub(super) traces: Vec<ChartSeries>,
}

/// A straight line across the chart.
pub(super) enum ChartRule {
    /// From left to right at a value of y.
    Across(f64, Palette),
    /// From top to bottom at a value of x.
    Upright(f64, Palette),
}

pub(super) struct ChartSeries {
    pub(super) name: String,
    pub(super) colour: Palette,
    pub(super) mark: Mark,
    pub(super) points: Vec<ChartPoint>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mark {
    /// A line of this width; where two neighbours are farther apart in x than `gap`, it is
    /// interrupted.
    Line {
        width: u32,
        gap: f64,
    },
    Dots,
    Crosses,
}

/// A point, and the text that the pointer shows over it.
pub(super) struct ChartPoint {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) hint: String,
}

impl Chart {
    /// The figure on the page: drawing, legend, caption.
    pub(super) fn figure(&self) -> Markup {
        let mut drawing = String::new();
        let hints = self
            .draw(&mut drawing)
            .expect("a string takes every drawing");
        let view_box = format!("0 0 {WIDTH} {HEIGHT}");
        html! {
            figure {
                svg viewBox=(view_box) role="img" aria-label=(self.alternative) {
                    (PreEscaped(inside(&drawing)))
                    @for hint in &hints { (hint) }
                }
                (legend(&self.names()))
                figcaption { (self.caption) }
            }
        }
    }

    /// Each name once, in the order of drawing.
    fn names(&self) -> Vec<(Palette, String)> {
        let mut names: Vec<(Palette, String)> = Vec::new();
        for trace in &self.traces {
            let name = (trace.colour, trace.name.clone());
            if !trace.points.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    fn draw(&self, drawing: &mut String) -> Result<Vec<Markup>, Unwritable> {
        let paper = SVGBackend::with_string(drawing, (WIDTH, HEIGHT)).into_drawing_area();
        let mut plane = self.plane(&paper)?;
        for rule in &self.rules {
            let (ends, colour) = self.ends(rule);
            plane.draw_series([PathElement::new(ends, stroke(colour, 2))])?;
        }
        for trace in &self.traces {
            self.draw_trace(trace, &mut plane)?;
        }
        let points = self.traces.iter().flat_map(|trace| &trace.points);
        let hints = points.map(|point| hint(point, plane.backend_coord(&Self::place(point))));
        Ok(hints.collect())
    }

    /// The empty plane with its grid and axes.
    fn plane<'a>(
        &self,
        paper: &DrawingArea<SVGBackend<'a>, Shift>,
    ) -> Result<Plane<'a>, Unwritable> {
        let mut plane = ChartBuilder::on(paper)
            .margin(12)
            .margin_top(26)
            // Half of the longest label, "100,000", hangs over the end of the axis.
            .margin_right(60)
            .x_label_area_size(96)
            .y_label_area_size(124)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        plane
            .configure_mesh()
            .axis_style(Palette::Text.colour())
            .bold_line_style(stroke(Palette::Grid, 2))
            .light_line_style(stroke(Palette::Grid, 0))
            .max_light_lines(0)
            .label_style(text())
            .axis_desc_style(text())
            .x_desc(self.x.name)
            .y_desc(self.y.name)
            .draw()?;
        Ok(plane)
    }

    fn draw_trace(&self, trace: &ChartSeries, plane: &mut Plane<'_>) -> Result<(), Unwritable> {
        let places = trace.points.iter().map(Self::place);
        match trace.mark {
            Mark::Line { width, gap } => {
                let parts = trace.points.chunk_by(|one, next| next.x - one.x <= gap);
                let line = |part: &[ChartPoint]| {
                    let places: Vec<Coordinates> = part.iter().map(Self::place).collect();
                    PathElement::new(places, stroke(trace.colour, width))
                };
                plane.draw_series(parts.map(line))?;
            }
            Mark::Dots => {
                let dot = |place| Circle::new(place, 7, trace.colour.colour().filled());
                plane.draw_series(places.map(dot))?;
            }
            Mark::Crosses => {
                let cross = |place| Cross::new(place, 7, stroke(trace.colour, 3));
                plane.draw_series(places.map(cross))?;
            }
        }
        Ok(())
    }

    fn place(point: &ChartPoint) -> Coordinates {
        (point.x, point.y)
    }

    fn ends(&self, rule: &ChartRule) -> (Vec<Coordinates>, Palette) {
        match *rule {
            ChartRule::Across(y, colour) => (vec![(self.x.ends.0, y), (self.x.ends.1, y)], colour),
            ChartRule::Upright(x, colour) => (vec![(x, self.y.ends.0), (x, self.y.ends.1)], colour),
        }
    }
}

type Coordinates = (f64, f64);

type Plane<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;

type Unwritable = DrawingAreaErrorKind<std::io::Error>;

/// The units of a drawing are half a pixel where there is room, so that lines lie where they
/// should.
const WIDTH: u32 = 960;

const HEIGHT: u32 = 600;

fn stroke(colour: Palette, width: u32) -> ShapeStyle {
    ShapeStyle::from(colour.colour()).stroke_width(width)
}

fn text() -> TextStyle<'static> {
    TextStyle {
        color: Palette::Text.colour().to_backend_color(),
        ..TextStyle::from(("sans-serif", 35).into_font())
    }
}

/// An invisible disk that the pointer finds more easily than a line.
fn hint(point: &ChartPoint, (x, y): (impl Display, impl Display)) -> Markup {
    html! {
        circle cx=(x) cy=(y) r="11" fill-opacity="0" { title { (point.hint) } }
    }
}

/// The drawing without its own outermost tag: the page has one with an alternative in words.
fn inside(drawing: &str) -> &str {
    let start = drawing.find('>').map_or(0, |end| end + 1);
    drawing[start..].trim_end().trim_end_matches("</svg>")
}
