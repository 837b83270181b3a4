//! Decodes responses of Prometheus' HTTP API with size limits.
//!
//! Source: <https://prometheus.io/docs/prometheus/latest/querying/api/>. Values are strings
//! (`"NaN"`, `"+Inf"`), times are seconds with three decimals. `warnings` in a successful response
//! mean that a part of the data is missing.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serin_core::text::excerpt;

use super::answer::Answer;
use super::error::QueryError;
use super::json::{KnownKey, ShortText, ShortTexts};
use super::memory::Reservation;
use super::meter::{AnswerLimits, Meter};
use super::result::{Data, DataSeed, repeated};

/// Factor by which the body counts while it is decoded: its buffer may be half empty, and the
/// decoder copies a string with escapes.
pub(super) const BODY_COPIES: usize = 3;

/// What is kept of the series of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AnswerContent {
    /// Labels and samples.
    #[default]
    Series,
    /// The samples of the first 101 series, without their labels.
    Values,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Success,
    Error,
}

/// A response. Messages are already cut to their maximum length.
#[derive(Debug, Default)]
struct Envelope {
    status: Option<Status>,
    data: Option<Data>,
    error_type: Option<String>,
    error: Option<String>,
    warnings: Option<String>,
}

/// Decodes the body of a successful response, or of an error that Prometheus explains. Afterwards,
/// `memory` covers the answer without the body.
///
/// # Errors
/// [`QueryError::TooLarge`] as soon as a limit is exceeded. [`QueryError::Malformed`] if it is not
/// a response of the Prometheus API. The message quotes nothing of such a response.
pub(super) fn decode(
    body: &[u8],
    content: AnswerContent,
    limits: AnswerLimits,
    memory: &mut Reservation,
) -> Result<Answer, QueryError> {
    let (answer, bytes) = decode_metered(body, content, limits, memory);
    memory.shrink_to(bytes);
    answer
}

/// Decodes a body. Also returns what was charged for the answer, in bytes.
pub(super) fn decode_metered(
    body: &[u8],
    content: AnswerContent,
    limits: AnswerLimits,
    memory: &mut Reservation,
) -> (Result<Answer, QueryError>, usize) {
    let mut meter = Meter::new(limits, memory, body.len().saturating_mul(BODY_COPIES));
    meter.values_only = content == AnswerContent::Values;
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let envelope = EnvelopeSeed(&mut meter)
        .deserialize(&mut deserializer)
        .and_then(|envelope| deserializer.end().map(|()| envelope));
    let bytes = meter.bytes();
    let envelope = envelope.map_err(|error| meter.into_error(&error));
    (envelope.and_then(Envelope::into_answer), bytes)
}

impl Envelope {
    fn into_answer(self) -> Result<Answer, QueryError> {
        let malformed = |what: &str| QueryError::Malformed(format!("expected {what}"));
        match self.status {
            None => Err(malformed("the status of a Prometheus response")),
            Some(Status::Error) => match (self.error_type, self.error) {
                (Some(error_type), Some(message)) => Err(api_error(&error_type, &message)),
                _ => Err(malformed("errorType and error of a Prometheus response")),
            },
            Some(Status::Success) => {
                if let Some(warnings) = self.warnings.filter(|warnings| !warnings.is_empty()) {
                    return Err(QueryError::Partial(warnings));
                }
                let data = self.data.ok_or_else(|| malformed("data of a success"))?;
                data.into_answer()
            }
        }
    }
}

struct EnvelopeSeed<'a, 'm>(&'a mut Meter<'m>);

impl<'de> DeserializeSeed<'de> for EnvelopeSeed<'_, '_> {
    type Value = Envelope;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Envelope, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EnvelopeSeed<'_, '_> {
    type Value = Envelope;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Prometheus response")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Envelope, A::Error> {
        const KEYS: &[&str] = &["status", "data", "errorType", "error", "warnings"];
        let Self(meter) = self;
        let mut envelope = Envelope::default();
        while let Some(key) = map.next_key_seed(KnownKey(KEYS))? {
            match key {
                Some("status") if envelope.status.is_none() => {
                    meter.expected = "success or error in status";
                    envelope.status = Some(map.next_value_seed(StatusSeed)?);
                }
                Some("data") if envelope.data.is_none() => {
                    envelope.data = map.next_value_seed(DataSeed(&mut *meter))?;
                }
                Some("errorType") if envelope.error_type.is_none() => {
                    meter.expected = "a string in errorType";
                    envelope.error_type = Some(map.next_value_seed(ShortText)?);
                }
                Some("error") if envelope.error.is_none() => {
                    meter.expected = "a string in error";
                    envelope.error = Some(map.next_value_seed(ShortText)?);
                }
                Some("warnings") if envelope.warnings.is_none() => {
                    meter.expected = "a list of strings in warnings";
                    envelope.warnings = Some(map.next_value_seed(ShortTexts)?);
                }
                Some(_) => return Err(repeated(meter)),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(envelope)
    }
}

struct StatusSeed;

impl<'de> DeserializeSeed<'de> for StatusSeed {
    type Value = Status;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Status, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for StatusSeed {
    type Value = Status;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a status")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Status, E> {
        match text {
            "success" => Ok(Status::Success),
            "error" => Ok(Status::Error),
            _ => Err(E::custom("unknown status")),
        }
    }
}

/// Maps Prometheus' error types.
fn api_error(error_type: &str, message: &str) -> QueryError {
    match error_type {
        "bad_data" | "execution" => QueryError::BadQuery(message.to_owned()),
        "timeout" | "canceled" => QueryError::Timeout(message.to_owned()),
        _ => QueryError::Unreachable(excerpt(&format!(
            "Prometheus reports {error_type}: {message}"
        ))),
    }
}

/// Decodes with limits that no test reaches.
#[cfg(test)]
pub(super) fn decode_unlimited(body: &[u8]) -> Result<Answer, QueryError> {
    decode_with_series_limit(body, 10_000)
}

#[cfg(test)]
pub(super) fn decode_with_series_limit(body: &[u8], series: usize) -> Result<Answer, QueryError> {
    let limits = AnswerLimits::new(8 << 20, series);
    let memory = &mut Reservation::unlimited();
    decode(body, AnswerContent::Series, limits, memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serin_core::hold::HoldCode;

    fn decode_body(body: &str) -> Result<Answer, QueryError> {
        decode_with_series_limit(body.as_bytes(), 2)
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
    fn the_result_may_come_before_its_type() {
        let parts = |result_type: &str, result: &str| {
            [
                format!(r#""resultType":"{result_type}","result":{result}"#),
                format!(r#""result":{result},"resultType":"{result_type}""#),
            ]
            .map(|data| decode_body(&format!(r#"{{"data":{{{data}}},"status":"success"}}"#)))
        };
        let vector = r#"[{"value":[1,"2"],"metric":{"a":"b"}}]"#;
        let matrix = r#"[{"values":[[1,"2"],[3,"4"]],"metric":{"a":"b"}}]"#;
        for (result_type, result) in [
            ("vector", vector),
            ("matrix", matrix),
            ("scalar", r#"[1.5,"2"]"#),
            ("string", r#"[1.5,"text"]"#),
            ("vector", matrix),
            ("matrix", vector),
            ("scalar", vector),
            ("vector", r#"[1.5,"2"]"#),
            ("other", vector),
        ] {
            let [first, second] = parts(result_type, result);
            assert_eq!(first, second, "{result_type} {result}");
        }
        assert_eq!(
            parts("matrix", matrix)[1].clone().unwrap()[0].samples.len(),
            2
        );
        assert!(parts("vector", matrix)[1].is_err());
    }

    #[test]
    fn nothing_of_another_service_is_quoted() {
        for body in [
            r#"{"status":"s3cret"}"#,
            r#"{"status":{"s3cret":1}}"#,
            r#"{"s3cret":1}"#,
            r#""s3cret""#,
            r#"{"error":"s3cret"}"#,
            r#"{"status":"error","error":"s3cret"}"#,
            r#"{"status":"success","warnings":"s3cret"}"#,
            r#"{"status":"success","data":"s3cret"}"#,
            r#"{"status":"success","data":{"resultType":"s3cret"}}"#,
            r#"{"status":"success","data":{"resultType":"vector","result":{"s3cret":1}}}"#,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":"s3cret"}]}}"#,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"s3cret"]}]}}"#,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":["s3cret","1"]}]}}"#,
            "s3cret",
            r#"{"status":"success"} s3cret"#,
            r#"{"status":"succ s3cret"#,
        ] {
            let error = decode_body(body).unwrap_err();
            assert_eq!(error.code(), HoldCode::Malformed, "{body}");
            assert!(!error.to_string().contains("s3cret"), "{body}: {error}");
        }
        let message = decode_body(r#"{"status":"pending"}"#)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("expected success or error in status"),
            "{message}"
        );
    }

    #[test]
    fn quotes_of_a_response_are_short_and_without_control_characters() {
        let long = "x".repeat(10_000);
        let escapes = r"\u001b[2J\u0007\n\u202e";
        for text in [long.as_str(), escapes] {
            for body in [
                format!(r#"{{"status":"error","errorType":"{text}","error":"oops"}}"#),
                format!(r#"{{"status":"error","errorType":"bad_data","error":"{text}"}}"#),
                format!(r#"{{"status":"success","warnings":["{text}","{text}"]}}"#),
            ] {
                let message = decode_body(&body).unwrap_err().to_string();
                assert!(message.len() < 400, "{} characters", message.len());
                assert!(!message.contains(|c: char| c.is_control() || c == '\u{202e}'));
            }
        }
    }

    #[test]
    fn the_decoder_stops_at_a_limit_before_the_rest_is_read() {
        let memory = &mut Reservation::unlimited();
        let limits = AnswerLimits::new(1_000, 100);
        let mut too_large = |body: String| {
            let error = decode(body.as_bytes(), AnswerContent::Series, limits, memory);
            assert_eq!(error.unwrap_err().code(), HoldCode::TooLarge, "{body}");
        };
        let head = r#"{"status":"success","data":{"result":["#;
        // What follows is not even JSON.
        too_large(format!("{head}{}]]", r#"{"metric":{}},"#.repeat(101)));
        let label = r#""name":"value","#;
        too_large(format!(r#"{head}{{"metric":{{{}]]"#, label.repeat(100)));
        let long = "x".repeat(4_000);
        too_large(format!(r#"{head}{{"metric":{{"a":"{long}"]]"#));
        let sample = r#"[1,"2"],"#;
        too_large(format!(r#"{head}{{"values":[{}}}]]"#, sample.repeat(200)));
    }

    #[test]
    fn values_without_labels_are_limited_to_what_a_check_evaluates() {
        let series = r#"{"metric":{"a":"b"},"value":[1,"7"]},"#.repeat(500);
        let body = format!(
            r#"{{"status":"success","data":{{"resultType":"vector","result":[{}]}}}}"#,
            series.trim_end_matches(',')
        );
        let limits = AnswerLimits::new(1 << 20, 1_000);
        let memory = &mut Reservation::unlimited();
        let answer = decode(body.as_bytes(), AnswerContent::Values, limits, memory).unwrap();
        assert_eq!(answer.len(), 101);
        assert!(
            answer
                .iter()
                .all(|series| series.labels.is_empty() && series.samples == [(1_000, 7.0)])
        );
    }
}
