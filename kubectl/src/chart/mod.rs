//! Time series charts for a terminal and as SVG. This module decides what is svg; [`terminal`]
//! and [`svg`] draw it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};

use crate::cli::SvgArgs;
use crate::exit::{CliError, Exit};

mod evidence_series;
mod svg;
mod terminal;

pub use evidence_series::{EvidencePoint, EvidenceSeries};

/// Panels with a common time axis, one below the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// Title of the chart.
    pub title: String,
    /// Start and end, in seconds.
    pub span_seconds: (f64, f64),
    /// The panels.
    pub panels: Vec<Panel>,
    /// Times to mark with a vertical line, in seconds.
    pub markers: Vec<f64>,
}

/// Lines with a common value axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// Title, with the unit.
    pub title: String,
    /// Lowest and highest value; whole powers of ten on a logarithmic axis.
    pub range: (f64, f64),
    /// Scale of the value axis.
    pub scale: Scale,
    /// The lines, the last one on top.
    pub lines: Vec<Line>,
}

/// Scale of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Linear.
    Linear,
    /// Logarithmic, for values above 0.
    Logarithmic,
}

/// A line of one or more separate pieces.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Name in the legend.
    pub name: String,
    /// Style by meaning.
    pub style: LineStyle,
    /// Connected points: seconds and value.
    pub pieces: Vec<Vec<(f64, f64)>>,
}

/// Style of a line: its color, and whether it is dashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineStyle {
    /// A measured value.
    Measured,
    /// A confidence bound.
    Bound,
    /// An upper limit.
    Limit,
    /// A target.
    Target,
    /// A good outcome.
    Good,
    /// A bad outcome.
    Bad,
}

impl Line {
    /// A horizontal line.
    pub fn horizontal(
        name: impl Into<String>,
        line_style: LineStyle,
        span_seconds: (f64, f64),
        value: f64,
    ) -> Self {
        let (from, to) = span_seconds;
        Self {
            name: name.into(),
            style: line_style,
            pieces: vec![vec![(from, value), (to, value)]],
        }
    }
}

impl Panel {
    /// The ticks. The first and the last are the ends of the axis.
    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => linear_ticks(self.range),
            Scale::Logarithmic => logarithmic_ticks(self.range),
        }
    }

    /// The pieces of a line, clamped to the range of the axis.
    fn clamped_pieces(&self, line: &Line) -> Vec<Vec<(f64, f64)>> {
        let ticks = self.ticks();
        let (low, high) = axis_range(&ticks);
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
    /// Draws the chart for a terminal of the given width.
    pub fn for_terminal(&self, width: usize) -> String {
        terminal::draw(self, width)
    }

    /// Draws the chart as SVG.
    ///
    /// # Errors
    /// Fails if the chart cannot be drawn.
    pub fn to_svg(&self) -> Result<String, CliError> {
        svg::draw(self)
            .map_err(|why| CliError::new(Exit::Usage, format!("cannot draw the chart: {why}")))
    }

    /// Writes the chart to an SVG file, if one was named. An existing file is kept unless
    /// overwriting was requested.
    ///
    /// # Errors
    /// Fails if the chart cannot be drawn or the file cannot be written.
    pub fn write_svg(&self, target: &SvgArgs) -> Result<(), CliError> {
        let Some(file) = &target.file else {
            return Ok(());
        };
        let svg = self.to_svg()?;
        let mut options = OpenOptions::new();
        if target.force {
            options.write(true).create(true).truncate(true);
        } else {
            options.write(true).create_new(true);
        }
        let written = options
            .open(file)
            .and_then(|mut opened| opened.write_all(svg.as_bytes()));
        written.map_err(|error| {
            let hint = if error.kind() == ErrorKind::AlreadyExists {
                "Use another file, or --force to overwrite it."
            } else {
                "Use a file in an existing, writable directory."
            };
            CliError::new(
                Exit::Usage,
                format!("--svg {}: cannot write the file: {error}", file.display()),
            )
            .hint(hint)
        })
    }
}

/// The ends of an axis.
fn axis_range(ticks: &[f64]) -> (f64, f64) {
    (
        ticks.first().copied().unwrap_or(0.0),
        ticks.last().copied().unwrap_or(1.0),
    )
}

/// Maximum number of intervals of an axis.
const MAX_INTERVALS: f64 = 6.0;
/// Tick intervals of a time axis, in seconds.
const TIME_INTERVALS: [f64; 18] = [
    1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0, 7_200.0,
    10_800.0, 21_600.0, 43_200.0, 86_400.0,
];

/// Round values at equal intervals that cover the range.
fn evenly_spaced(low: f64, high: f64, distance: f64) -> Vec<f64> {
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

/// Ticks of a time axis, in seconds.
fn time_ticks((from, to): (f64, f64)) -> Vec<f64> {
    let span = (to - from).max(1.0);
    let days = (span / 86_400.0 / MAX_INTERVALS).ceil() * 86_400.0;
    let fits = |distance: &f64| (to / distance).ceil() - (from / distance).floor() <= MAX_INTERVALS;
    evenly_spaced(
        from,
        to.max(from + 1.0),
        TIME_INTERVALS.into_iter().find(fits).unwrap_or(days),
    )
}

/// Ticks of a linear axis.
fn linear_ticks((low, high): (f64, f64)) -> Vec<f64> {
    let least = (high - low).max(f64::MIN_POSITIVE) / MAX_INTERVALS;
    let unit = 10_f64.powf(least.log10().floor());
    let fits =
        |distance: &f64| (high / distance).ceil() - (low / distance).floor() <= MAX_INTERVALS;
    let distances = [1.0, 2.0, 2.5, 5.0, 10.0, 20.0].map(|multiple| multiple * unit);
    evenly_spaced(
        low,
        high,
        distances.into_iter().find(fits).unwrap_or(20.0 * unit),
    )
}

/// Ticks of a logarithmic axis: powers of ten at equal intervals.
fn logarithmic_ticks((low, high): (f64, f64)) -> Vec<f64> {
    #[expect(clippy::cast_possible_truncation, reason = "a dozen decades")]
    let (first, last) = (low.log10().round() as i32, high.log10().round() as i32);
    let step = (1..=4)
        .find(|step| (last - first) % step == 0 && (last - first) / step <= 6)
        .unwrap_or(1);
    (0..=(last - first) / step)
        .map(|index| 10_f64.powi(first + index * step))
        .collect()
}

/// Label of a time: `0`, `45s`, `10m`, `1h30m`.
fn time_label(seconds: f64) -> String {
    if seconds < -0.5 {
        return format!("-{}", time_label(-seconds));
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

/// Label of a value.
fn value_label(value: f64) -> String {
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
