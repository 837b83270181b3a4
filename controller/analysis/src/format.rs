//! Formatting of numbers, shares, durations and e-values for operators.

/// Formats a number with thousands separators, and below 100 with up to one decimal.
pub fn thousands(value: f64) -> String {
    let text = if value.abs() < 100.0 && value.fract().abs() > 1e-9 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    };
    let text = text.strip_suffix(".0").map(str::to_owned).unwrap_or(text);
    let (sign, digits) = text
        .strip_prefix('-')
        .map_or(("", text.as_str()), |digits| ("-", digits));
    let (whole, fraction) = digits
        .split_once('.')
        .map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut grouped = String::from(sign);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if let Some(fraction) = fraction {
        grouped.push('.');
        grouped.push_str(fraction);
    }
    grouped
}

/// Formats a fraction in percent with up to three significant digits.
pub fn percent(fraction: f64) -> String {
    format!("{} %", significant(fraction * 100.0))
}

/// Formats a share in percent: to a tenth of a percent, and below that with two significant digits,
/// so that small shares do not appear as 0.
pub fn share(fraction: f64) -> String {
    const LEAST: f64 = 1e-4;
    let percent = fraction * 100.0;
    let size = percent.abs();
    let text = if size == 0.0 || size >= 0.1 {
        significant((percent * 10.0).round() / 10.0)
    } else if size < LEAST {
        return format!("under {LEAST} %");
    } else {
        let decimals = if size < 0.001 {
            5
        } else if size < 0.01 {
            4
        } else {
            3
        };
        format!("{percent:.decimals$}")
            .trim_end_matches('0')
            .to_owned()
    };
    format!("{text} %")
}

/// Formats up to three significant digits below 100 and all integer digits above. Values close to
/// 100, such as objectives, get five.
pub(crate) fn significant(value: f64) -> String {
    const NEGLIGIBLE: f64 = 1e-9;
    let size = value.abs();
    let decimals = if (99.0..100.0).contains(&size) {
        3
    } else if size >= 10.0 {
        1
    } else if !(NEGLIGIBLE..0.1).contains(&size) {
        2
    } else {
        4
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Formats requests per second, with more digits for low rates.
pub fn rate(requests_per_second: f64) -> String {
    if requests_per_second < 1.0 {
        significant(requests_per_second)
    } else {
        thousands(requests_per_second)
    }
}

/// Formats a duration: `40 s`, `6 min`, `2.5 h`, `9.2 days`.
pub fn duration(seconds: f64) -> String {
    const MINUTE: f64 = 60.0;
    const HOUR: f64 = 3600.0;
    const DAY: f64 = 86_400.0;
    if seconds < MINUTE {
        format!("{seconds:.0} s")
    } else if seconds < 1.5 * HOUR {
        format!("{:.0} min", seconds / MINUTE)
    } else if seconds < 2.0 * DAY {
        format!("{} h", thousands((seconds / HOUR * 10.0).round() / 10.0))
    } else {
        format!("{} days", thousands((seconds / DAY * 10.0).round() / 10.0))
    }
}

/// Formats an e-value, given its logarithm. Values above 10^12 are shown as powers of ten.
pub fn e_value(ln_e: f64) -> String {
    const HUGE: f64 = 27.6;
    if ln_e > HUGE {
        format!("10^{:.0}", ln_e / std::f64::consts::LN_10)
    } else {
        thousands((ln_e.exp() * 10.0).round() / 10.0)
    }
}

/// Rounds to two significant digits, the precision of the estimate.
pub(crate) fn two_digits(value: f64) -> f64 {
    if value < 100.0 {
        return value.ceil();
    }
    let unit = 10_f64.powf(value.log10().floor() - 1.0);
    (value / unit).round() * unit
}

/// Formats a histogram edge: `300 ms`, `1.2 s`.
pub fn bucket_edge(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{} ms", significant((seconds * 1e6).round() / 1e3))
    } else {
        format!("{} s", significant(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_formatted() {
        assert_eq!(thousands(3000.0), "3,000");
        assert_eq!(thousands(27_000.0), "27,000");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(thousands(1.5556), "1.6");
        assert_eq!(thousands(0.0), "0");
        assert_eq!(thousands(-1234.0), "-1,234");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(percent(0.1), "10 %");
        assert_eq!(percent(0.999), "99.9 %");
        assert_eq!(percent(0.9995), "99.95 %");
        assert_eq!(percent(0.005), "0.5 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(significant(0.310_363), "0.31");
        let shares = [
            (37.0 / 5184.0, "0.7 %"),
            (0.000_431, "0.043 %"),
            (0.000_999_9, "0.1 %"),
            (0.000_04, "0.004 %"),
        ];
        for (fraction, text) in shares {
            assert_eq!(share(fraction), text);
        }
        assert_eq!(
            [0.0, 1e-9, 1.234, 0.000_001_2].map(share),
            ["0 %", "under 0.0001 %", "123.4 %", "0.00012 %"]
        );
        assert_eq!(
            [0.02, 0.8, 1.0, 120.4, 12_000.0].map(rate),
            ["0.02", "0.8", "1", "120", "12,000"]
        );
        assert_eq!(duration(40.0), "40 s");
        assert_eq!(duration(380.0), "6 min");
        assert_eq!(duration(9000.0), "2.5 h");
        assert_eq!(duration(795_000.0), "9.2 days");
        assert_eq!(e_value(311_f64.ln()), "311");
        assert_eq!(e_value(100.0), "10^43");
        assert_eq!(two_digits(38_412.0), 38_000.0);
    }
}
