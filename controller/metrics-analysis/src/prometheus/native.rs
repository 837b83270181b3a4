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

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::answer::{Labels, Series};
use super::error::QueryError;
use super::json::{KnownKey, NumberText, end_list};
use super::meter::{ALLOCATION, GROWTH, Meter, SAMPLE, copy_size};
use super::result::{repeated, to_millis};

/// Exponents of the powers of two that a threshold may have: from about one millisecond to several
/// hours, in seconds or milliseconds.
const POWERS: std::ops::RangeInclusive<i32> = -10..=14;

/// Maximum number of bucket bounds per histogram.
pub(super) const MAX_EDGES: usize = 64;

/// Number of collected bounds after which all but the lowest are dropped.
const MOST_COLLECTED_EDGES: usize = 4_096;

/// Maximum number of digits of configured bounds. The bounds between two powers of two have
/// seventeen.
const WRITTEN_DIGITS: usize = 6;

/// The observations above `left` and up to `right`. Whether a bound is inclusive is ignored,
/// because a duration is almost never equal to a bound.
struct Bucket {
    left: f64,
    right: f64,
    count: f64,
}

/// Size of a bucket and of a histogram while their lists grow.
const GROWING_BUCKET: usize = GROWTH * size_of::<Bucket>();
const GROWING_HISTOGRAM: usize = GROWTH * size_of::<HistogramSample>() + 4 * GROWING_BUCKET;

/// All observations at one time, in total and by bucket.
pub(super) struct HistogramSample {
    at_ms: i64,
    count: f64,
    buckets: Vec<Bucket>,
}

impl HistogramSample {
    /// What is charged for it, in bytes.
    pub(super) fn size(&self) -> usize {
        GROWING_HISTOGRAM + self.buckets.len() * GROWING_BUCKET
    }
}

/// Decodes the histograms of a series.
pub(super) struct HistogramSamples<'a, 'm>(pub &'a mut Meter<'m>);

impl<'de> DeserializeSeed<'de> for HistogramSamples<'_, '_> {
    type Value = Vec<HistogramSample>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.0.expected = "a list of samples in histograms";
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for HistogramSamples<'_, '_> {
    type Value = Vec<HistogramSample>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of histograms")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut samples = Vec::new();
        while let Some(sample) = list.next_element_seed(DatedHistogram(&mut *self.0))? {
            samples.push(sample);
        }
        Ok(samples)
    }
}

/// `[seconds, histogram]`.
struct DatedHistogram<'a, 'm>(&'a mut Meter<'m>);

impl<'de> DeserializeSeed<'de> for DatedHistogram<'_, '_> {
    type Value = HistogramSample;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.0.expected = "a time and a histogram";
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for DatedHistogram<'_, '_> {
    type Value = HistogramSample;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a histogram with its time")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let Self(meter) = self;
        let missing = || A::Error::custom("an element is missing");
        meter.charge_or_stop(GROWING_HISTOGRAM)?;
        let seconds = list.next_element()?.ok_or_else(missing)?;
        let at_ms = to_millis(seconds).map_err(|error| meter.stop(error))?;
        let histogram = list.next_element_seed(HistogramSeed(&mut *meter))?;
        let (count, buckets) = histogram.ok_or_else(missing)?;
        end_list(&mut list)?;
        Ok(HistogramSample {
            at_ms,
            count,
            buckets,
        })
    }
}

/// The count and the buckets of a native histogram. Further fields, such as the sum, are skipped.
struct HistogramSeed<'a, 'm>(&'a mut Meter<'m>);

impl<'de> DeserializeSeed<'de> for HistogramSeed<'_, '_> {
    type Value = (f64, Vec<Bucket>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HistogramSeed<'_, '_> {
    type Value = (f64, Vec<Bucket>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a histogram")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self(meter) = self;
        let (mut count, mut buckets) = (None, None);
        while let Some(key) = map.next_key_seed(KnownKey(&["count", "buckets"]))? {
            match key {
                Some("count") if count.is_none() => {
                    count = Some(map.next_value_seed(NumberText(&mut *meter))?);
                }
                Some("buckets") if buckets.is_none() => {
                    buckets = Some(map.next_value_seed(BucketsSeed(&mut *meter))?);
                }
                Some(_) => return Err(repeated(meter)),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let count = count.ok_or_else(|| {
            let message = "expected the count of a native histogram".to_owned();
            meter.stop::<A::Error>(QueryError::Malformed(message))
        })?;
        Ok((count, buckets.unwrap_or_default()))
    }
}

struct BucketsSeed<'a, 'm>(&'a mut Meter<'m>);

impl<'de> DeserializeSeed<'de> for BucketsSeed<'_, '_> {
    type Value = Vec<Bucket>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for BucketsSeed<'_, '_> {
    type Value = Vec<Bucket>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of buckets")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut buckets = Vec::new();
        while let Some(bucket) = list.next_element_seed(BucketSeed(&mut *self.0))? {
            self.0.charge_or_stop(GROWING_BUCKET)?;
            buckets.push(bucket);
        }
        Ok(buckets)
    }
}

/// `[boundary rule, "left", "right", "count"]`.
struct BucketSeed<'a, 'm>(&'a mut Meter<'m>);

impl<'de> DeserializeSeed<'de> for BucketSeed<'_, '_> {
    type Value = Bucket;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Bucket, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for BucketSeed<'_, '_> {
    type Value = Bucket;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bucket")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Bucket, A::Error> {
        let missing = || A::Error::custom("an element is missing");
        let mut number = |list: &mut A| {
            let number = list.next_element_seed(NumberText(&mut *self.0))?;
            number.ok_or_else(missing)
        };
        list.next_element::<u8>()?.ok_or_else(missing)?;
        let bucket = Bucket {
            left: number(&mut list)?,
            right: number(&mut list)?,
            count: number(&mut list)?,
        };
        end_list(&mut list)?;
        Ok(bucket)
    }
}

/// Converts the count and the buckets of a native histogram to the series of a classic one, and
/// appends them. Each of them counts as a series.
pub(super) fn as_classic(
    labels: &Labels,
    samples: &[HistogramSample],
    meter: &mut Meter<'_>,
    series: &mut Vec<Series>,
) -> Result<(), QueryError> {
    let Some(name) = labels.get("__name__") else {
        let message = "the query returns native histograms instead of counters";
        return Err(QueryError::BadQuery(message.to_owned()));
    };
    let size = copy_size(labels) + samples.len() * SAMPLE + ALLOCATION;
    let mut add = |suffix: &str,
                   edge: Option<f64>,
                   count: &dyn Fn(&HistogramSample) -> f64|
     -> Result<(), QueryError> {
        meter.count_series()?;
        meter.charge(size)?;
        let mut labels = labels.clone();
        // `format!` would allocate up to twice the length.
        let name = [name.as_str(), "_", suffix].concat();
        labels.insert("__name__".to_owned(), name);
        labels.extend(edge.map(|edge| ("le".to_owned(), edge.to_string())));
        let counts = samples.iter().map(|sample| (sample.at_ms, count(sample)));
        series.push(Series {
            labels,
            samples: counts.collect(),
        });
        Ok(())
    };
    add("count", None, &|sample| sample.count)?;
    for edge in countable_edges(samples) {
        if samples
            .iter()
            .all(|sample| !is_split(&sample.buckets, edge))
        {
            add("bucket", Some(edge), &|sample| {
                count_within(&sample.buckets, edge)
            })?;
        }
    }
    Ok(())
}

/// Bounds at which the requests below can be counted at any resolution, in ascending order.
fn countable_edges(samples: &[HistogramSample]) -> Vec<f64> {
    let bounds = samples
        .iter()
        .flat_map(|sample| &sample.buckets)
        .flat_map(|bucket| [bucket.left, bucket.right]);
    let written = bounds.filter(|bound| {
        bound.is_finite() && *bound > 0.0 && {
            let text = bound.to_string();
            text.bytes().filter(u8::is_ascii_digit).count() <= WRITTEN_DIGITS
        }
    });
    let mut edges: Vec<f64> = POWERS.map(|power| 2_f64.powi(power)).collect();
    for bound in written {
        edges.push(bound);
        if edges.len() >= MOST_COLLECTED_EDGES {
            keep_lowest(&mut edges);
        }
    }
    keep_lowest(&mut edges);
    edges
}

fn keep_lowest(edges: &mut Vec<f64>) {
    edges.sort_by(f64::total_cmp);
    edges.dedup();
    edges.truncate(MAX_EDGES);
}

/// Whether the bound is inside a bucket that is not empty.
fn is_split(buckets: &[Bucket], edge: f64) -> bool {
    buckets
        .iter()
        .any(|bucket| bucket.count != 0.0 && bucket.left < edge && edge < bucket.right)
}

/// The observations up to the bound, which is inside of no bucket.
fn count_within(buckets: &[Bucket], edge: f64) -> f64 {
    let below = buckets
        .iter()
        .filter(|bucket| bucket.right <= edge)
        .map(|bucket| bucket.count);
    below.sum()
}

#[cfg(test)]
mod tests {
    use super::super::envelope::{decode_unlimited, decode_with_series_limit};
    use super::*;
    use serin_core::hold::HoldCode;

    /// The response of Prometheus to a range selector, with these buckets.
    fn read(count: u32, buckets: &str) -> Vec<Series> {
        let body = format!(
            r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{"__name__":"request_duration_seconds","pod":"a-1"}},
                "histograms":[[1763880000.123,{{"count":"{count}","sum":"17.5","buckets":[{buckets}]}}]]}}]}}}}"#
        );
        decode_unlimited(body.as_bytes()).unwrap()
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
        let exponential = decode_unlimited(include_bytes!(
            "../../tests/fixtures/native-exponential.json"
        ))
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

        let custom = include_bytes!("../../tests/fixtures/native-custom.json");
        let custom = decode_unlimited(custom).unwrap();
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
        let empty = decode_unlimited(body.as_bytes()).unwrap();
        assert_eq!(empty.len(), 1 + POWERS.count());
        assert!(empty.iter().all(|series| series.samples == [(1_000, 0.0)]));
    }

    #[test]
    fn malformed_counts_are_rejected() {
        let answer = |histogram: &str| {
            let body = format!(
                r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{"__name__":"d"}},"histograms":[[1,{histogram}]]}}]}}}}"#
            );
            decode_unlimited(body.as_bytes()).unwrap_err().code()
        };
        assert_eq!(answer(r#"{"count":"many","sum":"0"}"#), HoldCode::Malformed);
        assert_eq!(answer(r#"{"sum":"0"}"#), HoldCode::Malformed);
        assert_eq!(
            answer(r#"{"count":"1","buckets":[[0,"0.25","wide","1"]]}"#),
            HoldCode::Malformed
        );
    }

    #[test]
    fn the_bounds_of_a_native_histogram_count_as_series() {
        let body = br#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"d_seconds"},
            "histograms":[[1,{"count":"0","sum":"0"}]]}]}}"#;
        let series = 2 + POWERS.count();
        assert!(decode_with_series_limit(body, series).is_ok());
        let error = decode_with_series_limit(body, series - 1).unwrap_err();
        assert_eq!(error.code(), HoldCode::TooLarge);
    }
}
