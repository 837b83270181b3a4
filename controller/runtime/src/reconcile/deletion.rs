//! Deletion of a Rollout: restores the objects that it has changed. The objects that it owns are
//! deleted by garbage collection.

use jiff::Timestamp;
use kube::Client;
use kube::runtime::controller::Action;
use serin_core::plan::Plan;
use serin_core::state::State;
use serin_crds::RolloutStatus;

use super::spec_view::SpecView;
use super::{Context, ReconcileError, finalizer};
use crate::cluster_cache::{ClusterCache, RolloutObject};
use crate::effects::{self, EffectExecutor};
use crate::election::Leadership;
use crate::observe::Snapshot;
use crate::telemetry::Metrics;

pub(super) async fn delete(
    context: &Context,
    rollout: &RolloutObject,
    status: &RolloutStatus,
    state: &State,
) -> Result<Action, ReconcileError> {
    context.analyzer.stop(rollout.uid());
    if !finalizer::is_held(rollout) {
        return Ok(Action::await_change());
    }
    if let Some(plan) = plan_to_restore(rollout, state, context.clock.now()) {
        let restorer = ResourceRestorer {
            client: &context.client,
            cache: &context.cache,
            leadership: &context.leadership,
            metrics: &context.metrics,
            now: context.clock.now(),
            keeps_selectors: false,
        };
        restorer.restore(rollout, status, &plan).await?;
    }
    finalizer::write(
        context,
        rollout,
        "removing the finalizer",
        &finalizer::other_finalizers(rollout),
    )
    .await?;
    tracing::info!("restored routes and Services of deleted Rollout");
    Ok(Action::await_change())
}

/// The plan under which routes and Services were changed: the active plan, or else the plan of the
/// spec.
fn plan_to_restore(rollout: &RolloutObject, state: &State, now: Timestamp) -> Option<Plan> {
    let in_force = state.plan.as_ref().map(|plan| plan.spec.clone());
    in_force.or_else(|| SpecView::from_rollout(rollout, state, now).plan)
}

/// Restores what a Rollout has changed in objects that it does not own.
pub struct ResourceRestorer<'a> {
    pub client: &'a Client,
    /// The current routes and Services.
    pub cache: &'a ClusterCache,
    /// Whether this process may act.
    pub leadership: &'a Leadership,
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
    ) -> Result<(), ReconcileError> {
        let snapshot = Snapshot::from_cache(self.cache, &rollout.key(), rollout.uid(), Some(plan));
        let executor = EffectExecutor {
            client: self.client,
            cache: self.cache,
            leadership: self.leadership,
            metrics: self.metrics,
            rollout,
            spec: None,
            status,
            plan,
            snapshot: &snapshot,
            now: self.now,
        };
        effects::restore_all_routes(&executor, &status.original_routes).await?;
        if !self.keeps_selectors {
            effects::release_all_services(&executor).await?;
        }
        Ok(())
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
    let state = status.state().state;
    if let Some(plan) = plan_to_restore(rollout, &state, restorer.now) {
        restorer
            .restore(rollout, status, &plan)
            .await
            .map_err(|failure| failure.to_string())?;
    }
    restorer.metrics.record_api_write("Rollout", "patch");
    let written = finalizer::patch(
        restorer.client,
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
