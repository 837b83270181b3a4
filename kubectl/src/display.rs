//! The time, time zone and width for which output is formatted.

use std::io::{self, IsTerminal};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Unit};

/// Width if stdout is not a terminal.
const DEFAULT_COLUMNS: usize = 80;

/// The time, time zone and width for which output is formatted.
#[derive(Clone, Debug)]
pub struct DisplayContext {
    /// Current time.
    pub now: Timestamp,
    /// Time zone of printed times.
    pub zone: TimeZone,
    /// Width in columns.
    pub width: usize,
}

impl DisplayContext {
    /// The current time, the system time zone and the width of the terminal.
    pub fn from_terminal() -> Self {
        let columns = if io::stdout().is_terminal() {
            crossterm::terminal::size().ok()
        } else {
            None
        };
        Self {
            now: Timestamp::now(),
            zone: TimeZone::system(),
            width: columns.map_or(DEFAULT_COLUMNS, |(columns, _)| usize::from(columns)),
        }
    }

    /// Time since `then` (or until it), in at most two units.
    pub fn elapsed_since(&self, then: Timestamp) -> String {
        human_duration(self.now.duration_since(then).unsigned_abs())
    }

    /// The time of day, with the date if it is not today.
    pub fn format_time(&self, then: Timestamp) -> String {
        let (then, now) = (
            then.to_zoned(self.zone.clone()),
            self.now.to_zoned(self.zone.clone()),
        );
        let then = then.round(Unit::Second).unwrap_or(then);
        let format = if then.date() == now.date() {
            "%H:%M:%S %Z"
        } else {
            "%Y-%m-%d %H:%M:%S %Z"
        };
        then.strftime(format).to_string()
    }
}

/// A duration in at most two units, for example `2m 10s`.
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let parts = [
        (days, "d"),
        (hours, "h"),
        (minutes, "m"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let two = parts[first..]
        .iter()
        .take(2)
        .filter(|(count, _)| *count > 0);
    let text: Vec<String> = two.map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_at_most_two_units() {
        let cases = [
            (0, "0s"),
            (59, "59s"),
            (130, "2m 10s"),
            (3_600, "1h"),
            (90_061, "1d 1h"),
            (86_460, "1d"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_duration(Duration::from_secs(seconds)), text);
        }
    }
}
