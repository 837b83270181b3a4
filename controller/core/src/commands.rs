//! Commands: each is handled once, and only if what the requester saw still applies.

use crate::command::{Command, CommandOutcome, Verb};
use crate::context::{Context, Transition};
use crate::plan::Step;
use crate::state::{COMMANDS_LIMIT, HandledCommand, Pause, PauseReason, Stage};
use crate::{abort, freeze_override, promotion, spec_change, steps};

/// Handles the waiting commands, oldest first, and returns the outcome of each.
pub(crate) fn handle_all<'a>(
    cx: &Context<'a>,
    transition: &mut Transition,
) -> Vec<(&'a Command, CommandOutcome)> {
    // No more at once than are remembered: after a crash before their outcomes are written, the
    // first of them would be repeated.
    let waiting = cx.observed.commands.iter().take(COMMANDS_LIMIT);
    waiting
        .map(|command| (command, handle(cx, transition, command)))
        .collect()
}

fn handle(cx: &Context<'_>, transition: &mut Transition, command: &Command) -> CommandOutcome {
    let mut handled = transition.state.commands.iter();
    if let Some(handled) = handled.find(|handled| handled.uid == command.uid) {
        return handled.outcome.clone();
    }
    let refusal = check_preconditions(transition, command);
    let outcome = refusal.unwrap_or_else(|| carry_out(cx, transition, command));
    let commands = &mut transition.state.commands;
    commands.push(HandledCommand {
        uid: command.uid.clone(),
        outcome: outcome.clone(),
    });
    let extra = commands.len().saturating_sub(COMMANDS_LIMIT);
    commands.drain(..extra);
    outcome
}

/// Refuses a command that was made for another revision or step.
pub(crate) fn check_preconditions(
    transition: &Transition,
    command: &Command,
) -> Option<CommandOutcome> {
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
        Verb::Promote => promote(cx, transition),
        Verb::PromoteFull => promote_full(cx, transition, command),
        Verb::Retry => retry(cx, transition),
        Verb::Pause => pause(cx, transition),
        Verb::Resume => resume(cx, transition),
        Verb::SkipStep => skip_step(cx, transition),
        Verb::Override => freeze_override::lift(cx, transition, command),
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
        (Stage::Aborted, _) => CommandOutcome::done("the release was already aborted"),
        (Stage::FirstDeploy, _) => {
            CommandOutcome::refused("there is no stable revision to return to")
        }
        (Stage::Stable | Stage::Progressing | Stage::Promoting, _) => {
            CommandOutcome::done("no release is under way: nothing to abort")
        }
    }
}

fn promote(cx: &Context<'_>, transition: &mut Transition) -> CommandOutcome {
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
            _ => CommandOutcome::refused(
                "the current step does not wait for approval: use skipStep to leave it, or \
                 promoteFull",
            ),
        },
    }
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
