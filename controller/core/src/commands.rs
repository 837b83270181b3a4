//! Commands: carried out once, bound to what the requester was looking at.

use crate::command::{Command, CommandOutcome, Verb};
use crate::context::{Context, Transition};
use crate::plan::Step;
use crate::state::{COMMANDS_LIMIT, HandledCommand, Pause, PauseReason, Stage};
use crate::{abort, freeze, promotion, spec_change, steps};

/// Carries out the waiting commands, oldest first, and answers with the outcome of each.
pub(crate) fn take<'a>(
    cx: &Context<'a>,
    transition: &mut Transition,
) -> Vec<(&'a Command, CommandOutcome)> {
    // No more at once than are remembered, or a crash before their outcome is written would repeat
    // the first of them.
    let waiting = cx.observed.commands.iter().take(COMMANDS_LIMIT);
    waiting
        .map(|command| (command, once(cx, transition, command)))
        .collect()
}

fn once(cx: &Context<'_>, transition: &mut Transition, command: &Command) -> CommandOutcome {
    if let Some(done) = transition
        .state
        .commands
        .iter()
        .find(|done| done.uid == command.uid)
    {
        return done.outcome.clone();
    }
    let outcome = stale(transition, command).unwrap_or_else(|| carry_out(cx, transition, command));
    transition.state.commands.push(HandledCommand {
        uid: command.uid.clone(),
        outcome: outcome.clone(),
    });
    let extra = transition
        .state
        .commands
        .len()
        .saturating_sub(COMMANDS_LIMIT);
    transition.state.commands.drain(..extra);
    outcome
}

/// Why the command no longer applies, where what it was made for has passed.
fn stale(transition: &Transition, command: &Command) -> Option<CommandOutcome> {
    let current = transition.state.current_revision.as_ref();
    if let Some(expected) = &command.required_revision
        && Some(expected) != current
    {
        let now_at = current.map_or("none", |revision| revision.as_str());
        return Some(CommandOutcome::refused(format!(
            "made for revision {expected}, but the current revision is {now_at}"
        )));
    }
    // An abort is for the revision as a whole: it is as welcome one step later.
    let expected = command
        .required_step
        .filter(|_| command.verb != Verb::Abort)?;
    let index = transition.state.step.map(|step| step.index);
    if index == Some(expected) {
        return None;
    }
    let now_at = index.map_or_else(
        || "no step".to_owned(),
        |index| format!("step {}", index + 1),
    );
    Some(CommandOutcome::refused(format!(
        "made for step {}, but the rollout is at {now_at}",
        expected + 1
    )))
}

fn carry_out(cx: &Context<'_>, transition: &mut Transition, command: &Command) -> CommandOutcome {
    // Whoever may promote may not for that reason spend errors that the service does not have.
    if matches!(
        command.verb,
        Verb::Promote | Verb::PromoteFull | Verb::SkipStep
    ) && let Some(message) = freeze::of(cx, &transition.state)
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
        Verb::Override => freeze::lift(cx, transition, command),
    }
}

fn abort_release(
    cx: &Context<'_>,
    transition: &mut Transition,
    command: &Command,
) -> CommandOutcome {
    let current = transition.state.current_revision.clone();
    match (transition.state.stage, current) {
        (Stage::Progressing | Stage::Promoting, Some(revision)) => {
            let message =
                format!("revision {revision} is given up; its traffic goes back to stable");
            abort::on_command(cx, transition, revision, command);
            CommandOutcome::done(message)
        }
        (Stage::Aborted, _) => CommandOutcome::done("the release had already been given up"),
        (Stage::FirstDeploy, _) => {
            CommandOutcome::refused("there is no stable revision to go back to")
        }
        (Stage::Stable | Stage::Progressing | Stage::Promoting, _) => {
            CommandOutcome::done("no release is under way: nothing to abort")
        }
    }
}

fn promote(cx: &Context<'_>, transition: &mut Transition) -> CommandOutcome {
    if transition.state.active_bake().is_some() {
        promotion::end(cx, transition);
        return CommandOutcome::done("the watch is over: the revision becomes stable");
    }
    if transition.state.stage != Stage::Progressing {
        return CommandOutcome::refused(not_stepping(transition.state.stage));
    }
    if cx.plan.paused {
        return CommandOutcome::refused(
            "spec.paused is true: set it to false where the Rollout is declared",
        );
    }
    match transition.state.pause.as_ref().map(|pause| pause.reason) {
        Some(PauseReason::Command) => resume(cx, transition),
        Some(PauseReason::Inconclusive) => {
            go_on(cx, transition, "the inconclusive analysis was accepted")
        }
        Some(PauseReason::Step) | None => match steps::current(cx.plan, &transition.state) {
            Some(Step::Pause(_)) => go_on(cx, transition, "the pause is over"),
            _ => CommandOutcome::refused(
                "the step at hand waits for nobody's approval: use skipStep to leave it, or promoteFull",
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
        return CommandOutcome::refused(not_stepping(transition.state.stage));
    }
    transition.normal(
        "PromotingFull",
        format!(
            "command {} goes to 100 % without the remaining steps",
            command.name
        ),
    );
    transition.enter_stage(Stage::Promoting, cx.now);
    CommandOutcome::done("going to 100 % without the remaining steps; a breach still aborts")
}

fn retry(cx: &Context<'_>, transition: &mut Transition) -> CommandOutcome {
    let Some(revision) = transition
        .state
        .current_revision
        .clone()
        .filter(|_| transition.state.stage == Stage::Aborted)
    else {
        return CommandOutcome::refused("no aborted release to retry");
    };
    spec_change::begin(cx, transition, revision.clone());
    CommandOutcome::done(format!(
        "revision {revision} starts again from its first step"
    ))
}

fn pause(cx: &Context<'_>, transition: &mut Transition) -> CommandOutcome {
    if transition.state.stage != Stage::Progressing {
        return CommandOutcome::refused(not_stepping(transition.state.stage));
    }
    transition.state.pause = Some(Pause {
        reason: PauseReason::Command,
        since: cx.now,
        until: None,
    });
    CommandOutcome::done("nothing advances until `resume`")
}

fn resume(cx: &Context<'_>, transition: &mut Transition) -> CommandOutcome {
    match transition.state.pause.as_ref().map(|pause| pause.reason) {
        Some(PauseReason::Command) => {
            transition.state.pause = None;
            transition.start_waiting(cx.now);
            CommandOutcome::done("the pause by command is over")
        }
        _ => CommandOutcome::refused("it is not paused by a command"),
    }
}

fn skip_step(cx: &Context<'_>, transition: &mut Transition) -> CommandOutcome {
    if transition.state.stage != Stage::Progressing {
        return CommandOutcome::refused(not_stepping(transition.state.stage));
    }
    go_on(cx, transition, "the step was skipped")
}

/// Leaves the step at hand, or where evidence sets the pace, the steps altogether.
fn go_on(cx: &Context<'_>, transition: &mut Transition, what: &str) -> CommandOutcome {
    let total = cx.plan.steps().len();
    match transition.state.step.map(|step| step.index + 1) {
        Some(next) if next < total => {
            steps::begin_step(cx, transition, next);
            CommandOutcome::done(format!(
                "{what}: going on with step {} of {total}",
                next + 1
            ))
        }
        _ => {
            transition.enter_stage(Stage::Promoting, cx.now);
            CommandOutcome::done(format!("{what}: going to 100 %"))
        }
    }
}

/// Why a command that needs a step at hand cannot be carried out.
fn not_stepping(stage: Stage) -> &'static str {
    match stage {
        Stage::FirstDeploy => "the first revision is being deployed, without steps",
        Stage::Promoting => "it is already going to 100 %",
        Stage::Aborted => "the release was given up: use retry, or declare another revision",
        Stage::Stable | Stage::Progressing => "no release is under way",
    }
}
