//! The last values of the series, and their increments.

use std::collections::BTreeMap;

use super::{Arm, Kind, Sample};
use crate::counts::Counts;

/// The samples of one scrape of one source, by arm and series.
#[derive(Debug, Default)]
pub(super) struct Scrape<'a> {
    readings: BTreeMap<(Arm, &'a str), Reading>,
}

/// The values of one series in one scrape, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Reading {
    total: Option<f64>,
    errors: Option<f64>,
    good: Option<f64>,
}

impl<'a> Scrape<'a> {
    /// Of duplicates the higher value is taken, so that their order does not matter.
    pub(super) fn insert(&mut self, sample: &Sample<'a>) {
        let reading = self
            .readings
            .entry((sample.arm, sample.series))
            .or_default();
        let value = match sample.kind {
            Kind::Total => &mut reading.total,
            Kind::Errors => &mut reading.errors,
            Kind::Good => &mut reading.good,
        };
        *value = Some(value.map_or(sample.value, |other| other.max(sample.value)));
    }

    pub(super) fn has_total(&self) -> bool {
        self.readings
            .values()
            .any(|reading| reading.total.is_some())
    }

    pub(super) fn has_total_of(&self, arm: Arm) -> bool {
        self.readings
            .iter()
            .any(|((of, _), reading)| *of == arm && reading.total.is_some())
    }

    /// Whether good requests are what is counted, so that a series without them is not complete.
    fn counts_good(&self) -> bool {
        self.readings.values().any(|reading| reading.good.is_some())
    }
}

/// A value and the scrape that it is of.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Last {
    at_ms: i64,
    value: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct SeriesMemory {
    total: Option<Last>,
    errors: Option<Last>,
    good: Option<Last>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct SourceMemory {
    last_scrape_ms: i64,
    series: BTreeMap<(Arm, Box<str>), SeriesMemory>,
}

/// What a scrape adds.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) counts: Counts,
    pub(super) inconsistent: u64,
}

/// The last values of all series.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Memory {
    sources: BTreeMap<Box<str>, SourceMemory>,
}

/// One arm's sums over the series of one scrape.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pub(super) requests: f64,
    pub(super) errors: f64,
    /// Errors of series seen for the first time: true only where they fit into the requests.
    pub(super) new_errors: f64,
}

/// How an increment is to be read.
enum Increment {
    /// Since the last sample.
    Since(f64),
    /// Never seen before: its whole value.
    FirstSight(f64),
}

impl Increment {
    fn of(last: Option<Last>, value: f64, remembered_ms: i64) -> Self {
        match last.filter(|last| last.at_ms > remembered_ms) {
            Some(last) if value >= last.value => Self::Since(value - last.value),
            // A reset: the counter began again at 0.
            Some(_) => Self::Since(value),
            None => Self::FirstSight(value),
        }
    }
}

impl Memory {
    /// The sources that were scraped after `since_ms`.
    pub(super) fn live_since(&self, since_ms: i64) -> impl Iterator<Item = &str> {
        self.sources
            .iter()
            .filter(move |(_, memory)| memory.last_scrape_ms > since_ms)
            .map(|(source, _)| &**source)
    }

    /// Remembers a scrape without counting it.
    pub(super) fn set(&mut self, source: &str, at_ms: i64, scrape: &Scrape<'_>) {
        let counts_good = scrape.counts_good();
        let memory = self.source(source);
        memory.last_scrape_ms = at_ms;
        for ((arm, series), reading) in &scrape.readings {
            if is_complete(reading, counts_good) {
                remember(memory, *arm, series, at_ms, reading);
            }
        }
    }

    /// Counts a scrape and remembers it. `remembered_ms` is the time up to which memory is void;
    /// `born_here` says that the source, if it is new, began after the rollout did.
    pub(super) fn take(
        &mut self,
        source: &str,
        at_ms: i64,
        scrape: &Scrape<'_>,
        remembered_ms: i64,
        born_here: bool,
    ) -> Taken {
        let counts_good = scrape.counts_good();
        let memory = self.source(source);
        // A new series of a known source began after the source's last scrape.
        let known = memory.last_scrape_ms > remembered_ms;
        let from_zero = known || born_here;
        let mut sums = [Sums::default(); 2];
        for ((arm, series), reading) in &scrape.readings {
            if !is_complete(reading, counts_good) {
                continue;
            }
            let last = memory
                .series
                .get(&(*arm, Box::from(*series)))
                .copied()
                .unwrap_or_default();
            add_reading(
                &mut sums[*arm as usize],
                reading,
                &last,
                remembered_ms,
                from_zero,
            );
            remember(memory, *arm, series, at_ms, reading);
        }
        memory.last_scrape_ms = at_ms;
        let mut taken = Taken::default();
        let [canary, stable] = sums.map(|sums| settle(sums, &mut taken.inconsistent));
        taken.counts = Counts::new(canary.0, canary.1, stable.0, stable.1);
        taken
    }

    /// Forgets what was last seen at `at_ms` or before.
    pub(super) fn forget_before(&mut self, at_ms: i64) {
        self.sources
            .retain(|_, memory| memory.last_scrape_ms > at_ms);
        for memory in self.sources.values_mut() {
            memory.series.retain(|_, series| {
                [series.total, series.errors, series.good]
                    .into_iter()
                    .flatten()
                    .any(|last| last.at_ms > at_ms)
            });
        }
    }

    fn source(&mut self, source: &str) -> &mut SourceMemory {
        if !self.sources.contains_key(source) {
            self.sources.insert(
                source.into(),
                SourceMemory {
                    last_scrape_ms: i64::MIN,
                    series: BTreeMap::new(),
                },
            );
        }
        self.sources.entry(source.into()).or_default()
    }
}

/// Good requests without all of them, or the other way round, say nothing.
fn is_complete(reading: &Reading, counts_good: bool) -> bool {
    !counts_good || (reading.total.is_some() && reading.good.is_some())
}

fn remember(memory: &mut SourceMemory, arm: Arm, series: &str, at_ms: i64, reading: &Reading) {
    let last = memory.series.entry((arm, series.into())).or_default();
    let keep = |last: &mut Option<Last>, value: Option<f64>| {
        if let Some(value) = value {
            *last = Some(Last { at_ms, value });
        }
    };
    keep(&mut last.total, reading.total);
    keep(&mut last.errors, reading.errors);
    keep(&mut last.good, reading.good);
}

fn add_reading(
    sums: &mut Sums,
    reading: &Reading,
    last: &SeriesMemory,
    remembered_ms: i64,
    from_zero: bool,
) {
    let count = |increment: Increment| match increment {
        Increment::Since(value) => value,
        Increment::FirstSight(value) if from_zero => value,
        Increment::FirstSight(_) => 0.0,
    };
    if let (Some(total), Some(good)) = (reading.total, reading.good) {
        // One series in two readings: both are reset, or seen for the first time, where one is.
        let (total, good) = match (
            Increment::of(last.total, total, remembered_ms),
            Increment::of(last.good, good, remembered_ms),
        ) {
            (Increment::Since(requests), Increment::Since(within)) if requests >= within => {
                (requests, within)
            }
            (Increment::FirstSight(requests), Increment::FirstSight(within)) if from_zero => {
                (requests, within)
            }
            // Read a moment apart, or one of the two is a stranger: leave it to the next scrape's
            // comparison.
            (Increment::Since(requests), Increment::Since(_)) => (requests, requests),
            _ => (0.0, 0.0),
        };
        sums.requests += total;
        sums.errors += (total - good).max(0.0);
        return;
    }
    if let Some(total) = reading.total {
        sums.requests += count(Increment::of(last.total, total, remembered_ms));
    }
    if let Some(errors) = reading.errors {
        match Increment::of(last.errors, errors, remembered_ms) {
            Increment::Since(value) => sums.errors += value,
            Increment::FirstSight(value) if from_zero => sums.new_errors += value,
            Increment::FirstSight(_) => {}
        }
    }
}

/// Requests and errors of one arm. An error series that is truly new has failed only requests of
/// this very scrape: where its value exceeds them, it had been there before without being seen, and
/// counts nothing.
pub(super) fn settle(sums: Sums, inconsistent: &mut u64) -> (f64, f64) {
    let Sums {
        requests,
        errors,
        new_errors,
    } = sums;
    if errors + new_errors <= requests {
        return (requests, errors + new_errors);
    }
    *inconsistent += 1;
    (requests, errors.min(requests))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape<'a>(samples: &[(&'a str, Arm, Kind, f64)]) -> Scrape<'a> {
        let mut scrape = Scrape::default();
        for (series, arm, kind, value) in samples {
            scrape.insert(&Sample {
                source: "pod",
                series,
                arm: *arm,
                kind: *kind,
                at_ms: 0,
                value: *value,
            });
        }
        scrape
    }

    fn run(values: &[f64], born_here: bool) -> f64 {
        let mut memory = Memory::default();
        let at = |index: usize| i64::try_from(index).unwrap();
        let increments = values.iter().enumerate().map(|(index, value)| {
            let scrape = scrape(&[("a", Arm::Canary, Kind::Total, *value)]);
            memory
                .take("pod", at(index), &scrape, -1, born_here)
                .counts
                .canary_requests
        });
        increments.sum()
    }

    #[test]
    fn golden_g8() {
        // A source known from before the rollout, with a reset; one born in it; one whose first
        // sight counts nothing.
        assert_eq!(run(&[100.0, 130.0, 130.0, 12.0, 40.0], false), 70.0);
        assert_eq!(run(&[0.0, 7.0], true), 7.0);
        assert_eq!(run(&[55.0], false), 0.0);
        assert_eq!(run(&[55.0], true), 55.0);
    }

    #[test]
    fn the_first_error_of_a_known_source_counts() {
        let mut memory = Memory::default();
        memory.take(
            "pod",
            0,
            &scrape(&[("200", Arm::Canary, Kind::Total, 1000.0)]),
            -1,
            false,
        );
        let first_error = scrape(&[
            ("200", Arm::Canary, Kind::Total, 1100.0),
            ("500", Arm::Canary, Kind::Total, 3.0),
            ("500", Arm::Canary, Kind::Errors, 3.0),
        ]);
        let taken = memory.take("pod", 1, &first_error, -1, false);
        assert_eq!(taken.counts, Counts::new(103.0, 3.0, 0.0, 0.0));
        assert_eq!(taken.inconsistent, 0);
    }

    #[test]
    fn an_error_series_that_cannot_be_new_counts_nothing() {
        let mut memory = Memory::default();
        memory.take(
            "pod",
            0,
            &scrape(&[("all", Arm::Stable, Kind::Total, 1000.0)]),
            -1,
            false,
        );
        let stranger = scrape(&[
            ("all", Arm::Stable, Kind::Total, 1100.0),
            ("500", Arm::Stable, Kind::Errors, 400.0),
        ]);
        let taken = memory.take("pod", 1, &stranger, -1, false);
        assert_eq!(taken.counts, Counts::new(0.0, 0.0, 100.0, 0.0));
        assert_eq!(taken.inconsistent, 1);
    }

    #[test]
    fn good_requests_count_with_their_total_or_not_at_all() {
        let mut memory = Memory::default();
        let both = |total, good| {
            scrape(&[
                ("le", Arm::Canary, Kind::Total, total),
                ("le", Arm::Canary, Kind::Good, good),
            ])
        };
        memory.take("pod", 0, &both(100.0, 90.0), -1, false);
        assert_eq!(
            memory.take("pod", 1, &both(200.0, 150.0), -1, false).counts,
            Counts::new(100.0, 40.0, 0.0, 0.0)
        );
        let torn = scrape(&[
            ("le", Arm::Canary, Kind::Total, 300.0),
            ("other", Arm::Canary, Kind::Total, 1.0),
            ("other", Arm::Canary, Kind::Good, 1.0),
        ]);
        assert_eq!(
            memory.take("pod", 2, &torn, -1, false).counts,
            Counts::new(1.0, 0.0, 0.0, 0.0)
        );
        assert_eq!(
            memory.take("pod", 3, &both(400.0, 350.0), -1, false).counts,
            Counts::new(200.0, 0.0, 0.0, 0.0)
        );
    }

    #[test]
    fn increments_are_exact_up_to_2_to_the_53() {
        let top = 9_007_199_254_740_992.0;
        assert_eq!(run(&[top - 3.0, top], false), 3.0);
    }
}
