//! Outages: of the controller, of Prometheus, of the API server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt as _, watcher};
use rand::Rng as _;
use serde_json::json;
use serin_cluster::Component;
use serin_crds::Rollout;

use crate::controller::{Controller, Options};
use crate::env::Env;
use crate::manifests::{Release, Spec};
use crate::note;
use crate::shop::{Shop, eventually, is_stable, stop_without_loss, verified};

const LOAD_PER_SECOND: u32 = 300;

fn options(name: &str, port: u16, election: Option<&str>) -> Options {
    Options {
        name: name.to_owned(),
        port,
        election: election.map(str::to_owned),
    }
}

/// # Errors
/// When something is not as promised.
pub async fn killed_at_random_moments(env: &Env) -> Result<()> {
    let kills = std::env::var("SERIN_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(8);
    Box::pin(kill_controllers(env, kills)).await
}

/// Ships releases while the controller is killed so many times, at random moments; each ends as
/// without a kill.
///
/// # Errors
/// When one does not, a pause starts anew, a step is skipped, or a request is lost.
pub async fn kill_controllers(env: &Env, kills: u32) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-kills").await?;
    let controller_options = options("kills", 18_181, None);
    let mut controller = Controller::start(env, &controller_options)?;
    controller.ready().await?;
    let steps = json!([{"setWeight": 20}, {"pause": {"duration": "6s"}}, {"setWeight": 60}, {"pause": {"duration": "6s"}}]);
    let spec = Spec {
        steps: Some(steps),
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    let mut killed = 0;
    let mut version = 1;
    while killed < kills {
        version += 1;
        let pauses = tokio::spawn(pauses(&shop));
        shop.declare(&spec, &Release::good(&format!("v{version}")))
            .await?;
        let deadline = Instant::now() + Duration::from_secs(180);
        loop {
            let wait = Duration::from_millis(rand::rng().random_range(200..6_000));
            tokio::time::sleep(wait).await;
            let rollout = shop.rollout().await?;
            if is_stable(&rollout) {
                break;
            }
            let message = rollout.status.and_then(|status| status.message);
            ensure!(
                Instant::now() < deadline,
                "v{version} does not end: {message:?}"
            );
            if killed < kills {
                controller.kill().await?;
                killed += 1;
                controller = Controller::start(env, &controller_options)?;
                controller.ready().await?;
            }
        }
        let seen = pauses.await??;
        let steps: Vec<i32> = seen.iter().map(|(step, _)| *step).collect();
        ensure!(
            steps == [1, 3],
            "v{version}: each pause is seen once and ends when it first said: {seen:?}"
        );
        note!("v{version}: promoted; {killed} kills so far");
    }
    let report = load.stop().await;
    note!("{}", report.summary());
    ensure!(
        report.lost_nothing(),
        "{}\n{:#?}",
        report.summary(),
        report.details
    );
    shop.close().await?;
    controller.stop().await
}

/// The pauses of the next release as its status tells them, each with its step and its end; one
/// that is told with another end is there twice. Ends when the release does.
fn pauses(
    shop: &Shop,
) -> impl Future<Output = Result<Vec<(i32, Option<Timestamp>)>>> + Send + use<> {
    let changes = watcher(shop.api::<Rollout>(), watcher::Config::default())
        .default_backoff()
        .applied_objects();
    async move {
        let mut changes = std::pin::pin!(changes);
        let (mut seen, mut has_begun) = (Vec::new(), false);
        while let Some(rollout) = changes.try_next().await? {
            has_begun |= !is_stable(&rollout);
            if has_begun && is_stable(&rollout) {
                break;
            }
            let status = rollout.status.unwrap_or_default();
            if let (Some(step), Some(pause)) = (&status.step, &status.pause) {
                let pause = (step.index, pause.until);
                if !seen.contains(&pause) {
                    seen.push(pause);
                }
            }
        }
        Ok(seen)
    }
}

/// # Errors
/// When something is not as promised.
pub async fn the_standby_takes_over(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-election").await?;
    let election = Some(shop.namespace.as_str());
    let mut first = Controller::start(env, &options("first", 18_182, election))?;
    first.ready().await?;
    let leases = Api::<Lease>::namespaced(env.client.clone(), &shop.namespace);
    let holder = async || -> Result<Option<String>> {
        let leases = leases.list(&ListParams::default()).await?;
        Ok(leases
            .items
            .first()
            .and_then(|lease| lease.spec.as_ref()?.holder_identity.clone())
            .filter(|id| !id.is_empty()))
    };
    eventually(
        "the first holds the lease",
        Duration::from_secs(20),
        async || Ok(holder().await?.is_some()),
    )
    .await?;
    let leader = holder().await?;
    let mut second = Controller::start(env, &options("second", 18_183, election))?;
    second.ready().await?;
    let steps = json!([{"setWeight": 50}, {"pause": {}}]);
    let spec = Spec {
        steps: Some(steps),
        analysis: None,
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v1")).await?;

    let killed_at = Instant::now();
    first.kill().await?;
    shop.declare(&spec, &Release::good("v2")).await?;
    let taken_in = |rollout: &Rollout| {
        rollout
            .status
            .as_ref()
            .is_some_and(|status| status.observed_generation == rollout.metadata.generation)
    };
    shop.until("the standby acts", Duration::from_secs(20), taken_in)
        .await?;
    let after_kill = killed_at.elapsed();
    ensure!(holder().await? != leader, "the lease has another holder");
    note!(
        "after kill -9 the standby acted in {:.2} s",
        after_kill.as_secs_f64()
    );
    ensure!(
        after_kill < Duration::from_secs(5),
        "the standby took {after_kill:?}"
    );

    let mut third = Controller::start(env, &options("third", 18_184, election))?;
    third.ready().await?;
    shop.until("v2 waits", Duration::from_secs(60), |rollout| {
        verified(rollout) == Some(50.0)
    })
    .await?;
    let stopped_at = Instant::now();
    second.stop().await?;
    shop.declare(&spec, &Release::good("v3")).await?;
    shop.until("the next acts", Duration::from_secs(20), taken_in)
        .await?;
    note!(
        "after a clean stop the next acted in {:.2} s",
        stopped_at.elapsed().as_secs_f64()
    );
    ensure!(
        stopped_at.elapsed() < Duration::from_secs(3),
        "a clean stop took {:?}",
        stopped_at.elapsed()
    );
    shop.close().await?;
    third.stop().await
}

/// # Errors
/// When something is not as promised.
pub async fn prometheus_away_and_back(env: &Env) -> Result<()> {
    let cluster = env
        .cluster
        .as_ref()
        .context("faults are made on the local cluster only")?;
    let shop = Shop::open(env, "serin-e2e-prometheus").await?;
    let mut controller = Controller::start(env, &options("prometheus", 18_185, None))?;
    controller.ready().await?;
    let spec = Spec::default();
    shop.first(&spec, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    cluster.suspend(Component::Prometheus)?;
    let stable = shop.status().await?.stable_revision;
    shop.declare(&spec, &Release::good("v2")).await?;
    let told = |rollout: &Rollout| {
        let conditions = rollout
            .status
            .as_ref()
            .map(|status| status.conditions.as_slice())
            .unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition.type_ == "MetricsReady" && condition.status == "False")
    };
    let held = shop
        .until("a hung Prometheus is told", Duration::from_secs(60), told)
        .await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let status = shop.status().await?;
    // Resumed whatever came of it: the next case needs it.
    cluster.resume_component(Component::Prometheus)?;
    held?;
    ensure!(status.stable_revision == stable, "promoted without metrics");
    shop.until("it resumes by itself", Duration::from_secs(120), is_stable)
        .await?;
    stop_without_loss(load).await?;
    shop.close().await?;
    controller.stop().await
}

/// # Errors
/// When something is not as promised.
pub async fn api_server_away_and_back(env: &Env) -> Result<()> {
    let cluster = env
        .cluster
        .as_ref()
        .context("faults are made on the local cluster only")?;
    let away = Duration::from_secs(60);
    let shop = Shop::open(env, "serin-e2e-api").await?;
    let mut controller = Controller::start(env, &options("api", 18_186, None))?;
    controller.ready().await?;
    let steps = json!([{"setWeight": 20}, {"pause": {"duration": "30s"}}, {"setWeight": 50}, {"pause": {"duration": "3s"}}]);
    let spec = Spec {
        steps: Some(steps),
        progress_deadline_seconds: 600,
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    shop.declare(&spec, &Release::good("v2")).await?;
    shop.until("v2 at 20 %", Duration::from_secs(60), |rollout| {
        verified(rollout) == Some(20.0)
    })
    .await?;
    let pause = |rollout: &Rollout| {
        rollout
            .status
            .as_ref()
            .and_then(|status| status.pause.clone())
    };
    let paused = shop
        .until("paused", Duration::from_secs(10), |rollout| {
            pause(rollout).is_some()
        })
        .await?;
    cluster.kill(Component::ApiServer).await?;
    tokio::time::sleep(away).await;
    ensure!(
        controller.runs()?,
        "the controller ended because the API server was away"
    );
    cluster.start(Component::ApiServer).await?;
    let until = pause(&paused)
        .and_then(|pause| pause.until)
        .context("a timed pause")?;
    shop.until("v2 is promoted", Duration::from_secs(400), is_stable)
        .await?;
    ensure!(
        Timestamp::now() > until,
        "the pause counted wall-clock time"
    );
    let report = load.stop().await;
    note!("{}", report.summary());
    ensure!(
        report.lost_nothing(),
        "{}\n{:#?}",
        report.summary(),
        report.details
    );
    shop.close().await?;
    controller.stop().await
}
