//! `status --watch`: a live report on a terminal, otherwise one line per change.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use futures::StreamExt;

use crate::cli::StatusArgs;
use crate::connect::Connection;
use crate::display::DisplayContext;
use crate::exit::{CliError, Exit};
use crate::report::report;
use crate::resources::{self, RolloutResources};
use crate::rollout_summary::RolloutSummary;
use crate::view::render;

mod follow;
mod screen;

use follow::RolloutFollower;

/// Changes within this time are shown together: one decision changes several objects.
const BATCH_WINDOW: Duration = Duration::from_millis(100);

/// Why the watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WatchEnd {
    /// The release ended; true if it is healthy.
    Finished(bool),
    /// The Rollout was deleted.
    Deleted,
    /// The user quit.
    Quit,
    /// The timeout expired.
    TimedOut,
}

/// Watches a Rollout until the release ends, the user quits or the timeout expires.
///
/// # Errors
/// Fails if the Rollout does not exist, a request fails, or the output cannot be written.
pub async fn watch(
    connection: &Connection,
    args: &StatusArgs,
    color: ColorChoice,
) -> Result<Exit, CliError> {
    let first = resources::read_resources(connection, &args.name).await?;
    let mut follower = RolloutFollower::start(connection, first);
    let live = io::stdout().is_terminal() && io::stdin().is_terminal();
    let showing = async {
        if live {
            screen::show(&mut follower, args.until_done, color).await
        } else {
            let mut out = AutoStream::new(io::stdout(), color);
            print_changes(&mut follower, args.until_done, &mut out).await
        }
    };
    let end = match args.timeout {
        Some(limit) => tokio::time::timeout(limit, showing)
            .await
            .unwrap_or(Ok(WatchEnd::TimedOut))?,
        None => showing.await?,
    };
    if live {
        // The alternate screen is closed; print its last content.
        let mut out = AutoStream::new(io::stdout(), color);
        let display = DisplayContext::from_terminal();
        out.write_all(render(&report(follower.resources(), display.now), &display).as_bytes())?;
    }
    exit_result(end, follower.resources(), args.timeout)
}

fn exit_result(
    end: WatchEnd,
    resources: &RolloutResources,
    timeout: Option<Duration>,
) -> Result<Exit, CliError> {
    let summary = RolloutSummary::from_object(&resources.rollout);
    match end {
        WatchEnd::Finished(true) | WatchEnd::Quit => Ok(Exit::Done),
        WatchEnd::Finished(false) => {
            let why = summary
                .message
                .unwrap_or_else(|| "no reason given".to_owned());
            Err(CliError::new(
                Exit::Refused,
                format!("{} was aborted: {why}", summary.name),
            ))
        }
        WatchEnd::Deleted => Err(CliError::new(
            Exit::Usage,
            format!("the Rollout {} was deleted", summary.name),
        )),
        WatchEnd::TimedOut => {
            let limit = timeout.unwrap_or_default().as_secs();
            Err(CliError::new(
                Exit::TimedOut,
                format!(
                    "{} has not finished after {limit} s: {}",
                    summary.name,
                    summary.one_line()
                ),
            ))
        }
    }
}

/// Why the watch has ended, `None` if it continues.
fn watch_end(follower: &RolloutFollower, until_done: bool) -> Option<WatchEnd> {
    if follower.is_deleted() {
        return Some(WatchEnd::Deleted);
    }
    let ended = RolloutSummary::from_object(&follower.resources().rollout).release_succeeded();
    ended.filter(|_| until_done).map(WatchEnd::Finished)
}

/// Prints one line per change, for logs and pipes.
async fn print_changes(
    follower: &mut RolloutFollower,
    until_done: bool,
    out: &mut (dyn Write + Send),
) -> Result<WatchEnd, CliError> {
    let mut last = String::new();
    loop {
        let line = status_line(follower.resources());
        if line != last {
            let display = DisplayContext::from_terminal();
            writeln!(
                out,
                "{}  {line}",
                display.now.to_zoned(display.zone).strftime("%H:%M:%S")
            )?;
            out.flush()?;
            last = line;
        }
        if let Some(end) = watch_end(follower, until_done) {
            return Ok(end);
        }
        follower.wait_for_changes(BATCH_WINDOW).await;
    }
}

/// The state of a Rollout and its pods on one line.
fn status_line(resources: &RolloutResources) -> String {
    let summary = RolloutSummary::from_object(&resources.rollout);
    // Only the state of the pods is used, not their age.
    let report = report(resources, jiff::Timestamp::UNIX_EPOCH);
    let pods = report.revisions.iter().filter_map(|revision| {
        let set = revision.replica_set.as_ref()?;
        Some(format!(
            "{} {}/{}",
            revision.revision, set.available, set.desired
        ))
    });
    let pods: Vec<String> = pods.collect();
    if pods.is_empty() {
        summary.one_line()
    } else {
        format!("{} · pods {}", summary.one_line(), pods.join(", "))
    }
}

/// Waits for an item and collects all further items within `gather`.
async fn next_batch<S: futures::Stream + Unpin>(changes: &mut S, gather: Duration) -> Vec<S::Item> {
    let Some(first) = changes.next().await else {
        return std::future::pending().await;
    };
    let mut items = vec![first];
    let more = async {
        while let Some(item) = changes.next().await {
            items.push(item);
        }
    };
    // The timeout is the normal end.
    let _ = tokio::time::timeout(gather, more).await;
    items
}
