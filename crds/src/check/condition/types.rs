//! Which operands an operator takes.

use super::expression::{Arithmetic, BOOL, Comparison, Expression, ScalarType, Type};

pub(super) fn require_bool(
    expression: &Expression,
    operator: &str,
    position: usize,
) -> Result<(), String> {
    if expression.kind == BOOL {
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
