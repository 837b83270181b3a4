//! Converts native histograms to classic ones.
//!
//! The buckets of a native histogram end at powers of a base that depends on its resolution, and
//! the resolution can decrease over time. From schema 0 on, the powers of two are always among the
//! bounds. A histogram with custom buckets has the bounds that its author configured. At these
//! bounds the requests below are an exact count. Anywhere else they would be an estimate within a
//! bucket, so no series is created.
//!
//! Source: <https://prometheus.io/docs/specs/native_histograms/>; response format:
//! <https://prometheus.io/docs/prometheus/latest/querying/api/#native-histograms>.

use serde::Deserialize;

use super::answer::{Labels, Series};
use super::error::{QueryError, truncated};

/// Exponents of the powers of two that a threshold may have: from about one millisecond to several
/// hours, in seconds or milliseconds.
const POWERS: std::ops::RangeInclusive<i32> = -10..=14;

/// Maximum number of bucket bounds per histogram.
pub(super) const MAX_EDGES: usize = 64;

/// Maximum number of digits of configured bounds. The bounds between two powers of two have
/// seventeen.
const WRITTEN_DIGITS: usize = 6;

/// A native histogram in a response.
#[derive(Deserialize)]
pub(super) struct NativeHistogram {
    count: String,
    #[serde(default)]
    buckets: Vec<(u8, String, String, String)>,
}

/// The observations above `left` and up to `right`. Whether a bound is inclusive is ignored,
/// because a duration is almost never equal to a bound.
struct Bucket {
    left: f64,
    right: f64,
    count: f64,
}

/// All observations at one time, in total and by bucket.
struct HistogramSample {
    at_ms: i64,
    count: f64,
    buckets: Vec<Bucket>,
}

/// Converts the count and the buckets of a native histogram to the series of a classic one.
pub(super) fn as_classic(
    labels: &Labels,
    samples: &[(i64, NativeHistogram)],
) -> Result<Vec<Series>, QueryError> {
    let Some(name) = labels.get("__name__") else {
        let message = "the query returns native histograms instead of counters";
        return Err(QueryError::BadQuery(message.to_owned()));
    };
    let samples = samples
        .iter()
        .map(parse_histogram)
        .collect::<Result<Vec<_>, _>>()?;
    let named = |suffix: &str, edge: Option<f64>, samples: Vec<(i64, f64)>| {
        let mut labels = labels.clone();
        labels.insert("__name__".to_owned(), format!("{name}_{suffix}"));
        labels.extend(edge.map(|edge| ("le".to_owned(), edge.to_string())));
        Series { labels, samples }
    };
    let mut series = vec![named(
        "count",
        None,
        samples
            .iter()
            .map(|sample| (sample.at_ms, sample.count))
            .collect(),
    )];
    for edge in countable_edges(&samples) {
        let within = samples
            .iter()
            .map(|sample| Some((sample.at_ms, count_within(&sample.buckets, edge)?)));
        series.extend(
            within
                .collect::<Option<_>>()
                .map(|within| named("bucket", Some(edge), within)),
        );
    }
    Ok(series)
}

fn parse_histogram(
    (at_ms, histogram): &(i64, NativeHistogram),
) -> Result<HistogramSample, QueryError> {
    let number = |text: &String| {
        let malformed = |_| QueryError::Malformed(format!("{:?} is not a number", truncated(text)));
        text.parse::<f64>().map_err(malformed)
    };
    let buckets = histogram.buckets.iter().map(|(_, left, right, count)| {
        Ok(Bucket {
            left: number(left)?,
            right: number(right)?,
            count: number(count)?,
        })
    });
    Ok(HistogramSample {
        at_ms: *at_ms,
        count: number(&histogram.count)?,
        buckets: buckets.collect::<Result<_, _>>()?,
    })
}

/// Bounds at which the requests below can be counted at any resolution, in ascending order.
fn countable_edges(samples: &[HistogramSample]) -> Vec<f64> {
    let bounds = samples
        .iter()
        .flat_map(|sample| &sample.buckets)
        .flat_map(|bucket| [bucket.left, bucket.right]);
    let written = bounds.filter(|bound| {
        let digits = bound
            .to_string()
            .chars()
            .filter(char::is_ascii_digit)
            .count();
        bound.is_finite() && *bound > 0.0 && digits <= WRITTEN_DIGITS
    });
    let mut edges: Vec<f64> = POWERS
        .map(|power| 2_f64.powi(power))
        .chain(written)
        .collect();
    edges.sort_by(f64::total_cmp);
    edges.dedup();
    edges.truncate(MAX_EDGES);
    edges
}

/// The observations up to the bound. `None` if the bound is inside a bucket that is not empty.
fn count_within(buckets: &[Bucket], edge: f64) -> Option<f64> {
    let is_split = buckets
        .iter()
        .any(|bucket| bucket.count != 0.0 && bucket.left < edge && edge < bucket.right);
    let below = buckets
        .iter()
        .filter(|bucket| bucket.right <= edge)
        .map(|bucket| bucket.count);
    (!is_split).then(|| below.sum())
}

#[cfg(test)]
mod tests {
    use super::super::envelope::decode;
    use super::*;
    use serin_core::hold::HoldCode;

    /// The response of Prometheus to a range selector, with these buckets.
    fn read(count: u32, buckets: &str) -> Vec<Series> {
        let body = format!(
            r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{"__name__":"request_duration_seconds","pod":"a-1"}},
                "histograms":[[1763880000.123,{{"count":"{count}","sum":"17.5","buckets":[{buckets}]}}]]}}]}}}}"#
        );
        decode(body.as_bytes(), 1).unwrap()
    }

    /// The requests up to a bound.
    fn at(series: &[Series], edge: &str) -> Option<f64> {
        let series = series
            .iter()
            .find(|series| series.labels.get("le").is_some_and(|le| le == edge))?;
        assert_eq!(
            (series.labels["__name__"].as_str(), series.samples.len()),
            ("request_duration_seconds_bucket", 1)
        );
        Some(series.samples[0].1)
    }

    #[test]
    fn an_exponential_histogram_counts_within_powers_of_two_at_every_resolution() {
        // Schema 1: edges at 0.25, 0.354, 0.5, 0.707, 1. Empty buckets are left out.
        let fine = read(
            20,
            r#"[3,"-1e-128","1e-128","1"],[0,"0.17677669529663687","0.25","4"],[0,"0.25","0.3535533905932738","6"],
               [0,"0.5","0.7071067811865476","7"],[0,"4","5.65685424949238","2"]"#,
        );
        assert_eq!(fine[0].labels["__name__"], "request_duration_seconds_count");
        assert_eq!(fine[0].samples, [(1_763_880_000_123, 20.0)]);
        assert_eq!(fine[0].labels["pod"], "a-1");
        assert_eq!(
            (at(&fine, "0.25"), at(&fine, "0.5"), at(&fine, "1")),
            (Some(5.0), Some(11.0), Some(18.0))
        );
        assert_eq!(
            at(&fine, "0.3535533905932738"),
            None,
            "an edge that a lower resolution would not have"
        );
        // The same at schema 0.
        let coarse = read(
            20,
            r#"[3,"-1e-128","1e-128","1"],[0,"0.125","0.25","4"],[0,"0.25","0.5","6"],[0,"0.5","1","7"],[0,"4","8","2"]"#,
        );
        assert_eq!(
            (at(&coarse, "0.25"), at(&coarse, "0.5"), at(&coarse, "1")),
            (Some(5.0), Some(11.0), Some(18.0))
        );
    }

    /// Responses of Prometheus 3.5.0: its own request durations, and a classic histogram that it
    /// converted (`convert_classic_histograms_to_nhcb`).
    #[test]
    fn recorded_answers_of_prometheus_are_converted() {
        let exponential = decode(
            include_bytes!("../../tests/fixtures/native-exponential.json"),
            1,
        )
        .unwrap();
        assert_eq!(
            exponential[0].labels["__name__"],
            "prometheus_http_request_duration_seconds_count"
        );
        let count = exponential[0].samples[0].1;
        let within = |edge: &str| {
            let has_edge = |series: &&Series| series.labels.get("le").is_some_and(|le| le == edge);
            exponential
                .iter()
                .find(has_edge)
                .map(|series| series.samples[0].1)
        };
        assert!(count > 4.0 && within("0.0009765625").unwrap() < count);
        assert_eq!(within("0.25"), Some(count));

        let custom = decode(include_bytes!("../../tests/fixtures/native-custom.json"), 1).unwrap();
        let edges = custom
            .iter()
            .filter_map(|series| Some((series.labels.get("le")?.as_str(), series.samples[0].1)));
        let edges: Vec<_> = edges
            .filter(|(edge, _)| ["0.1", "0.3", "0.5", "1.2"].contains(edge))
            .collect();
        assert_eq!(
            edges,
            [("0.1", 4.0), ("0.3", 4.0), ("1.2", 9.0)],
            "none at 0.5, which is inside of a bucket"
        );
    }

    #[test]
    fn no_count_exists_inside_a_bucket() {
        // Schema -1: edges at powers of four.
        let coarsest = read(10, r#"[0,"0.25","1","7"],[0,"1","4","3"]"#);
        assert_eq!(
            (
                at(&coarsest, "0.25"),
                at(&coarsest, "0.5"),
                at(&coarsest, "1")
            ),
            (Some(0.0), None, Some(7.0))
        );
    }

    #[test]
    fn custom_buckets_are_counted_at_their_own_bounds() {
        let custom = read(
            10,
            r#"[0,"-Inf","0.1","4"],[0,"0.3","1.2","5"],[0,"5","+Inf","1"]"#,
        );
        assert_eq!(
            (at(&custom, "0.1"), at(&custom, "0.3"), at(&custom, "1.2")),
            (Some(4.0), Some(4.0), Some(9.0))
        );
        assert_eq!((at(&custom, "0.5"), at(&custom, "5")), (None, Some(9.0)));
    }

    #[test]
    fn an_empty_histogram_counts_zero_at_every_bound() {
        let body = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"d_seconds"},
            "histograms":[[1,{"count":"0","sum":"0"}]]}]}}"#;
        let empty = decode(body.as_bytes(), 1).unwrap();
        assert_eq!(empty.len(), 1 + POWERS.count());
        assert!(empty.iter().all(|series| series.samples == [(1_000, 0.0)]));
    }

    #[test]
    fn malformed_counts_are_rejected() {
        let answer = |histogram: &str| {
            let body = format!(
                r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{"__name__":"d"}},"histograms":[[1,{histogram}]]}}]}}}}"#
            );
            decode(body.as_bytes(), 1).unwrap_err().code()
        };
        assert_eq!(answer(r#"{"count":"many","sum":"0"}"#), HoldCode::Malformed);
        assert_eq!(answer(r#"{"sum":"0"}"#), HoldCode::Malformed);
        assert_eq!(
            answer(r#"{"count":"1","buckets":[[0,"0.25","wide","1"]]}"#),
            HoldCode::Malformed
        );
    }
}
