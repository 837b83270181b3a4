//! Query results.

use std::collections::BTreeMap;

/// A series' labels, `__name__` among them.
pub type Labels = BTreeMap<String, String>;

/// Appends a part of a key, with the separators of keys escaped, so that the labels of two different
/// series never have the same key. A label value may contain any character.
pub(crate) fn push_key_part(key: &mut String, part: &str) {
    for character in part.chars() {
        if matches!(character, '\\' | '|' | ';' | '=') {
            key.push('\\');
        }
        key.push(character);
    }
}

/// A series and its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Labels of the series.
    pub labels: Labels,
    /// Samples, oldest first: milliseconds since the epoch and the value, which may be NaN or
    /// infinite.
    pub samples: Vec<(i64, f64)>,
}

/// Query results.
pub type Answer = Vec<Series>;

/// Time of the newest sample in milliseconds since the epoch. `None` if there are no samples.
pub fn newest_ms(answer: &Answer) -> Option<i64> {
    answer
        .iter()
        .filter_map(|series| series.samples.last())
        .map(|(at_ms, _)| *at_ms)
        .max()
}
