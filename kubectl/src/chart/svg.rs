//! A chart as SVG, drawn by plotters.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::{
    Chart, Line, LineStyle, Panel, Scale, axis_range, time_label, time_ticks, value_label,
};

const WIDTH: u32 = 900;
const PANEL_HEIGHT: u32 = 280;
const HEADING_HEIGHT: u32 = 46;
/// Left edge of the axes.
const LEFT: i32 = 72;
/// Approximate width of a character in the legend.
const CHARACTER: i32 = 7;
const TITLE_HEIGHT: u32 = 40;
const FONT: &str = "sans-serif";

type DrawResult<T> = Result<T, Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// An axis with given ticks.
struct Axis {
    ticks: Vec<f64>,
    scale: Scale,
    format: fn(f64) -> String,
}

impl Axis {
    fn place(&self, at: f64) -> f64 {
        if self.scale == Scale::Logarithmic {
            at.max(f64::MIN_POSITIVE).log10()
        } else {
            at
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, at: &f64, (from, to): (i32, i32)) -> i32 {
        let (low, high) = axis_range(&self.ticks);
        let (low, high) = (self.place(low), self.place(high));
        let part = (self.place(*at) - low) / (high - low);
        #[expect(clippy::cast_possible_truncation, reason = "a place on a page")]
        {
            (f64::from(from) + part * f64::from(to - from)).round() as i32
        }
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        let (low, high) = axis_range(&self.ticks);
        low..high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, at: &f64) -> String {
        (self.format)(*at)
    }
}

/// Draws the chart as SVG.
pub(super) fn draw(chart: &Chart) -> DrawResult<String> {
    let mut text = String::new();
    let panels = u32::try_from(chart.panels.len())?;
    {
        let size = (WIDTH, TITLE_HEIGHT + PANEL_HEIGHT * panels);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE)?;
        let root = root.titled(&chart.title, (FONT, 21))?;
        let areas = root.split_evenly((chart.panels.len(), 1));
        for (panel, area) in chart.panels.iter().zip(&areas) {
            draw_panel(chart, panel, area)?;
        }
        root.present()?;
    }
    Ok(text)
}

/// Draws the title of a panel and its legend above the data.
fn draw_heading(panel: &Panel, area: &Area<'_>) -> DrawResult<()> {
    area.draw(&Text::new(
        panel.title.as_str(),
        (LEFT, 8),
        (FONT, 17).into_font(),
    ))?;
    let mut from = LEFT;
    let mut known: Vec<(&str, LineStyle)> = Vec::new();
    for line in panel.lines.iter().rev() {
        if known.contains(&(&line.name, line.style)) {
            continue;
        }
        known.push((&line.name, line.style));
        area.draw(&PathElement::new(
            [(from, 38), (from + 20, 38)],
            style(line),
        ))?;
        area.draw(&Text::new(
            line.name.as_str(),
            (from + 26, 31),
            (FONT, 15).into_font(),
        ))?;
        from += 60 + CHARACTER * i32::try_from(line.name.len())?;
    }
    Ok(())
}

fn draw_panel(chart: &Chart, panel: &Panel, area: &Area<'_>) -> DrawResult<()> {
    let (head, area) = area.split_vertically(HEADING_HEIGHT);
    draw_heading(panel, &head)?;
    let across = Axis {
        ticks: time_ticks(chart.span_seconds),
        scale: Scale::Linear,
        format: time_label,
    };
    let up = Axis {
        ticks: panel.ticks(),
        scale: panel.scale,
        format: value_label,
    };
    let (low, high) = axis_range(&up.ticks);
    let mut context = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(30)
        .x_label_area_size(28)
        .y_label_area_size(64)
        .build_cartesian_2d(across, up)?;
    context
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style((FONT, 15))
        .draw()?;
    for at in &chart.markers {
        context.draw_series(LineSeries::new([(*at, low), (*at, high)], BLACK.mix(0.4)))?;
    }
    for line in &panel.lines {
        for piece in panel.clamped_pieces(line) {
            if is_dashed(line.style) {
                context.draw_series(DashedLineSeries::new(piece, 6, 4, style(line)))?;
            } else {
                context.draw_series(LineSeries::new(piece, style(line)))?;
            }
        }
    }
    Ok(())
}

const fn is_dashed(line_style: LineStyle) -> bool {
    matches!(line_style, LineStyle::Limit | LineStyle::Target)
}

/// The palette of Okabe and Ito, which is distinguishable with color vision deficiencies.
fn style(line: &Line) -> ShapeStyle {
    let (color, width) = match line.style {
        LineStyle::Measured => (RGBColor(0, 114, 178), 2),
        LineStyle::Bound => (RGBColor(230, 159, 0), 1),
        LineStyle::Limit | LineStyle::Bad => (RGBColor(213, 94, 0), 2),
        LineStyle::Target | LineStyle::Good => (RGBColor(0, 158, 115), 2),
    };
    color.stroke_width(width)
}
