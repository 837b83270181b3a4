//! Exceptions from guardrails, and the times at which they end.

use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::literals::{InvalidDuration, parse_duration};
use crate::rules;

/// Exempts a Rollout from a guardrail until a date. Whoever sets it needs the verb except on
/// rollouts.serin.dev.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuardrailException {
    /// Guardrail as in a RolloutPolicy, for example networkPolicy, or custom/NAME.
    #[schemars(length(min = 1, max = 80))]
    #[x_kube(validation = rules::guardrail_name())]
    pub guardrail: String,
    /// Why the release may violate the guardrail.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = rules::exception_reason())]
    pub reason: String,
    /// Last day of the exception (2027-01-31, in UTC), or the time of its end
    /// (2027-01-31T12:00:00Z).
    #[schemars(length(min = 10, max = 32))]
    #[x_kube(validation = rules::date_or_time())]
    pub expires: String,
}

/// The text is neither a date nor a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither a date nor a time: write a date, for example 2027-01-31, or a time, for example 2027-01-31T12:00:00Z"
)]
pub struct InvalidExpiry(String);

/// The time at which an exception ends. A date ends with its day, in UTC.
///
/// # Errors
///
/// [`InvalidExpiry`] if the text is neither a date nor a time with its offset from UTC.
pub fn parse_expiry(text: &str) -> Result<Timestamp, InvalidExpiry> {
    let invalid = || InvalidExpiry(text.chars().take(64).collect());
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    // A date with a time but without an offset would parse as a date, too.
    if text.len() != "2027-01-31".len() {
        return Err(invalid());
    }
    let day: Date = text.parse().map_err(|_| invalid())?;
    let next = day.checked_add(1.day()).map_err(|_| invalid())?;
    let end = next.to_zoned(TimeZone::UTC).map_err(|_| invalid())?;
    Ok(end.timestamp())
}

/// The duration of an option, or its default if it is unset.
///
/// # Errors
///
/// [`InvalidDuration`] if the text is not a duration.
pub fn duration_or(text: Option<&str>, default: Duration) -> Result<Duration, InvalidDuration> {
    text.map_or(Ok(default), parse_duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_ends_with_its_day_or_at_its_time() {
        let end: Timestamp = "2027-02-01T00:00:00Z".parse().unwrap();
        assert_eq!(parse_expiry("2027-01-31"), Ok(end));
        assert_eq!(parse_expiry("2027-02-01T00:00:00Z"), Ok(end));
        for bad in [
            "",
            "tomorrow",
            "2027-13-01",
            "2027-01-31T00:00:00",
            "9999-12-31",
        ] {
            assert!(parse_expiry(bad).is_err(), "{bad}");
        }
    }
}
