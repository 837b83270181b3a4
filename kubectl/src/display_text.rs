//! Text from a cluster, a Prometheus or a file, made safe for a terminal.
//!
//! Anybody who may write an object of the cluster chooses text that somebody else reads: the reason
//! of a command, the name of a check, the words of a container. A terminal executes control
//! characters in it: they clear the screen, draw another status, or write to the clipboard. Every
//! answer of the API server passes through [`printable_object`] before anything else reads it.

use std::borrow::Cow;
use std::fmt::Write;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serin_core::text::is_control;

/// Shows control characters instead of executing them: `ESC` becomes `^[`, others become their code
/// point, for example `<U+202E>`. White space becomes a space.
pub fn printable(text: &str) -> Cow<'_, str> {
    replace_controls(text, |_| false)
}

/// The same as [`printable`] for text of several lines: line breaks and tabs are kept.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    replace_controls(text, |character| matches!(character, '\n' | '\t'))
}

fn replace_controls(text: &str, is_kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let replaced = |character| is_control(character) && !is_kept(character);
    if !text.contains(replaced) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            _ if !replaced(character) => shown.push(character),
            '\n' | '\r' | '\t' => shown.push(' '),
            // Caret notation: the letter is the control character with bit 6 inverted.
            '\0'..='\u{1f}' | '\u{7f}' => {
                let letter = u8::try_from(character).unwrap_or_default() ^ 0x40;
                shown.extend(['^', char::from(letter)]);
            }
            // Writing to a string cannot fail.
            _ => drop(write!(shown, "<U+{:04X}>", u32::from(character))),
        }
    }
    Cow::Owned(shown)
}

/// JSON whose strings contain no control characters: JSON escapes only some of them. The values stay
/// the same.
pub fn escaped_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        // All others are inside of strings. Writing to a string cannot fail.
        if is_control(character) && character != '\n' {
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Makes every text of an object printable. Expressions in the spec keep their line breaks.
///
/// # Errors
/// The object cannot be written as JSON and read again.
pub fn printable_object<T: Serialize + DeserializeOwned>(
    object: &T,
) -> Result<T, serde_json::Error> {
    let mut value = serde_json::to_value(object)?;
    make_printable(&mut value, printable);
    serde_json::from_value(value)
}

fn make_printable(value: &mut Value, convert: fn(&str) -> Cow<'_, str>) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(shown) = convert(text) {
                *text = shown;
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| make_printable(item, convert)),
        Value::Object(fields) => {
            for (name, field) in fields {
                let convert = if name == "spec" {
                    printable_lines
                } else {
                    convert
                };
                make_printable(field, convert);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn escape_sequences_are_shown_and_not_executed() {
        assert_eq!(printable("\u{1b}[2J\u{1b}[Hok\u{7}"), "^[[2J^[[Hok^G");
        assert_eq!(printable("a\u{9b}31m"), "a<U+009B>31m");
        assert_eq!(printable("\u{202e}gpj.exe"), "<U+202E>gpj.exe");
        assert_eq!(printable("Phase\r\nHealthy"), "Phase  Healthy");
        assert_eq!(printable_lines("a\n\tb\rc"), "a\n\tb c");
        assert!(matches!(printable("grün · 20 %"), Cow::Borrowed(_)));
    }

    #[test]
    fn expressions_keep_their_line_breaks() {
        let object =
            json!({"spec": {"query": "up # a\n== 1\u{1b}"}, "status": {"message": "a\nb"}});
        assert_eq!(
            printable_object(&object).unwrap(),
            json!({"spec": {"query": "up # a\n== 1^["}, "status": {"message": "a b"}})
        );
    }

    proptest! {
        #[test]
        fn escaped_json_has_the_same_values_and_no_control_characters(text in any::<String>(), controls in "[\\x00-\\x1f\\x7f-\\u{9f}\\u{202a}-\\u{202e}]{0,20}") {
            let value = json!({(text.clone() + &controls): [controls, text]});
            let escaped = escaped_json(&format!("{value:#}"));
            prop_assert!(!escaped.contains(|c| is_control(c) && c != '\n'));
            prop_assert_eq!(serde_json::from_str::<Value>(&escaped).unwrap(), value);
        }

        #[test]
        fn no_control_character_survives(text in any::<String>(), controls in "[\\x00-\\x1f\\x7f-\\u{9f}\\u{202a}-\\u{202e}]{0,20}") {
            let object = json!({"metadata": {"labels": [text.clone() + &controls]}, "status": {"message": controls + &text}});
            let shown = printable_object(&object).unwrap();
            for shown in [&shown["metadata"]["labels"][0], &shown["status"]["message"]] {
                prop_assert!(!shown.as_str().unwrap().contains(is_control));
            }
        }
    }
}
