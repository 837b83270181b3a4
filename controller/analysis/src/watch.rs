//! The watch after promotion: all of the traffic is on the canary, and no stable arm stands beside
//! it to compare with.
//!
//! The canary is judged against the rate that stable had during its release, `p_hat = (E_s + 0.5) /
//! (N_s + 1)`. For one bet `rho > 1` on one tick of `n` requests with `e` errors,
//!
//! ```text
//! l = e ln rho - n (rho - 1) p0,   p0 = rho0 p_hat + delta0
//! ```
//!
//! `E[exp(l)] <= exp(n (rho - 1)(p - p0))` by `1 + x <= e^x` alone, so the product over ticks is a
//! supermartingale whenever the canary fails at most `p0` of its requests, and the mixture of such
//! products passes `1/alpha` with probability at most `alpha`.
//!
//! **This is a heuristic where the comparison of two arms is a theorem.** What is a theorem is the
//! sentence above, about a fixed `p0`. That a good release fails at most `p0` is not: `p_hat` is
//! estimated, and whatever happens to the service as a whole in the watch (a burst, the drift of
//! the day, a dependency that fails) no longer cancels, but counts against the release. Source: the
//! one-sample form of Lindon and Malek (`NeurIPS` 2022, anytime-valid inference for counts).

use serde::{Deserialize, Serialize};

use crate::config::{EvidenceConfig, Restarts};
use crate::counts::{Counts, Tick};
use crate::eprocess::{Funding, Mixture, elapsed_seconds};
use crate::evidence::{Bets, Evidence};

/// Rates are kept below certainty: a bet on more errors than requests means nothing.
const HIGHEST_RATE: f64 = 1.0;

/// One objective in the watch: serialisable, of fixed size, exact across restarts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Watch {
    /// When the watch began, in milliseconds since the epoch.
    pub began_ms: i64,
    /// `p0`: the most of its requests that a good release fails.
    pub tolerated_rate: f64,
    /// The temper `k` of the release, at least 1: nothing is learnt of clusters without stable
    /// pods.
    pub k: f64,
    /// What the canary has answered since.
    pub counts: Counts,
    longest_seconds: f64,
    ticks: u64,
    mixture: Mixture,
    funding: Funding,
}

/// Stable's rate during the release, with half an error added, so that a stable side that never
/// failed is not taken never to. Where it had no request at all, `usual_rate` stands in; nothing
/// where that is not known either.
fn stable_rate(evidence: &Evidence, usual_rate: Option<f64>) -> Option<f64> {
    let Counts {
        stable_requests,
        stable_errors,
        ..
    } = evidence.totals;
    if stable_requests > 0.0 {
        Some((stable_errors + 0.5) / (stable_requests + 1.0))
    } else {
        usual_rate
    }
}

impl Watch {
    /// Begins to watch a release with this evidence for so long; nothing where it is not known how
    /// often the service fails.
    pub fn begin(
        bets: &Bets,
        evidence: &Evidence,
        usual_rate: Option<f64>,
        began_ms: i64,
        longest_seconds: f64,
    ) -> Option<Self> {
        let config = bets.config();
        let rate = stable_rate(evidence, usual_rate)?;
        Some(Self {
            began_ms,
            tolerated_rate: (config.rho0 * rate + config.delta0).min(HIGHEST_RATE),
            k: evidence.k(config),
            counts: Counts::default(),
            longest_seconds: longest_seconds.max(1.0),
            ticks: 0,
            mixture: Mixture::new(config.rollback.rho.len()),
            funding: Funding::default(),
        })
    }

    /// Whether this was begun with as many bets as these.
    pub fn fits(&self, bets: &Bets) -> bool {
        self.mixture.len() == bets.config().rollback.rho.len()
    }

    /// Takes one tick in; one that began before the watch is of the release. Ticks come in the
    /// order of time, each once.
    pub fn add(&mut self, config: &EvidenceConfig, tick: &Tick) {
        if tick.started_ms < self.began_ms {
            return;
        }
        self.ticks += 1;
        let restarts = Restarts::EveryMinute {
            longest_seconds: self.longest_seconds,
        };
        let elapsed = elapsed_seconds(self.began_ms, tick);
        self.mixture
            .fund(self.funding.due(&restarts, self.ticks, elapsed, false, 0.0));
        let Counts {
            canary_requests,
            canary_errors,
            ..
        } = tick.counts;
        let (rate, k) = (self.tolerated_rate, self.k);
        let bets = config
            .rollback
            .rho
            .iter()
            .map(|rho| ln_e(canary_requests, canary_errors, *rho, rate) / k);
        self.mixture
            .multiply(bets, config.clip.unwrap_or(f64::INFINITY));
        self.counts.canary_requests += canary_requests;
        self.counts.canary_errors += canary_errors;
    }

    /// `ln E_t`: the evidence that the canary fails more than is tolerated.
    pub fn ln_e(&self, bets: &Bets) -> f64 {
        self.mixture.ln_value(bets.rollback_ln_weights())
    }

    /// The errors that the tolerated rate lets the canary make of the requests so far.
    pub fn tolerated_errors(&self) -> f64 {
        self.tolerated_rate * self.counts.canary_requests
    }
}

/// The log e-value of one tick: `e ln rho - n (rho - 1) p0`.
fn ln_e(requests: f64, errors: f64, rho: f64, tolerated_rate: f64) -> f64 {
    errors * rho.ln() - requests * (rho - 1.0) * tolerated_rate
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::evidence::TickContext;

    fn tick(index: i64, counts: Counts) -> Tick {
        Tick {
            started_ms: index * 15_000,
            at_ms: (index + 1) * 15_000,
            counts,
            stable_pods: vec![],
        }
    }

    /// A release of an hour in which stable failed so many of its requests.
    fn release(stable: (f64, f64)) -> (Bets, Evidence) {
        let bets = Bets::new(EvidenceConfig::default()).unwrap();
        let mut evidence = Evidence::new(&bets, 0);
        let context = TickContext {
            warm_up_ends_ms: 0,
            weight_changed_at_ms: 0,
        };
        evidence.add(
            &bets,
            &tick(0, Counts::new(100.0, 0.0, stable.0, stable.1)),
            &context,
        );
        (bets, evidence)
    }

    fn watched(ticks: impl IntoIterator<Item = (f64, f64)>) -> (Bets, Watch) {
        let (bets, evidence) = release((99_999.0, 49.5));
        let mut watch = Watch::begin(&bets, &evidence, None, 15_000, 600.0).unwrap();
        for (index, (requests, errors)) in ticks.into_iter().enumerate() {
            let counts = Counts::new(requests, errors, 0.0, 0.0);
            watch.add(
                bets.config(),
                &tick(i64::try_from(index).unwrap() + 1, counts),
            );
        }
        (bets, watch)
    }

    #[test]
    fn the_tolerated_rate_is_that_of_stable_in_the_release() {
        let (_, watch) = watched([]);
        // 1.1 times 0.05 %, and 0.005 %.
        assert!(
            (watch.tolerated_rate - 6e-4).abs() < 1e-12,
            "{}",
            watch.tolerated_rate
        );
        let (bets, evidence) = release((0.0, 0.0));
        assert!(
            Watch::begin(&bets, &evidence, None, 0, 600.0).is_none(),
            "of a service nobody knows nothing is said"
        );
        assert!(Watch::begin(&bets, &evidence, Some(5e-4), 0, 600.0).is_some());
    }

    #[test]
    fn a_late_regression_is_found_and_a_good_release_is_not() {
        let (bets, good) = watched([(1500.0, 1.0); 40]);
        assert!(good.ln_e(&bets) < 1.0, "{}", good.ln_e(&bets));
        let (bets, bad) = watched([(1500.0, 8.0); 12]);
        assert!(bad.ln_e(&bets) >= 100_f64.ln(), "{}", bad.ln_e(&bets));
        assert!((bad.tolerated_errors() - 10.8).abs() < 1e-9);
        let late = std::iter::repeat_n((1500.0, 0.0), 28).chain([(1500.0, 15.0); 8]);
        let (bets, late) = watched(late);
        assert!(late.ln_e(&bets) >= 100_f64.ln(), "{}", late.ln_e(&bets));
    }

    #[test]
    fn one_scrape_alone_never_decides_and_what_was_before_is_not_of_the_watch() {
        let (bets, watch) = watched([(1500.0, 1500.0)]);
        assert!(watch.ln_e(&bets) < 100_f64.ln());
        let (bets, mut watch) = watched([]);
        let before = watch.clone();
        watch.add(
            bets.config(),
            &tick(0, Counts::new(1500.0, 1500.0, 0.0, 0.0)),
        );
        assert_eq!(watch, before);
    }

    #[test]
    fn it_survives_json_exactly() {
        let (bets, watch) = watched([(1500.0, 3.0), (1480.0, 0.0), (0.0, 0.0)]);
        let json = serde_json::to_string(&watch).unwrap();
        assert!(json.len() < 700, "{} bytes", json.len());
        assert_eq!(serde_json::from_str::<Watch>(&json).unwrap(), watch);
        assert!(watch.fits(&bets));
    }

    proptest! {
        /// Over binomial errors, in closed form: `E[exp(l)] = (1 + p (rho - 1))^n exp(-n (rho - 1)
        /// p0)`.
        #[test]
        fn the_expectation_is_at_most_one_on_the_null(
            n in 1_u32..200_000, tolerated in 0.0_f64..=1.0, below in 0.0_f64..=1.0, rho in 1.01_f64..1000.0, k in 1.0_f64..20.0,
        ) {
            let (n, p) = (f64::from(n), below * tolerated);
            let error = ln_e(0.0, 1.0, rho, tolerated);
            let without = ln_e(n, 0.0, rho, tolerated);
            // Untempered, and tempered: a power between 0 and 1 of an e-value is one by Jensen's
            // inequality.
            let rounding = 1e-9 + 1e-12 * without.abs();
            prop_assert!(n * (p * error.exp_m1()).ln_1p() + without <= rounding);
            prop_assert!(n * (p * (error / k).exp_m1()).ln_1p() + without / k <= rounding);
        }

        #[test]
        fn no_count_makes_it_nan(ticks in prop::collection::vec((0.0_f64..9e15, 0.0_f64..=1.0), 0..20)) {
            let (bets, watch) = watched(ticks.into_iter().map(|(requests, part)| (requests.floor(), (requests * part).floor())));
            prop_assert!(!watch.ln_e(&bets).is_nan());
        }
    }
}
