//! The tokens of an expression.

/// A token and the position of its first character, counted from 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'a> {
    pub kind: TokenKind<'a>,
    pub position: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind<'a> {
    Integer(i64),
    Double(f64),
    Text(String),
    Name(&'a str),
    Symbol(&'static str),
}

/// Symbols of CEL. A symbol comes before its own prefixes.
const SYMBOLS: [&str; 22] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", "(", ")",
    "[", "]", ".", ",",
];

/// Splits an expression into tokens.
///
/// # Errors
///
/// A message if the text contains something that is not CEL, or is not supported.
pub(super) fn tokenize(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut position = 1;
    loop {
        let trimmed = rest.trim_start();
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
    if first.is_ascii_digit() {
        return number(rest);
    }
    if first == '"' || first == '\'' {
        return text(rest, first, false);
    }
    if first.is_ascii_alphabetic() || first == '_' {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let name = &rest[..length];
        return match rest[length..].chars().next() {
            Some(quote @ ('"' | '\'')) if name == "r" || name == "R" => {
                let (kind, inner) = text(&rest[length..], quote, true)?;
                Ok((kind, length + inner))
            }
            Some('"' | '\'') => Err(format!("text with the prefix {name} is not supported")),
            _ => Ok((TokenKind::Name(name), length)),
        };
    }
    match SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
        Some(symbol) => Ok((TokenKind::Symbol(symbol), symbol.len())),
        None if first == '{' || first == '}' => Err("objects are not supported".to_owned()),
        None => Err(format!("it is not CEL: unexpected {first:?}")),
    }
}

fn number(rest: &str) -> Result<(TokenKind<'_>, usize), String> {
    let end = |text: &str| {
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len())
    };
    let mut length = end(rest);
    let mut is_double = false;
    if let Some(fraction) = rest[length..].strip_prefix('.') {
        let digits = end(fraction);
        if digits > 0 {
            is_double = true;
            length += 1 + digits;
        }
    }
    if rest[length..].starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err("numbers with a suffix or an exponent are not supported".to_owned());
    }
    let digits = &rest[..length];
    let kind = if is_double {
        digits.parse().ok().map(TokenKind::Double)
    } else {
        digits.parse().ok().map(TokenKind::Integer)
    };
    let kind = kind.ok_or_else(|| format!("the number {digits:.40} is too large"))?;
    Ok((kind, length))
}

fn text(rest: &str, quote: char, is_raw: bool) -> Result<(TokenKind<'_>, usize), String> {
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
