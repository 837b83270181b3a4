//! Converts Prometheus' answers to the samples of the statistics.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serin_analysis::latency::find_edge;
use serin_analysis::{Arm, CounterKind, Sample};

use crate::counter_selectors::CounterSelectors;
use crate::histogram::EDGE_LABEL;
use crate::prometheus::{Answer, Labels, Series, push_key_part};
use crate::target_deduplicator::is_replica_label;

/// Answers to the queries of an objective's individual series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ObjectiveAnswers<'a> {
    /// All requests.
    pub total: &'a Answer,
    /// The bad requests or, for a histogram, the good ones.
    pub bad_or_good: &'a Answer,
    /// All buckets of the histogram, if a latency guard compares them.
    pub buckets: &'a Answer,
}

pub(crate) const EMPTY_ANSWER: &Answer = &Answer::new();

impl<'a> ObjectiveAnswers<'a> {
    /// Splits the answers, in the order of the queries. `None` if there are too few.
    pub(crate) fn from_answers(answers: &'a [Answer]) -> Option<Self> {
        let (total, second) = (answers.first()?, answers.get(1)?);
        Some(Self {
            total,
            bad_or_good: second,
            buckets: answers.get(2).unwrap_or(EMPTY_ANSWER),
        })
    }
}

/// A series with the names that the statistics use.
#[derive(Clone, Debug)]
struct SampleSeries<'a> {
    source: String,
    series: String,
    arm: Arm,
    kind: CounterKind,
    samples: &'a [(i64, f64)],
}

/// Reads the samples of one objective from a set of answers.
#[derive(Clone, Debug, Default)]
pub struct SampleReader<'a> {
    series: Vec<SampleSeries<'a>>,
    /// Creation times of the pods behind the sources, in milliseconds since the epoch.
    pub source_created_ms: BTreeMap<String, i64>,
}

impl<'a> SampleReader<'a> {
    /// Reads the answers to the two queries of an objective: all requests, and the bad or, for a
    /// histogram, the good ones. Series of neither side are skipped.
    ///
    /// Canary pods exist only for this release, so that all of their requests belong to it. Pods
    /// that were created before `began_ms`, when traffic was first observed, count as created then.
    pub fn new(
        counters: &CounterSelectors,
        total: &'a Answer,
        errors: &'a Answer,
        pods_created_at: &BTreeMap<String, Timestamp>,
        began_ms: i64,
    ) -> Self {
        let mut reading = Self::default();
        for (kind, answer) in [(CounterKind::Total, total), (counters.kind(), errors)] {
            for series in answer
                .iter()
                .filter(|series| counters.counts_as(kind, &series.labels))
            {
                reading.add(counters, kind, series, pods_created_at, began_ms);
            }
        }
        if counters.kind() == CounterKind::Good {
            reading.remove_series_without_bucket();
        }
        reading
    }

    /// Reads the answers to the queries of all requests and of all buckets. For each of these
    /// bounds, in seconds, the requests below count as good.
    pub(crate) fn for_edges(
        counters: &CounterSelectors,
        [total, buckets]: [&'a Answer; 2],
        edges: &[f64],
        pods_created_at: &BTreeMap<String, Timestamp>,
        began_ms: i64,
    ) -> Vec<Self> {
        let mut of_total = Self::default();
        for series in total
            .iter()
            .filter(|series| counters.counts_as(CounterKind::Total, &series.labels))
        {
            of_total.add(
                counters,
                CounterKind::Total,
                series,
                pods_created_at,
                began_ms,
            );
        }
        let mut readings = vec![of_total; edges.len()];
        for series in buckets {
            let edge = edge_seconds(counters, &series.labels);
            let index = edge.and_then(|edge| {
                edges
                    .iter()
                    .position(|known| find_edge(&[edge], *known).is_ok())
            });
            if let Some(reading) = index.and_then(|index| readings.get_mut(index)) {
                reading.add(
                    counters,
                    CounterKind::Good,
                    series,
                    pods_created_at,
                    began_ms,
                );
            }
        }
        readings
            .iter_mut()
            .for_each(Self::remove_series_without_bucket);
        readings
    }

    fn add(
        &mut self,
        counters: &CounterSelectors,
        kind: CounterKind,
        Series { labels, samples }: &'a Series,
        pods_created_at: &BTreeMap<String, Timestamp>,
        began_ms: i64,
    ) {
        let Some(arm) = counters.arm(labels) else {
            return;
        };
        let source = source_key(labels, counters.pod(labels));
        let born = counters
            .pod(labels)
            .and_then(|pod| pods_created_at.get(pod));
        let earliest_ms = if arm == Arm::Canary {
            began_ms
        } else {
            i64::MIN
        };
        self.source_created_ms
            .extend(born.map(|born| (source.clone(), born.as_millisecond().max(earliest_ms))));
        let series = series_key(labels, counters.kind());
        self.series.push(SampleSeries {
            source,
            series,
            arm,
            kind,
            samples,
        });
    }

    /// Removes series without a bucket at the threshold. Otherwise all of their requests would
    /// count as fast or as slow.
    fn remove_series_without_bucket(&mut self) {
        let measured: BTreeSet<(String, String)> = self
            .series
            .iter()
            .filter(|series| series.kind == CounterKind::Good)
            .map(|series| (series.source.clone(), series.series.clone()))
            .collect();
        self.series
            .retain(|series| measured.contains(&(series.source.clone(), series.series.clone())));
    }

    /// All samples.
    pub fn samples(&self) -> Vec<Sample<'_>> {
        self.series
            .iter()
            .flat_map(|series| {
                let (arm, kind, samples) = (series.arm, series.kind, series.samples);
                samples.iter().map(move |(at_ms, value)| Sample {
                    source: &series.source,
                    series: &series.series,
                    arm,
                    kind,
                    at_ms: *at_ms,
                    value: *value,
                })
            })
            .collect()
    }
}

/// Upper bound of a bucket in seconds.
fn edge_seconds(counters: &CounterSelectors, labels: &Labels) -> Option<f64> {
    counters
        .histogram
        .as_ref()?
        .edge_seconds(labels.get(EDGE_LABEL)?)
}

/// Whether a series belongs to the bucket with this bound, in seconds.
pub(crate) fn is_bucket_edge(counters: &CounterSelectors, labels: &Labels, seconds: f64) -> bool {
    edge_seconds(counters, labels).is_some_and(|edge| find_edge(&[edge], seconds).is_ok())
}

/// Bucket bounds that all series of a histogram have in common, in seconds and in ascending order.
/// Empty while one of these sides has no series.
pub(crate) fn edges_of<'a>(
    counters: &CounterSelectors,
    buckets: impl Iterator<Item = &'a Labels>,
    sides: &[Arm],
) -> Vec<f64> {
    let mut edges: BTreeMap<(Arm, String, String), Vec<f64>> = BTreeMap::new();
    for labels in buckets {
        let arm = counters.arm(labels).filter(|arm| sides.contains(arm));
        if let (Some(arm), Some(edge)) = (arm, edge_seconds(counters, labels)) {
            let key = (
                arm,
                source_key(labels, counters.pod(labels)),
                series_key(labels, counters.kind()),
            );
            edges.entry(key).or_default().push(edge);
        }
    }
    let has = |arm: Arm| edges.keys().any(|(side, _, _)| *side == arm);
    let Some(first) = edges
        .values()
        .next()
        .filter(|_| sides.iter().all(|side| has(*side)))
    else {
        return Vec::new();
    };
    let is_common = |edge: &&f64| edges.values().all(|all| find_edge(all, **edge).is_ok());
    let mut common: Vec<f64> = first.iter().filter(is_common).copied().collect();
    common.sort_by(f64::total_cmp);
    common.dedup_by(|one, other| find_edge(&[*one], *other).is_ok());
    common
}

/// Identifies the scrape target of a series. All series of one scrape have the same timestamp.
pub(crate) fn source_key(labels: &Labels, pod: Option<&str>) -> String {
    let label = |name: &str| labels.get(name).map_or("", String::as_str);
    let mut source = String::new();
    push_key_part(&mut source, label("job"));
    let replicas = labels.iter().filter(|(label, _)| is_replica_label(label));
    let replicas = replicas.map(|(_, value)| value.as_str());
    for part in [label("instance"), pod.unwrap_or_default()]
        .into_iter()
        .chain(replicas)
    {
        source.push('|');
        push_key_part(&mut source, part);
    }
    source
}

/// Distinguishes a series from others of the same source. The count of a histogram and its bucket
/// have the same key.
pub(crate) fn series_key(labels: &Labels, kind_of_second: CounterKind) -> String {
    let mut name = String::new();
    let is_told = |label: &str| {
        kind_of_second != CounterKind::Good || !["__name__", EDGE_LABEL].contains(&label)
    };
    for (label, value) in labels.iter().filter(|(label, _)| is_told(label)) {
        push_key_part(&mut name, label);
        name.push('=');
        push_key_part(&mut name, value);
        name.push(';');
    }
    name
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::request;

    fn series(pod: &str, code: &str, samples: &[(i64, f64)]) -> Series {
        let labels = [
            ("instance", "10.0.0.1:8080"),
            ("job", "pods"),
            ("pod", pod),
            ("code", code),
        ];
        Series {
            labels: labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            samples: samples.to_vec(),
        }
    }

    #[test]
    fn series_of_neither_side_are_skipped_and_pods_have_creation_times() {
        let objective = serde_json::from_value(
            serde_json::json!({"name": "availability", "objective": 99.9,
            "counters": {"total": "requests_total", "errors": "errors_total"}}),
        )
        .unwrap();
        let counters = CounterSelectors::new(&objective, &request()).unwrap();
        let total = vec![
            series("checkout-bbb-11111", "200", &[(1_000, 1.0), (2_000, 5.0)]),
            series("checkout-aaa-11111", "200", &[(1_500, 9.0)]),
            series("cart-aaa-11111", "200", &[(9_000, 9.0)]),
        ];
        let errors = vec![series("checkout-bbb-11111", "500", &[(2_000, 1.0)])];
        let created = BTreeMap::from([(
            "checkout-bbb-11111".to_owned(),
            Timestamp::from_millisecond(500).unwrap(),
        )]);
        let reading = SampleReader::new(&counters, &total, &errors, &created, 400);
        let samples = reading.samples();
        assert_eq!(samples.len(), 4);
        assert_eq!(
            samples
                .iter()
                .filter(|sample| sample.arm == Arm::Canary)
                .count(),
            3
        );
        assert_eq!(
            samples
                .iter()
                .filter(|sample| sample.kind == CounterKind::Errors)
                .count(),
            1
        );
        assert_eq!(
            reading.source_created_ms,
            BTreeMap::from([("pods|10.0.0.1:8080|checkout-bbb-11111".to_owned(), 500)])
        );
    }

    #[test]
    fn a_histogram_in_both_forms_counts_each_request_once() {
        let objective =
            serde_json::from_value(serde_json::json!({"name": "latency", "objective": 99,
            "counters": {"total": "duration_seconds_count"}, "latency": {"threshold": "250ms"}}))
            .unwrap();
        let counters = CounterSelectors::new(&objective, &request()).unwrap();
        let series = |name: &str, le: Option<&str>, value: f64| {
            let mut series = series("checkout-bbb-11111", "200", &[(1_000, value)]);
            series.labels.insert("__name__".to_owned(), name.to_owned());
            series
                .labels
                .extend(le.map(|le| ("le".to_owned(), le.to_owned())));
            series
        };
        // A native histogram is returned with all of its buckets.
        let native = || {
            vec![
                series("duration_seconds_count", None, 9.0),
                series("duration_seconds_bucket", Some("0.25"), 7.0),
                series("duration_seconds_bucket", Some("0.5"), 8.0),
            ]
        };
        let (mut total, mut good) = (native(), native());
        total.push(series("duration_seconds_count", None, 9.0));
        good.push(series("duration_seconds_bucket", Some("0.250"), 7.0));
        let reading = SampleReader::new(&counters, &total, &good, &BTreeMap::new(), 0);
        let seen: Vec<_> = reading
            .samples()
            .iter()
            .map(|sample| (sample.kind, sample.value))
            .collect();
        assert_eq!(
            seen,
            [
                (CounterKind::Total, 9.0),
                (CounterKind::Total, 9.0),
                (CounterKind::Good, 7.0),
                (CounterKind::Good, 7.0)
            ]
        );
        let names: BTreeSet<_> = reading
            .samples()
            .iter()
            .map(|sample| sample.series.to_owned())
            .collect();
        assert_eq!(
            names.len(),
            1,
            "they are one series: of duplicates one is taken"
        );
    }
}
