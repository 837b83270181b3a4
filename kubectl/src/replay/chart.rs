//! Charts of a replayed release.

use jiff::Timestamp;
use serin_analysis::budget::used_fraction;
use serin_metrics_analysis::replay::{self, ReplayedRelease};

use crate::chart::{Chart, EvidencePoint, EvidenceSeries};
use crate::display::DisplayContext;

/// The evidence of one objective over time.
pub fn evidence_series(
    title: String,
    release: &ReplayedRelease,
    objective: &replay::ObjectiveRecord,
) -> EvidenceSeries {
    // Before the first request to the canary there is at most one scrape of stable.
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
        let evidence = &round.evidence;
        let budget_used = evidence.budget_allotment.and_then(|allotment| {
            used_fraction(evidence.budget_spent.unwrap_or(0.0).max(0.0), allotment)
        });
        let ln_e = evidence.e_value.map_or(0.0, f64::ln);
        let point = EvidencePoint {
            at_seconds: seconds(round.at_ms),
            ln_e,
            excess: evidence.excess,
            budget_used,
            ..EvidencePoint::default()
        };
        point.with_bounds(evidence.lower, evidence.upper)
    });
    let threshold = objective
        .rounds
        .iter()
        .find_map(|round| round.evidence.threshold)
        .unwrap_or(100.0);
    let markers = release
        .decision
        .iter()
        .map(|(_, change)| seconds(change.at_ms))
        .collect();
    EvidenceSeries {
        title,
        threshold,
        margin: Some(objective.margin),
        points: points.collect(),
        markers,
    }
}

/// One chart per objective with data.
pub(super) fn charts(
    name: &str,
    release: &ReplayedRelease,
    display: &DisplayContext,
) -> Vec<Chart> {
    let began = Timestamp::from_millisecond(release.began_ms)
        .map(|at| display.format_time(at))
        .unwrap_or_default();
    let chart = |objective: &replay::ObjectiveRecord| {
        let title = format!(
            "{name}, {}: time since the canary's first request at {began}",
            objective.name
        );
        evidence_series(title, release, objective).chart()
    };
    release.objectives.iter().filter_map(chart).collect()
}
