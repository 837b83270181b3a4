//! The query of a check: PromQL in which `{{args.NAME}}` is replaced by the value of an argument.
//!
//! A value is always inserted as a part of a string literal and escaped, so that no value can
//! change the meaning of the query. Outside of a string literal, the value is put in quotes.

use std::collections::BTreeMap;

use promql_parser::parser::value::ValueType;

use super::promql::{MAX_LENGTH, parse_promql};

/// Built-in arguments of every check: namespace and name of the Rollout, its Services, and its
/// canary and stable ReplicaSets. A value is empty if there is no router or no stable revision.
pub const BUILT_IN_ARGS: [&str; 6] = [
    "namespace",
    "rollout",
    "canaryService",
    "stableService",
    "canaryReplicaSet",
    "stableReplicaSet",
];

const OPEN: &str = "{{args.";
const CLOSE: &str = "}}";

/// Whether the text is a valid argument name.
pub fn is_arg_name(name: &str) -> bool {
    let head = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    head && name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Replaces the placeholders of a query and validates the result.
///
/// # Errors
///
/// A message if an argument is unknown or inside backquotes, if the query is not PromQL that
/// returns a vector or a scalar, or if it exceeds a limit of [`parse_promql`].
pub fn render_query(template: &str, args: &BTreeMap<&str, &str>) -> Result<String, String> {
    let query = substitute(template, args)?;
    match parse_promql(&query)?.value_type() {
        ValueType::Vector | ValueType::Scalar => Ok(query),
        ValueType::Matrix => Err(
            "it returns a range of samples for each series: wrap it, for example in avg_over_time()"
                .to_owned(),
        ),
        ValueType::String => Err("it returns a string instead of numbers".to_owned()),
    }
}

/// Lexical context of a character in a query.
#[derive(Clone, Copy, PartialEq)]
enum LexerState {
    Outside,
    /// In a string literal that ends with this character. Backslash escapes.
    Quoted(char),
    /// In a string literal with backquotes, without escapes.
    Raw,
    Comment,
}

fn substitute(template: &str, args: &BTreeMap<&str, &str>) -> Result<String, String> {
    let mut query = String::with_capacity(template.len());
    let mut state = LexerState::Outside;
    let mut rest = template;
    while let Some(character) = rest.chars().next() {
        if state != LexerState::Comment && rest.starts_with(OPEN) {
            let (name, suffix) = rest[OPEN.len()..]
                .split_once(CLOSE)
                .ok_or_else(|| format!("{OPEN} has no closing {CLOSE}"))?;
            let value = args.get(name).ok_or_else(|| {
                let known: Vec<&str> = args.keys().copied().collect();
                format!(
                    "there is no argument {name:?}: the arguments are {}",
                    known.join(", ")
                )
            })?;
            match state {
                LexerState::Quoted(quote) => query.push_str(&escaped(value, quote)),
                LexerState::Raw => {
                    return Err(format!(
                        "{OPEN}{name}{CLOSE} is inside backquotes: use quotes, in which the value can be escaped"
                    ));
                }
                LexerState::Outside | LexerState::Comment => {
                    query.push('"');
                    query.push_str(&escaped(value, '"'));
                    query.push('"');
                }
            }
            // A character has up to four bytes. The exact limit applies when the query is parsed.
            if query.len() > 4 * MAX_LENGTH {
                return Err(format!(
                    "it is longer than {MAX_LENGTH} characters with its arguments: use fewer or \
                     shorter arguments"
                ));
            }
            rest = suffix;
            continue;
        }
        query.push(character);
        rest = &rest[character.len_utf8()..];
        state = match (state, character) {
            (LexerState::Outside, '"' | '\'') => LexerState::Quoted(character),
            (LexerState::Outside, '`') => LexerState::Raw,
            (LexerState::Outside, '#') => LexerState::Comment,
            (LexerState::Quoted(quote), _) if quote == character => LexerState::Outside,
            (LexerState::Quoted(_), '\\') => {
                // An escaped character does not end the string.
                if let Some(next) = rest.chars().next() {
                    query.push(next);
                    rest = &rest[next.len_utf8()..];
                }
                state
            }
            (LexerState::Raw, '`') | (LexerState::Comment, '\n') => LexerState::Outside,
            _ => state,
        };
    }
    Ok(query)
}

fn escaped(value: &str, quote: char) -> String {
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            _ if character == quote => {
                escaped.push('\\');
                escaped.push(character);
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use promql_parser::parser::{self, Expr};
    use proptest::prelude::*;

    use super::*;

    fn render(template: &str, value: &str) -> Result<String, String> {
        render_query(template, &BTreeMap::from([("service", value)]))
    }

    #[test]
    fn a_value_is_inserted_as_a_string() {
        let expected = Ok("sum(rate(requests_total{service=\"check\\\"out\"}[5m]))".to_owned());
        assert_eq!(
            render(
                "sum(rate(requests_total{service=\"{{args.service}}\"}[5m]))",
                "check\"out"
            ),
            expected
        );
        assert_eq!(
            render(
                "sum(rate(requests_total{service={{args.service}}}[5m]))",
                "check\"out"
            ),
            expected
        );
        let single = render("requests_total{service=~'{{args.service}}-.*'}", "o'clock").unwrap();
        assert_eq!(single, "requests_total{service=~'o\\'clock-.*'}");
    }

    #[test]
    fn an_invalid_query_is_an_error() {
        for (template, why) in [
            (
                "requests_total{service=\"{{args.other}}\"}",
                "there is no argument \"other\"",
            ),
            (
                "requests_total{service=\"{{args.service\"}",
                "has no closing",
            ),
            ("requests_total{service=`{{args.service}}`}", "backquotes"),
            ("rate(requests_total[{{args.service}}])", "not PromQL"),
            ("requests_total[5m]", "range of samples"),
            ("\"text\"", "a string"),
            ("rate(", "not PromQL"),
        ] {
            let error = render(template, "5m").unwrap_err();
            assert!(error.contains(why), "{template}: {error}");
        }
    }

    #[test]
    fn a_placeholder_in_a_comment_is_not_replaced() {
        let text = render(
            "requests_total # it's {{args.service}}\n{service={{args.service}}}",
            "\"} or vector(1) #",
        )
        .unwrap();
        assert!(
            text.ends_with("{service=\"\\\"} or vector(1) #\"}"),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn no_value_changes_the_query(value in any::<String>(), single in any::<bool>(), bare in any::<bool>()) {
            // The parser does not accept NUL.
            prop_assume!(!value.contains('\0'));
            let quote = if single { '\'' } else { '"' };
            let template = if bare {
                "requests_total{service={{args.service}},other='x'}".to_owned()
            } else {
                format!("requests_total{{service={quote}{{{{args.service}}}}{quote},other='x'}}")
            };
            let text = render(&template, &value).unwrap();
            let Expr::VectorSelector(selector) = parser::parse(&text).unwrap() else { panic!("{text}") };
            let matchers = &selector.matchers.matchers;
            prop_assert_eq!(matchers.len(), 2);
            prop_assert_eq!((matchers[0].name.as_str(), &matchers[0].value), ("service", &value));
        }

        #[test]
        fn rendering_never_panics(template in ".{0,60}", value in ".{0,10}") {
            let _ = render(&template, &value);
        }
    }
}
