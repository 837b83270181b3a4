//! Lists of HTTP statuses on the command line.

use std::ops::RangeInclusive;
use std::str::FromStr;

/// Statuses and ranges of them, such as `429,500-599`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRanges(Vec<RangeInclusive<u16>>);

impl StatusRanges {
    /// Whether a status is in the list.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl FromStr for StatusRanges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let why = || {
            format!("{text:?} is no list of HTTP statuses; write for example 500-599 or 429,503")
        };
        let status = |text: &str| {
            let status = text.trim().parse().map_err(|_| why())?;
            (100..=999)
                .contains(&status)
                .then_some(status)
                .ok_or_else(why)
        };
        let ranges = text.split(',').map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let range = status(from)?..=status(to)?;
            (!range.is_empty()).then_some(range).ok_or_else(why)
        });
        ranges.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_ranges_are_parsed() {
        let list: StatusRanges = "429, 500-599".parse().unwrap();
        assert!([429, 500, 599].iter().all(|status| list.contains(*status)));
        assert!([200, 428, 600].iter().all(|status| !list.contains(*status)));
        for text in ["", "5xx", "599-500", "50", "500-"] {
            assert!(text.parse::<StatusRanges>().is_err(), "{text}");
        }
    }
}
