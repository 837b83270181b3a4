//! Determines the type and the cost of a condition before it is evaluated.
//!
//! The values of a condition are numbers, booleans and lists of them, so the number of values of
//! every list is known, and the cost can be calculated as in the cost estimator of the API server:
//! a loop costs the number of its values times its body.

use super::MAX_VALUES;
use super::types::{
    BOOL, ScalarType, Type, require_arithmetic, require_bool, require_comparable,
    require_same_class,
};
use crate::expression::{Arithmetic, Comparison, Loop, LoopKind, Node, NodeKind};

/// What is known about a node before it is evaluated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checked {
    pub kind: Type,
    /// Maximum number of steps of the evaluation.
    pub cost: u64,
}

/// Checks an expression over `result`, a list of at most [`MAX_VALUES`] doubles.
///
/// # Errors
///
/// A message if there is a type mismatch, or something that conditions do not support.
pub(super) fn check(root: &Node) -> Result<Checked, String> {
    let result = Type::List {
        item: ScalarType::Double,
        max_length: MAX_VALUES,
    };
    let mut checker = Checker {
        variables: vec![result],
    };
    checker.check(root)
}

struct Checker {
    /// Types of the variables in scope, the innermost last.
    variables: Vec<Type>,
}

impl Checker {
    fn check(&mut self, node: &Node) -> Result<Checked, String> {
        let position = node.position;
        let scalar = |kind| Ok(Cost::new().typed(Type::Scalar(kind)));
        match &node.kind {
            NodeKind::Null => Err(unsupported("null", position)),
            NodeKind::Text(_) | NodeKind::TestText(..) | NodeKind::Matches(..) => {
                Err(unsupported("text", position))
            }
            NodeKind::Field(..) | NodeKind::Has(..) => Err(unsupported("fields", position)),
            NodeKind::Integer(_) => scalar(ScalarType::Integer),
            NodeKind::Double(_) => scalar(ScalarType::Double),
            NodeKind::Bool(_) => scalar(ScalarType::Bool),
            NodeKind::Variable(index) => {
                let kind = self.variables.get(*index).copied();
                kind.map(|kind| Cost::new().typed(kind))
                    .ok_or_else(|| unsupported("this variable", position))
            }
            NodeKind::Not(operand) => self.logical([&**operand], "!", position),
            NodeKind::And(operands) => self.logical(operands, "&&", position),
            NodeKind::Or(operands) => self.logical(operands, "||", position),
            NodeKind::Negate(operand) => {
                let operand = self.check(operand)?;
                match operand.kind {
                    Type::Scalar(kind) if kind.is_number() => {
                        Ok(Cost::new().with(operand, 1).typed(operand.kind))
                    }
                    _ => Err(format!("- at character {position} needs a number")),
                }
            }
            NodeKind::Arithmetic(first, rest) => self.arithmetic(first, rest, position),
            NodeKind::Compare(comparison, parts) => self.compare(*comparison, parts, position),
            NodeKind::In(parts) => self.contains(parts, position),
            NodeKind::Conditional(parts) => self.conditional(parts, position),
            NodeKind::List(values) => self.list(values, position),
            NodeKind::Index(parts) => self.index(parts, position),
            NodeKind::Size(list) => self.size(list, position),
            NodeKind::ToDouble(operand) => self.convert(operand, ScalarType::Double, position),
            NodeKind::ToInteger(operand) => self.convert(operand, ScalarType::Integer, position),
            NodeKind::Min(list) => self.extreme("min", list, position),
            NodeKind::Max(list) => self.extreme("max", list, position),
            NodeKind::Loop(parts) => self.run(parts, position),
        }
    }

    fn logical<'n>(
        &mut self,
        operands: impl IntoIterator<Item = &'n Node>,
        operator: &str,
        position: usize,
    ) -> Result<Checked, String> {
        let mut cost = Cost::new();
        for operand in operands {
            let operand = self.check(operand)?;
            require_bool(operand.kind, operator, position)?;
            cost = cost.with(operand, 1);
        }
        Ok(cost.typed(BOOL))
    }

    fn arithmetic(
        &mut self,
        first: &Node,
        rest: &[(Arithmetic, Node)],
        position: usize,
    ) -> Result<Checked, String> {
        let first = self.check(first)?;
        let mut cost = Cost::new().with(first, 1);
        for (operator, operand) in rest {
            let operand = self.check(operand)?;
            require_arithmetic(*operator, first.kind, operand.kind, position)?;
            cost = cost.with(operand, 1);
        }
        Ok(cost.typed(first.kind))
    }

    fn compare(
        &mut self,
        comparison: Comparison,
        (left, right): &(Node, Node),
        position: usize,
    ) -> Result<Checked, String> {
        let (left, right) = (self.check(left)?, self.check(right)?);
        require_comparable(comparison, left.kind, right.kind, position)?;
        Ok(Cost::new().with(left, 1).with(right, 1).typed(BOOL))
    }

    fn contains(
        &mut self,
        (value, list): &(Node, Node),
        position: usize,
    ) -> Result<Checked, String> {
        let (value, list) = (self.check(value)?, self.check(list)?);
        let (Type::Scalar(kind), Type::List { item, max_length }) = (value.kind, list.kind) else {
            return Err(format!(
                "`in` at character {position} needs a value and a list, for example result[0] in \
                 [1.0, 2.0]"
            ));
        };
        require_same_class(kind, item, "in", position)?;
        let cost = Cost::new().with(value, 1).with(list, 1);
        Ok(cost.with_values(max_length).typed(BOOL))
    }

    fn conditional(
        &mut self,
        (condition, if_true, if_false): &(Node, Node, Node),
        position: usize,
    ) -> Result<Checked, String> {
        let condition = self.check(condition)?;
        require_bool(condition.kind, "?", position)?;
        let (if_true, if_false) = (self.check(if_true)?, self.check(if_false)?);
        let kind = match (if_true.kind, if_false.kind) {
            (Type::Scalar(left), Type::Scalar(right)) if left == right => if_true.kind,
            (Type::List { item, .. }, Type::List { item: other, .. }) if item == other => {
                let max_length = if_true.kind.max_length().max(if_false.kind.max_length());
                Type::List { item, max_length }
            }
            _ => {
                return Err(format!(
                    "the two values of the conditional at character {position} have different \
                     types: write for example 1.0 instead of 1"
                ));
            }
        };
        let cost = Cost::new().with(condition, 1).with(if_true, 1);
        Ok(cost.with(if_false, 1).typed(kind))
    }

    fn list(&mut self, values: &[Node], position: usize) -> Result<Checked, String> {
        let mut cost = Cost::new();
        let mut item = None;
        for value in values {
            let value = self.check(value)?;
            let Type::Scalar(kind) = value.kind else {
                return Err(unsupported("lists of lists", position));
            };
            if *item.get_or_insert(kind) != kind {
                return Err(format!(
                    "the values of the list at character {position} have different types: write \
                     for example 1.0 instead of 1"
                ));
            }
            cost = cost.with(value, 1);
        }
        let max_length = values.len();
        match item {
            Some(item) => Ok(cost.typed(Type::List { item, max_length })),
            None => Err(unsupported("empty lists", position)),
        }
    }

    fn index(&mut self, (list, index): &(Node, Node), position: usize) -> Result<Checked, String> {
        let list = self.check(list)?;
        let Type::List { item, .. } = list.kind else {
            return Err(format!(
                "[ at character {position} needs a list, for example result[0]"
            ));
        };
        let index = self.check(index)?;
        if index.kind != Type::Scalar(ScalarType::Integer) {
            return Err(format!(
                "the index at character {position} must be an integer, for example result[0]"
            ));
        }
        let cost = Cost::new().with(list, 1).with(index, 1);
        Ok(cost.typed(Type::Scalar(item)))
    }

    fn size(&mut self, list: &Node, position: usize) -> Result<Checked, String> {
        let list = self.check(list)?;
        let Type::List { .. } = list.kind else {
            return Err(format!(
                "size at character {position} needs a list, for example size(result)"
            ));
        };
        let cost = Cost::new().with(list, 1);
        Ok(cost.typed(Type::Scalar(ScalarType::Integer)))
    }

    fn convert(
        &mut self,
        operand: &Node,
        kind: ScalarType,
        position: usize,
    ) -> Result<Checked, String> {
        let operand = self.check(operand)?;
        match operand.kind {
            Type::Scalar(from) if from.is_number() => {
                Ok(Cost::new().with(operand, 1).typed(Type::Scalar(kind)))
            }
            _ => Err(format!(
                "the conversion at character {position} needs a number"
            )),
        }
    }

    fn extreme(&mut self, name: &str, list: &Node, position: usize) -> Result<Checked, String> {
        let list = self.check(list)?;
        match list.kind {
            Type::List { item, max_length } if item.is_number() => {
                let cost = Cost::new().with(list, 1).with_values(max_length);
                Ok(cost.typed(Type::Scalar(item)))
            }
            _ => Err(format!(
                "{name} at character {position} needs a list of numbers, or numbers of the same \
                 type, for example {name}(result)"
            )),
        }
    }

    fn run(&mut self, parts: &Loop, position: usize) -> Result<Checked, String> {
        let range = self.check(&parts.range)?;
        let Type::List { item, max_length } = range.kind else {
            return Err(format!("the loop at character {position} needs a list"));
        };
        self.variables.push(Type::Scalar(item));
        let selector = parts.selector.as_ref().map(|node| self.check(node));
        let (selector, body) = (selector.transpose()?, self.check(&parts.body)?);
        self.variables.pop();
        let mut cost = Cost::new()
            .with(range, 1)
            .with_values(max_length)
            .with(body, max_length);
        if let Some(selector) = selector {
            require_bool(selector.kind, "map", position)?;
            cost = cost.with(selector, max_length);
        }
        match (parts.kind, body.kind) {
            (LoopKind::Map, Type::Scalar(item)) => Ok(cost.typed(Type::List { item, max_length })),
            (LoopKind::Map, Type::List { .. }) => Err(unsupported("lists of lists", position)),
            (LoopKind::Filter, BOOL) => Ok(cost.typed(range.kind)),
            (_, BOOL) => Ok(cost.typed(BOOL)),
            _ => Err(format!(
                "the loop at character {position} needs a condition, for example value > 0.5"
            )),
        }
    }
}

/// Cost of a node, from that of its children.
#[derive(Clone, Copy, Debug)]
struct Cost(u64);

impl Cost {
    /// The cost of a node without children.
    const fn new() -> Self {
        Self(1)
    }

    /// Adds a child that is evaluated this number of times.
    fn with(self, child: Checked, times: usize) -> Self {
        let times = u64::try_from(times).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(child.cost.saturating_mul(times)))
    }

    /// Adds one step for each value of a list.
    fn with_values(self, count: usize) -> Self {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(count))
    }

    /// The result of the check of a node with this type.
    const fn typed(self, kind: Type) -> Checked {
        Checked { kind, cost: self.0 }
    }
}

fn unsupported(what: &str, position: usize) -> String {
    format!("conditions do not support {what} (at character {position}): a result only has numbers")
}
