//! Where the values of an effective spec come from, and what is wrong with its sources.

use std::collections::BTreeMap;
use std::fmt;

use serin_core::text::{Message, Name, Text};

/// Maximum number of problems that are reported.
pub const MAX_PROBLEMS: usize = 20;
/// Maximum length in bytes of a value in a problem.
const MAX_VALUE_BYTES: usize = 100;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The Rollout.
    Rollout,
    /// The RolloutPolicy with this name.
    Policy(String),
    /// The AnalysisTemplate with this name in the namespace of the Rollout.
    Template(String),
    /// Serin itself.
    BuiltIn,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rollout => f.write_str("Rollout"),
            Self::Policy(name) => write!(f, "RolloutPolicy {name}"),
            Self::Template(name) => write!(f, "AnalysisTemplate {name}"),
            Self::BuiltIn => f.write_str("built-in default"),
        }
    }
}

/// The source of each value by its path, for example `spec.analysis.objectives[http].objective`.
/// Entries of `objectives` and `checks` are named; other lists have one source.
pub type Origins = BTreeMap<String, Source>;

/// What kind of problem there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemKind {
    /// A reference cannot be resolved: what it names does not exist, is defined twice, refers to
    /// itself, or its parameters do not fit.
    Reference,
    /// A policy cannot be read, or its values cannot be used.
    Policy,
    /// What is needed to resolve the spec cannot be known: the controller may not read it, or it
    /// was deleted.
    Unavailable,
}

/// Why a spec cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind of problem it is.
    pub kind: ProblemKind,
    /// The object that has the problem.
    pub source: Source,
    /// Path of the field.
    pub path: Name,
    /// Value of the field. `None` if it is missing.
    /// Boxed, so that a result with a problem stays small.
    pub value: Option<Box<Text<MAX_VALUE_BYTES>>>,
    /// The problem, without its end.
    pub problem: Message,
    /// How to correct it.
    pub fix: Message,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.source != Source::Rollout {
            write!(f, "{}: ", self.source)?;
        }
        match &self.value {
            Some(value) => write!(f, "{}: Invalid value: \"{value}\": ", self.path)?,
            None => write!(f, "{}: ", self.path)?,
        }
        write!(f, "{}; {}", self.problem, self.fix)
    }
}

/// Collects problems, at most [`MAX_PROBLEMS`].
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    pub(crate) fn push(&mut self, problem: Problem) {
        if self.0.len() < MAX_PROBLEMS && !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.0
    }
}

/// A problem of a reference.
pub(crate) fn reference_problem(
    source: &Source,
    path: &str,
    value: Option<&str>,
    problem: impl Into<Message>,
    fix: impl Into<Message>,
) -> Problem {
    Problem {
        kind: ProblemKind::Reference,
        source: source.clone(),
        path: path.into(),
        value: value.map(|value| Box::new(value.into())),
        problem: problem.into(),
        fix: fix.into(),
    }
}
