//! Durations and percentages as users write them.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a duration: write whole or decimal numbers with a unit of ms, s, m, h or d, for example 30s, 10m or 1h30m"
)]
pub struct InvalidDuration;

/// Why a text is not a percentage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a percentage: write a number from 0 to 100 and a percent sign, for example 2%")]
pub struct InvalidPercentage;

/// The units of a duration, each with its length in milliseconds; `ms` before `m`, since it begins
/// like it.
const UNITS: [(&str, f64); 5] = [
    ("ms", 1.0),
    ("s", 1e3),
    ("m", 6e4),
    ("h", 3.6e6),
    ("d", 8.64e7),
];
/// The longest duration that can be written: a hundred years, so that no later sum overflows.
const LONGEST_MILLISECONDS: f64 = 100.0 * 365.0 * 8.64e7;

/// Reads a duration such as `500ms`, `30s`, `10m`, `1h30m`, `30d`: Go's notation, which Kubernetes
/// uses, and days.
///
/// The resolution is a millisecond.
///
/// # Errors
/// [`InvalidDuration`] for an empty text, a number without a unit, an unknown unit, a sign, or more
/// than a hundred years.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let mut rest = text;
    let mut milliseconds = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or(InvalidDuration)?;
        let number = decimal(&rest[..digits]).ok_or(InvalidDuration)?;
        rest = &rest[digits..];
        let (unit, length) = UNITS
            .iter()
            .find(|(unit, _)| rest.starts_with(unit))
            .ok_or(InvalidDuration)?;
        rest = &rest[unit.len()..];
        milliseconds += number * length;
    }
    if text.is_empty() || milliseconds > LONGEST_MILLISECONDS {
        return Err(InvalidDuration);
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked just above: not negative and at most a hundred years of milliseconds"
    )]
    Ok(Duration::from_millis(milliseconds.round() as u64))
}

/// Writes a duration as [`parse_duration`] reads it, in the largest units that show it exactly.
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

/// Reads a percentage such as `2%` or `0.5%` as a fraction, 0.0 to 1.0.
///
/// # Errors
/// [`InvalidPercentage`] for anything but a plain decimal number from 0 to 100 and a percent sign.
pub fn parse_percentage(text: &str) -> Result<f64, InvalidPercentage> {
    let number = text
        .strip_suffix('%')
        .and_then(decimal)
        .ok_or(InvalidPercentage)?;
    if number > 100.0 {
        Err(InvalidPercentage)
    } else {
        Ok(number / 100.0)
    }
}

/// A plain decimal number: digits, with more digits behind a point if there is one. No sign,
/// exponent or infinity.
fn decimal(text: &str) -> Option<f64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let plain = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if plain(whole) && plain(fraction) {
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
    fn durations_are_read_as_go_writes_them() {
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
    fn percentages_need_their_sign() {
        assert_eq!(parse_percentage("2%"), Ok(0.02));
        assert_eq!(parse_percentage("0.5%"), Ok(0.005));
        assert_eq!(parse_percentage("100%"), Ok(1.0));
        for bad in ["", "2", "%", "101%", "-1%", "2 %", "inf%", "NaN%", "2%%"] {
            assert_eq!(parse_percentage(bad), Err(InvalidPercentage), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_duration_reads_back(milliseconds in 0..=3_000_000_000_000_u64) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,24}") {
            let _ = parse_duration(&text);
            let _ = parse_percentage(&text);
        }
    }
}
