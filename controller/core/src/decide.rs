//! The decision, read from top to bottom.

use jiff::Timestamp;

use crate::command::{Command, CommandOutcome};
use crate::context::{Context, Transition};
use crate::converge::{converge, replicas as pods, traffic};
use crate::effect::{Decision, Effect};
use crate::holds::Holds;
use crate::invariants::{self, InvariantViolation};
use crate::observed::Observed;
use crate::plan::Plan;
use crate::release_analysis::effective_plan;
use crate::{
    abort, baseline, commands, growth, incompatible, progress, quarantine, release_analysis,
    replicas, restart, spec_change, status_message, step_down, steps, target, workload,
};

/// Decides the next state and effects of one Rollout.
///
/// `plan` is the validated spec, or the active plan while the spec cannot be used
/// ([`Observed::spec_problem`]). The decision depends on nothing but the arguments. Carried out and
/// observed again, it converges.
///
/// # Examples
///
/// A new Rollout first gets a ReplicaSet for its revision. Then nothing happens until the cluster
/// changes or the deadline of the release passes.
///
/// ```
/// use jiff::Timestamp;
/// use serin_core::decide;
/// use serin_core::effect::Effect;
/// use serin_core::observed::Observed;
/// use serin_core::plan::Plan;
/// use serin_core::units::Revision;
///
/// let plan: Plan = serde_json::from_value(serde_json::json!({
///     "replicas": 3,
///     "progressDeadline": {"secs": 600, "nanos": 0},
///     "revisionHistoryLimit": 10,
///     "rollbackWindow": 0,
///     "paused": false,
///     "workload": "owned",
///     "exposure": "replicaRatio",
///     "strategy": {"canary": {
///         "maxSurge": {"percent": 25},
///         "maxUnavailable": {"percent": 25},
///         "scaleDownDelay": {"secs": 30, "nanos": 0},
///         "abortScaleDownDelay": {"secs": 30, "nanos": 0},
///         "dynamicStableScale": false,
///         "pace": {"steps": []},
///         "analysis": null,
///         "podRestartLimit": 2,
///     }},
/// }))?;
/// let revision = Revision::new("5d4f8c7b9");
/// let observed = Observed {
///     plan_hash: Some("332097516c".to_owned()),
///     target_revision: Some(revision.clone()),
///     ..Observed::default()
/// };
///
/// let decision = decide(&plan, &observed, Timestamp::UNIX_EPOCH)?;
/// assert_eq!(
///     decision.effects,
///     [Effect::CreateReplicaSet { revision, replicas: 3 }]
/// );
/// assert!(decision.wake_at.is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`InvariantViolation`] if the decision would break a safety rule. Nothing of it may be carried
/// out: the traffic stays where it is.
pub fn decide(
    plan: &Plan,
    observed: &Observed,
    now: Timestamp,
) -> Result<Decision, InvariantViolation> {
    let followed = effective_plan(plan, &observed.state);
    let cx = Context::new(plan, observed, now).following(&followed);
    let mut transition = Transition::new(observed.state.clone());
    if let Some(problem) = &observed.incompatible_state {
        return incompatible::decide(&cx, transition, problem);
    }
    if observed.is_quarantined {
        return quarantine::decide(&cx, transition);
    }

    // An abort comes before anything that can fail or wait.
    abort::on_breach(&cx, &mut transition);
    // The metrics are those of the current revision, so they count before a new one is applied.
    step_down::apply(&cx, &mut transition);
    // Commands were made for what the requester saw, so they come before the new spec.
    let outcomes = commands::handle_all(&cx, &mut transition);
    workload::advance(&cx, &mut transition);
    spec_change::apply(&cx, &mut transition);
    release_analysis::record(&cx, &mut transition);
    // A release may have begun or ended, or its analysis may have been replaced by a command.
    let followed = effective_plan(plan, &transition.state);
    let cx = cx.following(&followed);
    steps::advance(&cx, &mut transition);
    abort::on_gate_expiry(&cx, &mut transition);

    // The position is final, except that it may be overdue.
    let holds = Holds::collect(&cx, &transition.state);
    progress::record(&cx, &mut transition, &holds);
    abort::on_deadline(&cx, &mut transition, &holds);

    baseline::record(&cx, &mut transition);
    let target = target::target(&cx, &transition.state);
    growth::record(&cx, &mut transition, &target);
    replicas::record(&cx, &mut transition);
    traffic::record(&cx, &mut transition, &target);
    pods::record_draining(&cx, &mut transition, &target);
    restart::record(&cx, &mut transition);
    status_message::update(&cx, &mut transition);
    if transition.state != observed.state {
        // Not worth a write on its own.
        pods::forget_drained(&cx, &mut transition);
        baseline::forget(&cx, &mut transition);
    }

    if let Some(at) = observed.guardrails.next_change {
        // Only the deadline counts: what has changed by then is observed again.
        let _ = cx.reached(at);
    }
    let effects = converge(&cx, &transition.state, &target);
    invariants::check(&cx, &transition.state, &effects)?;
    Ok(complete(&cx, transition, effects, outcomes))
}

/// The decision with these effects, and after them the outcomes of the commands.
pub(crate) fn complete(
    cx: &Context<'_>,
    transition: Transition,
    mut effects: Vec<Effect>,
    outcomes: Vec<(&Command, CommandOutcome)>,
) -> Decision {
    let finish = |(command, outcome): (&Command, CommandOutcome)| Effect::FinishCommand {
        name: command.name.clone(),
        uid: command.uid.clone(),
        outcome,
    };
    effects.extend(outcomes.into_iter().map(finish));
    Decision {
        state: transition.state,
        effects,
        wake_at: cx.earliest_deadline(),
        reasons: transition.reasons,
    }
}
