//! The condition of a check: a CEL expression over `result`.
//!
//! Whoever may create a Rollout writes conditions, and the controller evaluates them for all
//! tenants. So the cost of a condition is known before it is evaluated: [`parser`] accepts the part
//! of CEL for which it can be calculated, and [`evaluator`] counts its steps. ADR 17 states why no
//! general CEL library does this.

mod evaluator;
mod expression;
mod functions;
mod lexer;
mod parser;
mod types;

use evaluator::{EvaluationError, Value};
use expression::{BOOL, Expression, Node};

/// Maximum length in characters, as in the schema.
const MAX_LENGTH: usize = 512;
/// Maximum nesting of brackets, loops and conditionals. It bounds the stack of the parser.
const MAX_DEPTH: usize = 12;
/// Maximum number of operators and functions on a path through the expression. It bounds the stack
/// of the evaluation.
const MAX_HEIGHT: usize = 32;
/// Maximum number of values of a result.
const MAX_VALUES: usize = 100;
/// Maximum number of steps of one evaluation: two nested loops over [`MAX_VALUES`] values.
const MAX_COST: u64 = 100_000;

/// A condition on the result of a query.
///
/// `result` is a list of doubles: the values of the vector in the order of the Prometheus response.
/// A scalar is a list with one value. Examples: `result[0] < 0.05` and `result.all(value, value <
/// 0.05)`.
#[derive(Debug)]
pub struct Condition {
    root: Node,
    /// Maximum number of steps of an evaluation.
    cost: u64,
}

impl Condition {
    /// Parses a condition.
    ///
    /// # Errors
    ///
    /// A message if the text is not CEL, uses another variable than `result`, is not boolean, uses
    /// a part of CEL that conditions do not support, or exceeds a limit.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.chars().count() > MAX_LENGTH {
            return Err(format!("it is longer than {MAX_LENGTH} characters"));
        }
        let Expression {
            node, kind, cost, ..
        } = parser::parse_expression(text)?;
        if kind != BOOL {
            return Err("its result is neither true nor false".to_owned());
        }
        if cost > MAX_COST {
            return Err(format!(
                "it takes up to {cost} steps for a result of {MAX_VALUES} values, and the limit is \
                 {MAX_COST}: use fewer nested loops"
            ));
        }
        let condition = Self { root: node, cost };
        condition.check_evaluates()?;
        Ok(condition)
    }

    /// Evaluates the condition on a result.
    ///
    /// # Errors
    ///
    /// A message if the evaluation fails, for example because `result[1]` does not exist.
    pub fn evaluate(&self, result: &[f64]) -> Result<bool, String> {
        if result.len() > MAX_VALUES {
            return Err(format!(
                "the result has {} values; the limit is {MAX_VALUES}",
                result.len()
            ));
        }
        let (value, _) = self.evaluate_counted(result);
        value.map_err(|error| error.to_string())
    }

    /// The value and the number of steps that its evaluation took.
    fn evaluate_counted(&self, result: &[f64]) -> (Result<bool, EvaluationError>, u64) {
        let (value, steps) = evaluator::evaluate(&self.root, result, self.cost);
        let value = value.and_then(|value| match value {
            Value::Bool(value) => Ok(value),
            _ => Err(EvaluationError::WrongType),
        });
        (value, steps)
    }

    /// Evaluates the condition on a small and on the largest sample. A condition that fails on both
    /// is a mistake, for example because of an index that no result has.
    fn check_evaluates(&self) -> Result<(), String> {
        let mut last_error = String::new();
        for count in [1, MAX_VALUES] {
            for value in [1.0, 0.0] {
                match self.evaluate(&vec![value; count]) {
                    Ok(_) => return Ok(()),
                    Err(error) => last_error = error,
                }
            }
        }
        Err(last_error)
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
