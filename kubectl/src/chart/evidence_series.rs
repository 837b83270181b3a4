//! The evidence over time, exponents in three panels.

use super::{Chart, Line, LineStyle, Panel, Scale};

/// The evidence after one scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EvidencePoint {
    /// Seconds since the first scrape.
    pub at_seconds: f64,
    /// `ln E`: the evidence against the canary.
    pub ln_e: f64,
    /// Error rate of the canary minus that of stable. `None` while unknown.
    pub excess: Option<f64>,
    /// Lower bound of the excess. `None` while unknown.
    pub lower: Option<f64>,
    /// Upper bound of the excess. `None` while unknown.
    pub upper: Option<f64>,
    /// Used fraction of the allotment. `None` without an allotment.
    pub budget_used: Option<f64>,
}

/// The evidence of one objective over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvidenceSeries {
    /// Title of the chart.
    pub title: String,
    /// `1/alpha`: the E-value at which the release is rolled back.
    pub threshold: f64,
    /// `delta1`: the release is promoted once the upper bound is below it.
    pub margin: Option<f64>,
    /// The evidence, oldest first.
    pub points: Vec<EvidencePoint>,
    /// Times to mark, in seconds.
    pub markers: Vec<f64>,
}

/// Points are not connected across a gap of more than this many median intervals.
const GAP: f64 = 3.5;
/// E-values are clamped to these powers of ten.
const DECADES: (f64, f64) = (-2.0, 9.0);

impl EvidencePoint {
    /// Sets the bounds. -1 and 1 mean that nothing is known.
    #[must_use]
    pub fn with_bounds(self, lower: Option<f64>, upper: Option<f64>) -> Self {
        let (lower, upper) = (
            lower.filter(|lower| *lower > -1.0),
            upper.filter(|upper| *upper < 1.0),
        );
        Self {
            lower,
            upper,
            ..self
        }
    }
}

impl EvidenceSeries {
    /// The chart, `None` if there are no points.
    pub fn chart(&self) -> Option<Chart> {
        let (first, last) = (self.points.first()?, self.points.last()?);
        let from = first.at_seconds.min(0.0);
        let span_seconds = (from, last.at_seconds.max(from + 1.0));
        let mut panels = vec![self.evidence_panel(span_seconds)];
        panels.extend(self.excess_panel(span_seconds));
        panels.extend(self.budget_panel(span_seconds));
        Some(Chart {
            title: self.title.clone(),
            span_seconds,
            panels,
            markers: self.markers.clone(),
        })
    }

    /// Line segments of one value, interrupted at gaps and unknown values.
    fn pieces(&self, value_of: impl Fn(&EvidencePoint) -> Option<f64>) -> Vec<Vec<(f64, f64)>> {
        let mut steps: Vec<f64> = self
            .points
            .windows(2)
            .map(|pair| pair[1].at_seconds - pair[0].at_seconds)
            .collect();
        steps.sort_by(f64::total_cmp);
        let usual = steps.get(steps.len() / 2).copied().unwrap_or(f64::INFINITY);
        let mut pieces: Vec<Vec<(f64, f64)>> = Vec::new();
        let mut last: Option<f64> = None;
        for point in &self.points {
            let Some(value) = value_of(point).filter(|value| value.is_finite()) else {
                last = None;
                continue;
            };
            let joined = last.is_some_and(|last| point.at_seconds - last <= GAP * usual);
            match pieces.last_mut().filter(|_| joined) {
                Some(piece) => piece.push((point.at_seconds, value)),
                None => pieces.push(vec![(point.at_seconds, value)]),
            }
            last = Some(point.at_seconds);
        }
        pieces
    }

    fn evidence_panel(&self, span_seconds: (f64, f64)) -> Panel {
        let decades = |ln_e: f64| ln_e / std::f64::consts::LN_10;
        let exponents = self
            .points
            .iter()
            .map(|point| decades(point.ln_e))
            .chain([0.0, self.threshold.log10()]);
        let (low, high) = exponents.fold((-1.0_f64, 1.0_f64), |(low, high), decade| {
            (low.min(decade), high.max(decade))
        });
        let (low, high) = (
            low.floor().max(DECADES.0),
            (high + 0.2).ceil().min(DECADES.1),
        );
        Panel {
            title: "E-value: evidence against the canary (logarithmic)".to_owned(),
            range: (10_f64.powf(low), 10_f64.powf(high)),
            scale: Scale::Logarithmic,
            lines: vec![
                Line::horizontal(
                    format!("rolls back at {}", super::value_label(self.threshold)),
                    LineStyle::Limit,
                    span_seconds,
                    self.threshold,
                ),
                Line {
                    name: "E".to_owned(),
                    style: LineStyle::Measured,
                    pieces: self
                        .pieces(|point| Some(10_f64.powf(decades(point.ln_e).min(DECADES.1)))),
                },
            ],
        }
    }

    fn excess_panel(&self, span_seconds: (f64, f64)) -> Option<Panel> {
        let excess = self.pieces(|point| point.excess.map(percentage_points));
        let lower = self.pieces(|point| point.lower.map(percentage_points));
        let upper = self.pieces(|point| point.upper.map(percentage_points));
        if excess.is_empty() {
            return None;
        }
        // Scale by the latest bounds: the first ones are far away.
        let latest = |pieces: &[Vec<(f64, f64)>]| {
            pieces
                .last()
                .and_then(|piece| piece.last())
                .map(|(_, value)| *value)
        };
        let mut sizes: Vec<f64> = excess
            .iter()
            .flatten()
            .map(|(_, value)| value.abs())
            .collect();
        sizes.sort_by(f64::total_cmp);
        let typical = sizes.get(sizes.len() * 9 / 10).copied();
        let reference_values = [
            typical,
            latest(&lower),
            latest(&upper),
            self.margin.map(percentage_points),
        ];
        let reach = 1.4
            * reference_values
                .into_iter()
                .flatten()
                .map(f64::abs)
                .fold(0.001, f64::max);
        let all = || {
            [&excess, &lower, &upper]
                .into_iter()
                .flatten()
                .flatten()
                .map(|(_, value)| *value)
        };
        let low = all().fold(0.0, f64::min).max(-reach);
        let high = all()
            .chain(self.margin.map(percentage_points))
            .fold(0.0, f64::max)
            .min(reach)
            .max(0.2 * reach);
        let mut lines = Vec::new();
        lines.extend(self.margin.map(|margin| {
            let name = format!(
                "promoted once the upper bound is below {}",
                super::value_label(percentage_points(margin))
            );
            Line::horizontal(
                name,
                LineStyle::Target,
                span_seconds,
                percentage_points(margin),
            )
        }));
        lines.push(Line {
            name: "lower bound".to_owned(),
            style: LineStyle::Bound,
            pieces: lower,
        });
        lines.push(Line {
            name: "upper bound".to_owned(),
            style: LineStyle::Bound,
            pieces: upper,
        });
        lines.push(Line {
            name: "excess".to_owned(),
            style: LineStyle::Measured,
            pieces: excess,
        });
        let title =
            "Excess: canary error rate minus stable error rate, in percentage points".to_owned();
        Some(Panel {
            title,
            range: (low.min(-0.05 * high), high),
            scale: Scale::Linear,
            lines,
        })
    }

    fn budget_panel(&self, span_seconds: (f64, f64)) -> Option<Panel> {
        let used = self.pieces(|point| point.budget_used.map(|used| 100.0 * used));
        if used.is_empty() {
            return None;
        }
        let most = used
            .iter()
            .flatten()
            .map(|(_, value)| *value)
            .fold(0.0, f64::max);
        // If the value is far below the limit, the limit is not exponents, so that the line stays
        // readable.
        let is_near = most >= 20.0;
        let mut lines = Vec::new();
        if is_near {
            lines.push(Line::horizontal(
                "allotment: 100 %",
                LineStyle::Limit,
                span_seconds,
                100.0,
            ));
        }
        lines.push(Line {
            name: "used".to_owned(),
            style: LineStyle::Measured,
            pieces: used,
        });
        let title = "Budget used, in percent of this release's allotment".to_owned();
        let high = if is_near {
            most.clamp(110.0, 400.0)
        } else {
            (most * 1.3).max(1.0)
        };
        Some(Panel {
            title,
            range: (0.0, high),
            scale: Scale::Linear,
            lines,
        })
    }
}

/// Converts a fraction to percentage points.
fn percentage_points(fraction: f64) -> f64 {
    100.0 * fraction
}
