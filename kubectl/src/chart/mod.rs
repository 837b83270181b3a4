//! Pictures over time, for a terminal and as SVG: what is drawn is decided here, how in
//! [`terminal`] and [`svg`].

use std::path::Path;

use crate::exit::{Exit, Failure};

mod course;
mod svg;
mod terminal;

pub use course::{Course, Point};

/// Panels over the same time, one below the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// From when to when, in seconds.
    pub span_seconds: (f64, f64),
    /// The panels.
    pub panels: Vec<Panel>,
    /// Moments, in seconds: each a line from top to bottom.
    pub moments: Vec<f64>,
}

/// Lines over one axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What it shows, with the unit.
    pub title: String,
    /// The lowest and the highest value; on a logarithmic axis whole powers of ten.
    pub range: (f64, f64),
    /// How values are placed.
    pub scale: Scale,
    /// The lines, those drawn last on top.
    pub lines: Vec<Line>,
}

/// How the values of an axis are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By their logarithm; values are above 0.
    Logarithmic,
}

/// A line, in as many pieces as the data has.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// What it means.
    pub ink: Ink,
    /// Pieces of points: seconds and value.
    pub pieces: Vec<Vec<(f64, f64)>>,
}

/// What a line means: its colour, and whether it is dashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// What was measured.
    Measured,
    /// Between which bounds the truth is.
    Bound,
    /// Where it is too much.
    Limit,
    /// Where it is enough.
    Target,
    /// What went well.
    Good,
    /// What did not.
    Bad,
}

impl Line {
    /// A line at one value, all the time.
    pub fn level(name: impl Into<String>, ink: Ink, span_seconds: (f64, f64), value: f64) -> Self {
        let (from, to) = span_seconds;
        Self {
            name: name.into(),
            ink,
            pieces: vec![vec![(from, value), (to, value)]],
        }
    }
}

impl Panel {
    /// The values on the axis: the first and the last are its ends.
    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => values(self.range),
            Scale::Logarithmic => powers(self.range),
        }
    }

    /// The pieces of a line as far as they are within the range: what is beyond it is drawn at its
    /// edge.
    fn within(&self, line: &Line) -> Vec<Vec<(f64, f64)>> {
        let ticks = self.ticks();
        let (low, high) = ends(&ticks);
        let inside = |piece: &Vec<(f64, f64)>| {
            piece
                .iter()
                .map(|(at, value)| (*at, value.clamp(low, high)))
                .collect()
        };
        line.pieces.iter().map(inside).collect()
    }
}

impl Chart {
    /// The chart for a terminal of that width.
    pub fn for_terminal(&self, width: usize) -> String {
        terminal::draw(self, width)
    }

    /// The chart as an SVG file's text.
    ///
    /// # Errors
    /// Where it cannot be drawn.
    pub fn to_svg(&self) -> Result<String, Failure> {
        svg::draw(self)
            .map_err(|why| Failure::new(Exit::Usage, format!("cannot draw the chart: {why}")))
    }

    /// Writes the chart to an SVG file.
    ///
    /// # Errors
    /// Where it cannot be drawn, or the file not be written.
    pub fn write_svg(&self, file: &Path) -> Result<(), Failure> {
        let drawn = self.to_svg()?;
        std::fs::write(file, drawn).map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("--svg {}: cannot write the file: {error}", file.display()),
            )
            .hint("Name a file in a folder that exists and that you may write to.")
        })
    }
}

/// The ends of an axis.
fn ends(ticks: &[f64]) -> (f64, f64) {
    (
        ticks.first().copied().unwrap_or(0.0),
        ticks.last().copied().unwrap_or(1.0),
    )
}

/// How many distances an axis has at most.
const MOST_DISTANCES: f64 = 6.0;
/// Distances on an axis of time, in seconds.
const TIMES: [f64; 18] = [
    1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0, 7_200.0,
    10_800.0, 21_600.0, 43_200.0, 86_400.0,
];

/// Round values at equal distances, of which the first and the last are the ends of the axis.
fn evenly(low: f64, high: f64, distance: f64) -> Vec<f64> {
    let (first, last) = ((low / distance).floor(), (high / distance).ceil());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few distances"
    )]
    let count = (last - first).clamp(1.0, 100.0) as u32;
    (0..=count)
        .map(|index| (first + f64::from(index)) * distance)
        .collect()
}

/// The times on the axis of a span, in seconds.
fn times((from, to): (f64, f64)) -> Vec<f64> {
    let span = (to - from).max(1.0);
    let days = (span / 86_400.0 / MOST_DISTANCES).ceil() * 86_400.0;
    let fits =
        |distance: &f64| (to / distance).ceil() - (from / distance).floor() <= MOST_DISTANCES;
    evenly(
        from,
        to.max(from + 1.0),
        TIMES.into_iter().find(fits).unwrap_or(days),
    )
}

/// The values on a linear axis.
fn values((low, high): (f64, f64)) -> Vec<f64> {
    let least = (high - low).max(f64::MIN_POSITIVE) / MOST_DISTANCES;
    let unit = 10_f64.powf(least.log10().floor());
    let fits =
        |distance: &f64| (high / distance).ceil() - (low / distance).floor() <= MOST_DISTANCES;
    let distances = [1.0, 2.0, 2.5, 5.0, 10.0, 20.0].map(|of| of * unit);
    evenly(
        low,
        high,
        distances.into_iter().find(fits).unwrap_or(20.0 * unit),
    )
}

/// The powers of ten on a logarithmic axis; so many that the distances between them are equal.
fn powers((low, high): (f64, f64)) -> Vec<f64> {
    #[expect(clippy::cast_possible_truncation, reason = "a dozen decades")]
    let (first, last) = (low.log10().round() as i32, high.log10().round() as i32);
    let step = (1..=4)
        .find(|step| (last - first) % step == 0 && (last - first) / step <= 6)
        .unwrap_or(1);
    (0..=(last - first) / step)
        .map(|index| 10_f64.powi(first + index * step))
        .collect()
}

/// A span of time on an axis: `0`, `45s`, `10m`, `1h30m`.
fn clock(seconds: f64) -> String {
    if seconds < -0.5 {
        return format!("-{}", clock(-seconds));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "cut to days, and not negative"
    )]
    let whole = seconds.round().clamp(0.0, 1e9) as u64;
    let (hours, minutes, rest) = (whole / 3_600, whole / 60 % 60, whole % 60);
    match (hours, minutes, rest) {
        (0, 0, 0) => "0".to_owned(),
        (0, 0, rest) => format!("{rest}s"),
        (0, minutes, 0) => format!("{minutes}m"),
        (0, minutes, rest) => format!("{minutes}m{rest}s"),
        (hours, 0, _) => format!("{hours}h"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

/// A value on an axis.
fn value(value: f64) -> String {
    let size = value.abs();
    let text = match size {
        size if size >= 1e6 => return format!("{value:.0e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.1}"),
        size if size >= 0.01 => format!("{value:.2}"),
        size if size >= 1e-6 => format!("{value:.4}"),
        _ => return "0".to_owned(),
    };
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests;
