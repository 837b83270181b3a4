//! The query of a check: PromQL in which `{{args.NAME}}` stands for an argument's value.
//!
//! A value is only ever put in as a part of a string, with everything escaped that could end it, so
//! that no value can change what the query asks for. Where the placeholder stands outside of a
//! string, the quotes are put around it.

use std::collections::BTreeMap;

use promql_parser::parser::{self, value::ValueType};

/// The arguments that every check has: the namespace and the name of the Rollout, its Services and
/// the ReplicaSets of both sides. What there is not (no router, no stable revision) is empty.
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

/// Whether an argument can have this name.
pub fn is_arg_name(name: &str) -> bool {
    let head = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    head && name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The query with every argument in its place.
///
/// # Errors
/// Why it cannot be asked: an argument that is not there or stands where no string can, or what is
/// not PromQL for numbers.
pub fn query(template: &str, args: &BTreeMap<&str, &str>) -> Result<String, String> {
    let query = put_in(template, args)?;
    let parsed = parser::parse(&query).map_err(|error| format!("it is not PromQL: {error}"))?;
    match parsed.value_type() {
        ValueType::Vector | ValueType::Scalar => Ok(query),
        ValueType::Matrix => Err(
            "it gives many samples of each series: wrap it, for example in avg_over_time()"
                .to_owned(),
        ),
        ValueType::String => Err("it gives a text where numbers are wanted".to_owned()),
    }
}

/// Where in a query a character stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Outside,
    /// In a string that this character ends, and in which a backslash escapes.
    Quoted(char),
    /// In a string without escapes.
    Raw,
    Comment,
}

fn put_in(template: &str, args: &BTreeMap<&str, &str>) -> Result<String, String> {
    let mut query = String::with_capacity(template.len());
    let mut place = Place::Outside;
    let mut rest = template;
    while let Some(character) = rest.chars().next() {
        if place != Place::Comment && rest.starts_with(OPEN) {
            let (name, after) = rest[OPEN.len()..]
                .split_once(CLOSE)
                .ok_or_else(|| format!("{OPEN} is not closed by {CLOSE}"))?;
            let value = args.get(name).ok_or_else(|| {
                let known: Vec<&str> = args.keys().copied().collect();
                format!(
                    "there is no argument {name:?}: there are {}",
                    known.join(", ")
                )
            })?;
            match place {
                Place::Quoted(quote) => query.push_str(&escaped(value, quote)),
                Place::Raw => {
                    return Err(format!(
                        "{OPEN}{name}{CLOSE} stands between backquotes: use quotes, so that it can be escaped"
                    ));
                }
                Place::Outside | Place::Comment => {
                    query.push('"');
                    query.push_str(&escaped(value, '"'));
                    query.push('"');
                }
            }
            rest = after;
            continue;
        }
        query.push(character);
        rest = &rest[character.len_utf8()..];
        place = match (place, character) {
            (Place::Outside, '"' | '\'') => Place::Quoted(character),
            (Place::Outside, '`') => Place::Raw,
            (Place::Outside, '#') => Place::Comment,
            (Place::Quoted(quote), _) if quote == character => Place::Outside,
            (Place::Quoted(_), '\\') => {
                // What is escaped ends nothing.
                if let Some(next) = rest.chars().next() {
                    query.push(next);
                    rest = &rest[next.len_utf8()..];
                }
                place
            }
            (Place::Raw, '`') | (Place::Comment, '\n') => Place::Outside,
            _ => place,
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
    use promql_parser::parser::Expr;
    use proptest::prelude::*;

    use super::*;

    fn with(template: &str, value: &str) -> Result<String, String> {
        query(template, &BTreeMap::from([("service", value)]))
    }

    #[test]
    fn a_value_is_put_in_as_a_string() {
        let expected = Ok("sum(rate(requests_total{service=\"check\\\"out\"}[5m]))".to_owned());
        assert_eq!(
            with(
                "sum(rate(requests_total{service=\"{{args.service}}\"}[5m]))",
                "check\"out"
            ),
            expected
        );
        assert_eq!(
            with(
                "sum(rate(requests_total{service={{args.service}}}[5m]))",
                "check\"out"
            ),
            expected
        );
        let single = with("requests_total{service=~'{{args.service}}-.*'}", "o'clock").unwrap();
        assert_eq!(single, "requests_total{service=~'o\\'clock-.*'}");
    }

    #[test]
    fn what_cannot_be_asked_is_told() {
        for (template, why) in [
            (
                "requests_total{service=\"{{args.other}}\"}",
                "there is no argument \"other\"",
            ),
            ("requests_total{service=\"{{args.service\"}", "not closed"),
            ("requests_total{service=`{{args.service}}`}", "backquotes"),
            ("rate(requests_total[{{args.service}}])", "not PromQL"),
            ("requests_total[5m]", "many samples"),
            ("\"text\"", "a text"),
            ("rate(", "not PromQL"),
        ] {
            let error = with(template, "5m").unwrap_err();
            assert!(error.contains(why), "{template}: {error}");
        }
    }

    #[test]
    fn a_comment_is_left_as_it_is_and_confuses_nobody() {
        let text = with(
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
        fn no_value_changes_what_is_asked(value in any::<String>(), single in any::<bool>(), bare in any::<bool>()) {
            // The parser itself takes no NUL in a text.
            prop_assume!(!value.contains('\0'));
            let quote = if single { '\'' } else { '"' };
            let template = if bare {
                "requests_total{service={{args.service}},other='x'}".to_owned()
            } else {
                format!("requests_total{{service={quote}{{{{args.service}}}}{quote},other='x'}}")
            };
            let text = with(&template, &value).unwrap();
            let Expr::VectorSelector(selector) = parser::parse(&text).unwrap() else { panic!("{text}") };
            let matchers = &selector.matchers.matchers;
            prop_assert_eq!(matchers.len(), 2);
            prop_assert_eq!((matchers[0].name.as_str(), &matchers[0].value), ("service", &value));
        }

        #[test]
        fn no_template_makes_it_panic(template in ".{0,60}", value in ".{0,10}") {
            let _ = with(&template, &value);
        }
    }
}
