//! Draws a chart for a terminal: ratatui draws into a buffer, which is then printed.

use owo_colors::OwoColorize;
use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Style};
use ratatui_core::symbols::Marker;
use ratatui_core::widgets::Widget;
use ratatui_widgets::chart::{Axis, Chart as Drawing, Dataset, GraphType};

use super::{Chart, LineStyle, Panel, Scale, axis_range, time_label, time_ticks, value_label};
use crate::style;

/// Minimum rows of a panel, without its time axis.
const ROWS: usize = 9;
/// Rows of the time axis and its labels.
const AXIS_ROWS: usize = 2;
/// Maximum width, so that short events stay close to each other.
const MAX_COLUMNS: usize = 110;

/// Draws the chart as styled text.
pub(super) fn draw(chart: &Chart, width: usize) -> String {
    let width = u16::try_from(width.clamp(40, MAX_COLUMNS)).unwrap_or(40);
    let mut text = format!("{}\n", style::bold(&chart.title));
    for panel in &chart.panels {
        text.push('\n');
        text.push_str(&heading(panel));
        text.push_str(&buffer_to_text(&render_panel(chart, panel, width)));
    }
    text
}

/// The title of a panel and, on the next line, its legend.
fn heading(panel: &Panel) -> String {
    let mut names: Vec<(&str, LineStyle)> = Vec::new();
    for line in panel.lines.iter().rev() {
        if !names.iter().any(|(name, _)| *name == line.name) {
            names.push((&line.name, line.style));
        }
    }
    let legend: Vec<String> = names
        .into_iter()
        .map(|(name, line_style)| format!("{} {name}", colored("━", color(line_style))))
        .collect();
    format!("{}\n  {}\n", panel.title, legend.join("   "))
}

fn render_panel(chart: &Chart, panel: &Panel, width: u16) -> Buffer {
    let on_axis = |value: f64| {
        if panel.scale == Scale::Logarithmic {
            value.log10()
        } else {
            value
        }
    };
    let ticks = panel.ticks();
    let (low, high) = axis_range(&ticks);
    let (low, high) = (on_axis(low), on_axis(high));
    let pieces: Vec<(LineStyle, Vec<(f64, f64)>)> = panel
        .lines
        .iter()
        .flat_map(|line| {
            panel
                .clamped_pieces(line)
                .into_iter()
                .map(|piece| (line.style, piece))
        })
        .map(|(line_style, piece)| {
            (
                line_style,
                piece
                    .into_iter()
                    .map(|(at, value)| (at, on_axis(value)))
                    .collect(),
            )
        })
        .collect();
    let markers: Vec<Vec<(f64, f64)>> = chart
        .markers
        .iter()
        .map(|at| vec![(*at, low), (*at, high)])
        .collect();
    let dataset = |points, color| {
        Dataset::default()
            .data(points)
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().fg(color))
    };
    let mut datasets: Vec<Dataset<'_>> = markers
        .iter()
        .map(|points| dataset(points, Color::DarkGray))
        .collect();
    datasets.extend(
        pieces
            .iter()
            .map(|(line_style, points)| dataset(points, color(*line_style))),
    );
    let times = time_ticks(chart.span_seconds);
    let (from, to) = axis_range(&times);
    let clocks: Vec<String> = times.into_iter().map(time_label).collect();
    // Equal widths align the axes of all panels.
    let labels: Vec<String> = ticks
        .iter()
        .map(|at| format!("{:>8}", value_label(*at)))
        .collect();
    // Use a number of rows with which each label is on a row of its value.
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

const fn color(line_style: LineStyle) -> Color {
    match line_style {
        LineStyle::Measured => Color::Cyan,
        LineStyle::Bound => Color::Yellow,
        LineStyle::Limit | LineStyle::Bad => Color::Red,
        LineStyle::Target | LineStyle::Good => Color::Green,
    }
}

fn colored(text: &str, color: Color) -> String {
    match color {
        Color::Cyan => text.cyan().to_string(),
        Color::Yellow => text.yellow().to_string(),
        Color::Red => text.red().to_string(),
        Color::Green => text.green().to_string(),
        Color::DarkGray => text.dimmed().to_string(),
        _ => text.to_owned(),
    }
}

/// Converts the buffer to text without trailing spaces.
fn buffer_to_text(buffer: &Buffer) -> String {
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
            text.push_str(&colored(
                &run,
                cells.first().map_or(Color::Reset, |cell| cell.fg),
            ));
        }
        text.push('\n');
    }
    text
}
