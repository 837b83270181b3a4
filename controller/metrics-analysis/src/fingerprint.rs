//! Short identifiers of queries and configurations.

use sha2::{Digest, Sha256};

/// Returns a short hash that identifies `text`.
pub(crate) fn fingerprint(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let start = digest
        .iter()
        .take(8)
        .fold(0_u64, |start, byte| (start << 8) | u64::from(*byte));
    format!("{start:016x}")
}
