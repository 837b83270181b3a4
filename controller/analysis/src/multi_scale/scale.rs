//! Pearson's statistic of the blocks of one time scale, and the temper that follows.

use serde::{Deserialize, Serialize};

/// Standard normal quantile of the significance that a scale needs: 0.5 %.
pub(super) const SIGNIFICANT: f64 = 2.575_829;
/// Standard normal quantile of the significance that single scrapes need: 10 %.
const INDICATIVE: f64 = 1.281_552;

/// Pearson's statistic of one block: `X2 = sum (e_i - E s_i)^2 / (E s_i)` with the share `s_i` of
/// the requests of each of `P` cells and `E` errors.
///
/// Given `E`, independent errors have the mean `P - 1` and the variance `2 (P - 1) + (sum 1/s_i -
/// P^2 - 2 P + 2) / E` (Haldane, Biometrika 29, 1937), also where `E` is small.
pub(super) struct BlockStatistic {
    errors: f64,
    degrees: f64,
    chi_squared: f64,
    variance: f64,
}

impl BlockStatistic {
    /// `None` without an error or with fewer than two cells that served requests.
    pub(super) fn new(cells: impl Iterator<Item = (f64, f64)> + Clone) -> Option<Self> {
        let serving = || cells.clone().filter(|(requests, _)| *requests > 0.0);
        let (mut count, mut requests, mut errors) = (0.0, 0.0, 0.0);
        for (served, failed) in serving() {
            count += 1.0;
            requests += served;
            errors += failed;
        }
        if count < 2.0 || errors <= 0.0 {
            return None;
        }
        let (mut chi_squared, mut inverse_shares) = (0.0, 0.0);
        for (served, failed) in serving() {
            let expected = errors * (served / requests);
            let excess = failed - expected;
            chi_squared += excess * excess / expected;
            inverse_shares += requests / served;
        }
        let degrees = count - 1.0;
        let small = (inverse_shares - count * count - 2.0 * count + 2.0) / errors;
        (chi_squared.is_finite() && inverse_shares.is_finite()).then_some(Self {
            errors,
            degrees,
            chi_squared,
            variance: (2.0 * degrees + small).max(0.0),
        })
    }
}

/// Sums over the blocks of one scale.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 5]", into = "[f64; 5]")]
pub(super) struct Scale {
    chi_squared: f64,
    degrees: f64,
    variance: f64,
    /// The same two, weighted by the errors of their block.
    weighted_chi_squared: f64,
    weighted_degrees: f64,
}

impl From<[f64; 5]> for Scale {
    fn from(sums: [f64; 5]) -> Self {
        let [
            chi_squared,
            degrees,
            variance,
            weighted_chi_squared,
            weighted_degrees,
        ] = sums;
        Self {
            chi_squared,
            degrees,
            variance,
            weighted_chi_squared,
            weighted_degrees,
        }
    }
}

impl From<Scale> for [f64; 5] {
    fn from(scale: Scale) -> Self {
        [
            scale.chi_squared,
            scale.degrees,
            scale.variance,
            scale.weighted_chi_squared,
            scale.weighted_degrees,
        ]
    }
}

impl Scale {
    pub(super) fn add(&mut self, block: &BlockStatistic) {
        self.chi_squared += block.chi_squared;
        self.degrees += block.degrees;
        self.variance += block.variance;
        self.weighted_chi_squared += block.errors * block.chi_squared;
        self.weighted_degrees += block.errors * block.degrees;
    }

    /// `phi` of this scale. `None` without an error.
    pub(super) fn phi(&self) -> Option<f64> {
        (self.weighted_degrees > 0.0).then(|| self.weighted_chi_squared / self.weighted_degrees)
    }

    /// Whether a statistic this large would be rare if errors come in clusters of `size`: a scaled
    /// chi-squared distribution with its mean and variance, and at least the variance of
    /// chi-squared.
    pub(super) fn is_significant_beyond(&self, size: f64) -> bool {
        if self.degrees <= 0.0 {
            return false;
        }
        let scale = (self.variance / (2.0 * self.degrees)).max(1.0) * size;
        self.chi_squared / scale > chi_squared_quantile(self.degrees * size / scale, SIGNIFICANT)
    }

    /// Whether single scrapes show clusters: less strict, because a few small clusters in an hour are
    /// all that a service with little traffic shows, and with the exact variance, which is 0 for
    /// single errors on pods with equal traffic.
    fn is_indicative(&self) -> bool {
        let scale = self.variance / (2.0 * self.degrees);
        scale.is_normal()
            && self.chi_squared / scale > chi_squared_quantile(self.degrees / scale, INDICATIVE)
    }

    /// Whether this scale has compared anything.
    pub(super) fn has_data(&self) -> bool {
        self.degrees > 0.0
    }

    /// The temper that this scale asks for: 1 unless it is significant.
    pub(super) fn k(&self) -> f64 {
        self.k_if(self.is_significant_beyond(1.0))
    }

    /// The temper that single scrapes of pods ask for.
    pub(super) fn k_of_scrapes(&self) -> f64 {
        self.k_if(self.is_indicative())
    }

    /// Few pods and blocks know little, so `phi` is divided by the median of its distribution, not by
    /// its mean.
    fn k_if(&self, is_clustered: bool) -> f64 {
        let phi = self.phi().filter(|_| is_clustered);
        let k = |phi: f64| phi * self.degrees / chi_squared_quantile(self.degrees, 0.0);
        phi.map_or(1.0, k).max(1.0)
    }
}

/// Quantile of the chi-squared distribution at a standard normal quantile `z`, by the cube root of
/// Wilson and Hilferty (1931). Within 1 % at the quantiles used here from one degree of freedom on,
/// and within 4 % at the median.
pub(crate) fn chi_squared_quantile(degrees: f64, z: f64) -> f64 {
    let spread = 2.0 / (9.0 * degrees);
    let root = 1.0 - spread + z * spread.sqrt();
    degrees * root * root * root
}
