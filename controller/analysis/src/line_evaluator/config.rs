//! The configuration of an evaluation of lines.

use serde::Deserialize;

use crate::config::{EvidenceConfig, Grid, Restarts, Temper};

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
    /// The configuration of the evidence.
    pub(super) fn evidence(&self, alpha: f64) -> EvidenceConfig {
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
