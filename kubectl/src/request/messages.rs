//! Messages about executed commands.

use std::time::Duration;

use serin_core::command::Verb;
use serin_core::state::Stage;
use serin_crds::command::CommandVerb;

use crate::rollout_summary::RolloutSummary;

/// The verb in kebab case, as typed on the command line.
pub const fn kebab_case(verb: CommandVerb) -> &'static str {
    match verb {
        CommandVerb::Promote => "promote",
        CommandVerb::PromoteFull => "promote-full",
        CommandVerb::Abort => "abort",
        CommandVerb::Retry => "retry",
        CommandVerb::Pause => "pause",
        CommandVerb::Resume => "resume",
        CommandVerb::SkipStep => "skip-step",
        CommandVerb::Override => "override",
        CommandVerb::GiveBack => "give-back",
        CommandVerb::Restart => "restart",
    }
}

/// The verb as written in the API and in RBAC rules.
pub fn api_verb(verb: CommandVerb) -> &'static str {
    Verb::from(verb).as_str()
}

/// The verb in the past tense, for example `promoted`.
pub const fn past_tense(verb: CommandVerb) -> &'static str {
    match verb {
        CommandVerb::Promote | CommandVerb::PromoteFull => "promoted",
        CommandVerb::Abort => "aborted",
        CommandVerb::Retry => "retried",
        CommandVerb::Pause => "paused",
        CommandVerb::Resume => "resumed",
        CommandVerb::SkipStep => "step skipped",
        CommandVerb::Override => "freeze lifted",
        CommandVerb::GiveBack => "is being given back",
        CommandVerb::Restart => "restarting",
    }
}

/// The confirmation prompt before steps are skipped.
pub fn confirmation_prompt(now: &RolloutSummary) -> String {
    let revision = now
        .current_revision
        .as_deref()
        .unwrap_or("the current revision");
    let share = now.canary_share().map(|share| share.describe());
    let position = match (now.step_label(), share) {
        (Some(step), Some(share)) => format!(" (step {step}, {share})"),
        (None, Some(share)) => format!(" ({share})"),
        _ => String::new(),
    };
    format!(
        "Promote {} {revision}{position} to 100 % without its remaining steps?",
        now.name
    )
}

/// Whether phase, stage, step or weight have changed.
pub fn has_moved(before: &RolloutSummary, now: &RolloutSummary) -> bool {
    let place = |summary: &RolloutSummary| {
        (
            summary.phase.clone(),
            summary.stage.clone(),
            summary.step_index,
            summary.desired_weight.map(f64::to_bits),
        )
    };
    place(before) != place(now)
}

/// The result of a command: the controller's message and the current state.
pub fn result_message(
    verb: CommandVerb,
    before: &RolloutSummary,
    after: &RolloutSummary,
    message: &str,
    took: Duration,
) -> String {
    let revision = before.current_revision.as_deref().unwrap_or("unknown");
    let suffix = if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    };
    let state = match verb {
        CommandVerb::Abort => abort_message(revision, before, after, took),
        _ => format!(
            "Revision {revision} {}, now {}.",
            describe_before(before),
            describe_now(after)
        ),
    };
    format!(
        "rollout.serin.dev/{} {}{suffix}\n{state}",
        after.name,
        past_tense(verb)
    )
}

fn abort_message(
    revision: &str,
    before: &RolloutSummary,
    after: &RolloutSummary,
    took: Duration,
) -> String {
    let stable = after
        .stable_revision
        .as_deref()
        .map_or_else(|| "stable".to_owned(), |stable| format!("stable {stable}"));
    if after.aborted_revision.is_none() && !after.has_stage(Stage::Aborted) {
        return format!(
            "No release to abort: {stable} serves, {}.",
            describe_now(after)
        );
    }
    let was = describe_before(before);
    if after.canary_is_off() {
        let by = if after.has_router {
            ", confirmed by the router"
        } else {
            ""
        };
        format!(
            "Revision {revision} {was}; {stable} has all traffic{by} ({:.1} s after the request).",
            took.as_secs_f64()
        )
    } else {
        format!(
            "Revision {revision} {was}; its traffic is being removed, but the router has not confirmed it yet. \
             To watch it: kubectl serin status {} -n {} --watch",
            after.name, after.namespace
        )
    }
}

fn describe_before(summary: &RolloutSummary) -> String {
    let share = summary.canary_share().map(|share| share.describe());
    match (summary.step_label(), share) {
        (Some(step), Some(share)) => format!("was at step {step} with {share}"),
        (None, Some(share)) => format!("had {share}"),
        _ => "had no traffic".to_owned(),
    }
}

fn describe_now(summary: &RolloutSummary) -> String {
    let phase = summary.phase_label();
    match (summary.step_label(), summary.canary_share()) {
        (Some(step), Some(share)) => format!("at step {step} with {} ({phase})", share.describe()),
        _ => phase.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progressing() -> RolloutSummary {
        RolloutSummary {
            name: "checkout".into(),
            namespace: "shop".into(),
            phase: Some("Paused".into()),
            stage: Some("Progressing".into()),
            stable_revision: Some("v1".into()),
            current_revision: Some("v2".into()),
            step_index: Some(1),
            step_count: Some(4),
            desired_weight: Some(20.0),
            verified_weight: Some(20.0),
            has_router: true,
            is_blue_green: false,
            ..RolloutSummary::default()
        }
    }

    fn aborted(verified: f64) -> RolloutSummary {
        RolloutSummary {
            phase: Some("Degraded".into()),
            stage: Some("Aborted".into()),
            step_index: None,
            desired_weight: Some(0.0),
            verified_weight: Some(verified),
            aborted_revision: Some("v2".into()),
            ..progressing()
        }
    }

    #[test]
    fn an_abort_reports_the_previous_step_and_the_confirmation() {
        let text = result_message(
            CommandVerb::Abort,
            &progressing(),
            &aborted(0.0),
            "aborted by ann",
            Duration::from_millis(640),
        );
        assert_eq!(
            text,
            "rollout.serin.dev/checkout aborted: aborted by ann\n\
             Revision v2 was at step 2/4 with 20 % of traffic; stable v1 has all traffic, confirmed by the router \
             (0.6 s after the request)."
        );
    }

    #[test]
    fn an_unconfirmed_abort_says_so() {
        let text = result_message(
            CommandVerb::Abort,
            &progressing(),
            &aborted(20.0),
            "",
            Duration::from_secs(20),
        );
        assert!(text.contains("not confirmed"), "{text}");
        assert!(!text.contains("has all traffic"), "{text}");
    }

    #[test]
    fn an_abort_of_a_healthy_rollout_reports_that_there_is_no_release() {
        let healthy = RolloutSummary {
            phase: Some("Healthy".into()),
            stage: Some("Stable".into()),
            step_index: None,
            desired_weight: None,
            ..progressing()
        };
        let text = result_message(
            CommandVerb::Abort,
            &healthy,
            &healthy,
            "nothing to abort",
            Duration::from_secs(1),
        );
        assert!(
            text.contains("No release to abort: stable v1 serves"),
            "{text}"
        );
    }

    #[test]
    fn a_promotion_reports_the_previous_and_the_current_step() {
        let after = RolloutSummary {
            phase: Some("Progressing".into()),
            step_index: Some(2),
            desired_weight: Some(50.0),
            verified_weight: None,
            ..progressing()
        };
        let text = result_message(
            CommandVerb::Promote,
            &progressing(),
            &after,
            "",
            Duration::from_secs(1),
        );
        assert_eq!(
            text,
            "rollout.serin.dev/checkout promoted\nRevision v2 was at step 2/4 with 20 % of traffic, now at step 3/4 \
             with 50 % desired, not verified in effect (Progressing)."
        );
    }
}
