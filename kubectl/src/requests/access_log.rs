//! Converts the lines of access logs to the format of [`serin_simulation::request_log`], without
//! IO.
//!
//! Clients and routes become numbers line by line: a keyed hash, whose key the caller chooses and
//! does not store. Nothing but the numbers is kept, so the memory does not depend on the number of
//! clients.

use std::hash::BuildHasher;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::status_ranges::StatusRanges;

/// The format of an access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Combined or common log format of nginx and Apache
    Combined,
    /// One JSON object per line
    Json,
}

/// The unit of durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DurationUnit {
    /// Seconds
    S,
    /// Milliseconds
    Ms,
    /// Microseconds
    Us,
    /// Nanoseconds
    Ns,
}

impl DurationUnit {
    /// The unit in seconds.
    const fn seconds(self) -> f64 {
        match self {
            Self::S => 1.0,
            Self::Ms => 1e-3,
            Self::Us => 1e-6,
            Self::Ns => 1e-9,
        }
    }
}

/// Names of the fields of JSON lines. A dot separates the names of nested objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldNames {
    /// Time of the request.
    pub time: String,
    /// HTTP status.
    pub status: String,
    /// Address or name of the client.
    pub client: String,
    /// Duration. Only read if slow requests are bad.
    pub duration: String,
    /// Path or route. Optional.
    pub route: String,
}

/// How to read a log and which requests are bad.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvertConfig {
    /// The format. `None` detects it from the first line.
    pub format: Option<LogFormat>,
    /// Names of the fields of JSON lines.
    pub fields: FieldNames,
    /// Statuses of bad requests.
    pub bad_status: StatusRanges,
    /// Requests that take longer, in seconds, are bad, too.
    pub slower_than_seconds: Option<f64>,
    /// The unit of durations in the log.
    pub duration_unit: DurationUnit,
}

/// One converted request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvertedRequest {
    /// Seconds since the first request of the log.
    pub seconds: f64,
    /// Number of the client.
    pub client: u32,
    /// Number of the route.
    pub endpoint: u32,
    /// Whether it counts as bad.
    pub is_bad: bool,
    /// Whether its time was before that of the first request, which is limited to 0.
    pub is_early: bool,
}

/// Converts lines. `S` is the keyed hash.
#[derive(Debug)]
pub struct LineConverter<S> {
    config: ConvertConfig,
    hasher: S,
    format: Option<LogFormat>,
    began: Option<f64>,
}

/// The values of one line.
struct LineValues<'a> {
    time: f64,
    status: u16,
    client: &'a str,
    route: &'a str,
    duration: Option<f64>,
}

impl<S: BuildHasher> LineConverter<S> {
    /// Creates a converter for all files of one log.
    pub fn new(config: ConvertConfig, hasher: S) -> Self {
        Self {
            format: config.format,
            config,
            hasher,
            began: None,
        }
    }

    /// Converts one line without its line break.
    ///
    /// # Errors
    /// The field, its value and the fix.
    pub fn convert(&mut self, line: &str) -> Result<ConvertedRequest, String> {
        let line = line.trim_start_matches('\u{feff}').trim();
        let format = *self.format.get_or_insert(if line.starts_with('{') {
            LogFormat::Json
        } else {
            LogFormat::Combined
        });
        match format {
            LogFormat::Combined => {
                let values = combined(line, &self.config)?;
                self.request(&values)
            }
            LogFormat::Json => {
                let object: Map<String, Value> = crate::json_line::parse(line.as_bytes())?;
                let texts = JsonTexts::new(&object, &self.config)?;
                let values = texts.values(&self.config)?;
                self.request(&values)
            }
        }
    }

    fn request(&mut self, values: &LineValues<'_>) -> Result<ConvertedRequest, String> {
        let is_slow = match (self.config.slower_than_seconds, values.duration) {
            (None, _) => false,
            (Some(limit), Some(duration)) => duration > limit,
            (Some(_), None) => {
                return Err(
                    "has no duration, which --slower-than needs: log it as the last value of the \
                     line ($request_time, %D), or omit --slower-than"
                        .to_owned(),
                );
            }
        };
        let since = values.time - *self.began.get_or_insert(values.time);
        Ok(ConvertedRequest {
            seconds: since.max(0.0),
            client: self.number(values.client),
            endpoint: self.number(values.route),
            is_bad: is_slow || self.config.bad_status.contains(values.status),
            is_early: since < 0.0,
        })
    }

    fn number(&self, text: &str) -> u32 {
        let hash = self.hasher.hash_one(text);
        // The upper half is as good as the lower one.
        u32::try_from(hash >> 32).unwrap_or(u32::MAX)
    }
}

const COMBINED_EXAMPLE: &str =
    r#"192.0.2.1 - - [01/Mar/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 512 "-" "curl""#;

/// Splits a line of the combined or common log format: `client ident user [time] "request" status
/// bytes ...`. The last value is the duration if slow requests are bad.
fn combined<'a>(line: &'a str, config: &ConvertConfig) -> Result<LineValues<'a>, String> {
    let malformed =
        |field: &str| format!("has no {field}: expected a line such as {COMBINED_EXAMPLE}");
    let (client, rest) = line.split_once(' ').ok_or_else(|| malformed("client"))?;
    let (_, rest) = rest.split_once('[').ok_or_else(|| malformed("[time]"))?;
    let (time, rest) = rest.split_once(']').ok_or_else(|| malformed("[time]"))?;
    let rest = rest.trim_start();
    let quoted = rest
        .strip_prefix('"')
        .ok_or_else(|| malformed("\"request\""))?;
    let end = closing_quote(quoted).ok_or_else(|| malformed("end of the \"request\""))?;
    let (request, rest) = (&quoted[..end], &quoted[end + 1..]);
    let status = rest
        .split_ascii_whitespace()
        .next()
        .ok_or_else(|| malformed("status"))?;
    let path = request.split_ascii_whitespace().nth(1).unwrap_or(request);
    let duration = if config.slower_than_seconds.is_some() {
        let last = rest
            .split_ascii_whitespace()
            .next_back()
            .unwrap_or_default();
        let value: Option<f64> = last.trim_matches('"').parse().ok();
        value.map(|value| value * config.duration_unit.seconds())
    } else {
        None
    };
    Ok(LineValues {
        time: parse_time(time)?,
        status: parse_status(status)?,
        client,
        route: without_query(path),
        duration,
    })
}

/// The position of the first quotation mark that is not escaped.
fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        closes
    })
}

fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or(path)
}

/// The fields of one JSON line as texts.
struct JsonTexts {
    time: String,
    status: String,
    client: String,
    route: String,
    duration: Option<String>,
}

impl JsonTexts {
    fn new(object: &Map<String, Value>, config: &ConvertConfig) -> Result<Self, String> {
        let FieldNames {
            time,
            status,
            client,
            duration,
            route,
        } = &config.fields;
        let required = |name: &str, option: &str| {
            json_text(object, name).ok_or_else(|| {
                format!(
                    "has no field {name:?}: set its name with --{option}, for example \
                     --{option} {}",
                    object.keys().next().map_or("name", String::as_str)
                )
            })
        };
        Ok(Self {
            time: required(time, "time-field")?,
            status: required(status, "status-field")?,
            client: required(client, "client-field")?,
            route: json_text(object, route).unwrap_or_default(),
            duration: match config.slower_than_seconds {
                Some(_) => Some(required(duration, "duration-field")?),
                None => None,
            },
        })
    }

    fn values(&self, config: &ConvertConfig) -> Result<LineValues<'_>, String> {
        let duration = self.duration.as_ref().map(|text| {
            let value: f64 = text.parse().map_err(|_| {
                format!(
                    "{}: {text:?} must be a number: name a field with a number with \
                     --duration-field",
                    config.fields.duration
                )
            })?;
            Ok::<f64, String>(value * config.duration_unit.seconds())
        });
        Ok(LineValues {
            time: parse_time(&self.time)
                .map_err(|problem| format!("{}: {problem}", config.fields.time))?,
            status: parse_status(&self.status)
                .map_err(|problem| format!("{}: {problem}", config.fields.status))?,
            client: &self.client,
            route: without_query(&self.route),
            duration: duration.transpose()?,
        })
    }
}

/// A text, number or null of a field. A dot in the name leads into nested objects, unless a field
/// has exactly this name.
fn json_text(object: &Map<String, Value>, name: &str) -> Option<String> {
    match object.get(name) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(_) => None,
        None => {
            let (outer, inner) = name.split_once('.')?;
            json_text(object.get(outer)?.as_object()?, inner)
        }
    }
}

/// Seconds since the epoch: RFC 3339, the time of the combined format, or a number of seconds,
/// milliseconds, microseconds or nanoseconds, by its size.
fn parse_time(text: &str) -> Result<f64, String> {
    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds until the year 2255"
    )]
    let seconds = |at: Timestamp| at.as_microsecond() as f64 / 1e6;
    if let Ok(number) = text.parse::<f64>() {
        // Each limit is in the year 5138 in its own unit, and 1973 in the next one.
        let per_second = match number {
            ..1e11 => 1.0,
            ..1e14 => 1e3,
            ..1e17 => 1e6,
            _ => 1e9,
        };
        if number >= 0.0 && number.is_finite() {
            return Ok(number / per_second);
        }
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(seconds(at));
    }
    jiff::fmt::strtime::parse("%d/%b/%Y:%H:%M:%S %z", text)
        .and_then(|parsed| parsed.to_timestamp())
        .map(seconds)
        .map_err(|_| {
            format!(
                "time {text:?} must be RFC 3339, a number since the epoch, or as in \
                 01/Mar/2026:10:00:00 +0000"
            )
        })
}

fn parse_status(text: &str) -> Result<u16, String> {
    let status = text
        .parse()
        .ok()
        .filter(|status| (0..=999).contains(status));
    status.ok_or_else(|| {
        format!("status {text:?} must be an HTTP status: check the format of the log")
    })
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasherDefault, DefaultHasher};

    use super::*;

    fn config() -> ConvertConfig {
        ConvertConfig {
            format: None,
            fields: FieldNames {
                time: "time".to_owned(),
                status: "status".to_owned(),
                client: "client".to_owned(),
                duration: "duration".to_owned(),
                route: "route".to_owned(),
            },
            bad_status: "500-599".parse().unwrap(),
            slower_than_seconds: None,
            duration_unit: DurationUnit::S,
        }
    }

    fn converter(config: ConvertConfig) -> LineConverter<BuildHasherDefault<DefaultHasher>> {
        LineConverter::new(config, BuildHasherDefault::default())
    }

    #[test]
    fn combined_lines_are_converted_without_addresses_and_queries() {
        let mut lines = converter(config());
        let first = lines
            .convert(r#"192.0.2.1 - bob [01/Mar/2026:10:00:00 +0100] "GET /a?token=1 HTTP/1.1" 200 5 "-" "x""#)
            .unwrap();
        let second = lines
            .convert(r#"192.0.2.1 - - [01/Mar/2026:09:00:02 +0000] "GET /a HTTP/1.1" 503 -"#)
            .unwrap();
        assert_eq!((first.seconds, first.is_bad), (0.0, false));
        assert_eq!((second.seconds, second.is_bad), (2.0, true));
        assert_eq!(
            (first.client, first.endpoint),
            (second.client, second.endpoint)
        );
        let other = lines
            .convert(r#"2001:db8::1 - - [01/Mar/2026:08:59:59 +0000] "a \" b" 400 0"#)
            .unwrap();
        assert_ne!(other.client, first.client);
        assert!(other.is_early && other.seconds == 0.0 && !other.is_bad);
    }

    #[test]
    fn json_lines_have_configurable_and_nested_fields() {
        let mut config = config();
        config.fields.client = "peer.ip".to_owned();
        config.fields.time = "ts".to_owned();
        config.slower_than_seconds = Some(0.5);
        config.duration_unit = DurationUnit::Ms;
        let mut lines = converter(config);
        let mut line = |ts: &str, status: &str, duration: u32| {
            lines.convert(&format!(
                r#"{{"ts": {ts}, "status": {status}, "peer": {{"ip": "192.0.2.1"}}, "duration": {duration}, "route": "/x?y"}}"#
            ))
        };
        let first = line("1772359200.25", "200", 499).unwrap();
        assert!(!first.is_bad);
        let slow = line("1772359201250", "\"204\"", 501).unwrap();
        assert!(slow.is_bad && (slow.seconds - 1.0).abs() < 1e-6);
        let later = line("\"2026-03-01T10:00:02.25Z\"", "502", 1).unwrap();
        assert!(later.is_bad && (later.seconds - 2.0).abs() < 1e-6);
    }

    #[test]
    fn errors_name_field_value_and_fix() {
        let mut slow = config();
        slow.slower_than_seconds = Some(1.0);
        for (config, line, expected) in [
            (config(), "x", "has no client"),
            (
                config(),
                "x - - 1",
                "has no [time]: expected a line such as",
            ),
            (config(), "x - - [y] \"GET", "has no end of the \"request\""),
            (
                config(),
                "x - - [y] \"GET /\" 200",
                "time \"y\" must be RFC 3339",
            ),
            (
                config(),
                "x - - [01/Mar/2026:09:00:02 +0000] \"GET /\" OK",
                "status \"OK\" must be an HTTP status",
            ),
            (
                slow,
                "x - - [01/Mar/2026:09:00:02 +0000] \"GET /\" 200 -",
                "has no duration, which --slower-than needs",
            ),
            (
                config(),
                r#"{"at": 1}"#,
                "has no field \"time\": set its name with --time-field, for example --time-field at",
            ),
            (
                config(),
                r#"{"time": "now", "status": 1, "client": "x"}"#,
                "time: time \"now\" must be",
            ),
            (config(), "{", "EOF"),
        ] {
            let error = converter(config).convert(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn the_format_of_the_first_line_is_kept() {
        let mut lines = converter(config());
        lines
            .convert(r#"{"time": 1, "status": 200, "client": "x"}"#)
            .unwrap();
        assert!(lines.convert("x - - [1] \"GET /\" 200").is_err());
    }
}
