//! The condition of a check: a CEL expression over `result`.
//!
//! Whoever may create a Rollout writes conditions, and the controller evaluates them for all
//! tenants. So the cost of a condition is known before it is evaluated: [`checker`] accepts the
//! expressions for which it can be calculated, and the evaluation counts its steps. ADR 17 states
//! why no general CEL library does this.

mod checker;
mod types;

use checker::Checked;
use types::BOOL;

use crate::expression::{
    Dialect, EvaluationError, Expression, Function, LoopKind, MAX_STEPS, Value,
};

/// Maximum length in characters, as in the schema.
const MAX_LENGTH: usize = 512;
/// Maximum nesting of brackets, loops and conditionals.
const MAX_DEPTH: usize = 12;
/// Maximum number of operators and functions on a path through the expression.
const MAX_HEIGHT: usize = 32;
/// Maximum number of values of a result.
const MAX_VALUES: usize = 100;
/// Maximum number of steps of one evaluation: two nested loops over [`MAX_VALUES`] values.
const MAX_COST: u64 = MAX_STEPS;

const DIALECT: Dialect = Dialect {
    variables: &["result"],
    functions: &[
        Function::Loop(LoopKind::All),
        Function::Loop(LoopKind::Exists),
        Function::Loop(LoopKind::ExistsOne),
        Function::Loop(LoopKind::Filter),
        Function::Loop(LoopKind::Map),
        Function::Size,
        Function::Min,
        Function::Max,
        Function::Double,
        Function::Int,
    ],
    max_length: MAX_LENGTH,
    max_depth: MAX_DEPTH,
    max_height: MAX_HEIGHT,
};

/// A condition on the result of a query.
///
/// `result` is a list of doubles: the values of the vector in the order of the Prometheus response.
/// A scalar is a list with one value. Examples: `result[0] < 0.05` and `result.all(value, value <
/// 0.05)`.
#[derive(Debug)]
pub struct Condition {
    expression: Expression,
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
        let expression = Expression::parse(text, &DIALECT)?;
        let Checked { kind, cost } = checker::check(expression.root())?;
        if kind != BOOL {
            return Err("its result is neither true nor false".to_owned());
        }
        if cost > MAX_COST {
            return Err(format!(
                "it takes up to {cost} steps for a result of {MAX_VALUES} values, and the limit is \
                 {MAX_COST}: use fewer nested loops"
            ));
        }
        let condition = Self { expression, cost };
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
        let result = result.iter().copied().map(Value::Double).collect();
        self.expression
            .evaluate_counted(vec![Value::List(result)], self.cost)
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
