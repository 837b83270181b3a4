//! The condition of a check: a CEL expression over `result`.

use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};
use cel::{Context, Program, Value};

/// Maximum length in characters and maximum nesting of brackets. They bound the stack of the
/// recursive parser.
const MAX_LENGTH: usize = 512;
const MAX_BRACKET_DEPTH: usize = 10;
/// Maximum nesting of `all`, `exists`, `map` and `filter`, and maximum number of values that they
/// iterate over. They bound the evaluation time.
const MAX_LOOP_DEPTH: usize = 2;
const MAX_VALUES: usize = 100;

/// A condition on the result of a query.
///
/// `result` is a list of doubles: the values of the vector in the order of the Prometheus response.
/// A scalar is a list with one value. Examples: `result[0] < 0.05` and `result.all(value, value <
/// 0.05)`.
#[derive(Debug)]
pub struct Condition {
    program: Program,
}

impl Condition {
    /// Parses a condition.
    ///
    /// # Errors
    ///
    /// A message if the text is not CEL, uses another variable than `result`, is not boolean, or
    /// exceeds a limit.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.chars().count() > MAX_LENGTH {
            return Err(format!("it is longer than {MAX_LENGTH} characters"));
        }
        if bracket_depth(text) > MAX_BRACKET_DEPTH {
            return Err(format!(
                "its brackets are nested deeper than {MAX_BRACKET_DEPTH}"
            ));
        }
        let program = Program::compile(text).map_err(|errors| {
            let first = errors
                .errors
                .first()
                .map_or("syntax error", |error| error.msg.as_str());
            format!(
                "it is not CEL: {}",
                first.lines().next().unwrap_or_default()
            )
        })?;
        if loop_depth(program.expression()) > MAX_LOOP_DEPTH {
            return Err(format!("its loops are nested deeper than {MAX_LOOP_DEPTH}"));
        }
        let condition = Self { program };
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
        let mut context = Context::default();
        context.add_variable_from_value("result", result.to_vec());
        match self.program.execute(&context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err("its result is neither true nor false".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Evaluates the condition on samples of different sizes. A condition that fails on all of them
    /// is a mistake.
    fn check_evaluates(&self) -> Result<(), String> {
        let mut first_error = String::new();
        for count in [1, 2, 3, 10, MAX_VALUES] {
            for value in [1.0, 0.0] {
                match self.evaluate(&vec![value; count]) {
                    Ok(_) => return Ok(()),
                    Err(error) if first_error.is_empty() => first_error = error,
                    Err(_) => {}
                }
            }
        }
        Err(first_error)
    }
}

fn bracket_depth(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut deepest = 0;
    for character in text.chars() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            // Each ternary operator nests what follows it one level deeper.
            '?' => deepest = deepest.max(depth + text.matches('?').count()),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn loop_depth(expression: &IdedExpr) -> usize {
    let deepest =
        |parts: &mut dyn Iterator<Item = &IdedExpr>| parts.map(loop_depth).max().unwrap_or(0);
    let entries = |entries: &[IdedEntryExpr]| {
        let depth = |entry: &IdedEntryExpr| match &entry.expr {
            EntryExpr::StructField(field) => loop_depth(&field.value),
            EntryExpr::MapEntry(entry) => loop_depth(&entry.key).max(loop_depth(&entry.value)),
        };
        entries.iter().map(depth).max().unwrap_or(0)
    };
    match &expression.expr {
        Expr::Call(call) => deepest(&mut call.target.as_deref().into_iter().chain(&call.args)),
        Expr::Comprehension(comprehension) => {
            let parts = [
                &comprehension.iter_range,
                &comprehension.accu_init,
                &comprehension.loop_cond,
                &comprehension.loop_step,
                &comprehension.result,
            ];
            1 + deepest(&mut parts.into_iter())
        }
        Expr::List(list) => deepest(&mut list.elements.iter()),
        Expr::Map(map) => entries(&map.entries),
        Expr::Struct(structure) => entries(&structure.entries),
        Expr::Select(select) => loop_depth(&select.operand),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(condition: &str, result: &[f64]) -> Result<bool, String> {
        Condition::parse(condition)
            .unwrap_or_else(|why| panic!("{condition}: {why}"))
            .evaluate(result)
    }

    #[test]
    fn the_result_is_a_list_of_doubles() {
        assert_eq!(holds("result[0] < 0.05", &[0.04]), Ok(true));
        assert_eq!(holds("result[0] < 0.05", &[0.06]), Ok(false));
        assert_eq!(
            holds("result[0] >= 1 && result[0] <= 2", &[1.5]),
            Ok(true),
            "integers can be compared with doubles"
        );
        assert_eq!(
            holds(
                "size(result) == 2 && result.all(value, value < 0.5)",
                &[0.1, 0.2]
            ),
            Ok(true)
        );
        assert_eq!(
            holds("result.exists(value, value > 0.15)", &[0.1, 0.2]),
            Ok(true)
        );
        assert!(
            holds("result[1] < 0.05", &[0.04]).is_err(),
            "a missing value is not a success"
        );
        assert!(holds("result[0] < 0.05", &[0.04; 101]).is_err());
    }

    #[test]
    fn invalid_conditions_are_rejected() {
        for (text, why) in [
            ("result[0] <", "not CEL"),
            ("", "not CEL"),
            ("value < 0.05", "value"),
            ("result[0]", "neither true nor false"),
            ("result < 0.05", ""),
            ("result[0] * 100 < 5", ""),
            (
                "result.all(a, result.all(b, result.all(c, a + b + c > 0.0)))",
                "loops",
            ),
            (&"(".repeat(40), "brackets"),
            (&"?".repeat(40), "brackets"),
            (&"1".repeat(600), "longer"),
        ] {
            let error = Condition::parse(text).map(drop).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn parsing_and_evaluating_never_panics(text in "[a-z0-9\\[\\]().,<>=&|!?:+*/ '\"-]{0,60}", result in prop::collection::vec(any::<f64>(), 0..3)) {
            if let Ok(condition) = Condition::parse(&text) {
                let _ = condition.evaluate(&result);
            }
        }
    }
}
