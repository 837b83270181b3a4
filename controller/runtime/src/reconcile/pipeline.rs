//! The stages of one reconcile, in order.

mod observe_mode;
mod quarantined;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serin_core::backoff::retry_after;
use serin_core::effect::{Decision, Effect, Level};
use serin_core::guardrail::GuardrailReport;
use serin_core::observed::Observed;
use serin_core::plan::Plan;
use serin_core::release_analysis::{AnalysisDocument, effective_plan};
use serin_core::state::{Stage, State};
use serin_core::units::{Revision, Weight};
use serin_core::{decide, is_takeover_pending, scale};
use serin_crds::RolloutStatus;
use serin_crds::plan::plan_hash;
use serin_crds::status::OriginalRoute;
use serin_metrics_analysis::routes::RouteScope;
use tracing::Span;

use super::analysis::{self, AnalysisOutcome};
use super::api_writer::replace_status;
use super::effect_failures::EffectFailures;
use super::policies::{Timing, begins_release, is_held, resolve_policies};
use super::position::changes_position;
use super::snapshot::take_snapshot;
use super::spec_view::{PlanSource, SpecView};
use super::{
    AFTER_CONFLICT, Context, ReconcileError, degraded, deletion, finalizer, jitter, workload,
};
use crate::cluster_cache::{Key, RolloutObject};
use crate::dispatcher::Action;
use crate::effects::{self, EffectError, EffectExecutor};
use crate::guardrails::GuardrailSubject;
use crate::journal::Attempt;
use crate::local_state::LocalState;
use crate::observe::{self, Snapshot, observe};
use crate::revision::{self, TemplateRevision};
use crate::status::{
    self, EVIDENCE_INTERVAL, STABLE_FOR, STABLE_FOR_WHILE_BUSY, StatusInputs, Urgency,
};
use crate::workload::WorkloadObjects;

pub(super) use quarantined::run_quarantined;

/// Minimum requeue delay. The timers of the runtime and the wall clock can differ slightly, and a
/// reconcile must not spin.
const MIN_REQUEUE: Duration = Duration::from_millis(5);
/// A reconcile runs at least this often. Deadlines and watches trigger it long before; this is a
/// safety net against one that was missed.
pub(super) const RESYNC: Duration = Duration::from_secs(600);
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
    reconcile.decide_and_apply(state, target, local).await
}

async fn look_up_target(
    context: &Context,
    rollout: &Key,
    spec_view: &SpecView<'_>,
    snapshot: &Snapshot,
    local: &mut LocalState,
) -> TemplateRevision {
    match spec_view.template() {
        Ok((spec, hash)) => {
            revision::resolve(
                &context.client,
                &context.cache.replica_sets,
                rollout,
                spec,
                hash,
                &snapshot.replica_sets,
                &mut local.revisions,
            )
            .await
        }
        Err(problem) => TemplateRevision::Refused(problem),
    }
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
        let (observed, analysis) = self.observe(state, target.revision, guardrails, local);
        let mut decision = decide(&self.plan, &observed, self.now)?;
        let followed = effective_plan(&self.plan, &decision.state);
        // The first position is the least important: of two warnings, the later one becomes the
        // reason of the Event.
        let warnings = analysis
            .infeasible(&followed)
            .into_iter()
            .chain(analysis.broken_assumptions(&decision.state));
        decision.reasons.splice(0..0, warnings);
        let carried_out = Box::pin(self.carry_out(&observed, &decision, analysis, local));
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
        ]))
    }

    /// Writes the decision to the status, executes its effects and publishes its Events. Returns
    /// when to reconcile again.
    async fn carry_out(
        &self,
        observed: &Observed,
        decision: &Decision,
        analysis: AnalysisOutcome,
        local: &mut LocalState,
    ) -> Result<Option<Duration>, ReconcileError> {
        log_decision(decision);
        let rollout = finalizer::add(self.context, self.rollout, &decision.effects, local).await?;
        let (rollout, written) = self
            .write_status(rollout, observed, decision, analysis, local)
            .await?;
        let retry = self.apply_effects(&rollout, decision, local).await;
        // Publishing comes after the effects, so that it never delays them.
        let moved =
            written == StatusWrite::Done && changes_position(&observed.state, &decision.state);
        self.publish_events(&rollout, decision, moved, local);
        finalizer::remove(self.context, &rollout, &self.plan, decision, local).await?;
        let soft_wait = match written {
            StatusWrite::Deferred(wait) => wait,
            StatusWrite::Done => None,
        };
        let timed = decision.wake_at.map(|at| duration_until(at, self.now));
        let waits = [timed, soft_wait, retry, self.recheck_held()];
        Ok(waits.into_iter().flatten().min())
    }

    /// When to check objects again that another Rollout or client may give up.
    fn recheck_held(&self) -> Option<Duration> {
        let (services, routes) = (&self.snapshot.service_holds, &self.snapshot.route_holds);
        let is_unbound = self.snapshot.has_other_endpoints();
        let is_held = !services.is_empty() || !routes.is_empty() || is_unbound;
        is_held.then_some(HELD_RECHECK)
    }

    /// Applies the result of the template lookup. A refused template is a problem of the spec; the
    /// active plan stays active.
    fn resolve_target(&mut self, state: &State, target: TemplateRevision) -> ResolvedTarget {
        match target {
            TemplateRevision::Known(revision) => {
                Span::current().record("revision", revision.as_str());
                ResolvedTarget {
                    revision: Some(revision),
                    recheck_after: None,
                    failed: false,
                }
            }
            TemplateRevision::Refused(problem) => {
                if self.spec_view.problem.is_none() {
                    self.spec_view.problem = Some(problem);
                    self.spec_view.hash = None;
                    if let Some(in_force) = &state.plan {
                        self.plan = in_force.spec.clone();
                    }
                }
                ResolvedTarget {
                    revision: None,
                    recheck_after: Some(revision::REFUSAL_RECHECK_AFTER),
                    failed: false,
                }
            }
            TemplateRevision::Pending => ResolvedTarget {
                revision: None,
                recheck_after: Some(workload::recheck_after(state)),
                failed: false,
            },
            TemplateRevision::Unknown(why) => {
                tracing::warn!(%why, "template lookup failed; retrying");
                let wait = retry_after(1, jitter());
                ResolvedTarget {
                    revision: None,
                    recheck_after: Some(wait),
                    failed: true,
                }
            }
        }
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
            rollout: self.rollout,
            spec,
            state,
            target,
            replicas: self.plan.replicas,
            pods_since: created.iter().min().copied(),
            pod_count: created.len(),
            is_urgent: self
                .snapshot
                .commands
                .iter()
                .any(|command| command.finished_at.is_none()),
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
        let inputs = observe::ObserveInputs {
            generation: self.rollout.generation(),
            spec_problem: self.spec_view.problem.clone(),
            spec_replicas: self.spec_view.spec_replicas,
            replicas_source: self.spec_view.replicas_source,
            plan_hash: self.spec_view.hash.clone(),
            spec_analysis: self.spec_analysis(&state, target.as_ref()),
            target,
            analysis: None,
            guardrails,
            incompatible_state: self.rollout.incompatibility.clone(),
            is_quarantined: false,
            state,
        };
        let mut observed = observe(
            &self.snapshot,
            &self.plan,
            inputs,
            &mut local.observation_times,
            self.now,
        );
        observed.spec_problem_code = self.spec_view.problem_code;
        if let Some(policy) = &self.rollout.policy {
            observed.policies.clone_from(&policy.policies);
            let guardrails = &policy.guardrails_of_release;
            observed.policy_guardrails.clone_from(guardrails);
        }
        let followed = effective_plan(&self.plan, &observed.state);
        let analysis = analysis::analyze(
            &analysis::AnalysisInputs {
                analyzer: self.context.analyzer.as_ref(),
                rollout: self.rollout,
                spec: self.spec_view.spec,
                status: self.status,
                plan: &followed,
                observed: &observed,
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
        local.mount_failures.add_to(&mut observed, &self.snapshot);
        (observed, analysis)
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

    /// Writes the status if it is due. Otherwise returns when it is due.
    async fn write_status(
        &self,
        rollout: Arc<RolloutObject>,
        observed: &Observed,
        decision: &Decision,
        analysis: AnalysisOutcome,
        local: &mut LocalState,
    ) -> Result<(Arc<RolloutObject>, StatusWrite), ReconcileError> {
        let followed = effective_plan(&self.plan, &decision.state);
        let scale = scale::report(&followed, observed, &decision.effects, self.now);
        let current = decision.state.current_revision.as_ref();
        let counts = self.snapshot.counts(current, scale.replicas);
        let inputs = StatusInputs {
            state: &decision.state,
            plan: &followed,
            observed,
            counts,
            selector: self.spec_view.spec.map_or_else(
                || self.status.selector.clone(),
                |spec| status::scale_selector(&spec.selector, scale.revisions.as_ref()),
            ),
            analysis: analysis.checkpoint(&decision.state, &followed, self.now),
            evidence_summary: analysis.summary(&decision.state),
            evidence: analysis.evidence(&decision.state),
            budgets: analysis.budgets(&followed),
            checks: analysis.checks(&decision.state),
            original_routes: self.original_routes(decision),
            failing_effects: local.effect_failure_message(),
            now: self.now,
        };
        let mut next = status::status(inputs, self.status);
        if observed.is_quarantined {
            status::keep_quarantine(&mut next.conditions, &self.status.conditions);
        }
        let is_moved = changes_position(&observed.state, &decision.state);
        write_if_due(self.context, rollout, self.status, &next, is_moved, local).await
    }

    fn original_routes(&self, decision: &Decision) -> Vec<OriginalRoute> {
        let recorded = &self.status.original_routes;
        let (key, cache) = (self.rollout.key(), &self.context.cache);
        effects::original_routes(
            recorded,
            decision,
            self.plan.routing(),
            &self.snapshot,
            &key,
            cache,
        )
    }

    fn publish_events(
        &self,
        rollout: &RolloutObject,
        decision: &Decision,
        moved: bool,
        local: &mut LocalState,
    ) {
        let state = &decision.state;
        let revision = state
            .current_revision
            .as_ref()
            .map_or("none", Revision::as_str);
        let step = state
            .step
            .map(|step| format!(" step {}", step.index + 1))
            .unwrap_or_default();
        let position = format!("{:?} {revision}{step}", state.stage);
        self.context.events.publish(
            rollout,
            &decision.reasons,
            &position,
            moved,
            &mut local.event_dedup,
        );
    }

    /// Executes the effects in order. A failed effect does not stop the others. Returns when to
    /// retry.
    async fn apply_effects(
        &self,
        rollout: &RolloutObject,
        decision: &Decision,
        local: &mut LocalState,
    ) -> Option<Duration> {
        let status = &rollout.status;
        let executor = EffectExecutor {
            client: &self.context.client,
            cache: &self.context.cache,
            ownership: self.context.ownership.as_ref(),
            metrics: &self.context.metrics,
            rollout,
            spec: self.spec_view.spec,
            status,
            plan: &self.plan,
            snapshot: &self.snapshot,
            corrections: &local.corrections,
            now: self.now,
        };
        let mut failures = EffectFailures::default();
        // Services are updated before traffic is increased. Traffic is reduced without waiting.
        let raises = |effect: &Effect| matches!(effect, Effect::SetWeight { canary, .. } if *canary > Weight::ZERO);
        if decision.effects.iter().any(raises) {
            failures.record("UpdateServices", executor.update_services().await);
        }
        if self.plan.routing().is_none() {
            self.restore_removed_references(&executor, decision, &mut failures)
                .await;
        }
        for effect in &decision.effects {
            let Err(error) = executor.execute(effect).await else {
                continue;
            };
            if let Effect::CreateReplicaSet { revision, .. } = effect {
                // If the name is taken, the next lookup chooses another name.
                local.revisions.forget(revision);
            }
            if !error.is_conflict() && !matches!(error, EffectError::Contested { .. }) {
                self.context
                    .metrics
                    .record_effect_failure(effects::effect_kind(effect));
            }
            failures.record(&effects::effect_label(effect), Err(error));
        }
        if self.plan.routing().is_some() {
            self.restore_removed_references(&executor, decision, &mut failures)
                .await;
        }
        if self.plan.services().is_some() {
            failures.record("UpdateServices", executor.update_services().await);
        }
        if self.spec_view.problem.is_none() {
            failures.record("UpdateReplicaSets", executor.update_replica_sets().await);
        }
        let EffectFailures {
            failed,
            retry_soon,
            contested,
        } = failures;
        let any_failed = !failed.is_empty();
        local.record_effect_failures(failed);
        if any_failed {
            let retry = retry_after(local.consecutive_effect_failures(), jitter());
            return Some(contested.map_or(retry, |wait| wait.min(retry)));
        }
        if retry_soon {
            return Some(AFTER_CONFLICT);
        }
        contested
    }

    /// Restores routes and Services that were removed from the plan. Services are only restored
    /// outside a release: during a release they must select the stable revision.
    async fn restore_removed_references(
        &self,
        executor: &EffectExecutor<'_>,
        decision: &Decision,
        failures: &mut EffectFailures,
    ) {
        // A removed route must not send traffic to pods that are about to be deleted.
        match effects::restore_orphaned_routes(executor).await {
            Ok(changed) => failures.retry_soon |= changed,
            Err(error) => return failures.record("RestoreRoute", Err(error)),
        }
        if self.plan.routing().is_none() || decision.state.stage == Stage::Stable {
            failures.record(
                "ReleaseService",
                effects::release_orphaned_services(executor).await,
            );
        }
    }
}

/// Replaces the status `before` by `next` if that is due. Otherwise returns when it is due.
async fn write_if_due(
    context: &Context,
    rollout: Arc<RolloutObject>,
    before: &RolloutStatus,
    next: &RolloutStatus,
    is_moved: bool,
    local: &mut LocalState,
) -> Result<(Arc<RolloutObject>, StatusWrite), ReconcileError> {
    let urgency = match status::urgency(before, next) {
        // Fields of another version are replaced.
        Urgency::Never if !rollout.unreadable.is_empty() => Urgency::WhenStable,
        urgency => urgency,
    };
    let wait = match urgency {
        Urgency::Never => return Ok((rollout, StatusWrite::Deferred(None))),
        Urgency::Now if is_moved => Duration::ZERO,
        Urgency::Now => local.status_write_due_in(),
        Urgency::WhenStable => {
            let stable_for = if context.dispatcher.is_backed_up() {
                STABLE_FOR_WHILE_BUSY
            } else {
                STABLE_FOR
            };
            local.stable_status_due_in(status::without_volatile_fields(next), stable_for)
        }
        Urgency::Eventually => local.evidence_due_in(EVIDENCE_INTERVAL),
    };
    if !wait.is_zero() {
        return Ok((rollout, StatusWrite::Deferred(Some(wait))));
    }
    let written = replace_status(context, &rollout, next, local).await?;
    Ok((written, StatusWrite::Done))
}

fn log_decision(decision: &Decision) {
    for reason in &decision.reasons {
        match reason.level {
            Level::Detail | Level::Normal => {
                tracing::info!(reason = reason.code, "{}", reason.message);
            }
            Level::Warning => tracing::warn!(reason = reason.code, "{}", reason.message),
        }
    }
    tracing::debug!(effects = decision.effects.len(), wake_at = ?decision.wake_at, stage = ?decision.state.stage, "decided");
}

/// Whether the status was written, or when it is due.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StatusWrite {
    Done,
    Deferred(Option<Duration>),
}

struct ResolvedTarget {
    revision: Option<Revision>,
    recheck_after: Option<Duration>,
    failed: bool,
}

/// Requeues after the shortest of these times.
fn requeue_after(waits: impl IntoIterator<Item = Option<Duration>>) -> Action {
    let wait = waits.into_iter().flatten().min().unwrap_or(RESYNC);
    Action::Requeue(wait.clamp(MIN_REQUEUE, RESYNC))
}

fn duration_until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}
