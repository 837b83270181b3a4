//! Replaces `{{parameters.NAME}}`, `{{rollout.name}}` and `{{rollout.namespace}}` in texts.
//!
//! `{{args.NAME}}` is left as it is: it belongs to the query of a check. A value is inserted as it
//! is, so its characters are limited: inside of a string literal it cannot end the literal, and
//! outside of one it is a number, a duration or a name.

use std::collections::BTreeMap;

use serde_json::Value;

/// Maximum length of a text after the replacement, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 8_192;
/// Maximum length of the value of a parameter after the replacement, in bytes.
pub(crate) const MAX_VALUE_BYTES: usize = 253;

const OPEN: &str = "{{";
const CLOSE: &str = "}}";
/// Fields that contain PromQL or CEL.
const EXPRESSIONS: [&str; 4] = ["total", "errors", "query", "condition"];

/// The values of placeholders.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope<'a> {
    pub namespace: &'a str,
    pub rollout: &'a str,
    pub parameters: BTreeMap<String, String>,
}

/// Why a text cannot be completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The placeholder is none of the known ones.
    UnknownPlaceholder(String),
    /// There is no parameter with this name.
    UnknownParameter(String),
    /// The value of this placeholder can change the meaning of the expression.
    OutsideOfLiteral(String),
    /// The result is too long.
    TooLong,
}

/// Whether the value of a parameter has only permitted characters.
pub(crate) fn is_value(text: &str) -> bool {
    let is_excluded = |character: char| "\"'`\\{}".contains(character) || character.is_control();
    text.len() <= MAX_VALUE_BYTES && !text.contains(is_excluded)
}

/// Whether a value is a number, a duration or a name, which may also stand outside of a literal.
fn is_plain(text: &str) -> bool {
    let is_permitted = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:%".contains(&byte);
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    !unsigned.is_empty() && unsigned.bytes().all(is_permitted)
}

/// Replaces the placeholders in all texts of a value. Returns the field of the first fault.
pub(crate) fn substitute_all(value: &mut Value, scope: &Scope<'_>) -> Result<(), (String, Fault)> {
    replace(value, "", scope)
}

fn replace(value: &mut Value, field: &str, scope: &Scope<'_>) -> Result<(), (String, Fault)> {
    match value {
        Value::String(text) if text.contains(OPEN) => {
            let last = field.rsplit('.').next().unwrap_or_default();
            let is_expression = EXPRESSIONS.contains(&last);
            let replaced = substitute(text, is_expression, scope);
            *text = replaced.map_err(|fault| (field.to_owned(), fault))?;
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                replace(item, &format!("{field}[{index}]"), scope)?;
            }
        }
        Value::Object(fields) => {
            for (name, inner) in fields.iter_mut() {
                let field = if field.is_empty() {
                    name.clone()
                } else {
                    format!("{field}.{name}")
                };
                replace(inner, &field, scope)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    Ok(())
}

/// Where a character is in an expression.
#[derive(Clone, Copy, PartialEq)]
enum Position {
    Outside,
    /// In a string literal that ends with this character.
    Literal(char),
    Comment,
}

/// Replaces the placeholders of a text.
pub(crate) fn substitute(
    text: &str,
    is_expression: bool,
    scope: &Scope<'_>,
) -> Result<String, Fault> {
    let mut result = String::with_capacity(text.len());
    let mut position = Position::Outside;
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if rest.starts_with("{{args.") {
            let (placeholder, after) =
                rest.split_at(rest.find(CLOSE).map_or(rest.len(), |at| at + 2));
            result.push_str(placeholder);
            rest = after;
        } else if rest.starts_with(OPEN) {
            let (value, name, after) = placeholder(rest, scope)?;
            let is_inside = matches!(position, Position::Literal(_));
            if is_expression && !is_inside && !is_plain(value) {
                return Err(Fault::OutsideOfLiteral(name.to_owned()));
            }
            result.push_str(value);
            rest = after;
        } else {
            let mut length = character.len_utf8();
            if matches!(position, Position::Literal('"' | '\'')) && character == '\\' {
                // The escaped character does not end the literal.
                length += rest[length..].chars().next().map_or(0, char::len_utf8);
            } else {
                position = next_position(position, character);
            }
            result.push_str(&rest[..length]);
            rest = &rest[length..];
        }
        if result.len() > MAX_TEXT_BYTES {
            return Err(Fault::TooLong);
        }
    }
    Ok(result)
}

fn next_position(position: Position, character: char) -> Position {
    match (position, character) {
        (Position::Outside, '"' | '\'' | '`') => Position::Literal(character),
        (Position::Outside, '#') => Position::Comment,
        (Position::Comment, '\n') => Position::Outside,
        (Position::Literal(end), _) if end == character => Position::Outside,
        _ => position,
    }
}

/// The value of the placeholder at the start of a text, its name, and what follows it.
fn placeholder<'a>(
    text: &'a str,
    scope: &'a Scope<'_>,
) -> Result<(&'a str, &'a str, &'a str), Fault> {
    let body = &text[OPEN.len()..];
    let shown = || body.chars().take(40).collect::<String>();
    let (name, after) = body
        .split_once(CLOSE)
        .ok_or_else(|| Fault::UnknownPlaceholder(shown()))?;
    let value = match name.trim() {
        "rollout.name" => scope.rollout,
        "rollout.namespace" => scope.namespace,
        other => {
            let parameter = other
                .strip_prefix("parameters.")
                .ok_or_else(|| Fault::UnknownPlaceholder(name.chars().take(40).collect()))?;
            let value = scope.parameters.get(parameter).map(String::as_str);
            value.ok_or_else(|| Fault::UnknownParameter(parameter.chars().take(63).collect()))?
        }
    };
    Ok((value, name, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope<'static> {
        let pairs = [("limit", "0.05"), ("pods", "shop-.*"), ("empty", "")];
        let owned = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Scope {
            namespace: "market",
            rollout: "shop",
            parameters: owned.into(),
        }
    }

    #[test]
    fn placeholders_are_replaced_and_those_of_arguments_are_kept() {
        let query = "a{n=\"{{rollout.namespace}}\",p=~\"{{parameters.pods}}\",q={{args.q}}} > {{ parameters.limit }}";
        assert_eq!(
            substitute(query, true, &scope()).unwrap(),
            "a{n=\"market\",p=~\"shop-.*\",q={{args.q}}} > 0.05"
        );
    }

    #[test]
    fn a_value_cannot_change_the_meaning_of_an_expression() {
        let outside = substitute("a > {{parameters.pods}}", true, &scope());
        assert_eq!(
            outside,
            Err(Fault::OutsideOfLiteral("parameters.pods".to_owned()))
        );
        // The escaped quote does not end the literal, and the one in the comment begins none.
        assert!(substitute(r#"a{b="\"{{parameters.pods}}"}"#, true, &scope()).is_ok());
        assert!(substitute("# it's\n{{parameters.pods}}", true, &scope()).is_err());
        assert!(substitute("{{parameters.empty}}", true, &scope()).is_err());
        assert!(substitute("{{parameters.pods}}", false, &scope()).is_ok());
        for refused in [
            "a\"b",
            "a'b",
            "a`b",
            "a\\b",
            "{",
            "}",
            "a\nb",
            &"a".repeat(254),
        ] {
            assert!(!is_value(refused), "{refused}");
        }
    }

    #[test]
    fn unknown_placeholders_and_long_results_are_refused() {
        let fault = |text: &str| substitute(text, false, &scope()).unwrap_err();
        assert_eq!(
            fault("{{parameters.none}}"),
            Fault::UnknownParameter("none".to_owned())
        );
        assert_eq!(
            fault("{{inputs.x}}"),
            Fault::UnknownPlaceholder("inputs.x".to_owned())
        );
        assert_eq!(
            fault("{{parameters"),
            Fault::UnknownPlaceholder("parameters".to_owned())
        );
        assert_eq!(fault(&"{{parameters.pods}}".repeat(2_000)), Fault::TooLong);
    }
}
