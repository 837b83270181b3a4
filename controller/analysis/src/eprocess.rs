//! Rollback: a mixture of bets that the canary is worse, with restarts and a clip.

use serde::{Deserialize, Serialize};

use crate::config::Restarts;
use crate::counts::Tick;
use crate::numeric::{ln_add_exp, log_sum_exp};

/// A mixture of test martingales with a reserve ("cash") for restarts: `M_j <- (M_j + omega_t)
/// exp(min(l_j, clip))`, `E_t = cash + sum_j pi_j M_j`.
///
/// Each `M_j` is a nonnegative supermartingale plus deposits from the cash. `E_t` therefore starts
/// at 1 and is a supermartingale, so by Ville's inequality it ever exceeds `1/alpha` with
/// probability at most `alpha`. Restarts keep earlier good behavior from hiding a late regression
/// (Shin, Ramdas, Rinaldo, e-detectors).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mixture {
    /// `ln M_j`; minus infinity (null in JSON) for a bet not yet funded.
    #[serde(with = "crate::numeric::ln_values")]
    ln_values: Vec<f64>,
    /// Reserve that is not yet at stake, from 1 down to 0.
    cash: f64,
}

impl Mixture {
    /// Creates a mixture of unfunded bets.
    pub fn new(bets: usize) -> Self {
        Self {
            ln_values: vec![f64::NEG_INFINITY; bets],
            cash: 1.0,
        }
    }

    /// Number of bets.
    pub fn len(&self) -> usize {
        self.ln_values.len()
    }

    /// Whether there are no bets.
    pub fn is_empty(&self) -> bool {
        self.ln_values.is_empty()
    }

    /// Reserve that is not yet at stake.
    pub fn cash(&self) -> f64 {
        self.cash
    }

    /// Moves `omega` of the cash to every bet.
    pub fn fund(&mut self, omega: f64) {
        let omega = omega.min(self.cash);
        if omega > 0.0 {
            self.cash -= omega;
            let ln_omega = omega.ln();
            for value in &mut self.ln_values {
                *value = ln_add_exp(*value, ln_omega);
            }
        }
    }

    /// Multiplies by the e-values of one tick, given as logarithms. Each is limited to `clip`, so
    /// that a single scrape never decides.
    pub fn multiply(&mut self, ln_e_values: impl Iterator<Item = f64>, clip: f64) {
        for (value, increment) in self.ln_values.iter_mut().zip(ln_e_values) {
            *value += increment.min(clip);
        }
    }

    /// `ln E_t` under the mixture's log weights.
    pub fn ln_value(&self, ln_weights: &[f64]) -> f64 {
        let bets = self
            .ln_values
            .iter()
            .zip(ln_weights)
            .map(|(value, ln_weight)| value + ln_weight);
        log_sum_exp(bets.chain(std::iter::once(self.cash.max(0.0).ln())))
    }
}

/// Progress of the restart schedule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Funding {
    started: bool,
    warmed_up: bool,
    restarts_paid: u32,
}

/// Share at stake from the first tick.
const AT_START: f64 = 0.1;
/// Share added at the end of the warm-up.
const AFTER_WARM_UP: f64 = 0.5;
/// Share distributed evenly over the restarts.
const OVER_RESTARTS: f64 = 0.4;
/// Interval between restarts.
const RESTART_EVERY_SECONDS: f64 = 60.0;

impl Funding {
    /// The share to put at stake at tick `index`, counted from 1, which starts `elapsed_seconds`
    /// after the start of the rollout. `warming_up` states whether it is within the warm-up.
    pub fn due(
        &mut self,
        restarts: &Restarts,
        index: u64,
        elapsed_seconds: f64,
        warming_up: bool,
        warm_up_seconds: f64,
    ) -> f64 {
        match restarts {
            Restarts::AtTicks(shares) => shares
                .iter()
                .filter(|(tick, _)| *tick == index)
                .map(|(_, share)| share)
                .sum(),
            Restarts::EveryMinute {
                max_duration_seconds: longest_seconds,
            } => {
                let count = ((longest_seconds - warm_up_seconds) / RESTART_EVERY_SECONDS)
                    .floor()
                    .clamp(0.0, f64::from(u32::MAX));
                let mut omega = 0.0;
                if !self.started {
                    self.started = true;
                    omega += AT_START;
                }
                if !self.warmed_up && !warming_up {
                    self.warmed_up = true;
                    omega += if count >= 1.0 {
                        AFTER_WARM_UP
                    } else {
                        AFTER_WARM_UP + OVER_RESTARTS
                    };
                }
                if self.warmed_up && count >= 1.0 {
                    let due = ((elapsed_seconds - warm_up_seconds) / RESTART_EVERY_SECONDS)
                        .floor()
                        .clamp(0.0, count);
                    let paid = f64::from(self.restarts_paid);
                    if due > paid {
                        omega += (due - paid) * (OVER_RESTARTS / count);
                        #[expect(
                            clippy::cast_possible_truncation,
                            clippy::cast_sign_loss,
                            reason = "clamped to the range of u32 above"
                        )]
                        {
                            self.restarts_paid = due as u32;
                        }
                    }
                }
                omega
            }
        }
    }
}

/// Seconds from the start of the rollout to the start of a tick. Never negative.
pub(crate) fn elapsed_seconds(began_ms: i64, tick: &Tick) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a span of milliseconds is far below 2^53"
    )]
    let elapsed_ms = tick.started_ms.saturating_sub(began_ms).max(0) as f64;
    elapsed_ms / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bet::poisson;
    use crate::config::Grid;
    use crate::counts::Counts;
    use crate::golden::assert_nine_digits;
    use proptest::prelude::*;

    #[test]
    fn golden_g3() {
        let ticks = [
            (150, 0, 1350, 1),
            (148, 1, 1352, 0),
            (151, 0, 1349, 1),
            (300, 2, 1200, 0),
            (305, 6, 1195, 1),
            (298, 9, 1202, 0),
        ];
        let ln_e = [
            -0.222_401_426,
            0.361_508_127,
            0.090_734_886_2,
            1.481_768_57,
            5.740_377_37,
            10.338_027_5,
        ];
        let cash = [0.4, 0.4, 0.3, 0.3, 0.2, 0.2];
        let restarts = Restarts::AtTicks(vec![(1, 0.6), (3, 0.1), (5, 0.1)]);
        let grid = Grid::published();
        let ln_weights: Vec<f64> = grid.weights.iter().map(|weight| weight.ln()).collect();
        let mut mixture = Mixture::new(grid.rho.len());
        let mut funding = Funding::default();
        for (index, (n_c, e_c, n_s, e_s)) in ticks.into_iter().enumerate() {
            mixture.fund(funding.due(&restarts, index as u64 + 1, 0.0, false, 0.0));
            let counts = Counts::new(n_c.into(), e_c.into(), n_s.into(), e_s.into());
            mixture.multiply(
                grid.rho
                    .iter()
                    .map(|rho| poisson(&counts, *rho, 1.1).at(5e-5)),
                100_f64.ln(),
            );
            let actual = mixture.ln_value(&ln_weights);
            assert_nine_digits(actual, ln_e[index]);
            assert!((mixture.cash() - cash[index]).abs() < 1e-12);
            assert_eq!(actual >= 100_f64.ln(), index >= 4);
        }
    }

    #[test]
    fn the_schedule_puts_all_cash_at_stake_once() {
        let restarts = Restarts::EveryMinute {
            max_duration_seconds: 3600.0,
        };
        let mut funding = Funding::default();
        let shares: Vec<f64> = (0..400_u32)
            .map(|tick| {
                let elapsed = f64::from(tick) * 15.0;
                funding.due(
                    &restarts,
                    u64::from(tick) + 1,
                    elapsed,
                    elapsed < 60.0,
                    60.0,
                )
            })
            .collect();
        assert_eq!(shares[0], 0.1);
        assert_eq!(shares[4], 0.5);
        assert!((shares[8] - 0.4 / 59.0).abs() < 1e-15);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(shares.iter().filter(|share| **share > 0.0).count(), 61);
    }

    #[test]
    fn without_a_warm_up_most_of_the_cash_is_at_stake_from_the_start() {
        let restarts = Restarts::EveryMinute {
            max_duration_seconds: 3600.0,
        };
        assert_eq!(Funding::default().due(&restarts, 1, 0.0, false, 0.0), 0.6);
    }

    #[test]
    fn one_scrape_alone_never_decides() {
        let mut mixture = Mixture::new(1);
        mixture.fund(0.6);
        mixture.multiply(std::iter::once(1e6), 100_f64.ln());
        assert!(mixture.ln_value(&[0.0]) < 100_f64.ln());
    }

    fn binomial(n: u32, k: u32, p: f64) -> f64 {
        let ways: f64 = (0..k)
            .map(|i| f64::from(n - i) / f64::from(i + 1))
            .product();
        ways * p.powf(f64::from(k)) * (1.0 - p).powf(f64::from(n - k))
    }

    proptest! {
        /// The condition of Ville's inequality: for every history, the expectation of the process
        /// does not increase with the next tick.
        #[test]
        fn no_tick_on_the_null_raises_the_expectation(
            ln_values in prop::collection::vec(-20.0_f64..5.0, 8), cash in 0.0_f64..=1.0, omega in 0.0_f64..=1.0,
            n_c in 1_u32..6, n_s in 1_u32..9, p_s in 0.0_f64..=0.9, rho0 in 1.0_f64..1.5, delta in 0.0_f64..0.05,
            below in 0.0_f64..=1.0, k in prop_oneof![Just(1.0), 1.0_f64..9.0], clip in 0.5_f64..10.0,
        ) {
            let grid = Grid::default();
            let ln_weights: Vec<f64> = grid.weights.iter().map(|weight| weight.ln()).collect();
            let before = Mixture { ln_values, cash };
            let p_c = below * (rho0 * p_s + delta).min(1.0);
            let mut expected = 0.0;
            for (e_c, e_s) in (0..=n_c).flat_map(|e_c| (0..=n_s).map(move |e_s| (e_c, e_s))) {
                let counts = Counts::new(n_c.into(), e_c.into(), n_s.into(), e_s.into());
                let mut after = before.clone();
                after.fund(omega);
                after.multiply(grid.rho.iter().map(|rho| poisson(&counts, *rho, rho0).tempered(k).at(delta)), clip);
                expected += binomial(n_c, e_c, p_c) * binomial(n_s, e_s, p_s) * after.ln_value(&ln_weights).exp();
            }
            let before = before.ln_value(&ln_weights).exp();
            prop_assert!(expected <= before * (1.0 + 1e-9), "from {before} to {expected}");
        }
    }

    #[test]
    fn an_unfunded_bet_is_null_in_json() {
        let mixture = Mixture::new(2);
        let json = serde_json::to_string(&mixture).unwrap();
        assert_eq!(json, r#"{"lnValues":[null,null],"cash":1.0}"#);
        assert_eq!(serde_json::from_str::<Mixture>(&json).unwrap(), mixture);
    }
}
