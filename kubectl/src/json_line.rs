//! A JSON object on a line of its own, as people and pipelines write them.

use std::fmt::Display;

use serde::de::DeserializeOwned;

/// Some editors begin a file with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a line; what is wrong with it is told with its field.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let bytes = bytes
        .strip_prefix(BYTE_ORDER_MARK)
        .unwrap_or(bytes)
        .trim_ascii();
    // A list would be taken for the fields in their order.
    if !bytes.starts_with(b"{") {
        return Err("not a JSON object".to_owned());
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| with_field(&error))?;
    json.end()
        .map_err(|error| format!("one object a line: {error}"))?;
    Ok(parsed)
}

/// An error of reading values, behind the path of its field.
pub(crate) fn with_field<E: Display>(error: &serde_path_to_error::Error<E>) -> String {
    // The reader of one line counts lines of its own, which say nothing here.
    let why = error
        .inner()
        .to_string()
        .replace(" at line 1 column ", " at column ");
    match error.path().to_string().as_str() {
        // A line that is no JSON has no fields, or ends within one.
        "." | "?" | "" => why,
        path => format!("{path}: {why}"),
    }
}
