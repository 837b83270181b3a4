//! The rule for anybody's counters: one tick in, one line out. The engine of `kubectl serin
//! evaluate`, without its IO.

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, EvidenceConfig, Grid, Restarts, Temper, within};
use crate::counts::{Counts, PodCounts, Tick};
use crate::evidence::{Bets, Evidence, TickContext};
use crate::explain;
use crate::judge::{
    Context, Forward, HoldReason, JudgeConfig, Judgement, ObjectiveEvidence, RollBackCause, Verdict,
};

/// The configuration as a user writes it; all optional, unknown keys refused.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The chance of rolling back a good release, at most; 0.01.
    pub alpha: Option<f64>,
    /// The chance of promoting at the margin, at most; 0.05.
    pub beta: Option<f64>,
    /// The relative tolerance; 1.1.
    pub rho0: Option<f64>,
    /// The additive tolerance; 5 % of the budget fraction.
    pub delta0: Option<f64>,
    /// The margin of promotion; half of the budget fraction.
    pub delta1: Option<f64>,
    /// The temper: a number from 1, or `auto`.
    pub k: Option<K>,
    /// The most that one tick may add to a bet, in nats, or `off`; `ln(1/alpha)`.
    pub clip: Option<Clip>,
    /// The bets of the rollback; [`Grid::published`].
    pub rollback: Option<Grid>,
    /// The bets of the promotion.
    pub promotion: Option<Promotion>,
    /// Pairs of a tick from 1 and the share of the cash put at stake there.
    pub restarts: Option<Vec<(u64, f64)>>,
    /// How long the warm-up lasts; 60.
    pub warm_up_seconds: Option<f64>,
    /// The additive tolerance of the warm-up; 0.05.
    pub warm_up_delta: Option<f64>,
    /// The objective as a fraction; 0.999.
    pub slo: Option<f64>,
    /// What the rollout may spend, in errors.
    pub allotment: Option<f64>,
}

/// The temper as written.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a number from 1, or auto")]
pub enum K {
    /// This one.
    Fixed(f64),
    /// From the stable pods of the ticks before.
    Word(Auto),
}

/// The word `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Auto {
    /// Estimated from the data.
    Auto,
}

/// The clip as written.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a number of nats above 0, or off")]
pub enum Clip {
    /// This one, in nats.
    Nats(f64),
    /// None.
    Word(Off),
}

/// The word `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Off {
    /// No clip.
    Off,
}

/// The promotion bets as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promotion {
    /// Ratios below 1, of equal weight.
    pub rho: Option<Vec<f64>>,
    /// The error rate of the plug-in bet, or none.
    pub plugin: Option<f64>,
}

impl Config {
    fn evidence(&self, alpha: f64) -> EvidenceConfig {
        let defaults = EvidenceConfig::for_budget_fraction(1.0 - self.slo.unwrap_or(0.999));
        let promotion = self.promotion.clone().unwrap_or_default();
        EvidenceConfig {
            rho0: self.rho0.unwrap_or(defaults.rho0),
            delta0: self.delta0.unwrap_or(defaults.delta0),
            delta1: self.delta1.unwrap_or(defaults.delta1),
            temper: match self.k {
                Some(K::Fixed(k)) => Temper::Fixed(k),
                Some(K::Word(Auto::Auto)) | None => Temper::Auto,
            },
            clip: match self.clip {
                Some(Clip::Nats(clip)) => Some(clip),
                Some(Clip::Word(Off::Off)) => None,
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

/// One line in.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TickLine {
    /// Seconds since the rollout began, at which the tick ends.
    pub t: f64,
    /// What the canary answered since the tick before.
    pub canary: ArmLine,
    /// What stable answered.
    pub stable: StableLine,
    /// The canary's weight from 0 to 1, where it is known: a change of it ends a block of the
    /// budget.
    #[serde(default)]
    pub weight: Option<f64>,
}

/// One arm of one line.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmLine {
    /// Requests.
    pub requests: f64,
    /// Those of them that were bad.
    pub errors: f64,
}

/// Stable's side of one line.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StableLine {
    /// Requests.
    pub requests: f64,
    /// Those of them that were bad.
    pub errors: f64,
    /// The same by pod, for the overdispersion.
    #[serde(default)]
    pub pods: Vec<PodCounts>,
}

/// A line that cannot be counted: which field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct TickError {
    /// The field's path, such as `canary.errors`.
    pub field: &'static str,
    /// What is expected of it.
    pub message: String,
}

/// The longest time that a line may tell: some thirty thousand years.
const LATEST_SECONDS: f64 = 1e12;
/// Counts above this are no longer whole numbers in a double.
const HIGHEST_COUNT: f64 = 9_007_199_254_740_992.0;

impl TickLine {
    /// Refuses what is not a count.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn validate(&self) -> Result<(), TickError> {
        let refuse = |field, message: String| Err(TickError { field, message });
        if !(0.0..=LATEST_SECONDS).contains(&self.t) {
            return refuse(
                "t",
                format!(
                    "must be seconds since the beginning, from 0 to {LATEST_SECONDS:e}, not {}",
                    self.t
                ),
            );
        }
        if let Some(weight) = self.weight.filter(|weight| !(0.0..=1.0).contains(weight)) {
            return refuse("weight", format!("must be from 0 to 1, not {weight}"));
        }
        let is_count = |value: f64| (0.0..=HIGHEST_COUNT).contains(&value) && value.fract() == 0.0;
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

/// One line out; null where not yet defined.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// The tick's time.
    pub t: f64,
    /// `ln E`: rolls back at `ln(1/alpha)`.
    pub ln_e: f64,
    /// What the rollback mixture has not yet put at stake.
    pub cash: f64,
    /// `p_c - p_s`, estimated, as a fraction of requests.
    pub excess: Option<f64>,
    /// `L`, at level `alpha`; -1 while nothing is known.
    pub lower: f64,
    /// `U`, at level `beta`; 1 while nothing is known.
    pub upper: f64,
    /// `ln M_good(delta1)`: promotes at `ln(1/beta)`.
    pub ln_m_good: f64,
    /// The overdispersion of the stable pods.
    pub phi: Option<f64>,
    /// The part of the allotment that is used; 1 is all of it.
    pub budget_used: Option<f64>,
    /// What the rule says to do.
    pub verdict: LineVerdict,
    /// Why, in sentences.
    pub why: String,
}

/// What the rule says to do. A rollout acts on the first `rollBack` or `promote`; the lines after
/// it tell what would have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LineVerdict {
    /// The canary is worse, or the allotment spent.
    RollBack,
    /// An arm had no requests in this tick.
    Hold,
    /// The evidence allows promotion.
    Promote,
    /// Not yet decided.
    Continue,
}

/// The rule at work.
#[derive(Debug, Clone)]
pub struct Engine {
    bets: Bets,
    judge: JudgeConfig,
    allotment: Option<f64>,
    evidence: Evidence,
    at_ms: Option<i64>,
    /// The last tick in which both arms had requests.
    both_served_ms: i64,
    weight: Option<f64>,
    weight_changed_at_ms: i64,
}

impl Engine {
    /// The rule under this configuration.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let judge = JudgeConfig::default();
        let judge = JudgeConfig {
            alpha: config.alpha.unwrap_or(judge.alpha),
            beta: config.beta.unwrap_or(judge.beta),
            ..judge
        };
        within("alpha", judge.alpha, 1e-12, 0.5)?;
        within("beta", judge.beta, 1e-12, 0.5)?;
        within("slo", config.slo.unwrap_or(0.999), 0.0, 1.0 - 1e-9)?;
        if let Some(allotment) = config.allotment {
            within("allotment", allotment, f64::MIN_POSITIVE, 1e18)?;
        }
        let bets = Bets::new(config.evidence(judge.alpha))?;
        let evidence = Evidence::new(&bets, 0);
        Ok(Self {
            bets,
            judge,
            allotment: config.allotment,
            evidence,
            at_ms: None,
            both_served_ms: 0,
            weight: None,
            weight_changed_at_ms: 0,
        })
    }

    /// Takes one tick in. A tick that is not after the one before is a replay, and changes nothing.
    ///
    /// # Errors
    /// The first field that is not a count.
    pub fn tick(&mut self, line: &TickLine) -> Result<Line, TickError> {
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
                self.weight = line.weight;
                self.weight_changed_at_ms = started_ms;
            }
            let warm_up_ends_ms = milliseconds(self.bets.config().warm_up_seconds);
            let context = TickContext {
                warm_up_ends_ms,
                weight_changed_at_ms: self.weight_changed_at_ms,
            };
            let tick = Tick {
                started_ms,
                at_ms,
                counts,
                stable_pods: line.stable.pods.clone(),
            };
            self.evidence.add(&self.bets, &tick, &context);
            self.at_ms = Some(at_ms);
            if counts.canary_requests > 0.0 && counts.stable_requests > 0.0 {
                self.both_served_ms = at_ms;
            }
        }
        Ok(self.line(line.t, &counts))
    }

    fn line(&self, t: f64, counts: &Counts) -> Line {
        let weight = self.weight.or_else(|| counts.canary_share()).unwrap_or(0.0);
        let mut told = self.told(weight);
        let verdict = self.verdict(&told, counts);
        if let Verdict::Hold(reason) = verdict {
            told.hold = Some((reason, self.both_served_ms));
        }
        let at_ms = self.at_ms.unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "validated to be within 1e15 ms")]
        let elapsed_seconds = at_ms as f64 / 1000.0;
        let requests_per_second = if elapsed_seconds > 0.0 {
            self.evidence.totals.requests() / elapsed_seconds
        } else {
            0.0
        };
        let context = Context {
            now_ms: at_ms,
            weight,
            weight_changed_at_ms: self.weight_changed_at_ms,
            elapsed_seconds,
            requests_per_second,
            guard: None,
            freeze_lifted: false,
        };
        let line = Line {
            t,
            ln_e: told.ln_e,
            cash: self.evidence.cash(),
            excess: told.excess,
            lower: told.lower,
            upper: told.upper,
            ln_m_good: told.ln_m_good,
            phi: self.evidence.phi(),
            budget_used: self.allotment.map(|allotment| told.spent / allotment),
            verdict: match verdict {
                Verdict::RollBack(_) => LineVerdict::RollBack,
                Verdict::Hold(_) => LineVerdict::Hold,
                Verdict::Forward(Forward::Promote) => LineVerdict::Promote,
                _ => LineVerdict::Continue,
            },
            why: String::new(),
        };
        let judgement = Judgement {
            verdict,
            because: Vec::new(),
            ln_e: told.ln_e,
            proven: false,
            next_weight: weight,
            objectives: vec![told],
        };
        Line {
            why: explain::because(&judgement, &self.judge, &context).join(" "),
            ..line
        }
    }

    fn verdict(&self, told: &ObjectiveEvidence, counts: &Counts) -> Verdict {
        let JudgeConfig {
            alpha,
            beta,
            calm_below,
            breach_from,
            ..
        } = self.judge;
        if told.ln_e >= -alpha.ln() {
            Verdict::RollBack(RollBackCause::Evidence)
        } else if told.ln_e >= breach_from.ln()
            && self
                .allotment
                .is_some_and(|allotment| told.spent >= allotment)
        {
            Verdict::RollBack(RollBackCause::Budget)
        } else if counts.canary_requests <= 0.0 {
            Verdict::Hold(HoldReason::NoTraffic)
        } else if counts.stable_requests <= 0.0 {
            Verdict::Hold(HoldReason::NoData)
        } else if told.ln_m_good >= -beta.ln() && told.ln_e < calm_below.ln() {
            Verdict::Forward(Forward::Promote)
        } else {
            Verdict::Forward(Forward::Continue)
        }
    }

    fn told(&self, weight: f64) -> ObjectiveEvidence {
        let told = ObjectiveEvidence::of("Stable", &self.bets, &self.evidence, &self.judge, weight);
        ObjectiveEvidence {
            allotment: self.allotment,
            fresh: true,
            ..told
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
