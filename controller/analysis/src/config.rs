//! What the evidence of one objective is gathered with.

use serde::{Deserialize, Serialize};

use crate::{bernoulli, promotion};

/// A value that no evidence can be gathered with: which field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ConfigError {
    /// The field's name.
    pub field: &'static str,
    /// What is expected of it.
    pub message: String,
}

impl ConfigError {
    pub(crate) fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self {
            field,
            message: message.into(),
        }
    }
}

/// The bets of the rollback mixture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// How many times worse each bet says that the canary is (odds ratios in the Bernoulli form);
    /// each above 1.
    pub rho: Vec<f64>,
    /// The share of each bet; they sum to 1.
    pub weights: Vec<f64>,
}

/// From half as bad again to a thousand times as bad.
const RATIOS: [f64; 8] = [1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1000.0];

impl Default for Grid {
    /// What a release is judged by: no effect from 2 to 100 times costs more than 1.3 of what a
    /// test that knows it would need (simulated; docs/adr/0011).
    fn default() -> Self {
        Self {
            rho: RATIOS.to_vec(),
            weights: vec![0.12, 0.16, 0.18, 0.15, 0.13, 0.12, 0.09, 0.05],
        }
    }
}

impl Grid {
    /// The shares that the line-oriented interface was published with, which stay so that its
    /// results repeat: somewhat sooner than [`Grid::default`] at twice the errors, later from ten
    /// times on.
    pub fn published() -> Self {
        Self {
            rho: RATIOS.to_vec(),
            weights: vec![0.15, 0.20, 0.20, 0.15, 0.12, 0.08, 0.05, 0.05],
        }
    }

    /// The odds ratios of the Bernoulli form, of equal weight.
    pub fn odds_ratios() -> Self {
        let rho = bernoulli::ODDS_RATIOS.to_vec();
        let weights = vec![1.0 / 6.0; rho.len()];
        Self { rho, weights }
    }
}

/// Which likelihood the bets are made of. Both are valid at every error rate; they differ in how
/// sharp they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Form {
    /// For error rates up to about 5 %.
    #[default]
    Poisson,
    /// For higher ones.
    Bernoulli {
        /// The error rate that stable is thought to have, strictly between 0 and 1.
        stable_rate: f64,
    },
}

/// How clustered errors are allowed for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Temper {
    /// By the overdispersion of the stable pods in the ticks before, and at least 1.
    #[default]
    Auto,
    /// By this, at least 1.
    Fixed(f64),
}

/// When cash is put at stake.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Restarts {
    /// 0.1 at the first tick, 0.5 after the warm-up, 0.4 spread over one restart a minute.
    EveryMinute {
        /// The longest that the rollout may take.
        longest_seconds: f64,
    },
    /// Shares at ticks counted from 1.
    AtTicks(Vec<(u64, f64)>),
}

/// What the evidence of one objective is gathered with; see analysis.md for each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EvidenceConfig {
    /// `b = 1 - objective`: the fraction of requests that may fail.
    pub budget_fraction: f64,
    /// The relative tolerance: a canary that fails up to this many times as often as stable is
    /// good.
    pub rho0: f64,
    /// The additive tolerance on top of it, a fraction of requests.
    pub delta0: f64,
    /// The margin of promotion: an excess of this or more must not be promoted.
    pub delta1: f64,
    /// The temper against clustered errors.
    pub temper: Temper,
    /// The most that one tick may add to a bet, in nats; nothing for no clip.
    pub clip: Option<f64>,
    /// Which likelihood.
    pub form: Form,
    /// The bets of the rollback.
    pub rollback: Grid,
    /// The ratios of the promotion bets, each below 1.
    pub promotion: Vec<f64>,
    /// The error rate of the plug-in promotion bet, from history; nothing for no such bet.
    pub plug_in: Option<f64>,
    /// When cash is put at stake.
    pub restarts: Restarts,
    /// How long young pods are given more tolerance.
    pub warm_up_seconds: f64,
    /// The additive tolerance of that time.
    pub warm_up_delta: f64,
}

/// Fractions of the error budget, by default.
const DELTA0_OF_BUDGET: f64 = 0.05;
const DELTA1_OF_BUDGET: f64 = 0.5;

impl Default for EvidenceConfig {
    /// An objective of 99.9 %, `alpha` of 1 %, no history.
    fn default() -> Self {
        Self::for_budget_fraction(0.001)
    }
}

impl EvidenceConfig {
    /// The defaults for an objective that lets the fraction `b` of requests fail.
    pub fn for_budget_fraction(b: f64) -> Self {
        Self {
            budget_fraction: b,
            rho0: 1.1,
            delta0: DELTA0_OF_BUDGET * b,
            delta1: DELTA1_OF_BUDGET * b,
            temper: Temper::Auto,
            clip: Some(100_f64.ln()),
            form: Form::Poisson,
            rollback: Grid::default(),
            promotion: promotion::RATIOS.to_vec(),
            plug_in: None,
            restarts: Restarts::EveryMinute {
                longest_seconds: 3600.0,
            },
            warm_up_seconds: 60.0,
            warm_up_delta: 0.05,
        }
    }

    /// The same, knowing how often stable failed before this rollout: the plug-in bet, and above 5
    /// % the Bernoulli form.
    #[must_use]
    pub fn with_history(mut self, stable_rate: f64) -> Self {
        self.plug_in = Some(stable_rate);
        if stable_rate > bernoulli::FROM_RATE && stable_rate < 1.0 {
            self.form = Form::Bernoulli { stable_rate };
            self.rollback = Grid::odds_ratios();
        }
        self
    }

    /// Refuses what no evidence can be gathered with.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        within(
            "budgetFraction",
            self.budget_fraction,
            f64::MIN_POSITIVE,
            1.0,
        )?;
        within("rho0", self.rho0, 1.0, 1e6)?;
        within("delta0", self.delta0, 0.0, 1.0)?;
        within("delta1", self.delta1, f64::MIN_POSITIVE, 1.0)?;
        within("warmUpSeconds", self.warm_up_seconds, 0.0, 1e9)?;
        within("warmUpDelta", self.warm_up_delta, 0.0, 1.0)?;
        if let Temper::Fixed(k) = self.temper {
            within("k", k, 1.0, 1e9)?;
        }
        if let Some(clip) = self.clip {
            within("clip", clip, f64::MIN_POSITIVE, 1e9)?;
        }
        if let Some(p) = self.plug_in {
            within("promotion.plugin", p, 0.0, 1.0)?;
        }
        if let Form::Bernoulli { stable_rate } = self.form {
            within("form.stableRate", stable_rate, 1e-9, 1.0 - 1e-9)?;
        }
        self.validate_bets()?;
        self.validate_restarts()
    }

    fn validate_bets(&self) -> Result<(), ConfigError> {
        let Grid { rho, weights } = &self.rollback;
        if rho.is_empty()
            || rho.len() > MOST_BETS
            || rho.iter().any(|rho| !(*rho > 1.0 && *rho <= 1e9))
        {
            return Err(ConfigError::new(
                "rollback.rho",
                format!("from 1 to {MOST_BETS} ratios, each above 1"),
            ));
        }
        let sum: f64 = weights.iter().sum();
        if weights.len() != rho.len()
            || weights.iter().any(|weight| !(0.0..=1.0).contains(weight))
            || (sum - 1.0).abs() > 1e-9
        {
            return Err(ConfigError::new(
                "rollback.weights",
                "one share for each rho, from 0 to 1, which sum to 1",
            ));
        }
        if self.promotion.is_empty()
            || self.promotion.len() > MOST_BETS
            || self.promotion.iter().any(|rho| !(*rho > 0.0 && *rho < 1.0))
        {
            return Err(ConfigError::new(
                "promotion.rho",
                format!("from 1 to {MOST_BETS} ratios, each between 0 and 1"),
            ));
        }
        Ok(())
    }

    fn validate_restarts(&self) -> Result<(), ConfigError> {
        match &self.restarts {
            Restarts::EveryMinute { longest_seconds } => {
                within("longestSeconds", *longest_seconds, 1.0, 1e9)
            }
            Restarts::AtTicks(shares) => {
                if shares
                    .iter()
                    .any(|(tick, share)| *tick == 0 || !(0.0..=1.0).contains(share))
                {
                    return Err(ConfigError::new(
                        "restarts",
                        "pairs of a tick from 1 and a share from 0 to 1",
                    ));
                }
                if shares.iter().map(|(_, share)| share).sum::<f64>() > 1.0 + 1e-9 {
                    return Err(ConfigError::new(
                        "restarts",
                        "the shares sum to more than 1",
                    ));
                }
                Ok(())
            }
        }
    }
}

/// More bets than this make the state too large for a status, and the mixture no better.
const MOST_BETS: usize = 32;

pub(crate) fn within(
    field: &'static str,
    value: f64,
    low: f64,
    high: f64,
) -> Result<(), ConfigError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let low = if low.to_bits() == f64::MIN_POSITIVE.to_bits() {
        "above 0".to_owned()
    } else {
        format!("from {low}")
    };
    Err(ConfigError::new(
        field,
        format!("must be {low} to {high}, not {value}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(EvidenceConfig::default().validate(), Ok(()));
        assert_eq!(
            EvidenceConfig::for_budget_fraction(0.2)
                .with_history(0.15)
                .validate(),
            Ok(())
        );
        assert!((EvidenceConfig::default().delta0 - 5e-5).abs() < 1e-18);
        assert!((EvidenceConfig::default().delta1 - 5e-4).abs() < 1e-18);
    }

    #[test]
    fn a_high_error_rate_takes_the_bernoulli_form() {
        assert_eq!(
            EvidenceConfig::default().with_history(0.01).form,
            Form::Poisson
        );
        assert_eq!(
            EvidenceConfig::default().with_history(0.2).form,
            Form::Bernoulli { stable_rate: 0.2 }
        );
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let field = |change: fn(&mut EvidenceConfig)| {
            let mut config = EvidenceConfig::default();
            change(&mut config);
            config.validate().unwrap_err().field
        };
        assert_eq!(field(|config| config.rho0 = 0.9), "rho0");
        assert_eq!(field(|config| config.delta1 = 0.0), "delta1");
        assert_eq!(field(|config| config.delta0 = f64::NAN), "delta0");
        assert_eq!(field(|config| config.temper = Temper::Fixed(0.5)), "k");
        assert_eq!(field(|config| config.clip = Some(0.0)), "clip");
        assert_eq!(
            field(|config| config.plug_in = Some(1.5)),
            "promotion.plugin"
        );
        assert_eq!(field(|config| config.rollback.rho[0] = 1.0), "rollback.rho");
        assert_eq!(
            field(|config| config.rollback.weights[0] = 0.5),
            "rollback.weights"
        );
        assert_eq!(field(|config| config.promotion.clear()), "promotion.rho");
        assert_eq!(
            field(|config| config.restarts = Restarts::AtTicks(vec![(0, 0.5)])),
            "restarts"
        );
        assert_eq!(
            field(|config| config.restarts = Restarts::AtTicks(vec![(1, 0.7), (2, 0.7)])),
            "restarts"
        );
        assert_eq!(
            field(|config| config.restarts = Restarts::EveryMinute {
                longest_seconds: 0.0
            }),
            "longestSeconds"
        );
    }
}
