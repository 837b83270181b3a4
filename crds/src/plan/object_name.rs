//! Names of objects.

/// Maximum length of a name in bytes.
pub(super) const MAX_NAME_BYTES: usize = 253;

/// Whether this is a DNS subdomain name (RFC 1123), as the names of most objects are.
pub(super) fn is_object_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let ends = |c: char| c == '-' || c == '.';
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name.bytes().all(allowed)
        && !name.starts_with(ends)
        && !name.ends_with(ends)
}
