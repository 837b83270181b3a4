//! Converts the verdict of the statistics to the report for the planner, the status and operators.

mod digest;
mod status;

use jiff::Timestamp;
use serin_analysis::decision::{
    AnalysisConfig, FreezeReason, HoldReason, NextAction, ObjectiveEvidence, ObjectiveInput,
    RollBackCause, RolloutContext, Verdict, evaluate,
};
use serin_analysis::explain;
use serin_analysis::service_guard::BurnAlert;
use serin_core::hold::{Hold, HoldCode};
use serin_core::observed::{AnalysisReport, ReportKind, SatisfiedRequirements};
use serin_core::plan::Requirements;
use serin_core::state::AbortCause;
use serin_core::units::Weight;

use crate::budget::{self, ReleaseOutlook};
use crate::checkpoint::{Checkpoint, RollbackDecision};
use crate::checks::apply_checks;
use crate::counter_selectors::AnalysisError;
use crate::latency_guard::ObjectiveLatencyGuard;
use crate::objective_analysis::ObjectiveAnalysis;
use crate::preview;
use crate::release_analysis::ReleaseAnalysis;
use crate::request::{AnalysisRequest, AnalysisSnapshot, ReleasePhase};
use status::{evidence_status, summary};

pub use digest::SnapshotDigest;

/// The report if no analysis is possible.
pub fn hold_report(analysis_error: AnalysisError) -> AnalysisReport {
    AnalysisReport::held(Hold::new(analysis_error.code, analysis_error.message))
}

/// The hold of a release whose metrics have not been read yet.
fn unread_hold() -> Hold {
    let message = "The metrics have not been read since the canary has traffic.";
    Hold::new(HoldCode::EvidenceInsufficient, message)
}

/// The report of an analysis that has not read any metrics yet. Missing data never counts as
/// success: a canary with traffic is held, by what an earlier process reported as missing if there
/// is a checkpoint that says so.
pub fn starting_report(request: &AnalysisRequest, now: Timestamp) -> AnalysisReport {
    let has_traffic = !request.weight.is_zero() && request.phase != ReleasePhase::Idle;
    if !has_traffic || request.analysis.objectives.is_empty() {
        return AnalysisReport::undecided("The analysis is starting.", now);
    }
    let checkpoint = Checkpoint::from_status(request.resume_from.as_ref(), request);
    let missing_data = checkpoint.and_then(|checkpoint| checkpoint.missing_data);
    AnalysisReport::held(missing_data.unwrap_or_else(unread_hold))
}

fn timestamp(at_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(at_ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl ReleaseAnalysis {
    /// Evaluates the evidence and returns the current results.
    pub fn snapshot(&mut self, now_ms: i64) -> AnalysisSnapshot {
        let config = self.decision_config();
        self.update_initial_burn(now_ms);
        let mut evaluation = self.evaluate(&config, now_ms);
        if self.exclude_outlier(&evaluation, &config, now_ms) {
            evaluation = self.evaluate(&config, now_ms);
        }
        self.update_freshness(&evaluation, now_ms);
        let report = self.report(&evaluation, now_ms);
        let report = self.apply_outlier(report, &evaluation, now_ms);
        let mut report = self.hold_until_read(report, now_ms);
        self.missing_data = report.missing_data().cloned();
        // With an evidence-driven pace, sufficient evidence is the last step before promotion.
        let suffices = report.kind() == ReportKind::Sufficient && !self.by_steps;
        if suffices
            && self.phase.0 == ReleasePhase::Release
            && self.checks.has_before_promotion_checks()
        {
            self.enter_phase(ReleasePhase::BeforePromotion, now_ms);
        }
        let position = self.position(now_ms);
        report = apply_checks(report, &self.checks, &position);
        if let Some(breach) = &report.breach {
            self.rollback_decision
                .get_or_insert_with(|| RollbackDecision {
                    cause: breach.cause,
                    message: breach.message.clone(),
                });
        }
        // A decision to roll back is final, because the error bound is on ever passing the
        // threshold.
        if let Some(RollbackDecision { cause, message }) = self.rollback_decision.clone() {
            report = AnalysisReport::breached(cause, message);
        }
        let evidence = evaluation.objectives.iter().zip(&self.objectives).map(
            |(objective, objective_analysis)| {
                let mut status = evidence_status(objective, &config, self.requests_per_second());
                let notes: Vec<String> = [
                    objective_analysis.read_note(),
                    self.stable_pod_note(objective_analysis, objective),
                ]
                .into_iter()
                .flatten()
                .collect();
                status.note = (!notes.is_empty()).then(|| notes.join(" ").into());
                status
            },
        );
        let evidence = evidence.collect();
        let summary = (!evaluation.objectives.is_empty()).then(|| summary(&evaluation, &config));
        let budgets = self.objectives.iter().filter_map(|objective_analysis| {
            budget::budget_status(
                &objective_analysis.spec,
                &objective_analysis.service,
                &self.settings,
                &ReleaseOutlook {
                    proven_at: self.proven_at,
                    compared_stable: self.compared_stable,
                    placebo: objective_analysis.placebo(),
                },
                timestamp(now_ms),
            )
        });
        AnalysisSnapshot {
            report,
            evidence,
            budgets: budgets.collect(),
            checks: self.checks.statuses(&position),
            has_samples_at_weight: self.has_samples_at_weight(),
            checkpoint: self.checkpoint().into_status(&self.revision),
            summary,
        }
    }

    /// With explicit steps, the current weight counts as the last one, because the steps decide
    /// when to promote.
    fn decision_config(&self) -> AnalysisConfig {
        let mut config = self.settings.analysis;
        let promoting = matches!(self.phase.0, ReleasePhase::Promoting | ReleasePhase::Bake);
        if promoting {
            // From now on the only way down is a complete rollback.
            config.step_down_after_seconds = f64::INFINITY;
        }
        if (self.by_steps || promoting) && !self.weight.is_zero() {
            config.steps.max_weight = self.weight.as_percent() / 100.0;
            // The steps define the weights, so that only an exhausted budget matters. Without
            // traffic there is no more evidence, so the weight is not lowered earlier than a
            // suspicious release would be rolled back.
            config.steps.kappa = f64::INFINITY;
            config.steps.reserve = 0.0;
        }
        config
    }

    fn evaluate(&self, config: &AnalysisConfig, now_ms: i64) -> serin_analysis::Evaluation {
        let grace_ms = self.grace_ms();
        let views: Vec<ObjectiveInput<'_>> = self
            .objectives
            .iter()
            .map(|objective_analysis| ObjectiveInput {
                objective: &objective_analysis.objective,
                state: &objective_analysis.state,
                allotment: objective_analysis.allotment(&self.settings),
                availability: objective_analysis.availability(grace_ms, now_ms),
                guard: objective_analysis
                    .guard
                    .as_ref()
                    .map(ObjectiveLatencyGuard::view),
            })
            .collect();
        let guard = self.burning();
        #[expect(
            clippy::cast_precision_loss,
            reason = "the length of a release is far below 2^53 milliseconds"
        )]
        let elapsed_seconds = now_ms.saturating_sub(self.began_ms) as f64 / 1_000.0;
        let context = RolloutContext {
            now_ms,
            weight: self.weight.as_percent() / 100.0,
            weight_changed_at_ms: self.weight_changed_at_ms,
            elapsed_seconds,
            requests_per_second: self.requests_per_second(),
            guard,
            freeze_lifted: self.freeze_lifted,
        };
        if self.burned_before != Some(true) {
            return evaluate(config, &views, &context);
        }
        // If the service was burning its budget before the release, this freezes the release, but
        // does not lower the threshold for a rollback.
        let own = evaluate(
            config,
            &views,
            &RolloutContext {
                guard: None,
                ..context
            },
        );
        if matches!(own.verdict, Verdict::RollBack(_)) {
            return own;
        }
        evaluate(
            &AnalysisConfig {
                suspect_from_e: 1.0 / config.alpha,
                ..*config
            },
            &views,
            &context,
        )
    }

    /// From now on a burning budget counts against this release: either the service has recovered
    /// in the meantime, or the short window contains no data from before the release.
    fn update_initial_burn(&mut self, now_ms: i64) {
        let elapsed_ms = now_ms.saturating_sub(self.began_ms);
        let is_earlier = |burning: &BurnAlert| {
            elapsed_ms < i64::from(burning.pair.short_seconds).saturating_mul(1_000)
        };
        if self.burned_before == Some(true)
            && self
                .burning()
                .as_ref()
                .is_none_or(|burning| !is_earlier(burning))
        {
            self.burned_before = Some(false);
        }
    }

    /// Whether every objective has canary samples at the current weight. With 60 s between scrapes,
    /// a step of 10 s would otherwise end on samples of the previous weight.
    fn has_samples_at_weight(&self) -> bool {
        let since_ms = self.weight_changed_at_ms;
        self.objectives.iter().all(|objective_analysis| {
            objective_analysis
                .state
                .canary_requests_at_ms
                .is_some_and(|at_ms| at_ms >= since_ms)
        })
    }

    /// The first pair of windows, of any objective, in which the budget burns too fast.
    pub(crate) fn burning(&self) -> Option<BurnAlert> {
        let burn_alert = |objective_analysis: &ObjectiveAnalysis| {
            objective_analysis.service.burning(
                objective_analysis
                    .objective
                    .config()
                    .evidence
                    .budget_fraction,
            )
        };
        self.objectives.iter().find_map(burn_alert)
    }

    fn requests_per_second(&self) -> f64 {
        self.objectives
            .iter()
            .map(|objective_analysis| objective_analysis.service.requests_per_second)
            .fold(0.0, f64::max)
    }

    fn update_freshness(&mut self, evaluation: &serin_analysis::Evaluation, now_ms: i64) {
        let is_fresh = evaluation
            .objectives
            .iter()
            .all(|objective| objective.fresh && objective.hold.is_none());
        self.fresh_since_ms = is_fresh.then(|| self.fresh_since_ms.unwrap_or(now_ms));
    }

    fn report(&self, evaluation: &serin_analysis::Evaluation, now_ms: i64) -> AnalysisReport {
        let message = evaluation.reasons.join(" ");
        let fresh_since_ms = self.fresh_since_ms.filter(|_| self.has_samples_at_weight());
        let fresh_since = timestamp(fresh_since_ms.unwrap_or(now_ms));
        let fresh = |message: String| AnalysisReport {
            satisfied: self.satisfied_requirements(evaluation),
            ..AnalysisReport::undecided(message, fresh_since)
        };
        let sufficient = |message: String| AnalysisReport {
            ready_to_promote: true,
            ..fresh(message)
        };
        if self.phase.0 == ReleasePhase::Bake
            && let Some(breach) = self.breach_during_bake(evaluation)
        {
            return breach;
        }
        match evaluation.verdict {
            Verdict::RollBack(cause) => {
                let sentences: Vec<String> = std::iter::once(message)
                    .chain(self.pods_sentence(evaluation))
                    .collect();
                AnalysisReport::breached(abort_cause(cause), sentences.join(" "))
            }
            _ if self.weight.is_zero() && self.is_spent(evaluation) => {
                let spent: Vec<_> = evaluation
                    .objectives
                    .iter()
                    .filter_map(explain::budget_sentence)
                    .collect();
                let message = format!(
                    "{} The canary gets no more traffic until someone decides.",
                    spent.join(" ")
                );
                self.hold(HoldReason::BudgetLeft, message, Some(Weight::ZERO), now_ms)
            }
            _ if self.weight.is_zero() && self.phase.0 == ReleasePhase::Preview => {
                if let Some(hold) = self.hold_before_switch() {
                    return AnalysisReport::held(hold);
                }
                fresh("The preview has no traffic, so only checks decide.".to_owned())
            }
            _ if self.weight.is_zero() => {
                let message = "No traffic is routed to the canary, so there is nothing to analyze."
                    .to_owned();
                fresh(message)
            }
            // Only checks decide, and they are applied separately.
            _ if self.objectives.is_empty() => {
                let message = "The analysis has no objectives, only checks.".to_owned();
                sufficient(message)
            }
            Verdict::Hold(reason) => self.hold(reason, message, None, now_ms),
            Verdict::StepDown { next, reason } => {
                self.hold(reason, message, step_down_weight(next, reason), now_ms)
            }
            Verdict::Freeze(reason) => {
                AnalysisReport::held(Hold::new(freeze_code(reason), message))
            }
            Verdict::Proceed(NextAction::Promote)
            | Verdict::ProceedDespiteFreeze(NextAction::Promote) => sufficient(message),
            Verdict::Proceed(NextAction::Step { next })
            | Verdict::ProceedDespiteFreeze(NextAction::Step { next }) => AnalysisReport {
                next_weight: Some(weight_of_fraction(next)),
                ..fresh(message)
            },
            Verdict::Proceed(NextAction::Continue)
            | Verdict::ProceedDespiteFreeze(NextAction::Continue)
            | Verdict::Inconclusive => fresh(message),
        }
    }
}

impl ReleaseAnalysis {
    fn hold(
        &self,
        reason: HoldReason,
        message: String,
        lower_to: Option<Weight>,
        now_ms: i64,
    ) -> AnalysisReport {
        // The error of the provider is more specific than the hold reason.
        let error = match reason {
            HoldReason::Unreachable | HoldReason::PartialData => self.error(now_ms),
            _ => None,
        };
        let hold = match error {
            Some(error) => Hold::new(error.code, error.message),
            None => Hold::new(hold_code(reason), message),
        };
        AnalysisReport::held(hold.lowering_to(lower_to))
    }

    /// Why the traffic must not be switched to a preview yet.
    fn hold_before_switch(&self) -> Option<Hold> {
        let objectives = self.objectives.iter();
        let services = objectives.map(|objective| (&objective.spec, &objective.service));
        let hold = preview::hold_before_switch(&self.settings, services);
        hold.filter(|_| !self.freeze_lifted)
    }

    /// Holds a canary with traffic until every objective has been read. What an earlier process or
    /// task reported as missing stays reported until then.
    fn hold_until_read(&self, report: AnalysisReport, now_ms: i64) -> AnalysisReport {
        let is_read = self.objectives.iter().all(|objective| objective.is_read);
        let is_known = is_read || report.breach.is_some() || self.error(now_ms).is_some();
        if is_known || self.weight.is_zero() {
            return report;
        }
        match &self.missing_data {
            Some(hold) => AnalysisReport::held(hold.clone()),
            None if report.holds.is_empty() => AnalysisReport::held(unread_hold()),
            None => report,
        }
    }

    /// The objectives whose evidence is sufficient at the current weight.
    fn satisfied_requirements(
        &self,
        evaluation: &serin_analysis::Evaluation,
    ) -> SatisfiedRequirements {
        let suffices = |objective: &&ObjectiveEvidence| {
            objective.fresh
                && objective.hold.is_none()
                && objective.ln_m_good >= -self.settings.analysis.beta.ln()
        };
        let objectives = evaluation
            .objectives
            .iter()
            .filter(suffices)
            .map(|objective| objective.name.clone())
            .collect();
        SatisfiedRequirements {
            weight: self.weight,
            requirements: Requirements {
                objectives,
                ..Requirements::default()
            },
        }
    }

    /// Whether the allotment is exhausted, so that traffic that was taken from the canary must not
    /// return.
    fn is_spent(&self, evaluation: &serin_analysis::Evaluation) -> bool {
        let steps = self.settings.analysis.steps;
        // With explicit steps the traffic is removed when the allotment is exhausted, with an
        // evidence-driven pace slightly earlier.
        let left = |allotment: f64, spent: f64| {
            if self.by_steps {
                allotment - spent
            } else {
                steps.budget_left(allotment, spent)
            }
        };
        evaluation.objectives.iter().any(|objective| {
            objective
                .allotment
                .is_some_and(|allotment| allotment > 0.0 && left(allotment, objective.spent) <= 0.0)
        })
    }
}

/// Smaller weights, as a fraction of the traffic, are not used for a step down because of missing
/// data: they would only hide that there is no data.
const MIN_STEP_DOWN: f64 = 0.001;

/// The weight to which the canary is lowered.
fn step_down_weight(next: f64, reason: HoldReason) -> Option<Weight> {
    (reason == HoldReason::BudgetLeft || next >= MIN_STEP_DOWN).then(|| weight_of_fraction(next))
}

/// Converts a fraction to a weight. Rounded down, so that the weight never exceeds what the budget
/// allows.
fn weight_of_fraction(fraction: f64) -> Weight {
    let thousandths = (fraction.clamp(0.0, 1.0) * 100_000.0).floor();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 100,000, as just clamped"
    )]
    Weight::from_thousandths(thousandths as u32)
}

const fn abort_cause(cause: RollBackCause) -> AbortCause {
    match cause {
        RollBackCause::Evidence => AbortCause::Evidence,
        RollBackCause::Budget => AbortCause::ErrorBudget,
        RollBackCause::ServiceGuard => AbortCause::ServiceBurning,
    }
}

const fn hold_code(reason: HoldReason) -> HoldCode {
    match reason {
        HoldReason::Unreachable => HoldCode::Unreachable,
        HoldReason::PartialData => HoldCode::Partial,
        HoldReason::NotANumber => HoldCode::NotANumber,
        HoldReason::NoData => HoldCode::NoData,
        HoldReason::BudgetLeft => HoldCode::BudgetLeft,
        HoldReason::Stale => HoldCode::Stale,
        HoldReason::NoTraffic => HoldCode::NoTraffic,
        HoldReason::UnverifiedSelector => HoldCode::UnverifiedSelector,
        HoldReason::Slower => HoldCode::LatencyGuard,
        HoldReason::NothingToCompare => HoldCode::NoCommonBuckets,
    }
}

const fn freeze_code(reason: FreezeReason) -> HoldCode {
    match reason {
        FreezeReason::ServiceGuard => HoldCode::ServiceBurning,
        FreezeReason::BudgetSpent => HoldCode::BudgetSpent,
    }
}
