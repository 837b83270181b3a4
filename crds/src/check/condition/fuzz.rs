//! Arbitrary conditions end within their calculated cost and never panic. What the crate `cel`
//! evaluates to a value, the condition evaluates to the same value.

use std::cell::Cell;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

/// Parses and evaluates within the calculated number of steps.
fn check(text: &str, result: &[f64]) -> Result<(), TestCaseError> {
    let condition = match Condition::parse(text) {
        Ok(condition) => condition,
        Err(why) => {
            prop_assert!(!why.is_empty() && why.chars().count() < 300, "{why}");
            return Ok(());
        }
    };
    prop_assert!(condition.cost <= MAX_COST, "{}", condition.cost);
    for result in [result, &[1.0; MAX_VALUES], &[0.0; MAX_VALUES], &[]] {
        let (value, steps) = condition.evaluate_counted(result);
        prop_assert!(steps <= condition.cost, "{steps} of {}", condition.cost);
        prop_assert!(
            !matches!(
                value,
                Err(EvaluationError::OutOfSteps | EvaluationError::WrongType(_))
            ),
            "{value:?}"
        );
    }
    Ok(())
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_LENGTH).collect()
}

/// Pieces of conditions in any order.
fn tokens() -> impl Strategy<Value = String> {
    let known = [
        "result",
        "result[0]",
        "a",
        "b",
        "1",
        "1.5",
        "0x1F",
        ".5",
        "1e3",
        "true",
        "false",
        "+",
        "-",
        "*",
        "/",
        "%",
        "<",
        "<=",
        ">",
        ">=",
        "==",
        "!=",
        "&&",
        "||",
        "!",
        "?",
        ":",
        "(",
        ")",
        "[",
        "]",
        ",",
        ".",
        "in",
        ".all(a,",
        ".exists(b,",
        ".exists_one(a,",
        ".filter(a,",
        ".map(a,",
        ".size()",
        "size(",
        "double(",
        "int(",
        "min(",
        "max(",
        "{",
        "}",
        "'",
        "\"",
        "null",
        "u",
        "a_name_that_is_longer_than_a_message_should_quote_in_full",
        " ",
        "\n",
        "//",
        "é",
    ];
    let token = prop_oneof![19 => select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,4}"];
    prop::collection::vec(token, 0..120).prop_map(|tokens| cut(&tokens.concat()))
}

/// A number, with the variables in scope.
fn number(depth: u32, variables: &'static [&'static str]) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        select(variables.to_vec()).prop_map(str::to_owned),
        (0_usize..3).prop_map(|index| format!("result[{index}]")),
        (-20_i32..20).prop_map(|number| format!("{:?}", f64::from(number) / 4.0)),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let inner = || number(depth - 1, variables);
    prop_oneof![
        2 => leaf,
        3 => (inner(), select(vec!["+", "-", "*", "/"]), inner())
            .prop_map(|(left, operator, right)| format!("({left} {operator} {right})")),
        1 => inner().prop_map(|operand| format!("-({operand})")),
        1 => inner().prop_map(|operand| format!("double(int({operand}))")),
        1 => (bool(depth - 1, variables), inner(), inner())
            .prop_map(|(condition, left, right)| format!("({condition} ? {left} : {right})")),
        1 => inner().prop_map(|body| format!("double(size(result.map(a, {body})))")),
        1 => (inner(), inner()).prop_map(|(left, right)| format!("max({left}, {right})")),
    ]
    .boxed()
}

/// A valid condition, unless it is too deep or too expensive.
fn bool(depth: u32, variables: &'static [&'static str]) -> BoxedStrategy<String> {
    const INNER: &[&str] = &["result[0]", "a"];
    let comparison = select(vec!["<", "<=", ">", ">=", "==", "!="]);
    let numbers = move |depth| number(depth, variables);
    let compare = (numbers(depth.min(1)), comparison, numbers(depth.min(1)))
        .prop_map(|(left, operator, right)| format!("{left} {operator} {right}"));
    if depth == 0 {
        return compare.boxed();
    }
    let inner = || bool(depth - 1, variables);
    let loops = select(vec!["all", "exists", "exists_one"]);
    prop_oneof![
        2 => compare,
        2 => (inner(), select(vec!["&&", "||"]), inner())
            .prop_map(|(left, operator, right)| format!("({left} {operator} {right})")),
        1 => inner().prop_map(|operand| format!("!({operand})")),
        2 => (loops, bool(depth - 1, INNER))
            .prop_map(|(name, body)| format!("result.{name}(a, {body})")),
        1 => (bool(depth - 1, INNER), 0_i32..3)
            .prop_map(|(body, count)| format!("size(result.filter(a, {body})) <= {count}")),
        1 => (numbers(depth - 1), numbers(0))
            .prop_map(|(value, item)| format!("{value} in [{item}, 1.0]")),
    ]
    .boxed()
}

fn valid() -> impl Strategy<Value = String> {
    bool(3, &["result[0]"]).prop_map(|text| cut(&text))
}

/// Conditions that exhaust memory, time or stack of a general CEL library.
static HOSTILE: LazyLock<Vec<String>> = LazyLock::new(|| {
    let lists = vec!["result"; 20].join("+");
    vec![
        "result[99] > -1.0 && size((result+result).map(a, (result+result).map(b, result+result))) > 0".to_owned(),
        format!("result[99]>-1.0&&({lists}).all(a,({lists}).all(b,!(-2.0 in ({lists}))))"),
        "1.0".to_owned() + &"+1.0".repeat(126) + "> 0.0",
        "a".to_owned() + &".a".repeat(255),
        "result".to_owned() + &"[0]".repeat(168),
        "-".repeat(507) + "1 < 0",
        "!".repeat(508) + "true",
        "!!(".repeat(60) + "true" + &")".repeat(60),
        "result.all(a, result.all(b, result.all(c, a + b + c > 0.0)))".to_owned(),
        "result.map(a,".repeat(30) + "a" + &")".repeat(30),
        "true?".repeat(80) + "true",
        "T{a: 1} == T{a: 1}".to_owned(),
    ]
});

/// Edits of a text: at a position, remove some characters and insert a token.
fn edits() -> impl Strategy<Value = Vec<(Index, usize, String)>> {
    prop::collection::vec((any::<Index>(), 0_usize..12, tokens()), 0..4)
}

fn edited(text: &str, edits: &[(Index, usize, String)]) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for (at, removed, inserted) in edits {
        let at = at.index(characters.len() + 1);
        let end = (at + removed).min(characters.len());
        characters.splice(at..end, inserted.chars().take(20));
    }
    cut(&characters.into_iter().collect::<String>())
}

fn results() -> impl Strategy<Value = Vec<f64>> {
    let value = prop_oneof![-3.0..3.0_f64, (-3_i32..3).prop_map(f64::from), any::<f64>()];
    prop::collection::vec(value, 0..6)
}

proptest! {
    #[test]
    fn fuzz_any_text_as_a_condition(text in ".{0,512}", result in results()) {
        check(&text, &result)?;
    }

    #[test]
    fn fuzz_any_tokens_as_a_condition(text in tokens(), result in results()) {
        check(&text, &result)?;
    }

    #[test]
    fn fuzz_generated_conditions(text in valid(), result in results()) {
        check(&text, &result)?;
    }

    #[test]
    fn fuzz_conditions_with_some_edits(text in valid(), edits in edits(), result in results()) {
        check(&edited(&text, &edits), &result)?;
    }

    #[test]
    fn fuzz_hostile_conditions_with_some_edits(
        text in select(HOSTILE.clone()), edits in edits(), result in results(),
    ) {
        check(&edited(&text, &edits), &result)?;
    }
}

/// The value according to the crate `cel`. `None` if it is not boolean or an error.
fn reference_value(text: &str, result: &[f64]) -> Option<bool> {
    let program = cel::Program::compile(text).ok()?;
    let mut context = cel::Context::default();
    context.add_variable_from_value("result", result.to_vec());
    match program.execute(&context) {
        Ok(cel::Value::Bool(value)) => Some(value),
        _ => None,
    }
}

/// On a large stack, because in a debug build `cel` needs more than 256 KiB for any expression.
#[test]
fn fuzz_conditions_have_the_value_of_the_cel_crate() {
    let run = || {
        let mut runner = proptest::test_runner::TestRunner::default();
        let finite = prop::collection::vec((-12_i32..12).prop_map(|n| f64::from(n) / 4.0), 0..6);
        let compared = Cell::new(0);
        runner
            .run(&(valid(), finite), |(text, result)| {
                let Ok(condition) = Condition::parse(&text) else {
                    return Ok(());
                };
                if let Some(expected) = reference_value(&text, &result) {
                    let value = condition.evaluate(&result);
                    // The language definition makes it an error to convert NaN or a number out of
                    // range to an integer. The crate takes the nearest integer.
                    if value == Err(EvaluationError::Overflow.to_string()) && text.contains("int(")
                    {
                        return Ok(());
                    }
                    prop_assert_eq!(value, Ok(expected));
                    compared.set(compared.get() + 1);
                }
                Ok(())
            })
            .unwrap();
        let compared = compared.get();
        assert!(compared > 10, "only {compared} conditions were compared");
    };
    let thread = std::thread::Builder::new().stack_size(256 << 20);
    thread.spawn(run).unwrap().join().unwrap();
}
