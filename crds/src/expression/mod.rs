//! CEL expressions with a bounded cost: the conditions of checks and the custom guardrails.
//!
//! Tenants write expressions, and one controller evaluates them for all tenants. So the parser
//! accepts the part of CEL that reads: it creates no text and combines no lists, so that no value
//! is larger than what it reads. Length, nesting and the size of regular expressions are bounded
//! when an expression is parsed, and the evaluation counts its steps. ADR 17 states why no general
//! CEL library does this.
//!
//! A [`Dialect`] states what a use of expressions accepts. The checks go further: their values are
//! numbers only, so `check::Condition` also calculates the types and the cost of an expression
//! before it is evaluated. The size of JSON is not known before.

mod ast;
mod evaluator;
mod functions;
mod lexer;
mod parser;
mod value;

use serde_json::Value as Json;

pub(crate) use ast::{Arithmetic, Comparison, Loop, Node, NodeKind};
pub use ast::{LoopKind, TextTest};
pub(crate) use evaluator::EvaluationError;
pub use functions::Function;
pub(crate) use value::Value;

/// Maximum number of steps of one evaluation: one for each node that is evaluated, for each value
/// that is read from a list or an object, and for 16 bytes of text.
pub const MAX_STEPS: u64 = 100_000;
/// Maximum number of regular expressions of an expression.
const MAX_PATTERNS: usize = 4;

/// The functions of expressions on JSON.
pub const JSON_FUNCTIONS: &[Function] = &[
    Function::Loop(LoopKind::All),
    Function::Loop(LoopKind::Exists),
    Function::Loop(LoopKind::ExistsOne),
    Function::Loop(LoopKind::Filter),
    Function::Loop(LoopKind::Map),
    Function::Size,
    Function::Has,
    Function::TestText(TextTest::StartsWith),
    Function::TestText(TextTest::EndsWith),
    Function::TestText(TextTest::Contains),
    Function::Matches,
    Function::Int,
    Function::Double,
];

/// What a use of expressions accepts.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// Names of the variables.
    pub variables: &'static [&'static str],
    /// The functions, in the order in which a message lists them.
    pub functions: &'static [Function],
    /// Maximum length in characters, as in the schema.
    pub max_length: usize,
    /// Maximum nesting of brackets, loops and conditionals. It bounds the stack of the parser.
    pub max_depth: usize,
    /// Maximum number of operators and functions on a path through the expression. It bounds the
    /// stack of the evaluation.
    pub max_height: usize,
}

/// A parsed expression.
#[derive(Debug)]
pub struct Expression {
    root: Node,
    variables: &'static [&'static str],
}

impl Expression {
    /// Parses an expression of a dialect.
    ///
    /// # Errors
    ///
    /// A message if the text is not CEL, uses another variable or a part of CEL that is not
    /// supported, or exceeds a limit.
    pub fn parse(text: &str, dialect: &Dialect) -> Result<Self, String> {
        let limit = dialect.max_length;
        if text.chars().count() > limit {
            return Err(format!("it is longer than {limit} characters"));
        }
        Ok(Self {
            root: parser::parse_expression(text, dialect)?,
            variables: dialect.variables,
        })
    }

    /// Evaluates the expression. `values` are those of the variables, in their order.
    ///
    /// # Errors
    ///
    /// A message if the result is neither true nor false, if a field or an index does not exist, if
    /// types do not fit, or if the evaluation takes more than [`MAX_STEPS`].
    pub fn evaluate(&self, values: &[&Json]) -> Result<bool, String> {
        if values.len() != self.variables.len() {
            return Err(format!(
                "it needs the variables {}",
                self.variables.join(", ")
            ));
        }
        let values = values.iter().map(|value| Value::from(*value)).collect();
        let (value, _) = self.evaluate_counted(values, MAX_STEPS);
        value.map_err(|error| error.to_string())
    }

    /// Evaluates the expression in at most `max_steps` steps. Returns the value and the number of
    /// steps that were taken.
    pub(crate) fn evaluate_counted<'a>(
        &'a self,
        values: Vec<Value<'a>>,
        max_steps: u64,
    ) -> (Result<bool, EvaluationError>, u64) {
        evaluator::evaluate(&self.root, values, max_steps)
    }

    /// The syntax tree.
    pub(crate) fn root(&self) -> &Node {
        &self.root
    }
}

#[cfg(test)]
mod tests;
