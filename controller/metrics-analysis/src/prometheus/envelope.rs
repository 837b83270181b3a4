//! The envelope of Prometheus' HTTP API, decoded within bounds.
//!
//! Source: <https://prometheus.io/docs/prometheus/latest/querying/api/>. Values come as strings
//! (`"NaN"`, `"+Inf"`), times as seconds with three decimals; `warnings` beside a success mean that
//! a part of the data is missing.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::answer::{Answer, Labels, Series};
use super::error::{QueryError, bounded};
use super::native::{NativeHistogram, as_classic};

#[derive(Deserialize)]
struct Envelope {
    status: Status,
    #[serde(default)]
    data: Option<Data>,
    #[serde(default, rename = "errorType")]
    error_type: Option<String>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Status {
    Success,
    Error,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<VectorSeries>),
    Matrix(Vec<MatrixSeries>),
    Scalar((f64, String)),
    String(IgnoredAny),
}

#[derive(Deserialize)]
struct VectorSeries {
    metric: Labels,
    value: Option<(f64, String)>,
}

#[derive(Deserialize)]
struct MatrixSeries {
    metric: Labels,
    #[serde(default)]
    values: Vec<(f64, String)>,
    #[serde(default)]
    histograms: Vec<(f64, NativeHistogram)>,
}

/// Decodes the body of an answer with HTTP status 200, or of an error that Prometheus explains.
pub(super) fn decode(body: &[u8], most_series: usize) -> Result<Answer, QueryError> {
    // What is not understood is quoted in the error, however long it is.
    let malformed = |error: serde_json::Error| QueryError::Malformed(bounded(&error.to_string()));
    let envelope: Envelope = serde_json::from_slice(body).map_err(malformed)?;
    if envelope.status == Status::Error {
        let [error_type, message] =
            [envelope.error_type, envelope.error].map(Option::unwrap_or_default);
        return Err(refusal(&error_type, &message));
    }
    if !envelope.warnings.is_empty() {
        return Err(QueryError::Partial(bounded(&envelope.warnings.join("; "))));
    }
    let data = envelope
        .data
        .ok_or_else(|| QueryError::Malformed("a success without data".to_owned()))?;
    let length = match &data {
        Data::Vector(series) => series.len(),
        Data::Matrix(series) => series.len(),
        Data::Scalar(_) | Data::String(_) => 1,
    };
    if length > most_series {
        return Err(QueryError::TooLarge(format!(
            "{length} series where {most_series} are the limit"
        )));
    }
    series_of(data)
}

/// What Prometheus' own error types mean to whoever asked.
fn refusal(error_type: &str, message: &str) -> QueryError {
    match error_type {
        "bad_data" | "execution" => QueryError::BadQuery(bounded(message)),
        "timeout" | "canceled" => QueryError::Timeout(bounded(message)),
        _ => QueryError::Unreachable(bounded(&format!("Prometheus says {error_type}: {message}"))),
    }
}

fn series_of(data: Data) -> Result<Answer, QueryError> {
    match data {
        Data::Vector(series) => series
            .into_iter()
            .map(|series| {
                let value = series.value.ok_or_else(native_histogram)?;
                Ok(Series {
                    labels: series.metric,
                    samples: vec![sample(&value)?],
                })
            })
            .collect(),
        Data::Matrix(series) => {
            let mut answer = Vec::with_capacity(series.len());
            for MatrixSeries {
                metric,
                values,
                histograms,
            } in series
            {
                if !histograms.is_empty() {
                    let dated = histograms
                        .into_iter()
                        .map(|(seconds, value)| Ok((millis(seconds)?, value)));
                    answer.extend(as_classic(
                        &metric,
                        &dated.collect::<Result<Vec<_>, QueryError>>()?,
                    )?);
                }
                if !values.is_empty() {
                    let samples = values.iter().map(sample).collect::<Result<_, _>>()?;
                    answer.push(Series {
                        labels: metric,
                        samples,
                    });
                }
            }
            Ok(answer)
        }
        Data::Scalar(value) => Ok(vec![Series {
            labels: Labels::new(),
            samples: vec![sample(&value)?],
        }]),
        Data::String(IgnoredAny) => Err(QueryError::BadQuery(
            "the query gives a string, not numbers".to_owned(),
        )),
    }
}

fn native_histogram() -> QueryError {
    QueryError::BadQuery("the query gives native histograms where counters are expected".to_owned())
}

fn sample((seconds, value): &(f64, String)) -> Result<(i64, f64), QueryError> {
    let at_ms = millis(*seconds)?;
    let value = value
        .parse()
        .map_err(|_| QueryError::Malformed(format!("{:?} is not a number", bounded(value))))?;
    Ok((at_ms, value))
}

fn millis(seconds: f64) -> Result<i64, QueryError> {
    let millis = (seconds * 1_000.0).round();
    // Doubles hold whole milliseconds exactly far beyond any date; what is not a date at all is
    // refused.
    if !(0.0..=8.64e15).contains(&millis) {
        return Err(QueryError::Malformed(format!("{seconds} is not a time")));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a whole number within the range checked just above"
    )]
    Ok(millis as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(body: &str) -> Result<Answer, QueryError> {
        decode(body.as_bytes(), 2)
    }

    #[test]
    fn a_matrix_keeps_its_milliseconds() {
        let answer = decoded(
            r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"pod":"a-1"},
                "values":[[1763880000.123,"7"],[1763880001.124,"9007199254740993"]]}]}}"#,
        )
        .unwrap();
        assert_eq!(answer[0].labels["pod"], "a-1");
        assert_eq!(
            answer[0].samples,
            [
                (1_763_880_000_123, 7.0),
                (1_763_880_001_124, 9_007_199_254_740_992.0)
            ]
        );
    }

    #[test]
    fn values_that_are_not_finite_are_numbers_too() {
        let answer = decoded(
            r#"{"status":"success","data":{"resultType":"vector","result":[
                {"metric":{},"value":[1,"NaN"]},{"metric":{},"value":[1.5,"+Inf"]}]},"infos":["a hint"]}"#,
        )
        .unwrap();
        assert!(answer[0].samples[0].1.is_nan());
        assert_eq!(answer[1].samples[0], (1_500, f64::INFINITY));
    }

    #[test]
    fn warnings_beside_a_success_are_partial_data() {
        let body = r#"{"status":"success","data":{"resultType":"vector","result":[]},"warnings":["a store is down"]}"#;
        assert_eq!(
            decoded(body),
            Err(QueryError::Partial("a store is down".into()))
        );
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let kind = |body: &str| decoded(body).unwrap_err().kind();
        assert_eq!(
            kind(r#"{"status":"success","data":{"resultType":"ma"#),
            "Malformed"
        );
        assert_eq!(kind("<html>no</html>"), "Malformed");
        assert_eq!(kind(r#"{"status":"success"}"#), "Malformed");
        assert_eq!(
            kind(
                r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"many"]}]}}"#
            ),
            "Malformed"
        );
        assert_eq!(
            kind(
                r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[-1,"1"]}]}}"#
            ),
            "Malformed"
        );
        assert_eq!(
            kind(r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#),
            "InvalidQuery"
        );
        assert_eq!(
            kind(r#"{"status":"error","errorType":"timeout","error":"too long"}"#),
            "Timeout"
        );
        assert_eq!(
            kind(r#"{"status":"error","errorType":"internal","error":"oops"}"#),
            "Unreachable"
        );
        assert_eq!(
            kind(
                r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"histograms":[[1,{"count":"1"}]]}]}}"#
            ),
            "InvalidQuery"
        );
        let three = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[]},{"metric":{},"values":[]},{"metric":{},"values":[]}]}}"#;
        assert_eq!(kind(three), "TooLarge");
    }

    #[test]
    fn what_is_quoted_of_an_answer_is_short() {
        let long = "x".repeat(10_000);
        let bodies = [
            format!("{{\"status\":\"{long}\"}}"),
            format!("{{\"status\":\"error\",\"errorType\":\"{long}\",\"error\":\"oops\"}}"),
        ];
        for body in bodies {
            let message = decoded(&body).unwrap_err().to_string();
            assert!(message.len() < 400, "{} characters", message.len());
        }
    }
}
