//! The evidence on one objective: all processes that are updated with each tick.

mod baseline;
mod bets;
mod temper;
#[cfg(test)]
mod tests;
mod tick_context;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::arm_dispersion::ArmDispersion;
use crate::budget::SpentBudget;
use crate::confidence::LinearMixture;
use crate::config::EvidenceConfig;
use crate::counts::{Counts, PodCounts, Tick};
use crate::eprocess::{Funding, Mixture, elapsed_seconds};
use crate::multi_scale::{MultiScaleDispersion, SerialDispersion};
use crate::numeric::ln_add_exp;
use crate::placebo::PlaceboSummary;
use crate::share::ShareEvidence;

pub use self::baseline::BaselineCounts;
pub use self::bets::Bets;
pub use self::tick_context::TickContext;

/// The stable pods that are not part of the baseline. The temper is learned from them: what young
/// pods have in common does not show how errors cluster.
fn pods_beside(stable_pods: &[PodCounts], baseline: &[PodCounts]) -> Vec<PodCounts> {
    let is_other = |pod: &&PodCounts| baseline.iter().all(|other| other.pod != pod.pod);
    stable_pods.iter().filter(is_other).copied().collect()
}

/// The evidence on one objective: serializable, of bounded size (2 to 6 KB as JSON), exact across
/// restarts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Evidence {
    /// When the rollout began, in milliseconds since the epoch.
    pub began_ms: i64,
    /// Number of ticks so far.
    pub ticks: u64,
    /// All counts so far, including the warm-up.
    pub totals: Counts,
    /// Counts of the ticks that started after the last weight change.
    pub at_weight: Counts,
    at_weight_since_ms: i64,
    rollback: Mixture,
    #[serde(rename = "cure")]
    reversed: Mixture,
    funding: Funding,
    worse: LinearMixture,
    better: LinearMixture,
    dispersion: MultiScaleDispersion,
    /// The dispersion in time, learned if pods are not distinguished.
    #[serde(default, skip_serializing_if = "SerialDispersion::is_empty")]
    serial: SerialDispersion,
    /// How errors and requests vary between the arms, learned if pods are not distinguished.
    #[serde(default, skip_serializing_if = "ArmDispersion::is_empty")]
    arm_dispersion: ArmDispersion,
    /// The share bets. `None` in the evidence of earlier versions, and if they have no weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    share: Option<ShareEvidence>,
    /// The temper with which the release began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    initial_k: Option<f64>,
    /// Number of the canary's pods in the latest tick that distinguished them.
    #[serde(default)]
    canary_pods: u32,
    /// The part of stable that the canary is compared with, if it is not all of stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    baseline: Option<BaselineCounts>,
    /// Errors of stable's pods from which the temper was learned before the release.
    #[serde(default)]
    errors_before: f64,
    /// Placebo releases before the release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    placebo: Option<PlaceboSummary>,
    spent: SpentBudget,
}

impl Evidence {
    /// Creates an empty state.
    pub fn new(bets: &Bets, began_ms: i64) -> Self {
        let rollback = bets.rollback_ln_weights().len();
        Self {
            began_ms,
            ticks: 0,
            totals: Counts::default(),
            at_weight: Counts::default(),
            at_weight_since_ms: began_ms,
            rollback: Mixture::new(rollback),
            reversed: Mixture::new(rollback),
            funding: Funding::default(),
            worse: LinearMixture::new(rollback),
            better: LinearMixture::new(bets.promotion_ln_weights().len()),
            dispersion: MultiScaleDispersion::default(),
            serial: SerialDispersion::default(),
            arm_dispersion: ArmDispersion::default(),
            share: (bets.config().share_weight > 0.0)
                .then(|| ShareEvidence::new(Mixture::new(rollback))),
            initial_k: None,
            canary_pods: 0,
            baseline: None,
            errors_before: 0.0,
            placebo: None,
            spent: SpentBudget::default(),
        }
    }

    /// Estimates the overdispersion from stable's ticks before the rollout, in order of time.
    /// Without this the temper starts at 1, and the first error clusters of a rollout count as
    /// evidence.
    pub fn learn_dispersion(&mut self, history: &[Tick]) {
        if history.iter().any(|tick| tick.stable_pods.len() > 1) {
            self.count_errors(history);
            self.dispersion
                .learn_history(history.iter().map(|tick| tick.stable_pods.as_slice()));
        } else {
            self.serial.learn_history(history);
        }
    }

    /// Estimates the overdispersion of longer times from sums of stable's pods over about `2^level`
    /// ticks each, in order of time. Call it before [`Self::learn_dispersion`].
    pub fn learn_coarse_dispersion(&mut self, history: &[Tick], level: usize) {
        self.count_errors(history);
        let pods = history.iter().map(|tick| tick.stable_pods.as_slice());
        self.dispersion.learn_coarse_history(level, pods);
    }

    fn count_errors(&mut self, history: &[Tick]) {
        let compared = history.iter().filter(|tick| tick.stable_pods.len() > 1);
        let pods = compared.flat_map(|tick| &tick.stable_pods);
        self.errors_before += pods.map(|pod| pod.errors).sum::<f64>();
    }

    /// Evidence that starts again, after a pod was excluded. What is known of stable's pods and the
    /// errors spent are kept.
    #[must_use]
    pub fn restarted(&self, bets: &Bets) -> Self {
        Self {
            dispersion: self.dispersion.clone(),
            serial: self.serial.clone(),
            arm_dispersion: self.arm_dispersion.clone(),
            initial_k: self.initial_k,
            canary_pods: self.canary_pods,
            errors_before: self.errors_before,
            placebo: self.placebo,
            spent: self.spent,
            ..Self::new(bets, self.began_ms)
        }
    }

    /// Whether this evidence has the same number of bets as `bets`. Otherwise it belongs to another
    /// configuration.
    pub fn is_compatible(&self, bets: &Bets) -> bool {
        let rollback = bets.rollback_ln_weights().len();
        self.rollback.len() == rollback
            && self.reversed.len() == rollback
            && self
                .share
                .as_ref()
                .is_none_or(|share| share.len() == rollback)
            && self.worse.len() == rollback
            && self.worse.is_consistent()
            && self.better.len() == bets.promotion_ln_weights().len()
            && self.better.is_consistent()
    }

    /// Adds one tick. Ticks must come in order of time, each once.
    pub fn add(&mut self, bets: &Bets, tick: &Tick, context: &TickContext) {
        self.add_compared(bets, tick, None, context);
    }

    /// Like [`Self::add`]. If the canary is compared with a part of stable only, `compared` is the
    /// tick with the counts of that part. The other pods of stable count for the error budget and for
    /// the temper.
    pub fn add_compared(
        &mut self,
        bets: &Bets,
        tick: &Tick,
        compared: Option<&Tick>,
        context: &TickContext,
    ) {
        if let Some(compared) = compared {
            self.baseline.get_or_insert_default().add(compared);
        }
        let stable_pods = compared.map_or(Cow::Borrowed(&*tick.stable_pods), |compared| {
            Cow::Owned(pods_beside(&tick.stable_pods, &compared.stable_pods))
        });
        let compared = compared.unwrap_or(tick);
        let config = bets.config();
        let counts = &tick.counts;
        self.ticks += 1;
        let warming_up = tick.started_ms < context.warm_up_ends_ms;
        let elapsed = elapsed_seconds(self.began_ms, tick);
        let omega = self.funding.due(
            &config.restarts,
            self.ticks,
            elapsed,
            warming_up,
            config.warm_up_seconds,
        );
        self.rollback.fund(omega);
        self.reversed.fund(omega);
        if config.share_weight > 0.0 {
            // Evidence of an earlier version: what was gathered continues in both parts.
            let rollback = &self.rollback;
            self.share
                .get_or_insert_with(|| ShareEvidence::new(rollback.clone()))
                .fund(omega);
        }
        // Before the first tick, so that only history counts.
        let k = self.k(config);
        self.initial_k.get_or_insert(k);
        if context.changes_weight(tick) {
            if let Some(share) = &mut self.share {
                share.close(bets);
            }
            self.arm_dispersion.change_weight();
            self.learn(tick, &stable_pods, false);
        } else {
            if self.at_weight_since_ms < context.weight_changed_at_ms {
                // The weight changed between two ticks. Neither contains the change, but the shares of
                // the requests before and after it differ.
                self.arm_dispersion.change_weight();
            }
            let of_arms = &compared.counts;
            let compares_arms = of_arms.canary_requests > 0.0 && of_arms.stable_requests > 0.0;
            if compares_arms {
                self.bet(bets, compared, context);
            }
            // The errors of young pods come and go, which would look like a cluster.
            let learns_arms = compares_arms && !context.is_warming_up(tick);
            self.learn(tick, &stable_pods, learns_arms);
        }
        let baseline_rate = self.baseline_rate(config);
        self.spent
            .charge(tick, context.weight_changed_at_ms, baseline_rate);
        self.totals.add(counts);
        if self.at_weight_since_ms < context.weight_changed_at_ms {
            self.at_weight = Counts::default();
            self.at_weight_since_ms = context.weight_changed_at_ms;
        }
        if tick.started_ms >= self.at_weight_since_ms {
            self.at_weight.add(counts);
        }
    }

    /// Multiplies the e-values of one tick into all processes.
    fn bet(&mut self, bets: &Bets, tick: &Tick, context: &TickContext) {
        let config = bets.config();
        let counts = &tick.counts;
        // The temper must depend on earlier ticks only. Otherwise the bound does not hold.
        let k = self.k(config);
        let rollback_k = self.rollback_k(config);
        let clip = config.clip.unwrap_or(f64::INFINITY);
        let delta = context.tolerance(config, tick);
        let rollback = bets
            .worse_lines(counts, config.rho0)
            .map(|line| line.tempered(rollback_k).at(delta));
        self.rollback.multiply(rollback, clip);
        let shape = self.share_block(config, tick);
        if let Some(share) = &mut self.share {
            share.add(bets, tick, delta, shape);
        }
        // Only the canary has new pods, so the test in the other direction needs no warm-up
        // tolerance.
        let exchanged = counts.exchanged();
        let reversed_bets = bets
            .worse_lines(&exchanged, config.rho0)
            .map(|line| line.tempered(rollback_k).at(config.delta0));
        self.reversed.multiply(reversed_bets, clip);
        self.worse
            .add(bets.worse_lines(counts, 1.0).map(|line| line.tempered(k)));
        if !context.is_warming_up(tick) {
            self.better
                .add(bets.better_lines(counts).map(|line| line.tempered(k)));
        }
    }

    /// Learns the overdispersion from a tick and its stable pods, after it was bet on.
    fn learn(&mut self, tick: &Tick, stable_pods: &[PodCounts], compares_arms: bool) {
        if !tick.canary_pods.is_empty() {
            self.canary_pods = u32::try_from(tick.canary_pods.len()).unwrap_or(u32::MAX);
        }
        if stable_pods.len() > 1 {
            self.dispersion.add(stable_pods);
        } else if !self.dispersion.has_data() {
            self.serial.add(tick);
            if compares_arms {
                self.arm_dispersion.add(tick);
            }
        }
    }

    /// Whether clusters of errors outlast a scrape.
    pub fn clusters_last(&self) -> bool {
        if self.distinguishes_pods() {
            self.dispersion.clusters_last()
        } else {
            self.arm_dispersion.routes_in_clusters() || self.arm_dispersion.clusters_last()
        }
    }

    /// Whether the temper is learned from stable's pods, not from the course of time.
    pub fn distinguishes_pods(&self) -> bool {
        self.dispersion.has_data()
    }

    /// Stable's usual error rate: from history if known, else from this rollout so far, else 0.
    pub fn baseline_rate(&self, config: &EvidenceConfig) -> f64 {
        config
            .plug_in
            .or_else(|| self.totals.stable_rate())
            .unwrap_or(0.0)
    }

    /// Errors of stable's pods from which the temper was learned before the release. 0 if pods are
    /// not distinguished.
    pub fn errors_before(&self) -> f64 {
        self.errors_before
    }

    /// Records placebo releases from before the release. They only affect what is claimed.
    pub fn record_placebo(&mut self, placebo: PlaceboSummary) {
        self.placebo = Some(placebo);
    }

    /// Placebo releases from before the release. `None` if there are none.
    pub fn placebo(&self) -> Option<PlaceboSummary> {
        self.placebo
    }

    /// The temper with which the release began. `None` before the first tick.
    pub fn initial_k(&self) -> Option<f64> {
        self.initial_k
    }

    /// Number of the canary's pods in the latest tick that distinguished them, or 0.
    pub fn canary_pods(&self) -> u32 {
        self.canary_pods
    }

    /// The part of stable that the canary is compared with. `None` if it is all of stable.
    pub fn baseline(&self) -> Option<&BaselineCounts> {
        self.baseline.as_ref()
    }

    /// Part of stable's requests that the canary was compared with so far, from 0 to 1. 1 if it is
    /// compared with all of stable, or before the first request.
    pub fn compared_part_of_stable(&self) -> f64 {
        let requests = self.totals.stable_requests;
        match &self.baseline {
            Some(baseline) if requests > 0.0 => (baseline.requests / requests).clamp(0.0, 1.0),
            _ => 1.0,
        }
    }

    /// Number of the stable pods that the canary was last compared with, or 0.
    pub fn compared_stable_pods(&self) -> u32 {
        match &self.baseline {
            Some(baseline) => baseline.pods,
            None => self.dispersion.latest_pods(),
        }
    }

    /// What is known of stable's pods.
    pub fn dispersion(&self) -> &MultiScaleDispersion {
        &self.dispersion
    }

    /// The overdispersion of the stable pods. `None` if unknown.
    pub fn phi(&self) -> Option<f64> {
        self.dispersion.phi()
    }

    /// `ln E_t`: the evidence that the canary is worse than the tolerances allow.
    pub fn ln_e(&self, bets: &Bets) -> f64 {
        let tempered = self.rollback.ln_value(bets.rollback_ln_weights());
        let weight = bets.config().share_weight;
        let ln_e = match &self.share {
            Some(share) if weight > 0.0 => ln_add_exp(
                tempered + (-weight).ln_1p(),
                share.ln_value(bets.rollback_ln_weights()) + weight.ln(),
            ),
            _ => tempered,
        };
        bets.config().calibrated(ln_e)
    }

    /// `ln E_t` of the share bets alone, which needs no temper. `None` if they have no weight.
    pub fn ln_e_of_shares(&self, bets: &Bets) -> Option<f64> {
        let share = self.share.as_ref()?;
        Some(share.ln_value(bets.rollback_ln_weights()))
    }

    /// `ln E_t` with the arms exchanged: the evidence that stable is worse and this release is the
    /// fix.
    pub fn ln_e_reversed(&self, bets: &Bets) -> f64 {
        let ln_e = self.reversed.ln_value(bets.rollback_ln_weights());
        bets.config().calibrated(ln_e)
    }

    /// Reserve of the rollback mixture that is not yet at stake, from 1 down to 0.
    pub fn cash(&self) -> f64 {
        self.rollback.cash()
    }

    /// `ln M_good(delta)`: the evidence, since the warm-up, against an excess of `delta` or more.
    pub fn ln_m_good(&self, bets: &Bets, delta: f64) -> f64 {
        self.better.ln_value(bets.promotion_ln_weights(), delta)
    }

    /// `U`: upper bound of the canary's excess since the warm-up, wrong with probability at most
    /// `chance`. 1 without evidence.
    pub fn upper(&self, bets: &Bets, chance: f64) -> f64 {
        self.better.upper(bets.promotion_ln_weights(), -chance.ln())
    }

    /// `L`: lower bound of the canary's excess over the whole rollout, wrong with probability at
    /// most `chance`. -1 without evidence.
    pub fn lower(&self, bets: &Bets, chance: f64) -> f64 {
        self.worse.lower(bets.rollback_ln_weights(), -chance.ln())
    }

    /// `X`: errors spent beyond those expected at stable's rate. Negative if the canary fails less
    /// often.
    pub fn excess_errors(&self, config: &EvidenceConfig) -> f64 {
        self.spent.excess_errors(self.baseline_rate(config))
    }

    /// Estimate of `p_c - p_s`, block by block so that drift cancels out. `None` until both arms
    /// have requests.
    pub fn excess(&self, config: &EvidenceConfig) -> Option<f64> {
        let both = self.totals.canary_requests > 0.0 && self.totals.stable_requests > 0.0;
        both.then(|| self.excess_errors(config) / self.totals.canary_requests)
    }
}
