//! Whether errors and requests reach the two arms one by one, for sources that do not distinguish
//! pods, such as a gateway.
//!
//! The bound conditions on the errors of both arms together, so what both share, such as an error
//! rate that drifts, is harmless. What breaks it are clusters that reach one arm as a whole. They
//! show in the canary's share of the errors: it varies more in time than a binomial number. The share
//! is compared with its own mean at this weight, so that a canary that is worse all the time, which
//! is what the evidence is about, is no cluster.

use serde::{Deserialize, Serialize};

use crate::counts::Tick;
use crate::multi_scale::chi_squared_quantile;

/// Blocks are compared up to this length, in milliseconds.
const MAX_BLOCK_MS: i64 = 300_000;
/// Number of scales: blocks of up to 64 ticks.
const MAX_LEVELS: usize = 7;
/// Standard normal quantile of the significance that a scale needs: 0.5 %.
const SIGNIFICANT: f64 = 2.575_829;
/// Standard normal quantile of the significance that single ticks need: 10 %.
const INDICATIVE: f64 = 1.281_552;
/// Standard normal quantile at which clusters of the history count as refuted: 5 %.
const REFUTED: f64 = -1.644_854;
/// Requests of a router that is not exactly binomial, for example because it counts connections,
/// vary up to this much more.
const ROUTER_TOLERANCE: f64 = 1.5;

/// Ratio of the tempers of long and short blocks from which clusters count as lasting.
const LASTING: f64 = 1.3;

/// Sums over the ticks of one block, with the canary's share `w` of the requests of each tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "([f64; 6], i64)", into = "([f64; 6], i64)")]
struct ArmBlock {
    /// The canary's errors.
    canary: f64,
    /// Its errors if it is as good as stable: all errors times `w`.
    expected: f64,
    /// All errors times the square of `w`.
    squared: f64,
    /// The canary's errors for each unit by which its error rate exceeds stable's, of all errors
    /// given: its requests times `1 - w`.
    exposure: f64,
    /// Variance of `canary - expected` for independent errors, from their numbers.
    variance: f64,
    /// The fourth cumulant.
    cumulant: f64,
    length_ms: i64,
}

impl From<([f64; 6], i64)> for ArmBlock {
    fn from((sums, length_ms): ([f64; 6], i64)) -> Self {
        let [canary, expected, squared, exposure, variance, cumulant] = sums;
        Self {
            canary,
            expected,
            squared,
            exposure,
            variance,
            cumulant,
            length_ms,
        }
    }
}

impl From<ArmBlock> for ([f64; 6], i64) {
    fn from(block: ArmBlock) -> Self {
        let sums = [
            block.canary,
            block.expected,
            block.squared,
            block.exposure,
            block.variance,
            block.cumulant,
        ];
        (sums, block.length_ms)
    }
}

impl ArmBlock {
    fn new(tick: &Tick) -> Self {
        let counts = &tick.counts;
        let (canary, stable) = (counts.canary_errors, counts.stable_errors);
        let share = counts.canary_share().unwrap_or(0.0);
        let rest = 1.0 - share;
        Self {
            canary,
            expected: (canary + stable) * share,
            squared: (canary + stable) * share * share,
            exposure: counts.canary_requests * rest,
            variance: rest.powi(2) * canary + share.powi(2) * stable,
            cumulant: rest.powi(4) * canary + share.powi(4) * stable,
            length_ms: tick.at_ms.saturating_sub(tick.started_ms).max(1),
        }
    }

    fn merge(&mut self, other: &Self) {
        self.canary += other.canary;
        self.expected += other.expected;
        self.squared += other.squared;
        self.exposure += other.exposure;
        self.variance += other.variance;
        self.cumulant += other.cumulant;
        self.length_ms = self.length_ms.saturating_add(other.length_ms);
    }
}

/// Sums over the blocks of one scale at one weight. From them follow the squared deviations of the
/// canary's errors from two models of a canary that is worse all the time: it has `theta` times its
/// share of the errors, or an error rate that is larger by a constant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 12]", into = "[f64; 12]")]
struct Segment {
    canary: f64,
    expected: f64,
    squared: f64,
    exposure: f64,
    variance: f64,
    cumulant: f64,
    canary_canary: f64,
    canary_expected: f64,
    expected_expected: f64,
    /// Sums of the products with the exposure: of the surplus `canary - expected`, and of itself.
    surplus_exposure: f64,
    exposure_exposure: f64,
    variance_variance: f64,
}

impl From<[f64; 12]> for Segment {
    fn from(sums: [f64; 12]) -> Self {
        let [
            canary,
            expected,
            squared,
            exposure,
            variance,
            cumulant,
            canary_canary,
            canary_expected,
            expected_expected,
            surplus_exposure,
            exposure_exposure,
            variance_variance,
        ] = sums;
        Self {
            canary,
            expected,
            squared,
            exposure,
            variance,
            cumulant,
            canary_canary,
            canary_expected,
            expected_expected,
            surplus_exposure,
            exposure_exposure,
            variance_variance,
        }
    }
}

impl From<Segment> for [f64; 12] {
    fn from(sums: Segment) -> Self {
        [
            sums.canary,
            sums.expected,
            sums.squared,
            sums.exposure,
            sums.variance,
            sums.cumulant,
            sums.canary_canary,
            sums.canary_expected,
            sums.expected_expected,
            sums.surplus_exposure,
            sums.exposure_exposure,
            sums.variance_variance,
        ]
    }
}

impl Segment {
    fn add(&mut self, block: &ArmBlock) {
        self.canary += block.canary;
        self.expected += block.expected;
        self.squared += block.squared;
        self.exposure += block.exposure;
        self.variance += block.variance;
        self.cumulant += block.cumulant;
        self.surplus_exposure += (block.canary - block.expected) * block.exposure;
        self.exposure_exposure += block.exposure * block.exposure;
        self.variance_variance += block.variance * block.variance;
        self.canary_canary += block.canary * block.canary;
        self.canary_expected += block.canary * block.expected;
        self.expected_expected += block.expected * block.expected;
    }

    /// The deviations from a constant share of the errors, with their moments for independent errors.
    /// All zero if nothing can vary.
    fn about_share(&self) -> Variation {
        if self.canary <= 0.0 || self.expected <= 0.0 {
            return Variation::default();
        }
        let theta = self.canary / self.expected;
        let share = theta * self.squared / self.expected;
        let variance = self.canary * (1.0 - share);
        let squares = (theta * (1.0 - share)).powi(2) * self.expected_expected;
        let blocks = variance * variance / squares;
        if variance <= 0.0 || !blocks.is_finite() || blocks <= 1.0 + 1e-9 {
            return Variation::default();
        }
        // The mean is estimated, which takes one degree of freedom.
        let free = 1.0 - 1.0 / blocks;
        let observed = self.canary_canary - 2.0 * theta * self.canary_expected
            + theta * theta * self.expected_expected;
        // The fourth cumulant of a binomial number.
        let excess = variance * (1.0 - 6.0 * share * (1.0 - share)).max(0.0);
        Variation {
            observed: observed.max(0.0),
            mean: variance * free,
            normal: 2.0 * squares * free,
            excess: excess * free,
        }
    }

    /// The deviations from an error rate that exceeds stable's by a constant.
    fn about_excess(&self) -> Variation {
        let blocks = self.variance * self.variance / self.variance_variance;
        if !blocks.is_finite() || blocks <= 1.0 + 1e-9 || self.exposure_exposure <= 0.0 {
            return Variation::default();
        }
        let excess = (self.canary - self.expected) / self.exposure;
        let surplus = self.canary_canary - 2.0 * self.canary_expected + self.expected_expected;
        let observed = surplus - 2.0 * excess * self.surplus_exposure
            + excess * excess * self.exposure_exposure;
        let free = 1.0 - 1.0 / blocks;
        Variation {
            observed: observed.max(0.0),
            mean: self.variance * free,
            normal: 2.0 * self.variance_variance * free,
            excess: self.cumulant * free,
        }
    }

    fn models(&self) -> Models {
        Models {
            share: self.about_share(),
            excess: self.about_excess(),
        }
    }
}

/// A sum of squared deviations, its mean for independent errors, and the two parts of its variance:
/// that of normal numbers and the fourth cumulant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 4]", into = "[f64; 4]")]
struct Variation {
    observed: f64,
    mean: f64,
    normal: f64,
    excess: f64,
}

impl From<[f64; 4]> for Variation {
    fn from([observed, mean, normal, excess]: [f64; 4]) -> Self {
        Self {
            observed,
            mean,
            normal,
            excess,
        }
    }
}

impl From<Variation> for [f64; 4] {
    fn from(sums: Variation) -> Self {
        [sums.observed, sums.mean, sums.normal, sums.excess]
    }
}

impl Variation {
    fn add(&mut self, other: &Self) {
        self.observed += other.observed;
        self.mean += other.mean;
        self.normal += other.normal;
        self.excess += other.excess;
    }

    /// The degrees of freedom of a scaled chi-squared distribution with the mean and the variance for
    /// clusters of `size`.
    fn degrees(&self, size: f64) -> f64 {
        2.0 * self.mean * self.mean / (self.normal + size * self.excess)
    }

    /// The statistic in units of that distribution, and its quantile at `z`.
    fn compare(&self, size: f64, z: f64) -> Option<(f64, f64)> {
        let degrees = self.degrees(size);
        (self.mean > 0.0 && degrees.is_normal()).then(|| {
            let scaled = self.observed / (size * self.mean) * degrees;
            (scaled, chi_squared_quantile(degrees, z))
        })
    }

    fn exceeds(&self, size: f64, z: f64) -> bool {
        self.compare(size, z)
            .is_some_and(|(scaled, limit)| scaled > limit)
    }

    /// Whether a statistic this small would be rare if errors came in clusters of `size`.
    fn refutes(&self, size: f64) -> bool {
        self.compare(size, REFUTED)
            .is_some_and(|(scaled, limit)| scaled < limit)
    }

    /// The temper: 1 unless the statistic is significant at `z`. Otherwise divided by the median of
    /// its distribution, because few blocks know little.
    fn k(&self, z: f64) -> f64 {
        if !self.exceeds(1.0, z) {
            return 1.0;
        }
        self.compare(1.0, 0.0)
            .map_or(1.0, |(scaled, median)| (scaled / median).max(1.0))
    }
}

/// The deviations from both models of a canary that is worse all the time. If one of them explains the
/// errors, there are no clusters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Models {
    share: Variation,
    excess: Variation,
}

impl Models {
    fn add(&mut self, other: &Self) {
        self.share.add(&other.share);
        self.excess.add(&other.excess);
    }

    fn k(&self, z: f64) -> f64 {
        self.share.k(z).min(self.excess.k(z))
    }

    fn refutes(&self, size: f64) -> bool {
        self.share.refutes(size) || self.excess.refutes(size)
    }
}

/// The overdispersion of the canary's share of the errors and of the requests. Serializable and
/// bounded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArmDispersion {
    /// The scales at the present weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scales: Vec<Segment>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<Option<ArmBlock>>,
    /// The scales at earlier weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<Models>,
    /// Requests of both arms in the latest tick at this weight that has no successor yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requests: Option<(f64, f64)>,
    /// Pearson's statistic of the requests of two successive ticks and both arms, and the number of
    /// pairs.
    #[serde(default)]
    routing: (f64, f64),
}

impl ArmDispersion {
    /// Adds a tick with requests to both arms at the present weight.
    pub fn add(&mut self, tick: &Tick) {
        self.add_requests((tick.counts.canary_requests, tick.counts.stable_requests));
        let mut block = ArmBlock::new(tick);
        for level in 0..MAX_LEVELS {
            if block.length_ms > MAX_BLOCK_MS && level > 0 {
                return;
            }
            if self.scales.len() <= level {
                self.scales.resize(level + 1, Segment::default());
            }
            if self.waiting.len() <= level {
                self.waiting.resize(level + 1, None);
            }
            self.scales[level].add(&block);
            match self.waiting[level].take() {
                Some(earlier) => block.merge(&earlier),
                None => {
                    self.waiting[level] = Some(block);
                    return;
                }
            }
        }
    }

    fn add_requests(&mut self, (canary, stable): (f64, f64)) {
        let Some((earlier_canary, earlier_stable)) = self.requests.take() else {
            self.requests = Some((canary, stable));
            return;
        };
        let cross = earlier_canary * stable - canary * earlier_stable;
        let (earlier, later) = (earlier_canary + earlier_stable, canary + stable);
        let margins = earlier * later * (earlier_canary + canary) * (earlier_stable + stable);
        if margins > 0.0 {
            self.routing.0 += cross * cross * (earlier + later) / margins;
            self.routing.1 += 1.0;
        }
    }

    /// Begins new blocks, because the weight changes.
    pub fn change_weight(&mut self) {
        let scales = std::mem::take(&mut self.scales);
        for (level, segment) in scales.iter().enumerate() {
            if self.earlier.len() <= level {
                self.earlier.resize(level + 1, Models::default());
            }
            self.earlier[level].add(&segment.models());
        }
        self.waiting.clear();
        self.requests = None;
    }

    /// Whether nothing was learned yet.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn models(&self, level: usize) -> Models {
        let mut sum = self.earlier.get(level).copied().unwrap_or_default();
        if let Some(segment) = self.scales.get(level) {
            sum.add(&segment.models());
        }
        sum
    }

    fn k_of_ticks(&self) -> f64 {
        self.models(0).k(INDICATIVE)
    }

    /// The temper: the largest of all significant scales, at least 1.
    pub fn k(&self) -> f64 {
        let levels = self.scales.len().max(self.earlier.len());
        (1..levels)
            .map(|level| self.models(level).k(SIGNIFICANT))
            .fold(self.k_of_ticks(), f64::max)
    }

    /// Whether clusters of errors outlast a tick.
    pub fn clusters_last(&self) -> bool {
        self.k() > LASTING * self.k_of_ticks()
    }

    /// Whether errors would hardly be spread over the arms as they are if they came in clusters of
    /// `size` that reach one arm within a tick.
    pub fn refutes_clusters(&self, size: f64) -> bool {
        size <= 1.0 || self.models(0).refutes(size)
    }

    /// Whether requests reach the arms in clusters, as with connections or session affinity.
    pub fn routes_in_clusters(&self) -> bool {
        let (statistic, pairs) = self.routing;
        pairs > 0.0 && statistic / ROUTER_TOLERANCE > chi_squared_quantile(pairs, SIGNIFICANT)
    }
}

#[cfg(test)]
mod tests;
