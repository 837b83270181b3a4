//! What the tokens of a query say about the expression that they become.

use lrpar::{Lexeme, Lexer};
use promql_parser::parser::lexer;
use promql_parser::parser::token::{
    T_ADD, T_AT, T_ATAN2, T_COLON, T_DIV, T_EQL, T_EQL_REGEX, T_EQLC, T_GTE, T_GTR, T_LAND,
    T_LEFT_BRACE, T_LEFT_BRACKET, T_LEFT_PAREN, T_LOR, T_LSS, T_LTE, T_LUNLESS, T_MOD, T_MUL,
    T_NEQ, T_NEQ_REGEX, T_NUMBER, T_OFFSET, T_POW, T_RIGHT_BRACE, T_RIGHT_PAREN, T_STRING, T_SUB,
    TokenId,
};
use promql_parser::util::{parse_str_radix, unquote_string};

use super::not_promql;

/// Maximum number of seconds of a range or an offset: more than 300 years. The parser panics on a
/// number that does not fit into a duration.
const MAX_SECONDS: f64 = 1e10;

/// Bounds of an expression.
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// Maximum number of levels of the expression.
    pub depth: usize,
    /// Maximum number of label matchers.
    pub matchers: usize,
    /// The regular expressions of the matchers.
    pub patterns: Vec<String>,
}

/// The expression between two parentheses, or the outermost one.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    /// Number of operators. Each of them can nest all others.
    operators: usize,
    /// Depth of the deepest group inside.
    deepest: usize,
}

impl Group {
    fn depth(self) -> usize {
        1 + self.operators + self.deepest
    }
}

/// Reads the tokens of a query, in time and memory proportional to its length.
///
/// # Errors
///
/// A message if the text contains something that is not PromQL.
pub(super) fn summarize(text: &str) -> Result<Summary, String> {
    let lexemes = lexer(text).map_err(|error| not_promql(&error))?;
    let mut summary = Summary::default();
    let mut groups = vec![Group::default()];
    let mut is_in_braces = false;
    // The last two tokens.
    let mut previous: [Option<TokenId>; 2] = [None, None];
    for lexeme in lexemes.iter() {
        let lexeme = lexeme.map_err(|error| not_promql(&error.to_string()))?;
        let (token, span) = (lexeme.tok_id(), lexeme.span());
        let value = text.get(span.start()..span.end()).unwrap_or_default();
        let last = previous[1];
        match token {
            T_LEFT_BRACE => is_in_braces = true,
            T_RIGHT_BRACE => is_in_braces = false,
            T_EQL | T_NEQ | T_EQL_REGEX | T_NEQ_REGEX if is_in_braces => summary.matchers += 1,
            T_STRING if matches!(last, Some(T_EQL_REGEX | T_NEQ_REGEX)) => {
                let pattern = unquote_string(value).map_err(|error| not_promql(&error))?;
                summary.patterns.push(pattern);
            }
            // A string without an operator is the name of the metric or of a label.
            T_STRING if is_in_braces && !matches!(last, Some(T_EQL | T_NEQ)) => {
                summary.matchers += 1;
            }
            T_LEFT_PAREN => groups.push(Group::default()),
            T_RIGHT_PAREN => close(&mut groups),
            T_NUMBER if is_duration(previous) => check_seconds(value)?,
            token if is_operator(token) => {
                if let Some(group) = groups.last_mut() {
                    group.operators += 1;
                }
            }
            _ => {}
        }
        previous = [last, Some(token)];
    }
    while groups.len() > 1 {
        close(&mut groups);
    }
    summary.depth = groups.first().map_or(0, |group| group.depth());
    Ok(summary)
}

/// Closes the innermost group.
fn close(groups: &mut Vec<Group>) {
    if groups.len() > 1
        && let Some(closed) = groups.pop()
        && let Some(parent) = groups.last_mut()
    {
        parent.deepest = parent.deepest.max(closed.depth());
    }
}

/// Whether a token adds a level to the expression on one of its sides.
fn is_operator(token: TokenId) -> bool {
    matches!(
        token,
        T_ADD
            | T_SUB
            | T_MUL
            | T_DIV
            | T_MOD
            | T_POW
            | T_ATAN2
            | T_EQLC
            | T_NEQ
            | T_GTE
            | T_GTR
            | T_LTE
            | T_LSS
            | T_LAND
            | T_LOR
            | T_LUNLESS
            | T_OFFSET
            | T_AT
            | T_LEFT_BRACKET
    )
}

/// Whether a number after these tokens is a number of seconds.
fn is_duration(previous: [Option<TokenId>; 2]) -> bool {
    matches!(
        previous,
        [_, Some(T_LEFT_BRACKET | T_COLON | T_OFFSET)] | [Some(T_OFFSET), Some(T_ADD | T_SUB)]
    )
}

fn check_seconds(text: &str) -> Result<(), String> {
    let seconds = parse_str_radix(text).map_err(|error| not_promql(&error))?;
    if (0.0..=MAX_SECONDS).contains(&seconds) {
        Ok(())
    } else {
        Err(not_promql(&format!(
            "{text:.40} is not a duration in seconds: use for example 5m"
        )))
    }
}
