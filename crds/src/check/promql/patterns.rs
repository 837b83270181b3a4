//! Bounds of regular expressions.

use std::str::Chars;

use regex::{Error, Regex, RegexBuilder, RegexSetBuilder};

use super::{Limits, WRITTEN};

/// Maximum size in bytes of one compiled regular expression. A class such as `\w` takes about 30 KB,
/// because it covers all of Unicode.
const MAX_BYTES: usize = WRITTEN.regex_bytes;
/// Maximum nesting of groups and classes.
const MAX_NESTING: u32 = 50;

/// Compiles a regular expression that a tenant may have written.
///
/// # Errors
///
/// A message if it is invalid or too large.
pub fn compile_regex(pattern: &str) -> Result<Regex, String> {
    check_classes([pattern], WRITTEN.regex_classes)?;
    compile(pattern).map_err(|error| describe(pattern, &error))
}

/// Checks that the patterns of a query can be compiled, and that they are small enough together.
///
/// # Errors
///
/// A message if one is invalid, or if they are too large.
pub(super) fn check_patterns(patterns: &[String], limits: &Limits) -> Result<(), String> {
    check_classes(patterns.iter().map(String::as_str), limits.regex_classes)?;
    let compiled: Result<Vec<_>, _> = patterns.iter().map(|pattern| anchored(pattern)).collect();
    let set = RegexSetBuilder::new(compiled?)
        .size_limit(limits.regex_bytes)
        .nest_limit(MAX_NESTING)
        .build();
    match set {
        Ok(_) => Ok(()),
        Err(Error::CompiledTooBig(limit)) => {
            Err(too_big("the sum of its regular expressions", limit))
        }
        Err(error) => Err(describe("its regular expressions", &error)),
    }
}

/// The regular expression that `promql-parser` compiles for a pattern: it must match the whole
/// label value, and a brace that does not begin a repetition is a character, as in Go.
pub(super) fn anchored(pattern: &str) -> Result<String, String> {
    let anchored = format!("^(?:{pattern})$");
    let error = match compile(&anchored) {
        Ok(_) => return Ok(anchored),
        Err(error @ Error::CompiledTooBig(_)) => return Err(describe(pattern, &error)),
        Err(error) => error,
    };
    let escaped = escape_braces(&anchored);
    match compile(&escaped) {
        Ok(_) => Ok(escaped),
        Err(too_big @ Error::CompiledTooBig(_)) => Err(describe(pattern, &too_big)),
        Err(_) => Err(describe(pattern, &error)),
    }
}

fn compile(pattern: &str) -> Result<Regex, Error> {
    RegexBuilder::new(pattern)
        .size_limit(MAX_BYTES)
        .dfa_size_limit(MAX_BYTES)
        .nest_limit(MAX_NESTING)
        .build()
}

/// Limits the number of escapes that stand for a class of characters. Each of them takes up to 25 KB
/// while the expression is parsed, before the limit of its compiled size applies.
fn check_classes<'a>(
    patterns: impl IntoIterator<Item = &'a str>,
    limit: usize,
) -> Result<(), String> {
    let mut classes = 0;
    for pattern in patterns {
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            // The character after a backslash is escaped, even if it is a backslash.
            let escaped = (character == '\\').then(|| characters.next()).flatten();
            let is_class = escaped.is_some_and(|escaped| "wWdDsSpP".contains(escaped));
            classes += usize::from(is_class);
        }
    }
    if classes > limit {
        return Err(format!(
            "its regular expressions have {classes} classes such as \\w, and the limit is \
             {limit}: use classes such as [a-z0-9]"
        ));
    }
    Ok(())
}

fn too_big(what: &str, limit: usize) -> String {
    format!(
        "{what} needs more than {} KiB of memory: use fewer or simpler ones, for example [a-z0-9]+ \
         instead of \\w+",
        limit / 1024
    )
}

fn describe(pattern: &str, error: &Error) -> String {
    match error {
        Error::CompiledTooBig(limit) => {
            too_big(&format!("the regular expression {pattern:.60}"), *limit)
        }
        error => {
            let text = error.to_string();
            // The lines before show the whole pattern.
            let reason = text.lines().last().unwrap_or_default();
            let reason = reason.trim_start_matches("error: ");
            format!("the regular expression {pattern:.60} is invalid: {reason:.100}")
        }
    }
}

/// Escapes each opening brace that does not begin a repetition, like `promql-parser`.
fn escape_braces(pattern: &str) -> String {
    let mut escaped = String::with_capacity(pattern.len() + 1);
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                if let Some(next) = characters.next() {
                    escaped.push(character);
                    escaped.push(next);
                }
            }
            '{' => {
                let (is_repetition, text) = read_repetition(&mut characters);
                if !is_repetition {
                    escaped.push('\\');
                }
                escaped.push(character);
                escaped.push_str(&text);
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Reads the text after an opening brace as far as it can be a repetition such as `3}` or `1,3}`.
/// Returns whether it is one.
fn read_repetition(characters: &mut Chars<'_>) -> (bool, String) {
    let mut text = String::new();
    let mut has_comma = false;
    for character in characters.by_ref() {
        text.push(character);
        match character {
            ',' if has_comma || text == "," => return (false, text),
            ',' => has_comma = true,
            '}' => return (text != "}", text),
            digit if digit.is_ascii_digit() => {}
            _ => return (false, text),
        }
    }
    (false, text)
}
