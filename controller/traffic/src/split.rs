//! Computes whole-number weights for an exact share.

use serin_core::units::Weight;

/// Maximum weight in Gateway API.
pub(crate) const MAX_WEIGHT: u64 = 1_000_000;

/// The whole of the traffic in thousandths of a percent.
pub(crate) const THOUSANDTHS: u64 = 100_000;

/// Weights of stable and canary, and the factor for the weights of the other backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) stable: u64,
    pub(crate) canary: u64,
    pub(crate) factor: u64,
}

/// The canary's share of the combined weight, rounded to a thousandth of a percent. 0 if both
/// weights are 0.
pub(crate) fn share(stable: u64, canary: u64) -> Weight {
    let both = stable + canary;
    if both == 0 {
        return Weight::ZERO;
    }
    let thousandths = (canary * THOUSANDTHS + both / 2) / both;
    Weight::from_thousandths(u32::try_from(thousandths).unwrap_or(u32::MAX))
}

/// Divides `stable_weight` so that the canary gets `weight` of it.
///
/// `largest_other` is the largest non-zero weight of the other backends. If it is `None`, the two
/// weights sum to 100, or to 100,000 if `weight` is not a whole percentage. Otherwise they sum to
/// `stable_weight * factor`, and with `keeps_total` to `stable_weight` if it can be divided. Returns
/// `None` if the weights would exceed [`MAX_WEIGHT`].
pub(crate) fn split(
    stable_weight: u64,
    largest_other: Option<u64>,
    weight: Weight,
    keeps_total: bool,
) -> Option<Split> {
    let resolution = if weight.thousandths().is_multiple_of(1_000) {
        100
    } else {
        THOUSANDTHS
    };
    let Some(largest_other) = largest_other else {
        return divide(resolution, 1, weight);
    };
    if stable_weight == 0 {
        return None;
    }
    let thousandths = u64::from(weight.thousandths());
    let largest = stable_weight.max(largest_other);
    // The second factor is the same for all whole percentages, so that the weights of the other
    // backends do not change from step to step. The third is the smallest exact factor for this
    // weight. The last has the finest possible resolution.
    let factors = [
        u64::from(keeps_total),
        resolution / gcd(resolution, stable_weight),
        THOUSANDTHS / gcd(THOUSANDTHS, stable_weight * thousandths),
        MAX_WEIGHT / largest,
    ];
    factors
        .into_iter()
        .filter(|factor| *factor > 0 && largest * factor <= MAX_WEIGHT)
        .find_map(|factor| divide(stable_weight * factor, factor, weight))
}

fn divide(both: u64, factor: u64, weight: Weight) -> Option<Split> {
    let canary = (both * u64::from(weight.thousandths()) + THOUSANDTHS / 2) / THOUSANDTHS;
    let stable = both - canary;
    let exact = share(stable, canary) == weight
        && (canary > 0 || weight.is_zero())
        && (stable > 0 || weight == Weight::FULL);
    exact.then_some(Split {
        stable,
        canary,
        factor,
    })
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(stable_weight: u64, largest_other: Option<u64>, weight: Weight) -> Option<Split> {
        super::split(stable_weight, largest_other, weight, false)
    }

    fn weights(stable: u64, canary: u64, factor: u64) -> Split {
        Split {
            stable,
            canary,
            factor,
        }
    }

    #[test]
    fn without_other_backends_the_weights_sum_to_100_or_100_000() {
        assert_eq!(split(1, None, Weight::percent(5)), Some(weights(95, 5, 1)));
        assert_eq!(split(7, None, Weight::FULL), Some(weights(0, 100, 1)));
        let eighth = Weight::from_thousandths(125);
        assert_eq!(split(1, None, eighth), Some(weights(99_875, 125, 1)));
    }

    #[test]
    fn with_other_backends_the_factor_is_the_same_for_every_whole_percentage() {
        assert_eq!(
            split(1, Some(1), Weight::percent(5)),
            Some(weights(95, 5, 100))
        );
        assert_eq!(
            split(1, Some(1), Weight::percent(50)),
            Some(weights(50, 50, 100))
        );
        assert_eq!(
            split(90, Some(10), Weight::percent(5)),
            Some(weights(855, 45, 10))
        );
        assert_eq!(
            split(100, Some(7), Weight::percent(5)),
            Some(weights(95, 5, 1))
        );
    }

    #[test]
    fn the_total_is_kept_if_the_stable_weight_can_be_divided() {
        let kept = |weight| super::split(90, Some(10), weight, true);
        assert_eq!(kept(Weight::percent(50)), Some(weights(45, 45, 1)));
        assert_eq!(kept(Weight::percent(5)), Some(weights(855, 45, 10)));
    }

    #[test]
    fn an_inexact_share_is_rounded_if_it_reads_back_unchanged() {
        let odd = Weight::from_thousandths(12_345);
        let found = split(333, Some(667), odd).unwrap();
        assert_eq!(share(found.stable, found.canary), odd);
        assert!(667 * found.factor <= MAX_WEIGHT);
    }

    #[test]
    fn a_share_that_is_too_fine_is_rejected() {
        assert_eq!(split(1, Some(1_000), Weight::from_thousandths(1)), None);
        assert_eq!(split(1, Some(MAX_WEIGHT), Weight::percent(5)), None);
        assert!(split(1, Some(1_000), Weight::percent(5)).is_some());
        assert_eq!(split(0, Some(1), Weight::percent(5)), None);
    }

    #[test]
    fn the_share_of_zero_weights_is_zero() {
        assert_eq!(share(0, 0), Weight::ZERO);
    }
}
