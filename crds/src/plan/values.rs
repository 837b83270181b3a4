//! Validation of single values: counts, durations and weights.

use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::Timestamp;
use serin_core::units::Weight;

use super::problem::Problems;
use crate::literals::{format_duration, parse_duration};

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_hours(1);
pub(super) const DAY: Duration = Duration::from_hours(24);

/// A non-negative number, or the default if it is unset. Records a problem if it is negative.
pub(super) fn non_negative(
    path: &str,
    value: Option<i32>,
    default: i32,
    problems: &mut Problems,
) -> u32 {
    let value = value.unwrap_or(default);
    u32::try_from(value).unwrap_or_else(|_| {
        problems.invalid(
            path,
            &value,
            "it must be greater than or equal to 0",
            "use 0 or more",
        );
        default.unsigned_abs()
    })
}

/// Parses a duration within bounds. Records a problem and returns `None` if it is invalid.
pub(super) fn parse_duration_in(
    path: &str,
    text: &str,
    bounds: &RangeInclusive<Duration>,
    problems: &mut Problems,
) -> Option<Duration> {
    let (min, max) = (
        format_duration(*bounds.start()),
        format_duration(*bounds.end()),
    );
    let fix = format!("use {min} to {max}");
    match parse_duration(text) {
        Ok(duration) if bounds.contains(&duration) => return Some(duration),
        Ok(duration) if duration < *bounds.start() => {
            problems.invalid(path, &text, "it is too short", fix);
        }
        Ok(_) => problems.invalid(path, &text, "it is too long", fix),
        Err(error) => problems.invalid(path, &text, error.to_string(), fix),
    }
    None
}

/// Converts a percentage into a weight. Records a problem and returns `None` if it is invalid.
pub(super) fn parse_weight(path: &str, percent: f64, problems: &mut Problems) -> Option<Weight> {
    let weight = Weight::try_from(percent).ok();
    if weight.is_none() {
        let fix = "use a percentage from 0 to 100 with at most three decimals";
        problems.invalid(path, &percent, "it is not a share of traffic", fix);
    }
    weight
}

/// Parses a time, without its fraction of a second: the API server stores the creation times of pods
/// in whole seconds. Records a problem and returns `None` if it is invalid.
pub(super) fn parse_time(path: &str, text: &str, problems: &mut Problems) -> Option<Timestamp> {
    let time = text.parse::<Timestamp>().ok();
    if time.is_none() {
        let fix =
            "write date and time with their offset from UTC, for example 2027-01-31T12:00:00Z";
        problems.invalid(path, &text, "it is not a time", fix);
    }
    time.and_then(|time| Timestamp::from_second(time.as_second()).ok())
}
