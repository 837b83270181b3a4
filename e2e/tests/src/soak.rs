//! The long counts: tens of promotions, rollbacks and aborts under load, with the times that they
//! took.

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
use crate::manifests::{Release, Spec};
use crate::shop::{Shop, is_aborted, is_stable, share_of};

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Good releases to promote.
    pub promotions: u32,
    /// Bad releases to roll back by evidence.
    pub rollbacks: u32,
    /// Releases to abort by command.
    pub aborts: u32,
    /// Releases after which `kubectl serin status --watch --until-done` must end with the new
    /// health.
    pub statuses: u32,
    /// Requests a second to each of the three services.
    pub rate_per_second: u32,
}

impl Options {
    /// What the project promises.
    pub const FULL: Self = Self {
        promotions: 30,
        rollbacks: 30,
        aborts: 30,
        statuses: 50,
        rate_per_second: 300,
    };
    /// What CI has time for. The statuses are a case of the suite already.
    pub const SLICE: Self = Self {
        promotions: 4,
        rollbacks: 4,
        aborts: 4,
        statuses: 0,
        rate_per_second: 300,
    };
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// From the scrape that completed the evidence to weight 0 in the route.
    pub evidence_to_zero: Vec<Duration>,
    /// From the first failing answer to weight 0 in the route.
    pub failure_to_zero: Vec<Duration>,
    /// The service's own errors on the canary, in each rollback.
    pub canary_errors: Vec<u64>,
    /// From the command to the last request on the canary.
    pub abort_to_last_request: Vec<Duration>,
    /// From the declaration to stable.
    pub promotion: Vec<Duration>,
    /// Requests in all.
    pub requests: u64,
    /// Answers that were not the service's own.
    pub routing_failures: u64,
}

/// Does it all, one kind after another, each under its own load.
///
/// # Errors
/// When a release does not end as it must, or a request is lost to routing.
pub async fn run(env: &Env, options: Options) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    promotions(env, options, &mut outcome).await?;
    rollbacks(env, options, &mut outcome).await?;
    aborts(env, options, &mut outcome).await?;
    if options.statuses > 0 {
        Box::pin(lifecycle::status_until_done(env, options.statuses)).await?;
    }
    print(&outcome);
    ensure!(
        outcome.routing_failures == 0,
        "{} requests were lost to routing",
        outcome.routing_failures
    );
    Ok(outcome)
}

async fn promotions(env: &Env, options: Options, outcome: &mut Outcome) -> Result<()> {
    let shop = Shop::open(env, "serin-soak-promote").await?;
    let steps = json!([{"setWeight": 20}, {"pause": {"duration": "1s"}}, {"setWeight": 60}, {"pause": {"duration": "1s"}}]);
    let spec = Spec {
        steps: Some(steps),
        scale_down_delay_seconds: 2,
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v0")).await?;
    let load = shop.load(options.rate_per_second)?;
    for number in 1..=options.promotions {
        let declared_at = Timestamp::now();
        shop.declare(&spec, &Release::good(&format!("v{number}")))
            .await?;
        let rollout = shop
            .until("promoted", Duration::from_secs(180), |rollout| {
                is_stable(rollout) || is_aborted(rollout)
            })
            .await?;
        ensure!(
            is_stable(&rollout),
            "v{number} was given up: {:?}",
            rollout.status.and_then(|status| status.message)
        );
        outcome.promotion.push(since(declared_at, Timestamp::now()));
        println!("promoted {number} of {}", options.promotions);
    }
    end(shop, load, outcome).await
}

async fn rollbacks(env: &Env, options: Options, outcome: &mut Outcome) -> Result<()> {
    let shop = Shop::open(env, "serin-soak-rollback").await?;
    let steps = json!([{"setWeight": 20}, {"pause": {"duration": "120s"}}]);
    let spec = Spec {
        steps: Some(steps),
        scale_down_delay_seconds: 2,
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v0")).await?;
    let load = shop.load(options.rate_per_second)?;
    for number in 1..=options.rollbacks {
        let version = format!("v{number}");
        let mut zeroes = Box::pin(zeroes(&shop));
        shop.declare(&spec, &Release::failing(&version, "10"))
            .await?;
        // A release may be over before anybody has looked: it is the route that is watched, from
        // before to after.
        let zero_at = tokio::time::timeout(Duration::from_secs(120), zeroes.next()).await;
        let zero_at = zero_at
            .context("the weight did not rise and go to 0 in time")?
            .context("the watch ended")?;
        let rollout = shop
            .until("rolled back", Duration::from_secs(10), is_aborted)
            .await?;
        let status = rollout.status.context("a status")?;
        let sample_at = last_sample(&status).context("the checkpoint names its last sample")?;
        outcome.evidence_to_zero.push(since(sample_at, zero_at));
        let report = load.report_so_far();
        let failed = report
            .all()
            .of_version(&version)
            .answers()
            .find(|answer| answer.outcome == serin_load::Outcome::ServiceError);
        let failed = failed.context("a failed request of the canary")?;
        outcome
            .failure_to_zero
            .push(since(report.wall_clock(failed.ended()), zero_at));
        outcome
            .canary_errors
            .push(report.all().of_version(&version).counts().service_errors);
        println!("rolled back {number} of {}", options.rollbacks);
    }
    end(shop, load, outcome).await
}

async fn aborts(env: &Env, options: Options, outcome: &mut Outcome) -> Result<()> {
    let shop = Shop::open(env, "serin-soak-abort").await?;
    let steps = json!([{"setWeight": 50}, {"pause": {}}]);
    let spec = Spec {
        steps: Some(steps),
        analysis: None,
        scale_down_delay_seconds: 2,
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v0")).await?;
    let load = shop.load(options.rate_per_second)?;
    for number in 1..=options.aborts {
        let version = format!("v{number}");
        shop.declare(&spec, &Release::good(&version)).await?;
        shop.until("paused", Duration::from_secs(60), |rollout| {
            rollout
                .status
                .as_ref()
                .is_some_and(|status| status.pause.is_some())
        })
        .await?;
        let asked_at = Timestamp::now();
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
        // The last request is known once stable has answered alone for a while.
        let from = load.elapsed();
        shop.eventually(
            "stable answers alone",
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
        outcome
            .abort_to_last_request
            .push(since(asked_at, report.wall_clock(last.at)));
        println!("aborted {number} of {}", options.aborts);
    }
    end(shop, load, outcome).await
}

async fn end(shop: Shop, load: LoadHandle, outcome: &mut Outcome) -> Result<()> {
    let report = load.stop().await;
    outcome.requests += report.sent;
    outcome.routing_failures += report.all().counts().routing_failures();
    for detail in &report.details {
        println!("{}: lost to routing: {detail:?}", shop.namespace);
    }
    shop.close().await
}

/// When the route is seen to give the canary nothing, after it was seen to give it something.
fn zeroes(shop: &Shop) -> impl futures::Stream<Item = Timestamp> + use<> {
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

/// The time of the last sample that the analysis has taken in.
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

fn since(start: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(start)).unwrap_or_default()
}

/// The value that so many of a hundred are not above, by nearest rank.
fn percentile(values: &[Duration], percent: usize) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

fn print(outcome: &Outcome) {
    let row = |what: &str, values: &[Duration]| {
        let seconds = |percent| percentile(values, percent).as_secs_f64();
        println!(
            "{what:<48} {:>4}  p50 {:>6.2} s  p99 {:>6.2} s",
            values.len(),
            seconds(50),
            seconds(99)
        );
    };
    row("promotion, declared to stable", &outcome.promotion);
    row(
        "completing sample to weight 0 in the route",
        &outcome.evidence_to_zero,
    );
    row(
        "first failed answer to weight 0 in the route",
        &outcome.failure_to_zero,
    );
    row(
        "abort command to last request on the canary",
        &outcome.abort_to_last_request,
    );
    println!(
        "errors served by each bad canary: {:?}",
        outcome.canary_errors
    );
    println!(
        "{} requests, {} lost to routing",
        outcome.requests, outcome.routing_failures
    );
}
