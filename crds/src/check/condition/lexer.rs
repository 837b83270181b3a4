//! The tokens of a condition.

use std::fmt;

/// A token and the position of its first character, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Token<'a> {
    pub kind: TokenKind<'a>,
    pub position: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TokenKind<'a> {
    /// An integer without its sign.
    Integer(u64),
    Double(f64),
    /// A name or a keyword.
    Name(&'a str),
    Symbol(&'static str),
}

impl fmt::Display for TokenKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(f, "{number}"),
            Self::Double(number) => write!(f, "{number:e}"),
            // A message contains only the start of a long name.
            Self::Name(text) => write!(f, "{text:.40}"),
            Self::Symbol(text) => f.write_str(text),
        }
    }
}

/// Symbols of CEL. A symbol comes before its own prefixes.
const SYMBOLS: [&str; 22] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", "(", ")",
    "[", "]", ".", ",",
];

/// Splits a condition into tokens, in time and memory proportional to its length.
///
/// # Errors
///
/// A message if the text contains something that is not CEL, or that conditions do not support.
pub(super) fn tokenize(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = skip_space_and_comments(rest);
        let Some(first) = rest.chars().next() else {
            return Ok(tokens);
        };
        let position = text[..text.len() - rest.len()].chars().count() + 1;
        let is_fraction = rest.starts_with('.') && starts_with_digit(&rest[1..]);
        let (kind, length) = if first.is_ascii_digit() || is_fraction {
            number(rest, position)?
        } else if first.is_ascii_alphabetic() || first == '_' {
            let length = run_length(rest, |b| b.is_ascii_alphanumeric() || b == b'_');
            if rest[length..].starts_with(['"', '\'']) {
                return Err(unsupported("text", position));
            }
            (TokenKind::Name(&rest[..length]), length)
        } else if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            (TokenKind::Symbol(symbol), symbol.len())
        } else {
            return Err(match first {
                '"' | '\'' => unsupported("text", position),
                '{' | '}' => unsupported("maps and messages", position),
                '`' => unsupported("quoted names", position),
                _ => format!("it is not CEL: unexpected {first:?} at character {position}"),
            });
        };
        tokens.push(Token { kind, position });
        rest = &rest[length..];
    }
}

pub(super) fn unsupported(what: &str, position: usize) -> String {
    format!("conditions do not support {what} (at character {position}): a result only has numbers")
}

/// White space as in the grammar of CEL, and comments.
fn skip_space_and_comments(text: &str) -> &str {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(['\t', ' ', '\r', '\n', '\u{c}']);
        match rest.strip_prefix("//") {
            Some(comment) => rest = comment.find('\n').map_or("", |end| &comment[end..]),
            None => return rest,
        }
    }
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// Length in bytes of the longest prefix of these characters.
fn run_length(text: &str, includes: impl Fn(u8) -> bool) -> usize {
    text.bytes()
        .position(|b| !includes(b))
        .unwrap_or(text.len())
}

/// A number without its sign, and its length in bytes.
fn number(text: &str, position: usize) -> Result<(TokenKind<'static>, usize), String> {
    let (kind, length) = match text.strip_prefix("0x") {
        Some(hexadecimal) if hexadecimal.starts_with(|c: char| c.is_ascii_hexdigit()) => {
            let digits = run_length(hexadecimal, |b| b.is_ascii_hexdigit());
            let integer = u64::from_str_radix(&hexadecimal[..digits], 16).ok();
            (integer.map(TokenKind::Integer), digits + 2)
        }
        _ => decimal(text),
    };
    if text[length..].starts_with(['u', 'U']) {
        return Err(unsupported("unsigned integers", position));
    }
    kind.map(|kind| (kind, length))
        .ok_or_else(|| format!("the number at character {position} is too large"))
}

/// A decimal number and its length in bytes. `None` if it is too large.
fn decimal(text: &str) -> (Option<TokenKind<'static>>, usize) {
    let digits = |from: usize| from + run_length(&text[from..], |b| b.is_ascii_digit());
    let mut length = digits(0);
    let mut is_integer = true;
    if text[length..].starts_with('.') && starts_with_digit(&text[length + 1..]) {
        length = digits(length + 1);
        is_integer = false;
    }
    if text[length..].starts_with(['e', 'E']) {
        let sign = usize::from(text[length + 1..].starts_with(['+', '-']));
        let exponent = length + 1 + sign;
        if starts_with_digit(&text[exponent..]) {
            length = digits(exponent);
            is_integer = false;
        }
    }
    let kind = if is_integer {
        text[..length].parse().ok().map(TokenKind::Integer)
    } else {
        let double = text[..length].parse().ok();
        double
            .filter(|number: &f64| number.is_finite())
            .map(TokenKind::Double)
    };
    (kind, length)
}
