//! Commands: each is handled once, and only if what the requester saw still applies.
//!
//! Nobody can delay an abort by a flood of commands: aborts come first, each requester may have only
//! a few commands pending, and the others end by themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::command::{Authorization, Command, CommandOutcome, Verb};
use crate::context::{Context, Transition};
use crate::gate::{Gate, GateCondition};
use crate::plan::Step;
use crate::state::{COMMANDS_LIMIT, HandledCommand, Pause, PauseReason, Stage};
use crate::text::UserName;
use crate::units::saturating_add;
use crate::{
    abort, blue_green, freeze_override, guardrail_holds, promotion, release_analysis, restart,
    spec_change, steps, workload,
};

/// Time after which a command that was not handled is refused: the release may have changed in ways
/// that its requester did not foresee. An abort is always carried out.
pub const EXPIRES_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// Time until the next decision if it was not possible to handle all pending commands.
const NEXT_COMMANDS_AFTER: Duration = Duration::from_secs(1);
/// Maximum number of commands that one requester may have pending for one Rollout. Aborts and other
/// commands count separately.
pub const PENDING_LIMIT: usize = 5;

/// For each command of one Rollout, whether it exceeded [`PENDING_LIMIT`] when it was created. Such
/// a command is never carried out.
///
/// `commands` are all commands of the Rollout, oldest first, each with the time of its outcome.
/// The result depends on nothing else, so that it is the same after a restart.
pub fn over_pending_limit<'a>(
    commands: impl IntoIterator<Item = (&'a Command, Option<Timestamp>)>,
) -> Vec<bool> {
    // When the commands of each requester that count ended or will end.
    let mut ends: BTreeMap<(Option<&UserName>, bool), Vec<Timestamp>> = BTreeMap::new();
    let is_over = |(command, finished_at): (&'a Command, Option<Timestamp>)| {
        let key = (command.requested_by.as_ref(), command.verb == Verb::Abort);
        let pending = ends.entry(key).or_default();
        pending.retain(|end| *end > command.created_at);
        if pending.len() >= PENDING_LIMIT {
            return true;
        }
        pending.push(finished_at.unwrap_or(Timestamp::MAX));
        false
    };
    commands.into_iter().map(is_over).collect()
}

/// Handles the pending commands, aborts first and then by age, and returns the outcome of each that
/// was handled.
pub(crate) fn handle_all<'a>(
    cx: &Context<'a>,
    transition: &mut Transition,
) -> Vec<(&'a Command, CommandOutcome)> {
    let pending = &cx.observed.commands;
    let selected = select(pending, &transition.state.commands);
    if selected.len() < pending.len() {
        // Registers the time of the next decision.
        cx.reached(saturating_add(cx.now, NEXT_COMMANDS_AFTER));
    }
    let outcomes = selected
        .into_iter()
        .map(|command| (command, handle(cx, transition, command)))
        .collect();
    forget_finished(&mut transition.state.commands, pending);
    outcomes
}

/// Handles the pending aborts, and returns the outcome of each. All other commands stay pending.
pub(crate) fn handle_aborts<'a>(
    cx: &Context<'a>,
    transition: &mut Transition,
) -> Vec<(&'a Command, CommandOutcome)> {
    let pending = &cx.observed.commands;
    let outcomes = select(pending, &transition.state.commands)
        .into_iter()
        .filter(|command| command.verb == Verb::Abort)
        .map(|command| (command, handle(cx, transition, command)))
        .collect();
    forget_finished(&mut transition.state.commands, pending);
    outcomes
}

/// The commands to handle in one decision: aborts, then the others by age. Those whose outcome is
/// known but not written yet come last.
///
/// No more are selected than can be remembered: a forgotten command whose outcome was not written
/// would be carried out again. Aborts have as many places again for themselves, and if all are
/// taken, an abort is carried out nevertheless, because repeating it is safe.
pub(crate) fn select<'a>(pending: &'a [Command], handled: &[HandledCommand]) -> Vec<&'a Command> {
    let is_handled = |command: &&Command| handled.iter().any(|handled| handled.uid == command.uid);
    let (unwritten, mut selected): (Vec<_>, Vec<_>) = pending.iter().partition(is_handled);
    // The sort is stable, so commands of the same kind stay ordered by age.
    selected.sort_by_key(|command| command.verb != Verb::Abort);
    let places = COMMANDS_LIMIT.saturating_sub(unwritten.len());
    let aborts = selected
        .iter()
        .take((2 * COMMANDS_LIMIT).saturating_sub(unwritten.len()).max(1))
        .filter(|command| command.verb == Verb::Abort)
        .count();
    selected.truncate(places.max(aborts));
    selected.extend(unwritten);
    selected
}

/// Forgets the oldest handled commands beyond the limit, but none that is still pending.
fn forget_finished(handled: &mut Vec<HandledCommand>, pending: &[Command]) {
    let mut extra = handled.len().saturating_sub(COMMANDS_LIMIT);
    if extra == 0 {
        return;
    }
    handled.retain(|handled| {
        let forget = extra > 0 && !pending.iter().any(|command| command.uid == handled.uid);
        extra -= usize::from(forget);
        !forget
    });
    // The newest can only be an abort, see `select`.
    handled.truncate(2 * COMMANDS_LIMIT);
}

fn handle(cx: &Context<'_>, transition: &mut Transition, command: &Command) -> CommandOutcome {
    let mut handled = transition.state.commands.iter();
    if let Some(handled) = handled.find(|handled| handled.uid == command.uid) {
        return handled.outcome.clone();
    }
    let refusal = refusal(cx, transition, command);
    let outcome = refusal.unwrap_or_else(|| carry_out(cx, transition, command));
    transition.state.commands.push(HandledCommand {
        uid: command.uid.clone(),
        outcome: outcome.clone(),
    });
    outcome
}

/// Why a command is refused whatever the state of the release is: its permission was not verified,
/// it is too old, or it was made for another revision or step.
pub(crate) fn refusal(
    cx: &Context<'_>,
    transition: &Transition,
    command: &Command,
) -> Option<CommandOutcome> {
    if let Authorization::Missing(why) = &command.authorization {
        return Some(CommandOutcome::refused(why));
    }
    if is_expired(command, cx.now) {
        return Some(expired());
    }
    check_preconditions(transition, command)
}

/// Whether a pending command is too old to be carried out.
pub fn is_expired(command: &Command, now: Timestamp) -> bool {
    command.verb != Verb::Abort && now.duration_since(command.created_at) >= EXPIRES_AFTER
}

/// The outcome of a command that is too old.
pub fn expired() -> CommandOutcome {
    CommandOutcome::refused(format!(
        "expired: it was not handled within {} s after its creation; create it again if it is still \
         wanted",
        EXPIRES_AFTER.as_secs()
    ))
}

/// The outcome of a command beyond [`PENDING_LIMIT`].
pub fn exceeded_pending_limit() -> CommandOutcome {
    CommandOutcome::refused(format!(
        "the requester had {PENDING_LIMIT} commands pending for this Rollout: wait for their \
         outcomes"
    ))
}

/// Refuses a command that was made for another revision or step.
fn check_preconditions(transition: &Transition, command: &Command) -> Option<CommandOutcome> {
    let current = transition.state.current_revision.as_ref();
    if let Some(required) = &command.required_revision
        && Some(required) != current
    {
        let current = current.map_or("none", |revision| revision.as_str());
        return Some(CommandOutcome::refused(format!(
            "made for revision {required}, but the current revision is {current}"
        )));
    }
    // An abort is for the revision as a whole: it applies one step later as well.
    let required = command
        .required_step
        .filter(|_| command.verb != Verb::Abort)?;
    let index = transition.state.step.map(|step| step.index);
    if index == Some(required) {
        return None;
    }
    let current = match index {
        Some(index) => format!("step {}", index + 1),
        None => "no step".to_owned(),
    };
    Some(CommandOutcome::refused(format!(
        "made for step {}, but the rollout is at {current}",
        required + 1
    )))
}

fn carry_out(cx: &Context<'_>, transition: &mut Transition, command: &Command) -> CommandOutcome {
    // The right to promote does not include spending errors that the service does not have.
    if matches!(
        command.verb,
        Verb::Promote | Verb::PromoteFull | Verb::SkipStep
    ) && let Some(message) = freeze_override::active_freeze(cx, &transition.state)
    {
        return CommandOutcome::refused(format!(
            "the release is frozen, which `override` can lift: {message}"
        ));
    }
    match command.verb {
        Verb::Abort => abort_release(cx, transition, command),
        Verb::Promote => promote(cx, transition, command),
        Verb::PromoteFull => promote_full(cx, transition, command),
        Verb::Retry => retry(cx, transition),
        Verb::Pause => pause(cx, transition),
        Verb::Resume => resume(cx, transition),
        Verb::SkipStep => skip_step(cx, transition),
        Verb::Override if command.adopt_analysis => {
            release_analysis::adopt(cx, transition, command)
        }
        Verb::Override => freeze_override::lift(cx, transition, command),
        Verb::GiveBack => workload::give_back(cx, transition, command),
        Verb::Restart => restart::begin(cx, transition, command),
    }
}

pub(crate) fn abort_release(
    cx: &Context<'_>,
    transition: &mut Transition,
    command: &Command,
) -> CommandOutcome {
    let current = transition.state.current_revision.clone();
    match (transition.state.stage, current) {
        (Stage::Progressing | Stage::Promoting, Some(revision)) => {
            let message = format!("revision {revision} is aborted; its traffic returns to stable");
            abort::on_command(cx, transition, revision, command);
            CommandOutcome::done(message)
        }
        (Stage::Stable, Some(revision))
            if blue_green::previous_side(cx, &transition.state).is_some() =>
        {
            let previous = blue_green::previous_side(cx, &transition.state).cloned();
            let message = format!("revision {revision} is aborted; all traffic switches back");
            transition.state.stable_revision = previous;
            abort::on_command(cx, transition, revision, command);
            CommandOutcome::done(message)
        }
        (Stage::Aborted, _) => CommandOutcome::done("the release was already aborted"),
        (Stage::FirstDeploy, _) => {
            CommandOutcome::refused("there is no stable revision to return to")
        }
        (Stage::Stable | Stage::Progressing | Stage::Promoting, _) => {
            CommandOutcome::done("no release is under way: nothing to abort")
        }
    }
}

fn promote(cx: &Context<'_>, transition: &mut Transition, command: &Command) -> CommandOutcome {
    if transition.state.active_bake().is_some() {
        promotion::end_bake(cx, transition);
        return CommandOutcome::done("the bake is over: the revision becomes stable");
    }
    if transition.state.stage != Stage::Progressing {
        return CommandOutcome::refused(no_step_reason(transition.state.stage));
    }
    if cx.plan.paused {
        return CommandOutcome::refused(
            "spec.paused is true: set it to false where the Rollout is declared",
        );
    }
    let pause = transition.state.pause.as_ref();
    match pause.map(|pause| pause.reason) {
        Some(PauseReason::Command) => resume(cx, transition),
        Some(PauseReason::Inconclusive) => {
            advance_past_step(cx, transition, "the inconclusive analysis was accepted")
        }
        Some(PauseReason::Step) | None => match steps::current(cx.plan, &transition.state) {
            Some(Step::Pause(_)) => advance_past_step(cx, transition, "the pause is over"),
            Some(Step::Gate(gate)) if gate.waits_for == GateCondition::Approval => {
                approve(cx, transition, gate, command)
            }
            _ => CommandOutcome::refused(
                "the current step does not wait for approval: use skipStep to leave it, or \
                 promoteFull",
            ),
        },
    }
}

/// Opens the gate of the current step, and records who did.
fn approve(
    cx: &Context<'_>,
    transition: &mut Transition,
    gate: &Gate,
    command: &Command,
) -> CommandOutcome {
    let step = transition.state.step;
    if step.is_some_and(|step| gate.has_expired(cx, step.started_at)) {
        return CommandOutcome::refused("the gate has expired: use skipStep to leave it, or abort");
    }
    let by = command.requester();
    let who = by.map_or_else(|| format!("command {}", command.name), |by| by.to_string());
    let number = step.map_or(0, |step| step.index) + 1;
    let why = command
        .reason
        .as_deref()
        .map_or_else(String::new, |reason| format!(": {reason}"));
    transition.normal(
        "GateApproved",
        format!("{who} approved the gate of step {number}{why}"),
    );
    advance_past_step(cx, transition, &format!("the gate was approved by {who}"))
}

fn promote_full(
    cx: &Context<'_>,
    transition: &mut Transition,
    command: &Command,
) -> CommandOutcome {
    if transition.state.stage != Stage::Progressing {
        return CommandOutcome::refused(no_step_reason(transition.state.stage));
    }
    transition.normal(
        "PromotingFull",
        format!("command {} skips the remaining steps", command.name),
    );
    transition.enter_stage(Stage::Promoting, cx.now);
    CommandOutcome::done("going to 100 % without the remaining steps; a breach still aborts")
}

fn retry(cx: &Context<'_>, transition: &mut Transition) -> CommandOutcome {
    let state = &transition.state;
    let is_aborted = state.stage == Stage::Aborted;
    let Some(revision) = state.current_revision.clone().filter(|_| is_aborted) else {
        return CommandOutcome::refused("no aborted release to retry");
    };
    if let Some((code, problem)) = cx.observed.policy_problem() {
        return CommandOutcome::refused(format!("{code}: {problem}"));
    }
    if let Some(hold) = guardrail_holds::before_start(cx, state, &revision) {
        return CommandOutcome::refused(format!(
            "the revision does not meet a guardrail ({}): {}",
            hold.code, hold.message
        ));
    }
    spec_change::begin_release(cx, transition, revision.clone());
    CommandOutcome::done(format!(
        "revision {revision} starts again from its first step"
    ))
}

fn pause(cx: &Context<'_>, transition: &mut Transition) -> CommandOutcome {
    if transition.state.stage != Stage::Progressing {
        return CommandOutcome::refused(no_step_reason(transition.state.stage));
    }
    transition.state.pause = Some(Pause {
        reason: PauseReason::Command,
        since: cx.now,
        until: None,
    });
    CommandOutcome::done("nothing advances until `resume`")
}

fn resume(cx: &Context<'_>, transition: &mut Transition) -> CommandOutcome {
    if let Some(outcome) = workload::take_again(cx, transition) {
        return outcome;
    }
    let pause = transition.state.pause.as_ref();
    match pause.map(|pause| pause.reason) {
        Some(PauseReason::Command) => {
            transition.state.pause = None;
            transition.restart_deadline(cx.now);
            CommandOutcome::done("the pause by command is over")
        }
        _ => CommandOutcome::refused("it is not paused by a command"),
    }
}

fn skip_step(cx: &Context<'_>, transition: &mut Transition) -> CommandOutcome {
    if transition.state.stage != Stage::Progressing {
        return CommandOutcome::refused(no_step_reason(transition.state.stage));
    }
    advance_past_step(cx, transition, "the step was skipped")
}

/// Leaves the current step, or all steps if the evidence sets the pace.
fn advance_past_step(
    cx: &Context<'_>,
    transition: &mut Transition,
    reason: &str,
) -> CommandOutcome {
    let total = cx.plan.steps().len();
    match transition.state.step.map(|step| step.index + 1) {
        Some(next) if next < total => {
            steps::begin_step(cx, transition, next);
            CommandOutcome::done(format!(
                "{reason}: continuing with step {} of {total}",
                next + 1
            ))
        }
        _ => {
            transition.enter_stage(Stage::Promoting, cx.now);
            CommandOutcome::done(format!("{reason}: going to 100 %"))
        }
    }
}

/// Why a command that needs a current step is refused.
fn no_step_reason(stage: Stage) -> &'static str {
    match stage {
        Stage::FirstDeploy => "the first revision is being deployed, without steps",
        Stage::Promoting => "it is already going to 100 %",
        Stage::Aborted => "the release was aborted: use retry, or declare another revision",
        Stage::Stable | Stage::Progressing => "no release is under way",
    }
}
