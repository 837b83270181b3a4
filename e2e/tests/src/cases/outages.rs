//! Outages of the controller, of Prometheus and of the API server.

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

use crate::controller::{Controller, ControllerOptions, ControllerScope};
use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::note;
use crate::shop::{Shop, eventually, is_stable, stop_and_ensure_no_loss, verified_weight};

const LOAD_PER_SECOND: u32 = 300;

fn options(name: &str, port: u16, election: Option<&str>) -> ControllerOptions {
    ControllerOptions {
        name: name.to_owned(),
        port,
        election: election.map(str::to_owned),
    }
}

/// # Errors
/// If an expectation is not met.
pub async fn a_controller_killed_at_random_moments_completes_releases(env: &Env) -> Result<()> {
    let kills = std::env::var("SERIN_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(8);
    Box::pin(kill_controllers(env, kills)).await
}

/// Runs releases while the controller is killed `kills` times at random moments. Each release must
/// end as without a kill.
///
/// # Errors
/// If a release does not complete, a pause restarts, a step is skipped, or a request is lost.
pub async fn kill_controllers(env: &Env, kills: u32) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-kills").await?;
    let controller_options = options("kills", 18_181, None);
    let scope = ControllerScope {
        manages_only: Some(shop.namespace.clone()),
        ..ControllerScope::default()
    };
    let mut controller = Controller::start_with_scope(env, &controller_options, &scope)?;
    controller.wait_until_ready().await?;
    let steps = json!([{"setWeight": 20}, {"pause": {"duration": "6s"}}, {"setWeight": 60}, {"pause": {"duration": "6s"}}]);
    let spec = RolloutOptions {
        steps: Some(steps),
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    let mut killed = 0;
    let mut version = 1;
    while killed < kills {
        version += 1;
        let pauses = tokio::spawn(observe_pauses(&shop));
        shop.apply_release(&spec, &SampleRelease::good(&format!("v{version}")))
            .await?;
        let deadline = Instant::now() + Duration::from_secs(180);
        loop {
            let wait = Duration::from_millis(rand::rng().random_range(200..6_000));
            tokio::time::sleep(wait).await;
            let rollout = shop.rollout().await?;
            if is_stable(&rollout) {
                break;
            }
            let message = rollout.status.map(|status| status.state.message);
            ensure!(
                Instant::now() < deadline,
                "v{version} does not end: {message:?}"
            );
            if killed < kills {
                controller.kill().await?;
                killed += 1;
                controller = Controller::start_with_scope(env, &controller_options, &scope)?;
                controller.wait_until_ready().await?;
            }
        }
        let observed = pauses.await??;
        let steps: Vec<usize> = observed.iter().map(|(step, _)| *step).collect();
        ensure!(
            steps == [1, 3],
            "v{version}: each pause must occur once and keep its end: {observed:?}"
        );
        note!("v{version}: promoted; {killed} kills so far");
    }
    let report = load.stop().await;
    note!("{}", report.summary());
    ensure!(
        report.has_no_losses(),
        "{}\n{:#?}",
        report.summary(),
        report.details
    );
    shop.delete().await?;
    controller.stop().await
}

/// Collects the pauses in the status of the next release with their step and end, until the release
/// is complete. A pause whose end changes is listed twice.
fn observe_pauses(
    shop: &Shop,
) -> impl Future<Output = Result<Vec<(usize, Option<Timestamp>)>>> + Send + use<> {
    let changes = watcher(shop.api::<Rollout>(), watcher::Config::default())
        .default_backoff()
        .applied_objects();
    async move {
        let mut changes = std::pin::pin!(changes);
        let (mut observed, mut has_begun) = (Vec::new(), false);
        while let Some(rollout) = changes.try_next().await? {
            has_begun |= !is_stable(&rollout);
            if has_begun && is_stable(&rollout) {
                break;
            }
            let status = rollout.status.unwrap_or_default();
            if let (Some(step), Some(pause)) = (&status.state.step, &status.state.pause) {
                let pause = (step.index, pause.until);
                if !observed.contains(&pause) {
                    observed.push(pause);
                }
            }
        }
        Ok(observed)
    }
}

/// # Errors
/// If an expectation is not met.
pub async fn the_standby_takes_over_when_the_leader_stops(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-election").await?;
    let election = Some(shop.namespace.as_str());
    let mut first = Controller::start(env, &options("first", 18_182, election))?;
    first.wait_until_ready().await?;
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
        "the first controller holds the Lease",
        Duration::from_secs(20),
        async || Ok(holder().await?.is_some()),
    )
    .await?;
    let leader = holder().await?;
    let mut second = Controller::start(env, &options("second", 18_183, election))?;
    second.wait_until_ready().await?;
    let steps = json!([{"setWeight": 50}, {"pause": {}}]);
    let spec = RolloutOptions {
        steps: Some(steps),
        analysis: None,
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;

    let killed_at = Instant::now();
    first.kill().await?;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    let is_observed = |rollout: &Rollout| {
        rollout.status.as_ref().is_some_and(|status| {
            Some(status.state.observed_generation) == rollout.metadata.generation
        })
    };
    shop.wait_until(
        "the standby observes the new generation",
        Duration::from_secs(20),
        is_observed,
    )
    .await?;
    let after_kill = killed_at.elapsed();
    ensure!(
        holder().await? != leader,
        "the Lease must have another holder"
    );
    note!(
        "the standby took over {:.2} s after kill -9",
        after_kill.as_secs_f64()
    );
    ensure!(
        after_kill < Duration::from_secs(3),
        "the standby took {after_kill:?}, expected less than 2 s for the takeover and 1 s to act"
    );

    let mut third = Controller::start(env, &options("third", 18_184, election))?;
    third.wait_until_ready().await?;
    shop.wait_until("v2 waits", Duration::from_secs(60), |rollout| {
        verified_weight(rollout) == Some(50.0)
    })
    .await?;
    let stopped_at = Instant::now();
    second.stop().await?;
    shop.apply_release(&spec, &SampleRelease::good("v3"))
        .await?;
    shop.wait_until(
        "the next controller observes the new generation",
        Duration::from_secs(20),
        is_observed,
    )
    .await?;
    note!(
        "the next controller took over {:.2} s after a clean stop",
        stopped_at.elapsed().as_secs_f64()
    );
    ensure!(
        stopped_at.elapsed() < Duration::from_secs(3),
        "a clean stop took {:?}",
        stopped_at.elapsed()
    );
    shop.delete().await?;
    third.stop().await
}

/// # Errors
/// If an expectation is not met.
pub async fn a_prometheus_outage_holds_the_release(env: &Env) -> Result<()> {
    let cluster = env
        .cluster
        .as_ref()
        .context("faults can be injected into the local cluster only")?;
    let shop = Shop::create(env, "serin-e2e-prometheus").await?;
    let mut controller = Controller::start(env, &options("prometheus", 18_185, None))?;
    controller.wait_until_ready().await?;
    let spec = RolloutOptions::default();
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    cluster.suspend(Component::Prometheus)?;
    let stable = shop.status().await?.state.stable_revision;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    let is_reported = |rollout: &Rollout| {
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
        .wait_until(
            "MetricsReady is False",
            Duration::from_secs(60),
            is_reported,
        )
        .await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let status = shop.status().await?;
    // Resume Prometheus in any case, because the next case needs it.
    cluster.resume_component(Component::Prometheus)?;
    held?;
    ensure!(
        status.state.stable_revision == stable,
        "promoted without metrics"
    );
    shop.wait_until(
        "v2 is promoted after the outage",
        Duration::from_secs(120),
        is_stable,
    )
    .await?;
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await?;
    controller.stop().await
}

/// # Errors
/// If an expectation is not met.
pub async fn the_controller_survives_an_api_server_outage(env: &Env) -> Result<()> {
    let cluster = env
        .cluster
        .as_ref()
        .context("faults can be injected into the local cluster only")?;
    let away = Duration::from_secs(60);
    let shop = Shop::create(env, "serin-e2e-api").await?;
    let mut controller = Controller::start(env, &options("api", 18_186, None))?;
    controller.wait_until_ready().await?;
    let steps = json!([{"setWeight": 20}, {"pause": {"duration": "30s"}}, {"setWeight": 50}, {"pause": {"duration": "3s"}}]);
    let spec = RolloutOptions {
        steps: Some(steps),
        progress_deadline_seconds: 600,
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    shop.wait_until("v2 at 20 %", Duration::from_secs(60), |rollout| {
        verified_weight(rollout) == Some(20.0)
    })
    .await?;
    let pause = |rollout: &Rollout| {
        rollout
            .status
            .as_ref()
            .and_then(|status| status.state.pause.clone())
    };
    let paused = shop
        .wait_until("paused", Duration::from_secs(10), |rollout| {
            pause(rollout).is_some()
        })
        .await?;
    cluster.kill(Component::ApiServer).await?;
    tokio::time::sleep(away).await;
    ensure!(
        controller.is_running()?,
        "the controller ended because the API server was away"
    );
    cluster.start(Component::ApiServer).await?;
    let until = pause(&paused)
        .and_then(|pause| pause.until)
        .context("a timed pause")?;
    shop.wait_until("v2 is promoted", Duration::from_secs(400), is_stable)
        .await?;
    ensure!(
        Timestamp::now() > until,
        "the release was promoted before the end of its pause"
    );
    let report = load.stop().await;
    note!("{}", report.summary());
    ensure!(
        report.has_no_losses(),
        "{}\n{:#?}",
        report.summary(),
        report.details
    );
    shop.delete().await?;
    controller.stop().await
}
