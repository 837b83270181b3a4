//! Commands: carried out once, bound to what the requester was looking at.

use crate::command::{Command, Outcome, Verb};
use crate::draft::{Draft, Look};
use crate::plan::Step;
use crate::state::{COMMANDS_LIMIT, CommandDone, Pause, PauseReason, Stage};
use crate::{abort, freeze, promotion, release, steps};

/// Carries out the waiting commands, oldest first, and answers with the outcome of each.
pub(crate) fn take<'a>(look: &Look<'a>, draft: &mut Draft) -> Vec<(&'a Command, Outcome)> {
    // No more at once than are remembered, or a crash before their outcome is written would repeat
    // the first of them.
    let waiting = look.seen.commands.iter().take(COMMANDS_LIMIT);
    waiting
        .map(|command| (command, once(look, draft, command)))
        .collect()
}

fn once(look: &Look<'_>, draft: &mut Draft, command: &Command) -> Outcome {
    if let Some(done) = draft
        .state
        .commands
        .iter()
        .find(|done| done.uid == command.uid)
    {
        return done.outcome.clone();
    }
    let outcome = stale(draft, command).unwrap_or_else(|| carry_out(look, draft, command));
    draft.state.commands.push(CommandDone {
        uid: command.uid.clone(),
        outcome: outcome.clone(),
    });
    let extra = draft.state.commands.len().saturating_sub(COMMANDS_LIMIT);
    draft.state.commands.drain(..extra);
    outcome
}

/// Why the command no longer applies, where what it was made for has passed.
fn stale(draft: &Draft, command: &Command) -> Option<Outcome> {
    let current = draft.state.current_revision.as_ref();
    if let Some(expected) = &command.expect_revision
        && Some(expected) != current
    {
        let now_at = current.map_or("none", |revision| revision.as_str());
        return Some(Outcome::refused(format!(
            "made for revision {expected}, but the current revision is {now_at}"
        )));
    }
    // An abort is for the revision as a whole: it is as welcome one step later.
    let expected = command
        .expect_step
        .filter(|_| command.verb != Verb::Abort)?;
    let index = draft.state.step.map(|step| step.index);
    if index == Some(expected) {
        return None;
    }
    let now_at = index.map_or_else(
        || "no step".to_owned(),
        |index| format!("step {}", index + 1),
    );
    Some(Outcome::refused(format!(
        "made for step {}, but the rollout is at {now_at}",
        expected + 1
    )))
}

fn carry_out(look: &Look<'_>, draft: &mut Draft, command: &Command) -> Outcome {
    // Whoever may promote may not for that reason spend errors that the service does not have.
    if matches!(
        command.verb,
        Verb::Promote | Verb::PromoteFull | Verb::SkipStep
    ) && let Some(message) = freeze::of(look, &draft.state)
    {
        return Outcome::refused(format!(
            "the release is frozen, which `override` can lift: {message}"
        ));
    }
    match command.verb {
        Verb::Abort => abort_release(look, draft, command),
        Verb::Promote => promote(look, draft),
        Verb::PromoteFull => promote_full(look, draft, command),
        Verb::Retry => retry(look, draft),
        Verb::Pause => pause(look, draft),
        Verb::Resume => resume(look, draft),
        Verb::SkipStep => skip_step(look, draft),
        Verb::Override => freeze::lift(look, draft, command),
    }
}

fn abort_release(look: &Look<'_>, draft: &mut Draft, command: &Command) -> Outcome {
    let current = draft.state.current_revision.clone();
    match (draft.state.stage, current) {
        (Stage::Stepping | Stage::Promoting, Some(revision)) => {
            let message =
                format!("revision {revision} is given up; its traffic goes back to stable");
            abort::on_command(look, draft, revision, command);
            Outcome::done(message)
        }
        (Stage::Aborted, _) => Outcome::done("the release had already been given up"),
        (Stage::FirstDeploy, _) => Outcome::refused("there is no stable revision to go back to"),
        (Stage::Stable | Stage::Stepping | Stage::Promoting, _) => {
            Outcome::done("no release is under way: nothing to abort")
        }
    }
}

fn promote(look: &Look<'_>, draft: &mut Draft) -> Outcome {
    if draft.state.watch_under_way().is_some() {
        promotion::end(look, draft);
        return Outcome::done("the watch is over: the revision becomes stable");
    }
    if draft.state.stage != Stage::Stepping {
        return Outcome::refused(not_stepping(draft.state.stage));
    }
    if look.plan.paused {
        return Outcome::refused(
            "spec.paused is true: set it to false where the Rollout is declared",
        );
    }
    match draft.state.pause.as_ref().map(|pause| pause.reason) {
        Some(PauseReason::Command) => resume(look, draft),
        Some(PauseReason::Inconclusive) => {
            go_on(look, draft, "the inconclusive analysis was accepted")
        }
        Some(PauseReason::Step) | None => match steps::current(look.plan, &draft.state) {
            Some(Step::Pause(_)) => go_on(look, draft, "the pause is over"),
            _ => Outcome::refused(
                "the step at hand waits for nobody's approval: use skipStep to leave it, or promoteFull",
            ),
        },
    }
}

fn promote_full(look: &Look<'_>, draft: &mut Draft, command: &Command) -> Outcome {
    if draft.state.stage != Stage::Stepping {
        return Outcome::refused(not_stepping(draft.state.stage));
    }
    draft.normal(
        "PromotingFull",
        format!(
            "command {} goes to 100 % without the remaining steps",
            command.name
        ),
    );
    draft.enter(Stage::Promoting, look.now);
    Outcome::done("going to 100 % without the remaining steps; a breach still aborts")
}

fn retry(look: &Look<'_>, draft: &mut Draft) -> Outcome {
    let Some(revision) = draft
        .state
        .current_revision
        .clone()
        .filter(|_| draft.state.stage == Stage::Aborted)
    else {
        return Outcome::refused("no aborted release to retry");
    };
    release::begin(look, draft, revision.clone());
    Outcome::done(format!(
        "revision {revision} starts again from its first step"
    ))
}

fn pause(look: &Look<'_>, draft: &mut Draft) -> Outcome {
    if draft.state.stage != Stage::Stepping {
        return Outcome::refused(not_stepping(draft.state.stage));
    }
    draft.state.pause = Some(Pause {
        reason: PauseReason::Command,
        since: look.now,
        until: None,
    });
    Outcome::done("nothing advances until `resume`")
}

fn resume(look: &Look<'_>, draft: &mut Draft) -> Outcome {
    match draft.state.pause.as_ref().map(|pause| pause.reason) {
        Some(PauseReason::Command) => {
            draft.state.pause = None;
            draft.start_waiting(look.now);
            Outcome::done("the pause by command is over")
        }
        _ => Outcome::refused("it is not paused by a command"),
    }
}

fn skip_step(look: &Look<'_>, draft: &mut Draft) -> Outcome {
    if draft.state.stage != Stage::Stepping {
        return Outcome::refused(not_stepping(draft.state.stage));
    }
    go_on(look, draft, "the step was skipped")
}

/// Leaves the step at hand, or where evidence sets the pace, the steps altogether.
fn go_on(look: &Look<'_>, draft: &mut Draft, what: &str) -> Outcome {
    let total = look.plan.steps().len();
    match draft.state.step.map(|step| step.index + 1) {
        Some(next) if next < total => {
            steps::begin_step(look, draft, next);
            Outcome::done(format!(
                "{what}: going on with step {} of {total}",
                next + 1
            ))
        }
        _ => {
            draft.enter(Stage::Promoting, look.now);
            Outcome::done(format!("{what}: going to 100 %"))
        }
    }
}

/// Why a command that needs a step at hand cannot be carried out.
fn not_stepping(stage: Stage) -> &'static str {
    match stage {
        Stage::FirstDeploy => "the first revision is being deployed, without steps",
        Stage::Promoting => "it is already going to 100 %",
        Stage::Aborted => "the release was given up: use retry, or declare another revision",
        Stage::Stable | Stage::Stepping => "no release is under way",
    }
}
