//! Problems of a spec by field, formatted like the validation errors of the API server.

use std::{fmt, io, slice};

use serde::Serialize;
use serin_core::text::Text;

/// Path of the canary strategy, which contains most of the fields.
pub(super) const CANARY: &str = "spec.strategy.canary";

/// Maximum number of characters of a value in a message.
const MAX_VALUE_CHARS: usize = 100;
/// Maximum length in bytes of the path of a field. A path can contain the key of a label.
const MAX_PATH_BYTES: usize = 256;
/// Maximum length in bytes of a problem, and of a fix.
const MAX_PROBLEM_BYTES: usize = 512;
/// Maximum number of reported problems.
const MAX_PROBLEMS: usize = 20;

/// An invalid field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, for example `spec.strategy.canary.steps[2].setWeight`.
    pub path: String,
    /// Value of the field as JSON. `None` if a required field is missing.
    pub value: Option<String>,
    /// The problem.
    pub problem: String,
    /// A suggested fix.
    pub fix: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(
                f,
                "{}: Invalid value: {value}: {}; {}",
                self.path, self.problem, self.fix
            ),
            None => write!(
                f,
                "{}: Required value: {}; {}",
                self.path, self.problem, self.fix
            ),
        }
    }
}

/// The invalid fields in the order of the spec. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FieldErrors(Problems);

impl FieldErrors {
    /// Iterates over the first 20 invalid fields. There is at least one.
    pub fn iter(&self) -> slice::Iter<'_, FieldError> {
        self.0.errors.iter()
    }
}

impl<'a> IntoIterator for &'a FieldErrors {
    type Item = &'a FieldError;
    type IntoIter = slice::Iter<'a, FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<String> = self.iter().map(ToString::to_string).collect();
        if self.0.omitted > 0 {
            lines.push(format!("and {} more", self.0.omitted));
        }
        match lines.as_slice() {
            [line] => f.write_str(line),
            lines => write!(f, "[{}]", lines.join(", ")),
        }
    }
}

/// Collects problems, so that all of them are reported at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Problems {
    errors: Vec<FieldError>,
    /// Number of further problems.
    omitted: usize,
}

impl Problems {
    /// Records that the value at `path` is invalid.
    pub(super) fn invalid(
        &mut self,
        path: impl Into<String>,
        value: &impl Serialize,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.record(path.into(), Some(shortened_json(value)), problem, fix);
    }

    /// Records that a required value at `path` is missing.
    pub(super) fn required(
        &mut self,
        path: impl Into<String>,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.record(path.into(), None, problem, fix);
    }

    /// Every text can contain parts of the spec, so each of them is cut.
    fn record(
        &mut self,
        path: String,
        value: Option<String>,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        if self.errors.len() >= MAX_PROBLEMS {
            self.omitted += 1;
            return;
        }
        let cut = |text: String| Text::<MAX_PROBLEM_BYTES>::from(text).into();
        self.errors.push(FieldError {
            path: Text::<MAX_PATH_BYTES>::from(path).into(),
            value,
            problem: cut(problem.into()),
            fix: cut(fix.into()),
        });
    }

    /// Adds the problems of a check that names the fields of another strategy, with these names
    /// replaced.
    pub(super) fn append_renamed(&mut self, others: Self, names: &[(&str, &str)]) {
        let renamed = |text: String| {
            let names = names.iter();
            names.fold(text, |text, (from, to)| text.replace(from, to))
        };
        self.omitted += others.omitted;
        for error in others.errors {
            let (problem, fix) = (renamed(error.problem), renamed(error.fix));
            self.record(renamed(error.path), error.value, problem, fix);
        }
    }

    /// Returns `value` if there are no problems.
    pub(super) fn into_result<T>(self, value: T) -> Result<T, FieldErrors> {
        if self.errors.is_empty() {
            Ok(value)
        } else {
            Err(FieldErrors(self))
        }
    }
}

/// The value as JSON, truncated to [`MAX_VALUE_CHARS`]. No more of it is written.
fn shortened_json(value: &impl Serialize) -> String {
    let mut start = Start::default();
    let is_complete = serde_json::to_writer(&mut start, value).is_ok();
    let json = String::from_utf8_lossy(&start.0);
    if is_complete && json.chars().count() <= MAX_VALUE_CHARS {
        return json.into_owned();
    }
    json.chars()
        .take(MAX_VALUE_CHARS)
        .chain("...".chars())
        .collect()
}

/// Keeps the first bytes that are written, and fails after them.
#[derive(Default)]
struct Start(Vec<u8>);

impl io::Write for Start {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A character has up to four bytes.
        let space = (4 * MAX_VALUE_CHARS).saturating_sub(self.0.len());
        let written = bytes.len().min(space);
        self.0
            .extend_from_slice(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_contains_only_the_start_of_a_long_field() {
        let long = "9".repeat(1_000_000);
        let mut problems = Problems::default();
        problems.invalid(format!("spec.{long}"), &long, long.clone(), long.clone());
        problems.required(format!("spec.{long}"), long.clone(), long.clone());
        let message = problems.into_result(()).unwrap_err().to_string();
        assert!(message.len() < 3_000, "{}", message.len());
        let start = format!("\"{}...", "9".repeat(MAX_VALUE_CHARS - 1));
        assert!(message.contains(&start), "{message}");
        assert_eq!(shortened_json(&"é".repeat(200)).chars().count(), 103);
        assert_eq!(shortened_json(&"é\u{1b}"), "\"é\\u001b\"");
    }

    #[test]
    fn a_message_names_the_number_of_problems_that_it_omits() {
        let mut problems = Problems::default();
        for index in 0..MAX_PROBLEMS + 5 {
            problems.required(format!("spec.field[{index}]"), "it is missing", "add it");
        }
        let message = problems.into_result(()).unwrap_err().to_string();
        assert!(
            message.contains("spec.field[19]: Required value"),
            "{message}"
        );
        assert!(message.ends_with("add it, and 5 more]"), "{message}");
    }
}
