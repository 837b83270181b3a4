//! A pod spec in a compact form.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A pod spec as JSON text.
///
/// The controller keeps the Rollouts of all namespaces in memory. It reads a pod spec only to create
/// a revision, and a tree of [`Value`] takes about five times the memory of its text.
#[derive(Clone, PartialEq, Eq)]
pub struct PodSpecText(Arc<str>);

impl PodSpecText {
    /// The pod spec as a tree of values.
    pub fn to_value(&self) -> Value {
        // The text was written by `serde_json`. Every value that it wrote can be read.
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

/// No pod spec: JSON `null`.
impl Default for PodSpecText {
    fn default() -> Self {
        Self::from(&Value::Null)
    }
}

impl From<&Value> for PodSpecText {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into())
    }
}

impl fmt::Debug for PodSpecText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for PodSpecText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PodSpecText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(&Value::deserialize(deserializer)?))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Any JSON value of a few levels.
    pub(crate) fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(|number| json!(number)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_pod_spec_is_the_same_after_it_was_kept_as_text(value in any_json()) {
            let kept: PodSpecText = serde_json::from_value(value.clone()).unwrap();
            prop_assert_eq!(kept.to_value(), value.clone());
            prop_assert_eq!(serde_json::to_value(&kept).unwrap(), value);
        }
    }
}
