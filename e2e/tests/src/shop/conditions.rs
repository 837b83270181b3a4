//! Conditions of a Rollout that tests wait for.

use serin_core::state::{Phase, Stage};
use serin_crds::{Rollout, RolloutStatus};

/// Whether the current revision is stable, and the status is about the latest generation.
pub fn is_stable(rollout: &Rollout) -> bool {
    rollout.status.as_ref().is_some_and(|status| {
        status.state.phase == Phase::Healthy
            && is_latest(rollout, status)
            && status.state.stable_revision.is_some()
            && status.state.stable_revision == status.state.current_revision
    })
}

/// Whether the latest release is aborted.
pub fn is_aborted(rollout: &Rollout) -> bool {
    rollout
        .status
        .as_ref()
        .is_some_and(|status| status.state.stage == Stage::Aborted && is_latest(rollout, status))
}

/// Whether the release is paused, and the status is about the latest generation.
pub fn is_paused(rollout: &Rollout) -> bool {
    rollout
        .status
        .as_ref()
        .is_some_and(|status| status.state.pause.is_some() && is_latest(rollout, status))
}

/// Whether the status is about the latest generation.
fn is_latest(rollout: &Rollout, status: &RolloutStatus) -> bool {
    Some(status.state.observed_generation) == rollout.metadata.generation
}

/// The cause and message of the abort.
pub(super) fn abort_message(rollout: &Rollout) -> String {
    let abort = rollout
        .status
        .as_ref()
        .and_then(|status| status.state.abort.as_ref());
    abort
        .map(|abort| format!("{}: {}", abort.cause, abort.message))
        .unwrap_or_default()
}

/// The last verified share of the canary in percent.
pub fn verified_weight(rollout: &Rollout) -> Option<f64> {
    let verified = rollout.status.as_ref()?.state.weights.verified?;
    Some(verified.as_percent())
}
