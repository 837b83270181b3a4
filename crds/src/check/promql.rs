//! Parses PromQL and regular expressions that tenants write.
//!
//! `promql-parser` compiles every regular expression of a query while it parses, each with a limit
//! of 10 MB, and its expressions are nested as deeply as the text. So a query is checked before it
//! is parsed: its length, its nesting, the number of its matchers, and the memory of its regular
//! expressions. The check reads the tokens of `promql-parser`'s own lexer, so that it sees what the
//! parser sees.

mod patterns;
mod tokens;

use promql_parser::parser::{self, Expr};

pub use patterns::compile_regex;

/// Bounds of a query.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Length in characters, after arguments are inserted.
    length: usize,
    /// Nesting of the expression. It bounds the stack of everything that reads or drops it.
    depth: usize,
    /// Number of label matchers.
    matchers: usize,
    /// Size in bytes of all compiled regular expressions.
    regex_bytes: usize,
    /// Number of Unicode classes in all regular expressions.
    regex_classes: usize,
}

/// Limits of a query or selector that a tenant wrote.
const WRITTEN: Limits = Limits {
    length: MAX_LENGTH,
    depth: 64,
    matchers: 100,
    regex_bytes: 256 * 1024,
    regex_classes: 64,
};
/// Limits of a query that Serin composed. Such a query contains the same selectors up to 32 times.
const COMPOSED: Limits = Limits {
    length: 32 * WRITTEN.length,
    depth: 128,
    matchers: 32 * WRITTEN.matchers,
    regex_bytes: 32 * WRITTEN.regex_bytes,
    regex_classes: 32 * WRITTEN.regex_classes,
};

/// Maximum length of a written query in characters.
pub(super) const MAX_LENGTH: usize = 16_384;
/// Maximum number of characters of an error message.
const MAX_ERROR_CHARS: usize = 300;

/// Parses a PromQL expression that a tenant may have written.
///
/// # Errors
///
/// A message if the text is not PromQL, or if it is too long, nested too deep, or has too many
/// matchers or too large regular expressions.
pub fn parse_promql(text: &str) -> Result<Expr, String> {
    parse_within(text, &WRITTEN)
}

/// Parses a PromQL expression that Serin composed of selectors that [`parse_promql`] accepts.
///
/// # Errors
///
/// As for [`parse_promql`], with higher limits.
pub fn parse_composed_promql(text: &str) -> Result<Expr, String> {
    parse_within(text, &COMPOSED)
}

fn parse_within(text: &str, limits: &Limits) -> Result<Expr, String> {
    if text.chars().count() > limits.length {
        return Err(format!(
            "it is longer than {} characters with its arguments: shorten it",
            limits.length
        ));
    }
    let summary = tokens::summarize(text)?;
    if summary.depth > limits.depth {
        return Err(format!(
            "it is nested {} levels deep, and the limit is {}: use fewer nested brackets and \
             shorter chains of operators",
            summary.depth, limits.depth
        ));
    }
    if summary.matchers > limits.matchers {
        return Err(format!(
            "it has {} label matchers, and the limit is {}: use fewer matchers",
            summary.matchers, limits.matchers
        ));
    }
    patterns::check_patterns(&summary.patterns, limits)?;
    parser::parse(text).map_err(|error| not_promql(&error))
}

fn not_promql(error: &str) -> String {
    let mut message = format!("it is not PromQL: {error}");
    if let Some((end, _)) = message.char_indices().nth(MAX_ERROR_CHARS) {
        message.truncate(end);
        message.push_str("...");
    }
    message
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
