//! Serin's rule at a constant weight, with the configuration of the controller.

use serin_analysis::claim::{Claim, claim};
use serin_analysis::config::Temper;
use serin_analysis::decision::{DecisionTable, NextAction, ObjectiveEvidence, RolloutContext};
use serin_analysis::evidence::{Bets, Evidence, TickContext};
use serin_analysis::{AnalysisConfig, ConfigError, EvidenceConfig, Tick, Verdict};

use super::split::SplitRelease;
use crate::scenario::seconds;

/// How the metrics count requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountingMode {
    /// A gateway counts for all pods of a variant.
    Gateway,
    /// Each pod counts its own requests. Stable's pods before the release are the history.
    Pods,
}

impl CountingMode {
    /// Both modes.
    pub const ALL: [Self; 2] = [Self::Gateway, Self::Pods];

    /// What the metrics show of a tick.
    fn seen(self, tick: &Tick) -> Tick {
        match self {
            Self::Pods => tick.clone(),
            Self::Gateway => Tick {
                started_ms: tick.started_ms,
                at_ms: tick.at_ms,
                counts: tick.counts,
                ..Tick::default()
            },
        }
    }
}

/// What is reported about the bound on false rollbacks, at the start of a release and with its
/// verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BoundClaim {
    /// The bound is claimed.
    Claimed,
    /// The bound is claimed if the router assigns each request by chance, to pods that are alike. With
    /// pods: if requests fail independently, as stable's errors have not refuted.
    IfRoutedByChance,
    /// It is declared that no bound, or a weaker one, holds.
    NotClaimed,
}

impl BoundClaim {
    /// What is reported with this evidence.
    pub(crate) fn from_evidence(evidence: &Evidence, bets: &Bets, alpha: f64) -> Self {
        match claim(evidence, bets.config(), alpha) {
            Claim::PerCountedUnit { .. } | Claim::Calibrated { .. } | Claim::Clustered { .. } => {
                Self::Claimed
            }
            // "If requests fail independently" is such a condition as well.
            Claim::PerRequest | Claim::Gateway { .. } | Claim::Unlearned { .. } => {
                Self::IfRoutedByChance
            }
            Claim::LimitedByPods { .. } | Claim::PerUnit { .. } | Claim::NotClaimed { .. } => {
                Self::NotClaimed
            }
        }
    }

    /// Whether the bound is claimed for a router that assigns each request by chance, or not.
    pub(crate) fn holds_for(self, is_routed_by_chance: bool) -> bool {
        match self {
            Self::Claimed => true,
            Self::IfRoutedByChance => is_routed_by_chance,
            Self::NotClaimed => false,
        }
    }
}

/// The result of one release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RuleResult {
    /// Milliseconds from the start of the release to the rollback by evidence, if the evidence
    /// ever suffices, also after a promotion.
    pub(crate) rolled_back_after_ms: Option<i64>,
    /// Whether the release was promotable earlier.
    pub(crate) promoted_before: bool,
    /// The claim at the first scrape.
    pub(crate) claim_before: BoundClaim,
    /// The weaker one of the claims at the first scrape and at the verdict.
    pub(crate) claim: BoundClaim,
}

/// Serin's rule with the configuration that the controller uses for an objective without optional
/// settings.
#[derive(Debug)]
pub(crate) struct FixedWeightRule {
    bets: Bets,
    analysis: AnalysisConfig,
    weight: f64,
    requests_per_second: f64,
}

impl FixedWeightRule {
    /// Creates the rule for an objective that lets `budget_fraction` of the requests fail.
    ///
    /// # Errors
    /// The budget fraction or the rate is out of its range.
    pub(crate) fn new(
        budget_fraction: f64,
        stable_rate: f64,
        requests_per_second: f64,
        weight: f64,
    ) -> Result<Self, ConfigError> {
        let evidence = shipped_evidence(budget_fraction, stable_rate);
        Self::with_evidence(evidence, requests_per_second, weight)
    }

    /// Creates the rule without any allowance for clusters: the theorem for independent errors.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub(crate) fn for_independent_errors(
        budget_fraction: f64,
        stable_rate: f64,
        requests_per_second: f64,
        weight: f64,
    ) -> Result<Self, ConfigError> {
        let evidence = EvidenceConfig {
            temper: Temper::Fixed(1.0),
            share_weight: 0.0,
            ..shipped_evidence(budget_fraction, stable_rate)
        };
        Self::with_evidence(evidence, requests_per_second, weight)
    }

    fn with_evidence(
        evidence: EvidenceConfig,
        requests_per_second: f64,
        weight: f64,
    ) -> Result<Self, ConfigError> {
        let mut analysis = AnalysisConfig::default();
        // As with steps: a weight that does not grow counts as the last one.
        analysis.steps.max_weight = weight;
        analysis.steps.kappa = f64::INFINITY;
        Ok(Self {
            bets: Bets::new(evidence)?,
            analysis,
            weight,
            requests_per_second,
        })
    }

    /// Evaluates all ticks of a release.
    pub(crate) fn evaluate(&self, release: &SplitRelease, mode: CountingMode) -> RuleResult {
        let began_ms = release.began_ms;
        let mut evidence = Evidence::new(&self.bets, began_ms);
        let history: Vec<_> = release.history.iter().map(|tick| mode.seen(tick)).collect();
        evidence.learn_dispersion(&history);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "configured seconds are at most 1e9"
        )]
        let warm_up_ms = (self.bets.config().warm_up_seconds * 1000.0) as i64;
        let context = TickContext {
            warm_up_ends_ms: began_ms + warm_up_ms,
            weight_changed_at_ms: began_ms,
            young_share: None,
        };
        let mut result = RuleResult {
            rolled_back_after_ms: None,
            promoted_before: false,
            claim_before: BoundClaim::Claimed,
            claim: BoundClaim::Claimed,
        };
        let bound_claim = |evidence: &Evidence| {
            BoundClaim::from_evidence(evidence, &self.bets, self.analysis.alpha)
        };
        for tick in &release.ticks {
            let tick = mode.seen(tick);
            evidence.add(&self.bets, &tick, &context);
            if evidence.ticks == 1 {
                result.claim_before = bound_claim(&evidence);
            }
            if evidence.ln_e(&self.bets) >= -self.analysis.alpha.ln() {
                result.rolled_back_after_ms = Some(tick.at_ms - began_ms);
                break;
            }
            result.promoted_before =
                result.promoted_before || self.is_promoted(&evidence, began_ms, &tick);
        }
        result.claim = result.claim_before.max(bound_claim(&evidence));
        result
    }

    fn is_promoted(&self, evidence: &Evidence, began_ms: i64, tick: &Tick) -> bool {
        let config = self.bets.config();
        // Cheap, and a necessary condition.
        if evidence.ln_m_good(&self.bets, config.delta1) < -self.analysis.beta.ln() {
            return false;
        }
        let context = RolloutContext {
            now_ms: tick.at_ms,
            weight: self.weight,
            weight_changed_at_ms: began_ms,
            elapsed_seconds: seconds(tick.at_ms - began_ms),
            requests_per_second: self.requests_per_second,
            guard: None,
            freeze_lifted: false,
        };
        let objective = ObjectiveEvidence {
            fresh: evidence.totals.canary_requests > 0.0,
            ..ObjectiveEvidence::from_evidence(
                "",
                &self.bets,
                evidence,
                &self.analysis,
                self.weight,
            )
        };
        let scrape_ms = tick.at_ms - tick.started_ms;
        let verdict =
            DecisionTable::new(&self.analysis, &context, &[objective], &[1.0], scrape_ms).verdict();
        verdict == Verdict::Proceed(NextAction::Promote)
    }
}

/// The configuration of the evidence in the controller for an objective without optional settings
/// and with a history. A test compares it with the settings of the controller.
pub fn shipped_evidence(budget_fraction: f64, stable_rate: f64) -> EvidenceConfig {
    EvidenceConfig::for_budget_fraction(budget_fraction).with_history(stable_rate)
}
