//! Line-oriented evaluation of arbitrary counters: one tick in, one result line out. Implements
//! `kubectl serin evaluate` without its IO.

mod config;
mod lines;

use crate::budget::used_fraction;
use crate::config::{ConfigError, EvidenceConfig, within};
use crate::counts::{Counts, Tick};
use crate::decision::{
    AnalysisConfig, Evaluation, HoldReason, NextAction, ObjectiveEvidence, RollBackCause,
    RolloutContext, Verdict,
};
use crate::evidence::{Bets, Evidence, TickContext};
use crate::explain;

pub use config::{
    AutoKeyword, ClipSetting, LineEvaluatorConfig, OffKeyword, PromotionSettings, TemperSetting,
};
pub use lines::{ArmLine, LineVerdict, OutputLine, StableLine, TickError, TickLine};

/// Evaluates the input lines of one rollout in order.
///
/// # Examples
///
/// ```
/// use serin_analysis::line_evaluator::{LineEvaluator, LineEvaluatorConfig, LineVerdict};
///
/// let mut evaluator = LineEvaluator::new(&LineEvaluatorConfig::default())?;
/// let mut evaluate = |t: u32, errors: u32| -> Result<_, Box<dyn std::error::Error>> {
///     let line = serde_json::json!({
///         "t": t,
///         "canary": {"requests": 500, "errors": errors},
///         "stable": {"requests": 9500, "errors": 9},
///     });
///     Ok(evaluator.evaluate(&serde_json::from_value(line)?)?.verdict)
/// };
/// assert_eq!(evaluate(90, 0)?, LineVerdict::Continue);
/// evaluate(105, 60)?;
/// assert_eq!(evaluate(120, 60)?, LineVerdict::RollBack);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct LineEvaluator {
    bets: Bets,
    config: AnalysisConfig,
    allotment: Option<f64>,
    evidence: Evidence,
    at_ms: Option<i64>,
    /// The last tick in which both arms had requests.
    both_served_ms: i64,
    weight: Option<f64>,
    weight_changed_at_ms: i64,
}

impl LineEvaluator {
    /// Creates an evaluator with this configuration.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn new(config: &LineEvaluatorConfig) -> Result<Self, ConfigError> {
        let analysis = AnalysisConfig::default();
        let analysis = AnalysisConfig {
            alpha: config.alpha.unwrap_or(analysis.alpha),
            beta: config.beta.unwrap_or(analysis.beta),
            ..analysis
        };
        within("alpha", analysis.alpha, 1e-12, 0.5)?;
        within("beta", analysis.beta, 1e-12, 0.5)?;
        within("slo", config.slo.unwrap_or(0.999), 0.0, 1.0 - 1e-9)?;
        if let Some(allotment) = config.allotment {
            within("allotment", allotment, f64::MIN_POSITIVE, 1e18)?;
        }
        let evaluator = Self::with_rule(analysis, config.evidence(analysis.alpha))?;
        Ok(Self {
            allotment: config.allotment,
            ..evaluator
        })
    }

    /// Creates an evaluator with the rule of a release. The release may spend any number of errors.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn with_rule(
        analysis: AnalysisConfig,
        evidence: EvidenceConfig,
    ) -> Result<Self, ConfigError> {
        let bets = Bets::new(evidence)?;
        let evidence = Evidence::new(&bets, 0);
        Ok(Self {
            bets,
            config: analysis,
            allotment: None,
            evidence,
            at_ms: None,
            both_served_ms: 0,
            weight: None,
            weight_changed_at_ms: 0,
        })
    }

    /// Evaluates one tick. A tick that is not later than the previous one is a replay and is
    /// ignored.
    ///
    /// # Errors
    /// The first invalid field.
    pub fn evaluate(&mut self, line: &TickLine) -> Result<OutputLine, TickError> {
        line.validate()?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "validated to be within 1e15 ms"
        )]
        let at_ms = (line.t * 1000.0).round() as i64;
        let started_ms = self.at_ms.unwrap_or(0);
        let counts = Counts::new(
            line.canary.requests,
            line.canary.errors,
            line.stable.requests,
            line.stable.errors,
        );
        if self.at_ms.is_none_or(|last_ms| at_ms > last_ms) {
            if line.weight.is_some() && line.weight != self.weight {
                // Some time within this tick, unless it is the first weight.
                let is_change = self.weight.is_some();
                self.weight = line.weight;
                self.weight_changed_at_ms = if is_change { at_ms } else { started_ms };
            }
            let warm_up_ends_ms = milliseconds(self.bets.config().warm_up_seconds);
            let context = TickContext {
                warm_up_ends_ms,
                weight_changed_at_ms: self.weight_changed_at_ms,
                young_share: None,
            };
            let tick = Tick {
                started_ms,
                at_ms,
                counts,
                stable_pods: line.stable.pods.clone(),
                ..Tick::default()
            };
            self.evidence.add(&self.bets, &tick, &context);
            self.at_ms = Some(at_ms);
            if counts.canary_requests > 0.0 && counts.stable_requests > 0.0 {
                self.both_served_ms = at_ms;
            }
        }
        Ok(self.line(line.t, &counts))
    }

    fn line(&self, t: f64, counts: &Counts) -> OutputLine {
        let weight = self.weight.or_else(|| counts.canary_share()).unwrap_or(0.0);
        let mut evidence = self.objective_evidence(weight);
        let verdict = self.verdict(&evidence, counts);
        if let Verdict::Hold(reason) = verdict {
            evidence.hold = Some((reason, self.both_served_ms));
        }
        let at_ms = self.at_ms.unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "validated to be within 1e15 ms")]
        let elapsed_seconds = at_ms as f64 / 1000.0;
        let requests_per_second = if elapsed_seconds > 0.0 {
            self.evidence.totals.requests() / elapsed_seconds
        } else {
            0.0
        };
        let context = RolloutContext {
            now_ms: at_ms,
            weight,
            weight_changed_at_ms: self.weight_changed_at_ms,
            elapsed_seconds,
            requests_per_second,
            guard: None,
            freeze_lifted: false,
        };
        let line = OutputLine {
            t,
            ln_e: evidence.ln_e,
            cash: self.evidence.cash(),
            excess: evidence.excess,
            lower: evidence.lower,
            upper: evidence.upper,
            ln_m_good: evidence.ln_m_good,
            phi: self.evidence.phi(),
            budget_used: self
                .allotment
                .and_then(|allotment| used_fraction(evidence.spent, allotment)),
            verdict: match verdict {
                Verdict::RollBack(_) => LineVerdict::RollBack,
                Verdict::Hold(_) => LineVerdict::Hold,
                Verdict::Proceed(NextAction::Promote) => LineVerdict::Promote,
                _ => LineVerdict::Continue,
            },
            why: String::new(),
        };
        let evaluation = Evaluation {
            verdict,
            reasons: Vec::new(),
            ln_e: evidence.ln_e,
            is_promotable: false,
            next_weight: weight,
            objectives: vec![evidence],
        };
        OutputLine {
            why: explain::reasons(&evaluation, &self.config, &context).join(" "),
            ..line
        }
    }

    fn verdict(&self, evidence: &ObjectiveEvidence, counts: &Counts) -> Verdict {
        let AnalysisConfig {
            alpha,
            beta,
            advance_below_e: calm_below,
            suspect_from_e: breach_from,
            ..
        } = self.config;
        if evidence.ln_e >= -alpha.ln() {
            Verdict::RollBack(RollBackCause::Evidence)
        } else if evidence.ln_e >= breach_from.ln()
            && self
                .allotment
                .is_some_and(|allotment| evidence.spent >= allotment)
        {
            Verdict::RollBack(RollBackCause::Budget)
        } else if counts.canary_requests <= 0.0 {
            Verdict::Hold(HoldReason::NoTraffic)
        } else if counts.stable_requests <= 0.0 {
            Verdict::Hold(HoldReason::NoData)
        } else if evidence.ln_m_good >= -beta.ln() && evidence.ln_e < calm_below.ln() {
            Verdict::Proceed(NextAction::Promote)
        } else {
            Verdict::Proceed(NextAction::Continue)
        }
    }

    fn objective_evidence(&self, weight: f64) -> ObjectiveEvidence {
        let evidence = ObjectiveEvidence::from_evidence(
            "Stable",
            &self.bets,
            &self.evidence,
            &self.config,
            weight,
        );
        ObjectiveEvidence {
            allotment: self.allotment,
            fresh: true,
            ..evidence
        }
    }
}

fn milliseconds(seconds: f64) -> i64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "configured seconds are at most 1e9"
    )]
    {
        (seconds * 1000.0).round() as i64
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
