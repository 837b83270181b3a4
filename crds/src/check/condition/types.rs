//! The types of a condition, and which operands an operator takes.

use crate::expression::{Arithmetic, Comparison};

/// Type of a single value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScalarType {
    Integer,
    Double,
    Bool,
}

impl ScalarType {
    pub(super) fn is_number(self) -> bool {
        self != Self::Bool
    }

    /// The name with an article, for messages.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Integer => "an integer",
            Self::Double => "a double",
            Self::Bool => "a boolean",
        }
    }
}

/// Type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Scalar(ScalarType),
    List {
        item: ScalarType,
        /// Maximum number of values.
        max_length: usize,
    },
}

pub(super) const BOOL: Type = Type::Scalar(ScalarType::Bool);

impl Type {
    /// The number of values that a loop over this type reads, at most.
    pub(super) fn max_length(self) -> usize {
        match self {
            Self::Scalar(_) => 1,
            Self::List { max_length, .. } => max_length,
        }
    }
}

pub(super) fn require_bool(kind: Type, operator: &str, position: usize) -> Result<(), String> {
    if kind == BOOL {
        Ok(())
    } else {
        Err(format!(
            "the operand of {operator} at character {position} must be true or false, for example \
             result[0] < 0.05"
        ))
    }
}

/// Numbers can only be compared with numbers, and booleans only with booleans.
pub(super) fn require_same_class(
    left: ScalarType,
    right: ScalarType,
    operator: &str,
    position: usize,
) -> Result<(), String> {
    if left.is_number() == right.is_number() {
        Ok(())
    } else {
        Err(format!(
            "{operator} at character {position} cannot compare {} with {}",
            left.describe(),
            right.describe()
        ))
    }
}

pub(super) fn require_comparable(
    comparison: Comparison,
    left: Type,
    right: Type,
    position: usize,
) -> Result<(), String> {
    let (Type::Scalar(left), Type::Scalar(right)) = (left, right) else {
        return Err(format!(
            "the comparison at character {position} needs values instead of lists, for example \
             result[0] < 0.05 or result.all(value, value < 0.05)"
        ));
    };
    require_same_class(left, right, "the comparison", position)?;
    let is_equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
    if left.is_number() || is_equality {
        Ok(())
    } else {
        Err(format!(
            "the comparison at character {position} needs numbers"
        ))
    }
}

pub(super) fn require_arithmetic(
    operator: Arithmetic,
    left: Type,
    right: Type,
    position: usize,
) -> Result<(), String> {
    let (Type::Scalar(left), Type::Scalar(right)) = (left, right) else {
        return Err(format!(
            "the operator at character {position} needs numbers: conditions cannot combine lists"
        ));
    };
    if !left.is_number() || left != right {
        return Err(format!(
            "the operator at character {position} cannot combine {} with {}: use two numbers of \
             the same type, for example result[0] * 100.0 or double(size(result))",
            left.describe(),
            right.describe()
        ));
    }
    if operator == Arithmetic::Remainder && left != ScalarType::Integer {
        return Err(format!("% at character {position} needs integers"));
    }
    Ok(())
}
