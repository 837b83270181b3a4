//! The phases that create, update or leave rollouts.

use std::time::Duration;

use anyhow::Result;
use futures::FutureExt;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::aborts;
use crate::failover;
use crate::phase::Phase;
use crate::product_run::{ProductRun, SentTimes, Work, names};
use crate::results::PhaseResult;

/// Runs one phase. `None` if the product cannot run it.
pub(crate) async fn run(
    bench: &mut ProductRun<'_>,
    phase: Phase,
    rollouts: u32,
) -> Result<Option<PhaseResult>> {
    Ok(match phase {
        Phase::Create => Some(create(bench, rollouts).await?),
        Phase::Idle => Some(idle(bench).await?),
        Phase::Update => Some(update(bench, phase, bench.existing).await?),
        Phase::Partial => {
            let count = bench.existing.div_ceil(10);
            Some(update(bench, phase, count).await?)
        }
        Phase::Churn => Some(churn(bench).await?),
        Phase::AbortFlood if bench.kind.can_abort() => {
            Some(aborts::run(bench).boxed_local().await?)
        }
        Phase::AbortFlood => None,
        Phase::Failover => Some(failover::fail_over(bench).boxed_local().await?),
        Phase::Start => Some(failover::start(bench).boxed_local().await?),
    })
}

async fn create(bench: &mut ProductRun<'_>, rollouts: u32) -> Result<PhaseResult> {
    let more = rollouts.saturating_sub(bench.existing);
    let names = names(bench.existing, more);
    bench.existing += more;
    bench
        .run_and_wait(Phase::Create, &names, Work::Create)
        .await
}

async fn idle(bench: &mut ProductRun<'_>) -> Result<PhaseResult> {
    let begin = bench.begin()?;
    bench.rest(bench.options.quiet_time).await;
    Ok(PhaseResult {
        phase: Phase::Idle,
        rollouts: bench.existing,
        wall_seconds: begin.at.elapsed().as_secs_f64(),
        usage: bench.usage(&begin)?,
        requests: bench.requests(&begin, &SentTimes::new(), None)?.requests,
        ..PhaseResult::default()
    })
}

async fn update(bench: &mut ProductRun<'_>, phase: Phase, count: u32) -> Result<PhaseResult> {
    let release = bench.next_release();
    let names = names(0, count);
    bench
        .run_and_wait(phase, &names, Work::Update(release))
        .await
}

/// Updates rollouts at a constant rate, each at most once.
async fn churn(bench: &mut ProductRun<'_>) -> Result<PhaseResult> {
    let per_second = bench.options.churn_per_second.max(1);
    let seconds = u32::try_from(bench.options.quiet_time.as_secs())?;
    let changed = per_second.saturating_mul(seconds).min(bench.existing);
    let release = bench.next_release();
    let begin = bench.begin()?;
    let limit = bench.limit(changed);
    let mut sent = SentTimes::new();
    let mut ticks = interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for name in names(0, changed) {
        ticks.tick().await;
        let at = bench.send(&name, Work::Update(release)).await?;
        sent.insert(name, at);
    }
    let driver_seconds = begin.at.elapsed().as_secs_f64();
    bench.fleet.wait(begin.at + limit).await?;
    let mut result = PhaseResult {
        phase: Phase::Churn,
        changed,
        limit_seconds: limit.as_secs_f64(),
        driver_seconds,
        ..PhaseResult::default()
    };
    bench.finish(&mut result, &begin, &sent).await?;
    Ok(result)
}

/// Sleeps until `deadline` or for `time`, whichever is first.
pub(crate) async fn pause(time: Duration, deadline: Instant) {
    sleep(time.min(deadline.saturating_duration_since(Instant::now()))).await;
}
