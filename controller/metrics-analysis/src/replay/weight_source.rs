//! The canary weight at each point in time, as given or as shown by the recorded traffic.

use std::collections::VecDeque;

use serin_analysis::Counts;
use serin_core::units::Weight;

/// Source of the canary weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightSource {
    /// Derived from the recorded requests.
    Observed,
    /// Given explicitly: milliseconds since the first request to the canary, and the weight from
    /// then on.
    Set(Vec<(i64, Weight)>),
}

/// Time window over which the weight is measured, in milliseconds.
const WINDOW_MS: i64 = 60_000;
/// Number of standard errors, and fraction of the weight, by which the traffic must deviate before
/// the weight is considered changed.
const STANDARD_ERRORS: f64 = 5.0;
const MIN_RELATIVE_CHANGE: f64 = 0.2;

/// Estimates the weight from the requests of the last minute.
#[derive(Clone, Debug, Default)]
pub(super) struct WeightEstimator {
    recent: VecDeque<(i64, Counts)>,
    weight: Option<Weight>,
}

impl WeightEstimator {
    /// Adds a round and returns the estimated weight.
    pub(super) fn observe(&mut self, at_ms: i64, counts: &Counts) -> Option<Weight> {
        self.recent.push_back((at_ms, *counts));
        while self
            .recent
            .front()
            .is_some_and(|(old_ms, _)| at_ms.saturating_sub(*old_ms) >= WINDOW_MS)
        {
            self.recent.pop_front();
        }
        let mut all = Counts::default();
        self.recent.iter().for_each(|(_, counts)| all.add(counts));
        // The newest round first, because the minute of a change contains requests at both weights.
        let changed = [counts, &all]
            .into_iter()
            .find_map(|counts| self.changed_weight(counts));
        if let Some(weight) = changed {
            self.weight = Some(weight);
            // Earlier rounds belong to another weight.
            self.recent.drain(..self.recent.len().saturating_sub(1));
        }
        self.weight
    }

    /// The weight that these requests show, if it differs from the known one.
    fn changed_weight(&self, counts: &Counts) -> Option<Weight> {
        let share = counts.canary_share()?;
        let is_off = self.weight.is_none_or(|weight| {
            let weight = weight.as_percent() / 100.0;
            let error = (weight * (1.0 - weight) / counts.requests())
                .max(0.0)
                .sqrt();
            let off = (share - weight).abs();
            off > STANDARD_ERRORS * error && off > MIN_RELATIVE_CHANGE * weight
        });
        is_off.then(|| rounded_weight(share))
    }
}

/// Rounds to a typical weight: whole percents from 10 % on, and tenths of a percent below.
fn rounded_weight(share: f64) -> Weight {
    let unit = if share >= 0.1 { 1_000.0 } else { 100.0 };
    let thousandths = ((share * 100_000.0 / unit).round() * unit).clamp(unit, 100_000.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 100 to 100,000, as just clamped"
    )]
    Weight::from_thousandths(thousandths as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_follows_the_traffic_but_not_its_noise() {
        let mut observer = WeightEstimator::default();
        let weight = |observer: &mut WeightEstimator, at: i64, canary: f64| {
            observer
                .observe(
                    at * 15_000,
                    &Counts::new(canary, 0.0, 1_500.0 - canary, 0.0),
                )
                .unwrap()
                .as_percent()
        };
        assert!((weight(&mut observer, 1, 76.0) - 5.1).abs() < 1e-9);
        assert!(
            (weight(&mut observer, 2, 70.0) - 5.1).abs() < 1e-9,
            "a little less by chance"
        );
        assert!(
            (weight(&mut observer, 3, 302.0) - 20.0).abs() < 1e-9,
            "one scrape of much traffic is enough"
        );
        assert!((weight(&mut observer, 4, 300.0) - 20.0).abs() < 1e-9);
        assert!((weight(&mut observer, 5, 297.0) - 20.0).abs() < 1e-9);
    }

    #[test]
    fn the_weight_is_unknown_without_requests_and_never_zero() {
        assert_eq!(
            WeightEstimator::default().observe(0, &Counts::default()),
            None
        );
        let tiny = WeightEstimator::default().observe(0, &Counts::new(1.0, 0.0, 99_999.0, 0.0));
        assert_eq!(tiny, Some(Weight::from_thousandths(100)));
    }
}
