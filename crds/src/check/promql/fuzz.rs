//! Arbitrary PromQL never panics, and whatever the parser finds in a query was checked before.

use promql_parser::label::MatchOp;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::tests::matchers_and_depth;
use super::*;

/// Parses a query and compares what was checked with what the parser found.
fn check(text: &str) -> Result<(), TestCaseError> {
    let expression = match parse_promql(text) {
        Ok(expression) => expression,
        Err(why) => {
            prop_assert!(
                !why.is_empty() && why.chars().count() <= MAX_ERROR_CHARS + 3,
                "{why}"
            );
            return Ok(());
        }
    };
    let summary = tokens::summarize(text).map_err(TestCaseError::fail)?;
    let (matchers, depth) = matchers_and_depth(&expression);
    prop_assert!(depth <= summary.depth, "{depth} of {}", summary.depth);
    prop_assert!(matchers.len() <= summary.matchers, "{matchers:?}");
    for matcher in matchers {
        if let MatchOp::Re(regex) | MatchOp::NotRe(regex) = &matcher.op {
            prop_assert!(summary.patterns.contains(&matcher.value), "{matcher:?}");
            let anchored = patterns::anchored(&matcher.value).map_err(TestCaseError::fail)?;
            prop_assert_eq!(regex.as_str(), anchored);
        }
    }
    Ok(())
}

fn token() -> impl Strategy<Value = String> {
    let known = [
        "up",
        "requests_total",
        "{",
        "}",
        "{a=\"b\"",
        ",b=~\"c.*\"",
        ",d!~`\\w+`",
        "=~",
        "!~",
        "=",
        "!=",
        "\"",
        "'",
        "`",
        "\\",
        "a",
        "\"5..\"",
        "'x'",
        "`y`",
        ",",
        "(",
        ")",
        "[",
        "]",
        "[5m]",
        "[1h:1m]",
        "[1e300]",
        ":",
        "5m",
        "1",
        "0x1F",
        "1e300",
        "inf",
        "nan",
        "+",
        "-",
        "*",
        "/",
        "%",
        "^",
        "==",
        ">",
        "<=",
        "and",
        "or",
        "unless",
        "atan2",
        "sum",
        "sum by (a)",
        "topk(3,",
        "rate(",
        "abs(",
        "vector(",
        "count_values(",
        "offset",
        "offset -",
        "@",
        "@ start()",
        "bool",
        "on (a)",
        "ignoring",
        "group_left",
        "fill (1)",
        "fill_left",
        "#",
        "\n",
        " ",
        "é",
        "{{args.a}}",
    ];
    prop_oneof![29 => select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,4}"]
}

fn tokens_of_a_query() -> impl Strategy<Value = String> {
    let space = select(vec!["", " "]);
    prop::collection::vec((token(), space), 0..60).prop_map(|tokens| {
        tokens
            .into_iter()
            .map(|(token, space)| token + space)
            .collect()
    })
}

/// A selector with arbitrary label values and patterns.
fn selector() -> impl Strategy<Value = String> {
    let pattern = prop_oneof![
        "[a-z0-9.|*+?()\\[\\]{},\\\\ -]{0,12}",
        select(vec![
            "5..", "a{1,3}", "x{y}z", "\\w+", "[^a]", "(?i)get", "\\pL*", "a{1000}", "\\d{50}",
        ])
        .prop_map(str::to_owned),
    ];
    let matcher = (
        select(vec!["a", "job", "\"x.y\""]),
        select(vec!["=", "!=", "=~", "!~"]),
        pattern,
        select(vec!['"', '\'', '`']),
    )
        .prop_map(|(name, operator, pattern, quote)| {
            let pattern = if quote == '`' {
                pattern
            } else {
                pattern.replace('\\', "\\\\")
            };
            format!("{name}{operator}{quote}{pattern}{quote}")
        });
    (
        prop::collection::vec(matcher, 0..5),
        select(vec![",", ", ", " or "]),
    )
        .prop_map(|(matchers, separator)| format!("requests_total{{{}}}", matchers.join(separator)))
}

/// A valid query, unless a pattern is invalid.
fn valid() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        2 => selector(),
        1 => (0_u32..100).prop_map(|number| format!("vector({number})")),
    ];
    leaf.prop_recursive(6, 24, 3, |inner| {
        let operator = select(vec![
            "+", "-", "*", "/", "^", "==", "> bool", "and", "or", "unless",
        ]);
        prop_oneof![
            (inner.clone(), operator, inner.clone())
                .prop_map(|(left, operator, right)| format!("{left} {operator} {right}")),
            inner.clone().prop_map(|operand| format!("-({operand})")),
            inner
                .clone()
                .prop_map(|operand| format!("sum by (job, le) ({operand})")),
            inner
                .clone()
                .prop_map(|operand| format!("topk(3, {operand})")),
            inner
                .clone()
                .prop_map(|operand| format!("clamp({operand}, 0, 1)")),
            inner.prop_map(|operand| format!("max_over_time(({operand})[1h:5m] offset 1d)")),
            selector().prop_map(|selector| format!("rate({selector}[5m])")),
        ]
    })
}

fn edited(text: &str, edits: &[(Index, usize, String)]) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for (at, removed, inserted) in edits {
        let at = at.index(characters.len() + 1);
        let end = (at + removed).min(characters.len());
        characters.splice(at..end, inserted.chars());
    }
    characters.into_iter().collect()
}

proptest! {
    #[test]
    fn fuzz_any_text_as_a_query(text in ".{0,200}") {
        check(&text)?;
    }

    #[test]
    fn fuzz_any_tokens_as_a_query(text in tokens_of_a_query()) {
        check(&text)?;
    }

    #[test]
    fn fuzz_generated_queries(text in valid()) {
        check(&text)?;
    }

    #[test]
    fn fuzz_queries_with_some_edits(
        text in valid(),
        edits in prop::collection::vec((any::<Index>(), 0_usize..8, token()), 0..5),
    ) {
        check(&edited(&text, &edits))?;
    }

    #[test]
    fn fuzz_any_regular_expression(pattern in "[a-z0-9.|*+?()\\[\\]{},^$\\\\:<>=!&~ -]{0,40}") {
        if let Ok(regex) = compile_regex(&pattern) {
            let _ = regex.is_match("checkout-7d9f8b6c5-x7k2p");
        }
    }
}
