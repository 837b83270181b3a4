//! The stages of one reconcile, in order.

mod apply;
mod observe_mode;
mod quarantined;
mod report;
mod target;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serin_core::effect::Decision;
use serin_core::gate::{GateReport, awaited_object};
use serin_core::guardrail::GuardrailReport;
use serin_core::observed::Observed;
use serin_core::plan::Plan;
use serin_core::release_analysis::{AnalysisDocument, effective_plan};
use serin_core::state::{Stage, State};
use serin_core::units::Revision;
use serin_core::{decide, is_takeover_pending};
use serin_crds::RolloutStatus;
use serin_crds::plan::plan_hash;
use serin_metrics_analysis::routes::RouteScope;

use self::report::log_reasons;
use self::target::look_up_target;
use super::analysis::{self, AnalysisOutcome};
use super::policies::{Timing, begins_release, is_held, resolve_policies};
use super::snapshot::take_snapshot;
use super::spec_view::{PlanSource, SpecView};
use super::{Context, ReconcileError, degraded, deletion, finalizer, workload};
use crate::cluster_cache::RolloutObject;
use crate::dispatcher::Action;
use crate::guardrails::GuardrailSubject;
use crate::journal::Attempt;
use crate::local_state::LocalState;
use crate::observe::{ObserveInputs, Snapshot, observe};
use crate::revision::TemplateRevision;
use crate::workload::WorkloadObjects;

pub(super) use quarantined::run_quarantined;

/// Minimum requeue delay. The timers of the runtime and the wall clock can differ slightly, and a
/// reconcile must not spin.
const MIN_REQUEUE: Duration = Duration::from_millis(5);
/// A reconcile runs at least this often. Deadlines and watches trigger it long before; this is a
/// safety net against one that was missed.
pub(super) const RESYNC: Duration = Duration::from_secs(600);
/// Time until a gate is read that a decision has reached.
const AFTER_GATE_REACHED: Duration = Duration::from_millis(100);
/// Interval at which Services and routes that are not written are checked again. Services without a
/// label are not watched.
const HELD_RECHECK: Duration = Duration::from_secs(10);

/// Runs one reconcile. `attempt` is the record of the first attempt of a generation. Returns when to
/// run the next reconcile.
pub(super) async fn run(
    context: &Context,
    rollout: Arc<RolloutObject>,
    attempt: Option<&Attempt>,
    local: &mut LocalState,
) -> Result<Action, ReconcileError> {
    let now = context.clock.now();
    let rollout = if rollout.observes() {
        rollout
    } else {
        observe_mode::without_observation(context, rollout, local)
    };
    let status = &rollout.status;
    let state = status.state.clone();
    let planner = &context.safeguards.planner;
    if rollout.metadata.deletion_timestamp.is_some() {
        return deletion::delete(context, &rollout, status, &state, attempt, local).await;
    }
    let key = rollout.key();
    if let Some(problem) = &rollout.incompatibility
        && !degraded::has_pending_abort(context, &key)
    {
        return degraded::report_incompatible_status(context, &rollout, problem, local).await;
    }
    if rollout.observes() {
        let rollout = resolve_policies(context, &rollout, Timing::Current, local);
        return Box::pin(observe_mode::run(context, rollout, attempt, local)).await;
    }
    let written = workload::resolve(context, Arc::clone(&rollout), local).await?;
    let timing = Timing::for_state(&state);
    let rollout = resolve_policies(context, &written, timing, local);
    let source = PlanSource {
        planner,
        cache: &mut local.plans,
        attempt,
    };
    let mut spec_view = SpecView::load(&rollout, source, &state, now).await;
    let Some(mut plan) = spec_view.plan.take() else {
        let problem = spec_view.problem.unwrap_or_default();
        let reported =
            degraded::report_invalid_spec(context, &rollout, status, problem, local).await;
        return reported.map(|action| spec_view.recheck_after.map_or(action, Action::Requeue));
    };
    let snapshot = take_snapshot(context, &rollout, &plan, local).await?;
    if spec_view.problem.is_none()
        && workload::keep_replicas(&mut plan, spec_view.replicas_source, &state, &snapshot)
    {
        spec_view.hash = Some(plan_hash(&plan));
    }
    let is_pending = is_takeover_pending(
        &plan,
        &state,
        snapshot
            .workload
            .as_ref()
            .map(WorkloadObjects::view)
            .as_ref(),
    );
    let target = if is_pending {
        // The ReplicaSet that has the template is not known yet.
        TemplateRevision::Pending
    } else {
        look_up_target(context, &key, &spec_view, &snapshot, local).await
    };
    let next = if timing == Timing::OfRelease && begins_release(&target, &state) {
        resolve_policies(context, &written, Timing::Current, local)
    } else {
        Arc::clone(&rollout)
    };
    if next.policy_version() != rollout.policy_version() {
        let source = PlanSource {
            planner,
            cache: &mut local.plans,
            attempt,
        };
        spec_view = SpecView::load(&next, source, &state, now).await;
        plan = spec_view.plan.take().unwrap_or(plan);
    }
    if is_held(&target, &state) {
        spec_view.hold_by_policy();
    }
    let mut reconcile = Reconcile {
        context,
        rollout: &next,
        status,
        spec_view,
        plan,
        snapshot,
        now,
    };
    Box::pin(reconcile.decide_and_apply(state, target, local)).await
}

struct Reconcile<'a> {
    context: &'a Context,
    rollout: &'a Arc<RolloutObject>,
    status: &'a RolloutStatus,
    spec_view: SpecView<'a>,
    plan: Plan,
    snapshot: Snapshot,
    now: Timestamp,
}

impl Reconcile<'_> {
    async fn decide_and_apply(
        &mut self,
        state: State,
        target: TemplateRevision,
        local: &mut LocalState,
    ) -> Result<Action, ReconcileError> {
        let target = self.resolve_target(&state, target);
        let (guardrails, reread) = self
            .evaluate_guardrails(&state, target.revision.as_ref(), local)
            .await;
        let (gate, gate_reread) = self.read_gate(&state, local).await;
        let (mut observed, analysis) = self.observe(state, target.revision, guardrails, local);
        observed.gate = gate;
        let mut decision = decide(&self.plan, &observed, self.now)?;
        let gate_reread = self.next_gate_read(&observed, &decision).or(gate_reread);
        let followed = effective_plan(&self.plan, &decision.state);
        // The first position is the least important: of two warnings, the later one becomes the
        // reason of the Event.
        let warnings = analysis
            .infeasible(&followed)
            .into_iter()
            .chain(analysis.broken_assumptions(&decision.state));
        decision.reasons.splice(0..0, warnings);
        let carried_out = Box::pin(self.carry_out(&observed, &decision, &analysis, local));
        let next = carried_out.await?;
        // Reading Events comes after the effects, so that it never delays them.
        let (client, namespace) = (&self.context.client, &self.rollout.key().namespace);
        let events = local.mount_failures.update(
            client,
            namespace,
            &self.snapshot,
            &decision.state,
            self.now,
        );
        let mounts = events.await;
        let recheck = self.spec_view.recheck_after;
        if target.failed {
            local.failures = local.failures.saturating_add(1);
        }
        Ok(requeue_after([
            next,
            target.recheck_after,
            recheck,
            mounts,
            reread,
            gate_reread,
        ]))
    }

    /// What was found for the gate of the current step, and when to read it again.
    async fn read_gate(
        &self,
        state: &State,
        local: &mut LocalState,
    ) -> (Option<GateReport>, Option<Duration>) {
        let gate = awaited_object(&self.plan, state);
        let (client, namespace) = (&self.context.client, &self.rollout.key().namespace);
        let is_urgent = self.has_pending_command();
        local.gate.report(client, namespace, gate, is_urgent).await
    }

    /// A gate that the decision has reached is read soon.
    fn next_gate_read(&self, observed: &Observed, decision: &Decision) -> Option<Duration> {
        let reached = awaited_object(&self.plan, &decision.state)?;
        let known = observed.gate.as_ref().map(|report| &report.gate);
        (known != Some(reached)).then_some(AFTER_GATE_REACHED)
    }

    /// Whether a command waits.
    fn has_pending_command(&self) -> bool {
        let mut commands = self.snapshot.commands.iter();
        commands.any(|command| command.finished_at.is_none())
    }

    /// Writes the decision to the status, executes its effects and publishes its Events. Returns
    /// when to reconcile again.
    async fn carry_out(
        &self,
        observed: &Observed,
        decision: &Decision,
        analysis: &AnalysisOutcome,
        local: &mut LocalState,
    ) -> Result<Option<Duration>, ReconcileError> {
        log_reasons(&decision.reasons);
        tracing::debug!(effects = decision.effects.len(), wake_at = ?decision.wake_at, stage = ?decision.state.stage, "decided");
        let rollout = finalizer::add(self.context, self.rollout, &decision.effects, local).await?;
        let next = self.status_of_decision(observed, decision, analysis, local);
        let written = self
            .write_status(rollout, &observed.state, &next, local)
            .await?;
        let rollout = &written.rollout;
        let retry = self.apply_effects(rollout, decision, local).await;
        // Publishing comes after the effects, so that it never delays them.
        self.publish_events(&written, &decision.state, &decision.reasons, local);
        finalizer::remove(self.context, rollout, &self.plan, decision, local).await?;
        let timed = decision.wake_at.map(|at| duration_until(at, self.now));
        let waits = [timed, written.due_in, retry, self.recheck_held()];
        Ok(waits.into_iter().flatten().min())
    }

    /// When to check objects again that another Rollout or client may give up.
    fn recheck_held(&self) -> Option<Duration> {
        let (services, routes) = (&self.snapshot.service_holds, &self.snapshot.route_holds);
        let is_unbound = self.snapshot.has_other_endpoints();
        let is_held = !services.is_empty() || !routes.is_empty() || is_unbound;
        is_held.then_some(HELD_RECHECK)
    }

    /// What the guardrails of the policies find, and when to read again what they depend on.
    async fn evaluate_guardrails(
        &self,
        state: &State,
        target: Option<&Revision>,
        local: &mut LocalState,
    ) -> (GuardrailReport, Option<Duration>) {
        let (Some(target), Some(spec)) = (target, self.spec_view.spec) else {
            return (GuardrailReport::default(), None);
        };
        let pods = self.snapshot.pods.iter();
        let active = pods.filter(|pod| pod.active && pod.revision.as_ref() == Some(target));
        let created: Vec<Timestamp> = active.map(|pod| pod.created_at).collect();
        let subject = GuardrailSubject {
            client: &self.context.client,
            metrics: &self.context.metrics,
            shared: &self.context.guardrail_objects,
            registries: &self.context.registries,
            rollout: self.rollout,
            spec,
            state,
            target,
            replicas: self.plan.replicas,
            pods_since: created.iter().min().copied(),
            pod_count: created.len(),
            is_urgent: self.has_pending_command(),
            now: self.now,
        };
        local.guardrails.report(&subject).await
    }

    fn observe(
        &self,
        state: State,
        target: Option<Revision>,
        guardrails: GuardrailReport,
        local: &mut LocalState,
    ) -> (Observed, AnalysisOutcome) {
        let inputs = ObserveInputs {
            spec_problem: self.spec_view.problem.clone(),
            plan_hash: self.spec_view.hash.clone(),
            spec_analysis: self.spec_analysis(&state, target.as_ref()),
            target,
            guardrails,
            ..self.observe_inputs(state)
        };
        let mut observed = observe(
            &self.snapshot,
            &self.plan,
            inputs,
            &mut local.observation_times,
            self.now,
        );
        observed.spec_problem_code = self.spec_view.problem_code;
        observed.keeps_strategy = self.spec_view.keeps_strategy;
        if let Some(policy) = &self.rollout.policy {
            observed.policies.clone_from(&policy.policies);
            let guardrails = &policy.guardrails_of_release;
            observed.policy_guardrails.clone_from(guardrails);
        }
        let followed = effective_plan(&self.plan, &observed.state);
        let analysis = self.analyze(&followed, &mut observed, local);
        local.mount_failures.add_to(&mut observed, &self.snapshot);
        (observed, analysis)
    }

    /// The inputs of an observation that concerns neither the spec nor its template.
    fn observe_inputs(&self, state: State) -> ObserveInputs {
        ObserveInputs {
            generation: self.rollout.generation(),
            spec_problem: None,
            spec_replicas: self.spec_view.spec_replicas,
            replicas_source: self.spec_view.replicas_source,
            plan_hash: None,
            spec_analysis: None,
            target: None,
            analysis: None,
            guardrails: GuardrailReport::default(),
            incompatible_state: self.rollout.incompatibility.clone(),
            is_quarantined: false,
            state,
        }
    }

    /// Analyzes the metrics of a release that follows `plan`, and adds the report to what is
    /// observed.
    fn analyze(
        &self,
        plan: &Plan,
        observed: &mut Observed,
        local: &mut LocalState,
    ) -> AnalysisOutcome {
        let analysis = analysis::analyze(
            &analysis::AnalysisInputs {
                analyzer: self.context.analyzer.as_ref(),
                rollout: self.rollout,
                spec: self.spec_view.spec,
                status: self.status,
                plan,
                observed,
                snapshot: &self.snapshot,
                cache: &self.context.cache,
                route_scope: if self.context.watches_all_namespaces {
                    RouteScope::AllNamespaces
                } else {
                    RouteScope::OwnNamespace
                },
            },
            local,
        );
        observed.analysis.clone_from(&analysis.report);
        analysis
    }

    /// `spec.analysis`. `None` if no release is in progress or may begin in this reconcile.
    fn spec_analysis(&self, state: &State, target: Option<&Revision>) -> Option<AnalysisDocument> {
        let is_idle = state.stage == Stage::Stable && state.current_revision.as_ref() == target;
        let analysis = self
            .spec_view
            .spec?
            .analysis
            .as_ref()
            .filter(|_| !is_idle)?;
        serde_json::to_value(analysis)
            .ok()
            .map(AnalysisDocument::from)
    }
}

/// Requeues after the shortest of these times.
fn requeue_after(waits: impl IntoIterator<Item = Option<Duration>>) -> Action {
    let wait = waits.into_iter().flatten().min().unwrap_or(RESYNC);
    Action::Requeue(wait.clamp(MIN_REQUEUE, RESYNC))
}

fn duration_until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}
