//! A chart in a terminal: ratatui draws into a buffer, which is then printed.

use owo_colors::OwoColorize;
use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Style};
use ratatui_core::symbols::Marker;
use ratatui_core::widgets::Widget;
use ratatui_widgets::chart::{Axis, Chart as Drawing, Dataset, GraphType};

use super::{Chart, Ink, Panel, Scale, clock, ends, times, value};
use crate::paint;

/// Lines of one panel at least, without its time axis.
const ROWS: usize = 9;
/// Lines of the time axis and its labels.
const AXIS_ROWS: usize = 2;
/// Drawn no wider than this: what happens in a minute shall not be a hand's breadth away.
const WIDEST: usize = 110;

/// The chart as lines of text, painted.
pub(super) fn draw(chart: &Chart, width: usize) -> String {
    let width = u16::try_from(width.clamp(40, WIDEST)).unwrap_or(40);
    let mut text = format!("{}\n", paint::strong(&chart.title));
    for panel in &chart.panels {
        text.push('\n');
        text.push_str(&heading(panel));
        text.push_str(&printed(&drawn(chart, panel, width)));
    }
    text
}

/// The panel's title and, on the next line, its lines by name in their colours.
fn heading(panel: &Panel) -> String {
    let mut names: Vec<(&str, Ink)> = Vec::new();
    for line in panel.lines.iter().rev() {
        if !names.iter().any(|(name, _)| *name == line.name) {
            names.push((&line.name, line.ink));
        }
    }
    let legend: Vec<String> = names
        .into_iter()
        .map(|(name, ink)| format!("{} {name}", painted("━", colour(ink))))
        .collect();
    format!("{}\n  {}\n", panel.title, legend.join("   "))
}

fn drawn(chart: &Chart, panel: &Panel, width: u16) -> Buffer {
    let on_axis = |value: f64| {
        if panel.scale == Scale::Logarithmic {
            value.log10()
        } else {
            value
        }
    };
    let ticks = panel.ticks();
    let (low, high) = ends(&ticks);
    let (low, high) = (on_axis(low), on_axis(high));
    let pieces: Vec<(Ink, Vec<(f64, f64)>)> = panel
        .lines
        .iter()
        .flat_map(|line| {
            panel
                .within(line)
                .into_iter()
                .map(|piece| (line.ink, piece))
        })
        .map(|(ink, piece)| {
            (
                ink,
                piece
                    .into_iter()
                    .map(|(at, value)| (at, on_axis(value)))
                    .collect(),
            )
        })
        .collect();
    let moments: Vec<Vec<(f64, f64)>> = chart
        .moments
        .iter()
        .map(|at| vec![(*at, low), (*at, high)])
        .collect();
    let of = |points, colour| {
        Dataset::default()
            .data(points)
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().fg(colour))
    };
    let mut datasets: Vec<Dataset<'_>> = moments
        .iter()
        .map(|points| of(points, Color::DarkGray))
        .collect();
    datasets.extend(pieces.iter().map(|(ink, points)| of(points, colour(*ink))));
    let times = times(chart.span_seconds);
    let (from, to) = ends(&times);
    let clocks: Vec<String> = times.into_iter().map(clock).collect();
    // All of one width, so that the panels' axes stand below each other.
    let labels: Vec<String> = ticks
        .iter()
        .map(|at| format!("{:>8}", value(*at)))
        .collect();
    // Labels stand on lines: with so many lines each stands where its value is.
    let distances = ticks.len().saturating_sub(1).max(1);
    let rows = (ROWS - 1).div_ceil(distances) * distances + 1 + AXIS_ROWS;
    let drawing = Drawing::new(datasets)
        .legend_position(None)
        .x_axis(Axis::default().bounds([from, to]).labels(clocks))
        .y_axis(Axis::default().bounds([low, high]).labels(labels));
    let area = Rect::new(0, 0, width, u16::try_from(rows).unwrap_or(u16::MAX));
    let mut buffer = Buffer::empty(area);
    drawing.render(area, &mut buffer);
    buffer
}

const fn colour(ink: Ink) -> Color {
    match ink {
        Ink::Measured => Color::Cyan,
        Ink::Bound => Color::Yellow,
        Ink::Limit | Ink::Bad => Color::Red,
        Ink::Target | Ink::Good => Color::Green,
    }
}

fn painted(text: &str, colour: Color) -> String {
    match colour {
        Color::Cyan => text.cyan().to_string(),
        Color::Yellow => text.yellow().to_string(),
        Color::Red => text.red().to_string(),
        Color::Green => text.green().to_string(),
        Color::DarkGray => text.dimmed().to_string(),
        _ => text.to_owned(),
    }
}

/// The buffer as text, without the blanks at the ends of its lines.
fn printed(buffer: &Buffer) -> String {
    let mut text = String::new();
    let columns = usize::from(buffer.area.width);
    for row in buffer.content.chunks(columns) {
        let end = row
            .iter()
            .rposition(|cell| cell.symbol() != " ")
            .map_or(0, |last| last + 1);
        for cells in row[..end].chunk_by(|one, next| one.fg == next.fg) {
            let run: String = cells
                .iter()
                .map(ratatui_core::buffer::Cell::symbol)
                .collect();
            text.push_str(&painted(
                &run,
                cells.first().map_or(Color::Reset, |cell| cell.fg),
            ));
        }
        text.push('\n');
    }
    text
}
