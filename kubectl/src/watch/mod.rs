//! `status --watch`: the same report, kept up to date; live on a terminal, else a line for each
//! change.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use futures::StreamExt;

use crate::cli::StatusArgs;
use crate::connect::Connection;
use crate::exit::{Exit, Failure};
use crate::facts::Facts;
use crate::look::Look;
use crate::picture::{self, Picture};
use crate::report::report;
use crate::view::render;

mod follow;
mod screen;

use follow::Follower;

/// How long changes are gathered before they are shown: one decision changes several objects.
const GATHER: Duration = Duration::from_millis(100);

/// How the watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The release ended, and whether it is healthy.
    Release(bool),
    /// The Rollout is gone.
    Gone,
    /// The person has seen enough.
    Left,
    /// The time was up.
    TimedOut,
}

/// Watches a Rollout.
///
/// # Errors
/// There is no such Rollout, the API server could not be asked, or the output not be written.
pub async fn watch(
    connection: &Connection,
    args: &StatusArgs,
    colour: ColorChoice,
) -> Result<Exit, Failure> {
    let first = picture::read(connection, &args.name).await?;
    let mut follower = Follower::start(connection, first);
    let live = io::stdout().is_terminal() && io::stdin().is_terminal();
    let showing = async {
        if live {
            screen::show(&mut follower, args.until_done, colour).await
        } else {
            let mut out = AutoStream::new(io::stdout(), colour);
            lines(&mut follower, args.until_done, &mut out).await
        }
    };
    let end = match args.timeout {
        Some(limit) => tokio::time::timeout(limit, showing)
            .await
            .unwrap_or(Ok(End::TimedOut))?,
        None => showing.await?,
    };
    if live {
        // The screen is gone; what it showed last stays.
        let mut out = AutoStream::new(io::stdout(), colour);
        let look = Look::now();
        out.write_all(render(&report(follower.picture(), look.now), &look).as_bytes())?;
    }
    result(end, follower.picture(), args.timeout)
}

fn result(end: End, picture: &Picture, timeout: Option<Duration>) -> Result<Exit, Failure> {
    let facts = Facts::of(&picture.rollout);
    match end {
        End::Release(true) | End::Left => Ok(Exit::Done),
        End::Release(false) => {
            let why = facts
                .message
                .unwrap_or_else(|| "no reason given".to_owned());
            Err(Failure::new(
                Exit::Refused,
                format!("{} was aborted: {why}", facts.name),
            ))
        }
        End::Gone => Err(Failure::new(
            Exit::Usage,
            format!("the Rollout {} was deleted", facts.name),
        )),
        End::TimedOut => {
            let limit = timeout.unwrap_or_default().as_secs();
            Err(Failure::new(
                Exit::TimedOut,
                format!(
                    "{} is not done after {limit} s: {}",
                    facts.name,
                    facts.line()
                ),
            ))
        }
    }
}

/// Whether the watch is over.
fn over(follower: &Follower, until_done: bool) -> Option<End> {
    if follower.gone() {
        return Some(End::Gone);
    }
    let ended = Facts::of(&follower.picture().rollout).ended();
    ended.filter(|_| until_done).map(End::Release)
}

/// A line for each change, for logs and pipes.
async fn lines(
    follower: &mut Follower,
    until_done: bool,
    out: &mut (dyn Write + Send),
) -> Result<End, Failure> {
    let mut last = String::new();
    loop {
        let line = line(follower.picture());
        if line != last {
            let look = Look::now();
            writeln!(
                out,
                "{}  {line}",
                look.now.to_zoned(look.zone).strftime("%H:%M:%S")
            )?;
            out.flush()?;
            last = line;
        }
        if let Some(end) = over(follower, until_done) {
            return Ok(end);
        }
        follower.changed(GATHER).await;
    }
}

/// Where a Rollout and its pods stand, on one line.
fn line(picture: &Picture) -> String {
    let facts = Facts::of(&picture.rollout);
    // Only the state of pods counts here, not their age.
    let report = report(picture, jiff::Timestamp::UNIX_EPOCH);
    let pods = report.revisions.iter().filter_map(|revision| {
        let set = revision.replica_set.as_ref()?;
        Some(format!(
            "{} {}/{}",
            revision.revision, set.available, set.desired
        ))
    });
    let pods: Vec<String> = pods.collect();
    if pods.is_empty() {
        facts.line()
    } else {
        format!("{} · pods {}", facts.line(), pods.join(", "))
    }
}

/// Merges what is ready now into one wake-up.
async fn gathered<S: futures::Stream + Unpin>(changes: &mut S, gather: Duration) -> Vec<S::Item> {
    let Some(first) = changes.next().await else {
        return std::future::pending().await;
    };
    let mut items = vec![first];
    let more = async {
        while let Some(item) = changes.next().await {
            items.push(item);
        }
    };
    // The time being up is the normal end.
    let _ = tokio::time::timeout(gather, more).await;
    items
}
