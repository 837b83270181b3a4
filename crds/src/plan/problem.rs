//! What is wrong with a spec, field by field, in the API server's manner.

use std::fmt;

use serde::Serialize;

/// The path of the canary strategy, in which most of the fields are.
pub(super) const CANARY: &str = "spec.strategy.canary";

/// The longest value that is repeated in a message, in characters.
const VALUE_LIMIT: usize = 100;

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where, for example `spec.strategy.canary.steps[2].setWeight`.
    pub path: String,
    /// What stands there, as JSON; none: nothing does, and something should.
    pub value: Option<String>,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
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

/// Every field that is wrong, in the order of the spec; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// The fields, at least one.
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

/// Collects what is wrong, so that all of it is told at once.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<FieldError>);

impl Problems {
    /// Something stands at `path` that cannot be used.
    pub(super) fn invalid(
        &mut self,
        path: impl Into<String>,
        value: &impl Serialize,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(FieldError {
            path: path.into(),
            value: Some(shown(value)),
            problem: problem.into(),
            fix: fix.into(),
        });
    }

    /// Nothing stands at `path`, and something should.
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

    /// The value, if nothing was found to be wrong.
    pub(super) fn finish<T>(self, value: T) -> Result<T, FieldErrors> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(FieldErrors(self.0))
        }
    }
}

/// The value as JSON, cut where it is long.
fn shown(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_else(|_| "?".into());
    if json.chars().count() <= VALUE_LIMIT {
        return json;
    }
    json.chars()
        .take(VALUE_LIMIT)
        .chain("...".chars())
        .collect()
}
