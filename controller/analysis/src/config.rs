//! Configuration of the evidence of one objective.

use serde::{Deserialize, Serialize};

use crate::{bernoulli, promotion};

/// An invalid configuration value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ConfigError {
    /// The field's name.
    pub field: &'static str,
    /// The constraint that the value violates.
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
    /// Ratio of the canary's error rate to stable's under each bet (odds ratio in the Bernoulli
    /// form). Each is above 1.
    pub rho: Vec<f64>,
    /// The share of each bet. The shares sum to 1.
    pub weights: Vec<f64>,
}

/// From 1.5 times to 1000 times stable's error rate.
const RATIOS: [f64; 8] = [1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1000.0];

impl Default for Grid {
    /// The grid that the controller uses. For effects from 2 to 100 times it needs at most 1.3
    /// times the requests of a test that knows the effect (simulated, docs/adr/0011 and 0022).
    fn default() -> Self {
        Self {
            rho: RATIOS.to_vec(),
            weights: vec![0.11, 0.16, 0.17, 0.14, 0.13, 0.12, 0.10, 0.07],
        }
    }
}

impl Grid {
    /// The grid of the published line-oriented interface, kept so that its results stay
    /// reproducible. It detects twice the errors somewhat sooner than [`Grid::default`], and ten
    /// times or more later.
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

/// Likelihood of the bets. Both are valid at every error rate but differ in power.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum BetForm {
    /// For error rates up to about 5 %.
    #[default]
    Poisson,
    /// For higher error rates.
    Bernoulli {
        /// The assumed error rate of stable, strictly between 0 and 1.
        stable_rate: f64,
    },
}

/// The temper `k`: log e-values are divided by it to allow for clustered errors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Temper {
    /// The overdispersion of the stable pods in earlier ticks, at least 1.
    #[default]
    Auto,
    /// A fixed value of at least 1.
    Fixed(f64),
}

/// A temper that was found with placebo releases, see [`crate::placebo::calibrate`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Calibration {
    /// The temper, at least 1.
    pub temper: f64,
    /// Number of placebo hours.
    pub hours: u32,
}

/// Schedule by which the reserve of the mixture is put at stake.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Restarts {
    /// 0.1 at the first tick, 0.5 after the warm-up, 0.4 spread over one restart a minute.
    EveryMinute {
        /// Maximum duration of the rollout, in seconds.
        max_duration_seconds: f64,
    },
    /// Shares at ticks counted from 1.
    AtTicks(Vec<(u64, f64)>),
}

/// Configuration of the evidence of one objective. `docs/explanation/analysis.md` explains each
/// parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EvidenceConfig {
    /// `b = 1 - objective`: the fraction of requests that may fail.
    pub budget_fraction: f64,
    /// Relative tolerance: a canary with at most this multiple of stable's error rate is good.
    pub rho0: f64,
    /// Additive tolerance on top of `rho0`, as a fraction of requests.
    pub delta0: f64,
    /// Promotion margin: a release with this excess or more must not be promoted.
    pub delta1: f64,
    /// The temper, which allows for clustered errors.
    pub temper: Temper,
    /// Margin of an estimated temper, at least 1: rollback bets are divided by `margin k` if `k` is
    /// above 1. A margin of 1 uses the estimate as it is.
    #[serde(default = "no_margin")]
    pub temper_margin: f64,
    /// The temper of a calibration with placebo releases. If set, it takes the place of the temper of
    /// the rollback bets: the logarithm of the evidence is divided by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Weight of the share bets in the evidence, from 0 to 1. The rest is that of the tempered
    /// bets. See [`crate::share`].
    #[serde(default)]
    pub share_weight: f64,
    /// Maximum increment of a bet in one tick, in nats. `None` disables clipping.
    pub clip: Option<f64>,
    /// Likelihood of the bets.
    pub form: BetForm,
    /// The bets of the rollback.
    pub rollback: Grid,
    /// The ratios of the promotion bets, each below 1.
    pub promotion: Vec<f64>,
    /// Error rate of the plug-in promotion bet, from history. `None` omits this bet.
    pub plug_in: Option<f64>,
    /// Schedule by which the reserve of the mixture is put at stake.
    pub restarts: Restarts,
    /// Duration of the warm-up, in seconds, during which new pods get more tolerance.
    pub warm_up_seconds: f64,
    /// Additive tolerance during the warm-up.
    pub warm_up_delta: f64,
}

/// Margin of the temper unless it is configured.
const fn no_margin() -> f64 {
    1.0
}

/// Default margin of the temper: errors may cluster twice as much as before the release
/// (docs/adr/0029).
const TEMPER_MARGIN: f64 = 2.0;

/// Default weight of the share bets. It costs at most `ln 16/15` = .06 of the 4.6 nats of a rollback
/// where errors are independent (docs/adr/0022).
const SHARE_WEIGHT: f64 = 0.0625;

/// Default tolerances as fractions of the error budget.
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
            temper_margin: TEMPER_MARGIN,
            calibration: None,
            share_weight: SHARE_WEIGHT,
            clip: Some(100_f64.ln()),
            form: BetForm::Poisson,
            rollback: Grid::default(),
            promotion: promotion::RATIOS.to_vec(),
            plug_in: None,
            restarts: Restarts::EveryMinute {
                max_duration_seconds: 3600.0,
            },
            warm_up_seconds: 60.0,
            warm_up_delta: 0.05,
        }
    }

    /// The logarithm of evidence for a rollback, divided by the temper of the calibration. A root of an
    /// e-value is an e-value (Jensen's inequality).
    pub(crate) fn calibrated(&self, ln_e: f64) -> f64 {
        self.calibration
            .map_or(ln_e, |calibration| ln_e / calibration.temper)
    }

    /// Uses stable's error rate from before the rollout: enables the plug-in bet, and the Bernoulli
    /// form above 5 %.
    #[must_use]
    pub fn with_history(mut self, stable_rate: f64) -> Self {
        self.plug_in = Some(stable_rate);
        if stable_rate > bernoulli::BERNOULLI_MIN_RATE && stable_rate < 1.0 {
            self.form = BetForm::Bernoulli { stable_rate };
            self.rollback = Grid::odds_ratios();
        }
        self
    }

    /// Checks all fields.
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
        within("temperMargin", self.temper_margin, 1.0, 1e6)?;
        within("shareWeight", self.share_weight, 0.0, 1.0)?;
        if let Temper::Fixed(k) = self.temper {
            within("k", k, 1.0, 1e9)?;
        }
        if let Some(calibration) = self.calibration {
            within("calibration.temper", calibration.temper, 1.0, 1e9)?;
        }
        if let Some(clip) = self.clip {
            within("clip", clip, f64::MIN_POSITIVE, 1e9)?;
        }
        if let Some(p) = self.plug_in {
            within("promotion.plugin", p, 0.0, 1.0)?;
        }
        if let BetForm::Bernoulli { stable_rate } = self.form {
            within("form.stableRate", stable_rate, 1e-9, 1.0 - 1e-9)?;
        }
        self.validate_bets()?;
        self.validate_restarts()
    }

    fn validate_bets(&self) -> Result<(), ConfigError> {
        let Grid { rho, weights } = &self.rollback;
        if rho.is_empty()
            || rho.len() > MAX_BETS
            || rho.iter().any(|rho| !(*rho > 1.0 && *rho <= 1e9))
        {
            return Err(ConfigError::new(
                "rollback.rho",
                format!("from 1 to {MAX_BETS} ratios, each above 1"),
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
            || self.promotion.len() > MAX_BETS
            || self.promotion.iter().any(|rho| !(*rho > 0.0 && *rho < 1.0))
        {
            return Err(ConfigError::new(
                "promotion.rho",
                format!("from 1 to {MAX_BETS} ratios, each between 0 and 1"),
            ));
        }
        Ok(())
    }

    fn validate_restarts(&self) -> Result<(), ConfigError> {
        match &self.restarts {
            Restarts::EveryMinute {
                max_duration_seconds: longest_seconds,
            } => within("maxDurationSeconds", *longest_seconds, 1.0, 1e9),
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

/// Maximum number of bets. More would make the state too large for a status without improving the
/// mixture.
const MAX_BETS: usize = 32;

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
    fn a_high_error_rate_selects_the_bernoulli_form() {
        assert_eq!(
            EvidenceConfig::default().with_history(0.01).form,
            BetForm::Poisson
        );
        assert_eq!(
            EvidenceConfig::default().with_history(0.2).form,
            BetForm::Bernoulli { stable_rate: 0.2 }
        );
    }

    #[test]
    fn an_out_of_range_field_is_reported() {
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
        assert_eq!(field(|config| config.temper_margin = 0.5), "temperMargin");
        assert_eq!(field(|config| config.share_weight = 1.5), "shareWeight");
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
                max_duration_seconds: 0.0
            }),
            "maxDurationSeconds"
        );
    }
}
