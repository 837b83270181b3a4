//! The arithmetic of a split: whole-number weights, exact shares.

use serin_core::units::Weight;

/// The largest weight that Gateway API allows.
pub(crate) const MAX_WEIGHT: u64 = 1_000_000;

const THOUSANDTHS: u64 = 100_000;

/// Weights for stable and canary, and what the weights of the other backends are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) stable: u64,
    pub(crate) canary: u64,
    pub(crate) factor: u64,
}

/// The canary's share of both, to the nearest thousandth of a percent; nothing of nothing is
/// nothing.
pub(crate) fn share(stable: u64, canary: u64) -> Weight {
    let both = stable + canary;
    if both == 0 {
        return Weight::ZERO;
    }
    let thousandths = (canary * THOUSANDTHS + both / 2) / both;
    Weight::from_thousandths(u32::try_from(thousandths).unwrap_or(u32::MAX))
}

/// Divides stable's share so that the canary gets `weight` of it.
///
/// `others` is the largest weight of the other backends that get traffic, none where there are
/// none: then the two weights sum to 100, or to 100,000 where `weight` is finer than a percent.
/// Beside others the two sum to `stable_weight * factor`. None: not to be had within
/// [`MAX_WEIGHT`].
pub(crate) fn split(stable_weight: u64, others: Option<u64>, weight: Weight) -> Option<Split> {
    let resolution = if weight.thousandths().is_multiple_of(1_000) {
        100
    } else {
        THOUSANDTHS
    };
    let Some(largest_other) = others else {
        return divide(resolution, 1, weight);
    };
    if stable_weight == 0 {
        return None;
    }
    let wanted = u64::from(weight.thousandths());
    let largest = stable_weight.max(largest_other);
    // The first factor is the same for all whole percents, so that the others' weights stay put
    // from step to step; the second is the smallest that is exact for this weight; the third
    // divides as finely as there is room.
    let factors = [
        resolution / gcd(resolution, stable_weight),
        THOUSANDTHS / gcd(THOUSANDTHS, stable_weight * wanted),
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

    fn weights(stable: u64, canary: u64, factor: u64) -> Split {
        Split {
            stable,
            canary,
            factor,
        }
    }

    #[test]
    fn alone_the_two_sum_to_a_hundred_or_where_that_is_too_coarse_to_a_hundred_thousand() {
        assert_eq!(split(1, None, Weight::percent(5)), Some(weights(95, 5, 1)));
        assert_eq!(split(7, None, Weight::FULL), Some(weights(0, 100, 1)));
        let eighth = Weight::from_thousandths(125);
        assert_eq!(split(1, None, eighth), Some(weights(99_875, 125, 1)));
    }

    #[test]
    fn beside_others_the_factor_is_the_same_for_every_whole_percent() {
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
    fn a_share_that_does_not_fit_exactly_is_rounded_as_long_as_it_reads_back() {
        let odd = Weight::from_thousandths(12_345);
        let found = split(333, Some(667), odd).unwrap();
        assert_eq!(share(found.stable, found.canary), odd);
        assert!(667 * found.factor <= MAX_WEIGHT);
    }

    #[test]
    fn a_share_finer_than_there_is_room_for_is_refused() {
        assert_eq!(split(1, Some(1_000), Weight::from_thousandths(1)), None);
        assert_eq!(split(1, Some(MAX_WEIGHT), Weight::percent(5)), None);
        assert!(split(1, Some(1_000), Weight::percent(5)).is_some());
        assert_eq!(split(0, Some(1), Weight::percent(5)), None);
    }

    #[test]
    fn nothing_of_nothing_is_nothing() {
        assert_eq!(share(0, 0), Weight::ZERO);
    }
}
