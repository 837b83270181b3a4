//! The texts of label matchers.

/// The names of a ReplicaSet's pods: its name and a random suffix.
pub(crate) fn pods_of(replica_set: &str) -> String {
    format!("{}-[a-z0-9]+", regex::escape(replica_set))
}

pub(crate) fn either(canary: &str, stable: &str) -> String {
    format!("(?:{canary})|(?:{stable})")
}

pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
