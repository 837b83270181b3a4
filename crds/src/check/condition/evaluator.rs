//! Evaluates a checked expression.

use std::cmp::Ordering;
use std::rc::Rc;

use super::expression::{Arithmetic, Comparison, Function, Loop, LoopKind, Node};

/// Why an expression has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EvaluationError {
    #[error("index {index} does not exist: the list has {length} values")]
    NoSuchIndex { index: i64, length: usize },
    #[error("an integer is too large")]
    Overflow,
    #[error("an integer is divided by zero")]
    DivisionByZero,
    #[error("an empty list has no smallest or largest value")]
    EmptyList,
    #[error("the evaluation takes more steps than calculated")]
    OutOfSteps,
    #[error("a value has another type than determined")]
    WrongType,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Integer(i64),
    Double(f64),
    Bool(bool),
    List(Rc<[Self]>),
}

/// Evaluates an expression on a result, in at most `max_steps` steps. Returns the value and the
/// number of steps.
pub(super) fn evaluate(
    node: &Node,
    result: &[f64],
    max_steps: u64,
) -> (Result<Value, EvaluationError>, u64) {
    let result = result.iter().copied().map(Value::Double).collect();
    let mut evaluator = Evaluator {
        variables: vec![Value::List(result)],
        steps_left: max_steps,
    };
    let value = evaluator.evaluate(node);
    (value, max_steps - evaluator.steps_left)
}

struct Evaluator {
    variables: Vec<Value>,
    steps_left: u64,
}

impl Evaluator {
    fn spend(&mut self, steps: usize) -> Result<(), EvaluationError> {
        let steps = u64::try_from(steps).unwrap_or(u64::MAX);
        match self.steps_left.checked_sub(steps) {
            Some(left) => {
                self.steps_left = left;
                Ok(())
            }
            None => {
                self.steps_left = 0;
                Err(EvaluationError::OutOfSteps)
            }
        }
    }

    fn evaluate(&mut self, node: &Node) -> Result<Value, EvaluationError> {
        self.spend(1)?;
        match node {
            Node::Integer(number) => Ok(Value::Integer(*number)),
            Node::Double(number) => Ok(Value::Double(*number)),
            Node::Bool(value) => Ok(Value::Bool(*value)),
            Node::Variable(index) => {
                let value = self.variables.get(*index);
                value.cloned().ok_or(EvaluationError::WrongType)
            }
            Node::Not(operand) => Ok(Value::Bool(!self.bool(operand)?)),
            Node::Negate(operand) => negate(&self.evaluate(operand)?),
            Node::And(operands) => self.logical(operands, false),
            Node::Or(operands) => self.logical(operands, true),
            Node::Arithmetic(first, rest) => {
                let mut value = self.evaluate(first)?;
                for (operator, operand) in rest {
                    value = calculate(*operator, &value, &self.evaluate(operand)?)?;
                }
                Ok(value)
            }
            Node::Compare(comparison, operands) => {
                let left = self.evaluate(&operands.0)?;
                let right = self.evaluate(&operands.1)?;
                holds(*comparison, &left, &right).map(Value::Bool)
            }
            Node::In(operands) => self.contains(&operands.0, &operands.1),
            Node::Conditional(parts) => {
                if self.bool(&parts.0)? {
                    self.evaluate(&parts.1)
                } else {
                    self.evaluate(&parts.2)
                }
            }
            Node::List(values) => {
                let values: Result<Rc<[Value]>, _> =
                    values.iter().map(|value| self.evaluate(value)).collect();
                Ok(Value::List(values?))
            }
            Node::Index(parts) => self.index(&parts.0, &parts.1),
            Node::Call(function, argument) => {
                let argument = self.evaluate(argument)?;
                self.call(*function, &argument)
            }
            Node::Loop(parts) => self.run(parts),
        }
    }

    fn bool(&mut self, node: &Node) -> Result<bool, EvaluationError> {
        match self.evaluate(node)? {
            Value::Bool(value) => Ok(value),
            _ => Err(EvaluationError::WrongType),
        }
    }

    fn list(&mut self, node: &Node) -> Result<Rc<[Value]>, EvaluationError> {
        match self.evaluate(node)? {
            Value::List(values) => Ok(values),
            _ => Err(EvaluationError::WrongType),
        }
    }

    /// `&&` or `||`. An operand with the value `decisive` determines the result, whatever the
    /// others are. As in CEL, it also hides their errors.
    fn logical(&mut self, operands: &[Node], decisive: bool) -> Result<Value, EvaluationError> {
        let mut first_error = None;
        for operand in operands {
            match self.bool(operand) {
                Ok(value) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(_) => {}
                Err(EvaluationError::OutOfSteps) => return Err(EvaluationError::OutOfSteps),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn contains(&mut self, value: &Node, list: &Node) -> Result<Value, EvaluationError> {
        let value = self.evaluate(value)?;
        let list = self.list(list)?;
        for item in list.iter() {
            self.spend(1)?;
            if holds(Comparison::Equal, &value, item)? {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }

    fn index(&mut self, list: &Node, index: &Node) -> Result<Value, EvaluationError> {
        let list = self.list(list)?;
        let Value::Integer(index) = self.evaluate(index)? else {
            return Err(EvaluationError::WrongType);
        };
        let found = usize::try_from(index).ok().and_then(|at| list.get(at));
        let length = list.len();
        found
            .cloned()
            .ok_or(EvaluationError::NoSuchIndex { index, length })
    }

    fn call(&mut self, function: Function, argument: &Value) -> Result<Value, EvaluationError> {
        match (function, argument) {
            (Function::Size, Value::List(values)) => {
                let size = i64::try_from(values.len());
                size.map(Value::Integer)
                    .map_err(|_| EvaluationError::Overflow)
            }
            #[expect(
                clippy::cast_precision_loss,
                reason = "CEL rounds a large integer to the nearest double"
            )]
            (Function::ToDouble, Value::Integer(number)) => Ok(Value::Double(*number as f64)),
            (Function::ToDouble, Value::Double(number)) => Ok(Value::Double(*number)),
            (Function::ToInteger, Value::Integer(number)) => Ok(Value::Integer(*number)),
            (Function::ToInteger, Value::Double(number)) => truncated(*number).map(Value::Integer),
            (Function::Min, Value::List(values)) => self.extreme(values, Comparison::Less),
            (Function::Max, Value::List(values)) => self.extreme(values, Comparison::Greater),
            _ => Err(EvaluationError::WrongType),
        }
    }

    /// The smallest or largest value. A value that is not a number wins, so that no comparison
    /// with the result is true.
    fn extreme(
        &mut self,
        values: &[Value],
        comparison: Comparison,
    ) -> Result<Value, EvaluationError> {
        let mut best: Option<&Value> = None;
        for value in values {
            self.spend(1)?;
            let is_nan = matches!(value, Value::Double(number) if number.is_nan());
            let wins = match best {
                None => true,
                Some(best) => is_nan || holds(comparison, value, best)?,
            };
            if wins {
                best = Some(value);
            }
        }
        best.cloned().ok_or(EvaluationError::EmptyList)
    }

    fn run(&mut self, parts: &Loop) -> Result<Value, EvaluationError> {
        let range = self.list(&parts.range)?;
        let depth = self.variables.len();
        let value = self.run_over(parts, &range);
        self.variables.truncate(depth);
        value
    }

    fn run_over(&mut self, parts: &Loop, range: &[Value]) -> Result<Value, EvaluationError> {
        let depth = self.variables.len();
        let mut found = Vec::new();
        let mut first_error = None;
        for item in range {
            self.spend(1)?;
            self.variables.truncate(depth);
            self.variables.push(item.clone());
            if let Some(selector) = &parts.selector
                && !self.bool(selector)?
            {
                continue;
            }
            let value = self.evaluate(&parts.body);
            match (parts.kind, value) {
                (_, Err(EvaluationError::OutOfSteps)) => {
                    return Err(EvaluationError::OutOfSteps);
                }
                (LoopKind::All, Ok(Value::Bool(false))) => return Ok(Value::Bool(false)),
                (LoopKind::Exists, Ok(Value::Bool(true))) => return Ok(Value::Bool(true)),
                // As with `&&` and `||`, a later value may decide.
                (LoopKind::All | LoopKind::Exists, Err(error)) => {
                    first_error = first_error.or(Some(error));
                }
                (LoopKind::Map, value) => found.push(value?),
                (_, value) => match value? {
                    Value::Bool(true) => found.push(item.clone()),
                    Value::Bool(false) => {}
                    _ => return Err(EvaluationError::WrongType),
                },
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        Ok(match parts.kind {
            LoopKind::All => Value::Bool(true),
            LoopKind::Exists => Value::Bool(false),
            LoopKind::ExistsOne => Value::Bool(found.len() == 1),
            LoopKind::Filter | LoopKind::Map => Value::List(found.into()),
        })
    }
}

fn negate(value: &Value) -> Result<Value, EvaluationError> {
    match value {
        Value::Integer(number) => {
            let negative = number.checked_neg().ok_or(EvaluationError::Overflow)?;
            Ok(Value::Integer(negative))
        }
        Value::Double(number) => Ok(Value::Double(-number)),
        Value::Bool(_) | Value::List(_) => Err(EvaluationError::WrongType),
    }
}

fn calculate(operator: Arithmetic, left: &Value, right: &Value) -> Result<Value, EvaluationError> {
    match (left, right) {
        (Value::Double(left), Value::Double(right)) => match operator {
            Arithmetic::Add => Ok(Value::Double(left + right)),
            Arithmetic::Subtract => Ok(Value::Double(left - right)),
            Arithmetic::Multiply => Ok(Value::Double(left * right)),
            Arithmetic::Divide => Ok(Value::Double(left / right)),
            Arithmetic::Remainder => Err(EvaluationError::WrongType),
        },
        (Value::Integer(left), Value::Integer(right)) => {
            let divides = matches!(operator, Arithmetic::Divide | Arithmetic::Remainder);
            if divides && *right == 0 {
                return Err(EvaluationError::DivisionByZero);
            }
            let result = match operator {
                Arithmetic::Add => left.checked_add(*right),
                Arithmetic::Subtract => left.checked_sub(*right),
                Arithmetic::Multiply => left.checked_mul(*right),
                Arithmetic::Divide => left.checked_div(*right),
                Arithmetic::Remainder => left.checked_rem(*right),
            };
            result.map(Value::Integer).ok_or(EvaluationError::Overflow)
        }
        _ => Err(EvaluationError::WrongType),
    }
}

/// Whether a comparison is true. Like in IEEE 754, only `!=` is true for a value that is not a
/// number.
fn holds(comparison: Comparison, left: &Value, right: &Value) -> Result<bool, EvaluationError> {
    let order = match (left, right) {
        (Value::Integer(left), Value::Integer(right)) => Some(left.cmp(right)),
        (Value::Double(left), Value::Double(right)) => left.partial_cmp(right),
        (Value::Integer(left), Value::Double(right)) => compare(*left, *right),
        (Value::Double(left), Value::Integer(right)) => {
            compare(*right, *left).map(Ordering::reverse)
        }
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        _ => return Err(EvaluationError::WrongType),
    };
    Ok(match comparison {
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::LessOrEqual => order.is_some_and(Ordering::is_le),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        Comparison::Equal => order == Some(Ordering::Equal),
        Comparison::NotEqual => order != Some(Ordering::Equal),
    })
}

/// The order of an integer and a double as numbers, without rounding. `None` if the double is not a
/// number.
fn compare(integer: i64, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    match truncated(double) {
        Ok(whole) => {
            let fraction = 0.0_f64.partial_cmp(&double.fract());
            fraction.map(|fraction| integer.cmp(&whole).then(fraction))
        }
        Err(_) if double > 0.0 => Some(Ordering::Less),
        Err(_) => Some(Ordering::Greater),
    }
}

/// The integer part of a double.
fn truncated(double: f64) -> Result<i64, EvaluationError> {
    /// 2^63, the first double that is too large. Its negative is the smallest integer.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if (-LIMIT..LIMIT).contains(&double) {
        #[expect(clippy::cast_possible_truncation, reason = "within the limits of i64")]
        Ok(double as i64)
    } else {
        Err(EvaluationError::Overflow)
    }
}
