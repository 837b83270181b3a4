//! CEL expressions over JSON, for guardrails that the platform writes.
//!
//! An expression is the part of CEL that reads: fields, indexes, comparisons, `in`, `has`, loops over
//! lists and keys, tests of text, and numbers. It creates no text, so that no value is larger than
//! what it reads. The depth is bounded when an expression is parsed, and its evaluation counts its
//! steps: an expression costs at most [`MAX_STEPS`], whatever it is evaluated on. (The conditions of
//! checks in `serin-crds` know their cost before they are evaluated, because they only have numbers.
//! The size of JSON is not known before.)

mod ast;
mod evaluator;
mod lexer;
mod parser;

use ast::Node;
use serde_json::Value;

/// Maximum length in characters, as in the schema.
pub const MAX_LENGTH: usize = 1_024;
/// Maximum number of steps of one evaluation.
pub const MAX_STEPS: u64 = 100_000;
/// Maximum number of nodes on a path through an expression. It bounds the stack.
const MAX_HEIGHT: usize = 40;
/// Maximum number of regular expressions.
const MAX_PATTERNS: usize = 4;

/// A parsed expression.
#[derive(Debug)]
pub struct Expression {
    root: Node,
    variables: Vec<String>,
}

impl Expression {
    /// Parses an expression over the named variables.
    ///
    /// # Errors
    ///
    /// A message if the text is not CEL, uses another variable or a part of CEL that is not
    /// supported, or exceeds a limit.
    pub fn parse(text: &str, variables: &[&str]) -> Result<Self, String> {
        if text.chars().count() > MAX_LENGTH {
            return Err(format!("it is longer than {MAX_LENGTH} characters"));
        }
        let root = parser::parse_expression(text, variables)?;
        Ok(Self {
            root,
            variables: variables.iter().map(|name| (*name).to_owned()).collect(),
        })
    }

    /// Evaluates the expression. `values` are those of the variables, in their order.
    ///
    /// # Errors
    ///
    /// A message if the result is neither true nor false, if a field or an index does not exist, if
    /// types do not fit, or if the evaluation takes more than [`MAX_STEPS`].
    pub fn evaluate(&self, values: &[&Value]) -> Result<bool, String> {
        if values.len() != self.variables.len() {
            return Err(format!(
                "it needs the variables {}",
                self.variables.join(", ")
            ));
        }
        evaluator::evaluate(&self.root, values, MAX_STEPS).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests;
