//! Gives the pods of a deleted Rollout to a Deployment, without a restart.

use std::sync::Arc;

use serin_core::observed::WorkloadView;
use serin_core::plan::{Plan, Routing};
use serin_core::state::{State, WorkloadPhase};
use serin_core::{GiveBack, give_back_effects};
use serin_crds::workload::OnDelete;

use super::{Context, ReconcileError, workload};
use crate::cluster_cache::{Key, RolloutObject};
use crate::effects::{Corrections, EffectExecutor};
use crate::local_state::LocalState;
use crate::observe::Snapshot;
use crate::workload::WorkloadRequest;

/// How far the return has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing is left to give back.
    Complete,
    /// More steps follow once the cluster has changed.
    Pending,
}

/// Gives back the stable revision of a deleted Rollout, as far as possible now. Nothing is done if
/// the pods are to be deleted, or if somebody has asked Kubernetes to orphan them.
pub(super) async fn advance(
    context: &Context,
    rollout: &RolloutObject,
    plan: &Plan,
    local: &mut LocalState,
) -> Result<Progress, ReconcileError> {
    let state = &rollout.status.state;
    let Some(deployment) = to_give_back(rollout, plan, state) else {
        return Ok(Progress::Complete);
    };
    let (cache, key) = (&context.cache, rollout.key());
    let mut snapshot = Snapshot::from_cache(cache, &key, rollout.uid(), Some(plan));
    let stable = state.stable_revision.as_ref();
    let owned = stable.and_then(|revision| snapshot.replica_sets.get_key_value(revision));
    // A takeover that was not complete.
    let serving = || {
        let sets = snapshot.replica_sets.iter();
        let active = sets.filter(|(_, set)| stable.is_none() && set.desired > 0);
        active.max_by_key(|(_, set)| set.available)
    };
    let owned = owned.or_else(serving);
    let owned = owned.map(|(revision, set)| (revision.clone(), Arc::clone(set)));
    let request = WorkloadRequest {
        rollout,
        deployment: &deployment,
        is_taking: false,
        is_returning: true,
        stable: owned.as_ref().map(|(_, set)| &**set),
    };
    let objects = local.workload.objects(&context.client, cache, request);
    let objects = workload::within_time(objects).await?;
    let is_explicit = on_delete(rollout) == Some(OnDelete::GiveBack);
    if objects.deployment.is_none() && !is_explicit {
        return Ok(Progress::Complete);
    }
    if let Some(problem) = &objects.return_problem
        && objects.deployment.is_some()
        && owned.is_some()
        && state.workload.is_none()
    {
        // A Deployment that the Rollout has not taken over may be somebody else's: it is paused only
        // if it can have the pods.
        let problem = format!("giving the pods back: {problem}");
        return Err(ReconcileError::Failed(problem));
    }
    let view = objects.view();
    snapshot.workload = Some(objects);
    let give_back = GiveBack {
        view: &view,
        replica_set: owned
            .as_ref()
            .map(|(revision, set)| (revision, set.identity.key.name.as_str())),
        // The others are restored already. One that Serin created would be deleted, too.
        is_restored: !owns_stable_service(context, rollout, plan),
    };
    let Some(effects) = give_back_effects(&give_back) else {
        return Ok(Progress::Complete);
    };
    if owned.is_none() && must_stay_paused(&view) {
        tracing::warn!(%deployment, "the Deployment stays paused: its template is not that of the \
            stable revision, and its controller would replace the pods");
        return Ok(Progress::Complete);
    }
    let corrections = Corrections::default();
    let executor = EffectExecutor {
        client: &context.client,
        cache,
        ownership: context.ownership.as_ref(),
        metrics: &context.metrics,
        rollout,
        spec: rollout.spec.as_deref().ok(),
        is_spec_valid: false,
        status: &rollout.status,
        plan,
        snapshot: &snapshot,
        corrections: &corrections,
        now: context.clock.now(),
    };
    for effect in &effects {
        executor.execute(effect).await?;
    }
    Ok(Progress::Pending)
}

/// Whether the stable Service was created by Serin.
fn owns_stable_service(context: &Context, rollout: &RolloutObject, plan: &Plan) -> bool {
    let name = plan.services().map(Routing::stable_service);
    let key = name.map(|name| Key::new(rollout.key().namespace, name));
    let service = key.and_then(|key| context.cache.services.get(&key));
    service.is_some_and(|service| service.owner_uid.as_deref() == Some(rollout.uid()))
}

/// Whether the Deployment would replace the pods if it was resumed: its controller has counted
/// them, and not as those of its template.
fn must_stay_paused(view: &WorkloadView) -> bool {
    view.deployment.as_ref().is_some_and(|deployment| {
        let (pods, replicas) = (deployment.pods, deployment.replicas);
        deployment.paused
            && deployment.is_observed
            && pods >= replicas
            && deployment.updated < replicas
    })
}

fn on_delete(rollout: &RolloutObject) -> Option<OnDelete> {
    rollout.spec.as_ref().ok()?.on_delete
}

/// The Deployment that gets the pods of a deleted Rollout. `None` if they are not given back.
fn to_give_back(rollout: &RolloutObject, plan: &Plan, state: &State) -> Option<String> {
    let phase = state.workload.as_ref().map(|workload| workload.phase);
    let is_taken = matches!(
        phase,
        Some(WorkloadPhase::TakingOver | WorkloadPhase::TakenOver | WorkloadPhase::GivingBack)
    );
    let gives_back = match on_delete(rollout) {
        Some(OnDelete::GiveBack) => phase != Some(WorkloadPhase::GivenBack),
        Some(OnDelete::Delete) => false,
        None => is_taken,
    };
    if !gives_back || is_orphaning(rollout) {
        return None;
    }
    workload::deployment_name(rollout, plan, state, true)
}

/// Whether the Rollout was deleted with `--cascade=orphan`.
fn is_orphaning(rollout: &RolloutObject) -> bool {
    let mut finalizers = rollout.metadata.finalizers.iter().flatten();
    finalizers.any(|finalizer| finalizer == "orphan")
}
