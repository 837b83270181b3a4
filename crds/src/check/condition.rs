//! The condition of a check: CEL over `result`.

use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};
use cel::{Context, Program, Value};

/// The longest condition, in characters, and how deep its brackets may nest. The parser recurses;
/// this bounds its stack.
const LONGEST: usize = 512;
const DEEPEST_BRACKETS: usize = 10;
/// How deep `all`, `exists`, `map` and `filter` may nest, and over how many values they go at most:
/// this bounds the time.
const DEEPEST_LOOPS: usize = 2;
const MOST_VALUES: usize = 100;

/// A condition on the numbers that a query gave.
///
/// `result` is a list of doubles: the values of the vector in the order in which Prometheus gives
/// them; a scalar is a list of one. So `result[0] < 0.05` and `result.all(value, value < 0.05)` are
/// conditions.
#[derive(Debug)]
pub struct Condition {
    program: Program,
}

impl Condition {
    /// Reads a condition.
    ///
    /// # Errors
    /// Why it is none: not CEL, not about `result`, not true or false.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.chars().count() > LONGEST {
            return Err(format!("it is longer than {LONGEST} characters"));
        }
        if deepest_brackets(text) > DEEPEST_BRACKETS {
            return Err(format!("its brackets nest deeper than {DEEPEST_BRACKETS}"));
        }
        let program = Program::compile(text).map_err(|errors| {
            let first = errors
                .errors
                .first()
                .map_or("unreadable", |error| error.msg.as_str());
            format!(
                "it is not CEL: {}",
                first.lines().next().unwrap_or_default()
            )
        })?;
        if loops(program.expression()) > DEEPEST_LOOPS {
            return Err(format!("its loops nest deeper than {DEEPEST_LOOPS}"));
        }
        let condition = Self { program };
        condition.try_out()?;
        Ok(condition)
    }

    /// Whether the condition holds for these numbers.
    ///
    /// # Errors
    /// What of it cannot be reckoned, for example that `result[1]` is not there.
    pub fn holds(&self, result: &[f64]) -> Result<bool, String> {
        if result.len() > MOST_VALUES {
            return Err(format!(
                "the result has {} values where {MOST_VALUES} are the limit",
                result.len()
            ));
        }
        let mut context = Context::default();
        context.add_variable_from_value("result", result.to_vec());
        match self.program.execute(&context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err("it gives something else than true or false".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A condition that can be reckoned for no number of values, few or many, small or large, is a
    /// mistake.
    fn try_out(&self) -> Result<(), String> {
        let mut why = String::new();
        for count in [1, 2, 3, 10, MOST_VALUES] {
            for value in [1.0, 0.0] {
                match self.holds(&vec![value; count]) {
                    Ok(_) => return Ok(()),
                    Err(error) if why.is_empty() => why = error,
                    Err(_) => {}
                }
            }
        }
        Err(why)
    }
}

fn deepest_brackets(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut deepest = 0;
    for character in text.chars() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            // Each goes one level down for what follows it.
            '?' => deepest = deepest.max(depth + text.matches('?').count()),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn loops(expression: &IdedExpr) -> usize {
    let deepest = |parts: &mut dyn Iterator<Item = &IdedExpr>| parts.map(loops).max().unwrap_or(0);
    let entries = |entries: &[IdedEntryExpr]| {
        let of = |entry: &IdedEntryExpr| match &entry.expr {
            EntryExpr::StructField(field) => loops(&field.value),
            EntryExpr::MapEntry(entry) => loops(&entry.key).max(loops(&entry.value)),
        };
        entries.iter().map(of).max().unwrap_or(0)
    };
    match &expression.expr {
        Expr::Call(call) => deepest(&mut call.target.as_deref().into_iter().chain(&call.args)),
        Expr::Comprehension(over) => {
            let parts = [
                &over.iter_range,
                &over.accu_init,
                &over.loop_cond,
                &over.loop_step,
                &over.result,
            ];
            1 + deepest(&mut parts.into_iter())
        }
        Expr::List(list) => deepest(&mut list.elements.iter()),
        Expr::Map(map) => entries(&map.entries),
        Expr::Struct(structure) => entries(&structure.entries),
        Expr::Select(select) => loops(&select.operand),
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
            .holds(result)
    }

    #[test]
    fn the_result_is_a_list_of_doubles() {
        assert_eq!(holds("result[0] < 0.05", &[0.04]), Ok(true));
        assert_eq!(holds("result[0] < 0.05", &[0.06]), Ok(false));
        assert_eq!(
            holds("result[0] >= 1 && result[0] <= 2", &[1.5]),
            Ok(true),
            "whole numbers compare too"
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
            "what is not there is no success"
        );
        assert!(holds("result[0] < 0.05", &[0.04; 101]).is_err());
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for (text, why) in [
            ("result[0] <", "not CEL"),
            ("", "not CEL"),
            ("value < 0.05", "value"),
            ("result[0]", "true or false"),
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
        fn no_text_makes_it_panic(text in "[a-z0-9\\[\\]().,<>=&|!?:+*/ '\"-]{0,60}", result in prop::collection::vec(any::<f64>(), 0..3)) {
            if let Ok(condition) = Condition::parse(&text) {
                let _ = condition.holds(&result);
            }
        }
    }
}
