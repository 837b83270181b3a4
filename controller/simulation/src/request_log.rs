//! Logs of real requests, the input of A/A and A/B tests.
//!
//! One line per request: `seconds,client,endpoint,bad`. `kubectl serin requests convert` writes
//! this format from access logs. Clients and endpoints are numbers, so a log contains no addresses
//! and no paths.

use std::io::{BufRead, Read};

/// The columns of a log, in the order in which they are written.
pub const HEADER: &str = "seconds,client,endpoint,bad";

/// Maximum length of a line in bytes. Longer lines are not of this format.
const MAX_LINE_BYTES: u64 = 4096;
/// Maximum number of requests of a log, which limits its memory to about 800 MB.
const MAX_REQUESTS: usize = 50_000_000;
/// Maximum time of a request, about 30 years.
const MAX_SECONDS: f64 = 1e9;

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedRequest {
    /// Milliseconds since the start of the log.
    pub at_ms: i64,
    /// The client, a number.
    pub client: u32,
    /// Whether it counts as bad.
    pub is_bad: bool,
}

/// The requests of one service in order of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestLog {
    requests: Vec<LoggedRequest>,
}

/// A line that is not of this format.
#[derive(Debug)]
pub struct RequestLogError {
    /// The line, counted from 1. 0 if the problem concerns the complete log.
    pub line: u64,
    /// The problem and its fix.
    pub message: String,
}

impl std::fmt::Display for RequestLogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line == 0 {
            f.write_str(&self.message)
        } else {
            write!(f, "line {}: {}", self.line, self.message)
        }
    }
}

impl std::error::Error for RequestLogError {}

/// The positions of the columns in a line.
struct Columns {
    seconds: usize,
    client: usize,
    bad: usize,
    names: Vec<String>,
}

impl Columns {
    fn from_header(header: &str) -> Result<Self, String> {
        let names: Vec<String> = header
            .split(',')
            .map(|name| name.trim().to_owned())
            .collect();
        let find = |wanted: &str| {
            names.iter().position(|name| name == wanted).ok_or_else(|| {
                format!(
                    "the header {header:?} has no column {wanted:?}: begin the file with {HEADER}"
                )
            })
        };
        Ok(Self {
            seconds: find("seconds")?,
            client: find("client")?,
            bad: find("bad")?,
            names,
        })
    }

    fn request(&self, line: &str) -> Result<LoggedRequest, String> {
        let values: Vec<&str> = line.split(',').map(str::trim).collect();
        if values.len() != self.names.len() {
            return Err(format!(
                "has {} values, but the header has {} columns: write {}",
                values.len(),
                self.names.len(),
                self.names.join(",")
            ));
        }
        let (seconds, client, bad) = (values[self.seconds], values[self.client], values[self.bad]);
        let is_time = |value: &f64| (0.0..=MAX_SECONDS).contains(value);
        let at_seconds = seconds.parse().ok().filter(is_time).ok_or_else(|| {
            format!(
                "seconds {seconds:?} must be a number from 0 to {MAX_SECONDS:e}: write the time \
                 since the start of the log, for example 12.345"
            )
        })?;
        #[expect(clippy::cast_possible_truncation, reason = "at most 1e12 milliseconds")]
        let at_ms = (at_seconds * 1000.0).round() as i64;
        let client = client.parse().map_err(|_| {
            format!(
                "client {client:?} must be a whole number below 2^32: replace each address with \
                 a number, for example with kubectl serin requests convert"
            )
        })?;
        let is_bad = match bad {
            "0" => false,
            "1" => true,
            _ => {
                return Err(format!(
                    "bad {bad:?} must be 1 for a bad request, otherwise 0"
                ));
            }
        };
        Ok(LoggedRequest {
            at_ms,
            client,
            is_bad,
        })
    }
}

impl RequestLog {
    /// Reads a log. The columns may be in any order, and other columns are ignored. Requests are
    /// sorted by time, because servers log a request when it ends.
    ///
    /// # Errors
    /// The first invalid line, a log without requests, or a failure to read.
    pub fn read(mut input: impl BufRead) -> Result<Self, RequestLogError> {
        let mut columns: Option<Columns> = None;
        let mut requests = Vec::new();
        let mut bytes = Vec::new();
        for number in 1_u64.. {
            let fail = |message: String| RequestLogError {
                line: number,
                message,
            };
            bytes.clear();
            let read = input
                .by_ref()
                .take(MAX_LINE_BYTES + 1)
                .read_until(b'\n', &mut bytes)
                .map_err(|error| fail(format!("cannot be read: {error}")))?;
            if read == 0 {
                break;
            }
            if bytes.len() as u64 > MAX_LINE_BYTES {
                return Err(fail(format!(
                    "is longer than {MAX_LINE_BYTES} bytes: convert access logs with kubectl \
                     serin requests convert first"
                )));
            }
            let line = std::str::from_utf8(&bytes)
                .map_err(|_| fail("is not UTF-8 text".to_owned()))?
                .trim();
            match &columns {
                None => columns = Some(Columns::from_header(line).map_err(fail)?),
                Some(_) if line.is_empty() => {}
                Some(_) if requests.len() >= MAX_REQUESTS => {
                    return Err(fail(format!(
                        "more than {MAX_REQUESTS} requests: use a shorter part of the log"
                    )));
                }
                Some(columns) => requests.push(columns.request(line).map_err(fail)?),
            }
        }
        Self::new(requests)
    }

    /// Creates a log from requests in any order.
    ///
    /// # Errors
    /// No request, or all at the same time.
    pub fn new(mut requests: Vec<LoggedRequest>) -> Result<Self, RequestLogError> {
        requests.sort_by_key(|request| request.at_ms);
        let log = Self { requests };
        if log.duration_ms() == 0 {
            return Err(RequestLogError {
                line: 0,
                message: format!(
                    "the log has {} requests in 0 s: use a log of at least some minutes",
                    log.requests.len()
                ),
            });
        }
        Ok(log)
    }

    /// The requests in order of time.
    pub fn requests(&self) -> &[LoggedRequest] {
        &self.requests
    }

    /// Time of the last request in milliseconds since the start of the log.
    pub fn duration_ms(&self) -> i64 {
        self.requests.last().map_or(0, |request| request.at_ms)
    }

    /// Number of bad requests.
    pub fn bad(&self) -> usize {
        self.requests
            .iter()
            .filter(|request| request.is_bad)
            .count()
    }

    /// The fraction of bad requests, from 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
    pub fn bad_rate(&self) -> f64 {
        self.bad() as f64 / self.requests.len().max(1) as f64
    }

    /// Mean requests per second.
    #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
    pub fn requests_per_second(&self) -> f64 {
        self.requests.len() as f64 * 1000.0 / self.duration_ms().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RequestLog, String> {
        RequestLog::read(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn requests_are_sorted_by_time_and_columns_are_found_by_name() {
        let log = read("bad,client,route,seconds\n1,7,x,2.5\n\n0,8,y,0.0015\n").unwrap();
        let request = |at_ms, client, is_bad| LoggedRequest {
            at_ms,
            client,
            is_bad,
        };
        assert_eq!(
            log.requests(),
            [request(2, 8, false), request(2500, 7, true)]
        );
        assert_eq!((log.bad(), log.bad_rate()), (1, 0.5));
        assert_eq!(log.requests_per_second(), 0.8);
    }

    #[test]
    fn invalid_lines_are_reported_with_line_field_and_fix() {
        for (text, expected) in [
            (
                "a,b\n",
                "line 1: the header \"a,b\" has no column \"seconds\"",
            ),
            (
                "seconds,client,endpoint,bad\n1,2,3\n",
                "line 2: has 3 values, but the header has 4 columns",
            ),
            (
                "seconds,client,endpoint,bad\n-1,2,3,0\n",
                "line 2: seconds \"-1\" must be a number from 0",
            ),
            (
                "seconds,client,endpoint,bad\nNaN,2,3,0\n",
                "line 2: seconds \"NaN\" must be",
            ),
            (
                "seconds,client,endpoint,bad\n1,10.0.0.1,3,0\n",
                "line 2: client \"10.0.0.1\" must be a whole number",
            ),
            (
                "seconds,client,endpoint,bad\n1,2,3,yes\n",
                "line 2: bad \"yes\" must be 1",
            ),
            ("seconds,client,endpoint,bad\n", "the log has 0 requests"),
            ("", "the log has 0 requests"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let long = format!("{HEADER}\n{}\n", "1".repeat(5000));
        assert!(read(&long).unwrap_err().contains("longer than 4096 bytes"));
    }
}
