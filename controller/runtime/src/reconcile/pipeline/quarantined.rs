//! The reconcile of a quarantined Rollout that is aborted.
//!
//! It takes the shortest path, without what may have panicked or ended the process: the spec is not
//! planned, its template is not looked up, and its metrics are not analyzed. The active plan of the
//! status stays active.

use std::sync::Arc;

use serin_core::decide;
use serin_core::state::{Stage, State};

use super::{Reconcile, requeue_after};
use crate::cluster_cache::RolloutObject;
use crate::dispatcher::Action;
use crate::local_state::LocalState;
use crate::observe::{ObserveInputs, Snapshot, observe};
use crate::reconcile::analysis::AnalysisOutcome;
use crate::reconcile::spec_view::SpecView;
use crate::reconcile::{Context, ReconcileError, degraded};

/// Carries out the pending aborts of a quarantined Rollout, and returns an aborted release to
/// stable. Returns when to run the next reconcile.
pub(in crate::reconcile) async fn run_quarantined(
    context: &Context,
    rollout: Arc<RolloutObject>,
    local: &mut LocalState,
) -> Result<Action, ReconcileError> {
    let state = rollout.status.state.clone();
    let mut spec_view =
        SpecView::from_active_plan(&rollout, "the Rollout is quarantined".to_owned(), &state);
    let Some(plan) = spec_view.plan.take() else {
        return degraded::refuse_quarantined(context, &rollout).await;
    };
    let key = rollout.key();
    context.cache.record_plan(&rollout, &plan);
    let mut snapshot = Snapshot::from_cache(&context.cache, &key, rollout.uid(), Some(&plan));
    snapshot.record_holds(
        &context.cache,
        &rollout,
        plan.services(),
        &local.corrections,
    );
    let reconcile = Reconcile {
        context,
        rollout: &rollout,
        status: &rollout.status,
        spec_view,
        plan,
        snapshot,
        now: context.clock.now(),
    };
    reconcile.abort_quarantined(state, local).await
}

impl Reconcile<'_> {
    async fn abort_quarantined(
        &self,
        state: State,
        local: &mut LocalState,
    ) -> Result<Action, ReconcileError> {
        let analysis = AnalysisOutcome::without_analysis(self.status, &state);
        let inputs = ObserveInputs {
            is_quarantined: true,
            ..self.observe_inputs(state)
        };
        let times = &mut local.observation_times;
        let observed = observe(&self.snapshot, &self.plan, inputs, times, self.now);
        let decision = decide(&self.plan, &observed, self.now)?;
        let carried_out = Box::pin(self.carry_out(&observed, &decision, &analysis, local));
        let next = carried_out.await?;
        if decision.state.stage == Stage::Aborted {
            // Its answers may be what ended the process.
            self.context.analyzer.stop(self.rollout.uid());
            local.analyzing = false;
        }
        Ok(requeue_after([next]))
    }
}
