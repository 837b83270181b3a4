//! Server-side aggregation for counters with too many series to be read individually: Prometheus
//! adds up the increments by scrape target.
//!
//! Counters themselves are never added up. A decrease of such a sum can be a restart or a series
//! that disappeared, and a series that appears while another disappears is invisible. Instead the
//! increment of each series is computed first, as in [`serin_analysis::counters`], and the
//! increments are added up. A series that disappeared adds nothing, a series that was reset adds
//! its value, and a new series adds its value if its target was already known.
//!
//! The query evaluates the counters on a fixed grid with steps of one scrape interval and uses the
//! last scrape before each point. The result between two points only depends on the stored data,
//! once all scrapes before the second point are visible. A point is therefore used when it is one
//! scrape interval and a few seconds old. Requests and bad requests of one point belong to the same
//! scrape, because a scrape becomes visible as a whole.

use std::collections::BTreeMap;

use serin_analysis::counters::{CounterConfig, Rounds, SummedIncrement, rounds_from_sums};
use serin_analysis::{Arm, CounterKind};

use crate::counter_selectors::CounterSelectors;
use crate::histogram::EDGE_LABEL;
use crate::prometheus::{Answer, Labels, Series, newest_ms};
use crate::sample_reader::{is_bucket_edge, source_key};

/// Label that distinguishes increments of known series from those of new ones.
const AGE: &str = "serin";
const KNOWN: &str = "known";
const NEW: &str = "new";

/// A scrape becomes visible within its interval plus this margin, in milliseconds.
const MARGIN_MS: i64 = 5_000;

/// Queries for the summed increments of one objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerSideAggregation {
    /// Step of the grid: the scrape interval in milliseconds.
    step_ms: i64,
    /// Time for which a series that is not scraped is remembered, in milliseconds.
    retention_ms: i64,
}

impl ServerSideAggregation {
    /// Creates the aggregation with the scrape interval and the retention that individual series
    /// have.
    pub(crate) const fn new(config: CounterConfig) -> Self {
        Self {
            step_ms: config.scrape_interval_ms,
            retention_ms: config.forget_ms,
        }
    }

    /// Minimum age of the points that are used, in milliseconds.
    const fn lag_ms(self) -> i64 {
        self.step_ms.saturating_add(MARGIN_MS)
    }

    /// Maximum delay between a scrape and the use of its step, in milliseconds.
    pub(crate) const fn delay_ms(self) -> i64 {
        self.lag_ms().saturating_add(self.step_ms)
    }

    /// Time range that a query must cover to overlap with the next one, in milliseconds.
    pub(crate) const fn poll_ms(self) -> i64 {
        self.delay_ms()
            .saturating_add(self.step_ms.saturating_mul(4))
    }

    /// The queries for this time range: increments of all requests and of bad (or good) requests,
    /// the time of the last scrape of each target, and, if a latency guard needs them, the
    /// increments of each bucket.
    pub(crate) fn queries(self, counters: &CounterSelectors, range_ms: i64) -> Vec<String> {
        let [total, second] = &counters.summable;
        let window = format!("[{range_ms}ms:{}ms]", self.step_ms);
        let (_, sides) = counters.source_labels();
        let sides = sides.join(", ");
        let scraped = format!("(max by ({sides}) (timestamp({total}))){window}");
        let buckets = counters.summable_buckets.as_ref();
        let buckets = buckets.map(|buckets| {
            self.increment_query(counters, buckets, total, &format!("{sides}, {EDGE_LABEL}"))
        });
        let queries = [
            self.increment_query(counters, total, second, &sides),
            self.increment_query(counters, second, total, &sides),
        ];
        let queries = queries
            .map(|query| format!("{query}{window}"))
            .into_iter()
            .chain([scraped]);
        queries
            .chain(buckets.map(|query| format!("{query}{window}")))
            .collect()
    }

    /// PromQL for the summed increments of all series of a selector.
    fn increment_query(
        self,
        counters: &CounterSelectors,
        selector: &str,
        partner: &str,
        by: &str,
    ) -> String {
        let [total, _] = &counters.summable;
        let (source, _) = counters.source_labels();
        let partner = (counters.kind() == CounterKind::Good).then_some(partner);
        let part = |age: &str, increments: &str| {
            format!("label_replace(sum by ({by}) ({increments}), \"{AGE}\", \"{age}\", \"\", \"\")")
        };
        let known = part(KNOWN, &self.increments_of_known_series(selector, partner));
        let new = part(
            NEW,
            &self.values_of_new_series(selector, partner, total, &source.join(", ")),
        );
        format!("({known} or {new})")
    }

    /// PromQL for the last value at the end of the step. The range is explicit, because the
    /// lookback of a plain selector is a server setting.
    fn value_at_step_end(self, selector: &str) -> String {
        format!("last_over_time({selector}[{}ms])", self.retention_ms)
    }

    /// PromQL for the last value at the start of the step.
    fn value_at_step_start(self, selector: &str) -> String {
        format!(
            "last_over_time({selector}[{}ms] offset {}ms)",
            self.retention_ms, self.step_ms
        )
    }

    /// PromQL for the increments of series that were known at the start of the step: `now -
    /// before`, or `now` after a reset, or NaN if one of the two is NaN. All requests and the good
    /// requests count only as a pair.
    fn increments_of_known_series(self, selector: &str, partner: Option<&str>) -> String {
        let (now, before) = (
            self.value_at_step_end(selector),
            self.value_at_step_start(selector),
        );
        let pair = partner.map_or_else(String::new, |partner| {
            let (now, before) = (
                self.value_at_step_end(partner),
                self.value_at_step_start(partner),
            );
            format!(" and ignoring ({EDGE_LABEL}) {now} and ignoring ({EDGE_LABEL}) {before}")
        });
        format!("({now} - {before} >= 0 or {now} < {before} or {now} - {before}){pair}")
    }

    /// PromQL for the values of series that are new in this step. They only count if their target
    /// was already known, because nothing is known about the past of a new target.
    fn values_of_new_series(
        self,
        selector: &str,
        partner: Option<&str>,
        total: &str,
        source: &str,
    ) -> String {
        let new = |selector: &str| {
            format!(
                "({} unless {})",
                self.value_at_step_end(selector),
                self.value_at_step_start(selector)
            )
        };
        let pair = partner.map_or_else(String::new, |partner| {
            format!(" and ignoring ({EDGE_LABEL}) {}", new(partner))
        });
        format!(
            "{}{pair} and on ({source}) {}",
            new(selector),
            self.value_at_step_start(total)
        )
    }

    /// Time up to which all scrapes are visible in all answers. The first query, which is that of
    /// all requests, saw the least.
    fn settled_ms(self, total: &Answer) -> i64 {
        newest_ms(total).map_or(i64::MIN, |newest_ms| {
            newest_ms.saturating_sub(self.lag_ms())
        })
    }

    /// The rounds for each of these bucket bounds, in seconds.
    pub(crate) fn rounds_of_edges(
        self,
        counters: &CounterSelectors,
        [total, buckets]: [&Answer; 2],
        edges: &[f64],
    ) -> Vec<Rounds> {
        let settled_ms = self.settled_ms(total);
        let sums_below = |edge: &f64| {
            let of_edge = |series: &&Series| is_bucket_edge(counters, &series.labels, *edge);
            summed_increments(
                counters,
                total.iter(),
                buckets.iter().filter(of_edge),
                settled_ms,
            )
        };
        edges
            .iter()
            .map(|edge| rounds_from_sums(&sums_below(edge), self.step_ms))
            .collect()
    }

    /// The scrapes in the answer to the third of [`Self::queries`]: target and time in milliseconds
    /// since the epoch.
    pub(crate) fn scrape_times(
        counters: &CounterSelectors,
        scraped: &Answer,
    ) -> Vec<(String, i64)> {
        let times = |series: &Series| {
            let source = source_key(&series.labels, counters.pod(&series.labels));
            let seconds = series
                .samples
                .iter()
                .map(|(_, seconds)| *seconds)
                .filter(|seconds| seconds.is_finite());
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a cast of a float saturates"
            )]
            seconds
                .map(|seconds| (source.clone(), (seconds * 1_000.0).round() as i64))
                .collect::<Vec<_>>()
        };
        scraped
            .iter()
            .filter(|series| counters.arm(&series.labels).is_some())
            .flat_map(times)
            .collect()
    }

    /// The rounds in the answers to the first three [`Self::queries`] whose scrapes are all
    /// visible.
    pub(crate) fn rounds(
        self,
        counters: &CounterSelectors,
        [total, second, scraped]: [&Answer; 3],
    ) -> Rounds {
        let increments = summed_increments(
            counters,
            total.iter(),
            second.iter(),
            self.settled_ms(total),
        );
        let mut rounds = rounds_from_sums(&increments, self.step_ms);
        rounds.selector_matched_stable = second
            .iter()
            .any(|series| counters.arm(&series.labels) == Some(Arm::Stable));
        for series in scraped {
            let Some((_, seconds)) = series
                .samples
                .last()
                .filter(|(_, seconds)| seconds.is_finite())
            else {
                continue;
            };
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the time of a scrape is far below 2^53 milliseconds"
            )]
            let at_ms = Some((seconds * 1_000.0).round() as i64);
            match counters.arm(&series.labels) {
                Some(Arm::Canary) => rounds.canary_at_ms = rounds.canary_at_ms.max(at_ms),
                Some(Arm::Stable) => rounds.stable_at_ms = rounds.stable_at_ms.max(at_ms),
                None => {}
            }
        }
        rounds
    }
}

/// Labels of the buckets that were already known.
pub(crate) fn known_buckets(buckets: &Answer) -> impl Iterator<Item = &Labels> {
    let is_known = |labels: &&Labels| labels.get(AGE).is_none_or(|age| age == KNOWN);
    buckets.iter().map(|series| &series.labels).filter(is_known)
}

/// Increments of the sources in the steps that ended at `settled_ms` or before.
fn summed_increments<'a>(
    counters: &CounterSelectors,
    total: impl Iterator<Item = &'a Series>,
    second: impl Iterator<Item = &'a Series>,
    settled_ms: i64,
) -> Vec<SummedIncrement> {
    let mut increments: BTreeMap<(String, Arm, i64, bool), [f64; 2]> = BTreeMap::new();
    for (index, Series { labels, samples }) in total
        .map(|series| (0, series))
        .chain(second.map(|series| (1, series)))
    {
        let Some(arm) = counters.arm(labels) else {
            continue;
        };
        let source = source_key(labels, counters.pod(labels));
        let is_new = labels.get(AGE).is_some_and(|age| age == NEW);
        for (at_ms, value) in samples.iter().filter(|(at_ms, _)| *at_ms <= settled_ms) {
            let of_step: &mut [f64; 2] = increments
                .entry((source.clone(), arm, *at_ms, is_new))
                .or_default();
            of_step[index] += value;
        }
    }
    let of_good = counters.kind() == CounterKind::Good;
    let to_increment = |((source, arm, at_ms, is_new), [requests, second]): (
        (String, Arm, i64, bool),
        [f64; 2],
    )| {
        let bad = match requests - second {
            _ if !of_good => second,
            // NaN is kept and reported.
            slow if slow < 0.0 => 0.0,
            slow => slow,
        };
        let (errors, new_errors) = if is_new && !of_good {
            (0.0, bad)
        } else {
            (bad, 0.0)
        };
        SummedIncrement {
            source,
            arm,
            at_ms,
            requests,
            errors,
            new_errors,
        }
    };
    increments.into_iter().map(to_increment).collect()
}

#[cfg(test)]
mod tests;
