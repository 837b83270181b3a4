use std::collections::BTreeMap;

use promql_parser::parser;
use serde_json::{Value, json};
use serin_analysis::counters::RoundBuilder as SampleCounters;
use serin_analysis::{Counts, SampleBatch};

use super::*;
use crate::fixtures::request;
use crate::prometheus::decode_body;
use crate::sample_reader::{SampleReader, edges_of};

const SECOND: CounterConfig = CounterConfig {
    scrape_interval_ms: 1_000,
    forget_ms: 300_000,
};

fn counters(objective: Value) -> CounterSelectors {
    CounterSelectors::new(&serde_json::from_value(objective).unwrap(), &request()).unwrap()
}

fn error_selectors() -> CounterSelectors {
    counters(
        json!({"name": "availability", "objective": 99.9, "counters": {
        "total": "http_requests_total", "errors": "http_requests_total{code=~\"5..\"}"}}),
    )
}

fn histogram_selectors() -> CounterSelectors {
    counters(
        json!({"name": "latency", "objective": 99, "latency": {"threshold": "300ms", "guard": "Hold"},
        "counters": {"total": "request_duration_seconds_count"}}),
    )
}

/// Answers of Prometheus 3.5.0 to these queries and to those for individual series, for three
/// pods. In the recorded minute two pods were restarted, two series disappeared, one appeared,
/// and two scrapes failed. Since then the queries match the suffix of a pod more narrowly and
/// group by more scrape labels, none of which these pods have.
fn recorded(counters: &CounterSelectors, body: &[u8]) -> (Vec<Answer>, Vec<Answer>) {
    let recorded: Value = serde_json::from_slice(body).unwrap();
    let queries = ServerSideAggregation::new(SECOND)
        .queries(counters, recorded["range_ms"].as_i64().unwrap());
    assert_eq!(
        json!(queries),
        recorded["queries"],
        "the record is of other queries"
    );
    let answer = |value: &Value| decode_body(value.to_string().as_bytes());
    let series = |name: &str| {
        recorded[name]
            .as_array()
            .unwrap()
            .iter()
            .map(answer)
            .collect::<Vec<_>>()
    };
    (series("answers"), series("raw"))
}

fn rounds_from(counters: &CounterSelectors, answers: &[Answer]) -> Rounds {
    ServerSideAggregation::new(SECOND).rounds(counters, [&answers[0], &answers[1], &answers[2]])
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
fn aggregates_equal_individual_series_across_restarts_and_gaps() {
    let records = [
        (
            error_selectors(),
            include_bytes!("../../tests/fixtures/sums-of-errors.json").as_slice(),
        ),
        (
            histogram_selectors(),
            include_bytes!("../../tests/fixtures/sums-of-a-histogram.json").as_slice(),
        ),
    ];
    for (counters, body) in records {
        let (answers, mut raw) = recorded(&counters, body);
        let rounds = rounds_from(&counters, &answers);
        let until_ms = rounds.ticks.last().unwrap().at_ms;
        for series in raw.iter_mut().flatten() {
            series.samples.retain(|(at_ms, _)| *at_ms <= until_ms);
        }
        let reading = SampleReader::new(&counters, &raw[0], &raw[1], &BTreeMap::new(), 0);
        let samples = reading.samples();
        let feed = SampleBatch {
            samples: &samples,
            source_created_ms: &reading.source_created_ms,
            settled_ms: i64::MAX,
            now_ms: until_ms,
        };
        let began_ms = until_ms - 200_000;
        let single = SampleCounters::resume(SECOND, began_ms, began_ms).add_samples(&feed);
        let counted = sum(&rounds);
        assert_eq!(counted, sum(&single));
        assert!(
            counted.canary_errors > 200.0 && counted.stable_errors > 400.0,
            "{counted:?}"
        );
        assert_eq!(rounds.inconsistent_increments, 0);
        assert!(rounds.selector_matched_stable);
        // The freshness of the sides depends on the scrapes themselves. The newest are later
        // than the last step that is used.
        assert!(rounds.canary_at_ms > Some(until_ms) && rounds.stable_at_ms > Some(until_ms));
    }
}

#[test]
fn aggregated_buckets_equal_their_individual_series() {
    let counters = histogram_selectors();
    let (answers, mut raw) = recorded(
        &counters,
        include_bytes!("../../tests/fixtures/sums-of-a-histogram.json"),
    );
    let edges = edges_of(
        &counters,
        known_buckets(&answers[3]),
        &[Arm::Canary, Arm::Stable],
    );
    assert_eq!(edges, [0.1, 0.3]);
    let rounds = ServerSideAggregation::new(SECOND).rounds_of_edges(
        &counters,
        [&answers[0], &answers[3]],
        &edges,
    );
    assert_eq!(
        rounds[1].ticks,
        rounds_from(&counters, &answers).ticks,
        "one of them is the threshold"
    );
    let until_ms = rounds[0].ticks.last().unwrap().at_ms;
    for series in raw.iter_mut().flatten() {
        series.samples.retain(|(at_ms, _)| *at_ms <= until_ms);
    }
    let readings =
        SampleReader::for_edges(&counters, [&raw[0], &raw[2]], &edges, &BTreeMap::new(), 0);
    for (rounds, reading) in rounds.iter().zip(readings) {
        let samples = reading.samples();
        let feed = SampleBatch {
            samples: &samples,
            source_created_ms: &reading.source_created_ms,
            settled_ms: i64::MAX,
            now_ms: until_ms,
        };
        let began_ms = until_ms - 200_000;
        assert_eq!(
            sum(rounds),
            sum(&SampleCounters::resume(SECOND, began_ms, began_ms).add_samples(&feed))
        );
    }
}

#[test]
fn steps_with_invisible_scrapes_are_not_used() {
    let counters = error_selectors();
    let (answers, _) = recorded(
        &counters,
        include_bytes!("../../tests/fixtures/sums-of-errors.json"),
    );
    let newest_ms = answers[0]
        .iter()
        .flat_map(|series| &series.samples)
        .map(|(at_ms, _)| *at_ms)
        .max()
        .unwrap();
    let rounds = rounds_from(&counters, &answers);
    assert_eq!(rounds.ticks.last().unwrap().at_ms, newest_ms - 6_000);
    assert!(
        rounds
            .ticks
            .iter()
            .all(|tick| tick.at_ms % 1_000 == 0 && tick.at_ms - tick.started_ms == 1_000)
    );
    assert!(
        rounds.ticks.iter().any(|tick| tick.stable_pods.len() == 2),
        "pods are distinguished"
    );
}

#[test]
fn nan_is_reported_and_the_step_of_the_pod_does_not_count() {
    let counters = error_selectors();
    let (mut answers, _) = recorded(
        &counters,
        include_bytes!("../../tests/fixtures/sums-of-errors.json"),
    );
    let canary =
        |series: &&mut Series| series.labels["pod"].contains("bbb") && series.labels[AGE] == KNOWN;
    let samples = &mut answers[1].iter_mut().find(canary).unwrap().samples;
    let at_ms = samples[5].0;
    samples[5].1 = f64::NAN;
    let rounds = rounds_from(&counters, &answers);
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
fn the_aggregation_queries_are_valid_promql() {
    let by_label =
        counters(json!({"name": "availability", "objective": 99.9, "indicator": "traefik"}));
    for counters in [by_label, error_selectors(), histogram_selectors()] {
        for query in ServerSideAggregation::new(CounterConfig::default()).queries(&counters, 75_000)
        {
            assert!(parser::parse(&query).is_ok(), "{query}");
            assert!(query.ends_with("[75000ms:15000ms]"), "{query}");
        }
    }
    let by_label =
        counters(json!({"name": "availability", "objective": 99.9, "indicator": "traefik"}));
    let total = &ServerSideAggregation::new(CounterConfig::default()).queries(&by_label, 75_000)[0];
    let scrape = "cluster, instance, job, prometheus, prometheus_replica, replica, namespace, pod";
    assert!(
        total.contains(&format!("sum by ({scrape}, service)"))
            && total.contains(&format!("and on ({scrape}) ")),
        "{total}"
    );
}
