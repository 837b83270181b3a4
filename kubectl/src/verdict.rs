//! `verdict`: the verdict on a release, as text and as an exit code.

use std::io::Write;
use std::time::Duration;

use futures::{Stream, StreamExt, future, pin_mut};
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_kind};
use serin_crds::RolloutStatus;
use serin_crds::verdict::{Verdict, VerdictResult};

use crate::cli::{Format, VerdictArgs};
use crate::connect::Connection;
use crate::display_text::printable_lines;
use crate::exit::{CliError, Exit};
use crate::resources::{read_rollout, rollouts};

/// Prints the verdict. With `--wait`, waits until there is one.
///
/// # Errors
/// The Rollout does not exist or is deleted, a request fails, or the output cannot be written.
pub async fn verdict(
    connection: &Connection,
    args: &VerdictArgs,
    out: &mut (dyn Write + Send),
) -> Result<Exit, CliError> {
    let rollout = read_rollout(connection, &args.name).await?;
    let mut verdict = verdict_on(&rollout, args);
    let is_open = |verdict: &Verdict| verdict.verdict == VerdictResult::Undecided;
    if args.wait && is_open(&verdict) {
        let changes = watch(connection, &args.name);
        pin_mut!(changes);
        let limit = args.timeout.unwrap_or(Duration::MAX);
        let decided = tokio::time::timeout(limit, async {
            while let Some(change) = changes.next().await {
                let rollout = change?;
                verdict = verdict_on(&rollout, args);
                if !is_open(&verdict) {
                    break;
                }
            }
            Ok::<(), CliError>(())
        });
        // After the timeout, the last verdict is reported.
        if let Ok(ended) = decided.await {
            ended?;
        }
    }
    print(&verdict, args, out)?;
    Ok(exit_of(verdict.verdict))
}

const fn exit_of(result: VerdictResult) -> Exit {
    match result {
        VerdictResult::Promoted => Exit::Done,
        VerdictResult::RolledBack => Exit::Refused,
        VerdictResult::Undecided => Exit::TimedOut,
    }
}

fn verdict_on(rollout: &DynamicObject, args: &VerdictArgs) -> Verdict {
    let status = RolloutStatus::read(rollout.data["status"].clone()).status;
    let generation = rollout.metadata.generation.unwrap_or_default();
    Verdict::of_status(&status, generation, args.revision.as_deref())
}

/// The states of the Rollout. A broken watch is retried.
fn watch(
    connection: &Connection,
    name: &str,
) -> impl Stream<Item = Result<DynamicObject, CliError>> {
    let api = rollouts(connection.client.clone(), &connection.namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let events = watch_kind(api, config).default_backoff();
    let deleted = CliError::new(Exit::Usage, format!("the Rollout {name} was deleted"));
    let mut is_listed = false;
    events.filter_map(move |event| {
        let change = match event {
            Ok(Event::Init) => {
                is_listed = false;
                None
            }
            Ok(Event::InitApply(rollout)) => {
                is_listed = true;
                Some(Ok(rollout))
            }
            Ok(Event::Apply(rollout)) => Some(Ok(rollout)),
            Ok(Event::InitDone) if is_listed => None,
            Ok(Event::InitDone | Event::Delete(_)) => Some(Err(deleted.clone())),
            Err(_) => None,
        };
        future::ready(change)
    })
}

fn print(
    verdict: &Verdict,
    args: &VerdictArgs,
    out: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    let text = match args.output {
        Some(Format::Json) => {
            serde_json::to_string_pretty(verdict).map_err(|error| output_error(&error))? + "\n"
        }
        Some(Format::Yaml) => {
            serde_saphyr::to_string(verdict).map_err(|error| output_error(&error))?
        }
        None => render(verdict, &args.name),
    };
    out.write_all(printable_lines(&text).as_bytes())?;
    Ok(())
}

fn output_error(error: &dyn std::error::Error) -> CliError {
    CliError::new(Exit::Usage, format!("cannot print the verdict: {error}"))
}

fn render(verdict: &Verdict, name: &str) -> String {
    let result = match (verdict.verdict, verdict.observed) {
        (VerdictResult::Promoted, true) => "would have been promoted",
        (VerdictResult::RolledBack, true) => "would have been rolled back",
        (VerdictResult::Promoted, false) => "promoted",
        (VerdictResult::RolledBack, false) => "rolled back",
        (VerdictResult::Undecided, _) => "undecided",
    };
    let revision = verdict.revision.as_deref();
    let revision = revision.map_or_else(String::new, |revision| format!(" {revision}"));
    let cause = verdict.cause.map(|cause| format!(" ({cause})"));
    let cause = cause.unwrap_or_default();
    let at = verdict
        .at
        .map_or_else(String::new, |at| format!(" at {at}"));
    format!(
        "{name}{revision}: {result}{cause}{at}: {}\n",
        verdict.message
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_result_has_its_exit_code() {
        let codes = [
            VerdictResult::Promoted,
            VerdictResult::RolledBack,
            VerdictResult::Undecided,
        ];
        assert_eq!(codes.map(|result| exit_of(result).code()), [0, 1, 3]);
    }

    #[test]
    fn the_text_names_revision_result_and_cause() {
        let verdict = Verdict {
            verdict: VerdictResult::RolledBack,
            revision: Some("5d4f".to_owned()),
            observed: true,
            cause: Some(serin_core::state::AbortCause::Evidence),
            message: "worse than stable".to_owned(),
            at: None,
        };
        let text = "shop 5d4f: would have been rolled back (Evidence): worse than stable\n";
        assert_eq!(render(&verdict, "shop"), text);
    }
}
