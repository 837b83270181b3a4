//! Deletion of a Rollout: restores the objects that it has changed. The objects that it owns are
//! deleted by garbage collection.

use std::sync::Arc;

use jiff::Timestamp;
use kube::Client;
use serin_core::effect::{Level, Reason};
use serin_core::plan::Plan;
use serin_core::state::State;
use serin_crds::RolloutStatus;

use super::give_back::{self, Progress};
use super::spec_view::{PlanSource, SpecView};
use super::{Context, ReconcileError, finalizer, workload};
use crate::cluster_cache::{ClusterCache, RolloutObject};
use crate::dispatcher::Action;
use crate::effects::{self, Corrections, EffectError, EffectExecutor};
use crate::journal::Attempt;
use crate::local_state::LocalState;
use crate::observe::Snapshot;
use crate::ownership::Ownership;
use crate::planner::{PlanCache, Planner};
use crate::telemetry::Metrics;

/// Number of attempts to restore an object although a policy refuses it. With the backoff of a failed
/// reconcile, about a minute.
const RESTORE_ATTEMPTS: u32 = 10;

/// Number of attempts to give the pods to a Deployment.
const GIVE_BACK_ATTEMPTS: u32 = 20;

pub(super) async fn delete(
    context: &Context,
    rollout: &Arc<RolloutObject>,
    status: &RolloutStatus,
    state: &State,
    attempt: Option<&Attempt>,
    local: &mut LocalState,
) -> Result<Action, ReconcileError> {
    context.analyzer.stop(rollout.uid());
    if !finalizer::is_held(rollout) {
        return Ok(Action::AwaitChange);
    }
    let source = PlanSource {
        planner: &context.safeguards.planner,
        cache: &mut local.plans,
        attempt,
    };
    // A Rollout that observes has changed nothing.
    if state.observation.is_none()
        && let Some(plan) = plan_to_restore(rollout, source, state, context.clock.now()).await
    {
        let restorer = ResourceRestorer {
            client: &context.client,
            cache: &context.cache,
            ownership: context.ownership.as_ref(),
            metrics: &context.metrics,
            now: context.clock.now(),
            keeps_selectors: false,
        };
        if let Err(error) = restorer.restore(rollout, status, &plan).await {
            if error.is_refused_by_policy() {
                local.restore_refusals = local.restore_refusals.saturating_add(1);
            }
            if !error.is_refused_by_policy() || local.restore_refusals < RESTORE_ATTEMPTS {
                return Err(error.into());
            }
            abandon_restore(context, rollout, &error, local);
        }
        match give_back::advance(context, rollout, &plan, local).await {
            Ok(Progress::Complete) => {}
            Ok(Progress::Pending) => return Ok(Action::Requeue(workload::RECHECK)),
            Err(error) => {
                // A namespace that is being deleted accepts no Deployment.
                local.restore_refusals = local.restore_refusals.saturating_add(1);
                if local.restore_refusals < GIVE_BACK_ATTEMPTS {
                    return Err(error);
                }
                tracing::error!(%error, "cannot give the pods of the deleted Rollout back; giving up");
            }
        }
    }
    finalizer::write(
        context,
        rollout,
        "removing the finalizer",
        &finalizer::other_finalizers(rollout),
    )
    .await?;
    tracing::info!("removed the finalizer of the deleted Rollout");
    Ok(Action::AwaitChange)
}

/// Reports that an object is left as it is: a policy refuses to restore it, and the finalizer would
/// block the deletion of the Rollout and its namespace forever.
fn abandon_restore(
    context: &Context,
    rollout: &RolloutObject,
    error: &EffectError,
    local: &mut LocalState,
) {
    let message = format!(
        "not restored after {RESTORE_ATTEMPTS} attempts, and left as it is: {error}. Set its weights \
         or its selector by hand"
    );
    tracing::error!(%error, "cannot restore an object of the deleted Rollout; giving up");
    let reasons = [Reason {
        code: "RestoreAbandoned",
        message: message.into(),
        level: Level::Warning,
    }];
    let dedup = &mut local.event_dedup;
    let events = &context.events;
    events.publish(rollout, &reasons, "deletion", true, dedup);
}

/// The plan under which routes and Services were changed: the active plan, or else the plan of the
/// spec.
async fn plan_to_restore(
    rollout: &Arc<RolloutObject>,
    source: PlanSource<'_>,
    state: &State,
    now: Timestamp,
) -> Option<Plan> {
    match &state.plan {
        Some(active) => Some(active.spec.clone()),
        None => SpecView::load(rollout, source, state, now).await.plan,
    }
}

/// Restores what a Rollout has changed in objects that it does not own.
pub struct ResourceRestorer<'a> {
    pub client: &'a Client,
    /// The current routes and Services.
    pub cache: &'a ClusterCache,
    /// Which Rollouts this process may act on.
    pub ownership: &'a dyn Ownership,
    /// Counts the writes.
    pub metrics: &'a Metrics,
    /// The current time.
    pub now: Timestamp,
    /// Whether Services keep the revision in their selector.
    pub keeps_selectors: bool,
}

impl ResourceRestorer<'_> {
    async fn restore(
        &self,
        rollout: &RolloutObject,
        status: &RolloutStatus,
        plan: &Plan,
    ) -> Result<(), EffectError> {
        let snapshot = Snapshot::from_cache(self.cache, &rollout.key(), rollout.uid(), Some(plan));
        let corrections = Corrections::default();
        let executor = EffectExecutor {
            client: self.client,
            cache: self.cache,
            ownership: self.ownership,
            metrics: self.metrics,
            rollout,
            spec: None,
            is_spec_valid: false,
            status,
            plan,
            snapshot: &snapshot,
            corrections: &corrections,
            now: self.now,
        };
        let routes = effects::restore_all_routes(&executor, &status.original_routes).await;
        let services = if self.keeps_selectors {
            Ok(())
        } else {
            effects::release_all_services(&executor).await
        };
        // What may succeed later comes first, so that it is not given up with the rest.
        match (routes, services) {
            (Err(routes), Err(services)) if routes.is_refused_by_policy() => Err(services),
            (routes, services) => routes.and(services),
        }
    }
}

/// Restores what a Rollout has changed and removes its finalizer, without a running controller.
/// Returns whether the Rollout had the finalizer.
///
/// # Errors
/// Why the finalizer is still there.
pub async fn release_finalizer(
    restorer: &ResourceRestorer<'_>,
    rollout: &RolloutObject,
) -> Result<bool, String> {
    if !finalizer::is_held(rollout) {
        return Ok(false);
    }
    let status = &rollout.status;
    let source = PlanSource {
        planner: &Planner::default(),
        cache: &mut PlanCache::default(),
        attempt: None,
    };
    let shared = Arc::new(rollout.clone());
    if let Some(plan) = plan_to_restore(&shared, source, &status.state, restorer.now).await {
        restorer
            .restore(rollout, status, &plan)
            .await
            .map_err(|failure| failure.to_string())?;
    }
    restorer.metrics.record_api_write("Rollout", "patch");
    let written = finalizer::patch(
        restorer.client,
        restorer.ownership,
        rollout,
        "removing the finalizer",
        &finalizer::other_finalizers(rollout),
    )
    .await;
    match written {
        Ok(_) | Err(ReconcileError::Gone) => Ok(true),
        Err(failure) => Err(failure.to_string()),
    }
}
