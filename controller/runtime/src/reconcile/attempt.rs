//! The way of one reconcile, from top to bottom.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::runtime::controller::Action;
use serin_core::backoff::retry_after;
use serin_core::decide;
use serin_core::effect::{Decision, Effect, Level};
use serin_core::observed::{AnalysisReport, Observed};
use serin_core::plan::Plan;
use serin_core::state::{Stage, State};
use serin_core::units::{Revision, Weight};
use serin_crds::RolloutStatus;
use serin_crds::status::OriginalRoute;
use tracing::Span;

use super::judged::{self, Judged};
use super::reading::Reading;
use super::writing::{in_time, replace_status};
use super::{AFTER_CONFLICT, Context, Failure, adoption, deletion, finalizer, jitter, unusable};
use crate::effects::{self, EffectError, Hands};
use crate::memory::Memory;
use crate::observe::{self, Snapshot, observe};
use crate::revision::{self, Target};
use crate::status::{self, EVIDENCE_EVERY, STABLE_FOR, Told, Urgency};
use crate::world::{Key, RolloutObject, ServiceFact};

/// Timers of the runtime and the wall clock may differ by a little; never turn on the spot.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

/// One reconcile: when to look again, or why it did not get to its end.
pub(super) async fn attempt(
    context: &Context,
    rollout: Arc<RolloutObject>,
    memory: &mut Memory,
) -> Result<Action, Failure> {
    let now = context.clock.now();
    let status = match &rollout.status {
        Ok(status) => status,
        Err(problem) => {
            return unusable::unreadable_status(context, &rollout, problem, memory).await;
        }
    };
    let state = match status.state() {
        Ok(state) => state,
        Err(problem) => {
            return unusable::unreadable_status(context, &rollout, &problem.to_string(), memory)
                .await;
        }
    };
    if rollout.metadata.deletion_timestamp.is_some() {
        return deletion::delete(context, &rollout, status, &state).await;
    }
    let key = rollout.key();
    let mut reading = Reading::of(&rollout, &state, now);
    let Some(plan) = reading.plan.take() else {
        return unusable::no_plan(
            context,
            &rollout,
            status,
            reading.problem.unwrap_or_default(),
            memory,
        )
        .await;
    };
    context.world.note_plan(&key, &plan);
    find_services(context, &key, &plan, memory).await?;
    adoption::adopt(context, &rollout).await?;
    let snapshot = Snapshot::of(&context.world, &key, rollout.uid(), Some(&plan));
    let target = target(context, &key, &reading, &snapshot, memory).await;
    let mut look = Look {
        context,
        rollout: &rollout,
        status,
        reading,
        plan,
        snapshot,
        now,
    };
    look.decide_and_do(state, target, memory).await
}

/// A Service that its user has made carries no label of ours before it is first bound, so no watch
/// brings it.
async fn find_services(
    context: &Context,
    rollout: &Key,
    plan: &Plan,
    memory: &mut Memory,
) -> Result<(), Failure> {
    let Some(routing) = plan.routing() else {
        return Ok(());
    };
    for name in [&routing.stable_service, &routing.canary_service] {
        let key = Key::new(&rollout.namespace, name);
        if context.world.services.get(&key).is_some() || memory.is_absent(name) {
            continue;
        }
        let api: Api<Service> = Api::namespaced(context.client.clone(), &rollout.namespace);
        match in_time("reading a Service", api.get_opt(name)).await? {
            Some(service) => drop(context.world.services.put(ServiceFact::from(service))),
            None => memory.note_absent(name),
        }
    }
    Ok(())
}

async fn target(
    context: &Context,
    rollout: &Key,
    reading: &Reading<'_>,
    snapshot: &Snapshot,
    memory: &mut Memory,
) -> Target {
    match (reading.spec, &reading.problem) {
        (Some(spec), None) => {
            revision::resolve(
                &context.client,
                rollout,
                spec,
                &snapshot.replica_sets,
                &mut memory.revisions,
            )
            .await
        }
        (_, problem) => Target::Refused(problem.clone().unwrap_or_default()),
    }
}

struct Look<'a> {
    context: &'a Context,
    rollout: &'a Arc<RolloutObject>,
    status: &'a RolloutStatus,
    reading: Reading<'a>,
    plan: Plan,
    snapshot: Snapshot,
    now: Timestamp,
}

impl Look<'_> {
    async fn decide_and_do(
        &mut self,
        state: State,
        target: Target,
        memory: &mut Memory,
    ) -> Result<Action, Failure> {
        let target = self.settle_target(&state, target);
        let (seen, judged) = self.observe(state, target.revision, memory);
        let mut decision = decide(&self.plan, &seen, self.now);
        // The least of what an Event tells: of two warnings the later one gives it its name.
        decision.reasons.splice(0..0, judged.infeasible(&self.plan));
        log(&decision);
        let rollout = finalizer::add(self.context, self.rollout, &decision.effects, memory).await?;
        let (rollout, written) = self
            .write_status(rollout, &seen, &decision, judged, memory)
            .await?;
        let retry = self.carry_out(&rollout, &decision, memory).await;
        // Nothing waits for people to be told, least of all an abort.
        let moved = written == Written::Done && decision.state != seen.state;
        self.tell(&rollout, &decision, moved, memory).await;
        finalizer::remove(self.context, &rollout, &self.plan, &decision, memory).await?;
        let soft_wait = match written {
            Written::Not(wait) => wait,
            Written::Done => None,
        };
        let timed = decision.wake_at.map(|at| until(at, self.now));
        let waits = [timed, soft_wait, retry, target.ask_again];
        if target.failed {
            memory.failures = memory.failures.saturating_add(1);
        }
        Ok(waits
            .into_iter()
            .flatten()
            .min()
            .map_or_else(Action::await_change, |wait| {
                Action::requeue(wait.max(SHORTEST_WAIT))
            }))
    }

    /// What of the answer about the template concerns the planner: a refusal is a problem of the
    /// spec, and then the plan in force counts.
    fn settle_target(&mut self, state: &State, target: Target) -> Settled {
        match target {
            Target::Revision(revision) => {
                Span::current().record("revision", revision.as_str());
                Settled {
                    revision: Some(revision),
                    ask_again: None,
                    failed: false,
                }
            }
            Target::Refused(problem) => {
                if self.reading.problem.is_none() {
                    self.reading.problem = Some(problem);
                    self.reading.hash = None;
                    if let Some(in_force) = &state.plan {
                        self.plan = in_force.spec.clone();
                    }
                }
                Settled {
                    revision: None,
                    ask_again: Some(revision::ASK_AGAIN),
                    failed: false,
                }
            }
            Target::Unknown(why) => {
                tracing::warn!(%why, "the revision of the template cannot be told yet");
                let wait = retry_after(1, jitter());
                Settled {
                    revision: None,
                    ask_again: Some(wait),
                    failed: true,
                }
            }
        }
    }

    fn observe(
        &self,
        state: State,
        target: Option<Revision>,
        memory: &mut Memory,
    ) -> (Observed, Judged) {
        let about = observe::Context {
            generation: self.rollout.generation(),
            spec_problem: self.reading.problem.clone(),
            spec_replicas: self.reading.spec_replicas,
            replicas_source: self.reading.replicas_source,
            plan_hash: self.reading.hash.clone(),
            target,
            judgement: AnalysisReport::NotConfigured,
            state,
        };
        let mut seen = observe(
            &self.snapshot,
            &self.plan,
            about,
            &mut memory.sightings,
            self.now,
        );
        let judged = judged::judge(
            &judged::Case {
                judge: self.context.judge.as_ref(),
                rollout: self.rollout,
                spec: self.reading.spec,
                status: self.status,
                plan: &self.plan,
                seen: &seen,
                snapshot: &self.snapshot,
                world: &self.context.world,
            },
            memory,
        );
        seen.analysis = judged.judgement.clone();
        (seen, judged)
    }

    /// Writes the status where that is due; otherwise answers when it will be.
    async fn write_status(
        &self,
        rollout: Arc<RolloutObject>,
        seen: &Observed,
        decision: &Decision,
        judged: Judged,
        memory: &mut Memory,
    ) -> Result<(Arc<RolloutObject>, Written), Failure> {
        let counts = self
            .snapshot
            .counts(decision.state.current_revision.as_ref());
        let told = Told {
            state: &decision.state,
            plan: &self.plan,
            seen,
            counts,
            selector: self.reading.spec.map_or_else(
                || self.status.selector.clone(),
                |spec| status::selector_string(&spec.selector),
            ),
            analysis: judged.analysis(&decision.state, &self.plan, self.now),
            evidence_summary: judged.summary(&decision.state),
            evidence: judged.evidence(&decision.state),
            budgets: judged.budgets(&self.plan),
            checks: judged.checks(&decision.state),
            original_routes: self.originals(decision),
            trouble: memory.trouble(),
            now: self.now,
        };
        let next = status::status(&told, self.status)
            .map_err(|problem| Failure::Failed(problem.to_string()))?;
        let wait = match status::urgency(self.status, &next) {
            Urgency::Never => return Ok((rollout, Written::Not(None))),
            Urgency::Now => Duration::ZERO,
            Urgency::WhenStable => memory.seen_due_in(status::lasting(&next), STABLE_FOR),
            Urgency::Eventually => memory.evidence_due_in(EVIDENCE_EVERY),
        };
        if !wait.is_zero() {
            return Ok((rollout, Written::Not(Some(wait))));
        }
        Ok((
            replace_status(self.context, &rollout, &next, memory).await?,
            Written::Done,
        ))
    }

    fn originals(&self, decision: &Decision) -> Vec<OriginalRoute> {
        let known = &self.status.original_routes;
        let (key, world) = (self.rollout.key(), &self.context.world);
        effects::originals(
            known,
            decision,
            self.plan.routing(),
            &self.snapshot,
            &key,
            world,
        )
    }

    async fn tell(
        &self,
        rollout: &RolloutObject,
        decision: &Decision,
        moved: bool,
        memory: &mut Memory,
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
        self.context
            .events
            .tell(
                rollout,
                &decision.reasons,
                &position,
                moved,
                &mut memory.told,
            )
            .await;
    }

    /// Carries the effects out in order; one that fails does not stop the others. Answers when to
    /// try again.
    async fn carry_out(
        &self,
        rollout: &RolloutObject,
        decision: &Decision,
        memory: &mut Memory,
    ) -> Option<Duration> {
        let Ok(status) = &rollout.status else {
            return None;
        };
        let hands = Hands {
            client: &self.context.client,
            world: &self.context.world,
            leadership: &self.context.leadership,
            metrics: &self.context.metrics,
            rollout,
            spec: self.reading.spec,
            status,
            plan: &self.plan,
            snapshot: &self.snapshot,
            now: self.now,
        };
        let mut failures = Failures::default();
        // Traffic follows a change of the Services, it does not precede it. Taking traffic away
        // waits for nothing.
        let raises = |effect: &Effect| matches!(effect, Effect::SetWeight { canary, .. } if *canary > Weight::ZERO);
        if decision.effects.iter().any(raises) {
            failures.note("UpdateServices", hands.update_services().await);
        }
        if self.plan.routing().is_none() {
            self.leave_behind(&hands, decision, &mut failures).await;
        }
        for effect in &decision.effects {
            let Err(error) = hands.carry_out(effect).await else {
                continue;
            };
            if let Effect::CreateReplicaSet { revision, .. } = effect {
                // If somebody else has the name, the API server is asked again and another one is
                // found.
                memory.revisions.forget(revision);
            }
            if !error.is_conflict() {
                self.context.metrics.effect_failed(effects::kind_of(effect));
            }
            failures.note(&effects::name_of(effect), Err(error));
        }
        if self.plan.routing().is_some() {
            self.leave_behind(&hands, decision, &mut failures).await;
            failures.note("UpdateServices", hands.update_services().await);
        }
        if self.reading.problem.is_none() {
            failures.note("UpdateReplicaSets", hands.update_replica_sets().await);
        }
        let Failures { failed, again } = failures;
        let any_failed = !failed.is_empty();
        memory.note_troubles(failed);
        if any_failed {
            return Some(retry_after(memory.troubled_for(), jitter()));
        }
        again.then_some(AFTER_CONFLICT)
    }

    /// Gives back routes and Services that the plan names no longer. A Service does so only when no
    /// release is under way: until then it selects the stable revision, as it should.
    async fn leave_behind(&self, hands: &Hands<'_>, decision: &Decision, failures: &mut Failures) {
        // A route that the plan names no longer gives no share to pods that are about to go.
        match effects::restore_left(hands).await {
            Ok(changed) => failures.again |= changed,
            Err(error) => return failures.note("RestoreRoute", Err(error)),
        }
        if self.plan.routing().is_none() || decision.state.stage == Stage::Stable {
            failures.note(
                "ReleaseService",
                effects::release_left_services(hands).await,
            );
        }
    }
}

/// What went wrong while effects were carried out.
#[derive(Default)]
struct Failures {
    /// By the name of the effect: why.
    failed: BTreeMap<String, String>,
    /// Something has changed meanwhile, or has been changed: look again soon.
    again: bool,
}

impl Failures {
    fn note(&mut self, name: &str, result: Result<(), EffectError>) {
        let Err(error) = result else { return };
        if error.is_conflict() {
            tracing::debug!(effect = name, %error, "looking again");
            self.again = true;
            return;
        }
        tracing::warn!(effect = name, %error, "an effect could not be carried out");
        self.failed.insert(name.to_owned(), error.to_string());
    }
}

fn log(decision: &Decision) {
    for reason in &decision.reasons {
        match reason.level {
            Level::Detail | Level::Normal => {
                tracing::info!(reason = reason.code, "{}", reason.message)
            }
            Level::Warning => tracing::warn!(reason = reason.code, "{}", reason.message),
        }
    }
    tracing::debug!(effects = decision.effects.len(), wake_at = ?decision.wake_at, stage = ?decision.state.stage, "decided");
}

/// Whether the status was written, or else when it will have to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    Done,
    Not(Option<Duration>),
}

struct Settled {
    revision: Option<Revision>,
    ask_again: Option<Duration>,
    failed: bool,
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}
