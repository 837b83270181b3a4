//! Decodes the result of a query. Every series, label and sample is counted before it is kept.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::answer::{Answer, Labels, Series};
use super::error::QueryError;
use super::json::{KnownKey, MeteredText, NumberText, end_list};
use super::meter::{ALLOCATION, FIRST_SAMPLES, GROWING_SAMPLE, Meter, SAMPLE, label_size};
use super::native::{HistogramSample, HistogramSamples, as_classic};

/// Maximum number of values that are kept if only the values matter. The condition of a check
/// evaluates at most 100. One more shows that there are too many.
pub const MOST_VALUES: usize = 101;

/// Type of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResultType {
    Vector,
    Matrix,
    Scalar,
    String,
}

impl ResultType {
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "vector" => Some(Self::Vector),
            "matrix" => Some(Self::Matrix),
            "scalar" => Some(Self::Scalar),
            "string" => Some(Self::String),
            _ => None,
        }
    }
}

/// The field `data` of a response. Its two fields may come in any order.
#[derive(Debug, Default)]
pub(super) struct Data {
    result_type: Option<ResultType>,
    result: Option<QueryResult>,
}

/// The second element of a scalar or a string.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ScalarValue {
    Number(f64),
    /// Text that is not a number.
    Text,
}

/// A result whose type may not be known yet.
#[derive(Debug, Default)]
struct QueryResult {
    series: Vec<Series>,
    /// The elements of a scalar or a string.
    pair: (Option<f64>, Option<ScalarValue>),
    has_instants: bool,
    has_ranges: bool,
    lacks_an_instant: bool,
}

impl Data {
    /// The answer.
    ///
    /// # Errors
    /// The result does not consist of counters, or not of what its type requires.
    pub(super) fn into_answer(self) -> Result<Answer, QueryError> {
        let malformed = |what: &str| QueryError::Malformed(format!("expected {what}"));
        let (Some(result_type), Some(result)) = (self.result_type, self.result) else {
            return Err(malformed("data.resultType and data.result"));
        };
        match result_type {
            ResultType::Vector if result.has_ranges => {
                Err(malformed("one value in each series of a vector"))
            }
            ResultType::Vector if result.lacks_an_instant => Err(QueryError::BadQuery(
                "the query returns native histograms instead of counters".to_owned(),
            )),
            ResultType::Matrix if result.has_instants => {
                Err(malformed("a list of values in each series of a matrix"))
            }
            ResultType::Vector | ResultType::Matrix if result.pair == (None, None) => {
                Ok(result.series)
            }
            ResultType::Vector | ResultType::Matrix => Err(malformed("a list of series")),
            ResultType::Scalar => match result.pair {
                (Some(seconds), Some(ScalarValue::Number(value))) if result.series.is_empty() => {
                    Ok(vec![Series {
                        labels: Labels::new(),
                        samples: vec![(to_millis(seconds)?, value)],
                    }])
                }
                _ => Err(malformed("a time and a value of a scalar")),
            },
            ResultType::String => Err(QueryError::BadQuery(
                "the query returns a string instead of numbers".to_owned(),
            )),
        }
    }
}

/// Decodes the field `data`. `null` is no data.
pub(super) struct DataSeed<'a, 'm>(pub &'a mut Meter<'m>);

impl<'de> DeserializeSeed<'de> for DataSeed<'_, '_> {
    type Value = Option<Data>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.0.expected = "an object in data";
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DataSeed<'_, '_> {
    type Value = Option<Data>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self(meter) = self;
        let mut data = Data::default();
        while let Some(key) = map.next_key_seed(KnownKey(&["resultType", "result"]))? {
            match key {
                Some("resultType") if data.result_type.is_none() => {
                    meter.expected = "vector, matrix or scalar in data.resultType";
                    data.result_type = Some(map.next_value_seed(ResultTypeSeed)?);
                }
                Some("result") if data.result.is_none() => {
                    data.result = Some(map.next_value_seed(ResultSeed(&mut *meter))?);
                }
                Some(_) => return Err(repeated(meter)),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Some(data))
    }
}

/// The error if a field appears twice.
pub(super) fn repeated<E: Error>(meter: &mut Meter<'_>) -> E {
    let message = "expected each field once".to_owned();
    meter.stop(QueryError::Malformed(message))
}

struct ResultTypeSeed;

impl<'de> DeserializeSeed<'de> for ResultTypeSeed {
    type Value = ResultType;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<ResultType, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for ResultTypeSeed {
    type Value = ResultType;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a type of result")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<ResultType, E> {
        ResultType::from_name(name).ok_or_else(|| E::custom("unknown"))
    }
}

struct ResultSeed<'a, 'm>(&'a mut Meter<'m>);

impl<'de> DeserializeSeed<'de> for ResultSeed<'_, '_> {
    type Value = QueryResult;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<QueryResult, D::Error> {
        self.0.expected = "a list in data.result";
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ResultSeed<'_, '_> {
    type Value = QueryResult;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<QueryResult, A::Error> {
        let mut result = QueryResult::default();
        loop {
            let element = ElementSeed {
                meter: &mut *self.0,
                result: &mut result,
            };
            if list.next_element_seed(element)?.is_none() {
                return Ok(result);
            }
        }
    }
}

/// Decodes an element of the result and adds it: a series, or a part of a scalar or string.
struct ElementSeed<'a, 'm> {
    meter: &'a mut Meter<'m>,
    result: &'a mut QueryResult,
}

impl<'de> DeserializeSeed<'de> for ElementSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.meter.expected = "a series, or a time and a value, in data.result";
        deserializer.deserialize_any(self)
    }
}

/// A series while it is decoded. Its fields may come in any order.
#[derive(Default)]
struct Element {
    labels: Option<Labels>,
    instant: Option<(i64, f64)>,
    range: Option<Vec<(i64, f64)>>,
    histograms: Option<Vec<HistogramSample>>,
}

impl<'de> Visitor<'de> for ElementSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a series")
    }

    fn visit_f64<E: Error>(self, seconds: f64) -> Result<(), E> {
        self.result.pair.0 = Some(seconds);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a time in seconds")]
    fn visit_u64<E: Error>(self, seconds: u64) -> Result<(), E> {
        self.visit_f64(seconds as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "a time in seconds")]
    fn visit_i64<E: Error>(self, seconds: i64) -> Result<(), E> {
        self.visit_f64(seconds as f64)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        if self.result.pair.1.is_none() {
            // It becomes a series with one sample.
            let counted = self.meter.count_series();
            counted.map_err(|error| self.meter.stop(error))?;
            self.meter.charge_or_stop(SAMPLE + ALLOCATION)?;
        }
        self.result.pair.1 = Some(value.parse().map_or(ScalarValue::Text, ScalarValue::Number));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        const KEYS: &[&str] = &["metric", "value", "values", "histograms"];
        let Self { meter, result } = self;
        meter.count_series().map_err(|error| meter.stop(error))?;
        let mut element = Element::default();
        while let Some(key) = map.next_key_seed(KnownKey(KEYS))? {
            match key {
                Some("metric") if element.labels.is_none() => {
                    element.labels = Some(map.next_value_seed(LabelsSeed(&mut *meter))?);
                }
                Some("value") if element.instant.is_none() => {
                    meter.charge_or_stop(SAMPLE + ALLOCATION)?;
                    element.instant = Some(map.next_value_seed(SampleSeed(&mut *meter))?);
                }
                Some("values") if element.range.is_none() => {
                    element.range = Some(map.next_value_seed(SamplesSeed(&mut *meter))?);
                }
                Some("histograms") if element.histograms.is_none() => {
                    let histograms = map.next_value_seed(HistogramSamples(&mut *meter))?;
                    element.histograms = Some(histograms);
                }
                Some(_) => return Err(repeated(meter)),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        result
            .add(element, meter)
            .map_err(|error| meter.stop(error))
    }
}

impl QueryResult {
    fn add(&mut self, element: Element, meter: &mut Meter<'_>) -> Result<(), QueryError> {
        let Element {
            labels,
            instant,
            range,
            histograms,
        } = element;
        let labels = labels.ok_or_else(|| {
            QueryError::Malformed("expected the labels of a series in metric".to_owned())
        })?;
        self.has_instants |= instant.is_some();
        self.has_ranges |= range.is_some() || histograms.is_some();
        self.lacks_an_instant |= instant.is_none();
        if let Some(histograms) = histograms.filter(|samples| !samples.is_empty()) {
            as_classic(&labels, &histograms, meter, &mut self.series)?;
            meter.release(histograms.iter().map(HistogramSample::size).sum());
        }
        let samples = instant.map(|sample| vec![sample]).or(range);
        let keeps = !meter.values_only || self.series.len() < MOST_VALUES;
        if let Some(samples) = samples.filter(|samples| keeps && !samples.is_empty()) {
            self.series.push(Series { labels, samples });
        }
        Ok(())
    }
}

struct LabelsSeed<'a, 'm>(&'a mut Meter<'m>);

impl<'de> DeserializeSeed<'de> for LabelsSeed<'_, '_> {
    type Value = Labels;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Labels, D::Error> {
        self.0.expected = "an object of strings in metric";
        if self.0.values_only {
            deserializer.deserialize_ignored_any(IgnoredAny)?;
            return Ok(Labels::new());
        }
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for LabelsSeed<'_, '_> {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
        let Self(meter) = self;
        let mut labels = Labels::new();
        loop {
            let name = MeteredText {
                overhead: label_size(labels.len()),
                meter: &mut *meter,
            };
            let Some(name) = map.next_key_seed(name)? else {
                return Ok(labels);
            };
            let value = MeteredText {
                overhead: 0,
                meter: &mut *meter,
            };
            labels.insert(name, map.next_value_seed(value)?);
        }
    }
}

/// A sample: `[seconds, "value"]`.
struct SampleSeed<'a, 'm>(&'a mut Meter<'m>);

impl<'de> DeserializeSeed<'de> for SampleSeed<'_, '_> {
    type Value = (i64, f64);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(i64, f64), D::Error> {
        self.0.expected = "a time and a value in a sample";
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for SampleSeed<'_, '_> {
    type Value = (i64, f64);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sample")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(i64, f64), A::Error> {
        let Self(meter) = self;
        let missing = || A::Error::custom("an element is missing");
        let seconds = list.next_element()?.ok_or_else(missing)?;
        let at_ms = to_millis(seconds).map_err(|error| meter.stop(error))?;
        let value = list.next_element_seed(NumberText(&mut *meter))?;
        let value = value.ok_or_else(missing)?;
        end_list(&mut list)?;
        Ok((at_ms, value))
    }
}

/// The samples of a series.
struct SamplesSeed<'a, 'm>(&'a mut Meter<'m>);

impl<'de> DeserializeSeed<'de> for SamplesSeed<'_, '_> {
    type Value = Vec<(i64, f64)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.0.expected = "a list of samples in values";
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for SamplesSeed<'_, '_> {
    type Value = Vec<(i64, f64)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of samples")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let Self(meter) = self;
        let before = meter.bytes();
        let mut samples = Vec::new();
        while let Some(sample) = list.next_element_seed(SampleSeed(&mut *meter))? {
            let size = if samples.is_empty() {
                FIRST_SAMPLES
            } else {
                GROWING_SAMPLE
            };
            meter.charge_or_stop(size)?;
            samples.push(sample);
        }
        samples.shrink_to_fit();
        let size = samples.len() * SAMPLE + ALLOCATION;
        meter.release((meter.bytes() - before).saturating_sub(size));
        Ok(samples)
    }
}

/// Converts a time of the API to milliseconds since the epoch.
pub(super) fn to_millis(seconds: f64) -> Result<i64, QueryError> {
    let millis = (seconds * 1_000.0).round();
    // Doubles represent whole milliseconds exactly for all dates. Anything else is rejected.
    if !(0.0..=8.64e15).contains(&millis) {
        let message = "expected seconds since 1970 as the time of a sample";
        return Err(QueryError::Malformed(message.to_owned()));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a whole number within the range checked just above"
    )]
    Ok(millis as i64)
}
