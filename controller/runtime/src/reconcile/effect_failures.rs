//! The effects of one reconcile that failed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::effects::EffectError;

/// Failures of effects in one reconcile.
#[derive(Default)]
pub(super) struct EffectFailures {
    /// Error messages, by effect.
    pub failed: BTreeMap<String, String>,
    /// An object has changed concurrently, or was changed here: reconcile again soon.
    pub retry_soon: bool,
    /// When to put back an object that somebody else keeps changing.
    pub contested: Option<Duration>,
}

impl EffectFailures {
    pub fn record(&mut self, name: &str, result: Result<(), EffectError>) {
        let Err(error) = result else { return };
        if let EffectError::Contested { wait, .. } = error {
            tracing::warn!(effect = name, %error, "object is contested");
            self.contested = Some(self.contested.map_or(wait, |other| other.min(wait)));
            return;
        }
        if error.is_conflict() {
            tracing::debug!(effect = name, %error, "conflict; retrying");
            self.retry_soon = true;
            return;
        }
        tracing::warn!(effect = name, %error, "effect failed");
        self.failed.insert(name.to_owned(), error.to_string());
    }
}
