//! The evidence over time, as a chart of three panels.

use super::{Chart, Ink, Line, Panel, Scale};

/// The evidence after one scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// When, in seconds since the first one.
    pub at_seconds: f64,
    /// `ln E`: the evidence against the canary.
    pub ln_e: f64,
    /// By how much larger a part of its requests the canary fails than stable; nothing while it is
    /// not known.
    pub excess: Option<f64>,
    /// Its lower bound; nothing while there is none.
    pub lower: Option<f64>,
    /// Its upper bound; nothing while there is none.
    pub upper: Option<f64>,
    /// The part of the allotment that is used; nothing where there is no allotment.
    pub budget_used: Option<f64>,
}

/// The evidence of one objective over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Course {
    /// What it is the evidence of.
    pub title: String,
    /// `1/alpha`: where E rolls back.
    pub threshold: f64,
    /// `delta1`: what the upper bound must come below before the release is promoted.
    pub margin: Option<f64>,
    /// The evidence, oldest first.
    pub points: Vec<Point>,
    /// Moments to be marked, in seconds.
    pub moments: Vec<f64>,
}

/// Points further apart than so many of the usual distances are not joined: in between nothing was
/// known.
const GAP: f64 = 3.5;
/// E is drawn between these powers of ten: beyond them nobody reads the digits.
const DECADES: (f64, f64) = (-2.0, 9.0);

impl Point {
    /// A point with bounds as the statistics have them, where -1 and 1 mean that nothing is known.
    #[must_use]
    pub fn bounded(self, lower: Option<f64>, upper: Option<f64>) -> Self {
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

impl Course {
    /// The chart; nothing where there is nothing to draw.
    pub fn chart(&self) -> Option<Chart> {
        let (first, last) = (self.points.first()?, self.points.last()?);
        let from = first.at_seconds.min(0.0);
        let span_seconds = (from, last.at_seconds.max(from + 1.0));
        let mut panels = vec![self.evidence(span_seconds)];
        panels.extend(self.excess(span_seconds));
        panels.extend(self.budget(span_seconds));
        Some(Chart {
            title: self.title.clone(),
            span_seconds,
            panels,
            moments: self.moments.clone(),
        })
    }

    /// Pieces of what is known of each point, without joining what is far apart.
    fn pieces(&self, of: impl Fn(&Point) -> Option<f64>) -> Vec<Vec<(f64, f64)>> {
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
            let Some(value) = of(point).filter(|value| value.is_finite()) else {
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

    fn evidence(&self, span_seconds: (f64, f64)) -> Panel {
        let decades = |ln_e: f64| ln_e / std::f64::consts::LN_10;
        let drawn = self
            .points
            .iter()
            .map(|point| decades(point.ln_e))
            .chain([0.0, self.threshold.log10()]);
        let (low, high) = drawn.fold((-1.0_f64, 1.0_f64), |(low, high), decade| {
            (low.min(decade), high.max(decade))
        });
        let (low, high) = (
            low.floor().max(DECADES.0),
            (high + 0.2).ceil().min(DECADES.1),
        );
        Panel {
            title: "E, the evidence against the canary (logarithmic)".to_owned(),
            range: (10_f64.powf(low), 10_f64.powf(high)),
            scale: Scale::Logarithmic,
            lines: vec![
                Line::level(
                    format!("rolls back at {}", super::value(self.threshold)),
                    Ink::Limit,
                    span_seconds,
                    self.threshold,
                ),
                Line {
                    name: "E".to_owned(),
                    ink: Ink::Measured,
                    pieces: self
                        .pieces(|point| Some(10_f64.powf(decades(point.ln_e).min(DECADES.1)))),
                },
            ],
        }
    }

    fn excess(&self, span_seconds: (f64, f64)) -> Option<Panel> {
        let excess = self.pieces(|point| point.excess.map(points));
        let lower = self.pieces(|point| point.lower.map(points));
        let upper = self.pieces(|point| point.upper.map(points));
        if excess.is_empty() {
            return None;
        }
        // The bounds begin far away: what they came to is what is looked at.
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
        let seen = [
            typical,
            latest(&lower),
            latest(&upper),
            self.margin.map(points),
        ];
        let reach = 1.4
            * seen
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
            .chain(self.margin.map(points))
            .fold(0.0, f64::max)
            .min(reach)
            .max(0.2 * reach);
        let mut lines = Vec::new();
        lines.extend(self.margin.map(|margin| {
            let name = format!(
                "promoted once the upper bound is below {}",
                super::value(points(margin))
            );
            Line::level(name, Ink::Target, span_seconds, points(margin))
        }));
        lines.push(Line {
            name: "lower bound".to_owned(),
            ink: Ink::Bound,
            pieces: lower,
        });
        lines.push(Line {
            name: "upper bound".to_owned(),
            ink: Ink::Bound,
            pieces: upper,
        });
        lines.push(Line {
            name: "excess".to_owned(),
            ink: Ink::Measured,
            pieces: excess,
        });
        let title =
            "Excess: the canary's error rate less stable's, in percentage points".to_owned();
        Some(Panel {
            title,
            range: (low.min(-0.05 * high), high),
            scale: Scale::Linear,
            lines,
        })
    }

    fn budget(&self, span_seconds: (f64, f64)) -> Option<Panel> {
        let used = self.pieces(|point| point.budget_used.map(|used| 100.0 * used));
        if used.is_empty() {
            return None;
        }
        let most = used
            .iter()
            .flatten()
            .map(|(_, value)| *value)
            .fold(0.0, f64::max);
        // Far below its limit, the limit is told and not drawn, so that the line can be read.
        let is_near = most >= 20.0;
        let mut lines = Vec::new();
        if is_near {
            lines.push(Line::level(
                "all of it: 100 %",
                Ink::Limit,
                span_seconds,
                100.0,
            ));
        }
        lines.push(Line {
            name: "used".to_owned(),
            ink: Ink::Measured,
            pieces: used,
        });
        let title = "Budget used, in percent of what this release may spend".to_owned();
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

/// A fraction of requests in percentage points.
fn points(fraction: f64) -> f64 {
    100.0 * fraction
}
