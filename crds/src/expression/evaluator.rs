//! Evaluates an expression and counts its steps.

use std::rc::Rc;

use serde_json::{Map, Value as Json};

use super::ast::{Comparison, Loop, LoopKind, Node, NodeKind, TextTest};
use super::value::{Value, calculate, holds, negate, to_double, to_integer};

/// Number of bytes of text that cost one step.
const BYTES_PER_STEP: usize = 16;

/// Why an evaluation has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EvaluationError {
    #[error("it takes too many steps: loop over less")]
    OutOfSteps,
    #[error("there is no field {0:?}: test it with has(), or 'KEY' in OBJECT")]
    NoField(String),
    #[error("the index {index} does not exist in a list of {length}")]
    NoIndex { index: i64, length: usize },
    #[error("{0} is not possible with these types")]
    WrongType(&'static str),
    #[error("an integer is too large")]
    Overflow,
    #[error("an integer is divided by zero")]
    DivisionByZero,
    #[error("a text is not a number")]
    NotANumber,
    #[error("an empty list has no smallest or largest value")]
    EmptyList,
}

/// Evaluates an expression whose result is true or false, in at most `max_steps` steps. Returns the
/// value and the number of steps.
pub(super) fn evaluate<'a>(
    root: &'a Node,
    variables: Vec<Value<'a>>,
    max_steps: u64,
) -> (Result<bool, EvaluationError>, u64) {
    let mut evaluator = Evaluator {
        variables,
        steps_left: max_steps,
    };
    let value = evaluator.bool(root, "the result of the expression");
    (value, max_steps - evaluator.steps_left)
}

struct Evaluator<'a> {
    variables: Vec<Value<'a>>,
    steps_left: u64,
}

impl<'a> Evaluator<'a> {
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

    /// Pays for text that is read whole.
    fn spend_text(&mut self, text: &str) -> Result<(), EvaluationError> {
        self.spend(text.len() / BYTES_PER_STEP)
    }

    /// Pays for a text that is converted or compared.
    fn spend_value(&mut self, value: &Value<'_>) -> Result<(), EvaluationError> {
        match value {
            Value::Text(text) => self.spend_text(text),
            _ => Ok(()),
        }
    }

    fn value(&mut self, node: &'a Node) -> Result<Value<'a>, EvaluationError> {
        self.spend(1)?;
        match &node.kind {
            NodeKind::Null => Ok(Value::Null),
            NodeKind::Bool(value) => Ok(Value::Bool(*value)),
            NodeKind::Integer(number) => Ok(Value::Integer(*number)),
            NodeKind::Double(number) => Ok(Value::Double(*number)),
            NodeKind::Text(text) => Ok(Value::Text(text)),
            NodeKind::List(items) => {
                let items: Result<Rc<[Value<'a>]>, _> =
                    items.iter().map(|item| self.value(item)).collect();
                Ok(Value::List(items?))
            }
            NodeKind::Variable(index) => {
                let found = self.variables.get(*index).cloned();
                found.ok_or(EvaluationError::WrongType("a variable"))
            }
            NodeKind::Field(object, field) => {
                let fields = self.object(object, "a field")?;
                let found = fields.get(field).map(Value::from);
                found.ok_or_else(|| EvaluationError::NoField(field.clone()))
            }
            NodeKind::Has(object, field) => {
                let fields = self.object(object, "has")?;
                Ok(Value::Bool(fields.contains_key(field)))
            }
            NodeKind::Index(parts) => self.index(&parts.0, &parts.1),
            NodeKind::Not(operand) => Ok(Value::Bool(!self.bool(operand, "!")?)),
            NodeKind::Negate(operand) => negate(&self.value(operand)?),
            NodeKind::And(operands) => self.logical(operands, false),
            NodeKind::Or(operands) => self.logical(operands, true),
            NodeKind::Arithmetic(first, rest) => {
                let mut value = self.value(first)?;
                for (operator, operand) in rest {
                    value = calculate(*operator, &value, &self.value(operand)?)?;
                }
                Ok(value)
            }
            NodeKind::Compare(comparison, parts) => {
                let (left, right) = (self.value(&parts.0)?, self.value(&parts.1)?);
                self.compare(*comparison, &left, &right).map(Value::Bool)
            }
            NodeKind::In(parts) => self.contains(&parts.0, &parts.1),
            NodeKind::Conditional(parts) => {
                let is_true = self.bool(&parts.0, "the condition of ?")?;
                self.value(if is_true { &parts.1 } else { &parts.2 })
            }
            NodeKind::Size(operand) => self.size(operand),
            NodeKind::ToInteger(operand) => {
                let value = self.value(operand)?;
                self.spend_value(&value)?;
                to_integer(&value).map(Value::Integer)
            }
            NodeKind::ToDouble(operand) => {
                let value = self.value(operand)?;
                self.spend_value(&value)?;
                to_double(&value).map(Value::Double)
            }
            NodeKind::Min(list) => self.extreme(list, Comparison::Less),
            NodeKind::Max(list) => self.extreme(list, Comparison::Greater),
            NodeKind::TestText(test, parts) => self.test_text(*test, &parts.0, &parts.1),
            NodeKind::Matches(operand, regex) => {
                let text = self.text(operand)?;
                // A regular expression reads each byte in the time of a step.
                self.spend(text.len())?;
                Ok(Value::Bool(regex.is_match(text)))
            }
            NodeKind::Loop(parts) => self.run(parts),
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

    fn object(
        &mut self,
        node: &'a Node,
        what: &'static str,
    ) -> Result<&'a Map<String, Json>, EvaluationError> {
        match self.value(node)? {
            Value::Object(fields) => Ok(fields),
            _ => Err(EvaluationError::WrongType(what)),
        }
    }

    fn test_text(
        &mut self,
        test: TextTest,
        of: &'a Node,
        part: &'a Node,
    ) -> Result<Value<'a>, EvaluationError> {
        let (whole, part) = (self.text(of)?, self.text(part)?);
        self.spend_text(whole)?;
        Ok(Value::Bool(match test {
            TextTest::StartsWith => whole.starts_with(part),
            TextTest::EndsWith => whole.ends_with(part),
            TextTest::Contains => whole.contains(part),
        }))
    }

    /// `&&` or `||`. An operand with the value `decisive` determines the result, whatever the
    /// others are. As in CEL, it also hides their errors.
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
        match (&of, &at) {
            (Value::Object(fields), Value::Text(key)) => {
                self.spend_text(key)?;
                let found = fields.get(*key).map(Value::from);
                found.ok_or_else(|| EvaluationError::NoField((*key).to_owned()))
            }
            (list, Value::Integer(index)) => list.at(*index),
            _ => Err(EvaluationError::WrongType("[]")),
        }
    }

    fn contains(&mut self, value: &'a Node, of: &'a Node) -> Result<Value<'a>, EvaluationError> {
        let (value, of) = (self.value(value)?, self.value(of)?);
        if let (Value::Text(key), Value::Object(fields)) = (&value, &of) {
            self.spend_text(key)?;
            return Ok(Value::Bool(fields.contains_key(*key)));
        }
        for item in of.items().ok_or(EvaluationError::WrongType("in"))? {
            self.spend(1)?;
            if self.is_equal(&value, &item)? {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }

    fn size(&mut self, node: &'a Node) -> Result<Value<'a>, EvaluationError> {
        let value = self.value(node)?;
        let size = match &value {
            Value::Text(text) => {
                self.spend_text(text)?;
                text.chars().count()
            }
            Value::Object(fields) => fields.len(),
            list => list.length().ok_or(EvaluationError::WrongType("size"))?,
        };
        let size = i64::try_from(size).map_err(|_| EvaluationError::Overflow)?;
        Ok(Value::Integer(size))
    }

    /// The smallest or largest value. A value that is not a number wins, so that no comparison
    /// with the result is true.
    fn extreme(
        &mut self,
        list: &'a Node,
        comparison: Comparison,
    ) -> Result<Value<'a>, EvaluationError> {
        let list = self.value(list)?;
        let mut best: Option<Value<'a>> = None;
        for value in list
            .items()
            .ok_or(EvaluationError::WrongType("min or max"))?
        {
            self.spend(1)?;
            let is_nan = matches!(value, Value::Double(number) if number.is_nan());
            let wins = match &best {
                None => true,
                Some(best) => is_nan || self.compare(comparison, &value, best)?,
            };
            if wins {
                best = Some(value);
            }
        }
        best.ok_or(EvaluationError::EmptyList)
    }

    fn run(&mut self, parts: &'a Loop) -> Result<Value<'a>, EvaluationError> {
        let range = self.value(&parts.range)?;
        let items = range.items().ok_or(EvaluationError::WrongType("a loop"))?;
        let depth = self.variables.len();
        let value = self.run_over(parts, items);
        self.variables.truncate(depth);
        value
    }

    fn run_over(
        &mut self,
        parts: &'a Loop,
        items: impl Iterator<Item = Value<'a>>,
    ) -> Result<Value<'a>, EvaluationError> {
        let depth = self.variables.len();
        let mut found = Vec::new();
        let mut first_error = None;
        for item in items {
            self.spend(1)?;
            self.variables.truncate(depth);
            self.variables.push(item.clone());
            if let Some(selector) = &parts.selector
                && !self.bool(selector, "the condition of a loop")?
            {
                continue;
            }
            if parts.kind == LoopKind::Map {
                found.push(self.value(&parts.body)?);
                continue;
            }
            let is_true = self.bool(&parts.body, "the condition of a loop");
            match (parts.kind, is_true) {
                (_, Err(EvaluationError::OutOfSteps)) => return Err(EvaluationError::OutOfSteps),
                (LoopKind::All, Ok(false)) => return Ok(Value::Bool(false)),
                (LoopKind::Exists, Ok(true)) => return Ok(Value::Bool(true)),
                // As with `&&` and `||`, a later value may decide.
                (LoopKind::All | LoopKind::Exists, Err(error)) => {
                    first_error = first_error.or(Some(error));
                }
                (_, is_true) => {
                    if is_true? {
                        found.push(item);
                    }
                }
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

    fn compare(
        &mut self,
        comparison: Comparison,
        left: &Value<'a>,
        right: &Value<'a>,
    ) -> Result<bool, EvaluationError> {
        match comparison {
            Comparison::Equal => self.is_equal(left, right),
            Comparison::NotEqual => self.is_equal(left, right).map(|equal| !equal),
            _ => {
                self.spend_value(left)?;
                holds(comparison, left, right)
            }
        }
    }

    /// Values of different types are different, as in CEL. A value inside of a list or an object
    /// costs a step.
    fn is_equal(&mut self, left: &Value<'a>, right: &Value<'a>) -> Result<bool, EvaluationError> {
        match (left, right) {
            (Value::Null, Value::Null) => Ok(true),
            (Value::Integer(_) | Value::Double(_), Value::Integer(_) | Value::Double(_))
            | (Value::Bool(_), Value::Bool(_))
            | (Value::Text(_), Value::Text(_)) => {
                self.spend_value(left)?;
                holds(Comparison::Equal, left, right)
            }
            (Value::Object(left), Value::Object(right)) => {
                if left.len() != right.len() {
                    return Ok(false);
                }
                for (key, value) in *left {
                    self.spend(1)?;
                    self.spend_text(key)?;
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
                self.is_equal_list(left, right)
            }
            _ => Ok(false),
        }
    }

    fn is_equal_list(
        &mut self,
        left: &Value<'a>,
        right: &Value<'a>,
    ) -> Result<bool, EvaluationError> {
        if left.length() != right.length() {
            return Ok(false);
        }
        let (left, right) = (left.items(), right.items());
        for (left, right) in left.into_iter().flatten().zip(right.into_iter().flatten()) {
            self.spend(1)?;
            if !self.is_equal(&left, &right)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
