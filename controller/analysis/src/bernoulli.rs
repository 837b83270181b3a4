//! The Bernoulli form of the bets, for error rates above 5 %. The Poisson form has less power
//! there.
//!
//! A bet is a pair of likelihood ratios, `p_c*/a` on the canary and `p/c` on stable, where `a =
//! rho0 c`. With `x = (p_c* - a) / (a (1 - a))` the canary's factor is `1 + (p_c - a) x` in
//! expectation, and stable's likewise; `c` is chosen so that the two slopes cancel, `rho0 n_c x +
//! n_s x_s = 0`, which by concavity of the logarithm gives `E[exp(l)] <= exp(n_c x (p_c - rho0
//! p_s))`. At `rho0 = 1` this is `p0 = w p_c* + (1 - w) p`, the block e-variable of Turner, Ly and
//! Grünwald (JSPI 230, 2024); the tolerance is our extension, by the argument above.

use crate::bet::BetLine;
use crate::counts::Counts;

/// Error rate above which the Bernoulli form has more power.
pub const BERNOULLI_MIN_RATE: f64 = 0.05;

/// Odds ratios of the rollback bets, with equal weights.
pub const ODDS_RATIOS: [f64; 6] = [1.1, 1.25, 1.5, 2.0, 4.0, 10.0];

/// `expit(logit(p) + ln(psi))`: the rate whose odds are `psi` times those of `p`.
pub fn rate_at_odds_ratio(p: f64, psi: f64) -> f64 {
    psi * p / (1.0 - p + psi * p)
}

/// The bet that the canary's odds of failing are `psi` times those of `p`, the assumed error rate
/// of stable. The power of the bet depends on `p`, its validity does not.
///
/// A bet within the tolerance (`p_c* <= rho0 p` for `psi > 1`) has no power and is replaced by a
/// constant 1.
pub fn bernoulli(counts: &Counts, p: f64, psi: f64, rho0: f64) -> BetLine {
    let n_c = counts.canary_requests;
    let n_s = counts.stable_requests;
    if n_c <= 0.0 || n_s <= 0.0 {
        return BetLine::default();
    }
    let p_c = rate_at_odds_ratio(p, psi);
    if psi > 1.0 && p_c <= rho0 * p {
        return BetLine::default();
    }
    // n_c (p_c - rho0 c)(1 - c) = n_s (c - p)(1 - rho0 c), the smaller root, with shares instead of
    // counts to stay in range.
    let w = n_c / (n_c + n_s);
    let half_sum = w * (p_c + rho0) + (1.0 - w) * (1.0 + rho0 * p);
    let product = w * p_c + (1.0 - w) * p;
    let root = (half_sum * half_sum - 4.0 * rho0 * product).max(0.0).sqrt();
    let c = 2.0 * product / (half_sum + root);
    likelihood_ratio(counts, (p_c, rho0 * c), (p, c))
}

/// The promotion bet that both arms fail at rate `p`, optimal against an excess of exactly
/// `delta1`.
///
/// `q_c = q_s + delta1`, with `q_s` such that the slopes cancel: `w (p - q_c) / (q_c (1 - q_c)) +
/// (1 - w)(p - q_s) / (q_s (1 - q_s)) = 0`.
pub fn bernoulli_plug_in(counts: &Counts, p: f64, delta1: f64) -> BetLine {
    let n_c = counts.canary_requests;
    let n_s = counts.stable_requests;
    if n_c <= 0.0 || n_s <= 0.0 || p <= 0.0 || p >= 1.0 {
        return BetLine::default();
    }
    let w = n_c / (n_c + n_s);
    let slope = |p: f64, q: f64| (p - q) / (q * (1.0 - q));
    let (mut low, mut high) = ((p - delta1).max(0.0), p.min(1.0 - delta1));
    for _ in 0..60 {
        let q_s = f64::midpoint(low, high);
        if w * slope(p, q_s + delta1) + (1.0 - w) * slope(p, q_s) > 0.0 {
            low = q_s;
        } else {
            high = q_s;
        }
    }
    let q_s = f64::midpoint(low, high);
    let line = likelihood_ratio(counts, (p, q_s + delta1), (p, q_s));
    // The ratio is an e-value at an excess of delta1. The line is relative to an excess of 0.
    BetLine {
        at_zero: line.at_zero + line.slope * delta1,
        slope: line.slope,
    }
}

/// The log-likelihood ratio of `(alternative, null)` on the canary and on stable.
fn likelihood_ratio(counts: &Counts, canary: (f64, f64), stable: (f64, f64)) -> BetLine {
    let good = |requests: f64, errors: f64| (requests - errors).max(0.0);
    let log_ratio = |errors: f64, goods: f64, (p, q): (f64, f64)| {
        // A term without events is omitted: its logarithm may be infinite.
        let bad = if errors > 0.0 {
            errors * (p / q).ln()
        } else {
            0.0
        };
        let well = if goods > 0.0 {
            goods * ((1.0 - p) / (1.0 - q)).ln()
        } else {
            0.0
        };
        bad + well
    };
    let (p, q) = canary;
    BetLine {
        at_zero: log_ratio(
            counts.canary_errors,
            good(counts.canary_requests, counts.canary_errors),
            canary,
        ) + log_ratio(
            counts.stable_errors,
            good(counts.stable_requests, counts.stable_errors),
            stable,
        ),
        slope: counts.canary_requests * (p - q) / (q * (1.0 - q)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::assert_nine_digits;
    use proptest::prelude::*;

    #[test]
    fn golden_g10_bernoulli() {
        let p_c = rate_at_odds_ratio(0.3, 1.5);
        assert_nine_digits(p_c, 0.391_304_348);
        assert_nine_digits(0.1 * p_c + 0.9 * 0.3, 0.309_130_435);
        assert_nine_digits(
            bernoulli(&Counts::new(200.0, 80.0, 1800.0, 540.0), 0.3, 1.5, 1.0).at_zero,
            4.015_126_39,
        );
    }

    /// `ln E[exp(l)]` at `delta`, over binomial errors, in closed form.
    fn ln_expectation(
        bet: impl Fn(&Counts) -> BetLine,
        n: (f64, f64),
        p: (f64, f64),
        delta: f64,
    ) -> f64 {
        // Per-request log factors, recovered from counts that differ by one error.
        let none = bet(&Counts::new(n.0, 0.0, n.1, 0.0));
        let canary = bet(&Counts::new(n.0, 1.0, n.1, 0.0)).at_zero - none.at_zero;
        let stable = bet(&Counts::new(n.0, 0.0, n.1, 1.0)).at_zero - none.at_zero;
        none.at(delta)
            + n.0 * (p.0 * canary.exp_m1()).ln_1p()
            + n.1 * (p.1 * stable.exp_m1()).ln_1p()
    }

    proptest! {
        #[test]
        fn the_expectation_is_at_most_one_on_the_null(
            n_c in 1_u32..2000, n_s in 1_u32..20_000, p in 0.01_f64..0.95, psi in 1.01_f64..20.0, rho0 in 1.0_f64..1.5,
            p_s in 0.0_f64..=1.0, delta in 0.0_f64..0.05, below in 0.0_f64..=1.0,
        ) {
            let p_c = below * (rho0 * p_s + delta).min(1.0);
            let bet = |counts: &Counts| bernoulli(counts, p, psi, rho0);
            prop_assert!(ln_expectation(bet, (n_c.into(), n_s.into()), (p_c, p_s), delta) <= 1e-6);
        }

        #[test]
        fn promotion_bets_hold_at_and_above_their_margin(
            n_c in 1_u32..2000, n_s in 1_u32..20_000, p in 0.06_f64..0.9, psi in 0.05_f64..0.95,
            p_s in 0.0_f64..=0.9, delta in 0.0_f64..0.1, above in 0.0_f64..=1.0, plug_in: bool,
        ) {
            let p_c = p_s + delta + above * (1.0 - p_s - delta);
            let bet = |counts: &Counts| {
                if plug_in { bernoulli_plug_in(counts, p, 0.05) } else { bernoulli(counts, p, psi, 1.0) }
            };
            prop_assert!(ln_expectation(bet, (n_c.into(), n_s.into()), (p_c, p_s), delta) <= 1e-6);
        }

        #[test]
        fn slopes_have_the_sign_of_the_bet(n_c in 1_u32..2000, n_s in 1_u32..20_000, p in 0.06_f64..0.9, psi in 0.05_f64..20.0) {
            let line = bernoulli(&Counts::new(n_c.into(), 0.0, n_s.into(), 0.0), p, psi, 1.0);
            prop_assert!(line.slope * (psi - 1.0) >= 0.0);
            prop_assert!(bernoulli_plug_in(&Counts::new(n_c.into(), 0.0, n_s.into(), 0.0), p, 0.05).slope < 0.0);
        }
    }
}
