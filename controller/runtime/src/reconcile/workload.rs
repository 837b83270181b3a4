//! Reads the workload that a Rollout takes over or gives back.

use std::sync::Arc;
use std::time::Duration;

use serin_core::command::Verb;
use serin_core::observed::ReplicasSource;
use serin_core::plan::{Plan, Takeover};
use serin_core::state::{State, WorkloadPhase};

use super::{Context, ReconcileError};
use crate::cluster_cache::RolloutObject;
use crate::local_state::LocalState;
use crate::observe::Snapshot;
use crate::workload::{ReadError, WorkloadObjects, WorkloadRequest};

/// Maximum time for the requests of one reconcile.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Time until the objects of a workload that changes its controller are read again.
pub(super) const RECHECK: Duration = Duration::from_millis(500);

/// The same for a workload that waits for its takeover. A watch reports changes of the Deployment.
const WAITING_RECHECK: Duration = Duration::from_secs(5);

impl From<ReadError> for ReconcileError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Failed(error) => Self::api("reading the workload")(error),
            ReadError::Forbidden(_) => Self::Failed(error.to_string()),
        }
    }
}

pub(super) async fn within_time<T>(
    work: impl Future<Output = Result<T, ReadError>>,
) -> Result<T, ReconcileError> {
    let read = tokio::time::timeout(READ_TIMEOUT, work).await;
    let timeout = || {
        let seconds = READ_TIMEOUT.as_secs();
        ReconcileError::Failed(format!(
            "reading the workload: no response within {seconds} s"
        ))
    };
    Ok(read.map_err(|_| timeout())??)
}

/// When a Rollout that does not manage its pods is reconciled again.
pub(super) fn recheck_after(state: &State) -> Duration {
    match state.workload.as_ref().map(|workload| workload.phase) {
        Some(WorkloadPhase::TakingOver | WorkloadPhase::GivingBack) => RECHECK,
        Some(_) | None => WAITING_RECHECK,
    }
}

/// The Rollout with the template of its Deployment.
pub(super) async fn resolve(
    context: &Context,
    rollout: Arc<RolloutObject>,
    local: &mut LocalState,
) -> Result<Arc<RolloutObject>, ReconcileError> {
    within_time(
        local
            .workload
            .resolve(&context.client, &context.cache, rollout),
    )
    .await
}

/// The objects of the workload. `None` if the Rollout neither takes one over nor gives it back.
pub(super) async fn read(
    context: &Context,
    rollout: &RolloutObject,
    plan: &Plan,
    snapshot: &Snapshot,
    local: &mut LocalState,
) -> Result<Option<WorkloadObjects>, ReconcileError> {
    let state = &rollout.status.state;
    let phase = state.workload.as_ref().map(|workload| workload.phase);
    let is_requested = has_request(snapshot);
    let is_returning = phase == Some(WorkloadPhase::GivingBack) || is_requested;
    let Some(deployment) = deployment_name(rollout, plan, state, is_returning) else {
        return Ok(None);
    };
    let is_in_place = plan
        .workload
        .adoption()
        .is_some_and(|adoption| adoption.takeover == Takeover::InPlace);
    let is_new = state.stable_revision.is_none() && state.current_revision.is_none();
    let is_taking =
        phase == Some(WorkloadPhase::TakingOver) || (phase.is_none() && is_new && is_in_place);
    let stable = state.stable_revision.as_ref();
    let stable = stable.and_then(|revision| snapshot.replica_sets.get(revision));
    let request = WorkloadRequest {
        rollout,
        deployment: &deployment,
        is_taking,
        is_returning,
        stable: stable.map(AsRef::as_ref),
    };
    let objects = local
        .workload
        .objects(&context.client, &context.cache, request);
    within_time(objects).await.map(Some)
}

/// Whether a command to give the pods back is pending.
fn has_request(snapshot: &Snapshot) -> bool {
    let mut pending = snapshot
        .commands
        .iter()
        .filter(|command| command.finished_at.is_none());
    pending.any(|cached| cached.command.verb == Verb::GiveBack)
}

/// The Deployment of the workload. Without one in the spec, the pods are given to a Deployment with
/// the name of the Rollout.
pub(super) fn deployment_name(
    rollout: &RolloutObject,
    plan: &Plan,
    state: &State,
    is_returning: bool,
) -> Option<String> {
    let of_state = state.workload.as_ref();
    let of_state = of_state.map(|workload| workload.deployment.clone());
    let of_plan = || {
        let adoption = plan.workload.adoption();
        adoption.map(|adoption| adoption.deployment.clone())
    };
    let of_name = || rollout.metadata.name.clone().filter(|_| is_returning);
    of_state.or_else(of_plan).or_else(of_name)
}

/// Keeps the number of pods that a workload has, if the manifest of the Rollout leaves `replicas`
/// out: the default of the API server is 1. Returns whether the plan has changed.
pub(super) fn keep_replicas(
    plan: &mut Plan,
    source: ReplicasSource,
    state: &State,
    snapshot: &Snapshot,
) -> bool {
    let source = source.resolved(state.replicas_scaled);
    let is_set = matches!(source, ReplicasSource::Declared | ReplicasSource::Scaled);
    let has_begun = state.stable_revision.is_some() || state.current_revision.is_some();
    if is_set || has_begun {
        return false;
    }
    let of_workload = snapshot.workload.as_ref();
    let of_workload = of_workload.and_then(|workload| workload.replicas);
    let of_orphans = snapshot.replica_sets.values().map(|set| set.desired).max();
    let replicas = of_workload.max(of_orphans).unwrap_or(0);
    let is_more = replicas > plan.replicas;
    plan.replicas = plan.replicas.max(replicas);
    is_more
}
