//! Values of the status that a controller of another version may have extended.

use std::fmt;

use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value of an enum in the status, parsed when the status is read. A value that this version does
/// not know is kept as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusValue<T> {
    text: String,
    known: Option<T>,
}

impl<T> StatusValue<T> {
    /// The value as the API writes it.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl<T: Copy + PartialEq> StatusValue<T> {
    /// The value, `None` if this version does not know it.
    pub fn known(&self) -> Option<T> {
        self.known
    }

    /// Whether the value is `expected`.
    pub fn equals(&self, expected: T) -> bool {
        self.known == Some(expected)
    }
}

impl<T: DeserializeOwned> From<&str> for StatusValue<T> {
    fn from(text: &str) -> Self {
        let deserializer: StrDeserializer<'_, Error> = text.into_deserializer();
        Self {
            text: text.to_owned(),
            known: T::deserialize(deserializer).ok(),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for StatusValue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| text.as_str().into())
    }
}

impl<T> fmt::Display for StatusValue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<T> Serialize for StatusValue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use serin_core::hold::HoldCode;
    use serin_core::state::Stage;

    use super::*;

    #[test]
    fn a_known_value_is_parsed() {
        let stage: StatusValue<Stage> = "Promoting".into();
        assert!(stage.equals(Stage::Promoting));
        let code: StatusValue<HoldCode> = "NoData".into();
        assert_eq!(code.known(), Some(HoldCode::NoData));
    }

    #[test]
    fn an_unknown_value_keeps_its_text() {
        let stage: StatusValue<Stage> = "Previewing".into();
        assert_eq!((stage.known(), stage.text()), (None, "Previewing"));
        assert_eq!(serde_json::to_string(&stage).unwrap(), "\"Previewing\"");
    }
}
