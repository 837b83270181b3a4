//! The last values of the series, and their increments.

use std::collections::BTreeMap;

use super::{Arm, CounterKind, Sample};
use crate::counts::Counts;

/// The samples of one scrape of one source, by arm and series.
#[derive(Debug, Default)]
pub(super) struct Scrape<'a> {
    series: BTreeMap<(Arm, &'a str), SeriesValues>,
}

/// The values of one series in one scrape, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct SeriesValues {
    total: Option<f64>,
    errors: Option<f64>,
    good: Option<f64>,
}

impl<'a> Scrape<'a> {
    /// Of duplicate samples the highest value is used, so that their order does not matter.
    pub(super) fn insert(&mut self, sample: &Sample<'a>) {
        let values = self.series.entry((sample.arm, sample.series)).or_default();
        let value = match sample.kind {
            CounterKind::Total => &mut values.total,
            CounterKind::Errors => &mut values.errors,
            CounterKind::Good => &mut values.good,
        };
        *value = Some(value.map_or(sample.value, |other| other.max(sample.value)));
    }

    pub(super) fn has_total(&self) -> bool {
        self.series.values().any(|values| values.total.is_some())
    }

    pub(super) fn has_total_of(&self, arm: Arm) -> bool {
        self.series
            .iter()
            .any(|((of, _), values)| *of == arm && values.total.is_some())
    }

    /// Whether good requests are counted. If so, a series without them is incomplete.
    fn counts_good(&self) -> bool {
        self.series.values().any(|values| values.good.is_some())
    }
}

/// A value and the timestamp of its scrape.
#[derive(Debug, Clone, Copy, PartialEq)]
struct LastSample {
    at_ms: i64,
    value: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct LastValues {
    total: Option<LastSample>,
    errors: Option<LastSample>,
    good: Option<LastSample>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct SourceHistory {
    last_scrape_ms: i64,
    series: BTreeMap<(Arm, Box<str>), LastValues>,
}

/// The counts that one scrape adds.
#[derive(Debug, Default)]
pub(super) struct ScrapeIncrement {
    pub(super) counts: Counts,
    pub(super) inconsistent: u64,
}

/// The last values of all series.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct SeriesStore {
    sources: BTreeMap<Box<str>, SourceHistory>,
}

/// One arm's sums over the series of one scrape.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pub(super) requests: f64,
    pub(super) errors: f64,
    /// Errors of new series. They count only if they do not exceed the requests.
    pub(super) new_errors: f64,
}

/// The increment of one counter.
enum Increment {
    /// Difference to the last sample.
    Since(f64),
    /// First sample of a series: its whole value.
    FirstSample(f64),
}

impl Increment {
    fn between(last: Option<LastSample>, value: f64, expired_ms: i64) -> Self {
        match last.filter(|last| last.at_ms > expired_ms) {
            Some(last) if value >= last.value => Self::Since(value - last.value),
            // Counter reset: it restarted at 0.
            Some(_) => Self::Since(value),
            None => Self::FirstSample(value),
        }
    }
}

impl SeriesStore {
    /// The sources that were scraped after `since_ms`.
    pub(super) fn live_since(&self, since_ms: i64) -> impl Iterator<Item = &str> {
        self.sources
            .iter()
            .filter(move |(_, history)| history.last_scrape_ms > since_ms)
            .map(|(source, _)| &**source)
    }

    /// Time of the last scrape of a source. `None` if it is unknown.
    pub(super) fn last_scrape_ms(&self, source: &str) -> Option<i64> {
        self.sources
            .get(source)
            .map(|history| history.last_scrape_ms)
    }

    /// Stores the values of a scrape without counting it.
    pub(super) fn record_baseline(&mut self, source: &str, at_ms: i64, scrape: &Scrape<'_>) {
        let counts_good = scrape.counts_good();
        let history = self.source(source);
        history.last_scrape_ms = at_ms;
        for ((arm, series), values) in &scrape.series {
            if is_complete(values, counts_good) {
                store_values(history, *arm, series, at_ms, values);
            }
        }
    }

    /// Counts a scrape and stores its values. Stored values from `expired_ms` or earlier are
    /// ignored. `is_new_source` states that the source was created after the start of the rollout.
    pub(super) fn count_scrape(
        &mut self,
        source: &str,
        at_ms: i64,
        scrape: &Scrape<'_>,
        expired_ms: i64,
        is_new_source: bool,
    ) -> ScrapeIncrement {
        let counts_good = scrape.counts_good();
        let history = self.source(source);
        // A new series of a known source started after the source's last scrape.
        let is_known_source = history.last_scrape_ms > expired_ms;
        let from_zero = is_known_source || is_new_source;
        let mut sums = [Sums::default(); 2];
        for ((arm, series), values) in &scrape.series {
            if !is_complete(values, counts_good) {
                continue;
            }
            let last = history
                .series
                .get(&(*arm, Box::from(*series)))
                .copied()
                .unwrap_or_default();
            add_increments(
                &mut sums[*arm as usize],
                values,
                &last,
                expired_ms,
                from_zero,
            );
            store_values(history, *arm, series, at_ms, values);
        }
        history.last_scrape_ms = at_ms;
        let mut increment = ScrapeIncrement::default();
        let [canary, stable] = sums.map(|sums| reconcile_errors(sums, &mut increment.inconsistent));
        increment.counts = Counts::new(canary.0, canary.1, stable.0, stable.1);
        increment
    }

    /// Removes values from `at_ms` or earlier.
    pub(super) fn expire(&mut self, at_ms: i64) {
        self.sources
            .retain(|_, history| history.last_scrape_ms > at_ms);
        for history in self.sources.values_mut() {
            history.series.retain(|_, series| {
                [series.total, series.errors, series.good]
                    .into_iter()
                    .flatten()
                    .any(|last| last.at_ms > at_ms)
            });
        }
    }

    fn source(&mut self, source: &str) -> &mut SourceHistory {
        if !self.sources.contains_key(source) {
            self.sources.insert(
                source.into(),
                SourceHistory {
                    last_scrape_ms: i64::MIN,
                    series: BTreeMap::new(),
                },
            );
        }
        self.sources.entry(source.into()).or_default()
    }
}

/// Good requests without the total, or the total without good requests, cannot be used.
fn is_complete(values: &SeriesValues, counts_good: bool) -> bool {
    !counts_good || (values.total.is_some() && values.good.is_some())
}

fn store_values(
    history: &mut SourceHistory,
    arm: Arm,
    series: &str,
    at_ms: i64,
    values: &SeriesValues,
) {
    let last = history.series.entry((arm, series.into())).or_default();
    let keep = |last: &mut Option<LastSample>, value: Option<f64>| {
        if let Some(value) = value {
            *last = Some(LastSample { at_ms, value });
        }
    };
    keep(&mut last.total, values.total);
    keep(&mut last.errors, values.errors);
    keep(&mut last.good, values.good);
}

fn add_increments(
    sums: &mut Sums,
    values: &SeriesValues,
    last: &LastValues,
    expired_ms: i64,
    from_zero: bool,
) {
    let count = |increment: Increment| match increment {
        Increment::Since(value) => value,
        Increment::FirstSample(value) if from_zero => value,
        Increment::FirstSample(_) => 0.0,
    };
    if let (Some(total), Some(good)) = (values.total, values.good) {
        // Both counters belong to one series: if one is reset or new, so is the other.
        let (total, good) = match (
            Increment::between(last.total, total, expired_ms),
            Increment::between(last.good, good, expired_ms),
        ) {
            (Increment::Since(requests), Increment::Since(good_requests))
                if requests >= good_requests =>
            {
                (requests, good_requests)
            }
            (Increment::FirstSample(requests), Increment::FirstSample(good_requests))
                if from_zero =>
            {
                (requests, good_requests)
            }
            // The counters were read at slightly different times, or one is unknown: the next
            // scrape corrects this.
            (Increment::Since(requests), Increment::Since(_)) => (requests, requests),
            _ => (0.0, 0.0),
        };
        sums.requests += total;
        sums.errors += (total - good).max(0.0);
        return;
    }
    if let Some(total) = values.total {
        sums.requests += count(Increment::between(last.total, total, expired_ms));
    }
    if let Some(errors) = values.errors {
        match Increment::between(last.errors, errors, expired_ms) {
            Increment::Since(value) => sums.errors += value,
            Increment::FirstSample(value) if from_zero => sums.new_errors += value,
            Increment::FirstSample(_) => {}
        }
    }
}

/// Requests and errors of one arm. A new error series can only contain errors among the requests of
/// this scrape. If its value exceeds them, the series is older and counts nothing.
pub(super) fn reconcile_errors(sums: Sums, inconsistent: &mut u64) -> (f64, f64) {
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

    fn scrape<'a>(samples: &[(&'a str, Arm, CounterKind, f64)]) -> Scrape<'a> {
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

    fn run(values: &[f64], is_new_source: bool) -> f64 {
        let mut store = SeriesStore::default();
        let at = |index: usize| i64::try_from(index).unwrap();
        let increments = values.iter().enumerate().map(|(index, value)| {
            let scrape = scrape(&[("a", Arm::Canary, CounterKind::Total, *value)]);
            store
                .count_scrape("pod", at(index), &scrape, -1, is_new_source)
                .counts
                .canary_requests
        });
        increments.sum()
    }

    #[test]
    fn golden_g8() {
        // A source known from before the rollout, with a reset; a source created during it; a
        // source whose first sample counts nothing.
        assert_eq!(run(&[100.0, 130.0, 130.0, 12.0, 40.0], false), 70.0);
        assert_eq!(run(&[0.0, 7.0], true), 7.0);
        assert_eq!(run(&[55.0], false), 0.0);
        assert_eq!(run(&[55.0], true), 55.0);
    }

    #[test]
    fn the_first_error_of_a_known_source_counts() {
        let mut store = SeriesStore::default();
        store.count_scrape(
            "pod",
            0,
            &scrape(&[("200", Arm::Canary, CounterKind::Total, 1000.0)]),
            -1,
            false,
        );
        let first_error = scrape(&[
            ("200", Arm::Canary, CounterKind::Total, 1100.0),
            ("500", Arm::Canary, CounterKind::Total, 3.0),
            ("500", Arm::Canary, CounterKind::Errors, 3.0),
        ]);
        let increment = store.count_scrape("pod", 1, &first_error, -1, false);
        assert_eq!(increment.counts, Counts::new(103.0, 3.0, 0.0, 0.0));
        assert_eq!(increment.inconsistent, 0);
    }

    #[test]
    fn an_error_series_that_cannot_be_new_is_not_counted() {
        let mut store = SeriesStore::default();
        store.count_scrape(
            "pod",
            0,
            &scrape(&[("all", Arm::Stable, CounterKind::Total, 1000.0)]),
            -1,
            false,
        );
        let older_series = scrape(&[
            ("all", Arm::Stable, CounterKind::Total, 1100.0),
            ("500", Arm::Stable, CounterKind::Errors, 400.0),
        ]);
        let increment = store.count_scrape("pod", 1, &older_series, -1, false);
        assert_eq!(increment.counts, Counts::new(0.0, 0.0, 100.0, 0.0));
        assert_eq!(increment.inconsistent, 1);
    }

    #[test]
    fn good_requests_count_with_their_total_or_not_at_all() {
        let mut store = SeriesStore::default();
        let both = |total, good| {
            scrape(&[
                ("le", Arm::Canary, CounterKind::Total, total),
                ("le", Arm::Canary, CounterKind::Good, good),
            ])
        };
        store.count_scrape("pod", 0, &both(100.0, 90.0), -1, false);
        assert_eq!(
            store
                .count_scrape("pod", 1, &both(200.0, 150.0), -1, false)
                .counts,
            Counts::new(100.0, 40.0, 0.0, 0.0)
        );
        let incomplete = scrape(&[
            ("le", Arm::Canary, CounterKind::Total, 300.0),
            ("other", Arm::Canary, CounterKind::Total, 1.0),
            ("other", Arm::Canary, CounterKind::Good, 1.0),
        ]);
        assert_eq!(
            store.count_scrape("pod", 2, &incomplete, -1, false).counts,
            Counts::new(1.0, 0.0, 0.0, 0.0)
        );
        assert_eq!(
            store
                .count_scrape("pod", 3, &both(400.0, 350.0), -1, false)
                .counts,
            Counts::new(200.0, 0.0, 0.0, 0.0)
        );
    }

    #[test]
    fn increments_are_exact_up_to_2_to_the_53() {
        let top = 9_007_199_254_740_992.0;
        assert_eq!(run(&[top - 3.0, top], false), 3.0);
    }
}
