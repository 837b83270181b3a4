//! A request to the controller: created as a RolloutCommand, waited for, and its outcome told.

use std::io::Write;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{ObjectMeta, PostParams};
use kube::core::DynamicObject;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serin_crds::command::{
    CommandResult, CommandVerb, Preconditions, RolloutCommandStatus, RolloutRef,
};
use serin_crds::{RolloutCommand, RolloutCommandSpec};
use tokio::time::Instant;

use crate::connect::{Connection, ask, no_answer, try_ask};
use crate::exit::{Exit, Failure};
use crate::facts::Facts;
use crate::picture::{read_rollout, rollouts};
use crate::wish::Wish;

mod refusal;
mod words;

pub use words::{past, question};

/// How long an abort that was carried out is followed until the router has been seen to act on it.
const FOLLOW_FOR: Duration = Duration::from_secs(20);
/// How long a promotion that was carried out is followed, to tell where it stands then.
const LOOK_AGAIN_FOR: Duration = Duration::from_secs(2);

/// Asks the person on the terminal whether to go on; `None` where there is no terminal.
pub type Confirm<'a> = &'a dyn Fn(&str) -> Option<bool>;

/// Makes the request, waits for its outcome and says what happened.
///
/// # Errors
/// It was refused, nobody acted on it in time, or the API server could not be asked.
pub async fn carry_out(
    connection: &Connection,
    wish: &Wish,
    confirm: Confirm<'_>,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let before = Facts::of(&read_rollout(connection, &wish.name).await?);
    if wish.ask_first && confirm(&question(&before)) == Some(false) {
        return Err(Failure::new(
            Exit::Refused,
            "not promoted: nothing was asked of the controller",
        ));
    }
    let requested_by = who_am_i(connection).await?;
    let command = command(wish, &before, requested_by);
    let started = Instant::now();
    let created = create(connection, wish, &command).await?;
    let Some(timeout) = wish.timeout else {
        writeln!(
            out,
            "rolloutcommand.serin.dev/{} created",
            created.name_any()
        )?;
        return Ok(());
    };
    let deadline = started + timeout;
    let status = outcome(connection, &created, deadline).await?;
    let message = status.message.unwrap_or_default();
    if status.outcome == Some(CommandResult::Refused) {
        return Err(refusal::by_the_controller(wish, &message));
    }
    let after = follow(connection, wish, &before, deadline).await?;
    let took = started.elapsed();
    let text = words::done(wish.verb, &before, &after, &message, took);
    writeln!(out, "{text}")?;
    Ok(())
}

/// The command object: bound to what the requester is looking at, as far as it matters for the
/// verb.
///
/// An abort is bound to the revision alone: it must not be refused because a step went by in the
/// meantime.
fn command(wish: &Wish, seen: &Facts, requested_by: Option<String>) -> RolloutCommand {
    let step_matters = matches!(wish.verb, CommandVerb::Promote | CommandVerb::SkipStep);
    let of_another = wish.revision.is_some() && wish.revision != seen.current;
    let step_at_hand = seen.step_index.and_then(|index| i32::try_from(index).ok());
    let expect = Preconditions {
        revision: wish.revision.clone().or_else(|| seen.current.clone()),
        step: wish
            .step_index
            .or_else(|| step_at_hand.filter(|_| step_matters && !of_another)),
    };
    let spec = RolloutCommandSpec {
        rollout_ref: RolloutRef {
            name: wish.name.clone(),
        },
        verb: wish.verb,
        preconditions: (expect != Preconditions::default()).then_some(expect),
        reason: wish.reason.clone(),
        requested_by,
    };
    let verb = words::dashed(wish.verb);
    // The API server appends five characters, and a name has at most 253.
    let rollout: String = wish.name.chars().take(253 - 5 - 2 - verb.len()).collect();
    RolloutCommand {
        metadata: ObjectMeta {
            generate_name: Some(format!("{rollout}-{verb}-")),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// The name by which the API server knows the requester.
async fn who_am_i(connection: &Connection) -> Result<Option<String>, Failure> {
    let reviews: Api<SelfSubjectReview> = Api::all(connection.client.clone());
    let review = ask(
        "ask the API server who you are",
        reviews.create(&PostParams::default(), &SelfSubjectReview::default()),
    )
    .await?;
    Ok(review
        .status
        .and_then(|status| status.user_info)
        .and_then(|user| user.username))
}

async fn create(
    connection: &Connection,
    wish: &Wish,
    command: &RolloutCommand,
) -> Result<RolloutCommand, Failure> {
    let commands: Api<RolloutCommand> =
        Api::namespaced(connection.client.clone(), &connection.namespace);
    let doing = format!("ask for {}", words::dashed(wish.verb));
    match try_ask(commands.create(&PostParams::default(), command)).await {
        Some(Ok(created)) => Ok(created),
        Some(Err(error)) => {
            let user = command.spec.requested_by.as_deref().unwrap_or("you");
            Err(refusal::by_the_api_server(connection, wish, user, &doing, &error).await)
        }
        None => Err(no_answer(&doing)),
    }
}

/// Waits for the outcome, in the command's own status or, where the command has been cleared away,
/// in the Rollout's.
async fn outcome(
    connection: &Connection,
    created: &RolloutCommand,
    deadline: Instant,
) -> Result<RolloutCommandStatus, Failure> {
    let name = created.name_any();
    let commands: Api<RolloutCommand> =
        Api::namespaced(connection.client.clone(), &connection.namespace);
    let changes = watcher::watch_object(commands, &name).default_backoff();
    let found = first(changes, deadline, |command: &Option<RolloutCommand>| {
        command.as_ref().is_none_or(|command| {
            command
                .status
                .as_ref()
                .is_some_and(|status| status.outcome.is_some())
        })
    })
    .await
    .map_err(|error| refusal::cannot_watch(&name, &error))?;
    match found {
        Some(Some(command)) => Ok(command.status.unwrap_or_default()),
        Some(None) => outcome_in_the_rollout(connection, created).await,
        None => Err(refusal::nobody_acted(connection, created)),
    }
}

async fn outcome_in_the_rollout(
    connection: &Connection,
    created: &RolloutCommand,
) -> Result<RolloutCommandStatus, Failure> {
    let rollout = read_rollout(connection, &created.spec.rollout_ref.name).await?;
    let uid = created.uid().unwrap_or_default();
    let done = rollout.data["status"]["commands"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|done| done["uid"] == uid);
    let Some(done) = done else {
        return Err(Failure::new(
            Exit::TimedOut,
            format!(
                "the request {} was deleted before it had an outcome",
                created.name_any()
            ),
        ));
    };
    let refused = done["outcome"]["result"] == "Refused";
    Ok(RolloutCommandStatus {
        outcome: Some(if refused {
            CommandResult::Refused
        } else {
            CommandResult::Done
        }),
        message: done["outcome"]["message"].as_str().map(ToOwned::to_owned),
        at: None,
    })
}

/// Follows the Rollout until it shows what the command did: after an abort, until the router has
/// been seen to send the canary nothing. What it shows when the time is up is returned all the
/// same.
async fn follow(
    connection: &Connection,
    wish: &Wish,
    before: &Facts,
    deadline: Instant,
) -> Result<Facts, Failure> {
    let aborts = wish.verb == CommandVerb::Abort;
    let follow_for = if aborts { FOLLOW_FOR } else { LOOK_AGAIN_FOR };
    let until = deadline
        .max(Instant::now() + Duration::from_millis(100))
        .min(Instant::now() + follow_for);
    let api = rollouts(connection.client.clone(), &connection.namespace);
    let changes = watch_one(api, &wish.name).default_backoff();
    let mut last = None;
    let settled = |rollout: &Option<DynamicObject>| {
        let Some(rollout) = rollout else { return true };
        let now = Facts::of(rollout);
        let shows = if aborts {
            now.canary_is_off()
        } else {
            words::has_moved(before, &now)
        };
        last = Some(now);
        shows
    };
    // Whoever may not watch has the outcome already; only the closing look is left out.
    let _ = first(changes, until, settled).await;
    match last {
        Some(facts) => Ok(facts),
        None => read_rollout(connection, &wish.name)
            .await
            .map(|rollout| Facts::of(&rollout)),
    }
}

/// Every state of one untyped object, `None` where it is gone.
fn watch_one(
    api: Api<DynamicObject>,
    name: &str,
) -> impl Stream<Item = Result<Option<DynamicObject>, watcher::Error>> + Send + use<> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watcher(api, config).try_filter_map(async |event| {
        Ok(match event {
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => Some(Some(object)),
            watcher::Event::Delete(_) => Some(None),
            watcher::Event::Init | watcher::Event::InitDone => None,
        })
    })
}

/// The first item that is as wished; `None` when the time is up. Only a lasting refusal ends it
/// early: a connection that breaks is taken up again.
async fn first<T>(
    changes: impl Stream<Item = Result<T, watcher::Error>>,
    deadline: Instant,
    mut wished: impl FnMut(&T) -> bool,
) -> Result<Option<T>, watcher::Error> {
    let search = async {
        let mut changes = std::pin::pin!(changes);
        while let Some(change) = changes.next().await {
            match change {
                Ok(item) if wished(&item) => return Ok(Some(item)),
                Err(error) if refusal::is_lasting(&error) => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(None)
    };
    tokio::time::timeout_at(deadline, search)
        .await
        .unwrap_or(Ok(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(verb: CommandVerb) -> Wish {
        Wish {
            name: "checkout".into(),
            verb,
            reason: None,
            revision: None,
            step_index: None,
            timeout: None,
            ask_first: false,
        }
    }

    fn seen() -> Facts {
        Facts {
            current: Some("v2".into()),
            step_index: Some(2),
            ..Facts::default()
        }
    }

    fn expected(wish: &Wish) -> Option<(Option<String>, Option<i32>)> {
        command(wish, &seen(), None)
            .spec
            .preconditions
            .map(|expect| (expect.revision, expect.step))
    }

    #[test]
    fn a_promotion_is_bound_to_revision_and_step() {
        assert_eq!(
            expected(&wish(CommandVerb::Promote)),
            Some((Some("v2".into()), Some(2)))
        );
        assert_eq!(
            expected(&wish(CommandVerb::SkipStep)),
            Some((Some("v2".into()), Some(2)))
        );
    }

    #[test]
    fn an_abort_is_bound_to_the_revision_alone_so_that_a_step_that_went_by_cannot_refuse_it() {
        assert_eq!(
            expected(&wish(CommandVerb::Abort)),
            Some((Some("v2".into()), None))
        );
    }

    #[test]
    fn the_step_of_another_revision_is_not_assumed() {
        let other = Wish {
            revision: Some("v1".into()),
            ..wish(CommandVerb::Promote)
        };
        assert_eq!(expected(&other), Some((Some("v1".into()), None)));
    }

    #[test]
    fn a_rollout_that_the_controller_has_not_seen_can_be_aborted() {
        assert_eq!(
            command(&wish(CommandVerb::Abort), &Facts::default(), None)
                .spec
                .preconditions,
            None
        );
    }

    #[test]
    fn the_name_is_generated_and_never_too_long() {
        let long = Wish {
            name: "x".repeat(253),
            ..wish(CommandVerb::SkipStep)
        };
        let prefix = command(&long, &seen(), None)
            .metadata
            .generate_name
            .unwrap();
        assert!(
            prefix.len() + 5 <= 253 && prefix.ends_with("-skip-step-"),
            "{prefix}"
        );
    }
}
