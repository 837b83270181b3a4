//! The canary's share at each moment of the past, as it was told or as the recorded traffic shows
//! it.

use std::collections::VecDeque;

use serin_analysis::Counts;
use serin_core::units::Weight;

/// Where the canary's share is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weights {
    /// From the requests on record.
    Observed,
    /// As it was set: milliseconds since the first request to the canary, and the share from then
    /// on.
    Set(Vec<(i64, Weight)>),
}

/// Over how much of the traffic a share is observed.
const WINDOW_MS: i64 = 60_000;
/// Standard errors, and the part of the share, that the traffic must be off by before the weight is
/// taken to have changed.
const STANDARD_ERRORS: f64 = 5.0;
const OF_WEIGHT: f64 = 0.2;

/// The share as the requests of the last minute have it.
#[derive(Clone, Debug, Default)]
pub(super) struct Observer {
    recent: VecDeque<(i64, Counts)>,
    weight: Option<Weight>,
}

impl Observer {
    /// Takes a round in and says what the weight is taken to be.
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
        // The newest round first: the minute in which a weight changes has requests of both.
        let changed = [counts, &all]
            .into_iter()
            .find_map(|counts| self.changed(counts));
        if let Some(weight) = changed {
            self.weight = Some(weight);
            // What came before is of another weight.
            self.recent.drain(..self.recent.len().saturating_sub(1));
        }
        self.weight
    }

    /// The share that these requests show, where it is another than was known.
    fn changed(&self, counts: &Counts) -> Option<Weight> {
        let share = counts.canary_share()?;
        let is_off = self.weight.is_none_or(|weight| {
            let weight = weight.as_percent() / 100.0;
            let error = (weight * (1.0 - weight) / counts.requests())
                .max(0.0)
                .sqrt();
            let off = (share - weight).abs();
            off > STANDARD_ERRORS * error && off > OF_WEIGHT * weight
        });
        is_off.then(|| rounded(share))
    }
}

/// A share as people set weights: whole percents from 10 % on, tenths below.
fn rounded(share: f64) -> Weight {
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
    fn the_weight_follows_the_traffic_and_not_its_chance() {
        let mut observer = Observer::default();
        let weight = |observer: &mut Observer, at: i64, canary: f64| {
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
    fn without_requests_nothing_is_said_and_a_little_traffic_is_not_none() {
        assert_eq!(Observer::default().observe(0, &Counts::default()), None);
        let tiny = Observer::default().observe(0, &Counts::new(1.0, 0.0, 99_999.0, 0.0));
        assert_eq!(tiny, Some(Weight::from_thousandths(100)));
    }
}
