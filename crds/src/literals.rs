//! Parsing and formatting of durations and percentages.

use std::time::Duration;

/// The text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a duration: write whole or decimal numbers with a unit of ms, s, m, h or d, for example 30s, 10m or 1h30m"
)]
pub struct InvalidDuration;

/// The text is not a percentage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a percentage: write a number from 0 to 100 and a percent sign, for example 2%")]
pub struct InvalidPercentage;

/// Units of a duration with their length in milliseconds. `ms` comes before `m`, which is its
/// prefix.
const UNITS: [(&str, f64); 5] = [
    ("ms", 1.0),
    ("s", 1e3),
    ("m", 6e4),
    ("h", 3.6e6),
    ("d", 8.64e7),
];
/// Maximum duration: a hundred years, so that later sums cannot overflow.
const MAX_MILLISECONDS: f64 = 100.0 * 365.0 * 8.64e7;

/// Parses a duration such as `500ms`, `30s`, `10m`, `1h30m` or `30d`. This is the notation of Go
/// and Kubernetes, extended by days.
///
/// The result is rounded to milliseconds.
///
/// # Errors
///
/// [`InvalidDuration`] if the text is empty, has a number without a unit, an unknown unit
/// or a sign, or exceeds a hundred years.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let mut rest = text;
    let mut milliseconds = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or(InvalidDuration)?;
        let number = parse_decimal(&rest[..digits]).ok_or(InvalidDuration)?;
        rest = &rest[digits..];
        let (unit, length) = UNITS
            .iter()
            .find(|(unit, _)| rest.starts_with(unit))
            .ok_or(InvalidDuration)?;
        rest = &rest[unit.len()..];
        milliseconds += number * length;
    }
    if text.is_empty() || milliseconds > MAX_MILLISECONDS {
        return Err(InvalidDuration);
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and at most MAX_MILLISECONDS"
    )]
    Ok(Duration::from_millis(milliseconds.round() as u64))
}

/// Formats a duration for [`parse_duration`], in the largest units that are exact.
pub fn format_duration(duration: Duration) -> String {
    let mut milliseconds = duration.as_millis();
    let parts = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ]
    .map(|(unit, length)| {
        let count = milliseconds / length;
        milliseconds %= length;
        if count > 0 {
            format!("{count}{unit}")
        } else {
            String::new()
        }
    });
    let text = parts.concat();
    if text.is_empty() { "0s".into() } else { text }
}

/// Parses a percentage such as `2%` or `0.5%` into a fraction from 0.0 to 1.0.
///
/// # Errors
/// [`InvalidPercentage`] if the text is not a decimal number from 0 to 100 with a percent sign.
pub fn parse_percentage(text: &str) -> Result<f64, InvalidPercentage> {
    let number = text
        .strip_suffix('%')
        .and_then(parse_decimal)
        .ok_or(InvalidPercentage)?;
    if number > 100.0 {
        Err(InvalidPercentage)
    } else {
        Ok(number / 100.0)
    }
}

/// Parses a decimal number with an optional fraction. Signs, exponents and infinity are rejected.
fn parse_decimal(text: &str) -> Option<f64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if is_digits(whole) && is_digits(fraction) {
        text.parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_parsed_in_go_notation() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("2s", 2_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("30d", 2_592_000_000),
            ("1.5s", 1_500),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for bad in [
            "",
            "10",
            "10 m",
            "-1s",
            "m",
            "1x",
            "1.s",
            ".5s",
            "1e3s",
            "1h30",
            "99999d",
            "ten minutes",
            "10M",
            "5µs",
        ] {
            assert_eq!(parse_duration(bad), Err(InvalidDuration), "{bad}");
        }
    }

    #[test]
    fn percentages_need_a_percent_sign() {
        assert_eq!(parse_percentage("2%"), Ok(0.02));
        assert_eq!(parse_percentage("0.5%"), Ok(0.005));
        assert_eq!(parse_percentage("100%"), Ok(1.0));
        for bad in ["", "2", "%", "101%", "-1%", "2 %", "inf%", "NaN%", "2%%"] {
            assert_eq!(parse_percentage(bad), Err(InvalidPercentage), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_duration_parses_back(milliseconds in 0..=3_000_000_000_000_u64) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,24}") {
            let _ = parse_duration(&text);
            let _ = parse_percentage(&text);
        }
    }
}
