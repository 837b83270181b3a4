//! Evaluates an expression and counts its steps.

use std::cmp::Ordering;
use std::rc::Rc;

use serde_json::Value as Json;

use super::ast::{Arithmetic, Comparison, LoopKind, Node, TextTest};

/// Number of bytes of text that cost one step.
const BYTES_PER_STEP: usize = 16;

/// Why an evaluation has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EvaluationError {
    #[error("it takes too many steps: loop over less")]
    OutOfSteps,
    #[error("there is no field {0:?}: test it with has(), or 'KEY' in OBJECT")]
    NoField(String),
    #[error("the index {index} does not exist in a list of {length}")]
    NoIndex { index: i64, length: usize },
    #[error("{0} is not possible with these types")]
    WrongType(&'static str),
    #[error("a number is too large, or is divided by 0")]
    Number,
}

/// A value. Text and objects are those of the expression and of the variables.
#[derive(Clone, Debug)]
enum Value<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    Double(f64),
    Text(&'a str),
    Array(&'a [Json]),
    Object(&'a serde_json::Map<String, Json>),
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

/// Evaluates an expression whose result is true or false.
pub(super) fn evaluate(
    root: &Node,
    variables: &[&Json],
    steps: u64,
) -> Result<bool, EvaluationError> {
    let mut evaluation = Evaluation {
        variables: variables.iter().map(|value| Value::from(*value)).collect(),
        steps,
    };
    evaluation.bool(root, "the result of the expression")
}

struct Evaluation<'a> {
    variables: Vec<Value<'a>>,
    /// Steps that are left.
    steps: u64,
}

impl<'a> Evaluation<'a> {
    fn spend(&mut self, steps: usize) -> Result<(), EvaluationError> {
        let steps = u64::try_from(steps).unwrap_or(u64::MAX);
        self.steps = self
            .steps
            .checked_sub(steps)
            .ok_or(EvaluationError::OutOfSteps)?;
        Ok(())
    }

    fn spend_text(&mut self, text: &str) -> Result<(), EvaluationError> {
        self.spend(text.len() / BYTES_PER_STEP)
    }

    fn value(&mut self, node: &'a Node) -> Result<Value<'a>, EvaluationError> {
        self.spend(1)?;
        match node {
            Node::Null => Ok(Value::Null),
            Node::Bool(value) => Ok(Value::Bool(*value)),
            Node::Integer(number) => Ok(Value::Integer(*number)),
            Node::Double(number) => Ok(Value::Double(*number)),
            Node::Text(text) => Ok(Value::Text(text)),
            Node::List(items) => {
                let items: Result<Rc<[Value<'a>]>, _> =
                    items.iter().map(|item| self.value(item)).collect();
                Ok(Value::List(items?))
            }
            Node::Variable(index) => {
                let found = self.variables.get(*index).cloned();
                found.ok_or(EvaluationError::WrongType("a variable"))
            }
            Node::Field(object, field) => {
                let fields = self.object(object, "a field")?;
                let found = fields.get(field).map(Value::from);
                found.ok_or_else(|| EvaluationError::NoField(field.clone()))
            }
            Node::Has(object, field) => {
                let fields = self.object(object, "has")?;
                Ok(Value::Bool(fields.contains_key(field)))
            }
            Node::Index(parts) => self.index(&parts.0, &parts.1),
            Node::Not(operand) => Ok(Value::Bool(!self.bool(operand, "!")?)),
            Node::Negate(operand) => negate(&self.value(operand)?),
            Node::And(operands) => self.logical(operands, false),
            Node::Or(operands) => self.logical(operands, true),
            Node::Compare(comparison, parts) => {
                let (left, right) = (self.value(&parts.0)?, self.value(&parts.1)?);
                self.compare(*comparison, &left, &right).map(Value::Bool)
            }
            Node::In(parts) => self.contains(&parts.0, &parts.1),
            Node::Arithmetic(operator, parts) => {
                let (left, right) = (self.value(&parts.0)?, self.value(&parts.1)?);
                calculate(*operator, &left, &right)
            }
            Node::Conditional(parts) => {
                let is_true = self.bool(&parts.0, "the condition of ?")?;
                self.value(if is_true { &parts.1 } else { &parts.2 })
            }
            Node::Size(operand) => self.size(operand),
            Node::ToInteger(operand) => to_integer(&self.value(operand)?).map(Value::Integer),
            Node::ToDouble(operand) => to_double(&self.value(operand)?).map(Value::Double),
            Node::TestText(test, parts) => self.test_text(*test, &parts.0, &parts.1),
            Node::Matches(operand, regex) => {
                let text = self.text(operand)?;
                // A regular expression reads each byte in the time of a step.
                self.spend(text.len())?;
                Ok(Value::Bool(regex.is_match(text)))
            }
            Node::Loop(kind, parts) => self.run(*kind, &parts.0, &parts.1),
        }
    }

    fn bool(&mut self, node: &'a Node, what: &'static str) -> Result<bool, EvaluationError> {
        match self.value(node)? {
            Value::Bool(value) => Ok(value),
            _ => Err(EvaluationError::WrongType(what)),
        }
    }

    fn text(&mut self, node: &'a Node) -> Result<&'a str, EvaluationError> {
        match self.value(node)? {
            Value::Text(text) => Ok(text),
            _ => Err(EvaluationError::WrongType("a test of text")),
        }
    }

    fn test_text(
        &mut self,
        operation: TextTest,
        text: &'a Node,
        part: &'a Node,
    ) -> Result<Value<'a>, EvaluationError> {
        let (text, part) = (self.text(text)?, self.text(part)?);
        self.spend_text(text)?;
        Ok(Value::Bool(match operation {
            TextTest::StartsWith => text.starts_with(part),
            TextTest::EndsWith => text.ends_with(part),
            TextTest::Contains => text.contains(part),
        }))
    }

    fn object(
        &mut self,
        node: &'a Node,
        what: &'static str,
    ) -> Result<&'a serde_json::Map<String, Json>, EvaluationError> {
        match self.value(node)? {
            Value::Object(fields) => Ok(fields),
            _ => Err(EvaluationError::WrongType(what)),
        }
    }

    /// `&&` or `||`. An operand with the value `decisive` determines the result, and hides the errors
    /// of the others, as in CEL.
    fn logical(
        &mut self,
        operands: &'a [Node],
        decisive: bool,
    ) -> Result<Value<'a>, EvaluationError> {
        let mut first_error = None;
        for operand in operands {
            match self.bool(operand, "&& or ||") {
                Ok(value) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(_) => {}
                Err(EvaluationError::OutOfSteps) => return Err(EvaluationError::OutOfSteps),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn index(&mut self, of: &'a Node, at: &'a Node) -> Result<Value<'a>, EvaluationError> {
        let (of, at) = (self.value(of)?, self.value(at)?);
        let no_index = |index, length| EvaluationError::NoIndex { index, length };
        let position = |index: i64| usize::try_from(index).ok();
        match (of, at) {
            (Value::Object(fields), Value::Text(key)) => fields
                .get(key)
                .map(Value::from)
                .ok_or_else(|| EvaluationError::NoField(key.to_owned())),
            (Value::Array(items), Value::Integer(index)) => position(index)
                .and_then(|at| items.get(at))
                .map(Value::from)
                .ok_or_else(|| no_index(index, items.len())),
            (Value::List(items), Value::Integer(index)) => position(index)
                .and_then(|at| items.get(at))
                .cloned()
                .ok_or_else(|| no_index(index, items.len())),
            _ => Err(EvaluationError::WrongType("[]")),
        }
    }

    fn contains(&mut self, value: &'a Node, of: &'a Node) -> Result<Value<'a>, EvaluationError> {
        let (value, of) = (self.value(value)?, self.value(of)?);
        if let (Value::Text(key), Value::Object(fields)) = (&value, &of) {
            return Ok(Value::Bool(fields.contains_key(*key)));
        }
        let items = items_of(&of).ok_or(EvaluationError::WrongType("in"))?;
        for item in items {
            self.spend(1)?;
            if self.is_equal(&value, &item)? {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }

    fn size(&mut self, node: &'a Node) -> Result<Value<'a>, EvaluationError> {
        let size = match self.value(node)? {
            Value::Text(text) => {
                self.spend_text(text)?;
                text.chars().count()
            }
            Value::Array(items) => items.len(),
            Value::Object(fields) => fields.len(),
            Value::List(items) => items.len(),
            _ => return Err(EvaluationError::WrongType("size")),
        };
        i64::try_from(size)
            .map(Value::Integer)
            .map_err(|_| EvaluationError::Number)
    }

    fn run(
        &mut self,
        kind: LoopKind,
        range: &'a Node,
        body: &'a Node,
    ) -> Result<Value<'a>, EvaluationError> {
        let range = self.value(range)?;
        let items = items_of(&range).ok_or(EvaluationError::WrongType("a loop"))?;
        let depth = self.variables.len();
        let result = self.run_over(kind, items, body);
        self.variables.truncate(depth);
        result
    }

    fn run_over(
        &mut self,
        kind: LoopKind,
        items: Vec<Value<'a>>,
        body: &'a Node,
    ) -> Result<Value<'a>, EvaluationError> {
        let depth = self.variables.len();
        let mut found = Vec::new();
        let mut first_error = None;
        for item in items {
            self.spend(1)?;
            self.variables.truncate(depth);
            self.variables.push(item.clone());
            if kind == LoopKind::Map {
                found.push(self.value(body)?);
                continue;
            }
            match (kind, self.bool(body, "the condition of a loop")) {
                (_, Err(EvaluationError::OutOfSteps)) => return Err(EvaluationError::OutOfSteps),
                (LoopKind::All, Ok(false)) => return Ok(Value::Bool(false)),
                (LoopKind::Exists, Ok(true)) => return Ok(Value::Bool(true)),
                // As with && and ||, a later item may decide.
                (LoopKind::All | LoopKind::Exists, Err(error)) => {
                    first_error = first_error.or(Some(error));
                }
                (_, value) => {
                    if value? {
                        found.push(item);
                    }
                }
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        Ok(match kind {
            LoopKind::All => Value::Bool(true),
            LoopKind::Exists => Value::Bool(false),
            LoopKind::ExistsOne => Value::Bool(found.len() == 1),
            LoopKind::Filter | LoopKind::Map => Value::List(found.into()),
        })
    }

    fn compare(
        &mut self,
        comparison: Comparison,
        left: &Value<'a>,
        right: &Value<'a>,
    ) -> Result<bool, EvaluationError> {
        match comparison {
            Comparison::Equal => return self.is_equal(left, right),
            Comparison::NotEqual => return self.is_equal(left, right).map(|equal| !equal),
            _ => {}
        }
        let order = match (left, right) {
            (Value::Text(left), Value::Text(right)) => {
                self.spend_text(left)?;
                Some(left.cmp(right))
            }
            (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
            (Value::Integer(_) | Value::Double(_), Value::Integer(_) | Value::Double(_)) => {
                numeric_order(left, right)
            }
            _ => return Err(EvaluationError::WrongType("a comparison")),
        };
        Ok(match comparison {
            Comparison::Less => order == Some(Ordering::Less),
            Comparison::LessOrEqual => order.is_some_and(Ordering::is_le),
            Comparison::Greater => order == Some(Ordering::Greater),
            _ => order.is_some_and(Ordering::is_ge),
        })
    }

    /// Values of different types are different, as in CEL.
    fn is_equal(&mut self, left: &Value<'a>, right: &Value<'a>) -> Result<bool, EvaluationError> {
        self.spend(1)?;
        match (left, right) {
            (Value::Null, Value::Null) => Ok(true),
            (Value::Bool(left), Value::Bool(right)) => Ok(left == right),
            (Value::Text(left), Value::Text(right)) => {
                self.spend_text(left)?;
                Ok(left == right)
            }
            (Value::Integer(_) | Value::Double(_), Value::Integer(_) | Value::Double(_)) => {
                Ok(numeric_order(left, right) == Some(Ordering::Equal))
            }
            (Value::Object(left), Value::Object(right)) => {
                if left.len() != right.len() {
                    return Ok(false);
                }
                for (key, value) in *left {
                    let Some(other) = right.get(key) else {
                        return Ok(false);
                    };
                    if !self.is_equal(&Value::from(value), &Value::from(other))? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Value::Array(_) | Value::List(_), Value::Array(_) | Value::List(_)) => {
                let lists = items_of(left).zip(items_of(right)).unwrap_or_default();
                if lists.0.len() != lists.1.len() {
                    return Ok(false);
                }
                for (left, right) in lists.0.iter().zip(&lists.1) {
                    if !self.is_equal(left, right)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// What a loop reads: the items of a list or the keys of an object.
fn items_of<'a>(value: &Value<'a>) -> Option<Vec<Value<'a>>> {
    match value {
        Value::Array(items) => Some(items.iter().map(Value::from).collect()),
        Value::Object(fields) => Some(fields.keys().map(|key| Value::Text(key)).collect()),
        Value::List(items) => Some(items.to_vec()),
        _ => None,
    }
}

fn numeric_order(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    match (left, right) {
        (Value::Integer(left), Value::Integer(right)) => Some(left.cmp(right)),
        (left, right) => {
            let (left, right) = (to_double(left).ok()?, to_double(right).ok()?);
            left.partial_cmp(&right)
        }
    }
}

fn negate<'a>(value: &Value<'a>) -> Result<Value<'a>, EvaluationError> {
    match value {
        Value::Integer(number) => {
            let negative = number.checked_neg().ok_or(EvaluationError::Number)?;
            Ok(Value::Integer(negative))
        }
        Value::Double(number) => Ok(Value::Double(-number)),
        _ => Err(EvaluationError::WrongType("-")),
    }
}

fn calculate<'a>(
    operator: Arithmetic,
    left: &Value<'a>,
    right: &Value<'a>,
) -> Result<Value<'a>, EvaluationError> {
    match (left, right) {
        (Value::Integer(left), Value::Integer(right)) => {
            let result = match operator {
                Arithmetic::Add => left.checked_add(*right),
                Arithmetic::Subtract => left.checked_sub(*right),
                Arithmetic::Multiply => left.checked_mul(*right),
                Arithmetic::Divide => left.checked_div(*right),
                Arithmetic::Remainder => left.checked_rem(*right),
            };
            result.map(Value::Integer).ok_or(EvaluationError::Number)
        }
        (Value::Double(left), Value::Double(right)) => match operator {
            Arithmetic::Add => Ok(Value::Double(left + right)),
            Arithmetic::Subtract => Ok(Value::Double(left - right)),
            Arithmetic::Multiply => Ok(Value::Double(left * right)),
            Arithmetic::Divide => Ok(Value::Double(left / right)),
            Arithmetic::Remainder => Err(EvaluationError::WrongType("%")),
        },
        _ => Err(EvaluationError::WrongType("arithmetic")),
    }
}

fn to_integer(value: &Value<'_>) -> Result<i64, EvaluationError> {
    /// 2^63, the first double that is too large. Its negative is the smallest integer.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    match value {
        Value::Integer(number) => Ok(*number),
        #[expect(clippy::cast_possible_truncation, reason = "within the limits of i64")]
        Value::Double(number) if (-LIMIT..LIMIT).contains(number) => Ok(*number as i64),
        Value::Text(text) => text.parse().map_err(|_| EvaluationError::Number),
        Value::Double(_) => Err(EvaluationError::Number),
        _ => Err(EvaluationError::WrongType("int")),
    }
}

fn to_double(value: &Value<'_>) -> Result<f64, EvaluationError> {
    match value {
        #[expect(
            clippy::cast_precision_loss,
            reason = "CEL rounds a large integer to the nearest double"
        )]
        Value::Integer(number) => Ok(*number as f64),
        Value::Double(number) => Ok(*number),
        Value::Text(text) => text.parse().map_err(|_| EvaluationError::Number),
        _ => Err(EvaluationError::WrongType("double")),
    }
}
