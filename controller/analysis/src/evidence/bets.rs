//! The bets of one objective: a validated configuration with precomputed values.

use crate::bernoulli::{bernoulli, bernoulli_plug_in};
use crate::bet::{BetLine, poisson};
use crate::config::{BetForm, ConfigError, EvidenceConfig};
use crate::counts::Counts;
use crate::promotion::{PLUG_IN_WEIGHT, PlugIn};

/// A validated configuration with precomputed values.
#[derive(Debug, Clone, PartialEq)]
pub struct Bets {
    config: EvidenceConfig,
    rollback_ln_weights: Vec<f64>,
    promotion_ln_weights: Vec<f64>,
}

impl Bets {
    /// Validates the configuration.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn new(config: EvidenceConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let rollback_ln_weights = config
            .rollback
            .weights
            .iter()
            .map(|weight| weight.ln())
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "at most 32 bets")]
        let bets = config.promotion.len() as f64;
        let shared = if config.plug_in.is_some() {
            1.0 - PLUG_IN_WEIGHT
        } else {
            1.0
        };
        let mut promotion_ln_weights = vec![(shared / bets).ln(); config.promotion.len()];
        promotion_ln_weights.extend(config.plug_in.map(|_| PLUG_IN_WEIGHT.ln()));
        Ok(Self {
            config,
            rollback_ln_weights,
            promotion_ln_weights,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &EvidenceConfig {
        &self.config
    }

    /// The logarithms of the shares of the rollback bets.
    pub(crate) fn rollback_ln_weights(&self) -> &[f64] {
        &self.rollback_ln_weights
    }

    /// The logarithms of the shares of the promotion bets.
    pub(crate) fn promotion_ln_weights(&self) -> &[f64] {
        &self.promotion_ln_weights
    }

    /// The lines of one tick for all bets that the canary's error rate exceeds `rho0` times
    /// stable's.
    pub(super) fn worse_lines<'a>(
        &'a self,
        counts: &'a Counts,
        rho0: f64,
    ) -> impl Iterator<Item = BetLine> + 'a {
        let form = self.config.form;
        self.config.rollback.rho.iter().map(move |rho| match form {
            BetForm::Poisson => poisson(counts, *rho, rho0),
            BetForm::Bernoulli { stable_rate } => bernoulli(counts, stable_rate, *rho, rho0),
        })
    }

    /// The lines of one tick for all bets that the canary is not worse.
    pub(super) fn better_lines<'a>(
        &'a self,
        counts: &'a Counts,
    ) -> impl Iterator<Item = BetLine> + 'a {
        let form = self.config.form;
        let grid = self.config.promotion.iter().map(move |rho| match form {
            BetForm::Poisson => poisson(counts, *rho, 1.0),
            BetForm::Bernoulli { stable_rate } => bernoulli(counts, stable_rate, *rho, 1.0),
        });
        let delta1 = self.config.delta1;
        let plug_in = self.config.plug_in.map(move |p| match form {
            BetForm::Poisson => {
                let share = counts.canary_share().unwrap_or(0.0);
                PlugIn::new(p, share, delta1).map_or_else(BetLine::default, |bet| bet.line(counts))
            }
            BetForm::Bernoulli { .. } => bernoulli_plug_in(counts, p, delta1),
        });
        grid.chain(plug_in)
    }
}
