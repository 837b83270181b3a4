//! Texts of HTTP checks and Jobs in which `{{args.NAME}}` is replaced by the value of an argument.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

const OPEN: &str = "{{args.";
const CLOSE: &str = "}}";

/// How a value becomes a part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escaping {
    /// Percent-encoded, so that it is one part of a URL.
    Url,
    /// As in a JSON string.
    Json,
    /// As it is.
    None,
}

/// Replaces the arguments in a text. The result has at most `max_bytes`.
///
/// # Errors
///
/// A message if an argument is unknown, a placeholder has no end, or the result is too long.
pub fn render_text(
    template: &str,
    args: &BTreeMap<&str, &str>,
    escaping: Escaping,
    max_bytes: usize,
) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once(OPEN) {
        text.push_str(before);
        let (name, after) = after
            .split_once(CLOSE)
            .ok_or_else(|| format!("{OPEN} has no closing {CLOSE}"))?;
        let value = args.get(name).ok_or_else(|| {
            let known: Vec<&str> = args.keys().copied().collect();
            format!(
                "there is no argument {name:.40}: the arguments are {}",
                known.join(", ")
            )
        })?;
        push_escaped(&mut text, value, escaping);
        check_length(&text, max_bytes)?;
        rest = after;
    }
    text.push_str(rest);
    check_length(&text, max_bytes)?;
    Ok(text)
}

/// Replaces the arguments in every text of a JSON value, but not in the keys. The texts of the
/// result have at most `max_bytes` together.
///
/// # Errors
///
/// As [`render_text`].
pub fn render_json(
    template: &Value,
    args: &BTreeMap<&str, &str>,
    max_bytes: usize,
) -> Result<Value, String> {
    let mut rendered = template.clone();
    let mut left = max_bytes;
    let mut values = vec![&mut rendered];
    while let Some(value) = values.pop() {
        match value {
            Value::String(text) => {
                *text = render_text(text, args, Escaping::None, left)?;
                left -= text.len().min(left);
            }
            Value::Array(items) => values.extend(items),
            Value::Object(fields) => values.extend(fields.values_mut()),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    Ok(rendered)
}

fn check_length(text: &str, max_bytes: usize) -> Result<(), String> {
    if text.len() > max_bytes {
        return Err(format!(
            "it is longer than {max_bytes} bytes with its arguments: use fewer or shorter arguments"
        ));
    }
    Ok(())
}

fn push_escaped(text: &mut String, value: &str, escaping: Escaping) {
    match escaping {
        Escaping::None => text.push_str(value),
        Escaping::Json => {
            let quoted = Value::from(value).to_string();
            let inner = quoted
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'));
            text.push_str(inner.unwrap_or_default());
        }
        Escaping::Url => {
            for byte in value.bytes() {
                if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                    text.push(char::from(byte));
                } else {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "%{byte:02X}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn args() -> BTreeMap<&'static str, &'static str> {
        BTreeMap::from([("service", "checkout-canary"), ("text", "a/\"b\"&c")])
    }

    #[test]
    fn a_value_does_not_change_the_text_around_it() {
        let render = |template, escaping| render_text(template, &args(), escaping, 100);
        assert_eq!(
            render(
                "http://{{args.service}}.shop.svc/?q={{args.text}}",
                Escaping::Url
            )
            .as_deref(),
            Ok("http://checkout-canary.shop.svc/?q=a%2F%22b%22%26c")
        );
        assert_eq!(
            render("{\"q\":\"{{args.text}}\"}", Escaping::Json).as_deref(),
            Ok("{\"q\":\"a/\\\"b\\\"&c\"}")
        );
        let quote = BTreeMap::from([("text", "\"\"")]);
        assert_eq!(
            render_text("{{args.text}}", &quote, Escaping::Json, 100).as_deref(),
            Ok("\\\"\\\"")
        );
    }

    #[test]
    fn unknown_arguments_and_long_texts_are_errors() {
        let error = |template| render_text(template, &args(), Escaping::None, 20).unwrap_err();
        assert!(error("{{args.other}}").contains("there is no argument"));
        assert!(error("{{args.service").contains("no closing"));
        assert!(error("{{args.service}}{{args.service}}").contains("longer than 20 bytes"));
    }

    #[test]
    fn every_text_of_a_template_is_rendered() {
        let template = json!({"args": ["--url={{args.service}}", 1], "{{args.service}}": true});
        let rendered = render_json(&template, &args(), 100).unwrap();
        assert_eq!(
            rendered,
            json!({"args": ["--url=checkout-canary", 1], "{{args.service}}": true})
        );
        assert!(render_json(&template, &args(), 10).is_err());
    }
}
