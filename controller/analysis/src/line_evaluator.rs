//! Line-oriented evaluation of arbitrary counters: one tick in, one result line out. Implements
//! `kubectl serin evaluate` without its IO.

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, EvidenceConfig, Grid, Restarts, Temper, within};
use crate::counts::{Counts, PodCounts, Tick};
use crate::decision::{
    AnalysisConfig, Evaluation, HoldReason, NextAction, ObjectiveEvidence, RollBackCause,
    RolloutContext, Verdict,
};
use crate::evidence::{Bets, Evidence, TickContext};
use crate::explain;

/// The user's configuration. All keys are optional; unknown keys are rejected.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LineEvaluatorConfig {
    /// Maximum probability of rolling back a good release. Defaults to 0.01.
    pub alpha: Option<f64>,
    /// Maximum probability of promoting at the margin. Defaults to 0.05.
    pub beta: Option<f64>,
    /// Relative tolerance. Defaults to 1.1.
    pub rho0: Option<f64>,
    /// Additive tolerance. Defaults to 5 % of the budget fraction.
    pub delta0: Option<f64>,
    /// Promotion margin. Defaults to half of the budget fraction.
    pub delta1: Option<f64>,
    /// The temper: a number of at least 1, or `auto` (the default).
    pub k: Option<TemperSetting>,
    /// Margin of an estimated temper, at least 1. Defaults to 1, which gives the published results.
    /// The controller uses 2.
    pub temper_margin: Option<f64>,
    /// Weight of the share bets, from 0 to 1. Defaults to 0, which gives the published results. The
    /// controller uses 0.0625.
    pub share_weight: Option<f64>,
    /// Maximum increment of a bet in one tick, in nats, or `off`. Defaults to `ln(1/alpha)`.
    pub clip: Option<ClipSetting>,
    /// Rollback bets. Defaults to [`Grid::published`].
    pub rollback: Option<Grid>,
    /// Promotion bets.
    pub promotion: Option<PromotionSettings>,
    /// Pairs of a tick, counted from 1, and the share of the reserve put at stake at it.
    pub restarts: Option<Vec<(u64, f64)>>,
    /// Duration of the warm-up, in seconds. Defaults to 60.
    pub warm_up_seconds: Option<f64>,
    /// Additive tolerance during the warm-up. Defaults to 0.05.
    pub warm_up_delta: Option<f64>,
    /// The objective as a fraction. Defaults to 0.999.
    pub slo: Option<f64>,
    /// Errors that the rollout may spend.
    pub allotment: Option<f64>,
}

/// The value of the key `k`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a number from 1, or auto")]
pub enum TemperSetting {
    /// A fixed temper.
    Fixed(f64),
    /// Estimated from the stable pods.
    Word(AutoKeyword),
}

/// The keyword `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AutoKeyword {
    /// Estimated from the data.
    Auto,
}

/// The value of the key `clip`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a number of nats above 0, or off")]
pub enum ClipSetting {
    /// A fixed clip, in nats.
    Nats(f64),
    /// No clip.
    Word(OffKeyword),
}

/// The keyword `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OffKeyword {
    /// No clip.
    Off,
}

/// The value of the key `promotion`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromotionSettings {
    /// Ratios below 1, of equal weight.
    pub rho: Option<Vec<f64>>,
    /// Error rate of the plug-in bet. `None` omits this bet.
    pub plugin: Option<f64>,
}

impl LineEvaluatorConfig {
    fn evidence(&self, alpha: f64) -> EvidenceConfig {
        let defaults = EvidenceConfig::for_budget_fraction(1.0 - self.slo.unwrap_or(0.999));
        let promotion = self.promotion.clone().unwrap_or_default();
        EvidenceConfig {
            rho0: self.rho0.unwrap_or(defaults.rho0),
            delta0: self.delta0.unwrap_or(defaults.delta0),
            delta1: self.delta1.unwrap_or(defaults.delta1),
            temper: match self.k {
                Some(TemperSetting::Fixed(k)) => Temper::Fixed(k),
                Some(TemperSetting::Word(AutoKeyword::Auto)) | None => Temper::Auto,
            },
            temper_margin: self.temper_margin.unwrap_or(1.0),
            share_weight: self.share_weight.unwrap_or(0.0),
            clip: match self.clip {
                Some(ClipSetting::Nats(clip)) => Some(clip),
                Some(ClipSetting::Word(OffKeyword::Off)) => None,
                None => Some(-alpha.ln()),
            },
            rollback: self.rollback.clone().unwrap_or_else(Grid::published),
            promotion: promotion.rho.unwrap_or(defaults.promotion),
            plug_in: promotion.plugin,
            restarts: self
                .restarts
                .clone()
                .map_or(defaults.restarts, Restarts::AtTicks),
            warm_up_seconds: self.warm_up_seconds.unwrap_or(defaults.warm_up_seconds),
            warm_up_delta: self.warm_up_delta.unwrap_or(defaults.warm_up_delta),
            ..EvidenceConfig::for_budget_fraction(defaults.budget_fraction)
        }
    }
}

/// One input line: the counts since the previous tick.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TickLine {
    /// End of the tick, in seconds since the start of the rollout.
    pub t: f64,
    /// Requests to the canary since the previous tick.
    pub canary: ArmLine,
    /// Requests to stable since the previous tick.
    pub stable: StableLine,
    /// The canary's weight from 0 to 1, if known. The tick of a change is charged to the budget, in
    /// a block of its own, but not bet on.
    #[serde(default)]
    pub weight: Option<f64>,
}

/// The counts of one arm.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmLine {
    /// Requests.
    pub requests: f64,
    /// Bad requests among them.
    pub errors: f64,
}

/// The counts of stable.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StableLine {
    /// Requests.
    pub requests: f64,
    /// Bad requests among them.
    pub errors: f64,
    /// The counts of each pod, used for the overdispersion.
    #[serde(default)]
    pub pods: Vec<PodCounts>,
}

/// An invalid field of an input line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct TickError {
    /// The field's path, such as `canary.errors`.
    pub field: &'static str,
    /// What is expected of it.
    pub message: String,
}

/// Maximum time of a line, about 30,000 years.
const MAX_SECONDS: f64 = 1e12;
/// Largest count: above it a double cannot represent every whole number.
const MAX_COUNT: f64 = 9_007_199_254_740_992.0;

impl TickLine {
    /// Checks that all fields are valid counts.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn validate(&self) -> Result<(), TickError> {
        let refuse = |field, message: String| Err(TickError { field, message });
        if !(0.0..=MAX_SECONDS).contains(&self.t) {
            return refuse(
                "t",
                format!(
                    "must be seconds since the beginning, from 0 to {MAX_SECONDS:e}, not {}",
                    self.t
                ),
            );
        }
        if let Some(weight) = self.weight.filter(|weight| !(0.0..=1.0).contains(weight)) {
            return refuse("weight", format!("must be from 0 to 1, not {weight}"));
        }
        let is_count = |value: f64| (0.0..=MAX_COUNT).contains(&value) && value.fract() == 0.0;
        let fields = [
            ("canary.requests", self.canary.requests),
            ("canary.errors", self.canary.errors),
            ("stable.requests", self.stable.requests),
            ("stable.errors", self.stable.errors),
        ];
        for (field, value) in fields {
            if !is_count(value) {
                return refuse(
                    field,
                    format!("must be a whole number from 0 to 2^53, not {value}"),
                );
            }
        }
        if self.canary.errors > self.canary.requests {
            return refuse(
                "canary.errors",
                format!(
                    "{} of {} requests",
                    self.canary.errors, self.canary.requests
                ),
            );
        }
        if self.stable.errors > self.stable.requests {
            return refuse(
                "stable.errors",
                format!(
                    "{} of {} requests",
                    self.stable.errors, self.stable.requests
                ),
            );
        }
        for pod in &self.stable.pods {
            if !(is_count(pod.requests) && is_count(pod.errors) && pod.errors <= pod.requests) {
                return refuse(
                    "stable.pods",
                    "must be whole numbers, and no more errors than requests".to_owned(),
                );
            }
        }
        Ok(())
    }
}

/// One output line. Undefined values are null.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputLine {
    /// The tick's time.
    pub t: f64,
    /// `ln E`. Rolls back at `ln(1/alpha)`.
    pub ln_e: f64,
    /// Reserve of the rollback mixture that is not yet at stake.
    pub cash: f64,
    /// Estimate of `p_c - p_s`, as a fraction of requests.
    pub excess: Option<f64>,
    /// `L`, at level `alpha`. -1 without evidence.
    pub lower: f64,
    /// `U`, at level `beta`. 1 without evidence.
    pub upper: f64,
    /// `ln M_good(delta1)`. Promotes at `ln(1/beta)`.
    pub ln_m_good: f64,
    /// The overdispersion of the stable pods.
    pub phi: Option<f64>,
    /// Used fraction of the allotment. 1 means all of it.
    pub budget_used: Option<f64>,
    /// The decision.
    pub verdict: LineVerdict,
    /// Explanation in sentences.
    pub why: String,
}

/// The decision. A rollout acts on the first `rollBack` or `promote`. Later lines are hypothetical.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LineVerdict {
    /// The canary is worse, or the allotment is spent.
    RollBack,
    /// An arm had no requests in this tick.
    Hold,
    /// The evidence suffices for promotion.
    Promote,
    /// Not yet decided.
    Continue,
}

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
        let bets = Bets::new(config.evidence(analysis.alpha))?;
        let evidence = Evidence::new(&bets, 0);
        Ok(Self {
            bets,
            config: analysis,
            allotment: config.allotment,
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
            budget_used: self.allotment.map(|allotment| evidence.spent / allotment),
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
