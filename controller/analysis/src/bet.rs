//! One bet on one tick: the logarithm of an e-value as a linear function of the tolerance.

use crate::counts::Counts;

/// The log e-value of one tick for one bet, as a line over the tolerance `delta`:
/// `l(delta) = at_zero - delta * slope`.
///
/// For every bet here `E[exp(l(delta))] <= exp(slope * (p_c - rho0 * p_s - delta))`. A positive
/// slope bets that the canary is worse, and makes `exp(l)` an e-value for `p_c <= rho0 * p_s +
/// delta`; a negative one bets that it is not, and makes it an e-value for `p_c >= rho0 * p_s +
/// delta`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BetLine {
    /// The log e-value at no tolerance (`A_j` sums these).
    pub at_zero: f64,
    /// The decrease of the log e-value per unit of tolerance (`B_j` sums these).
    pub slope: f64,
}

impl BetLine {
    /// The log e-value at tolerance `delta`.
    pub fn at(&self, delta: f64) -> f64 {
        self.at_zero - delta * self.slope
    }

    /// The line divided by the overdispersion `k >= 1`. By Jensen's inequality a tempered e-value
    /// stays an e-value.
    #[must_use]
    pub fn tempered(self, k: f64) -> Self {
        Self {
            at_zero: self.at_zero / k,
            slope: self.slope / k,
        }
    }
}

/// The Poisson-form bet that the canary's error rate is `rho` times `rho0` times stable's.
///
/// `m = rho0 n_c`, `w = m / (m + n_s)`, `D = 1 + w (rho - 1)`, `r = rho / D`: `l(delta) = e_c ln r
/// - e_s ln D - n_c (r - 1) delta`. Valid for Bernoulli trials too, by `1 + x <= e^x` alone; no
/// asymptotics, and `p_s` may vary in time. Source: the block e-variables of Turner, Ly and
/// Grünwald (JSPI 230, 2024) in the counting form of Lindon and Malek (`NeurIPS` 2022).
pub fn poisson(counts: &Counts, rho: f64, rho0: f64) -> BetLine {
    let weighted = rho0 * counts.canary_requests;
    if weighted <= 0.0 {
        return BetLine::default();
    }
    let share = weighted / (weighted + counts.stable_requests);
    let ln_d = if counts.canary_errors + counts.stable_errors > 0.0 {
        (share * (rho - 1.0)).ln_1p()
    } else {
        0.0
    };
    let ln_r = if counts.canary_errors > 0.0 {
        rho.ln() - ln_d
    } else {
        0.0
    };
    // r - 1 = (1 - w)(rho - 1) / D, without the cancellation; 1 - w from the stable side for the
    // same reason.
    let rest = counts.stable_requests / (weighted + counts.stable_requests);
    let r_minus_1 = rest * (rho - 1.0) / (1.0 + share * (rho - 1.0));
    BetLine {
        at_zero: counts.canary_errors * ln_r - counts.stable_errors * ln_d,
        slope: counts.canary_requests * r_minus_1,
    }
}

/// The share bet: that of the errors of both arms the canary has more than its share.
///
/// With `E = e_c + e_s` and `lam = rho - 1`: `l(delta) =
/// ln(1 + lam e_c) - ln(1 + lam w E) - n_c (r - 1) delta`. If, given the past, the requests and `E`, each error is the canary's with probability
/// at most `w`, then `E[e_c | E] <= w E` and `E[exp l] <= 1`, *whatever the errors have to do with each
/// other*: retries, batches, one client's burst of any size. For independent errors at a rate within
/// the tolerances it follows in the Poisson limit as for [`poisson`]. With one error both are the
/// same bet. It is slower where many errors come at once, because one tick is worth at most `ln
/// 1/w`.
///
/// Source: betting on a bounded mean (Waudby-Smith and Ramdas, JRSS B 86, 2024), on the canary's
/// share of the errors, with the assignment as the only source of chance (Ham, Bojinov, Lindon and
/// Tingley, 2022).
pub fn share(counts: &Counts, rho: f64, rho0: f64) -> BetLine {
    let weighted = rho0 * counts.canary_requests;
    if weighted <= 0.0 {
        return BetLine::default();
    }
    let requests = weighted + counts.stable_requests;
    let share = weighted / requests;
    let lambda = rho - 1.0;
    let errors = counts.canary_errors + counts.stable_errors;
    let at_zero = if errors > 0.0 {
        (lambda * counts.canary_errors).ln_1p() - (lambda * share * errors).ln_1p()
    } else {
        0.0
    };
    let r_minus_1 = counts.stable_requests / requests * lambda / (1.0 + share * lambda);
    BetLine {
        at_zero,
        slope: counts.canary_requests * r_minus_1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::assert_nine_digits;
    use proptest::prelude::*;

    #[test]
    fn golden_g1() {
        let line = poisson(&Counts::new(150.0, 3.0, 1350.0, 1.0), 5.0, 1.0);
        assert_nine_digits(line.slope / 150.0 + 1.0, 3.571_428_57);
        assert_nine_digits(line.at(0.0), 3.482_424_79);
        // 1/D, from a single stable error.
        assert_nine_digits(
            poisson(&Counts::new(150.0, 0.0, 1350.0, 1.0), 5.0, 1.0)
                .at_zero
                .exp(),
            0.714_285_714,
        );
    }

    #[test]
    fn golden_g2() {
        let line = poisson(&Counts::new(150.0, 3.0, 1350.0, 1.0), 5.0, 1.1);
        assert_nine_digits(line.at(5e-5), 3.363_240_15);
        assert_nine_digits(line.tempered(4.0).at(5e-5), 0.840_810_036);
    }

    #[test]
    fn an_arm_without_requests_gives_no_evidence() {
        assert_eq!(poisson(&Counts::default(), 5.0, 1.1), BetLine::default());
        assert_eq!(
            poisson(&Counts::new(0.0, 0.0, 500.0, 3.0), 5.0, 1.1),
            BetLine::default()
        );
    }

    /// `ln E[exp(l(delta))]` over binomial errors, in closed form.
    fn ln_expectation(
        n_c: f64,
        n_s: f64,
        p_c: f64,
        p_s: f64,
        rho: f64,
        rho0: f64,
        delta: f64,
    ) -> f64 {
        let line = poisson(&Counts::new(n_c, 0.0, n_s, 0.0), rho, rho0);
        let canary = poisson(&Counts::new(n_c, 1.0, n_s, 0.0), rho, rho0).at_zero;
        let stable = poisson(&Counts::new(n_c, 0.0, n_s, 1.0), rho, rho0).at_zero;
        n_c * (p_c * canary.exp_m1()).ln_1p() + n_s * (p_s * stable.exp_m1()).ln_1p()
            - line.slope * delta
    }

    proptest! {
        #[test]
        fn the_expectation_is_at_most_one_on_the_null(
            n_c in 1_u32..20_000, n_s in 0_u32..200_000, p_s in 0.0_f64..0.9, rho in 1.01_f64..1000.0,
            rho0 in 1.0_f64..2.0, delta in 0.0_f64..0.05, below in 0.0_f64..=1.0,
        ) {
            let p_c = below * (rho0 * p_s + delta).min(1.0);
            prop_assert!(ln_expectation(n_c.into(), n_s.into(), p_c, p_s, rho, rho0, delta) <= 1e-9);
        }

        #[test]
        fn the_expectation_is_at_most_one_at_the_margin_for_promotion_bets(
            n_c in 1_u32..20_000, n_s in 0_u32..200_000, p_s in 0.0_f64..0.9, rho in 0.01_f64..0.99,
            delta in 0.0_f64..0.05, above in 0.0_f64..=1.0,
        ) {
            let margin = (p_s + delta).min(1.0);
            let p_c = margin + above * (1.0 - margin);
            prop_assume!(p_s + delta <= 1.0);
            prop_assert!(ln_expectation(n_c.into(), n_s.into(), p_c, p_s, rho, 1.0, delta) <= 1e-9);
        }

        #[test]
        fn without_stable_requests_a_bet_has_no_value(n_c in 1_u32..20_000, errors in 0.0_f64..=1.0, rho in 0.01_f64..1000.0) {
            let n_c = f64::from(n_c);
            let line = poisson(&Counts::new(n_c, (errors * n_c).floor(), 0.0, 0.0), rho, 1.1);
            prop_assert!(line.at(0.0).abs() < 1e-9, "{line:?}");
        }

        #[test]
        fn k_of_one_is_the_untempered_form(e_c in 0_u32..100, e_s in 0_u32..100, rho in 0.01_f64..1000.0) {
            let line = poisson(&Counts::new(500.0, e_c.into(), 1500.0, e_s.into()), rho, 1.1);
            prop_assert_eq!(line, line.tempered(1.0));
        }
    }
}
