//! The bake after promotion: the new version serves all of the traffic, so there is no stable arm
//! to compare with.
//!
//! The canary is compared with the error rate of stable during the release, `p_hat = (E_s + 0.5) /
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
//! **This is a heuristic, unlike the comparison of two arms.** The statement above holds for a
//! fixed `p0`. It is not proven that a good release fails at most `p0`: `p_hat` is an estimate, and
//! whatever affects the service as a whole during the bake (a burst, daily drift, a failing
//! dependency) no longer cancels out but counts against the release. Source: the one-sample form of
//! Lindon and Malek (`NeurIPS` 2022, anytime-valid inference for counts).
//!
//! After a blue/green switch there was no comparison at all: the canary had no traffic before. Then
//! `p_hat` is the highest error rate that the service had in several windows that end at the switch
//! ([`highest_rate`]). The short ones follow drift over a day, the long ones keep a quiet hour from
//! counting as the norm.

use serde::{Deserialize, Serialize};

use crate::config::{EvidenceConfig, Restarts};
use crate::counts::{Counts, Tick};
use crate::eprocess::{Funding, Mixture, elapsed_seconds};
use crate::evidence::{Bets, Evidence};
use crate::service_guard::WindowCounts;

/// Upper limit of the tolerated rate: errors never exceed requests.
const MAX_RATE: f64 = 1.0;

/// The evidence on one objective during the bake: serializable, of fixed size, exact across
/// restarts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BakeEvidence {
    /// Start of the bake, in milliseconds since the epoch.
    pub began_ms: i64,
    /// `p0`: the maximum error rate of a good release, from 0 to 1.
    pub tolerated_rate: f64,
    /// The temper `k` of the release, at least 1. It stays fixed because the overdispersion cannot
    /// be estimated without stable pods.
    pub k: f64,
    /// The canary's counts since the start.
    pub counts: Counts,
    longest_seconds: f64,
    ticks: u64,
    mixture: Mixture,
    funding: Funding,
}

/// Minimum number of requests of a window whose error rate counts.
const MIN_WINDOW_REQUESTS: f64 = 1_000.0;

/// The highest error rate of these windows, with half an error added to each. `None` if none has
/// enough requests.
pub fn highest_rate(windows: &[WindowCounts]) -> Option<f64> {
    let known = windows
        .iter()
        .filter(|window| window.requests >= MIN_WINDOW_REQUESTS);
    let rates = known.map(|window| (window.bad + 0.5) / (window.requests + 1.0));
    rates.reduce(f64::max)
}

/// Stable's error rate during the release, with half an error added so that the estimate is never
/// 0. Without stable requests it is `baseline_rate`, and `None` if that is unknown.
fn stable_rate(evidence: &Evidence, baseline_rate: Option<f64>) -> Option<f64> {
    let Counts {
        stable_requests,
        stable_errors,
        ..
    } = evidence.totals;
    if stable_requests > 0.0 {
        Some((stable_errors + 0.5) / (stable_requests + 1.0))
    } else {
        baseline_rate
    }
}

impl BakeEvidence {
    /// Starts a bake of at most `longest_seconds` for a release with this evidence. Returns `None`
    /// if the error rate of the service is unknown.
    pub fn start(
        bets: &Bets,
        evidence: &Evidence,
        baseline_rate: Option<f64>,
        began_ms: i64,
        longest_seconds: f64,
    ) -> Option<Self> {
        let rate = stable_rate(evidence, baseline_rate)?;
        Some(Self::tolerating(
            bets,
            evidence,
            rate,
            began_ms,
            longest_seconds,
        ))
    }

    /// Starts a bake after a blue/green switch. `windows` are the requests of the service before it.
    /// Returns `None` if they are too few to know the error rate of the service.
    pub fn start_after_switch(
        bets: &Bets,
        evidence: &Evidence,
        windows: &[WindowCounts],
        began_ms: i64,
        longest_seconds: f64,
    ) -> Option<Self> {
        let of_release = WindowCounts {
            requests: evidence.totals.stable_requests,
            bad: evidence.totals.stable_errors,
        };
        let rates = [highest_rate(windows), highest_rate(&[of_release])];
        let rate = rates.into_iter().flatten().reduce(f64::max)?;
        Some(Self::tolerating(
            bets,
            evidence,
            rate,
            began_ms,
            longest_seconds,
        ))
    }

    fn tolerating(
        bets: &Bets,
        evidence: &Evidence,
        rate: f64,
        began_ms: i64,
        longest_seconds: f64,
    ) -> Self {
        let config = bets.config();
        Self {
            began_ms,
            tolerated_rate: (config.rho0 * rate + config.delta0).min(MAX_RATE),
            k: evidence.rollback_k(config),
            counts: Counts::default(),
            longest_seconds: longest_seconds.max(1.0),
            ticks: 0,
            mixture: Mixture::new(config.rollback.rho.len()),
            funding: Funding::default(),
        }
    }

    /// Whether this evidence has the same number of bets as `bets`.
    pub fn is_compatible(&self, bets: &Bets) -> bool {
        self.mixture.len() == bets.config().rollback.rho.len()
    }

    /// Adds one tick. A tick that started before the bake is ignored. Ticks must come in order of
    /// time, each once.
    pub fn add(&mut self, config: &EvidenceConfig, tick: &Tick) {
        if tick.started_ms < self.began_ms {
            return;
        }
        self.ticks += 1;
        let restarts = Restarts::EveryMinute {
            max_duration_seconds: self.longest_seconds,
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

    /// `ln E_t`: the evidence that the canary fails more often than tolerated.
    pub fn ln_e(&self, bets: &Bets) -> f64 {
        self.mixture.ln_value(bets.rollback_ln_weights())
    }

    /// Tolerated errors for the requests so far.
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
            ..Tick::default()
        }
    }

    /// The evidence of a release with these `(requests, errors)` of stable.
    fn release(stable: (f64, f64)) -> (Bets, Evidence) {
        let bets = Bets::new(EvidenceConfig::default()).unwrap();
        let mut evidence = Evidence::new(&bets, 0);
        let context = TickContext {
            warm_up_ends_ms: 0,
            weight_changed_at_ms: 0,
            young_share: None,
        };
        evidence.add(
            &bets,
            &tick(0, Counts::new(100.0, 0.0, stable.0, stable.1)),
            &context,
        );
        (bets, evidence)
    }

    fn baked(ticks: impl IntoIterator<Item = (f64, f64)>) -> (Bets, BakeEvidence) {
        let (bets, evidence) = release((99_999.0, 49.5));
        let mut bake = BakeEvidence::start(&bets, &evidence, None, 15_000, 600.0).unwrap();
        for (index, (requests, errors)) in ticks.into_iter().enumerate() {
            let counts = Counts::new(requests, errors, 0.0, 0.0);
            bake.add(
                bets.config(),
                &tick(i64::try_from(index).unwrap() + 1, counts),
            );
        }
        (bets, bake)
    }

    #[test]
    fn the_tolerated_rate_follows_stable_during_the_release() {
        let (_, bake) = baked([]);
        // 1.1 times 0.05 %, and 0.005 %.
        assert!(
            (bake.tolerated_rate - 6e-4).abs() < 1e-12,
            "{}",
            bake.tolerated_rate
        );
        let (bets, evidence) = release((0.0, 0.0));
        assert!(
            BakeEvidence::start(&bets, &evidence, None, 0, 600.0).is_none(),
            "no bake without a known error rate"
        );
        assert!(BakeEvidence::start(&bets, &evidence, Some(5e-4), 0, 600.0).is_some());
    }

    #[test]
    fn after_a_switch_the_highest_rate_before_it_is_tolerated() {
        let (bets, evidence) = release((0.0, 0.0));
        let window = |requests, bad| WindowCounts { requests, bad };
        let windows = [
            window(1e6, 499.5),
            window(99_999.0, 99.5),
            window(500.0, 50.0),
        ];
        let start = |windows: &[WindowCounts]| {
            BakeEvidence::start_after_switch(&bets, &evidence, windows, 0, 600.0)
        };
        // 1.1 times 0.1 %, and 0.005 %. A window with few requests does not count.
        let tolerated = start(&windows).unwrap().tolerated_rate;
        assert!((tolerated - 1.15e-3).abs() < 1e-12, "{tolerated}");
        assert!(
            start(&windows[2..]).is_none(),
            "no bake without a known error rate"
        );
    }

    #[test]
    fn a_late_regression_is_detected_without_flagging_a_good_release() {
        let (bets, good) = baked([(1500.0, 1.0); 40]);
        assert!(good.ln_e(&bets) < 1.0, "{}", good.ln_e(&bets));
        let (bets, bad) = baked([(1500.0, 8.0); 12]);
        assert!(bad.ln_e(&bets) >= 100_f64.ln(), "{}", bad.ln_e(&bets));
        assert!((bad.tolerated_errors() - 10.8).abs() < 1e-9);
        let late = std::iter::repeat_n((1500.0, 0.0), 28).chain([(1500.0, 15.0); 8]);
        let (bets, late) = baked(late);
        assert!(late.ln_e(&bets) >= 100_f64.ln(), "{}", late.ln_e(&bets));
    }

    #[test]
    fn one_scrape_never_decides_and_earlier_ticks_are_ignored() {
        let (bets, bake) = baked([(1500.0, 1500.0)]);
        assert!(bake.ln_e(&bets) < 100_f64.ln());
        let (bets, mut bake) = baked([]);
        let before = bake.clone();
        bake.add(
            bets.config(),
            &tick(0, Counts::new(1500.0, 1500.0, 0.0, 0.0)),
        );
        assert_eq!(bake, before);
    }

    #[test]
    fn the_state_survives_json_exactly() {
        let (bets, bake) = baked([(1500.0, 3.0), (1480.0, 0.0), (0.0, 0.0)]);
        let json = serde_json::to_string(&bake).unwrap();
        assert!(json.len() < 700, "{} bytes", json.len());
        assert_eq!(serde_json::from_str::<BakeEvidence>(&json).unwrap(), bake);
        assert!(bake.is_compatible(&bets));
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
            let (bets, bake) = baked(ticks.into_iter().map(|(requests, part)| (requests.floor(), (requests * part).floor())));
            prop_assert!(!bake.ln_e(&bets).is_nan());
        }
    }
}
