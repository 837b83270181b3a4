//! From Prometheus' answers to the samples that the statistical core takes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serin_analysis::latency::edge_at;
use serin_analysis::{Arm, Kind, Sample};

use crate::histogram::EDGE_LABEL;
use crate::prometheus::{Answer, Labels, Series};
use crate::selector::Counters;
use crate::targets::is_of_prometheus;

/// What the queries of an objective's single series have brought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Samples<'a> {
    /// All requests.
    pub total: &'a Answer,
    /// The bad ones among them or, of a histogram, the good ones.
    pub second: &'a Answer,
    /// All buckets of the histogram, where a latency guard compares them.
    pub buckets: &'a Answer,
}

pub(crate) const NOTHING: &Answer = &Answer::new();

impl<'a> Samples<'a> {
    /// Takes the answers in the order in which they are asked for; nothing where they are too few.
    pub(crate) fn of(answers: &'a [Answer]) -> Option<Self> {
        let (total, second) = (answers.first()?, answers.get(1)?);
        Some(Self {
            total,
            second,
            buckets: answers.get(2).unwrap_or(NOTHING),
        })
    }
}

/// One series as the core names it.
#[derive(Clone, Debug)]
struct Named<'a> {
    source: String,
    series: String,
    arm: Arm,
    kind: Kind,
    samples: &'a [(i64, f64)],
}

/// The samples of one reading of one objective.
#[derive(Clone, Debug, Default)]
pub struct Reading<'a> {
    series: Vec<Named<'a>>,
    /// When the pods behind the sources were created, in milliseconds since the epoch.
    pub births: BTreeMap<String, i64>,
}

impl<'a> Reading<'a> {
    /// Reads the answers to the two queries of an objective: all requests, and the bad ones or, of
    /// a histogram, the good ones. Series of neither side are left out.
    ///
    /// The canary's pods exist for this release only, so that all of their requests belong to it:
    /// those that were created before `began_ms`, when traffic was first seen, count as born then.
    pub fn new(
        counters: &Counters,
        total: &'a Answer,
        errors: &'a Answer,
        pods_created_at: &BTreeMap<String, Timestamp>,
        began_ms: i64,
    ) -> Self {
        let mut reading = Self::default();
        for (kind, answer) in [(Kind::Total, total), (counters.kind(), errors)] {
            for series in answer
                .iter()
                .filter(|series| counters.takes(kind, &series.labels))
            {
                reading.add(counters, kind, series, pods_created_at, began_ms);
            }
        }
        if counters.kind() == Kind::Good {
            reading.leave_out_unmeasured();
        }
        reading
    }

    /// Reads the answers to the queries of all requests and of all buckets: for each of these
    /// edges, in seconds, the requests within it as the good ones.
    pub(crate) fn of_edges(
        counters: &Counters,
        [total, buckets]: [&'a Answer; 2],
        edges: &[f64],
        pods_created_at: &BTreeMap<String, Timestamp>,
        began_ms: i64,
    ) -> Vec<Self> {
        let mut of_total = Self::default();
        for series in total
            .iter()
            .filter(|series| counters.takes(Kind::Total, &series.labels))
        {
            of_total.add(counters, Kind::Total, series, pods_created_at, began_ms);
        }
        let mut readings = vec![of_total; edges.len()];
        for series in buckets {
            let edge = edge_of(counters, &series.labels);
            let index = edge.and_then(|edge| {
                edges
                    .iter()
                    .position(|known| edge_at(&[edge], *known).is_ok())
            });
            if let Some(reading) = index.and_then(|index| readings.get_mut(index)) {
                reading.add(counters, Kind::Good, series, pods_created_at, began_ms);
            }
        }
        readings.iter_mut().for_each(Self::leave_out_unmeasured);
        readings
    }

    fn add(
        &mut self,
        counters: &Counters,
        kind: Kind,
        Series { labels, samples }: &'a Series,
        pods_created_at: &BTreeMap<String, Timestamp>,
        began_ms: i64,
    ) {
        let Some(arm) = counters.arm(labels) else {
            return;
        };
        let source = source_of(labels, counters.pod(labels));
        let born = counters
            .pod(labels)
            .and_then(|pod| pods_created_at.get(pod));
        let earliest_ms = if arm == Arm::Canary {
            began_ms
        } else {
            i64::MIN
        };
        self.births
            .extend(born.map(|born| (source.clone(), born.as_millisecond().max(earliest_ms))));
        let series = series_of(labels, counters.kind());
        self.series.push(Named {
            source,
            series,
            arm,
            kind,
            samples,
        });
    }

    /// Of requests without the bucket that they are held against nothing is known: counted as they
    /// are, all of them would have been fast.
    fn leave_out_unmeasured(&mut self) {
        let measured: BTreeSet<(String, String)> = self
            .series
            .iter()
            .filter(|named| named.kind == Kind::Good)
            .map(|named| (named.source.clone(), named.series.clone()))
            .collect();
        self.series
            .retain(|named| measured.contains(&(named.source.clone(), named.series.clone())));
    }

    /// All samples.
    pub fn samples(&self) -> Vec<Sample<'_>> {
        let of = |named: &'_ Named<'a>| (named.arm, named.kind, named.samples);
        self.series
            .iter()
            .flat_map(|named| {
                let (arm, kind, samples) = of(named);
                samples.iter().map(move |(at_ms, value)| Sample {
                    source: &named.source,
                    series: &named.series,
                    arm,
                    kind,
                    at_ms: *at_ms,
                    value: *value,
                })
            })
            .collect()
    }
}

/// Where a bucket ends, in seconds.
fn edge_of(counters: &Counters, labels: &Labels) -> Option<f64> {
    counters
        .histogram
        .as_ref()?
        .seconds(labels.get(EDGE_LABEL)?)
}

/// Whether a series is of the bucket that ends there, in seconds.
pub(crate) fn is_edge(counters: &Counters, labels: &Labels, seconds: f64) -> bool {
    edge_of(counters, labels).is_some_and(|edge| edge_at(&[edge], seconds).is_ok())
}

/// The edges that all series of a histogram have, on both sides, in seconds and in rising order;
/// none while one side has no series.
pub(crate) fn common_edges<'a>(
    counters: &Counters,
    buckets: impl Iterator<Item = &'a Labels>,
) -> Vec<f64> {
    let mut edges: BTreeMap<(Arm, String, String), Vec<f64>> = BTreeMap::new();
    for labels in buckets {
        if let (Some(arm), Some(edge)) = (counters.arm(labels), edge_of(counters, labels)) {
            let of = (
                arm,
                source_of(labels, counters.pod(labels)),
                series_of(labels, counters.kind()),
            );
            edges.entry(of).or_default().push(edge);
        }
    }
    let has = |arm: Arm| edges.keys().any(|(of, _, _)| *of == arm);
    let Some(first) = edges
        .values()
        .next()
        .filter(|_| has(Arm::Canary) && has(Arm::Stable))
    else {
        return Vec::new();
    };
    let is_common = |edge: &&f64| edges.values().all(|all| edge_at(all, **edge).is_ok());
    let mut common: Vec<f64> = first.iter().filter(is_common).copied().collect();
    common.sort_by(f64::total_cmp);
    common.dedup_by(|one, other| edge_at(&[*one], *other).is_ok());
    common
}

/// The scrape target of a series: all series of one of its scrapes have the same time.
pub(crate) fn source_of(labels: &Labels, pod: Option<&str>) -> String {
    let label = |name: &str| labels.get(name).map_or("", String::as_str);
    let mut source = format!(
        "{}|{}|{}",
        label("job"),
        label("instance"),
        pod.unwrap_or_default()
    );
    for (_, value) in labels.iter().filter(|(label, _)| is_of_prometheus(label)) {
        source.push('|');
        source.push_str(value);
    }
    source
}

/// What tells a series from the others of its source. The count of a histogram and its bucket are
/// one.
fn series_of(labels: &Labels, kind_of_second: Kind) -> String {
    let mut name = String::new();
    let is_told =
        |label: &str| kind_of_second != Kind::Good || !["__name__", EDGE_LABEL].contains(&label);
    for (label, value) in labels.iter().filter(|(label, _)| is_told(label)) {
        name.push_str(label);
        name.push('=');
        name.push_str(value);
        name.push(';');
    }
    name
}

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
    fn series_of_neither_side_are_left_out_and_pods_have_births() {
        let objective = serde_json::from_value(
            serde_json::json!({"name": "availability", "objective": 99.9,
            "counters": {"total": "requests_total", "errors": "errors_total"}}),
        )
        .unwrap();
        let counters = Counters::new(&objective, &request()).unwrap();
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
        let reading = Reading::new(&counters, &total, &errors, &created, 400);
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
                .filter(|sample| sample.kind == Kind::Errors)
                .count(),
            1
        );
        assert_eq!(
            reading.births,
            BTreeMap::from([("pods|10.0.0.1:8080|checkout-bbb-11111".to_owned(), 500)])
        );
    }

    #[test]
    fn of_a_histogram_in_both_forms_each_request_counts_once() {
        let objective =
            serde_json::from_value(serde_json::json!({"name": "latency", "objective": 99,
            "counters": {"total": "duration_seconds_count"}, "latency": {"threshold": "250ms"}}))
            .unwrap();
        let counters = Counters::new(&objective, &request()).unwrap();
        let series = |name: &str, le: Option<&str>, value: f64| {
            let mut series = series("checkout-bbb-11111", "200", &[(1_000, value)]);
            series.labels.insert("__name__".to_owned(), name.to_owned());
            series
                .labels
                .extend(le.map(|le| ("le".to_owned(), le.to_owned())));
            series
        };
        // A native histogram comes with all of its edges, whatever was asked.
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
        let reading = Reading::new(&counters, &total, &good, &BTreeMap::new(), 0);
        let seen: Vec<_> = reading
            .samples()
            .iter()
            .map(|sample| (sample.kind, sample.value))
            .collect();
        assert_eq!(
            seen,
            [
                (Kind::Total, 9.0),
                (Kind::Total, 9.0),
                (Kind::Good, 7.0),
                (Kind::Good, 7.0)
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
