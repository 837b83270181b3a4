//! The tokens of an expression.

use std::fmt;

/// A token and the position of its first character, counted from 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'a> {
    pub kind: TokenKind<'a>,
    pub position: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind<'a> {
    /// An integer without its sign.
    Integer(u64),
    Double(f64),
    /// Text without its quotes and escapes.
    Text(String),
    /// A name or a keyword.
    Name(&'a str),
    Symbol(&'static str),
}

impl fmt::Display for TokenKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(f, "{number}"),
            Self::Double(number) => write!(f, "{number:e}"),
            Self::Text(_) => f.write_str("text"),
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

/// Splits an expression into tokens, in time and memory proportional to its length.
///
/// # Errors
///
/// A message if the text contains something that is not CEL, or is not supported.
pub(super) fn tokenize(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut position = 1;
    loop {
        let trimmed = skip_space_and_comments(rest);
        position += rest[..rest.len() - trimmed.len()].chars().count();
        rest = trimmed;
        let Some(first) = rest.chars().next() else {
            return Ok(tokens);
        };
        let (kind, length) = next_token(rest, first)
            .map_err(|problem| format!("{problem} (at character {position})"))?;
        tokens.push(Token { kind, position });
        position += rest[..length].chars().count();
        rest = &rest[length..];
    }
}

/// The first token and its length in bytes.
fn next_token(rest: &str, first: char) -> Result<(TokenKind<'_>, usize), String> {
    let is_fraction = rest.starts_with('.') && starts_with_digit(&rest[1..]);
    if first.is_ascii_digit() || is_fraction {
        return number(rest);
    }
    if first == '"' || first == '\'' {
        return text(rest, first, false);
    }
    if first.is_ascii_alphabetic() || first == '_' {
        let length = run_length(rest, |b| b.is_ascii_alphanumeric() || b == b'_');
        let name = &rest[..length];
        return match rest[length..].chars().next() {
            Some(quote @ ('"' | '\'')) if name == "r" || name == "R" => {
                let (kind, inner) = text(&rest[length..], quote, true)?;
                Ok((kind, length + inner))
            }
            Some('"' | '\'') => Err(format!("text with the prefix {name:.40} is not supported")),
            _ => Ok((TokenKind::Name(name), length)),
        };
    }
    match SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
        Some(symbol) => Ok((TokenKind::Symbol(symbol), symbol.len())),
        None => Err(match first {
            '{' | '}' => "maps and messages are not supported".to_owned(),
            '`' => "quoted names are not supported".to_owned(),
            _ => format!("it is not CEL: unexpected {first:?}"),
        }),
    }
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
fn number(text: &str) -> Result<(TokenKind<'static>, usize), String> {
    let (kind, length) = match text.strip_prefix("0x") {
        Some(hexadecimal) if hexadecimal.starts_with(|c: char| c.is_ascii_hexdigit()) => {
            let digits = run_length(hexadecimal, |b| b.is_ascii_hexdigit());
            let integer = u64::from_str_radix(&hexadecimal[..digits], 16).ok();
            (integer.map(TokenKind::Integer), digits + 2)
        }
        _ => decimal(text),
    };
    if text[length..].starts_with(['u', 'U']) {
        return Err("unsigned integers are not supported".to_owned());
    }
    kind.map(|kind| (kind, length))
        .ok_or_else(|| format!("the number {:.40} is too large", &text[..length]))
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

/// Text in quotes, and its length in bytes with the quotes.
fn text(rest: &str, quote: char, is_raw: bool) -> Result<(TokenKind<'static>, usize), String> {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        if character == quote {
            return Ok((TokenKind::Text(text), at + 1));
        }
        if character != '\\' || is_raw {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some((_, 'n')) => text.push('\n'),
            Some((_, 't')) => text.push('\t'),
            Some((_, escaped @ ('\\' | '\'' | '"'))) => text.push(escaped),
            Some((_, other)) => return Err(format!("the escape \\{other} is not supported")),
            None => break,
        }
    }
    Err("a text has no end".to_owned())
}
