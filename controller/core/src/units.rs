//! The small types that carry a unit or an identity, so that no bare number does.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A share of traffic from 0 to 100 percent, in thousandths of a percent.
///
/// Integers keep the sum of a split exact; the resolution is finer than any router needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Weight(u32);

/// Why a number is not a [`Weight`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0} is not a traffic weight: use a percentage from 0 to 100 with at most three decimals")]
pub struct InvalidWeight(pub f64);

impl Weight {
    /// No traffic.
    pub const ZERO: Self = Self(0);
    /// All of the traffic.
    pub const FULL: Self = Self(100_000);

    /// From thousandths of a percent, at most 100 %.
    pub const fn from_thousandths(thousandths_of_percent: u32) -> Self {
        if thousandths_of_percent > Self::FULL.0 {
            Self::FULL
        } else {
            Self(thousandths_of_percent)
        }
    }

    /// From whole percents, at most 100 %.
    pub const fn percent(percent: u32) -> Self {
        Self::from_thousandths(percent.saturating_mul(1_000))
    }

    /// In thousandths of a percent, 0 to 100,000.
    pub const fn thousandths(self) -> u32 {
        self.0
    }

    /// In percent, 0.0 to 100.0.
    pub fn as_percent(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }

    /// The other side's share.
    #[must_use]
    pub const fn complement(self) -> Self {
        Self(Self::FULL.0 - self.0)
    }

    /// Whether this is no traffic.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The fewest pods out of `replicas` that carry this share: rounded up, so at least 1 for any
    /// traffic at all.
    pub fn pods_of(self, replicas: u32) -> u32 {
        let pods = (u64::from(replicas) * u64::from(self.0)).div_ceil(u64::from(Self::FULL.0));
        let floor = u32::from(self.0 > 0 && replicas > 0);
        u32::try_from(pods).unwrap_or(u32::MAX).max(floor)
    }

    /// This share, limited to what `available` of `needed` pods can carry.
    #[must_use]
    pub fn limited_to_capacity(self, available: u32, needed: u32) -> Self {
        if available == 0 {
            return Self::ZERO;
        }
        if available >= needed {
            return self;
        }
        let cut = u64::from(self.0) * u64::from(available) / u64::from(needed);
        Self(u32::try_from(cut).unwrap_or(self.0))
    }
}

impl TryFrom<f64> for Weight {
    type Error = InvalidWeight;

    fn try_from(percent: f64) -> Result<Self, InvalidWeight> {
        let thousandths = percent * 1_000.0;
        let rounded = thousandths.round();
        if !(0.0..=f64::from(Self::FULL.0)).contains(&rounded)
            || (thousandths - rounded).abs() > 1e-6
        {
            return Err(InvalidWeight(percent));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked just above: a whole number from 0 to 100,000"
        )]
        Ok(Self(rounded as u32))
    }
}

impl From<Weight> for f64 {
    fn from(weight: Weight) -> Self {
        weight.as_percent()
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.as_percent())
    }
}

/// The identity of a pod template: a short hash of the template as the API server stores it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(String);

impl Revision {
    /// A revision from its short hash, as in object names and labels.
    pub fn new(hash: impl Into<String>) -> Self {
        Self(hash.into())
    }

    /// The short hash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The time after a duration; the maximum time if there is none.
pub(crate) fn saturating_add(start: Timestamp, duration: Duration) -> Timestamp {
    start.checked_add(duration).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_percentage_with_three_decimals() {
        assert_eq!(Weight::try_from(0.125), Ok(Weight::from_thousandths(125)));
        assert_eq!(Weight::try_from(100.0), Ok(Weight::FULL));
        for bad in [-1.0, 100.001, 0.0001, f64::NAN, f64::INFINITY] {
            assert!(Weight::try_from(bad).is_err(), "{bad} must be refused");
        }
    }

    #[test]
    fn pods_of_rounds_up_and_never_gives_traffic_to_nobody() {
        assert_eq!(Weight::percent(20).pods_of(10), 2);
        assert_eq!(Weight::percent(5).pods_of(3), 1);
        assert_eq!(Weight::from_thousandths(1).pods_of(1), 1);
        assert_eq!(Weight::ZERO.pods_of(10), 0);
        assert_eq!(Weight::FULL.pods_of(0), 0);
    }

    #[test]
    fn carried_by_cuts_in_proportion() {
        assert_eq!(
            Weight::percent(50).limited_to_capacity(5, 5),
            Weight::percent(50)
        );
        assert_eq!(
            Weight::percent(50).limited_to_capacity(2, 5),
            Weight::percent(20)
        );
        assert_eq!(Weight::percent(50).limited_to_capacity(0, 5), Weight::ZERO);
    }
}
