//! Short names of questions.

use sha2::{Digest, Sha256};

/// Tells what was asked from what else might be: a short hash.
pub(crate) fn fingerprint_of(question: &str) -> String {
    let digest = Sha256::digest(question.as_bytes());
    let start = digest
        .iter()
        .take(8)
        .fold(0_u64, |start, byte| (start << 8) | u64::from(*byte));
    format!("{start:016x}")
}
