//! The replay of one release.

use serin_analysis::Counts;
use serin_core::observed::ReportKind;
use serin_crds::status::EvidenceStatus;

use super::weight_source::WeightEstimator;
use super::{
    MAX_GAP_SCRAPES, ObjectiveRecord, RecordedRound, ReplayEnd, ReplayOutcome, ReplayedRelease,
    ReportChange,
};
use crate::objective_analysis::ObjectiveAnalysis;
use crate::release_analysis::ReleaseAnalysis;
use crate::report::SnapshotDigest;
use crate::request::{AnalysisRequest, AnalysisSnapshot};
use crate::service_slo::ServiceSlo;

/// The replay of one release.
pub(super) struct ReleaseReplay {
    pub(super) release: ReleaseAnalysis,
    pub(super) request: AnalysisRequest,
    pub(super) weight_estimator: WeightEstimator,
    pub(super) digest: Option<SnapshotDigest>,
    pub(super) replayed: ReplayedRelease,
    pub(super) services: Vec<ServiceSlo>,
    pub(super) guard_at_ms: i64,
    pub(super) budget_at_ms: i64,
    pub(super) longest_ms: i64,
    /// Time of the last request to each side, in milliseconds since the epoch.
    pub(super) canary_at_ms: i64,
    pub(super) stable_at_ms: i64,
}

impl ObjectiveRecord {
    pub(super) fn new(objective_analysis: &ObjectiveAnalysis) -> Self {
        let margin = objective_analysis.objective.config().evidence.delta1;
        Self {
            name: objective_analysis.spec.name.clone(),
            margin,
            rounds: Vec::new(),
        }
    }
}

impl ReleaseReplay {
    /// Total counts of an objective, and the end of its last round.
    pub(super) fn position(&self, index: usize) -> (Counts, i64) {
        let objective_analysis = self.release.objectives.get(index);
        objective_analysis.map_or_else(Default::default, |objective_analysis| {
            (
                objective_analysis.state.evidence.totals,
                objective_analysis.state.round_at_ms,
            )
        })
    }

    /// Records which sides have received requests, and the weight that the traffic shows.
    pub(super) fn record_traffic(&mut self, index: usize, (before, _): (Counts, i64)) {
        let (now, at_ms) = self.position(index);
        let counts = difference(&now, &before);
        if counts.canary_requests > 0.0 {
            self.canary_at_ms = self.canary_at_ms.max(at_ms);
        }
        if counts.stable_requests > 0.0 {
            self.stable_at_ms = self.stable_at_ms.max(at_ms);
        }
        if index == 0
            && counts.requests() > 0.0
            && let Some(weight) = self.weight_estimator.observe(at_ms, &counts)
        {
            self.request.weight = weight;
        }
    }

    pub(super) fn record_rounds(&mut self, snapshot: &AnalysisSnapshot, interval_ms: i64) {
        let objective_analysis = self
            .release
            .objectives
            .iter()
            .zip(&mut self.replayed.objectives)
            .zip(&snapshot.evidence);
        for ((objective_analysis, ObjectiveRecord { rounds, .. }), evidence) in objective_analysis {
            let at_ms = objective_analysis.state.round_at_ms;
            let last = rounds.last();
            let started_ms = last.map_or(
                self.replayed.began_ms.saturating_sub(interval_ms),
                |round| round.at_ms,
            );
            if at_ms <= started_ms {
                continue;
            }
            let before = last.map_or_else(Counts::default, |round| totals(&round.evidence));
            let counts = difference(&totals(evidence), &before);
            if at_ms.saturating_sub(started_ms) > MAX_GAP_SCRAPES.saturating_mul(interval_ms) {
                self.replayed
                    .gaps
                    .push((evidence.objective.clone(), started_ms, at_ms));
            }
            rounds.push(RecordedRound {
                at_ms,
                started_ms,
                counts,
                evidence: evidence.clone(),
            });
        }
    }

    pub(super) fn record_change(&mut self, snapshot: AnalysisSnapshot, now_ms: i64) {
        if self.replayed.decision.is_some() {
            return;
        }
        let kind = SnapshotDigest::from_snapshot(&snapshot);
        let has_changed = self.digest.as_ref() != Some(&kind);
        let outcome = match snapshot.report.kind() {
            ReportKind::Breach => Some(ReplayOutcome::RolledBack),
            ReportKind::Sufficient => Some(ReplayOutcome::Sufficient),
            _ if now_ms.saturating_sub(self.replayed.began_ms) >= self.longest_ms => {
                Some(ReplayOutcome::Inconclusive)
            }
            _ => None,
        };
        let moment = ReportChange {
            at_ms: now_ms,
            weight: self.request.weight,
            report: snapshot.report,
            evidence: snapshot.evidence,
        };
        if let Some(outcome) = outcome {
            self.replayed.decision = Some((outcome, moment.clone()));
        }
        if has_changed || outcome.is_some() {
            self.replayed.changes.push(moment);
        }
        self.digest = Some(kind);
    }

    pub(super) fn ending(&self, now_ms: i64, quiet_ms: i64) -> Option<ReplayEnd> {
        let is_over = |at_ms: i64| now_ms.saturating_sub(at_ms) >= quiet_ms;
        match (is_over(self.canary_at_ms), is_over(self.stable_at_ms)) {
            // If neither side has requests, the data is missing. A release survives that.
            (true, true) | (false, false) => None,
            (true, false) => Some(ReplayEnd::CanaryStopped),
            (false, true) => Some(ReplayEnd::StableStopped),
        }
    }
}

fn totals(evidence: &EvidenceStatus) -> Counts {
    let EvidenceStatus { canary, stable, .. } = evidence;
    Counts::new(
        canary.requests,
        canary.errors,
        stable.requests,
        stable.errors,
    )
}

fn difference(now: &Counts, before: &Counts) -> Counts {
    Counts::new(
        now.canary_requests - before.canary_requests,
        now.canary_errors - before.canary_errors,
        now.stable_requests - before.stable_requests,
        now.stable_errors - before.stable_errors,
    )
}
