//! Analysis during the bake time after promotion: the canary alone, compared with the error rate of
//! stable during the release.

use serin_analysis::decision::ln_mean;
use serin_analysis::explain::{self, percent, thousands};
use serin_core::observed::AnalysisReport;
use serin_core::state::AbortCause;

use crate::release_analysis::ReleaseAnalysis;

impl ReleaseAnalysis {
    /// The reason for a rollback during the bake time. The evidence against the canary alone can
    /// trigger it; a tenth of that evidence is enough if the allotment is spent or the service
    /// burns its error budget too fast. This is a heuristic: see [`serin_analysis::bake`].
    pub(crate) fn breach_during_bake(
        &self,
        evaluation: &serin_analysis::Evaluation,
    ) -> Option<AnalysisReport> {
        let config = &self.settings.analysis;
        let bakes = self.objectives.iter().filter_map(|objective_analysis| {
            Some((objective_analysis, objective_analysis.bake.as_ref()?))
        });
        let ln_e: Vec<(f64, f64)> = bakes
            .clone()
            .map(|(objective_analysis, bake)| {
                (
                    bake.ln_e(objective_analysis.objective.bets()),
                    objective_analysis.objective.config().weight,
                )
            })
            .collect();
        if ln_e.is_empty() {
            return None;
        }
        let ln_e = ln_mean(&ln_e);
        let is_spent = evaluation.objectives.iter().any(|objective| {
            objective
                .allotment
                .is_some_and(|allotment| objective.spent >= allotment)
        });
        let (cause, threshold, why) = if ln_e >= -config.alpha.ln() {
            (AbortCause::Evidence, 1.0 / config.alpha, "")
        } else if ln_e < config.suspect_from_e.ln() {
            return None;
        } else if is_spent {
            (
                AbortCause::ErrorBudget,
                config.suspect_from_e,
                "The allotment is spent. ",
            )
        } else if self.burning().is_some() && self.burned_before != Some(true) {
            (
                AbortCause::ServiceBurning,
                config.suspect_from_e,
                "The service burns its error budget. ",
            )
        } else {
            return None;
        };
        let worst = bakes.max_by(|one, other| {
            let ln_e = |(objective_analysis, bake): &(
                &crate::objective_analysis::ObjectiveAnalysis,
                &serin_analysis::bake::BakeEvidence,
            )| { bake.ln_e(objective_analysis.objective.bets()) };
            ln_e(one).total_cmp(&ln_e(other))
        });
        let (_, bake) = worst?;
        let (name, record, comparison) = if self.is_blue_green {
            (
                "new revision",
                "the active revision before the switch",
                "This compares with the past and not with another side, so it is a heuristic: what \
                 affects the whole service counts against the release.",
            )
        } else {
            (
                "canary",
                "stable during the release",
                "There is no stable side left to compare with.",
            )
        };
        let message = format!(
            "Rolled back from {}: with all of the traffic, the {name} failed {} of {} requests. \
             About {} failures are tolerated, based on the error rate of {record}. {why}A release \
             within this tolerance shows evidence this strong (E = {}) at most 1 time in {}. \
             {comparison}",
            percent(self.weight.as_percent() / 100.0),
            thousands(bake.counts.canary_errors),
            thousands(bake.counts.canary_requests),
            thousands(bake.tolerated_errors()),
            explain::e_value(ln_e),
            thousands(threshold.round()),
        );
        Some(AnalysisReport::breached(cause, message))
    }
}
