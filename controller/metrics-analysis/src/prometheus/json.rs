//! Small parts of a JSON document that several decoders read.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use serin_core::text::excerpt;

use super::error::QueryError;
use super::meter::{ALLOCATION, Meter};

/// A key of an object, if it is one of these.
pub(super) struct KnownKey(pub &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for KnownKey {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KnownKey {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().copied().find(|known| *known == text))
    }
}

/// A text for a message, cut to the length of a message. `null` is an empty text.
pub(super) struct ShortText;

impl<'de> DeserializeSeed<'de> for ShortText {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for ShortText {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(excerpt(text))
    }

    fn visit_unit<E: Error>(self) -> Result<String, E> {
        Ok(String::new())
    }
}

/// A list of texts, joined for a message. `null` is an empty list.
pub(super) struct ShortTexts;

impl<'de> DeserializeSeed<'de> for ShortTexts {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ShortTexts {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<String, A::Error> {
        /// More texts do not fit into a message.
        const MOST: usize = 8;
        let mut texts = Vec::new();
        while texts.len() < MOST {
            let Some(text) = list.next_element_seed(ShortText)? else {
                break;
            };
            texts.push(text);
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        // A warning without a text is a warning, too.
        let joined = excerpt(&texts.join("; "));
        Ok(if joined.is_empty() && !texts.is_empty() {
            "a warning without a text".to_owned()
        } else {
            joined
        })
    }

    fn visit_unit<E: Error>(self) -> Result<String, E> {
        Ok(String::new())
    }
}

/// A text that is kept, for example a label.
pub(super) struct MeteredText<'a, 'm> {
    pub meter: &'a mut Meter<'m>,
    /// What is charged besides the text itself, in bytes.
    pub overhead: usize,
}

impl<'de> DeserializeSeed<'de> for MeteredText<'_, '_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for MeteredText<'_, '_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        self.meter
            .charge_or_stop(self.overhead + ALLOCATION + text.len())?;
        Ok(text.to_owned())
    }
}

/// A number, which the API writes as a string: `"7"`, `"NaN"`, `"+Inf"`.
pub(super) struct NumberText<'a, 'm>(pub &'a mut Meter<'m>);

impl<'de> DeserializeSeed<'de> for NumberText<'_, '_> {
    type Value = f64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<f64, D::Error> {
        self.0.expected = "a number as a string";
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NumberText<'_, '_> {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number as a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<f64, E> {
        text.parse().map_err(|_| {
            let message = "expected a number as the value of a sample";
            self.0.stop(QueryError::Malformed(message.to_owned()))
        })
    }
}

/// Ends a list that must have no further elements.
pub(super) fn end_list<'de, A: SeqAccess<'de>>(list: &mut A) -> Result<(), A::Error> {
    match list.next_element::<IgnoredAny>()? {
        Some(IgnoredAny) => Err(A::Error::custom("too many elements")),
        None => Ok(()),
    }
}
