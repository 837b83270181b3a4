//! Aborts in quiet, and while all other rollouts are updated.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::fleet::{CanaryPods, Goal};
use crate::phase::Phase;
use crate::phases::pause;
use crate::product_run::{ProductRun, Sent, SentTimes, Work, names};
use crate::results::{AbortResult, PhaseResult};
use crate::statistics::Summary;

/// Number of aborts in quiet.
const QUIET_ABORTS: usize = 10;
/// Time between aborts in quiet.
const QUIET_INTERVAL: Duration = Duration::from_millis(500);
/// Interval between checks of the progress of the update.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time after which a missing abort counts as unfinished.
pub(crate) const ABORT_TIMEOUT: Duration = Duration::from_secs(60);

/// When each abort was requested.
type Requested = Vec<(String, Instant)>;

/// Creates probes, brings them to a pause, aborts some in quiet, and the others during an update of
/// all existing rollouts. The figures of the phase are those of the update.
pub(crate) async fn run(bench: &mut ProductRun<'_>) -> Result<PhaseResult> {
    let flood = usize::try_from(bench.options.aborts)?;
    let probes: Vec<String> = (0..QUIET_ABORTS + flood)
        .map(|number| format!("probe{number:03}"))
        .collect();
    let release = bench.next_release();
    bring_to_pause(bench, &probes, release).await?;
    let canaries = CanaryPods::watch(bench.api.client(), release);
    let mut aborts = AbortResult::default();

    let (in_quiet, in_flood) = probes.split_at(QUIET_ABORTS);
    let mut requested = Requested::new();
    for name in in_quiet {
        requested.push(request_abort(bench, name).await?);
        sleep(QUIET_INTERVAL).await;
    }
    (aborts.quiet_reported, aborts.quiet_removed) =
        collect(bench, &canaries, &requested, &mut aborts.unfinished).await;

    let mut result = update_and_abort(bench, in_flood, &canaries, &mut aborts).await?;
    result.aborts = Some(aborts);
    for name in &probes {
        bench.kind.delete(&bench.api, name).await?;
    }
    Ok(result)
}

async fn bring_to_pause(bench: &ProductRun<'_>, probes: &[String], release: u32) -> Result<()> {
    let deadline = Instant::now() + bench.limit(u32::try_from(probes.len())?);
    for name in probes {
        bench.fleet.expect(name, Goal::Complete { not: None });
        bench.kind.create(&bench.api, name, true).await?;
    }
    bench.fleet.wait(deadline).await?;
    for name in probes {
        bench.fleet.expect(name, Goal::Paused);
        bench.kind.update(&bench.api, name, release).await?;
    }
    bench.fleet.wait(deadline).await
}

/// Updates all existing rollouts. An abort is requested whenever the next fraction of the update is
/// sent or done, so that the aborts are spread over it, whatever it takes.
async fn update_and_abort(
    bench: &mut ProductRun<'_>,
    probes: &[String],
    canaries: &CanaryPods,
    aborts: &mut AbortResult,
) -> Result<PhaseResult> {
    let changed = bench.existing;
    let release = bench.next_release();
    let begin = bench.begin()?;
    let limit = bench.limit(changed);
    let deadline = begin.at + limit;
    let updated = names(0, changed);
    let this = &*bench;
    let update = async {
        let sent = this.send_all(&updated, Work::Update(release)).await?;
        anyhow::Ok((sent, begin.at.elapsed().as_secs_f64()))
    };
    let (update, requested) = tokio::join!(update, abort_along(this, probes, &updated, deadline));
    let (sent, driver_seconds): (SentTimes, f64) = update?;
    let requested = requested?;
    wait_for_all(this, &updated, deadline).await;
    let mut result = PhaseResult {
        phase: Phase::AbortFlood,
        changed,
        limit_seconds: limit.as_secs_f64(),
        driver_seconds,
        ..PhaseResult::default()
    };
    (aborts.flood_reported, aborts.flood_removed) =
        collect(this, canaries, &requested, &mut aborts.unfinished).await;
    bench.fleet.wait(Instant::now()).await?;
    bench.finish(&mut result, &begin, &sent).await?;
    Ok(result)
}

/// Requests the aborts of the probes along the progress of an update.
async fn abort_along(
    bench: &ProductRun<'_>,
    probes: &[String],
    updated: &[String],
    deadline: Instant,
) -> Result<Requested> {
    let mut requested = Requested::new();
    let mut waiting = probes.iter().enumerate();
    let mut next = waiting.next();
    while let Some((index, name)) = next {
        if Instant::now() >= deadline {
            break;
        }
        let done = updated
            .iter()
            .filter(|name| bench.fleet.reached(name).is_some());
        let progress = bench.sent.load(Ordering::Relaxed) + done.count();
        if is_due(index, probes.len(), progress, 2 * updated.len()) {
            requested.push(request_abort(bench, name).await?);
            next = waiting.next();
        } else {
            pause(POLL_INTERVAL, deadline).await;
        }
    }
    Ok(requested)
}

/// Whether the abort `index` of `aborts` is due at `progress` of `total`.
fn is_due(index: usize, aborts: usize, progress: usize, total: usize) -> bool {
    progress * aborts >= index * total
}

async fn request_abort(bench: &ProductRun<'_>, name: &str) -> Result<(String, Instant)> {
    bench.fleet.expect(name, Goal::Aborted);
    let sent = Sent::now();
    bench.kind.abort(&bench.api, name).await?;
    Ok((name.to_owned(), sent.at))
}

async fn wait_for_all(bench: &ProductRun<'_>, names: &[String], deadline: Instant) {
    for name in names {
        bench.fleet.wait_for(name, deadline).await;
    }
}

/// Waits for the requested aborts. Returns the times until they were reported, and until the canary
/// was scaled to 0.
async fn collect(
    bench: &ProductRun<'_>,
    canaries: &CanaryPods,
    requested: &[(String, Instant)],
    unfinished: &mut u32,
) -> (Option<Summary>, Option<Summary>) {
    let deadline = Instant::now() + ABORT_TIMEOUT;
    let (mut reported, mut removed) = (Vec::new(), Vec::new());
    for (name, at) in requested {
        let report = bench.fleet.wait_for(name, deadline).await;
        while canaries.removed_at(name).is_none() && Instant::now() < deadline {
            sleep(POLL_INTERVAL).await;
        }
        match (report, canaries.removed_at(name)) {
            (Some(report), Some(removal)) => {
                reported.push(report.duration_since(*at).as_secs_f64());
                removed.push(removal.duration_since(*at).as_secs_f64());
            }
            _ => *unfinished += 1,
        }
    }
    (
        Summary::from_values(reported),
        Summary::from_values(removed),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aborts_are_spread_over_the_update() {
        let due_at = |index| (0..=3000).find(|done| is_due(index, 50, *done, 3000));
        assert_eq!(due_at(0), Some(0));
        assert_eq!(due_at(25), Some(1500));
        assert_eq!(due_at(49), Some(2940));
    }
}
