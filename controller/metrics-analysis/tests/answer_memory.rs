//! Measures the memory that decoding takes, in a process of its own for each answer.

#![expect(clippy::unwrap_used, reason = "a test fails at the first error")]

use std::fmt::Write as _;
use std::process::Command;

use serin_metrics_analysis::prometheus::{Answer, Limits, QueryError, decode};

/// What decoding may allocate, as a multiple of the maximum size of a body. The body itself is not
/// included.
const FACTOR: usize = 4;
/// What a process allocates for other reasons, in bytes.
const TOLERANCE: usize = 4 << 20;
/// Names the answer that a child process decodes.
const CASE: &str = "SERIN_ANSWER_CASE";

/// A value of `/proc/self/status` in bytes.
fn memory(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse::<usize>().unwrap() * 1_024
}

/// Repeats a part up to the maximum size of a body.
fn filled(head: &str, part: &str, tail: &str) -> String {
    let limit = Limits::default().answer_bytes;
    let count = (limit - head.len() - tail.len()) / part.len();
    let mut body = String::with_capacity(limit);
    body.push_str(head);
    for _ in 0..count {
        body.push_str(part);
    }
    // The last comma.
    if part.ends_with(',') {
        body.pop();
    }
    body.push_str(tail);
    body
}

const VECTOR: &str = r#"{"status":"success","data":{"resultType":"vector","result":["#;
const MATRIX: &str = r#"{"status":"success","data":{"resultType":"matrix","result":["#;
const UNTYPED: &str = r#"{"status":"success","data":{"result":["#;
const END: &str = "]}}";

/// Labels with different names.
fn labels() -> String {
    let mut body = String::with_capacity(Limits::default().answer_bytes);
    body.push_str(
        r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"""#,
    );
    for n in 0..500_000 {
        write!(body, r#","{n:x}":"""#).unwrap();
    }
    body.push_str("}}]}}");
    body
}

/// 10,000 native histograms, each of which becomes more than twenty series.
fn histograms() -> String {
    let part = r#"{"metric":{"__name__":"d_seconds"},"histograms":[[1,{"count":"0"}]]},"#;
    let parts = part.repeat(10_000);
    format!("{MATRIX}{}{END}", parts.trim_end_matches(','))
}

/// An answer that is built when it is decoded, and whether it is refused.
type Case = (&'static str, fn() -> String, bool);

const ONE_SERIES: &str = r#"{"metric":{"":""}},"#;
const LABEL_VALUE: &str =
    r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":""#;
const LABEL_VALUE_END: &str = r#""},"value":[1,"1"]}]}}"#;
const SAMPLES: &str =
    r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":["#;
const BUCKETS: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"d"},"histograms":[[1,{"count":"0","buckets":["#;
const SHORT_SERIES: &str = r#"{"metric":{"pod":"a"},"values":[[1,"1"],[2,"2"]]},"#;
const ERROR: &str = r#"{"status":"error","errorType":"bad_data","error":""#;

const CASES: &[Case] = &[
    ("series", || filled(VECTOR, ONE_SERIES, END), true),
    (
        "series before their type",
        || filled(UNTYPED, ONE_SERIES, r#"],"resultType":"vector"}}"#),
        true,
    ),
    (
        "empty series",
        || filled(MATRIX, r#"{"metric":{}},"#, END),
        true,
    ),
    ("short series", || filled(MATRIX, SHORT_SERIES, END), true),
    ("labels", labels, true),
    (
        "a label value",
        || filled(LABEL_VALUE, "x", LABEL_VALUE_END),
        false,
    ),
    (
        "an escaped label value",
        || filled(LABEL_VALUE, r"\n", LABEL_VALUE_END),
        false,
    ),
    ("samples", || filled(SAMPLES, r#"[1,"1"],"#, "]}]}}"), true),
    ("histograms", histograms, true),
    (
        "buckets",
        || filled(BUCKETS, r#"[0,"1","2","3"],"#, "]}]]}]}}"),
        true,
    ),
    ("numbers", || filled(VECTOR, "1,", END), true),
    ("nested lists", || filled(VECTOR, "[", END), true),
    (
        "nested unknown lists",
        || filled(r#"{"status":"success","unknown":"#, "[", "}"),
        true,
    ),
    (
        "unknown fields",
        || filled(r#"{"status":"success","#, r#""a":{"b":[1,"c"]},"#, "}"),
        true,
    ),
    (
        "warnings",
        || filled(r#"{"status":"success","warnings":["#, r#""w","#, "]}"),
        true,
    ),
    (
        "infos",
        || filled(r#"{"status":"success","infos":["#, r#""w","#, "]}"),
        true,
    ),
    ("an error", || filled(ERROR, r"\u001b", r#""}"#), true),
    ("a long number", || filled(r#"{"status":"#, "1", "}"), true),
];

#[test]
fn decoding_any_answer_allocates_at_most_a_few_times_its_limit() {
    if let Ok(name) = std::env::var(CASE) {
        match CASES.iter().find(|(case, ..)| *case == name) {
            Some(case) => check(case),
            None => check_that_excess_is_measured(),
        }
        return;
    }
    let own = std::env::current_exe().unwrap();
    for name in CASES.iter().map(|(name, ..)| *name).chain(["no limits"]) {
        let test = "decoding_any_answer_allocates_at_most_a_few_times_its_limit";
        let child = Command::new(&own)
            .args(["--exact", test, "--nocapture"])
            .env(CASE, name)
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{name}: {shown}");
    }
}

/// The result, and the memory that decoding took at most, in bytes.
fn decode_and_measure(body: &str, limits: &Limits) -> (Result<Answer, QueryError>, usize) {
    // Resets the peak.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let result = decode(body.as_bytes(), limits);
    (result, memory("VmHWM:").saturating_sub(before))
}

fn check((name, body, is_refused): &Case) {
    let limits = Limits::default();
    let (result, peak) = decode_and_measure(&body(), &limits);
    let most = FACTOR * limits.answer_bytes + TOLERANCE;
    assert!(peak <= most, "{name}: {peak} bytes, the limit is {most}");
    assert_eq!(result.is_err(), *is_refused, "{name}");
    // What is kept is measured.
    assert!(
        *is_refused || peak >= limits.answer_bytes / 2,
        "{name}: {peak} bytes"
    );
    if let Err(error) = result {
        assert!(error.to_string().chars().count() < 500, "{name}: {error}");
        let is_expected = matches!(
            error,
            QueryError::TooLarge(_)
                | QueryError::Malformed(_)
                | QueryError::Partial(_)
                | QueryError::BadQuery(_)
        );
        assert!(is_expected, "{name}: {error}");
    }
}

/// Without limits, an answer takes more than the test permits.
fn check_that_excess_is_measured() {
    let limits = Limits {
        answer_series: usize::MAX,
        answer_bytes: 1 << 30,
        ..Limits::default()
    };
    let body = filled(MATRIX, SHORT_SERIES, END);
    let (result, peak) = decode_and_measure(&body, &limits);
    assert!(result.is_ok());
    let most = FACTOR * Limits::default().answer_bytes + TOLERANCE;
    assert!(peak > 2 * most, "{peak} bytes");
}
