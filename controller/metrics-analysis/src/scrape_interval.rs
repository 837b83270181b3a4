//! Learns the scrape interval from the timestamps of the samples.
//!
//! Each scrape target is tracked separately: a gateway may be scraped every second, and pods every
//! minute. The interval of an objective is that of its slowest target, because its rounds and its
//! staleness depend on that target.
//!
//! The interval of a target is the median of its latest spacings, so that missed scrapes and jitter
//! have no effect. A spacing beyond [`MAX_INTERVAL_MS`] is a gap and is ignored: a target that
//! stops delivering keeps its interval, and becomes stale accordingly.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serin_crds::literals::format_duration;

/// Maximum interval that is learned, in milliseconds. Longer intervals must be configured in the
/// spec.
pub const MAX_INTERVAL_MS: i64 = 300_000;
/// Minimum spacing between two scrapes of one target, in milliseconds.
const MIN_INTERVAL_MS: i64 = 100;
/// Prometheus' default scrape interval in milliseconds. Once samples arrive, staleness assumes at
/// least this interval until their spacing is known.
const PROMETHEUS_DEFAULT_MS: i64 = 60_000;
/// Number of spacings stored per target, and the number required to learn from them.
const SPACINGS: usize = 8;
const MIN_SPACINGS: usize = 2;
/// Maximum number of targets tracked per objective. More targets add no information.
const MAX_TARGETS: usize = 512;
/// Samples that are later than the clock by more than this are ignored, in milliseconds.
const CLOCK_SKEW_MS: i64 = 300_000;

/// The latest scrapes of one target.
#[derive(Clone, Debug)]
struct TargetSpacings {
    last_ms: i64,
    spacings: VecDeque<i64>,
}

impl TargetSpacings {
    /// Records a scrape. Scrapes older than the last one are already known.
    fn record(&mut self, at_ms: i64, longest_ms: i64) {
        let spacing_ms = at_ms.saturating_sub(self.last_ms);
        if spacing_ms < MIN_INTERVAL_MS {
            return;
        }
        self.last_ms = at_ms;
        if spacing_ms > longest_ms {
            return;
        }
        if self.spacings.len() == SPACINGS {
            self.spacings.pop_front();
        }
        self.spacings.push_back(spacing_ms);
    }

    /// The lower median of the spacings, once there are enough.
    fn interval_ms(&self) -> Option<i64> {
        if self.spacings.len() < MIN_SPACINGS {
            return None;
        }
        let mut sorted: Vec<i64> = self.spacings.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get((sorted.len() - 1) / 2).copied()
    }
}

/// The scrape interval of one objective: configured, then learned.
#[derive(Clone, Debug)]
pub(crate) struct ScrapeInterval {
    configured_ms: i64,
    learned_ms: Option<i64>,
    targets: BTreeMap<String, TargetSpacings>,
}

impl ScrapeInterval {
    /// Starts from the configured interval, or from what an earlier process has learned.
    pub(crate) fn new(configured_ms: i64, learned_ms: Option<i64>) -> Self {
        let mut interval = Self {
            configured_ms,
            learned_ms: None,
            targets: BTreeMap::new(),
        };
        interval.learned_ms = learned_ms.map(|ms| ms.clamp(MIN_INTERVAL_MS, interval.longest_ms()));
        interval
    }

    fn longest_ms(&self) -> i64 {
        MAX_INTERVAL_MS.max(self.configured_ms)
    }

    /// Records the scrapes in an answer: target and timestamp, in any order and with repetitions.
    /// Returns whether the interval or the staleness limit that follows from it has changed.
    pub(crate) fn observe<'a>(
        &mut self,
        scrapes: impl Iterator<Item = (&'a str, i64)>,
        now_ms: i64,
    ) -> bool {
        let before = (self.interval_ms(), self.staleness_interval_ms());
        let mut by_target: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        let latest_ms = now_ms.saturating_add(CLOCK_SKEW_MS);
        for (target, at_ms) in scrapes.filter(|(_, at_ms)| *at_ms <= latest_ms) {
            let times = by_target.entry(target).or_default();
            if times.last() != Some(&at_ms) {
                times.push(at_ms);
            }
        }
        let longest_ms = self.longest_ms();
        for (target, mut times) in by_target {
            times.sort_unstable();
            let Some(first_ms) = times.first().copied() else {
                continue;
            };
            if !self.targets.contains_key(target) {
                if self.targets.len() >= MAX_TARGETS {
                    continue;
                }
                self.targets.insert(
                    target.to_owned(),
                    TargetSpacings {
                        last_ms: first_ms,
                        spacings: VecDeque::new(),
                    },
                );
            }
            if let Some(known) = self.targets.get_mut(target) {
                for at_ms in times {
                    known.record(at_ms, longest_ms);
                }
            }
        }
        self.forget_removed_targets();
        self.update_learned_interval();
        before != (self.interval_ms(), self.staleness_interval_ms())
    }

    /// A removed target must not delay the others for long. If all targets are gone, the newest one
    /// stays.
    fn forget_removed_targets(&mut self) {
        let newest_ms = self
            .targets
            .values()
            .map(|target| target.last_ms)
            .max()
            .unwrap_or(i64::MIN);
        let oldest_ms =
            newest_ms.saturating_sub(self.longest_ms().max(self.interval_ms().saturating_mul(4)));
        self.targets.retain(|_, target| target.last_ms >= oldest_ms);
    }

    fn update_learned_interval(&mut self) {
        let Some(observed_ms) = self
            .targets
            .values()
            .filter_map(TargetSpacings::interval_ms)
            .max()
        else {
            return;
        };
        let is_near = |known_ms: i64| {
            observed_ms.abs_diff(known_ms).saturating_mul(5) <= known_ms.unsigned_abs()
        };
        if is_near(self.configured_ms) {
            self.learned_ms = Some(self.configured_ms);
        } else if !self.learned_ms.is_some_and(is_near) {
            // Rounded, so that Rollouts whose targets are scraped equally often share their
            // queries.
            let unit_ms = if observed_ms >= 5_000 { 1_000 } else { 100 };
            let rounded_ms = (observed_ms + unit_ms / 2) / unit_ms * unit_ms;
            self.learned_ms = Some(rounded_ms.clamp(MIN_INTERVAL_MS, self.longest_ms()));
        }
    }

    /// The interval that rounds and queries use: the learned one, else the configured one.
    pub(crate) fn interval_ms(&self) -> i64 {
        self.learned_ms.unwrap_or(self.configured_ms)
    }

    /// The interval on which the staleness limit is based. Between the first sample and the time
    /// when the spacing is known, it is at least Prometheus' default: a scrape interval of one
    /// minute must not seem stale before the second and third scrape.
    pub(crate) fn staleness_interval_ms(&self) -> i64 {
        match self.learned_ms {
            Some(learned_ms) => learned_ms,
            None if self.targets.is_empty() => self.configured_ms,
            None => self.configured_ms.max(PROMETHEUS_DEFAULT_MS),
        }
    }

    /// The value to store. `None` while only the configured interval is known.
    pub(crate) fn stored_ms(&self) -> Option<i64> {
        self.learned_ms
            .filter(|learned_ms| *learned_ms != self.configured_ms)
    }

    /// A sentence that reports how the samples differ from the spec.
    pub(crate) fn mismatch(&self, is_configured: bool) -> Option<String> {
        let learned_ms = self.stored_ms()?;
        let verb = if is_configured {
            "is"
        } else {
            "is not set and defaults to"
        };
        Some(format!(
            "Samples arrive every {}; spec.analysis.prometheus.scrapeInterval {verb} {}.",
            seconds(learned_ms),
            seconds(self.configured_ms)
        ))
    }
}

/// `60 s`, `0.5 s`.
fn seconds(milliseconds: i64) -> String {
    let duration = Duration::from_millis(milliseconds.unsigned_abs());
    if duration < Duration::from_hours(1) {
        format!("{} s", duration.as_secs_f64())
    } else {
        format_duration(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 10_000_000;

    fn observe(interval: &mut ScrapeInterval, target: &str, times: &[i64]) -> bool {
        interval.observe(times.iter().map(|at_ms| (target, *at_ms)), NOW_MS)
    }

    fn every(spacing_ms: i64, count: i64) -> Vec<i64> {
        (0..count).map(|index| index * spacing_ms).collect()
    }

    fn learned(configured_ms: i64, times: &[i64]) -> ScrapeInterval {
        let mut interval = ScrapeInterval::new(configured_ms, None);
        observe(&mut interval, "pod", times);
        interval
    }

    // flagger #1123, prometheus #8001: Prometheus scrapes once a minute by default.
    #[test]
    fn the_interval_is_learned_from_the_samples() {
        let slow = learned(15_000, &every(60_000, 4));
        assert_eq!(
            (slow.interval_ms(), slow.staleness_interval_ms()),
            (60_000, 60_000)
        );
        assert_eq!(
            slow.mismatch(true).unwrap(),
            "Samples arrive every 60 s; spec.analysis.prometheus.scrapeInterval is 15 s."
        );
        let fast = learned(60_000, &every(5_000, 4));
        assert_eq!(
            (fast.interval_ms(), fast.staleness_interval_ms()),
            (5_000, 5_000)
        );
        let equal = learned(15_000, &every(15_003, 4));
        assert_eq!(
            (equal.interval_ms(), equal.mismatch(true), equal.stored_ms()),
            (15_000, None, None)
        );
    }

    #[test]
    fn staleness_is_lenient_until_the_spacing_is_known() {
        let mut interval = ScrapeInterval::new(15_000, None);
        assert_eq!(
            (interval.interval_ms(), interval.staleness_interval_ms()),
            (15_000, 15_000),
            "nothing has arrived"
        );
        assert!(observe(&mut interval, "pod", &[0]));
        assert_eq!(
            (interval.interval_ms(), interval.staleness_interval_ms()),
            (15_000, 60_000)
        );
        assert!(
            !observe(&mut interval, "pod", &[0, 60_000]),
            "one spacing may be a missed scrape"
        );
        assert!(observe(&mut interval, "pod", &[60_000, 120_000]));
        assert_eq!(interval.interval_ms(), 60_000);
        assert_eq!(
            ScrapeInterval::new(15_000, interval.stored_ms()).interval_ms(),
            60_000,
            "it survives a restart"
        );
    }

    #[test]
    fn missed_scrapes_jitter_and_a_long_gap_are_ignored() {
        let missed = learned(1_000, &[0, 15_010, 29_990, 60_000, 75_020, 90_000, 120_000]);
        assert_eq!(missed.interval_ms(), 15_000);
        let mut interval = learned(15_000, &every(15_000, 10));
        assert!(
            !observe(&mut interval, "pod", &[425_000, 9_000_000]),
            "a gap is no interval"
        );
        assert_eq!(interval.interval_ms(), 15_000);
        assert!(
            !observe(&mut interval, "pod", &[]),
            "silence is no interval"
        );
    }

    #[test]
    fn the_slowest_target_counts_until_it_is_removed() {
        let mut interval = learned(15_000, &every(1_000, 100));
        observe(&mut interval, "slow", &every(60_000, 4));
        assert_eq!(interval.interval_ms(), 60_000);
        let later: Vec<i64> = (100..800).map(|second| second * 1_000).collect();
        observe(&mut interval, "pod", &later);
        assert_eq!(interval.interval_ms(), 1_000);
    }

    #[test]
    fn hostile_timestamps_are_bounded() {
        let future = learned(15_000, &[NOW_MS + 400_000, i64::MAX, i64::MAX - 5]);
        assert_eq!(
            (future.interval_ms(), future.staleness_interval_ms()),
            (15_000, 15_000)
        );
        let past = learned(15_000, &[i64::MIN, -1, 0, 300_001, 700_000]);
        assert_eq!(past.interval_ms(), 15_000);
        let dense = learned(15_000, &(0..5_000).collect::<Vec<_>>());
        assert_eq!(dense.interval_ms(), 100);
        let slow = learned(15_000, &every(300_000, 5));
        assert_eq!(slow.interval_ms(), MAX_INTERVAL_MS);
        let mut many = ScrapeInterval::new(15_000, None);
        for target in 0..10_000 {
            observe(&mut many, &format!("pod-{target}"), &every(60_000, 20));
        }
        assert_eq!(many.targets.len(), MAX_TARGETS);
        assert!(
            many.targets
                .values()
                .all(|target| target.spacings.len() <= SPACINGS)
        );
        assert_eq!(
            ScrapeInterval::new(15_000, Some(i64::MAX)).interval_ms(),
            MAX_INTERVAL_MS
        );
        assert_eq!(
            ScrapeInterval::new(600_000, Some(0)).interval_ms(),
            MIN_INTERVAL_MS
        );
    }

    #[test]
    fn a_longer_interval_than_the_maximum_may_be_configured() {
        assert_eq!(learned(600_000, &every(600_000, 4)).interval_ms(), 600_000);
    }
}
