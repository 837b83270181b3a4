//! The common end of every reconcile: the status is written and Events are published.

use std::sync::Arc;
use std::time::Duration;

use serin_core::effect::{Decision, Level, Reason};
use serin_core::observed::Observed;
use serin_core::plan::Plan;
use serin_core::release_analysis::effective_plan;
use serin_core::scale;
use serin_core::state::State;
use serin_core::units::Revision;
use serin_crds::RolloutStatus;

use super::Reconcile;
use crate::cluster_cache::RolloutObject;
use crate::local_state::LocalState;
use crate::observe::PodCounts;
use crate::reconcile::ReconcileError;
use crate::reconcile::analysis::AnalysisOutcome;
use crate::reconcile::api_writer::replace_status;
use crate::reconcile::position::changes_position;
use crate::status::{
    self, EVIDENCE_INTERVAL, STABLE_FOR, STABLE_FOR_WHILE_BUSY, StatusInputs, Urgency,
};

/// What came of the status of a reconcile.
pub(super) struct WrittenStatus {
    /// The newest version of the Rollout.
    pub rollout: Arc<RolloutObject>,
    /// Whether a change of the position of the release was written.
    pub is_moved: bool,
    /// When the status is due, if it was not written.
    pub due_in: Option<Duration>,
}

impl Reconcile<'_> {
    /// The inputs of a status that every reconcile has. The numbers of pods, the selector, the
    /// original routes, the digests of images and the failing effects are unset.
    pub(super) fn status_inputs<'s>(
        &self,
        plan: &'s Plan,
        state: &'s State,
        observed: &'s Observed,
        analysis: &AnalysisOutcome,
    ) -> StatusInputs<'s> {
        StatusInputs {
            state,
            plan,
            observed,
            counts: PodCounts::default(),
            selector: None,
            analysis: analysis.checkpoint(state, plan, self.now),
            evidence_summary: analysis.summary(state),
            evidence: analysis.evidence(state),
            budgets: analysis.budgets(plan),
            checks: analysis.checks(state),
            original_routes: Vec::new(),
            image_digests: Vec::new(),
            failing_effects: None,
            now: self.now,
        }
    }

    /// The status after a decision.
    pub(super) fn status_of_decision(
        &self,
        observed: &Observed,
        decision: &Decision,
        analysis: &AnalysisOutcome,
        local: &LocalState,
    ) -> RolloutStatus {
        let state = &decision.state;
        let followed = effective_plan(&self.plan, state);
        let scale = scale::report(&followed, observed, &decision.effects, self.now);
        let inputs = StatusInputs {
            counts: self
                .snapshot
                .counts(state.current_revision.as_ref(), scale.replicas),
            selector: self.spec_view.spec.map_or_else(
                || self.status.selector.clone(),
                |spec| status::scale_selector(&spec.selector, scale.revisions.as_ref()),
            ),
            original_routes: self.original_routes(decision),
            image_digests: self.image_digests(decision, local),
            failing_effects: local.effect_failure_message(),
            ..self.status_inputs(&followed, state, observed, analysis)
        };
        let mut next = status::status(inputs, self.status);
        if observed.is_quarantined {
            status::keep_quarantine(&mut next.conditions, &self.status.conditions);
        }
        next
    }

    /// Replaces the status by `next`, which contains `state`, if that is due. `before` is the state
    /// of the status so far.
    pub(super) async fn write_status(
        &self,
        rollout: Arc<RolloutObject>,
        before: &State,
        next: &RolloutStatus,
        local: &mut LocalState,
    ) -> Result<WrittenStatus, ReconcileError> {
        // The digests are recorded before a pod runs them.
        let is_moved = changes_position(before, &next.state)
            || self.status.image_digests != next.image_digests;
        let urgency = match status::urgency(self.status, next) {
            // Fields of another version are replaced.
            Urgency::Never if !rollout.unreadable.is_empty() => Urgency::WhenStable,
            urgency => urgency,
        };
        let due_in = match urgency {
            Urgency::Never => None,
            Urgency::Now if is_moved => Some(Duration::ZERO),
            Urgency::Now => Some(local.status_write_due_in()),
            Urgency::WhenStable => {
                let stable_for = if self.context.dispatcher.is_backed_up() {
                    STABLE_FOR_WHILE_BUSY
                } else {
                    STABLE_FOR
                };
                let next = status::without_volatile_fields(next);
                Some(local.stable_status_due_in(next, stable_for))
            }
            Urgency::Eventually => Some(local.evidence_due_in(EVIDENCE_INTERVAL)),
        };
        if due_in != Some(Duration::ZERO) {
            return Ok(WrittenStatus {
                rollout,
                is_moved: false,
                due_in,
            });
        }
        Ok(WrittenStatus {
            rollout: replace_status(self.context, &rollout, next, local).await?,
            is_moved,
            due_in: None,
        })
    }

    /// Publishes the reasons of a written state as an Event.
    pub(super) fn publish_events(
        &self,
        written: &WrittenStatus,
        state: &State,
        reasons: &[Reason],
        local: &mut LocalState,
    ) {
        let dedup = &mut local.event_dedup;
        let (rollout, position) = (&written.rollout, event_position(state));
        self.context
            .events
            .publish(rollout, reasons, &position, written.is_moved, dedup);
    }
}

/// The position of a release, as the Events name it.
fn event_position(state: &State) -> String {
    let observed = state.observation.as_ref().map_or("", |_| "observed ");
    let revision = state.current_revision.as_ref();
    let revision = revision.map_or("none", Revision::as_str);
    let step = state.step.map(|step| format!(" step {}", step.index + 1));
    let step = step.unwrap_or_default();
    format!("{observed}{:?} {revision}{step}", state.stage)
}

pub(super) fn log_reasons(reasons: &[Reason]) {
    for reason in reasons {
        match reason.level {
            Level::Detail | Level::Normal => {
                tracing::info!(reason = reason.code, "{}", reason.message);
            }
            Level::Warning => tracing::warn!(reason = reason.code, "{}", reason.message),
        }
    }
}
