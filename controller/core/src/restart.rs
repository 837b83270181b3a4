//! Restarts: replace the pods of the stable revision without a release. A command requests one, or
//! `spec.restartAt` declares one.
//!
//! New pods are created before old ones are evicted, as far as `maxSurge` allows, and no more pods
//! are missing than `maxUnavailable` allows. The pods are evicted, not deleted, so that the
//! disruption budgets of their users count.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::command::{Command, CommandOutcome};
use crate::context::{Context, Transition};
use crate::effect::Effect;
use crate::observed::ReplicaSetView;
use crate::state::{Restart, Stage, State};
use crate::units::Revision;
use crate::workload;

/// Maximum number of evictions in one decision, so that a large fleet does not delay what follows.
/// The next decision follows when the first pods have ended.
const MAX_EVICTIONS: usize = 16;

/// Starts a restart by a command.
pub(crate) fn begin(
    cx: &Context<'_>,
    transition: &mut Transition,
    command: &Command,
) -> CommandOutcome {
    let state = &mut transition.state;
    match state.stage {
        Stage::Stable | Stage::Aborted => {}
        Stage::FirstDeploy => {
            return CommandOutcome::refused(
                "the first revision is being deployed: its pods are new",
            );
        }
        Stage::Progressing | Stage::Promoting => {
            return CommandOutcome::refused(
                "a release is in progress, and its pods are being compared: restart after it, or \
                 abort it first",
            );
        }
    }
    if !workload::is_settled(cx, state) {
        return CommandOutcome::refused(
            "the pods belong to the Deployment: use `kubectl rollout restart deployment`",
        );
    }
    let at = command.created_at;
    state.restart = Some(Restart {
        at,
        by: command.requester(),
    });
    transition.normal(
        "Restarting",
        format!(
            "command {}: replacing the pods that were created before {at}",
            command.name
        ),
    );
    CommandOutcome::done(format!(
        "the pods that were created before {at} are being replaced, without a release"
    ))
}

/// Starts the restart that the spec declares, and ends a restart once all of its pods have been
/// replaced.
pub(crate) fn record(cx: &Context<'_>, transition: &mut Transition) {
    begin_declared(cx, transition);
    let Some(restarting) = Restarting::observe(cx, &transition.state) else {
        return;
    };
    let sufficient = cx.plan.canary().sufficient_pods(cx.plan.replicas);
    if restarting.set.restart_pods.is_empty() && restarting.set.available >= sufficient {
        if let Some(restart) = transition.state.restart.take() {
            record_declared(cx, transition, restart.at);
        }
        transition.normal("Restarted", "all pods have been replaced");
    }
}

/// Starts the restart of `spec.restartAt` once its time has come. A release that is in progress comes
/// first. Pods that were created later need no restart.
fn begin_declared(cx: &Context<'_>, transition: &mut Transition) {
    let state = &transition.state;
    let Some(at) = cx
        .plan
        .restart_at
        .filter(|at| state.restarted_at < Some(*at))
    else {
        return;
    };
    if !cx.reached(at) || !is_idle(cx, state) {
        return;
    }
    let stable = state.stable_revision.as_ref();
    let Some(set) = stable.and_then(|revision| cx.observed.replica_sets.get(revision)) else {
        return;
    };
    if set.created_at >= at {
        transition.state.restarted_at = Some(at);
        return;
    }
    // The pods that a restart under way replaces are at least as old.
    let is_covered = state
        .restart
        .as_ref()
        .is_some_and(|restart| restart.at >= at);
    if !is_covered {
        transition.state.restart = Some(Restart { at, by: None });
        let message = format!("spec.restartAt: replacing the pods that were created before {at}");
        transition.normal("Restarting", message);
    }
}

/// Records that the restart of `spec.restartAt` is complete, if one that replaced all pods created
/// before `at` includes it.
fn record_declared(cx: &Context<'_>, transition: &mut Transition, at: Timestamp) {
    let declared = cx.plan.restart_at.filter(|declared| *declared <= at);
    let state = &mut transition.state;
    state.restarted_at = state.restarted_at.max(declared);
}

/// Whether no release is in progress, and the Rollout manages its pods.
fn is_idle(cx: &Context<'_>, state: &State) -> bool {
    matches!(state.stage, Stage::Stable | Stage::Aborted) && workload::is_settled(cx, state)
}

/// Adds the pods that a restart needs in addition to `counts`.
pub(crate) fn add_surge(cx: &Context<'_>, state: &State, counts: &mut BTreeMap<Revision, u32>) {
    let Some(restarting) = Restarting::observe(cx, state) else {
        return;
    };
    let old = restarting.set.restart_pods.len();
    let old = u32::try_from(old).unwrap_or(u32::MAX);
    let surge = surge(cx).min(old);
    let has_pods = restarting.set.desired >= cx.plan.replicas;
    if has_pods && let Some(count) = counts.get_mut(restarting.revision) {
        *count = (*count).max(cx.plan.replicas.saturating_add(surge));
    }
}

/// The evictions that the restart permits now.
pub(crate) fn evictions(cx: &Context<'_>, state: &State) -> Vec<Effect> {
    let Some(restarting) = Restarting::observe(cx, state) else {
        return Vec::new();
    };
    let replicas = cx.plan.replicas;
    let required = replicas.saturating_sub(max_unavailable(cx));
    let mut spare = restarting.set.available.saturating_sub(required);
    let mut effects = Vec::new();
    for pod in &restarting.set.restart_pods {
        if pod.is_available {
            if spare == 0 {
                continue;
            }
            spare -= 1;
        }
        effects.push(Effect::EvictPod {
            revision: restarting.revision.clone(),
            name: pod.name.clone(),
        });
    }
    effects.truncate(MAX_EVICTIONS);
    effects
}

/// Whether pods are being replaced now. A release suspends it.
pub(crate) fn is_active(cx: &Context<'_>, state: &State) -> bool {
    Restarting::observe(cx, state).is_some()
}

/// A restart under way, with the pods that are left.
struct Restarting<'a> {
    revision: &'a Revision,
    set: &'a ReplicaSetView,
}

impl<'a> Restarting<'a> {
    /// `None` if there is no restart, if a release suspends it, or if its pods have not been observed
    /// yet.
    fn observe(cx: &Context<'a>, state: &'a State) -> Option<Self> {
        let restart = state.restart.as_ref()?;
        let is_observed = cx.observed.state.restart.as_ref() == Some(restart);
        if !is_observed || !is_idle(cx, state) {
            return None;
        }
        let revision = state.stable_revision.as_ref()?;
        let set = cx.observed.replica_sets.get(revision)?;
        Some(Self { revision, set })
    }
}

fn surge(cx: &Context<'_>) -> u32 {
    cx.plan.canary().max_surge.rounded_up(cx.plan.replicas)
}

/// Rounding can make both limits 0. Then one pod may be missing, as in a Deployment.
fn max_unavailable(cx: &Context<'_>) -> u32 {
    let missing = cx.plan.canary().max_unavailable;
    match missing.rounded_down(cx.plan.replicas) {
        0 if surge(cx) == 0 => 1,
        pods => pods,
    }
}
