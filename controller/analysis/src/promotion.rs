//! Promotion: an e-process against "the canary is worse by at least the margin".

use crate::bet::BetLine;
use crate::counts::Counts;

/// Ratios of error rates of the promotion bets, with equal weights.
pub const RATIOS: [f64; 7] = [0.02, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85];

/// Weight of the plug-in bet in the mixture, if configured.
pub const PLUG_IN_WEIGHT: f64 = 0.5;

/// The optimal bet at error rate `p`, canary share `w` and margin `delta1`.
///
/// It is the log-optimal bet of "both arms fail at rate `p`" against the nearest point with an
/// excess of `delta1` (the reverse information projection of Turner, Ly and Grünwald, in its
/// Poisson limit). Its validity does not depend on `p`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlugIn {
    /// Stable's rate at the nearest point of the null.
    pub q_s: f64,
    /// The canary's rate there, `q_s + delta1`.
    pub q_c: f64,
    /// The factor of a canary error.
    pub r: f64,
    /// The factor of a stable error.
    pub r_s: f64,
    /// Expected log growth per request of either arm, in nats.
    pub information: f64,
}

impl PlugIn {
    /// Creates the bet. `None` if an arm has no share of the requests, because the arms cannot be
    /// compared.
    pub fn new(p: f64, w: f64, delta1: f64) -> Option<Self> {
        if !(w > 0.0 && w < 1.0 && p >= 0.0 && delta1 > 0.0) {
            return None;
        }
        let difference = p - delta1;
        let root = (difference * difference + 4.0 * (1.0 - w) * p * delta1).sqrt();
        // The textbook root, or its conjugate if the former would cancel.
        let q_s = if difference >= 0.0 {
            f64::midpoint(difference, root)
        } else {
            2.0 * (1.0 - w) * p * delta1 / (root - difference)
        };
        let q_c = q_s + delta1;
        let r = p / q_c;
        let r_s = (1.0 - w * r) / (1.0 - w);
        let divergence = |p: f64, q: f64| {
            if p > 0.0 {
                p * (p / q).ln() - (p - q)
            } else {
                q
            }
        };
        let information = w * divergence(p, q_c) + (1.0 - w) * divergence(p, q_s);
        Some(Self {
            q_s,
            q_c,
            r,
            r_s,
            information,
        })
    }

    /// The bet's line for one tick. A canary error at `p = 0` is impossible under the bet: the bet
    /// loses everything.
    pub fn line(&self, counts: &Counts) -> BetLine {
        let term = |errors: f64, factor: f64| {
            if errors > 0.0 {
                errors * factor.max(f64::MIN_POSITIVE).ln()
            } else {
                0.0
            }
        };
        BetLine {
            at_zero: term(counts.canary_errors, self.r) + term(counts.stable_errors, self.r_s),
            slope: counts.canary_requests * (self.r - 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bet::poisson;
    use crate::confidence::LinearMixture;
    use crate::golden::assert_nine_digits;
    use proptest::prelude::*;

    #[test]
    fn golden_g4() {
        let even = PlugIn::new(5e-4, 0.5, 5e-4).unwrap();
        assert_nine_digits(even.q_s, 3.535_533_91e-4);
        assert_nine_digits(even.q_c, 8.535_533_91e-4);
        assert_nine_digits(even.r, 0.585_786_438);
        assert_nine_digits(even.r_s, std::f64::consts::SQRT_2);
        assert_nine_digits(even.information, 5.649_678_9e-5);
        assert_nine_digits(20_f64.ln() / even.information, 53_024.823_7);
        let tenth = PlugIn::new(5e-4, 0.1, 1e-3).unwrap();
        assert_nine_digits(tenth.r, 0.341_089_468);
        assert_nine_digits(tenth.r_s, 1.073_212_28);
        assert_nine_digits(tenth.information, 4.390_585_73e-5);
    }

    fn mixture(counts: &Counts, plug_in: Option<PlugIn>) -> (LinearMixture, Vec<f64>) {
        let lines = RATIOS
            .iter()
            .map(|rho| poisson(counts, *rho, 1.0))
            .chain(plug_in.map(|bet| bet.line(counts)));
        let shared = if plug_in.is_some() {
            1.0 - PLUG_IN_WEIGHT
        } else {
            1.0
        };
        let mut ln_weights = vec![(shared / 7.0).ln(); 7];
        ln_weights.extend(plug_in.map(|_| PLUG_IN_WEIGHT.ln()));
        let mut mixture = LinearMixture::new(ln_weights.len());
        mixture.add(lines);
        (mixture, ln_weights)
    }

    #[test]
    fn golden_g5() {
        let counts = Counts::new(4500.0, 2.0, 4500.0, 3.0);
        let (grid, ln_weights) = mixture(&counts, None);
        assert_nine_digits(grid.ln_value(&ln_weights, 1e-3), 1.551_910_81);
        assert_nine_digits(grid.upper(&ln_weights, 20_f64.ln()), 0.001_537_972_71);
        let (both, ln_weights) = mixture(&counts, PlugIn::new(5e-4, 0.5, 5e-4));
        assert_nine_digits(both.ln_value(&ln_weights, 5e-4), 0.715_526_455);
        assert_nine_digits(both.ln_value(&ln_weights, 1e-3), 1.702_916_03);
        assert_nine_digits(both.upper(&ln_weights, 20_f64.ln()), 0.001_569_026_98);
    }

    #[test]
    fn golden_g6() {
        let counts = Counts::new(6000.0, 0.0, 6000.0, 0.0);
        let (grid, ln_weights) = mixture(&counts, None);
        assert_nine_digits(grid.upper(&ln_weights, 20_f64.ln()), 7.438_833_27e-4);
        assert_nine_digits(grid.ln_value(&ln_weights, 1e-3), 4.296_822_91);
        let plug_in = PlugIn::new(2e-5, 0.5, 5e-4).unwrap();
        assert_nine_digits(plug_in.r, 0.039_200_319_7);
        let (both, ln_weights) = mixture(&counts, Some(plug_in));
        assert_nine_digits(both.upper(&ln_weights, 20_f64.ln()), 5.919_389_08e-4);
        assert_nine_digits(both.ln_value(&ln_weights, 5e-4), 2.493_950_41);
    }

    #[test]
    fn no_comparison_without_two_arms() {
        assert_eq!(PlugIn::new(5e-4, 0.0, 5e-4), None);
        assert_eq!(PlugIn::new(5e-4, 1.0, 5e-4), None);
    }

    #[test]
    fn a_service_that_never_fails_can_still_be_bet_on() {
        let bet = PlugIn::new(0.0, 0.5, 5e-4).unwrap();
        assert_nine_digits(bet.information, 2.5e-4);
        let lost = bet.line(&Counts::new(10.0, 1.0, 10.0, 0.0));
        assert!(lost.at_zero.is_finite() && lost.at_zero < -700.0);
    }

    proptest! {
        /// Holds for every rate `p` of the bet: an inaccurate history does not invalidate the
        /// bound.
        #[test]
        fn the_plug_in_bet_expects_at_most_one_at_and_above_its_margin(
            n_c in 1_u32..20_000, n_s in 1_u32..200_000, p in 0.0_f64..0.5, delta1 in 1e-5_f64..0.1,
            p_s in 0.0_f64..0.9, above in 0.0_f64..=1.0,
        ) {
            let (n_c, n_s) = (f64::from(n_c), f64::from(n_s));
            let bet = PlugIn::new(p, n_c / (n_c + n_s), delta1).unwrap();
            let margin = p_s + delta1;
            prop_assume!(margin <= 1.0);
            let p_c = margin + above * (1.0 - margin);
            let none = bet.line(&Counts::new(n_c, 0.0, n_s, 0.0));
            let factor = |counts: Counts| bet.line(&counts).at_zero.exp_m1();
            let canary = factor(Counts::new(n_c, 1.0, n_s, 0.0));
            let stable = factor(Counts::new(n_c, 0.0, n_s, 1.0));
            let ln_expectation = none.at(delta1) + n_c * (p_c * canary).ln_1p() + n_s * (p_s * stable).ln_1p();
            prop_assert!(ln_expectation <= 1e-9, "{ln_expectation}");
        }
    }
}
