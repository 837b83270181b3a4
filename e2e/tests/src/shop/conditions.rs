//! Conditions of a Rollout that tests wait for.

use serin_crds::Rollout;

/// Whether the current revision is stable, and the status is about the latest generation.
pub fn is_stable(rollout: &Rollout) -> bool {
    rollout.status.as_ref().is_some_and(|status| {
        status.phase.as_deref() == Some("Healthy")
            && status.observed_generation == rollout.metadata.generation
            && status.stable_revision.is_some()
            && status.stable_revision == status.current_revision
    })
}

/// Whether the latest release is aborted.
pub fn is_aborted(rollout: &Rollout) -> bool {
    rollout.status.as_ref().is_some_and(|status| {
        status.stage.as_deref() == Some("Aborted")
            && status.observed_generation == rollout.metadata.generation
    })
}

/// Whether the release is paused, and the status is about the latest generation.
pub fn is_paused(rollout: &Rollout) -> bool {
    rollout.status.as_ref().is_some_and(|status| {
        status.pause.is_some() && status.observed_generation == rollout.metadata.generation
    })
}

/// The cause and message of the abort.
pub(super) fn abort_message(rollout: &Rollout) -> String {
    let abort = rollout
        .status
        .as_ref()
        .and_then(|status| status.abort.as_ref());
    abort
        .map(|abort| format!("{}: {}", abort.cause, abort.message))
        .unwrap_or_default()
}

/// The last verified share of the canary in percent.
pub fn verified_weight(rollout: &Rollout) -> Option<f64> {
    rollout.status.as_ref()?.weights.as_ref()?.verified
}
