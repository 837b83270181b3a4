//! What a query found.

use std::collections::BTreeMap;

/// A series' labels, `__name__` among them.
pub type Labels = BTreeMap<String, String>;

/// One series and its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its labels.
    pub labels: Labels,
    /// Its samples, oldest first: milliseconds since the epoch and the value, which may be NaN or
    /// infinite.
    pub samples: Vec<(i64, f64)>,
}

/// What a query found.
pub type Answer = Vec<Series>;

/// When the newest sample of an answer was taken, in milliseconds since the epoch; nothing where it
/// has none.
pub fn newest_ms(answer: &Answer) -> Option<i64> {
    answer
        .iter()
        .filter_map(|series| series.samples.last())
        .map(|(at_ms, _)| *at_ms)
        .max()
}
