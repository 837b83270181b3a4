//! Counters of too many series to be read one by one: Prometheus adds up what each scrape target
//! counted.
//!
//! Nothing is a sum of counters here. Of such a sum, a fall may be a restart, or one series that is
//! gone, and a series that comes as another goes is not seen at all. So each series' increment is
//! taken first, as [`serin_analysis::counters`] takes it, and the increments are added up: a series
//! that is gone adds nothing, one that began again adds its value, and one that is new adds its
//! value where its target was known before.
//!
//! The query looks at the counters at moments of a fixed grid, a scrape interval apart, and takes
//! the last scrape before each. What is counted between two moments is thus a function of the
//! record alone, once all scrapes before the second moment are visible: a moment is used when it
//! lies a scrape interval and some seconds back. Requests and bad requests of a moment are of the
//! same scrape, since a scrape becomes visible as a whole.

use std::collections::BTreeMap;

use serin_analysis::counters::{CounterConfig, Rounds, SummedIncrement, rounds_of_sums};
use serin_analysis::{Arm, Kind};

use crate::histogram::EDGE_LABEL;
use crate::prometheus::{Answer, Labels, Series, newest_ms};
use crate::reading::{is_edge, source_of};
use crate::selector::Counters;

/// The label that tells increments of series that were known from those of new ones.
const AGE: &str = "serin";
const KNOWN: &str = "known";
const NEW: &str = "new";

/// A scrape becomes visible within its interval and so much more.
const MARGIN_MS: i64 = 5_000;

/// The sums of one objective's increments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sums {
    /// The grid: the scrape interval, in milliseconds.
    step_ms: i64,
    /// For how long a series that is not seen is remembered, in milliseconds.
    remembered_ms: i64,
}

impl Sums {
    /// Sums over steps of a scrape interval, which remember as single series are remembered.
    pub(crate) const fn new(config: CounterConfig) -> Self {
        Self {
            step_ms: config.scrape_interval_ms,
            remembered_ms: config.forget_ms,
        }
    }

    /// How far back the moments lie that are used, in milliseconds.
    const fn lag_ms(self) -> i64 {
        self.step_ms.saturating_add(MARGIN_MS)
    }

    /// How much later than a scrape itself its step is used at the latest, in milliseconds.
    pub(crate) const fn delay_ms(self) -> i64 {
        self.lag_ms().saturating_add(self.step_ms)
    }

    /// How much time a query must cover so that the one after it, a step later, joins on, in
    /// milliseconds.
    pub(crate) const fn poll_ms(self) -> i64 {
        self.delay_ms()
            .saturating_add(self.step_ms.saturating_mul(4))
    }

    /// The queries that cover so much time: what was counted of all requests, of the bad (or of the
    /// good) ones, when each target was scraped last, and where a latency guard asks for them the
    /// requests within each bucket.
    pub(crate) fn queries(self, counters: &Counters, range_ms: i64) -> Vec<String> {
        let [total, second] = &counters.summable;
        let window = format!("[{range_ms}ms:{}ms]", self.step_ms);
        let (_, sides) = counters.labels_of_source();
        let sides = sides.join(", ");
        let scraped = format!("(max by ({sides}) (timestamp({total}))){window}");
        let buckets = counters.summable_buckets.as_ref();
        let buckets = buckets
            .map(|buckets| self.added(counters, buckets, total, &format!("{sides}, {EDGE_LABEL}")));
        let queries = [
            self.added(counters, total, second, &sides),
            self.added(counters, second, total, &sides),
        ];
        let queries = queries
            .map(|query| format!("{query}{window}"))
            .into_iter()
            .chain([scraped]);
        queries
            .chain(buckets.map(|query| format!("{query}{window}")))
            .collect()
    }

    /// The increments of all series of a selector, added up.
    fn added(self, counters: &Counters, of: &str, partner: &str, by: &str) -> String {
        let [total, _] = &counters.summable;
        let (source, _) = counters.labels_of_source();
        let partner = (counters.kind() == Kind::Good).then_some(partner);
        let part = |age: &str, increments: &str| {
            format!("label_replace(sum by ({by}) ({increments}), \"{AGE}\", \"{age}\", \"\", \"\")")
        };
        let known = part(KNOWN, &self.of_known(of, partner));
        let new = part(NEW, &self.of_new(of, partner, total, &source.join(", ")));
        format!("({known} or {new})")
    }

    /// The last value when the step ends. The range is written out, since how far a plain selector
    /// looks back is the server's setting.
    fn now(self, selector: &str) -> String {
        format!("last_over_time({selector}[{}ms])", self.remembered_ms)
    }

    /// The last value when the step begins.
    fn before(self, selector: &str) -> String {
        format!(
            "last_over_time({selector}[{}ms] offset {}ms)",
            self.remembered_ms, self.step_ms
        )
    }

    /// The increments of series that were known when the step began: `now - before`, else `now`
    /// after a reset, else not a number where one of the two is not. All requests and the good ones
    /// among them count as a pair or not at all.
    fn of_known(self, of: &str, partner: Option<&str>) -> String {
        let (now, before) = (self.now(of), self.before(of));
        let pair = partner.map_or_else(String::new, |partner| {
            let (now, before) = (self.now(partner), self.before(partner));
            format!(" and ignoring ({EDGE_LABEL}) {now} and ignoring ({EDGE_LABEL}) {before}")
        });
        format!("({now} - {before} >= 0 or {now} < {before} or {now} - {before}){pair}")
    }

    /// The values of series that have begun in the step: of targets only that were known, since
    /// nothing says how long a new one has counted.
    fn of_new(self, of: &str, partner: Option<&str>, total: &str, source: &str) -> String {
        let new = |of: &str| format!("({} unless {})", self.now(of), self.before(of));
        let pair = partner.map_or_else(String::new, |partner| {
            format!(" and ignoring ({EDGE_LABEL}) {}", new(partner))
        });
        format!("{}{pair} and on ({source}) {}", new(of), self.before(total))
    }

    /// Up to when all scrapes are visible in the answers, of which that of all requests was the
    /// first, and saw the least.
    fn settled_ms(self, total: &Answer) -> i64 {
        newest_ms(total).map_or(i64::MIN, |newest_ms| {
            newest_ms.saturating_sub(self.lag_ms())
        })
    }

    /// For each of these edges, in seconds, the rounds in the answers of all requests and of the
    /// buckets.
    pub(crate) fn rounds_of_edges(
        self,
        counters: &Counters,
        [total, buckets]: [&Answer; 2],
        edges: &[f64],
    ) -> Vec<Rounds> {
        let settled_ms = self.settled_ms(total);
        let at = |edge: &f64| {
            let of_edge = |series: &&Series| is_edge(counters, &series.labels, *edge);
            increments(
                counters,
                total.iter(),
                buckets.iter().filter(of_edge),
                settled_ms,
            )
        };
        edges
            .iter()
            .map(|edge| rounds_of_sums(&at(edge), self.step_ms))
            .collect()
    }

    /// The scrapes in the answer to the third of [`Self::queries`]: target and time, in
    /// milliseconds since the epoch.
    pub(crate) fn scrapes(counters: &Counters, scraped: &Answer) -> Vec<(String, i64)> {
        let of = |series: &Series| {
            let source = source_of(&series.labels, counters.pod(&series.labels));
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
            .flat_map(of)
            .collect()
    }

    /// The rounds in the answers to the first three [`Self::queries`], as far as all of their
    /// scrapes are visible.
    pub(crate) fn rounds(
        self,
        counters: &Counters,
        [total, second, scraped]: [&Answer; 3],
    ) -> Rounds {
        let increments = increments(
            counters,
            total.iter(),
            second.iter(),
            self.settled_ms(total),
        );
        let mut rounds = rounds_of_sums(&increments, self.step_ms);
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

/// The buckets that were known, without the new ones: their labels.
pub(crate) fn known_buckets(buckets: &Answer) -> impl Iterator<Item = &Labels> {
    let is_known = |labels: &&Labels| labels.get(AGE).is_none_or(|age| age == KNOWN);
    buckets.iter().map(|series| &series.labels).filter(is_known)
}

/// What the sources counted in the steps that ended at `settled_ms` or before.
fn increments<'a>(
    counters: &Counters,
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
        let source = source_of(labels, counters.pod(labels));
        let is_new = labels.get(AGE).is_some_and(|age| age == NEW);
        for (at_ms, value) in samples.iter().filter(|(at_ms, _)| *at_ms <= settled_ms) {
            let of_step: &mut [f64; 2] = increments
                .entry((source.clone(), arm, *at_ms, is_new))
                .or_default();
            of_step[index] += value;
        }
    }
    let of_good = counters.kind() == Kind::Good;
    let of = |((source, arm, at_ms, is_new), [requests, second]): (
        (String, Arm, i64, bool),
        [f64; 2],
    )| {
        let bad = match requests - second {
            _ if !of_good => second,
            // What is not a number stays so, and is told.
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
    increments.into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use promql_parser::parser;
    use serde_json::{Value, json};
    use serin_analysis::counters::Counters as SampleCounters;
    use serin_analysis::{Counts, Feed};

    use super::*;
    use crate::fixtures::request;
    use crate::prometheus::decoded;
    use crate::reading::{Reading, common_edges};

    const SECOND: CounterConfig = CounterConfig {
        scrape_interval_ms: 1_000,
        forget_ms: 300_000,
    };

    fn counters(objective: Value) -> Counters {
        Counters::new(&serde_json::from_value(objective).unwrap(), &request()).unwrap()
    }

    fn of_errors() -> Counters {
        counters(
            json!({"name": "availability", "objective": 99.9, "counters": {
            "total": "http_requests_total", "errors": "http_requests_total{code=~\"5..\"}"}}),
        )
    }

    fn of_a_histogram() -> Counters {
        counters(
            json!({"name": "latency", "objective": 99, "latency": {"threshold": "300ms", "guard": "Hold"},
            "counters": {"total": "request_duration_seconds_count"}}),
        )
    }

    /// What Prometheus 3.5.0 answered to these queries about three pods, and to those for their
    /// single series. In that minute two of the pods were restarted, two series vanished, one came,
    /// and two scrapes failed. Since then the queries match the suffix of a pod more narrowly and
    /// group by more labels of a scrape, of which these pods had none.
    fn recorded(counters: &Counters, body: &[u8]) -> (Vec<Answer>, Vec<Answer>) {
        let recorded: Value = serde_json::from_slice(body).unwrap();
        let queries = Sums::new(SECOND).queries(counters, recorded["range_ms"].as_i64().unwrap());
        assert_eq!(
            json!(queries),
            recorded["queries"],
            "the record is of other queries"
        );
        let answer = |value: &Value| decoded(value.to_string().as_bytes());
        let of = |name: &str| {
            recorded[name]
                .as_array()
                .unwrap()
                .iter()
                .map(answer)
                .collect::<Vec<_>>()
        };
        (of("answers"), of("raw"))
    }

    fn rounds_of(counters: &Counters, answers: &[Answer]) -> Rounds {
        Sums::new(SECOND).rounds(counters, [&answers[0], &answers[1], &answers[2]])
    }

    fn sum(rounds: &Rounds) -> Counts {
        let mut counts = Counts::default();
        rounds
            .ticks
            .iter()
            .for_each(|tick| counts.add(&tick.counts));
        counts
    }

    #[test]
    fn sums_count_what_single_series_count_through_restarts_and_gaps() {
        let records = [
            (
                of_errors(),
                include_bytes!("../tests/fixtures/sums-of-errors.json").as_slice(),
            ),
            (
                of_a_histogram(),
                include_bytes!("../tests/fixtures/sums-of-a-histogram.json").as_slice(),
            ),
        ];
        for (counters, body) in records {
            let (answers, mut raw) = recorded(&counters, body);
            let rounds = rounds_of(&counters, &answers);
            let until_ms = rounds.ticks.last().unwrap().at_ms;
            for series in raw.iter_mut().flatten() {
                series.samples.retain(|(at_ms, _)| *at_ms <= until_ms);
            }
            let reading = Reading::new(&counters, &raw[0], &raw[1], &BTreeMap::new(), 0);
            let samples = reading.samples();
            let feed = Feed {
                samples: &samples,
                births: &reading.births,
                settled_ms: i64::MAX,
                now_ms: until_ms,
            };
            let began_ms = until_ms - 200_000;
            let single = SampleCounters::resume(SECOND, began_ms, began_ms).feed(&feed);
            let counted = sum(&rounds);
            assert_eq!(counted, sum(&single));
            assert!(
                counted.canary_errors > 200.0 && counted.stable_errors > 400.0,
                "{counted:?}"
            );
            assert_eq!(rounds.inconsistent, 0);
            assert!(rounds.selector_matched_stable);
            // Which sides are fresh is told by the scrapes themselves, of which the newest are
            // later than the last step that is used.
            assert!(rounds.canary_at_ms > Some(until_ms) && rounds.stable_at_ms > Some(until_ms));
        }
    }

    #[test]
    fn sums_of_buckets_count_what_their_single_series_count() {
        let counters = of_a_histogram();
        let (answers, mut raw) = recorded(
            &counters,
            include_bytes!("../tests/fixtures/sums-of-a-histogram.json"),
        );
        let edges = common_edges(&counters, known_buckets(&answers[3]));
        assert_eq!(edges, [0.1, 0.3]);
        let rounds =
            Sums::new(SECOND).rounds_of_edges(&counters, [&answers[0], &answers[3]], &edges);
        assert_eq!(
            rounds[1].ticks,
            rounds_of(&counters, &answers).ticks,
            "one of them is the threshold"
        );
        let until_ms = rounds[0].ticks.last().unwrap().at_ms;
        for series in raw.iter_mut().flatten() {
            series.samples.retain(|(at_ms, _)| *at_ms <= until_ms);
        }
        let readings =
            Reading::of_edges(&counters, [&raw[0], &raw[2]], &edges, &BTreeMap::new(), 0);
        for (rounds, reading) in rounds.iter().zip(readings) {
            let samples = reading.samples();
            let feed = Feed {
                samples: &samples,
                births: &reading.births,
                settled_ms: i64::MAX,
                now_ms: until_ms,
            };
            let began_ms = until_ms - 200_000;
            assert_eq!(
                sum(rounds),
                sum(&SampleCounters::resume(SECOND, began_ms, began_ms).feed(&feed))
            );
        }
    }

    #[test]
    fn steps_whose_scrapes_may_not_be_visible_yet_are_not_used() {
        let counters = of_errors();
        let (answers, _) = recorded(
            &counters,
            include_bytes!("../tests/fixtures/sums-of-errors.json"),
        );
        let newest_ms = answers[0]
            .iter()
            .flat_map(|series| &series.samples)
            .map(|(at_ms, _)| *at_ms)
            .max()
            .unwrap();
        let rounds = rounds_of(&counters, &answers);
        assert_eq!(rounds.ticks.last().unwrap().at_ms, newest_ms - 6_000);
        assert!(
            rounds
                .ticks
                .iter()
                .all(|tick| tick.at_ms % 1_000 == 0 && tick.at_ms - tick.started_ms == 1_000)
        );
        assert!(
            rounds.ticks.iter().any(|tick| tick.stable_pods.len() == 2),
            "pods are told apart"
        );
    }

    #[test]
    fn a_value_that_is_no_number_is_told_and_its_step_counts_nothing_of_the_pod() {
        let counters = of_errors();
        let (mut answers, _) = recorded(
            &counters,
            include_bytes!("../tests/fixtures/sums-of-errors.json"),
        );
        let canary = |series: &&mut Series| {
            series.labels["pod"].contains("bbb") && series.labels[AGE] == KNOWN
        };
        let samples = &mut answers[1].iter_mut().find(canary).unwrap().samples;
        let at_ms = samples[5].0;
        samples[5].1 = f64::NAN;
        let rounds = rounds_of(&counters, &answers);
        assert_eq!(rounds.not_a_number_at_ms, Some(at_ms));
        let tick = rounds
            .ticks
            .iter()
            .find(|tick| tick.at_ms == at_ms)
            .unwrap();
        assert_eq!(
            (tick.counts.canary_requests, tick.counts.canary_errors),
            (0.0, 0.0)
        );
        assert!(tick.counts.stable_requests > 0.0);
    }

    #[test]
    fn the_queries_are_promql_for_labels_too() {
        let by_label =
            counters(json!({"name": "availability", "objective": 99.9, "indicator": "traefik"}));
        for counters in [by_label, of_errors(), of_a_histogram()] {
            for query in Sums::new(CounterConfig::default()).queries(&counters, 75_000) {
                assert!(parser::parse(&query).is_ok(), "{query}");
                assert!(query.ends_with("[75000ms:15000ms]"), "{query}");
            }
        }
        let by_label =
            counters(json!({"name": "availability", "objective": 99.9, "indicator": "traefik"}));
        let total = &Sums::new(CounterConfig::default()).queries(&by_label, 75_000)[0];
        let scrape =
            "cluster, instance, job, prometheus, prometheus_replica, replica, namespace, pod";
        assert!(
            total.contains(&format!("sum by ({scrape}, service)"))
                && total.contains(&format!("and on ({scrape}) ")),
            "{total}"
        );
    }
}
