//! Fuzzes the decoder of responses. It either returns a short error or dated samples, never panics,
//! and counts everything that it allocates.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::answer::{Answer, Series};
use super::envelope::{AnswerContent, decode_metered};
use super::error::QueryError;
use super::memory::Reservation;
use super::meter::AnswerLimits;

const MOST_SERIES: usize = 80;
const MOST_BYTES: usize = 100_000;
/// Maximum length of a condition message, including the surrounding text.
const LONGEST_MESSAGE: usize = 400;

/// What the answer has allocated, in bytes, without the overhead of the allocator. A node of the map
/// of labels has eleven entries.
fn heap_size(answer: &Answer) -> usize {
    let text = |text: &String| text.capacity();
    let of_series = |series: &Series| {
        let texts: usize = series
            .labels
            .iter()
            .map(|(name, value)| text(name) + text(value))
            .sum();
        let nodes = series.labels.len().div_ceil(11);
        texts + nodes * 11 * 2 * size_of::<String>() + series.samples.capacity() * 16
    };
    let of_series: usize = answer.iter().map(of_series).sum();
    of_series + answer.capacity() * size_of::<Series>()
}

fn check(body: &[u8]) -> Result<(), TestCaseError> {
    let limits = AnswerLimits::new(MOST_BYTES, MOST_SERIES);
    let memory = &mut Reservation::unlimited();
    let (result, charged) = decode_metered(body, AnswerContent::Series, limits, memory);
    is_sane(&result, charged)
}

fn is_sane(result: &Result<Answer, QueryError>, charged: usize) -> Result<(), TestCaseError> {
    match result {
        Ok(answer) => {
            // The series of a native histogram count, too.
            prop_assert!(answer.len() <= MOST_SERIES);
            prop_assert!(heap_size(answer) <= charged && charged <= 3 * MOST_BYTES);
            let times = answer
                .iter()
                .flat_map(|series| &series.samples)
                .map(|(at_ms, _)| *at_ms);
            prop_assert!(
                times
                    .into_iter()
                    .all(|at_ms| (0..=8_640_000_000_000_000).contains(&at_ms)),
                "{answer:?}"
            );
        }
        Err(error) => {
            let message = error.to_string();
            prop_assert!(
                !message.is_empty() && message.chars().count() <= LONGEST_MESSAGE,
                "{message}"
            );
        }
    }
    Ok(())
}

#[test]
fn what_the_smallest_answers_allocate_is_counted() {
    let series = json!([{"metric": {}, "values": [[0.0, "0"]]}]);
    let histogram = json!([{
        "metric": {"__name__": "a".repeat(600)},
        "histograms": [[0.0, {"buckets": [], "count": "0", "sum": "1"}]],
    }]);
    let answers = [
        ("scalar", json!([0.0, "0"])),
        ("matrix", series),
        ("matrix", histogram),
    ];
    for (result_type, result) in answers {
        let data = json!({"resultType": result_type, "result": result});
        let answer = json!({"status": "success", "data": data});
        check(answer.to_string().as_bytes()).unwrap();
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "success", "error", "vector", "matrix", "scalar", "string", "NaN", "+Inf", "-Inf",
            "1e400", "0x10", "",
        ])
        .prop_map(str::to_owned),
        "-?[0-9]{1,20}(\\.[0-9]{1,4})?",
        ".{0,12}",
        "[a-z]{500,600}",
    ]
}

fn key() -> impl Strategy<Value = String> {
    let known = [
        "status",
        "data",
        "resultType",
        "result",
        "metric",
        "value",
        "values",
        "histograms",
        "count",
        "buckets",
        "warnings",
        "infos",
        "errorType",
        "error",
        "__name__",
        "le",
    ];
    prop_oneof![9 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,6}"]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A native histogram with arbitrary bounds and counts.
fn histogram() -> impl Strategy<Value = Value> {
    let number =
        || prop_oneof![3 => (0.0..20.0_f64).prop_map(|number| number.to_string()), 1 => text()];
    let bucket = (0_u8..5, number(), number(), number()).prop_map(|bucket| json!(bucket));
    let histogram = (number(), prop::collection::vec(bucket, 0..6))
        .prop_map(|(count, buckets)| json!({"count": count, "sum": "1", "buckets": buckets}));
    prop_oneof![9 => histogram, 1 => any_json()]
}

/// A valid envelope with an arbitrary result.
fn any_envelope() -> impl Strategy<Value = Value> {
    let time = prop_oneof![0.0..2e9_f64, any::<f64>()].prop_map(|time| json!(time));
    let sample = (
        prop_oneof![9 => time, 1 => any_json()],
        prop_oneof![9 => text().prop_map(Value::from), 1 => any_json()],
    );
    let samples = prop_oneof![
        prop::collection::vec(sample, 0..4).prop_map(|samples| ("values", samples)),
        prop::collection::vec(
            (
                prop_oneof![9 => 0.0..2e9_f64, 1 => any::<f64>()],
                histogram()
            ),
            0..3
        )
        .prop_map(|samples| (
            "histograms",
            samples
                .into_iter()
                .map(|(at, histogram)| (json!(at), histogram))
                .collect()
        )),
    ];
    let labels = prop::collection::vec((key(), text().prop_map(Value::from)), 0..3);
    let series = (labels, samples, prop::bool::weighted(0.2)).prop_map(
        |(labels, (field, samples), is_instant)| {
            let labels: serde_json::Map<String, Value> = labels.into_iter().collect();
            let samples: Vec<_> = samples
                .into_iter()
                .map(|(at, value)| json!([at, value]))
                .collect();
            if is_instant {
                json!({"metric": labels, "value": samples.into_iter().next().unwrap_or_default()})
            } else {
                json!({"metric": labels, field: samples})
            }
        },
    );
    let result = prop_oneof![9 => prop::collection::vec(series, 0..5).prop_map(Value::from), 1 => any_json()];
    let warnings = prop::collection::vec(text(), 0..2);
    (
        prop::sample::select(vec!["success", "error"]),
        prop::sample::select(vec!["vector", "matrix", "scalar", "string"]),
        result,
        warnings,
        text(),
    )
        .prop_map(|(status, result_type, result, warnings, error)| {
            json!({"status": status, "data": {"resultType": result_type, "result": result}, "warnings": warnings,
                "errorType": error, "error": error})
        })
}

proptest! {
    #[test]
    fn fuzz_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&bytes)?;
    }

    #[test]
    fn fuzz_arbitrary_json(answer in any_json()) {
        check(answer.to_string().as_bytes())?;
    }

    #[test]
    fn fuzz_arbitrary_results_in_an_envelope(answer in any_envelope()) {
        check(answer.to_string().as_bytes())?;
    }

    #[test]
    fn fuzz_answers_with_modified_bytes(
        answer in any_envelope(), cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = answer.to_string().into_bytes();
        for (at, byte) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        check(&bytes)?;
        bytes.truncate(cut.index(bytes.len()));
        check(&bytes)?;
    }
}
