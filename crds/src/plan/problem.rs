//! Problems of a spec by field, formatted like the validation errors of the API server.

use std::fmt;

use serde::Serialize;

/// Path of the canary strategy, which contains most of the fields.
pub(super) const CANARY: &str = "spec.strategy.canary";

/// Maximum number of characters of a value in a message.
const MAX_VALUE_CHARS: usize = 100;

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

/// All invalid fields in the order of the spec. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// Iterates over the invalid fields. There is at least one.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a FieldErrors {
    type Item = &'a FieldError;
    type IntoIter = std::slice::Iter<'a, FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        match lines.as_slice() {
            [line] => f.write_str(line),
            lines => write!(f, "[{}]", lines.join(", ")),
        }
    }
}

/// Collects problems, so that all of them are reported at once.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<FieldError>);

impl Problems {
    /// Records that the value at `path` is invalid.
    pub(super) fn invalid(
        &mut self,
        path: impl Into<String>,
        value: &impl Serialize,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(FieldError {
            path: path.into(),
            value: Some(shortened_json(value)),
            problem: problem.into(),
            fix: fix.into(),
        });
    }

    /// Records that a required value at `path` is missing.
    pub(super) fn required(
        &mut self,
        path: impl Into<String>,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(FieldError {
            path: path.into(),
            value: None,
            problem: problem.into(),
            fix: fix.into(),
        });
    }

    /// Returns `value` if there are no problems.
    pub(super) fn into_result<T>(self, value: T) -> Result<T, FieldErrors> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(FieldErrors(self.0))
        }
    }
}

/// The value as JSON, truncated to [`MAX_VALUE_CHARS`].
fn shortened_json(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_else(|_| "?".into());
    if json.chars().count() <= MAX_VALUE_CHARS {
        return json;
    }
    json.chars()
        .take(MAX_VALUE_CHARS)
        .chain("...".chars())
        .collect()
}
