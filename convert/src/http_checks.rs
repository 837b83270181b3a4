//! What the converters share about checks by HTTP.

use serde_json::{Value, json};

use crate::note::Notes;

/// Maximum timeout of a request in seconds, as in the schema.
const MAX_TIMEOUT_SECONDS: f64 = 30.0;

/// Notes that an address needs the consent of the installer, if it is not a Service by its complete
/// name.
pub(crate) fn record_address_note(url: &str, path: String, notes: &mut Notes) {
    let authority = url.split("://").nth(1).unwrap_or_default();
    let host = authority.split(['/', ':', '?']).next().unwrap_or_default();
    let service = host.strip_suffix(".cluster.local").unwrap_or(host);
    if service
        .rsplit_once('.')
        .is_some_and(|(_, last)| last == "svc")
    {
        return;
    }
    notes.changed(
        path,
        format!("the controller sends the request to {host} only if its installer allows it"),
        "use the complete name of a Service in the namespace of the Rollout, for example \
         NAME.NAMESPACE.svc, or add the address to checks.allowedAddresses of the chart",
    );
}

/// A timeout within the limit.
pub(crate) fn timeout_seconds(seconds: f64, path: String, notes: &mut Notes) -> Value {
    if seconds > MAX_TIMEOUT_SECONDS {
        notes.changed(
            path,
            format!("a request takes at most {MAX_TIMEOUT_SECONDS} s"),
            "run a longer test as a Job",
        );
    }
    #[expect(clippy::cast_possible_truncation, reason = "1 to 30")]
    let seconds = seconds.clamp(1.0, MAX_TIMEOUT_SECONDS) as i64;
    json!(seconds)
}
