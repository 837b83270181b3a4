//! A replayed release as charts.

use jiff::Timestamp;
use serin_metrics_analysis::replay::{self, Replayed};

use crate::chart::{Chart, Course, Point};
use crate::look::Look;

/// The evidence of one objective over time, from a replay.
pub fn course(title: String, release: &Replayed, objective: &replay::Course) -> Course {
    // What was counted before the first request to the canary is no more than a scrape of stable's.
    let base_ms = objective
        .rounds
        .first()
        .map_or(release.began_ms, |round| round.at_ms.min(release.began_ms));
    #[expect(
        clippy::cast_precision_loss,
        reason = "a span of milliseconds is far below 2^53"
    )]
    let seconds = |at_ms: i64| at_ms.saturating_sub(base_ms) as f64 / 1_000.0;
    let points = objective.rounds.iter().map(|round| {
        let told = &round.evidence;
        let budget_used = told
            .budget_allotment
            .filter(|allotment| *allotment > 0.0)
            .map(|allotment| told.budget_spent.unwrap_or(0.0).max(0.0) / allotment);
        let ln_e = told.e_value.map_or(0.0, f64::ln);
        let point = Point {
            at_seconds: seconds(round.at_ms),
            ln_e,
            excess: told.excess,
            budget_used,
            ..Point::default()
        };
        point.bounded(told.lower, told.upper)
    });
    let threshold = objective
        .rounds
        .iter()
        .find_map(|round| round.evidence.threshold)
        .unwrap_or(100.0);
    let moments = release
        .decision
        .iter()
        .map(|(_, moment)| seconds(moment.at_ms))
        .collect();
    Course {
        title,
        threshold,
        margin: Some(objective.margin),
        points: points.collect(),
        moments,
    }
}

/// A chart for each objective that has data.
pub(super) fn charts(name: &str, release: &Replayed, look: &Look) -> Vec<Chart> {
    let began = Timestamp::from_millisecond(release.began_ms)
        .map(|at| look.clock(at))
        .unwrap_or_default();
    let chart = |objective: &replay::Course| {
        let title = format!(
            "{name}, {}: time since the canary's first request at {began}",
            objective.name
        );
        course(title, release, objective).chart()
    };
    release.objectives.iter().filter_map(chart).collect()
}
