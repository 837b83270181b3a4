//! Parsers for times, weights, rates and addresses on the command line.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use http::Uri;
use jiff::Timestamp;
use serin_core::units::Weight;
use serin_crds::literals::parse_duration;

/// A time argument, absolute or relative to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeArg {
    /// A point in time.
    Absolute(Timestamp),
    /// Milliseconds before now.
    Ago(i64),
}

impl TimeArg {
    /// Converts to milliseconds since the epoch.
    pub fn milliseconds(self, now: Timestamp) -> i64 {
        match self {
            Self::Absolute(at) => at.as_millisecond(),
            Self::Ago(milliseconds) => now.as_millisecond().saturating_sub(milliseconds),
        }
    }
}

impl FromStr for TimeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "now" {
            return Ok(Self::Ago(0));
        }
        if let Some(before) = text.strip_prefix('-') {
            let before = parse_duration(before).map_err(|error| error.to_string())?;
            return Ok(Self::Ago(
                i64::try_from(before.as_millis()).unwrap_or(i64::MAX),
            ));
        }
        text.parse().map(Self::Absolute).map_err(|_| {
            "write for example 2026-03-01T10:00:00Z, 2026-03-01T12:00:00+02:00, -2h or now"
                .to_owned()
        })
    }
}

/// A canary weight from a time on: `10m=20` is 20 % from ten minutes after the first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepWeight {
    /// Start of the weight, in milliseconds since the first request.
    pub after_ms: i64,
    /// The weight.
    pub weight: Weight,
}

impl FromStr for StepWeight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let why = || {
            "write a time since the first request and a percentage, for example 0s=5 or 10m=20"
                .to_owned()
        };
        let (after, weight) = text.split_once('=').ok_or_else(why)?;
        let after = parse_duration(after).map_err(|error| error.to_string())?;
        let percent: f64 = weight.trim_end_matches('%').parse().map_err(|_| why())?;
        let weight = Weight::try_from(percent).map_err(|error| error.to_string())?;
        Ok(Self {
            after_ms: i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            weight,
        })
    }
}

/// A fraction of requests from 0 to 1, written as a percentage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorRate(pub f64);

impl fmt::Display for ErrorRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

impl FromStr for ErrorRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(digits) = text.strip_suffix('%') else {
            return Err(
                "has no unit; write a percentage of requests, for example 0.05%".to_owned(),
            );
        };
        let percent: f64 = digits
            .trim()
            .parse()
            .map_err(|_| "not a number with a percent sign; write for example 0.05%".to_owned())?;
        if !(0.0..100.0).contains(&percent) {
            return Err(
                "an error rate is at least 0% and under 100%; write for example 0.05%".to_owned(),
            );
        }
        Ok(Self(percent / 100.0))
    }
}

/// Parses a duration, for example 1m30s.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "write for example 30s, 5m or 1h30m".to_owned())?;
    Duration::try_from(span).map_err(|_| "must not be negative".to_owned())
}

/// Parses the request rate of a service.
pub(crate) fn requests_per_second(text: &str) -> Result<f64, String> {
    // 0.001 is about one request per quarter of an hour. Less cannot be analyzed within a release.
    const BOUNDS: RangeInclusive<f64> = 0.001..=1e7;
    let rate: f64 = text
        .parse()
        .map_err(|_| "not a number; write for example 120".to_owned())?;
    if BOUNDS.contains(&rate) {
        return Ok(rate);
    }
    let (least, most) = (BOUNDS.start(), BOUNDS.end());
    Err(format!(
        "must be from {least} to {most}; write for example 120"
    ))
}

/// Parses the seed of a simulation.
pub(crate) fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        format!(
            "not a whole number from 0 to {}; write for example 1",
            u64::MAX
        )
    })
}

/// Parses the address of a Prometheus.
pub(crate) fn address(text: &str) -> Result<String, String> {
    let uri: Option<Uri> = text.parse().ok();
    let uri = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
    let Some(authority) = uri
        .as_ref()
        .and_then(Uri::authority)
        .filter(|authority| !authority.host().is_empty())
    else {
        return Err("not an address; write for example http://localhost:9090".to_owned());
    };
    if authority.as_str().contains('@') {
        let fix = "remove them and pass a token with --bearer-token-file";
        return Err(format!(
            "contains a user name or password, which would appear in output; {fix}"
        ));
    }
    // The host is followed by a colon and a port, or by nothing.
    let behind_host = authority
        .as_str()
        .strip_prefix(authority.host())
        .unwrap_or_default();
    match authority.port_u16() {
        None if !behind_host.is_empty() => Err(format!(
            "invalid port {:?}; write a number up to 65535",
            behind_host.trim_start_matches(':')
        )),
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_absolute_or_relative_to_now() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let at = |text: &str| {
            text.parse::<TimeArg>()
                .map(|moment| moment.milliseconds(now))
        };
        assert_eq!(at("now"), Ok(now.as_millisecond()));
        assert_eq!(at("-2h"), Ok(now.as_millisecond() - 7_200_000));
        assert_eq!(
            at("2026-03-01T13:00:00+02:00"),
            Ok(now.as_millisecond() - 3_600_000)
        );
        for wrong in ["yesterday", "2h", "-2", "12:00"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_step_weight_has_a_time_and_a_percentage() {
        let step: StepWeight = "10m=20%".parse().unwrap();
        assert_eq!((step.after_ms, step.weight), (600_000, Weight::percent(20)));
        assert_eq!(
            "0s=0.5".parse::<StepWeight>().unwrap().weight,
            Weight::from_thousandths(500)
        );
        for wrong in ["20", "10m", "10m=200", "soon=5", "10m=x"] {
            assert!(wrong.parse::<StepWeight>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_must_be_reachable_and_free_of_credentials() {
        for right in [
            "http://localhost:9090",
            "https://prometheus.example/path",
            "http://[::1]:9090",
            "http://10.0.0.1",
        ] {
            assert_eq!(address(right).as_deref(), Ok(right));
        }
        for (wrong, why) in [
            ("", "not an address"),
            ("localhost:9090", "not an address"),
            ("ftp://localhost", "not an address"),
            ("http://", "not an address"),
            ("http:// x", "not an address"),
            ("http://[::1", "not an address"),
            ("http://localhost:99999", "65535"),
            ("http://ann:secret@localhost:9090", "--bearer-token-file"),
        ] {
            let error = address(wrong).unwrap_err();
            assert!(
                error.contains(why) && !error.contains("secret"),
                "{wrong}: {error}"
            );
        }
    }

    #[test]
    fn a_request_rate_must_be_within_bounds() {
        assert_eq!(requests_per_second("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "1e-300", "NaN", "inf", "1e8", "many"] {
            let error = requests_per_second(wrong).unwrap_err();
            assert!(error.contains("for example 120"), "{wrong}: {error}");
        }
    }

    #[test]
    fn an_error_rate_has_a_unit_and_is_below_100_percent() {
        assert_eq!("0.05%".parse(), Ok(ErrorRate(0.0005)));
        assert_eq!("0%".parse(), Ok(ErrorRate(0.0)));
        for (wrong, why) in [
            ("0.05", "no unit"),
            ("100%", "under 100%"),
            ("-1%", "at least 0%"),
            ("x%", "not a number"),
        ] {
            let error = wrong.parse::<ErrorRate>().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
