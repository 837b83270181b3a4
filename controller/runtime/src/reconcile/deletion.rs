//! A Rollout that is being deleted gives back what it has changed; what it has made goes with it.

use jiff::Timestamp;
use kube::Client;
use kube::runtime::controller::Action;
use serin_core::plan::Plan;
use serin_core::state::State;
use serin_crds::RolloutStatus;

use super::reading::Reading;
use super::{Context, Failure, finalizer};
use crate::effects::{self, Hands};
use crate::election::Leadership;
use crate::observe::Snapshot;
use crate::telemetry::Metrics;
use crate::world::{RolloutObject, World};

pub(super) async fn delete(
    context: &Context,
    rollout: &RolloutObject,
    status: &RolloutStatus,
    state: &State,
) -> Result<Action, Failure> {
    context.judge.forget(rollout.uid());
    if !finalizer::is_held(rollout) {
        return Ok(Action::await_change());
    }
    if let Some(plan) = plan_of_changes(rollout, state, context.clock.now()) {
        let give_back = GiveBack {
            client: &context.client,
            world: &context.world,
            leadership: &context.leadership,
            metrics: &context.metrics,
            now: context.clock.now(),
            keeps_selectors: false,
        };
        give_back.carry_out(rollout, status, &plan).await?;
    }
    finalizer::write(
        context,
        rollout,
        "removing the finalizer",
        &finalizer::others(rollout),
    )
    .await?;
    tracing::info!("the Rollout is deleted: its routes and Services are as they were");
    Ok(Action::await_change())
}

/// The plan under which routes and Services were changed: the one in force, or else that of the
/// spec.
fn plan_of_changes(rollout: &RolloutObject, state: &State, now: Timestamp) -> Option<Plan> {
    let in_force = state.plan.as_ref().map(|plan| plan.spec.clone());
    in_force.or_else(|| Reading::of(rollout, state, now).plan)
}

/// Gives back what a Rollout has changed in objects that it does not own.
pub struct GiveBack<'a> {
    /// The API server.
    pub client: &'a Client,
    /// The routes and Services as they are.
    pub world: &'a World,
    /// Whether this process may act.
    pub leadership: &'a Leadership,
    /// Where writes are counted.
    pub metrics: &'a Metrics,
    /// The time now.
    pub now: Timestamp,
    /// Whether Services go on selecting the revision that they select now.
    pub keeps_selectors: bool,
}

impl GiveBack<'_> {
    async fn carry_out(
        &self,
        rollout: &RolloutObject,
        status: &RolloutStatus,
        plan: &Plan,
    ) -> Result<(), Failure> {
        let snapshot = Snapshot::of(self.world, &rollout.key(), rollout.uid(), Some(plan));
        let hands = Hands {
            client: self.client,
            world: self.world,
            leadership: self.leadership,
            metrics: self.metrics,
            rollout,
            spec: None,
            status,
            plan,
            snapshot: &snapshot,
            now: self.now,
        };
        effects::restore_all(&hands, &status.original_routes).await?;
        if !self.keeps_selectors {
            effects::release_services(&hands).await?;
        }
        Ok(())
    }
}

/// Gives back what a Rollout has changed, and removes its finalizer, without a controller. Returns
/// whether it had one.
///
/// # Errors
/// Why the Rollout still has it.
pub async fn release_finalizer(
    give_back: &GiveBack<'_>,
    rollout: &RolloutObject,
) -> Result<bool, String> {
    if !finalizer::is_held(rollout) {
        return Ok(false);
    }
    // A position that cannot be read tells of no route, and a person has to look at what it says.
    let status = rollout.status.as_ref().map_err(Clone::clone)?;
    let state = status.state().map_err(|problem| problem.to_string())?;
    if let Some(plan) = plan_of_changes(rollout, &state, give_back.now) {
        give_back
            .carry_out(rollout, status, &plan)
            .await
            .map_err(|failure| failure.to_string())?;
    }
    give_back.metrics.api_write("Rollout", "patch");
    let written = finalizer::patch(
        give_back.client,
        rollout,
        "removing the finalizer",
        &finalizer::others(rollout),
    )
    .await;
    match written {
        Ok(_) | Err(Failure::Gone) => Ok(true),
        Err(failure) => Err(failure.to_string()),
    }
}
