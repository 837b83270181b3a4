//! The reconcile of a Rollout in observe mode: another controller changes the pods and the traffic.
//!
//! It has no effects. The only objects that it writes are the status of the Rollout, the outcomes of
//! its commands, which are all refused, and Events.

use std::sync::Arc;
use std::time::Duration;

use serin_core::observation::{follow, record_decision};
use serin_core::observed::Observed;
use serin_core::plan::Plan;
use serin_core::state::{Phase, State};
use serin_crds::RolloutStatus;

use super::report::log_reasons;
use super::{Reconcile, requeue_after};
use crate::cluster_cache::RolloutObject;
use crate::dispatcher::Action;
use crate::foreign_workload::{ForeignObjects, ForeignRequest, IDLE_INTERVAL, RELEASE_INTERVAL};
use crate::journal::Attempt;
use crate::local_state::LocalState;
use crate::observe::{ObserveInputs, Snapshot, observe};
use crate::reconcile::analysis::AnalysisOutcome;
use crate::reconcile::api_writer::with_timeout;
use crate::reconcile::spec_view::{PlanSource, SpecView};
use crate::reconcile::{Context, ReconcileError, degraded, workload};
use crate::status::{self, StatusInputs};

const REFUSAL: &str = "spec.mode is Observe: another controller manages the pods, and Serin \
                       changes nothing";

/// Runs one reconcile. Returns when to run the next one.
pub(super) async fn run(
    context: &Context,
    rollout: Arc<RolloutObject>,
    attempt: Option<&Attempt>,
    local: &mut LocalState,
) -> Result<Action, ReconcileError> {
    let now = context.clock.now();
    let rollout = workload::resolve(context, rollout, local).await?;
    let state = rollout.status.state.clone();
    let source = PlanSource {
        planner: &context.safeguards.planner,
        cache: &mut local.plans,
        attempt,
    };
    let mut spec_view = SpecView::load(&rollout, source, &state, now).await;
    let problem = spec_view.problem.take().or_else(|| managed_problem(&state));
    let (Some(plan), None) = (spec_view.plan.take(), &problem) else {
        let problem = problem.unwrap_or_default();
        let status = &rollout.status;
        let reported = degraded::report_invalid_spec(context, &rollout, status, problem, local);
        let action = reported.await?;
        return Ok(spec_view.recheck_after.map_or(action, Action::Requeue));
    };
    let next_commands = degraded::refuse_commands(context, &rollout, REFUSAL).await?;
    let objects = read_objects(context, &rollout, &spec_view, &plan, local).await?;
    let snapshot = Snapshot::from_cache(&context.cache, &rollout.key(), rollout.uid(), Some(&plan));
    let mut reconcile = Reconcile {
        context,
        rollout: &rollout,
        status: &rollout.status,
        spec_view,
        plan,
        snapshot,
        now,
    };
    let next = Box::pin(reconcile.follow(state, objects, local)).await?;
    Ok(requeue_after([next, next_commands]))
}

/// A Rollout with pods of its own cannot leave them.
fn managed_problem(state: &State) -> Option<String> {
    let is_managed = state.plan.is_some() || state.workload.is_some();
    (is_managed && state.observation.is_none()).then(|| {
        "spec.mode: Invalid value: \"Observe\": the Rollout manages pods; remove the field, and \
         create another Rollout to observe"
            .to_owned()
    })
}

/// A Rollout that observed and now manages starts like a new one: nothing of its status is about
/// objects of its own.
pub(super) fn without_observation(
    context: &Context,
    rollout: Arc<RolloutObject>,
    local: &mut LocalState,
) -> Arc<RolloutObject> {
    if rollout.status.state.observation.is_none() {
        return rollout;
    }
    context.analyzer.stop(rollout.uid());
    local.analyzing = false;
    // The next write replaces the whole status.
    local.is_status_known = false;
    Arc::new(RolloutObject {
        status: Arc::default(),
        ..(*rollout).clone()
    })
}

async fn read_objects(
    context: &Context,
    rollout: &RolloutObject,
    spec_view: &SpecView<'_>,
    plan: &Plan,
    local: &mut LocalState,
) -> Result<Result<ForeignObjects, String>, ReconcileError> {
    let key = rollout.key();
    let selector = spec_view.spec.map(|spec| &spec.selector);
    let Some(selector) = selector.and_then(status::selector_string) else {
        return Ok(Err(
            "spec.selector: it is longer than 2,048 bytes or has an unknown operator".to_owned(),
        ));
    };
    let services = plan.services();
    let request = ForeignRequest {
        namespace: key.namespace.clone(),
        selector,
        services: services.map(|routing| routing.services().map(|(_, name)| name.clone())),
    };
    let max_age = interval(&rollout.status.state);
    let read = local
        .foreign_workload
        .read(&context.client, request, max_age);
    let ownership = context.ownership.as_ref();
    with_timeout(ownership, &key, "reading the observed pods", read).await
}

/// The interval at which the pods are read.
const fn interval(state: &State) -> Duration {
    if state.release_started_at.is_some() {
        RELEASE_INTERVAL
    } else {
        IDLE_INTERVAL
    }
}

impl Reconcile<'_> {
    /// Follows the other controller and writes the status. Returns when to reconcile again.
    async fn follow(
        &mut self,
        before: State,
        objects: Result<ForeignObjects, String>,
        local: &mut LocalState,
    ) -> Result<Option<Duration>, ReconcileError> {
        let mut state = before.clone();
        state.observed_generation = self.rollout.generation();
        let (mut reasons, problem) = match objects {
            Ok(objects) => {
                self.snapshot.replica_sets = objects.replica_sets;
                self.snapshot.pods = objects.pods;
                (follow(&mut state, &objects.workload, self.now), None)
            }
            Err(problem) => (Vec::new(), Some(problem)),
        };
        let inputs = ObserveInputs {
            target: state.current_revision.clone(),
            incompatible_state: None,
            ..self.observe_inputs(state.clone())
        };
        let times = &mut local.observation_times;
        let mut observed = observe(&self.snapshot, &self.plan, inputs, times, self.now);
        let analysis = match problem {
            None => {
                let analysis = self.analyze(&self.plan, &mut observed, local);
                reasons.extend(record_decision(&mut state, &observed, &self.plan, self.now));
                analysis
            }
            Some(problem) => {
                let analysis = AnalysisOutcome::without_analysis(self.status, &state);
                state.phase = Phase::Degraded;
                state.message = format!("cannot observe: {problem}").into();
                analysis
            }
        };
        log_reasons(&reasons);
        let next = self.status_of_observation(&state, &observed, &analysis);
        let newest = Arc::clone(self.rollout);
        let written = self.write_status(newest, &before, &next, local).await?;
        self.publish_events(&written, &state, &reasons, local);
        let recheck = self.spec_view.recheck_after;
        let waits = [written.due_in, Some(interval(&state)), recheck];
        Ok(waits.into_iter().flatten().min())
    }

    fn status_of_observation(
        &self,
        state: &State,
        observed: &Observed,
        analysis: &AnalysisOutcome,
    ) -> RolloutStatus {
        let selector = self.spec_view.spec.map(|spec| &spec.selector);
        let pods = observed.replica_sets.values().map(|set| set.current).sum();
        let inputs = StatusInputs {
            counts: self.snapshot.counts(state.current_revision.as_ref(), pods),
            selector: selector.and_then(status::selector_string),
            ..self.status_inputs(&self.plan, state, observed, analysis)
        };
        status::status(inputs, self.status)
    }
}
