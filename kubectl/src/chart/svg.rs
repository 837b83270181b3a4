//! A chart as SVG, drawn by plotters.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::{Chart, Ink, Line, Panel, Scale, clock, ends, times, value};

const WIDTH: u32 = 900;
const PANEL_HEIGHT: u32 = 280;
const HEADING_HEIGHT: u32 = 46;
/// Where the axes begin.
const LEFT: i32 = 72;
/// How wide a character of the legend is, about.
const CHARACTER: i32 = 7;
const TITLE_HEIGHT: u32 = 40;
const FONT: &str = "sans-serif";

type Drawn<T> = Result<T, Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// An axis with the ticks that it is given.
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
        let (low, high) = ends(&self.ticks);
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
        let (low, high) = ends(&self.ticks);
        low..high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, at: &f64) -> String {
        (self.format)(*at)
    }
}

/// The chart as the text of an SVG file.
pub(super) fn draw(chart: &Chart) -> Drawn<String> {
    let mut text = String::new();
    let panels = u32::try_from(chart.panels.len())?;
    {
        let size = (WIDTH, TITLE_HEIGHT + PANEL_HEIGHT * panels);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE)?;
        let root = root.titled(&chart.title, (FONT, 21))?;
        let areas = root.split_evenly((chart.panels.len(), 1));
        for (panel, area) in chart.panels.iter().zip(&areas) {
            drawn(chart, panel, area)?;
        }
        root.present()?;
    }
    Ok(text)
}

/// The panel's title and, below it, its lines by name: nothing of the data is covered.
fn heading(panel: &Panel, area: &Area<'_>) -> Drawn<()> {
    area.draw(&Text::new(
        panel.title.as_str(),
        (LEFT, 8),
        (FONT, 17).into_font(),
    ))?;
    let mut from = LEFT;
    let mut known: Vec<(&str, Ink)> = Vec::new();
    for line in panel.lines.iter().rev() {
        if known.contains(&(&line.name, line.ink)) {
            continue;
        }
        known.push((&line.name, line.ink));
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

fn drawn(chart: &Chart, panel: &Panel, area: &Area<'_>) -> Drawn<()> {
    let (head, area) = area.split_vertically(HEADING_HEIGHT);
    heading(panel, &head)?;
    let across = Axis {
        ticks: times(chart.span_seconds),
        scale: Scale::Linear,
        format: clock,
    };
    let up = Axis {
        ticks: panel.ticks(),
        scale: panel.scale,
        format: value,
    };
    let (low, high) = ends(&up.ticks);
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
    for at in &chart.moments {
        context.draw_series(LineSeries::new([(*at, low), (*at, high)], BLACK.mix(0.4)))?;
    }
    for line in &panel.lines {
        for piece in panel.within(line) {
            if is_dashed(line.ink) {
                context.draw_series(DashedLineSeries::new(piece, 6, 4, style(line)))?;
            } else {
                context.draw_series(LineSeries::new(piece, style(line)))?;
            }
        }
    }
    Ok(())
}

const fn is_dashed(ink: Ink) -> bool {
    matches!(ink, Ink::Limit | Ink::Target)
}

/// The colours of Okabe and Ito, which people who see fewer colours can tell apart, too.
fn style(line: &Line) -> ShapeStyle {
    let (colour, width) = match line.ink {
        Ink::Measured => (RGBColor(0, 114, 178), 2),
        Ink::Bound => (RGBColor(230, 159, 0), 1),
        Ink::Limit | Ink::Bad => (RGBColor(213, 94, 0), 2),
        Ink::Target | Ink::Good => (RGBColor(0, 158, 115), 2),
    };
    colour.stroke_width(width)
}
