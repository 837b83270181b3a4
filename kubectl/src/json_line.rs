//! Parser for JSON Lines input.

use std::fmt::Display;

use serde::de::DeserializeOwned;

/// UTF-8 byte order mark, which some editors write at the start of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Parses one line. Errors name the field.
///
/// # Errors
/// Returns the field and the problem.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let bytes = bytes
        .strip_prefix(BYTE_ORDER_MARK)
        .unwrap_or(bytes)
        .trim_ascii();
    // serde would read a list as the fields in their order.
    if !bytes.starts_with(b"{") {
        return Err("not a JSON object".to_owned());
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| with_field(&error))?;
    json.end()
        .map_err(|error| format!("expected one object per line: {error}"))?;
    Ok(parsed)
}

/// The error with the path of its field in front.
pub(crate) fn with_field<E: Display>(error: &serde_path_to_error::Error<E>) -> String {
    // The parser sees a single line, so its line number is always 1.
    let why = error
        .inner()
        .to_string()
        .replace(" at line 1 column ", " at column ");
    match error.path().to_string().as_str() {
        // Invalid or incomplete JSON has no field path.
        "." | "?" | "" => why,
        path => format!("{path}: {why}"),
    }
}
