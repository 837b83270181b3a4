//! Sends a command to the controller: creates a RolloutCommand, waits for its outcome and reports
//! it.

use std::io::Write;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{ObjectMeta, PostParams};
use kube::core::DynamicObject;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serin_crds::command::{
    CommandResult, CommandVerb, Preconditions, RolloutCommandStatus, RolloutRef,
};
use serin_crds::{RolloutCommand, RolloutCommandSpec};
use tokio::time::Instant;

use crate::command::CommandRequest;
use crate::connect::{Connection, send, timeout_error, try_send};
use crate::display_text::printable_object;
use crate::exit::{CliError, Exit};
use crate::resources::{read_rollout, rollouts};
use crate::rollout_summary::RolloutSummary;

mod messages;
mod refusal;

pub use messages::{confirmation_prompt, past_tense};

/// Maximum time to wait for the router after an abort.
const ABORT_FOLLOW_TIME: Duration = Duration::from_secs(20);
/// Maximum time to wait for a status change after any other command.
const PROMOTE_FOLLOW_TIME: Duration = Duration::from_secs(2);

/// Asks for confirmation. `None` if there is no terminal.
pub type Confirm<'a> = &'a dyn Fn(&str) -> Option<bool>;

/// Creates the command, waits for its outcome and prints the result.
///
/// # Errors
/// Fails if the command is refused, is not handled in time, or a request fails.
pub async fn execute(
    connection: &Connection,
    request: &CommandRequest,
    confirm: Confirm<'_>,
    out: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    let before = RolloutSummary::from_object(&read_rollout(connection, &request.name).await?);
    if request.confirm_first && confirm(&confirmation_prompt(&before)) == Some(false) {
        return Err(CliError::new(Exit::Refused, "not promoted: not confirmed"));
    }
    let requested_by = current_user(connection).await?;
    let command = command(request, &before, requested_by);
    let started = Instant::now();
    let created = create(connection, request, &command).await?;
    let Some(timeout) = request.timeout else {
        writeln!(
            out,
            "rolloutcommand.serin.dev/{} created",
            created.name_any()
        )?;
        return Ok(());
    };
    let deadline = started + timeout;
    let status = wait_for_outcome(connection, &created, deadline).await?;
    let message = status.message.unwrap_or_default();
    if status.outcome == Some(CommandResult::Refused) {
        return Err(refusal::refused_by_controller(request, &message));
    }
    let after = wait_for_effect(connection, request, &before, deadline).await?;
    let took = started.elapsed();
    let text = messages::result_message(request.verb, &before, &after, &message, took);
    writeln!(out, "{text}")?;
    Ok(())
}

/// Builds the command object, bound to the revision and, if the verb depends on it, to the step
/// that the user saw.
///
/// An abort is bound to the revision only: it must not be refused because a step has completed in
/// the meantime.
fn command(
    request: &CommandRequest,
    summary: &RolloutSummary,
    requested_by: Option<String>,
) -> RolloutCommand {
    let step_matters = matches!(request.verb, CommandVerb::Promote | CommandVerb::SkipStep);
    let is_other_revision =
        request.revision.is_some() && request.revision != summary.current_revision;
    let current_step = summary
        .step_index
        .and_then(|index| i32::try_from(index).ok());
    let expect = Preconditions {
        revision: request
            .revision
            .clone()
            .or_else(|| summary.current_revision.clone()),
        step: request
            .step_index
            .or_else(|| current_step.filter(|_| step_matters && !is_other_revision)),
    };
    let spec = RolloutCommandSpec {
        rollout_ref: RolloutRef {
            name: request.name.clone(),
        },
        verb: request.verb,
        preconditions: (expect != Preconditions::default()).then_some(expect),
        adopt_analysis: request.adopt_analysis,
        reason: request.reason.clone(),
        requested_by,
    };
    let verb = messages::kebab_case(request.verb);
    // The API server appends five characters; a name has at most 253.
    let rollout: String = request
        .name
        .chars()
        .take(253 - 5 - 2 - verb.len())
        .collect();
    RolloutCommand {
        metadata: ObjectMeta {
            generate_name: Some(format!("{rollout}-{verb}-")),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// The user name of the current user, according to the API server.
async fn current_user(connection: &Connection) -> Result<Option<String>, CliError> {
    let reviews: Api<SelfSubjectReview> = Api::all(connection.client.clone());
    let review = send(
        "determine the current user",
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
    request: &CommandRequest,
    command: &RolloutCommand,
) -> Result<RolloutCommand, CliError> {
    let commands: Api<RolloutCommand> =
        Api::namespaced(connection.client.clone(), &connection.namespace);
    let doing = format!("request {}", messages::kebab_case(request.verb));
    match try_send(commands.create(&PostParams::default(), command)).await {
        Some(Ok(created)) => Ok(created),
        Some(Err(error)) => {
            let user = command.spec.requested_by.as_deref().unwrap_or("you");
            Err(refusal::refused_by_api_server(connection, request, user, &doing, &error).await)
        }
        None => Err(timeout_error(&doing)),
    }
}

/// Waits for the outcome in the status of the command, or in the status of the Rollout if the
/// command was deleted.
async fn wait_for_outcome(
    connection: &Connection,
    created: &RolloutCommand,
    deadline: Instant,
) -> Result<RolloutCommandStatus, CliError> {
    let name = created.name_any();
    let commands: Api<RolloutCommand> =
        Api::namespaced(connection.client.clone(), &connection.namespace);
    let changes = watcher::watch_object(commands, &name).default_backoff();
    let found = first_match(changes, deadline, |command: &Option<RolloutCommand>| {
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
        Some(None) => outcome_from_rollout(connection, created).await,
        None => Err(refusal::not_handled_in_time(connection, created)),
    }
}

async fn outcome_from_rollout(
    connection: &Connection,
    created: &RolloutCommand,
) -> Result<RolloutCommandStatus, CliError> {
    let rollout = read_rollout(connection, &created.spec.rollout_ref.name).await?;
    let uid = created.uid().unwrap_or_default();
    let done = rollout.data["status"]["commands"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|done| done["uid"] == uid);
    let Some(done) = done else {
        return Err(CliError::new(
            Exit::TimedOut,
            format!(
                "the command {} was deleted before it had an outcome",
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

/// Waits until the Rollout shows the effect of the command: after an abort, until the router sends
/// no traffic to the canary. Returns the last state when the time is up.
async fn wait_for_effect(
    connection: &Connection,
    request: &CommandRequest,
    before: &RolloutSummary,
    deadline: Instant,
) -> Result<RolloutSummary, CliError> {
    let aborts = request.verb == CommandVerb::Abort;
    let follow_for = if aborts {
        ABORT_FOLLOW_TIME
    } else {
        PROMOTE_FOLLOW_TIME
    };
    let until = deadline
        .max(Instant::now() + Duration::from_millis(100))
        .min(Instant::now() + follow_for);
    let api = rollouts(connection.client.clone(), &connection.namespace);
    let changes = watch_one(api, &request.name).default_backoff();
    let mut last = None;
    let settled = |rollout: &Option<DynamicObject>| {
        let Some(rollout) = rollout else { return true };
        let now = RolloutSummary::from_object(rollout);
        let shows = if aborts {
            now.canary_is_off()
        } else {
            messages::has_moved(before, &now)
        };
        last = Some(now);
        shows
    };
    // Without permission to watch, only this final state is missing; the outcome is known.
    let _ = first_match(changes, until, settled).await;
    match last {
        Some(summary) => Ok(summary),
        None => read_rollout(connection, &request.name)
            .await
            .map(|rollout| RolloutSummary::from_object(&rollout)),
    }
}

/// Every state of one untyped object, `None` once it is deleted.
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

/// The first item that matches, `None` when the time is up. Only a permanent error ends it early: a
/// broken connection is retried.
async fn first_match<T: Serialize + DeserializeOwned>(
    changes: impl Stream<Item = Result<T, watcher::Error>>,
    deadline: Instant,
    mut matches: impl FnMut(&T) -> bool,
) -> Result<Option<T>, watcher::Error> {
    let search = async {
        let mut changes = std::pin::pin!(changes);
        while let Some(change) = changes.next().await {
            let change = change.and_then(|item| {
                printable_object(&item)
                    .map_err(|error| watcher::Error::WatchFailed(kube::Error::SerdeError(error)))
            });
            match change {
                Ok(item) if matches(&item) => return Ok(Some(item)),
                Err(error) if refusal::is_permanent(&error) => return Err(error),
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

    fn request(verb: CommandVerb) -> CommandRequest {
        CommandRequest {
            name: "checkout".into(),
            verb,
            reason: None,
            revision: None,
            step_index: None,
            timeout: None,
            adopt_analysis: false,
            confirm_first: false,
        }
    }

    fn summary() -> RolloutSummary {
        RolloutSummary {
            current_revision: Some("v2".into()),
            step_index: Some(2),
            ..RolloutSummary::default()
        }
    }

    fn expected(request: &CommandRequest) -> Option<(Option<String>, Option<i32>)> {
        command(request, &summary(), None)
            .spec
            .preconditions
            .map(|expect| (expect.revision, expect.step))
    }

    #[test]
    fn a_promotion_is_bound_to_revision_and_step() {
        assert_eq!(
            expected(&request(CommandVerb::Promote)),
            Some((Some("v2".into()), Some(2)))
        );
        assert_eq!(
            expected(&request(CommandVerb::SkipStep)),
            Some((Some("v2".into()), Some(2)))
        );
    }

    #[test]
    fn an_abort_is_bound_to_the_revision_only() {
        assert_eq!(
            expected(&request(CommandVerb::Abort)),
            Some((Some("v2".into()), None))
        );
    }

    #[test]
    fn the_step_of_another_revision_is_not_assumed() {
        let other = CommandRequest {
            revision: Some("v1".into()),
            ..request(CommandVerb::Promote)
        };
        assert_eq!(expected(&other), Some((Some("v1".into()), None)));
    }

    #[test]
    fn a_rollout_without_status_can_be_aborted() {
        assert_eq!(
            command(
                &request(CommandVerb::Abort),
                &RolloutSummary::default(),
                None
            )
            .spec
            .preconditions,
            None
        );
    }

    #[test]
    fn the_generated_name_is_never_too_long() {
        let long = CommandRequest {
            name: "x".repeat(253),
            ..request(CommandVerb::SkipStep)
        };
        let prefix = command(&long, &summary(), None)
            .metadata
            .generate_name
            .unwrap();
        assert!(
            prefix.len() + 5 <= 253 && prefix.ends_with("-skip-step-"),
            "{prefix}"
        );
    }
}
