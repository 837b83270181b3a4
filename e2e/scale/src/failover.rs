//! Takeovers by a standby, and the start of a controller with existing rollouts.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::control_plane::CONTROLLERS;
use crate::fleet::Goal;
use crate::phase::Phase;
use crate::phases::pause;
use crate::product_run::{ProductRun, Sent, SentTimes, first_name};
use crate::results::{Ending, PhaseResult, StartResult, Takeover};

/// Maximum time for a change to be observed. Flagger's Lease expires after a minute.
pub(crate) const OBSERVE_TIMEOUT: Duration = Duration::from_secs(90);
/// Maximum time for a process to end after a signal.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum time for a new standby to become quiet.
const STANDBY_TIMEOUT: Duration = Duration::from_secs(60);
/// Minimum age of a standby.
const STANDBY_AGE: Duration = Duration::from_secs(4);
/// A standby is ready when it uses less than this share of a core.
const STANDBY_CPU: f64 = 0.04;
/// Time from the start of a controller in which its use of the machine counts to the start.
const START_WINDOW: Duration = Duration::from_secs(30);

/// Ends the leader several times in each way.
pub(crate) async fn fail_over(bench: &mut ProductRun<'_>) -> Result<PhaseResult> {
    let name = first_name(bench)?;
    let begin = bench.begin()?;
    let mut takeovers = Vec::new();
    for ending in [Ending::Killed, Ending::Stopped] {
        for _ in 0..bench.options.takeovers {
            if Instant::now() >= bench.end {
                break;
            }
            takeovers.push(take_over(bench, &name, ending).await?);
        }
    }
    Ok(PhaseResult {
        phase: Phase::Failover,
        rollouts: bench.existing,
        changed: u32::try_from(takeovers.len())?,
        wall_seconds: begin.at.elapsed().as_secs_f64(),
        requests: bench.requests(&begin, &SentTimes::new(), None)?.requests,
        takeovers,
        ..PhaseResult::default()
    })
}

/// Starts a standby, ends the leader, and changes a rollout right after it.
async fn take_over(bench: &mut ProductRun<'_>, name: &str, ending: Ending) -> Result<Takeover> {
    let leader = bench.controllers.first().context("no controller runs")?.0;
    let standby = CONTROLLERS.into_iter().find(|account| *account != leader);
    let standby = standby.context("there is no second account")?;
    bench.start_controller(standby)?;
    wait_until_quiet(bench).await?;

    let begin = bench.begin()?;
    let (_, process) = bench.controllers.remove(0);
    let signal = match ending {
        Ending::Killed => Signal::KILL,
        Ending::Stopped => Signal::TERM,
    };
    let not = bench.fleet.observation(name).observed;
    let before = bench.fleet.observation(name).complete;
    let sent = Sent::now();
    process.signal(signal)?;
    bench.fleet.expect(name, Goal::Observed { not });
    let release = bench.next_release();
    bench.kind.update(&bench.api, name, release).await?;
    let observed = bench.fleet.wait_for(name, sent.at + OBSERVE_TIMEOUT).await;
    process.reap(STOP_TIMEOUT).await?;
    bench.fleet.expect(name, Goal::Complete { not: before });
    bench
        .fleet
        .wait_for(name, Instant::now() + OBSERVE_TIMEOUT)
        .await;

    let times = SentTimes::from([(name.to_owned(), sent)]);
    let report = bench.requests(&begin, &times, Some(standby))?;
    let first_write = report.first_writes.get(name);
    Ok(Takeover {
        ending,
        first_write: first_write.map(|first| first - sent.unix),
        observed: observed.map(|at| at.duration_since(sent.at).as_secs_f64()),
    })
}

/// Waits until the newest controller has read everything.
async fn wait_until_quiet(bench: &ProductRun<'_>) -> Result<()> {
    let deadline = Instant::now() + STANDBY_TIMEOUT;
    let (_, process) = bench.controllers.last().context("no controller runs")?;
    pause(STANDBY_AGE, deadline).await;
    while Instant::now() < deadline {
        let before = process.cpu_seconds()?;
        sleep(Duration::from_secs(1)).await;
        if process.cpu_seconds()? - before < STANDBY_CPU {
            break;
        }
    }
    Ok(())
}

/// Stops the controllers, changes a rollout, and starts one.
pub(crate) async fn start(bench: &mut ProductRun<'_>) -> Result<PhaseResult> {
    let name = first_name(bench)?;
    bench.stop_controllers().await?;
    let not = bench.fleet.observation(&name).observed;
    let before = bench.fleet.observation(&name).complete;
    let release = bench.next_release();
    bench.kind.update(&bench.api, &name, release).await?;
    let begin = bench.begin()?;
    bench.fleet.expect(&name, Goal::Observed { not });
    bench.start_controller(CONTROLLERS[0])?;
    let observed = bench
        .fleet
        .wait_for(&name, begin.at + OBSERVE_TIMEOUT)
        .await;
    let (_, process) = bench.controllers.last().context("no controller runs")?;
    let cpu_seconds = process.cpu_seconds()?;
    sleep_until(begin.at + START_WINDOW).await;
    let usage = bench.usage(&begin)?;
    let requests = bench.requests(&begin, &SentTimes::new(), None)?.requests;
    let wall_seconds = begin.at.elapsed().as_secs_f64();
    // The release of the changed rollout ends before the next phase.
    bench.fleet.expect(&name, Goal::Complete { not: before });
    bench
        .fleet
        .wait_for(&name, Instant::now() + OBSERVE_TIMEOUT)
        .await;
    Ok(PhaseResult {
        phase: Phase::Start,
        rollouts: bench.existing,
        changed: 1,
        wall_seconds,
        usage,
        requests,
        start: Some(StartResult {
            observed: observed.map(|at| at.duration_since(begin.at).as_secs_f64()),
            cpu_seconds,
        }),
        ..PhaseResult::default()
    })
}
