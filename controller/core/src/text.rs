//! Text of limited length, for everything that comes from outside: from people, from the API
//! server, from Prometheus and from the spec.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Maximum length of a message or of a reason that a person gives, in bytes of UTF-8. The Events
/// API has the same limit.
pub const MESSAGE_BYTES: usize = 1_024;
/// Maximum length of the name of an object or of another short text, in bytes of UTF-8. Kubernetes
/// permits 253.
pub const NAME_BYTES: usize = 256;
/// Maximum length of a user name, in bytes of UTF-8. The `requestedBy` of a command has the same
/// limit.
pub const USER_BYTES: usize = 512;

/// A message, or a reason that a person gives.
pub type Message = Text<MESSAGE_BYTES>;
/// The name of an object, or another short text.
pub type Name = Text<NAME_BYTES>;
/// A user name.
pub type UserName = Text<USER_BYTES>;

/// What replaces the end of a text that is too long.
const CUT_MARK: &str = "...";

/// A text of at most `MAX` bytes on one line.
///
/// A longer text is cut and ends with `...`. Control characters become spaces: a terminal would
/// execute them, and the controls of the Unicode bidirectional algorithm change how a reader sees
/// the text around them.
///
/// ```
/// use serin_core::text::Text;
///
/// let text: Text<12> = "as long\nas this".into();
/// assert_eq!(text, "as long a...");
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Cuts the text to `bytes`, if it is longer.
    pub fn shorten(&mut self, bytes: usize) {
        cut(&mut self.0, bytes);
    }
}

/// Maximum length of an excerpt, in bytes of UTF-8 with the mark of a cut.
const EXCERPT_BYTES: usize = 303;

/// An external text on one line, without control characters and repeated spaces, short enough to be
/// quoted in a message.
///
/// ```
/// use serin_core::text::excerpt;
///
/// assert_eq!(excerpt("not\n  found"), "not found");
/// ```
pub fn excerpt(text: &str) -> String {
    let mut line = String::new();
    for word in text.split(|character: char| character.is_whitespace() || is_control(character)) {
        if !word.is_empty() {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
        if line.len() > EXCERPT_BYTES {
            break;
        }
    }
    cut(&mut line, EXCERPT_BYTES);
    line
}

/// Cuts a text at a character boundary, so that it has at most `bytes` bytes with its mark.
fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes.saturating_sub(CUT_MARK.len())));
        text.push_str(CUT_MARK.get(..bytes).unwrap_or(CUT_MARK));
    }
}

/// Whether a character changes how a terminal or a reader sees the text around it: C0 and C1
/// control characters, line and paragraph separators, and the controls of the Unicode bidirectional
/// algorithm ([UAX #9](https://www.unicode.org/reports/tr9/)).
pub const fn is_control(character: char) -> bool {
    matches!(character,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl<const MAX: usize> From<String> for Text<MAX> {
    fn from(mut text: String) -> Self {
        if text.contains(is_control) {
            text = text.replace(is_control, " ");
        }
        cut(&mut text, MAX);
        Self(text)
    }
}

impl<const MAX: usize> From<&str> for Text<MAX> {
    fn from(text: &str) -> Self {
        // Enough even if all of it are control characters of three bytes, which become one byte.
        let enough = text.floor_char_boundary(MAX.saturating_add(2).saturating_mul(3));
        Self::from(text.get(..enough).unwrap_or(text).to_owned())
    }
}

impl<const MAX: usize> From<&String> for Text<MAX> {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl<const MAX: usize> From<&Self> for Text<MAX> {
    fn from(text: &Self) -> Self {
        text.clone()
    }
}

impl<const MAX: usize> From<Text<MAX>> for String {
    fn from(text: Text<MAX>) -> Self {
        text.0
    }
}

impl<const MAX: usize> Deref for Text<MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> PartialEq<str> for Text<MAX> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl<const MAX: usize> PartialEq<&str> for Text<MAX> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<const MAX: usize> fmt::Debug for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<const MAX: usize> Serialize for Text<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character_boundary() {
        assert_eq!(Text::<8>::from("12345678"), "12345678");
        assert_eq!(Text::<8>::from("123456789"), "12345...");
        assert_eq!(Text::<8>::from("ääää"), "ääää");
        assert_eq!(Text::<8>::from("äääää"), "ää...");
        assert_eq!(Text::<2>::from("äää"), "..");
    }

    #[test]
    fn a_text_of_one_line_stays_as_it_is() {
        let text = "31 of 1,000 requests failed: \"grün\" · 20 % \\ 日本";
        assert_eq!(Message::from(text), text);
    }

    #[test]
    fn control_characters_become_spaces() {
        let text = Message::from("\u{1b}[2Ja\r\nb\u{9b}c\u{202e}d\u{2066}e\u{2028}f\0");
        assert_eq!(text, " [2Ja  b c d e f ");
    }

    proptest! {
        #[test]
        fn a_text_is_never_longer_than_its_limit_nor_has_it_controls(
            text in any::<String>(), controls in "[\\x00-\\x1f\\x7f-\\u{9f}\\u{2028}-\\u{202e}]{0,40}",
        ) {
            let foreign = text + &controls;
            let text = Text::<32>::from(foreign.as_str());
            prop_assert!(text.len() <= 32 && !text.contains(is_control));
            prop_assert_eq!(&Text::<32>::from(foreign.clone()), &text);
            prop_assert_eq!(&Text::<32>::from(text.as_str()), &text);
            let json = serde_json::to_string(&foreign).unwrap();
            prop_assert_eq!(serde_json::from_str::<Text<32>>(&json).unwrap(), text);
        }
    }

    #[test]
    fn an_excerpt_is_one_short_line_without_control_characters() {
        assert_eq!(excerpt("a\u{1b}[2J\nb\u{202e}c  d"), "a [2J b c d");
        let long = "é".repeat(1_000);
        assert_eq!(excerpt(&long), format!("{}...", "é".repeat(150)));
        let words = "word ".repeat(1_000);
        assert!(excerpt(&words).len() <= EXCERPT_BYTES);
    }
}
