//! The reconcile of a Rollout in observe mode: another controller changes the pods and the traffic.
//!
//! It has no effects. The only objects that it writes are the status of the Rollout, the outcomes of
//! its commands, which are all refused, and Events.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serin_core::effect::Reason;
use serin_core::guardrail::GuardrailReport;
use serin_core::observation::{follow, record_decision};
use serin_core::observed::Observed;
use serin_core::plan::Plan;
use serin_core::state::{Phase, State};
use serin_crds::RolloutStatus;
use serin_metrics_analysis::routes::RouteScope;

use super::{StatusWrite, requeue_after, write_if_due};
use crate::cluster_cache::RolloutObject;
use crate::dispatcher::Action;
use crate::foreign_workload::{ForeignObjects, ForeignRequest, IDLE_INTERVAL, RELEASE_INTERVAL};
use crate::journal::Attempt;
use crate::local_state::LocalState;
use crate::observe::{ObserveInputs, Snapshot, observe};
use crate::reconcile::analysis::{self, AnalysisOutcome};
use crate::reconcile::api_writer::with_timeout;
use crate::reconcile::position::changes_position;
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
    degraded::refuse_commands(context, &rollout, REFUSAL).await?;
    let objects = read_objects(context, &rollout, &spec_view, &plan, local).await?;
    let observing = ObserveMode {
        context,
        rollout: &rollout,
        spec_view: &spec_view,
        plan: &plan,
        now,
    };
    Box::pin(observing.report(state, objects, local)).await
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
        status: Box::default(),
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

struct ObserveMode<'a> {
    context: &'a Context,
    rollout: &'a Arc<RolloutObject>,
    spec_view: &'a SpecView<'a>,
    plan: &'a Plan,
    now: Timestamp,
}

impl ObserveMode<'_> {
    /// Follows the other controller and writes the status.
    async fn report(
        &self,
        before: State,
        objects: Result<ForeignObjects, String>,
        local: &mut LocalState,
    ) -> Result<Action, ReconcileError> {
        let (context, rollout, now) = (self.context, self.rollout, self.now);
        let mut state = before.clone();
        state.observed_generation = rollout.generation();
        let mut reasons = Vec::new();
        let key = rollout.key();
        let mut snapshot =
            Snapshot::from_cache(&context.cache, &key, rollout.uid(), Some(self.plan));
        let problem = match objects {
            Ok(objects) => {
                reasons = follow(&mut state, &objects.workload, now);
                snapshot.replica_sets = objects.replica_sets;
                snapshot.pods = objects.pods;
                None
            }
            Err(problem) => Some(problem),
        };
        let (observed, outcome) = self.analyze(&state, &snapshot, problem.is_none(), local);
        match problem {
            None => reasons.extend(record_decision(&mut state, &observed, self.plan, now)),
            Some(problem) => {
                state.phase = Phase::Degraded;
                state.message = format!("cannot observe: {problem}").into();
            }
        }
        log_reasons(&reasons);
        let is_moved = changes_position(&before, &state);
        let next = self.status(&state, &observed, &snapshot, &outcome);
        let newest = Arc::clone(rollout);
        let written = write_if_due(context, newest, &rollout.status, &next, is_moved, local);
        let (newest, written) = written.await?;
        let wait = match written {
            StatusWrite::Done => None,
            StatusWrite::Deferred(wait) => wait,
        };
        let revision = state.current_revision.as_ref();
        let position = format!("observed {:?} {revision:?}", state.stage);
        let is_written = written == StatusWrite::Done && is_moved;
        let dedup = &mut local.event_dedup;
        context
            .events
            .publish(&newest, &reasons, &position, is_written, dedup);
        let recheck = self.spec_view.recheck_after;
        Ok(requeue_after([wait, Some(interval(&state)), recheck]))
    }

    fn analyze(
        &self,
        state: &State,
        snapshot: &Snapshot,
        is_observed: bool,
        local: &mut LocalState,
    ) -> (Observed, AnalysisOutcome) {
        let inputs = ObserveInputs {
            generation: self.rollout.generation(),
            spec_problem: None,
            spec_replicas: self.spec_view.spec_replicas,
            replicas_source: self.spec_view.replicas_source,
            plan_hash: None,
            spec_analysis: None,
            target: state.current_revision.clone(),
            analysis: None,
            guardrails: GuardrailReport::default(),
            incompatible_state: None,
            is_quarantined: false,
            state: state.clone(),
        };
        let times = &mut local.observation_times;
        let mut observed = observe(snapshot, self.plan, inputs, times, self.now);
        let status = &self.rollout.status;
        if !is_observed {
            return (observed, AnalysisOutcome::without_analysis(status, state));
        }
        let outcome = analysis::analyze(
            &analysis::AnalysisInputs {
                analyzer: self.context.analyzer.as_ref(),
                rollout: self.rollout,
                spec: self.spec_view.spec,
                status,
                plan: self.plan,
                observed: &observed,
                snapshot,
                cache: &self.context.cache,
                route_scope: if self.context.watches_all_namespaces {
                    RouteScope::AllNamespaces
                } else {
                    RouteScope::OwnNamespace
                },
            },
            local,
        );
        observed.analysis.clone_from(&outcome.report);
        (observed, outcome)
    }

    fn status(
        &self,
        state: &State,
        observed: &Observed,
        snapshot: &Snapshot,
        outcome: &AnalysisOutcome,
    ) -> RolloutStatus {
        let selector = self.spec_view.spec.map(|spec| &spec.selector);
        let pods = observed.replica_sets.values().map(|set| set.current).sum();
        let inputs = StatusInputs {
            state,
            plan: self.plan,
            observed,
            counts: snapshot.counts(state.current_revision.as_ref(), pods),
            selector: selector.and_then(status::selector_string),
            analysis: outcome.checkpoint(state, self.plan, self.now),
            evidence_summary: outcome.summary(state),
            evidence: outcome.evidence(state),
            budgets: outcome.budgets(self.plan),
            checks: outcome.checks(state),
            original_routes: Vec::new(),
            failing_effects: None,
            now: self.now,
        };
        status::status(inputs, &self.rollout.status)
    }
}

fn log_reasons(reasons: &[Reason]) {
    for reason in reasons {
        tracing::info!(reason = reason.code, "{}", reason.message);
    }
}
