//! Values of an evaluation.

use std::cmp::Ordering;
use std::rc::Rc;

use serde_json::{Map, Value as Json};

use super::ast::{Arithmetic, Comparison};
use super::evaluator::EvaluationError;

/// A value. Text and objects are those of the expression and of the variables.
#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    Double(f64),
    Text(&'a str),
    Array(&'a [Json]),
    Object(&'a Map<String, Json>),
    List(Rc<[Value<'a>]>),
}

impl<'a> From<&'a Json> for Value<'a> {
    fn from(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(integer) => Self::Integer(integer),
                None => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::Text(text),
            Json::Array(items) => Self::Array(items),
            Json::Object(fields) => Self::Object(fields),
        }
    }
}

impl<'a> Value<'a> {
    /// What a loop reads: the values of a list or the keys of an object. They are not copied in
    /// advance, because only what is read is paid.
    pub(super) fn items(&self) -> Option<Items<'a>> {
        match self {
            Self::Array(items) => Some(Items::Array(items.iter())),
            Self::Object(fields) => Some(Items::Keys(fields.keys())),
            Self::List(items) => Some(Items::List(Rc::clone(items), 0)),
            _ => None,
        }
    }

    /// Number of values of a list. `None` if it is no list.
    pub(super) fn length(&self) -> Option<usize> {
        match self {
            Self::Array(items) => Some(items.len()),
            Self::List(items) => Some(items.len()),
            _ => None,
        }
    }

    /// The value at an index of a list.
    pub(super) fn at(&self, index: i64) -> Result<Self, EvaluationError> {
        let position = usize::try_from(index).ok();
        let found = match self {
            Self::Array(items) => position.and_then(|at| items.get(at)).map(Self::from),
            Self::List(items) => position.and_then(|at| items.get(at)).cloned(),
            _ => None,
        };
        let length = self.length().ok_or(EvaluationError::WrongType("[]"))?;
        found.ok_or(EvaluationError::NoIndex { index, length })
    }
}

/// The values that a loop reads.
pub(super) enum Items<'a> {
    Array(std::slice::Iter<'a, Json>),
    Keys(serde_json::map::Keys<'a>),
    /// A list and the index of the next value.
    List(Rc<[Value<'a>]>, usize),
}

impl<'a> Iterator for Items<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        match self {
            Self::Array(items) => items.next().map(Value::from),
            Self::Keys(keys) => keys.next().map(|key| Value::Text(key)),
            Self::List(items, next) => {
                let item = items.get(*next).cloned();
                *next += 1;
                item
            }
        }
    }
}

pub(super) fn negate<'a>(value: &Value<'a>) -> Result<Value<'a>, EvaluationError> {
    match value {
        Value::Integer(number) => {
            let negative = number.checked_neg().ok_or(EvaluationError::Overflow)?;
            Ok(Value::Integer(negative))
        }
        Value::Double(number) => Ok(Value::Double(-number)),
        _ => Err(EvaluationError::WrongType("-")),
    }
}

pub(super) fn calculate<'a>(
    operator: Arithmetic,
    left: &Value<'a>,
    right: &Value<'a>,
) -> Result<Value<'a>, EvaluationError> {
    match (left, right) {
        (Value::Double(left), Value::Double(right)) => match operator {
            Arithmetic::Add => Ok(Value::Double(left + right)),
            Arithmetic::Subtract => Ok(Value::Double(left - right)),
            Arithmetic::Multiply => Ok(Value::Double(left * right)),
            Arithmetic::Divide => Ok(Value::Double(left / right)),
            Arithmetic::Remainder => Err(EvaluationError::WrongType("%")),
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
        _ => Err(EvaluationError::WrongType("arithmetic")),
    }
}

/// Whether a comparison is true. As in IEEE 754, only `!=` is true for a double that is not a
/// number.
pub(super) fn holds(
    comparison: Comparison,
    left: &Value<'_>,
    right: &Value<'_>,
) -> Result<bool, EvaluationError> {
    let order = match (left, right) {
        (Value::Integer(left), Value::Integer(right)) => Some(left.cmp(right)),
        (Value::Double(left), Value::Double(right)) => left.partial_cmp(right),
        (Value::Integer(left), Value::Double(right)) => numeric_order(*left, *right),
        (Value::Double(left), Value::Integer(right)) => {
            numeric_order(*right, *left).map(Ordering::reverse)
        }
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Value::Text(left), Value::Text(right)) => Some(left.cmp(right)),
        _ => return Err(EvaluationError::WrongType("a comparison")),
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
fn numeric_order(integer: i64, double: f64) -> Option<Ordering> {
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

pub(super) fn to_integer(value: &Value<'_>) -> Result<i64, EvaluationError> {
    match value {
        Value::Integer(number) => Ok(*number),
        Value::Double(number) => truncated(*number),
        Value::Text(text) => text.parse().map_err(|_| EvaluationError::NotANumber),
        _ => Err(EvaluationError::WrongType("int")),
    }
}

pub(super) fn to_double(value: &Value<'_>) -> Result<f64, EvaluationError> {
    match value {
        #[expect(
            clippy::cast_precision_loss,
            reason = "CEL rounds a large integer to the nearest double"
        )]
        Value::Integer(number) => Ok(*number as f64),
        Value::Double(number) => Ok(*number),
        Value::Text(text) => text.parse().map_err(|_| EvaluationError::NotANumber),
        _ => Err(EvaluationError::WrongType("double")),
    }
}
