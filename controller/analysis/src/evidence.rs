//! The evidence on one objective: all processes that are updated with each tick.

use serde::{Deserialize, Serialize};

use crate::bernoulli::{bernoulli, bernoulli_plug_in};
use crate::bet::{BetLine, poisson};
use crate::budget::SpentBudget;
use crate::confidence::LinearMixture;
use crate::config::{BetForm, ConfigError, EvidenceConfig, Temper};
use crate::counts::{Counts, Tick};
use crate::eprocess::{Funding, Mixture, elapsed_seconds};
use crate::overdispersion::Overdispersion;
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

    /// The lines of one tick for all bets that the canary's error rate exceeds `rho0` times
    /// stable's.
    fn worse_lines<'a>(
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
    fn better_lines<'a>(&'a self, counts: &'a Counts) -> impl Iterator<Item = BetLine> + 'a {
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

/// Context of a tick beyond its counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TickContext {
    /// End of the warm-up, in milliseconds since the epoch. A tick that starts earlier gets the
    /// warm-up tolerance and does not count toward promotion.
    pub warm_up_ends_ms: i64,
    /// Time of the last weight change, in milliseconds since the epoch.
    pub weight_changed_at_ms: i64,
}

/// The evidence on one objective: serializable, of fixed size (about 1.5 KB as JSON), exact across
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
    dispersion: Overdispersion,
    spent: SpentBudget,
}

impl Evidence {
    /// Creates an empty state.
    pub fn new(bets: &Bets, began_ms: i64) -> Self {
        let rollback = bets.rollback_ln_weights.len();
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
            better: LinearMixture::new(bets.promotion_ln_weights.len()),
            dispersion: Overdispersion::default(),
            spent: SpentBudget::default(),
        }
    }

    /// Estimates the overdispersion from stable's ticks before the rollout, in order of time.
    /// Without this the temper starts at 1, and the first error clusters of a rollout count as
    /// evidence.
    pub fn learn_dispersion(&mut self, history: &[Tick]) {
        for tick in history {
            self.dispersion.add(&tick.stable_pods);
        }
    }

    /// Whether this evidence has the same number of bets as `bets`. Otherwise it belongs to another
    /// configuration.
    pub fn is_compatible(&self, bets: &Bets) -> bool {
        let rollback = bets.rollback_ln_weights.len();
        self.rollback.len() == rollback
            && self.reversed.len() == rollback
            && self.worse.len() == rollback
            && self.worse.is_consistent()
            && self.better.len() == bets.promotion_ln_weights.len()
            && self.better.is_consistent()
    }

    /// Adds one tick. Ticks must come in order of time, each once.
    pub fn add(&mut self, bets: &Bets, tick: &Tick, context: &TickContext) {
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
        // The temper must depend on earlier ticks only. Otherwise the bound does not hold.
        let k = self.k(config);
        if counts.canary_requests > 0.0 && counts.stable_requests > 0.0 {
            let clip = config.clip.unwrap_or(f64::INFINITY);
            let delta = if warming_up {
                config.delta0.max(config.warm_up_delta)
            } else {
                config.delta0
            };
            let rollback = bets
                .worse_lines(counts, config.rho0)
                .map(|line| line.tempered(k).at(delta));
            self.rollback.multiply(rollback, clip);
            // Only the canary has new pods, so the test in the other direction needs no warm-up
            // tolerance.
            let exchanged = counts.exchanged();
            let reversed_bets = bets
                .worse_lines(&exchanged, config.rho0)
                .map(|line| line.tempered(k).at(config.delta0));
            self.reversed.multiply(reversed_bets, clip);
            self.worse
                .add(bets.worse_lines(counts, 1.0).map(|line| line.tempered(k)));
            if !warming_up {
                self.better
                    .add(bets.better_lines(counts).map(|line| line.tempered(k)));
            }
        }
        self.dispersion.add(&tick.stable_pods);
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

    /// Stable's usual error rate: from history if known, else from this rollout so far, else 0.
    pub fn baseline_rate(&self, config: &EvidenceConfig) -> f64 {
        config
            .plug_in
            .or_else(|| self.totals.stable_rate())
            .unwrap_or(0.0)
    }

    /// The temper by which the log e-values of the next tick are divided.
    pub fn k(&self, config: &EvidenceConfig) -> f64 {
        match config.temper {
            Temper::Auto => self.dispersion.k(),
            Temper::Fixed(k) => k,
        }
    }

    /// The overdispersion of the stable pods. `None` if unknown.
    pub fn phi(&self) -> Option<f64> {
        self.dispersion.phi()
    }

    /// `ln E_t`: the evidence that the canary is worse than the tolerances allow.
    pub fn ln_e(&self, bets: &Bets) -> f64 {
        self.rollback.ln_value(&bets.rollback_ln_weights)
    }

    /// `ln E_t` with the arms exchanged: the evidence that stable is worse and this release is the
    /// fix.
    pub fn ln_e_reversed(&self, bets: &Bets) -> f64 {
        self.reversed.ln_value(&bets.rollback_ln_weights)
    }

    /// Reserve of the rollback mixture that is not yet at stake, from 1 down to 0.
    pub fn cash(&self) -> f64 {
        self.rollback.cash()
    }

    /// `ln M_good(delta)`: the evidence, since the warm-up, against an excess of `delta` or more.
    pub fn ln_m_good(&self, bets: &Bets, delta: f64) -> f64 {
        self.better.ln_value(&bets.promotion_ln_weights, delta)
    }

    /// `U`: upper bound of the canary's excess since the warm-up, wrong with probability at most
    /// `chance`. 1 without evidence.
    pub fn upper(&self, bets: &Bets, chance: f64) -> f64 {
        self.better.upper(&bets.promotion_ln_weights, -chance.ln())
    }

    /// `L`: lower bound of the canary's excess over the whole rollout, wrong with probability at
    /// most `chance`. -1 without evidence.
    pub fn lower(&self, bets: &Bets, chance: f64) -> f64 {
        self.worse.lower(&bets.rollback_ln_weights, -chance.ln())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(index: i64, counts: Counts) -> Tick {
        Tick {
            started_ms: index * 15_000,
            at_ms: (index + 1) * 15_000,
            counts,
            stable_pods: vec![],
        }
    }

    const NO_WARM_UP: TickContext = TickContext {
        warm_up_ends_ms: 0,
        weight_changed_at_ms: 0,
    };

    fn run(
        bets: &Bets,
        context: &TickContext,
        ticks: impl IntoIterator<Item = Counts>,
    ) -> Evidence {
        let mut evidence = Evidence::new(bets, 0);
        for (index, counts) in ticks.into_iter().enumerate() {
            evidence.add(bets, &tick(i64::try_from(index).unwrap(), counts), context);
        }
        evidence
    }

    #[test]
    fn a_bad_release_and_a_fix_are_both_evident() {
        let bets = Bets::new(EvidenceConfig::default()).unwrap();
        let bad = Counts::new(150.0, 5.0, 1350.0, 1.0);
        let worse = run(&bets, &NO_WARM_UP, [bad; 12]);
        assert!(worse.ln_e(&bets) > 100_f64.ln());
        assert!(worse.ln_e_reversed(&bets) < 0.0);
        let fix = run(&bets, &NO_WARM_UP, [bad.exchanged(); 12]);
        assert!(fix.ln_e(&bets) < 0.0);
        assert!(fix.ln_e_reversed(&bets) > 100_f64.ln());
    }

    #[test]
    fn the_warm_up_tolerates_spikes_but_not_outages() {
        let bets = Bets::new(EvidenceConfig::default()).unwrap();
        let warming_up = TickContext {
            warm_up_ends_ms: 60_000,
            weight_changed_at_ms: 0,
        };
        let spike = run(
            &bets,
            &warming_up,
            [Counts::new(150.0, 5.0, 1350.0, 1.0); 4],
        );
        assert!(
            spike.ln_e(&bets) < 1.0,
            "a spike of 3 % is tolerated: {}",
            spike.ln_e(&bets)
        );
        let broken = run(
            &bets,
            &warming_up,
            [Counts::new(150.0, 75.0, 1350.0, 1.0); 2],
        );
        assert!(
            broken.ln_e(&bets) > 100_f64.ln(),
            "half of the requests failing is not tolerated: {}",
            broken.ln_e(&bets)
        );
        assert!(
            spike.excess_errors(bets.config()) > 19.0,
            "errors of the warm-up are charged"
        );
        assert_eq!(
            spike.upper(&bets, 0.05),
            1.0,
            "the warm-up does not count toward promotion"
        );
    }

    #[test]
    fn the_state_is_small_and_survives_json_exactly() {
        let config = EvidenceConfig::default().with_history(5e-4);
        let bets = Bets::new(config).unwrap();
        let evidence = run(
            &bets,
            &NO_WARM_UP,
            (0..500).map(|i| Counts::new(151.0, f64::from(i % 3), 1349.0, f64::from(i % 2))),
        );
        let json = serde_json::to_string(&evidence).unwrap();
        assert!(json.len() < 2048, "{} bytes", json.len());
        assert_eq!(serde_json::from_str::<Evidence>(&json).unwrap(), evidence);
        assert!(evidence.is_compatible(&bets));
        assert!(!evidence.is_compatible(&Bets::new(EvidenceConfig::default()).unwrap()));
    }

    #[test]
    fn the_share_is_counted_separately_at_every_weight() {
        let bets = Bets::new(EvidenceConfig::default()).unwrap();
        let mut evidence = Evidence::new(&bets, 0);
        let counts = Counts::new(5.0, 0.0, 95.0, 0.0);
        evidence.add(&bets, &tick(0, counts), &NO_WARM_UP);
        let changed = TickContext {
            weight_changed_at_ms: 20_000,
            ..NO_WARM_UP
        };
        evidence.add(&bets, &tick(1, counts), &changed);
        assert_eq!(
            evidence.at_weight,
            Counts::default(),
            "the tick with the weight change counts for neither weight"
        );
        evidence.add(&bets, &tick(2, counts), &changed);
        assert_eq!(evidence.at_weight, counts);
    }

    #[test]
    fn clustered_errors_of_stable_pods_temper_the_next_ticks() {
        let bets = Bets::new(EvidenceConfig::default()).unwrap();
        let mut evidence = Evidence::new(&bets, 0);
        let pods = vec![
            crate::counts::PodCounts {
                requests: 500.0,
                errors: 9.0,
            },
            crate::counts::PodCounts {
                requests: 500.0,
                errors: 0.0,
            },
        ];
        let clustered = Tick {
            stable_pods: pods,
            ..tick(0, Counts::new(150.0, 9.0, 1000.0, 9.0))
        };
        evidence.add(&bets, &clustered, &NO_WARM_UP);
        let untempered = run(&bets, &NO_WARM_UP, [clustered.counts]);
        assert_eq!(evidence.ln_e(&bets), untempered.ln_e(&bets));
        assert!((evidence.k(bets.config()) - 9.0).abs() < 1e-12);
    }
}
