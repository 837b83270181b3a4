//! The share of the traffic: what is in effect, apart from what is desired.

use serde::Serialize;

/// A revision's share of the traffic in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TrafficShare {
    /// The share in effect. `None` if it is not verified.
    #[serde(rename = "weightPercent")]
    pub in_effect: Option<f64>,
    /// The desired share.
    #[serde(rename = "desiredWeightPercent")]
    pub desired: f64,
}

impl TrafficShare {
    /// The share of a canary with `desired` and `verified` weight. A canary without available pods
    /// serves no traffic. `available_pods` is `None` if the pods are unknown.
    pub fn for_canary(desired: f64, verified: Option<f64>, available_pods: Option<i32>) -> Self {
        let has_no_pods = available_pods == Some(0) && !same_weight(desired, 0.0);
        Self {
            in_effect: if has_no_pods { Some(0.0) } else { verified },
            desired,
        }
    }

    /// The share of the other revision, rounded to the resolution of a weight, so that 79.99999 is
    /// not shown.
    #[must_use]
    pub fn complement(self) -> Self {
        let complement = |share: f64| ((100.0 - share) * 1_000.0).round() / 1_000.0;
        Self {
            in_effect: self.in_effect.map(complement),
            desired: complement(self.desired),
        }
    }

    /// Whether the desired share is in effect.
    pub fn is_in_effect(&self) -> bool {
        self.in_effect
            .is_some_and(|in_effect| same_weight(in_effect, self.desired))
    }

    /// The share in words, for example `20 % of traffic` or `0 % in effect, 20 % desired`.
    pub fn describe(&self) -> String {
        let desired = self.desired;
        match self.in_effect {
            Some(_) if self.is_in_effect() => format!("{desired} % of traffic"),
            Some(in_effect) => format!("{in_effect} % in effect, {desired} % desired"),
            None => format!("{desired} % desired, not verified in effect"),
        }
    }
}

/// Compares two weights in percent at their resolution of 0.001 %.
pub fn same_weight(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_verified_share_with_pods_is_in_effect() {
        let text = |verified, pods| TrafficShare::for_canary(50.0, verified, pods).describe();
        assert_eq!(text(Some(50.0), Some(2)), "50 % of traffic");
        assert_eq!(text(Some(50.0), None), "50 % of traffic");
        assert_eq!(text(None, Some(2)), "50 % desired, not verified in effect");
        assert_eq!(text(None, Some(0)), "0 % in effect, 50 % desired");
        assert_eq!(text(Some(50.0), Some(0)), "0 % in effect, 50 % desired");
    }

    #[test]
    fn the_stable_revision_has_the_rest() {
        let share = TrafficShare::for_canary(20.0, Some(0.0), Some(1)).complement();
        assert_eq!(share.describe(), "100 % in effect, 80 % desired");
    }
}
