//! The configuration of the analysis of one objective.

use serde::{Deserialize, Serialize};

use crate::claim::RoutedUnit;
use crate::config::{ConfigError, EvidenceConfig, within};
use crate::counters::CounterConfig;

/// Configuration of the analysis of one objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// Name of the objective.
    pub name: String,
    /// Weight of the objective in the mean of e-values, any positive number.
    pub weight: f64,
    /// Configuration of the evidence.
    pub evidence: EvidenceConfig,
    /// Configuration of the rounds.
    pub counters: CounterConfig,
    /// An arm whose last sample is older than this is stale. A canary without requests for this
    /// long has no traffic.
    pub stale_after_ms: i64,
    /// Delay after its timestamp at which a sample is assumed to be visible, if there are several
    /// sources.
    pub settle_ms: i64,
    /// Whether the error selector is known to be correct, from history or by configuration.
    pub selector_verified: bool,
    /// Whether the sources are pods. Otherwise, as at a gateway, their counts do not show how pods
    /// differ, and the temper is learned from the course of time.
    #[serde(default = "default_sources_are_pods")]
    pub sources_are_pods: bool,
    /// What the counters count. Only the stated condition of the bound depends on it.
    #[serde(default)]
    pub counted_unit: RoutedUnit,
}

const fn default_sources_are_pods() -> bool {
    true
}

/// Settings that depend on the scrape interval. See the fields of [`ObjectiveConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Configuration of the rounds.
    pub counters: CounterConfig,
    /// Delay after its timestamp at which a sample is assumed to be visible.
    pub settle_ms: i64,
    /// An arm whose last sample is older than this is stale.
    pub stale_after_ms: i64,
}

/// Prometheus returns a sample within one scrape interval plus this margin.
const SETTLE_MARGIN_MS: i64 = 5000;

impl ObjectiveConfig {
    /// The defaults for an objective such as 0.999 (a fraction) and a scrape interval.
    pub fn new(name: impl Into<String>, target: f64, scrape_interval_ms: i64) -> Self {
        let settle_ms = scrape_interval_ms.saturating_add(SETTLE_MARGIN_MS);
        Self {
            name: name.into(),
            weight: 1.0,
            evidence: EvidenceConfig::for_budget_fraction(1.0 - target),
            counters: CounterConfig {
                scrape_interval_ms,
                ..CounterConfig::default()
            },
            // Three missed scrapes with the maximum delay.
            stale_after_ms: scrape_interval_ms
                .saturating_mul(3)
                .saturating_add(settle_ms),
            settle_ms,
            selector_verified: false,
            sources_are_pods: default_sources_are_pods(),
            counted_unit: RoutedUnit::Request,
        }
    }
}

impl Default for ObjectiveConfig {
    /// 99.9 %, scraped every 15 s.
    fn default() -> Self {
        Self::new("availability", 0.999, 15_000)
    }
}

/// Checks the settings that the parts of the analysis do not check themselves.
pub(super) fn validate(config: &ObjectiveConfig) -> Result<(), ConfigError> {
    within("weight", config.weight, f64::MIN_POSITIVE, 1e9)?;
    let positive = |field, value: i64| {
        if value > 0 {
            Ok(())
        } else {
            Err(ConfigError::new(
                field,
                format!("must be above 0, not {value}"),
            ))
        }
    };
    positive(
        "counters.scrapeIntervalMs",
        config.counters.scrape_interval_ms,
    )?;
    positive("staleAfterMs", config.stale_after_ms)?;
    if config.counters.forget_ms <= config.counters.scrape_interval_ms.saturating_mul(2) {
        return Err(ConfigError::new(
            "counters.forgetMs",
            "must be more than two scrape intervals",
        ));
    }
    Ok(())
}
