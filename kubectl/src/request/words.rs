//! What happened, in a sentence.

use std::time::Duration;

use serin_core::command::Verb;
use serin_crds::command::CommandVerb;

use crate::facts::Facts;

/// The verb as it is typed.
pub const fn dashed(verb: CommandVerb) -> &'static str {
    match verb {
        CommandVerb::Promote => "promote",
        CommandVerb::PromoteFull => "promote-full",
        CommandVerb::Abort => "abort",
        CommandVerb::Retry => "retry",
        CommandVerb::Pause => "pause",
        CommandVerb::Resume => "resume",
        CommandVerb::SkipStep => "skip-step",
        CommandVerb::Override => "override",
    }
}

/// The verb as the API and RBAC write it.
pub fn of_the_api(verb: CommandVerb) -> &'static str {
    Verb::from(verb).as_str()
}

/// What was done.
pub const fn past(verb: CommandVerb) -> &'static str {
    match verb {
        CommandVerb::Promote | CommandVerb::PromoteFull => "promoted",
        CommandVerb::Abort => "aborted",
        CommandVerb::Retry => "retried",
        CommandVerb::Pause => "paused",
        CommandVerb::Resume => "resumed",
        CommandVerb::SkipStep => "step skipped",
        CommandVerb::Override => "freeze lifted",
    }
}

/// What is asked before steps are skipped.
pub fn question(now: &Facts) -> String {
    let revision = now.current.as_deref().unwrap_or("the current revision");
    let (step, weight) = (now.step(), now.weight());
    let stands = match (step, weight) {
        (Some(step), Some(weight)) => {
            format!(", which is at step {step} with {weight} of the traffic,")
        }
        (None, Some(weight)) => format!(", which has {weight} of the traffic,"),
        _ => String::new(),
    };
    format!(
        "Promote {} {revision}{stands} to 100 % without its remaining steps?",
        now.name
    )
}

/// Whether the Rollout stands elsewhere than before.
pub fn has_moved(before: &Facts, now: &Facts) -> bool {
    let place = |facts: &Facts| {
        (
            facts.phase.clone(),
            facts.stage.clone(),
            facts.step_index,
            facts.asked.map(f64::to_bits),
        )
    };
    place(before) != place(now)
}

/// What happened: what the controller says, and where the Rollout stands now.
pub fn done(
    verb: CommandVerb,
    before: &Facts,
    after: &Facts,
    message: &str,
    took: Duration,
) -> String {
    let revision = before.current.as_deref().unwrap_or("of no known name");
    let told = if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    };
    let stands = match verb {
        CommandVerb::Abort => after_abort(revision, before, after, took),
        _ => format!("Revision {revision} {}, now {}.", was(before), is(after)),
    };
    format!(
        "rollout.serin.dev/{} {}{told}\n{stands}",
        after.name,
        past(verb)
    )
}

fn after_abort(revision: &str, before: &Facts, after: &Facts, took: Duration) -> String {
    let stable = after
        .stable
        .as_deref()
        .map_or_else(|| "stable".to_owned(), |stable| format!("stable {stable}"));
    if after.aborted.is_none() && after.stage.as_deref() != Some("Aborted") {
        return format!(
            "There was no release to abort: {stable} serves, {}.",
            is(after)
        );
    }
    let was = was(before);
    if after.canary_is_off() {
        let by = if after.routed {
            ", as the router confirms"
        } else {
            ""
        };
        format!(
            "Revision {revision} {was}; {stable} has all traffic{by} ({:.1} s after the request).",
            took.as_secs_f64()
        )
    } else {
        format!(
            "Revision {revision} {was}; its traffic is being taken away, but the router has not confirmed it yet. \
             Watch it: kubectl serin status {} -n {} --watch",
            after.name, after.namespace
        )
    }
}

fn was(facts: &Facts) -> String {
    match (facts.step(), facts.asked) {
        (Some(step), Some(asked)) => format!("was at step {step} with {asked} % of the traffic"),
        (None, Some(asked)) => format!("had {asked} % of the traffic"),
        _ => "had no traffic".to_owned(),
    }
}

fn is(facts: &Facts) -> String {
    let phase = facts
        .phase
        .as_deref()
        .unwrap_or("not yet seen by the controller");
    match (facts.step(), facts.weight()) {
        (Some(step), Some(weight)) => format!("at step {step} with {weight} ({phase})"),
        _ => phase.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stepping() -> Facts {
        Facts {
            name: "checkout".into(),
            namespace: "shop".into(),
            phase: Some("Paused".into()),
            stage: Some("Progressing".into()),
            stable: Some("v1".into()),
            current: Some("v2".into()),
            step_index: Some(1),
            step_count: Some(4),
            asked: Some(20.0),
            verified: Some(20.0),
            routed: true,
            ..Facts::default()
        }
    }

    fn aborted(verified: f64) -> Facts {
        Facts {
            phase: Some("Degraded".into()),
            stage: Some("Aborted".into()),
            step_index: None,
            asked: Some(0.0),
            verified: Some(verified),
            aborted: Some("v2".into()),
            ..stepping()
        }
    }

    #[test]
    fn an_abort_tells_where_it_was_and_that_the_router_confirms() {
        let text = done(
            CommandVerb::Abort,
            &stepping(),
            &aborted(0.0),
            "aborted by ann",
            Duration::from_millis(640),
        );
        assert_eq!(
            text,
            "rollout.serin.dev/checkout aborted: aborted by ann\n\
             Revision v2 was at step 2/4 with 20 % of the traffic; stable v1 has all traffic, as the router confirms \
             (0.6 s after the request)."
        );
    }

    #[test]
    fn an_abort_that_is_not_confirmed_does_not_claim_to_be() {
        let text = done(
            CommandVerb::Abort,
            &stepping(),
            &aborted(20.0),
            "",
            Duration::from_secs(20),
        );
        assert!(text.contains("not confirmed"), "{text}");
        assert!(!text.contains("has all traffic"), "{text}");
    }

    #[test]
    fn an_abort_of_a_healthy_rollout_is_told_as_nothing_to_do() {
        let healthy = Facts {
            phase: Some("Healthy".into()),
            stage: Some("Stable".into()),
            step_index: None,
            asked: None,
            ..stepping()
        };
        let text = done(
            CommandVerb::Abort,
            &healthy,
            &healthy,
            "nothing to abort",
            Duration::from_secs(1),
        );
        assert!(
            text.contains("There was no release to abort: stable v1 serves"),
            "{text}"
        );
    }

    #[test]
    fn a_promotion_tells_from_where_to_where() {
        let after = Facts {
            phase: Some("Progressing".into()),
            step_index: Some(2),
            asked: Some(50.0),
            verified: None,
            ..stepping()
        };
        let text = done(
            CommandVerb::Promote,
            &stepping(),
            &after,
            "",
            Duration::from_secs(1),
        );
        assert_eq!(
            text,
            "rollout.serin.dev/checkout promoted\nRevision v2 was at step 2/4 with 20 % of the traffic, now at step 3/4 \
             with 50 % (not yet confirmed) (Progressing)."
        );
    }
}
