//! The soak test: dozens of promotions, rollbacks and aborts under load, with their durations.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt as _;
use jiff::Timestamp;
use kube::api::DynamicObject;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;
use serin_core::units::Weight;
use serin_crds::RolloutStatus;
use serin_load::LoadHandle;

use crate::cases::lifecycle;
use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::shop::{Shop, is_aborted, is_stable, share_of};

/// Number of releases of each kind, and the load.
#[derive(Clone, Copy, Debug)]
pub struct SoakOptions {
    /// Good releases to promote.
    pub promotions: u32,
    /// Bad releases that must be rolled back by evidence.
    pub rollbacks: u32,
    /// Releases to abort by command.
    pub aborts: u32,
    /// Releases that `kubectl serin status --watch --until-done` must follow to completion.
    pub statuses: u32,
    /// Requests per second to each of the three services.
    pub rate_per_second: u32,
}

impl SoakOptions {
    /// The full run.
    pub const FULL: Self = Self {
        promotions: 30,
        rollbacks: 30,
        aborts: 30,
        statuses: 50,
        rate_per_second: 300,
    };
    /// The short run for CI. The suite has a separate case for the status command.
    pub const SLICE: Self = Self {
        promotions: 4,
        rollbacks: 4,
        aborts: 4,
        statuses: 0,
        rate_per_second: 300,
    };
}

/// Measurements of all releases.
#[derive(Clone, Debug, Default)]
pub struct SoakMeasurements {
    /// Time from the scrape that completed the evidence to weight 0 in the route.
    pub evidence_to_zero: Vec<Duration>,
    /// Time from the first failed response to weight 0 in the route.
    pub failure_to_zero: Vec<Duration>,
    /// Errors of the canary in each rollback.
    pub canary_errors: Vec<u64>,
    /// Time from the command to the last request on the canary.
    pub abort_to_last_request: Vec<Duration>,
    /// Time from applying a release until it is stable.
    pub promotion: Vec<Duration>,
    /// Total number of requests.
    pub requests: u64,
    /// Requests that were lost in routing.
    pub routing_failures: u64,
}

/// Runs the promotions, then the rollbacks, then the aborts, each under load.
///
/// # Errors
/// If a release does not end as expected, or if a request is lost in routing.
pub async fn run(env: &Env, options: SoakOptions) -> Result<SoakMeasurements> {
    let mut measurements = SoakMeasurements::default();
    promotions(env, options, &mut measurements).await?;
    rollbacks(env, options, &mut measurements).await?;
    aborts(env, options, &mut measurements).await?;
    if options.statuses > 0 {
        Box::pin(lifecycle::status_until_done(env, options.statuses)).await?;
    }
    print_measurements(&measurements);
    ensure!(
        measurements.routing_failures == 0,
        "{} requests were lost in routing",
        measurements.routing_failures
    );
    Ok(measurements)
}

async fn promotions(
    env: &Env,
    options: SoakOptions,
    measurements: &mut SoakMeasurements,
) -> Result<()> {
    let shop = Shop::create(env, "serin-soak-promote").await?;
    let steps = json!([{"setWeight": 20}, {"pause": {"duration": "1s"}}, {"setWeight": 60}, {"pause": {"duration": "1s"}}]);
    let spec = RolloutOptions {
        steps: Some(steps),
        scale_down_delay_seconds: 2,
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v0")).await?;
    let load = shop.start_load(options.rate_per_second)?;
    for number in 1..=options.promotions {
        let declared_at = Timestamp::now();
        shop.apply_release(&spec, &SampleRelease::good(&format!("v{number}")))
            .await?;
        let rollout = shop
            .wait_until("promoted", Duration::from_secs(180), |rollout| {
                is_stable(rollout) || is_aborted(rollout)
            })
            .await?;
        ensure!(
            is_stable(&rollout),
            "v{number} was aborted: {:?}",
            rollout.status.map(|status| status.state.message)
        );
        measurements
            .promotion
            .push(duration_between(declared_at, Timestamp::now()));
        println!("promoted {number} of {}", options.promotions);
    }
    finish(shop, load, measurements).await
}

async fn rollbacks(
    env: &Env,
    options: SoakOptions,
    measurements: &mut SoakMeasurements,
) -> Result<()> {
    let shop = Shop::create(env, "serin-soak-rollback").await?;
    let steps = json!([{"setWeight": 20}, {"pause": {"duration": "120s"}}]);
    let spec = RolloutOptions {
        steps: Some(steps),
        scale_down_delay_seconds: 2,
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v0")).await?;
    let load = shop.start_load(options.rate_per_second)?;
    for number in 1..=options.rollbacks {
        let version = format!("v{number}");
        let mut zero_weights = Box::pin(zero_weights(&shop));
        shop.apply_release(&spec, &SampleRelease::failing(&version, "10"))
            .await?;
        // A release may end quickly, so the route is watched from before its start.
        let zero_at = tokio::time::timeout(Duration::from_secs(120), zero_weights.next()).await;
        let zero_at = zero_at
            .context("the weight did not rise and return to 0 in time")?
            .context("the watch ended")?;
        let rollout = shop
            .wait_until("rolled back", Duration::from_secs(10), is_aborted)
            .await?;
        let status = rollout.status.context("a status")?;
        let sample_at =
            last_sample(&status).context("the checkpoint has no time of its last sample")?;
        measurements
            .evidence_to_zero
            .push(duration_between(sample_at, zero_at));
        let report = load.report_so_far();
        let failed = report
            .all()
            .of_version(&version)
            .requests()
            .find(|request| request.outcome == serin_load::RequestOutcome::ServiceError);
        let failed = failed.context("a failed request of the canary")?;
        measurements.failure_to_zero.push(duration_between(
            report.wall_clock(failed.ended_at()),
            zero_at,
        ));
        measurements
            .canary_errors
            .push(report.all().of_version(&version).counts().service_errors);
        println!("rolled back {number} of {}", options.rollbacks);
    }
    finish(shop, load, measurements).await
}

async fn aborts(
    env: &Env,
    options: SoakOptions,
    measurements: &mut SoakMeasurements,
) -> Result<()> {
    let shop = Shop::create(env, "serin-soak-abort").await?;
    let steps = json!([{"setWeight": 50}, {"pause": {}}]);
    let spec = RolloutOptions {
        steps: Some(steps),
        analysis: None,
        scale_down_delay_seconds: 2,
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v0")).await?;
    let load = shop.start_load(options.rate_per_second)?;
    for number in 1..=options.aborts {
        let version = format!("v{number}");
        shop.apply_release(&spec, &SampleRelease::good(&version))
            .await?;
        shop.wait_until("paused", Duration::from_secs(60), |rollout| {
            rollout
                .status
                .as_ref()
                .is_some_and(|status| status.state.pause.is_some())
        })
        .await?;
        let requested_at = Timestamp::now();
        let aborted = tokio::process::Command::new(env.program("kubectl-abort"))
            .env("KUBECONFIG", &env.kubeconfig)
            .args([&shop.name, "--namespace", &shop.namespace])
            .output()
            .await?;
        ensure!(
            aborted.status.success(),
            "{}",
            String::from_utf8_lossy(&aborted.stderr)
        );
        // The last request is known after stable has served alone for a while.
        let from = load.elapsed();
        shop.eventually(
            "only stable serves requests",
            Duration::from_secs(10),
            async || {
                let quiet = load
                    .snapshot()
                    .version(&version)
                    .is_none_or(|seen| load.elapsed() > seen.last_at + Duration::from_secs(1));
                Ok(quiet && load.elapsed() > from + Duration::from_secs(1))
            },
        )
        .await?;
        let report = load.report_so_far();
        let last = report
            .all()
            .of_version(&version)
            .last()
            .context("a request of the canary")?;
        measurements
            .abort_to_last_request
            .push(duration_between(requested_at, report.wall_clock(last.at)));
        println!("aborted {number} of {}", options.aborts);
    }
    finish(shop, load, measurements).await
}

async fn finish(shop: Shop, load: LoadHandle, measurements: &mut SoakMeasurements) -> Result<()> {
    let report = load.stop().await;
    measurements.requests += report.sent;
    measurements.routing_failures += report.all().counts().routing_failures();
    for detail in &report.details {
        println!("{}: lost in routing: {detail:?}", shop.namespace);
    }
    shop.delete().await
}

/// The times at which the weight of the canary in the route drops to 0.
fn zero_weights(shop: &Shop) -> impl futures::Stream<Item = Timestamp> + use<> {
    let canary = format!("{}-canary", shop.name);
    let changes = watcher(shop.routes(), watcher::Config::default()).applied_objects();
    changes
        .filter_map(move |route| {
            let share = route
                .ok()
                .map(|route: DynamicObject| share_of(&route, &canary));
            async move { share }
        })
        .scan(Weight::ZERO, |before, share| {
            let fell = share.is_zero() && !before.is_zero();
            *before = share;
            let at = fell.then(Timestamp::now);
            async move { Some(at) }
        })
        .filter_map(|at| async move { at })
}

/// The time of the last sample in the analysis.
fn last_sample(status: &RolloutStatus) -> Option<Timestamp> {
    let objectives = status
        .analysis
        .as_ref()?
        .checkpoint
        .get("objectives")?
        .as_object()?;
    let newest = objectives
        .values()
        .filter_map(|objective| objective.pointer("/state/roundAtMs")?.as_i64())
        .max()?;
    Timestamp::from_millisecond(newest).ok()
}

fn duration_between(start: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(start)).unwrap_or_default()
}

/// A percentile by nearest rank.
fn percentile(values: &[Duration], percent: usize) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

fn print_measurements(measurements: &SoakMeasurements) {
    let row = |what: &str, values: &[Duration]| {
        let seconds = |percent| percentile(values, percent).as_secs_f64();
        println!(
            "{what:<48} {:>4}  p50 {:>6.2} s  p99 {:>6.2} s",
            values.len(),
            seconds(50),
            seconds(99)
        );
    };
    row("promotion, applied to stable", &measurements.promotion);
    row(
        "last sample to weight 0 in the route",
        &measurements.evidence_to_zero,
    );
    row(
        "first failed response to weight 0 in the route",
        &measurements.failure_to_zero,
    );
    row(
        "abort command to last request on the canary",
        &measurements.abort_to_last_request,
    );
    println!(
        "errors served by each bad canary: {:?}",
        measurements.canary_errors
    );
    println!(
        "{} requests, {} lost in routing",
        measurements.requests, measurements.routing_failures
    );
}
