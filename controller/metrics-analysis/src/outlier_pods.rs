//! Canary pods that carry the excess errors of a release: they hold it, and roll it back if they
//! stay.
//!
//! A hold is not a loophole. The pod's errors are charged to the error budget as before, the hold
//! lasts at most [`MAX_HOLD_MS`], and it ends in a rollback earlier if the allotment is spent or if
//! the pod has spent [`MAX_HOLD_SHARE`] of it since the hold began.

use std::collections::BTreeSet;

use serin_analysis::decision::{AnalysisConfig, ObjectiveEvidence, RollBackCause, Verdict};
use serin_analysis::pods::{ExcludedPod, OutlierPod};
use serin_analysis::{Counts, Evaluation, PodId, explain};
use serin_core::hold::{Hold, HoldCode};
use serin_core::observed::AnalysisReport;
use serin_core::state::AbortCause;
use serin_core::text::Name;

use crate::objective_analysis::ObjectiveAnalysis;
use crate::prometheus::{Answer, Labels};
use crate::release_analysis::ReleaseAnalysis;
use crate::request::ReleasePhase;
use crate::sample_reader::source_key;

/// Maximum duration of a hold for one pod, in milliseconds.
const MAX_HOLD_MS: i64 = 600_000;
/// Maximum share of the allotment that a pod may spend during a hold.
const MAX_HOLD_SHARE: f64 = 0.25;

impl ObjectiveAnalysis {
    /// Records the names of the pods behind the series, because evidence only knows their
    /// identities.
    pub(crate) fn record_pod_names(&mut self, series: &Answer) {
        if !self.counters.distinguishes_pods() {
            return;
        }
        let named = |labels: &Labels| {
            let pod = self.counters.pod(labels)?;
            let source = PodId::from_name(&source_key(labels, Some(pod)));
            Some((source.or_position(0), String::from(Name::from(pod))))
        };
        self.pod_names = series
            .iter()
            .filter_map(|series| named(&series.labels))
            .collect();
    }

    /// The stable pod that carries stable's excess errors, which can hide a canary that is worse.
    fn stable_outlier(&self, k: f64) -> Option<(&str, OutlierPod)> {
        let outlier = self.state.pods.stable_outlier(k)?;
        Some((self.pod_names.get(&outlier.pod)?.as_str(), outlier))
    }
}

/// A pod that was excluded and still serves requests.
#[derive(Clone, Copy)]
struct ServingOutlier<'a> {
    pod: &'a ExcludedPod,
    evidence: &'a ObjectiveEvidence,
    /// Errors that it has spent since it was excluded.
    spent: f64,
}

/// Why a hold for one pod ends in a rollback.
fn end_of_hold(outlier: &ServingOutlier<'_>, now_ms: i64) -> Option<(AbortCause, String)> {
    let ServingOutlier {
        pod,
        evidence,
        spent,
    } = *outlier;
    if let Some(allotment) = evidence.allotment.filter(|allotment| *allotment > 0.0)
        && (evidence.spent >= allotment || spent >= MAX_HOLD_SHARE * allotment)
    {
        let why = format!(
            "It has spent {} of the {} errors that this release may spend.",
            explain::thousands(evidence.spent.round()),
            explain::thousands(allotment.round())
        );
        return Some((AbortCause::ErrorBudget, why));
    }
    let is_over = now_ms.saturating_sub(pod.since_ms) >= MAX_HOLD_MS;
    is_over.then(|| {
        let minutes = MAX_HOLD_MS / 60_000;
        let why = format!("It still serves requests {minutes} min later.");
        (AbortCause::Evidence, why)
    })
}

/// `has 96 % of the canary's excess errors: 31 of its 500 requests failed, and 1 of 1,000 of the
/// other canary pods`.
fn share_sentence(arm: &str, share: f64, counts: &Counts) -> String {
    let [requests, errors, other_requests, other_errors] = [
        counts.canary_requests,
        counts.canary_errors,
        counts.stable_requests,
        counts.stable_errors,
    ]
    .map(explain::thousands);
    format!(
        "has {} of {arm}'s excess errors: {errors} of its {requests} requests failed, and \
         {other_errors} of {other_requests} of the other {arm_pods} pods",
        explain::share(share),
        arm_pods = arm.trim_start_matches("the "),
    )
}

impl ReleaseAnalysis {
    /// Excludes the pod that carries the excess errors, if the evidence would roll back the
    /// release because of one of several pods. Returns whether it did, so that the evidence
    /// changed.
    pub(crate) fn exclude_outlier(
        &mut self,
        evaluation: &Evaluation,
        config: &AnalysisConfig,
        now_ms: i64,
    ) -> bool {
        let is_release = matches!(
            self.phase.0,
            ReleasePhase::Release | ReleasePhase::BeforePromotion
        );
        if evaluation.verdict != Verdict::RollBack(RollBackCause::Evidence)
            || self.rollback_decision.is_some()
            || !is_release
        {
            return false;
        }
        let Some(outliers) = self.outliers(evaluation, config) else {
            return false;
        };
        let mut is_excluded = false;
        for (index, outlier, name) in outliers {
            if let Some(objective) = self.objectives.get_mut(index) {
                is_excluded |=
                    objective
                        .objective
                        .exclude_pod(&mut objective.state, &outlier, &name, now_ms);
            }
        }
        is_excluded
    }

    /// The outlier of each objective that is suspicious, by index. `None` if one of them has none,
    /// or if they are different pods.
    fn outliers(
        &self,
        evaluation: &Evaluation,
        config: &AnalysisConfig,
    ) -> Option<Vec<(usize, OutlierPod, String)>> {
        let mut outliers = Vec::new();
        let objectives = evaluation.objectives.iter().zip(&self.objectives);
        for (index, (evidence, objective)) in objectives.enumerate() {
            if evidence.ln_e < config.suspect_from_e.ln() {
                continue;
            }
            let outlier = objective.state.pods.canary_outlier(evidence.k)?;
            let name = objective.pod_names.get(&outlier.pod)?;
            outliers.push((index, outlier, name.clone()));
        }
        let names: BTreeSet<&str> = outliers.iter().map(|(_, _, name)| &**name).collect();
        (names.len() == 1).then_some(outliers)
    }

    /// The report with the hold for a pod that was excluded, or with the rollback if it stays.
    pub(crate) fn apply_outlier(
        &self,
        report: AnalysisReport,
        evaluation: &Evaluation,
        now_ms: i64,
    ) -> AnalysisReport {
        let is_release = matches!(
            self.phase.0,
            ReleasePhase::Release | ReleasePhase::BeforePromotion
        );
        let outlier = self.serving_outlier(evaluation, now_ms);
        let Some(outlier) = outlier.filter(|_| is_release && !self.weight.is_zero()) else {
            return report;
        };
        let pod = outlier.pod;
        let share = share_sentence("the canary", pod.share, &pod.counts);
        let finding = format!("Pod {} {share}.", self.pod_and_node(&pod.name));
        if let Some(breach) = &report.breach {
            let message = format!("{} {finding}", breach.message);
            return AnalysisReport::breached(breach.cause, message);
        }
        if let Some((cause, why)) = end_of_hold(&outlier, now_ms) {
            return AnalysisReport::breached(cause, format!("{finding} {why}"));
        }
        // Freezes, missing data and a lower weight are holds as well, and more urgent.
        if !report.holds.is_empty() {
            return report;
        }
        let left_ms = MAX_HOLD_MS.saturating_sub(now_ms.saturating_sub(pod.since_ms));
        let message = format!(
            "{finding} Delete the pod, or the release is rolled back in {} min.",
            left_ms.div_euclid(60_000).saturating_add(1)
        );
        AnalysisReport::held(Hold::new(HoldCode::PodOutlier, message))
    }

    /// The latest pod that was excluded, still serves requests and has not recovered.
    fn serving_outlier<'a>(
        &'a self,
        evaluation: &'a Evaluation,
        now_ms: i64,
    ) -> Option<ServingOutlier<'a>> {
        let objectives = evaluation.objectives.iter().zip(&self.objectives);
        let pods = objectives.flat_map(|(evidence, objective)| {
            let settings = objective.objective.bets().config();
            let baseline_rate = objective.state.evidence.baseline_rate(settings);
            let stale_after_ms = objective.objective.config().stale_after_ms;
            objective.state.pods.excluded.iter().map(move |pod| {
                let is_stale = now_ms.saturating_sub(pod.last_seen_ms) > stale_after_ms;
                let spent = pod.excess_errors(baseline_rate);
                let outlier = ServingOutlier {
                    pod,
                    evidence,
                    spent,
                };
                (outlier, is_stale)
            })
        });
        let is_there = |(outlier, is_stale): &(ServingOutlier<'_>, bool)| {
            let ServingOutlier { pod, spent, .. } = outlier;
            let has_recovered = now_ms.saturating_sub(pod.since_ms) >= MAX_HOLD_MS && *spent < 1.0;
            let exists = self.pod_nodes.is_empty() || self.pod_nodes.contains_key(&pod.name);
            !is_stale && exists && !has_recovered
        };
        pods.filter(is_there)
            .map(|(outlier, _)| outlier)
            .max_by_key(|outlier| outlier.pod.since_ms)
    }

    /// `checkout-bbb-x on node worker-3`.
    fn pod_and_node(&self, pod: &str) -> String {
        match self.pod_nodes.get(pod) {
            Some(node) => format!("{pod} on node {node}"),
            None => pod.to_owned(),
        }
    }

    /// What a rollback says about the canary's pods: which one carries the excess errors, or that a
    /// bad pod cannot be distinguished from a bad release because there is only one.
    pub(crate) fn pods_sentence(&self, evaluation: &Evaluation) -> Option<String> {
        let objectives = evaluation.objectives.iter().zip(&self.objectives);
        let (evidence, objective) =
            objectives.max_by(|(one, _), (other, _)| one.ln_e.total_cmp(&other.ln_e))?;
        let pods = &objective.state.pods;
        if let Some(outlier) = pods.canary_outlier(evidence.k) {
            let name = self.pod_and_node(objective.pod_names.get(&outlier.pod)?);
            let share = share_sentence("the canary", outlier.share, &outlier.counts);
            return Some(format!("Pod {name} {share}."));
        }
        let pod = pods.only_canary_pod()?;
        let name = self.pod_and_node(objective.pod_names.get(&pod)?);
        Some(format!(
            "The canary has one pod, {name}, so a bad pod or node cannot be distinguished from a \
             bad release."
        ))
    }

    /// A note on the stable pod that carries stable's excess errors.
    pub(crate) fn stable_pod_note(
        &self,
        objective: &ObjectiveAnalysis,
        evidence: &ObjectiveEvidence,
    ) -> Option<String> {
        let (name, outlier) = objective.stable_outlier(evidence.k)?;
        let share = share_sentence("stable", outlier.share, &outlier.counts);
        let name = self.pod_and_node(name);
        Some(format!(
            "Stable pod {name} {share}. It can hide a canary that is worse."
        ))
    }
}

#[cfg(test)]
mod tests;
