//! Accessors for `metadata`.

use serde_json::Value;

/// A string field of `metadata`, or an empty string if it is missing.
pub(crate) fn metadata_str<'v>(object: &'v Value, name: &str) -> &'v str {
    object["metadata"][name].as_str().unwrap_or_default()
}

pub(crate) fn finalizers(object: &Value) -> &[Value] {
    object["metadata"]["finalizers"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}
