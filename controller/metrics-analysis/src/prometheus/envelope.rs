//! Decodes responses of Prometheus' HTTP API with size limits.
//!
//! Source: <https://prometheus.io/docs/prometheus/latest/querying/api/>. Values are strings
//! (`"NaN"`, `"+Inf"`), times are seconds with three decimals. `warnings` in a successful response
//! mean that a part of the data is missing.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::answer::{Answer, Labels, Series};
use super::error::{QueryError, truncated};
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

/// Decodes the body of a successful response, or of an error that Prometheus explains.
pub(super) fn decode(body: &[u8], most_series: usize) -> Result<Answer, QueryError> {
    // The error quotes the unexpected value, which can be long.
    let malformed = |error: serde_json::Error| QueryError::Malformed(truncated(&error.to_string()));
    let envelope: Envelope = serde_json::from_slice(body).map_err(malformed)?;
    if envelope.status == Status::Error {
        let [error_type, message] =
            [envelope.error_type, envelope.error].map(Option::unwrap_or_default);
        return Err(api_error(&error_type, &message));
    }
    if !envelope.warnings.is_empty() {
        return Err(QueryError::Partial(truncated(
            &envelope.warnings.join("; "),
        )));
    }
    let data = envelope
        .data
        .ok_or_else(|| QueryError::Malformed("a successful response without data".to_owned()))?;
    let length = match &data {
        Data::Vector(series) => series.len(),
        Data::Matrix(series) => series.len(),
        Data::Scalar(_) | Data::String(_) => 1,
    };
    if length > most_series {
        return Err(QueryError::TooLarge(format!(
            "{length} series, the limit is {most_series}"
        )));
    }
    into_series(data)
}

/// Maps Prometheus' error types.
fn api_error(error_type: &str, message: &str) -> QueryError {
    match error_type {
        "bad_data" | "execution" => QueryError::BadQuery(truncated(message)),
        "timeout" | "canceled" => QueryError::Timeout(truncated(message)),
        _ => QueryError::Unreachable(truncated(&format!(
            "Prometheus reports {error_type}: {message}"
        ))),
    }
}

fn into_series(data: Data) -> Result<Answer, QueryError> {
    match data {
        Data::Vector(series) => series
            .into_iter()
            .map(|series| {
                let value = series.value.ok_or_else(native_histogram)?;
                Ok(Series {
                    labels: series.metric,
                    samples: vec![parse_sample(&value)?],
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
                        .map(|(seconds, value)| Ok((to_millis(seconds)?, value)));
                    answer.extend(as_classic(
                        &metric,
                        &dated.collect::<Result<Vec<_>, QueryError>>()?,
                    )?);
                }
                if !values.is_empty() {
                    let samples = values.iter().map(parse_sample).collect::<Result<_, _>>()?;
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
            samples: vec![parse_sample(&value)?],
        }]),
        Data::String(IgnoredAny) => Err(QueryError::BadQuery(
            "the query returns a string instead of numbers".to_owned(),
        )),
    }
}

fn native_histogram() -> QueryError {
    QueryError::BadQuery("the query returns native histograms instead of counters".to_owned())
}

fn parse_sample((seconds, value): &(f64, String)) -> Result<(i64, f64), QueryError> {
    let at_ms = to_millis(*seconds)?;
    let value = value
        .parse()
        .map_err(|_| QueryError::Malformed(format!("{:?} is not a number", truncated(value))))?;
    Ok((at_ms, value))
}

fn to_millis(seconds: f64) -> Result<i64, QueryError> {
    let millis = (seconds * 1_000.0).round();
    // Doubles represent whole milliseconds exactly for all dates. Anything else is rejected.
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
    use serin_core::hold::HoldCode;

    fn decode_body(body: &str) -> Result<Answer, QueryError> {
        decode(body.as_bytes(), 2)
    }

    #[test]
    fn a_matrix_keeps_its_milliseconds() {
        let answer = decode_body(
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
    fn non_finite_values_are_decoded() {
        let answer = decode_body(
            r#"{"status":"success","data":{"resultType":"vector","result":[
                {"metric":{},"value":[1,"NaN"]},{"metric":{},"value":[1.5,"+Inf"]}]},"infos":["a hint"]}"#,
        )
        .unwrap();
        assert!(answer[0].samples[0].1.is_nan());
        assert_eq!(answer[1].samples[0], (1_500, f64::INFINITY));
    }

    #[test]
    fn warnings_in_a_success_mean_partial_data() {
        let body = r#"{"status":"success","data":{"resultType":"vector","result":[]},"warnings":["a store is down"]}"#;
        assert_eq!(
            decode_body(body),
            Err(QueryError::Partial("a store is down".into()))
        );
    }

    #[test]
    fn unusable_responses_have_their_cause() {
        let kind = |body: &str| decode_body(body).unwrap_err().code();
        assert_eq!(
            kind(r#"{"status":"success","data":{"resultType":"ma"#),
            HoldCode::Malformed
        );
        assert_eq!(kind("<html>no</html>"), HoldCode::Malformed);
        assert_eq!(kind(r#"{"status":"success"}"#), HoldCode::Malformed);
        assert_eq!(
            kind(
                r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"many"]}]}}"#
            ),
            HoldCode::Malformed
        );
        assert_eq!(
            kind(
                r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[-1,"1"]}]}}"#
            ),
            HoldCode::Malformed
        );
        assert_eq!(
            kind(r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#),
            HoldCode::InvalidQuery
        );
        assert_eq!(
            kind(r#"{"status":"error","errorType":"timeout","error":"too long"}"#),
            HoldCode::Timeout
        );
        assert_eq!(
            kind(r#"{"status":"error","errorType":"internal","error":"oops"}"#),
            HoldCode::Unreachable
        );
        assert_eq!(
            kind(
                r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"histograms":[[1,{"count":"1"}]]}]}}"#
            ),
            HoldCode::InvalidQuery
        );
        let three = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[]},{"metric":{},"values":[]},{"metric":{},"values":[]}]}}"#;
        assert_eq!(kind(three), HoldCode::TooLarge);
    }

    #[test]
    fn quotes_of_a_response_are_short() {
        let long = "x".repeat(10_000);
        let bodies = [
            format!("{{\"status\":\"{long}\"}}"),
            format!("{{\"status\":\"error\",\"errorType\":\"{long}\",\"error\":\"oops\"}}"),
        ];
        for body in bodies {
            let message = decode_body(&body).unwrap_err().to_string();
            assert!(message.len() < 400, "{} characters", message.len());
        }
    }
}
