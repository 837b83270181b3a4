//! Looks into an object's metadata.

use serde_json::Value;

/// A text in `metadata`, empty where there is none.
pub(crate) fn field<'v>(object: &'v Value, name: &str) -> &'v str {
    object["metadata"][name].as_str().unwrap_or_default()
}

pub(crate) fn finalizers(object: &Value) -> &[Value] {
    object["metadata"]["finalizers"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}
