//! Complete releases under load.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use serin_core::state::AbortCause;
use serin_core::units::Weight;

use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease, analysis};
use crate::note;
use crate::shop::{Shop, eventually, is_aborted, is_stable, stop_and_ensure_no_loss};

const LOAD_PER_SECOND: u32 = 300;

/// v1 is stable, v2 bad, v3 good, v4 never ready, and v5 in a crash loop. Each ends as expected,
/// and no request is lost in routing.
///
/// # Errors
/// If an expectation is not met.
pub async fn five_releases_under_load_end_as_expected(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-journey").await?;
    let steps = json!([
        {"setWeight": 5}, {"pause": {"duration": "3s"}}, {"setWeight": 20}, {"pause": {"duration": "20s"}},
        {"setWeight": 50}, {"pause": {"duration": "3s"}},
    ]);
    let spec = RolloutOptions {
        replicas: 3,
        steps: Some(steps),
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    eventually(
        "stable has served a thousand requests",
        Duration::from_secs(30),
        async || Ok(load.snapshot().counts.total() > 1_000),
    )
    .await?;

    Box::pin(run_bad_release(&shop, &spec)).await?;
    shop.apply_release(&spec, &SampleRelease::good("v3"))
        .await?;
    shop.wait_until("v3 is promoted", Duration::from_secs(180), is_stable)
        .await?;
    let short_deadline = RolloutOptions {
        progress_deadline_seconds: 10,
        ..spec.clone()
    };
    shop.apply_release(
        &short_deadline,
        &SampleRelease::with_fault("v4", "NEVER_READY", "true"),
    )
    .await?;
    let rollout = shop
        .wait_until("v4 is aborted", Duration::from_secs(60), is_aborted)
        .await?;
    let cause = rollout
        .status
        .and_then(|status| status.state.abort)
        .map(|abort| abort.cause);
    ensure!(cause == Some(AbortCause::ProgressDeadline), "{cause:?}");

    let before_crash = load.elapsed();
    run_crash_loop(&shop, &spec).await?;
    let after_crash = load.elapsed() + Duration::from_secs(3);
    eventually(
        "the load continues after the crash loop",
        Duration::from_secs(20),
        async || Ok(load.elapsed() > after_crash + Duration::from_secs(4)),
    )
    .await?;

    let report = load.stop().await;
    note!("{}", report.summary());
    let lost = report.between(..before_crash).counts().routing_failures();
    ensure!(lost == 0, "{lost} routing failures: {:#?}", report.details);
    ensure!(
        report.all().of_version("v4").counts().total() == 0,
        "v4 was never ready but received a request"
    );
    let by_crash = report
        .between(before_crash..after_crash)
        .counts()
        .routing_failures();
    let after = report.between(after_crash..).counts().routing_failures();
    note!("v5: {by_crash} requests were lost because of its crashes");
    ensure!(after == 0, "{after} routing failures after v5 was aborted");
    ensure!(
        by_crash < 300,
        "{by_crash} requests were lost because of the crashes of v5"
    );
    ensure!(
        report.overruns == 0,
        "the load had {} overruns",
        report.overruns
    );
    shop.delete().await
}

/// v2: 3 % of its requests fail, compared with 0.05 % of stable.
async fn run_bad_release(shop: &Shop, spec: &RolloutOptions) -> Result<()> {
    let first = shop.status().await?.state.stable_revision;
    shop.apply_release(spec, &SampleRelease::failing("v2", "3"))
        .await?;
    let rollout = shop
        .wait_until("v2 is rolled back", Duration::from_secs(120), is_aborted)
        .await?;
    let status = rollout.status.unwrap_or_default();
    let abort = status.state.abort.context("an abort in the status")?;
    let by_evidence = matches!(abort.cause, AbortCause::Evidence | AbortCause::ErrorBudget);
    ensure!(
        by_evidence,
        "the cause must be the evidence, not {}: {}",
        abort.cause,
        abort.message
    );
    ensure!(
        abort.message.contains("canary failed"),
        "the message must have counts: {}",
        abort.message
    );
    ensure!(status.state.stable_revision == first, "v1 must stay stable");
    shop.eventually(
        "the Event has the same reason",
        Duration::from_secs(5),
        async || {
            Ok(shop
                .events("RolledBack")
                .await?
                .iter()
                .any(|note| note.contains("canary failed")))
        },
    )
    .await?;
    wait_until_canary_has_no_weight(shop).await?;
    note!("v2: {}", abort.message);
    for evidence in &status.evidence {
        let spent = evidence.budget_spent.unwrap_or_default();
        let allotment = evidence.budget_allotment.unwrap_or_default();
        note!("v2: spent {spent:.1} of {allotment:.0} allotted errors");
        ensure!(spent <= allotment, "v2 exceeded its allotment");
    }
    Ok(())
}

/// v5: each pod crashes after 400 requests.
async fn run_crash_loop(shop: &Shop, spec: &RolloutOptions) -> Result<()> {
    let release = SampleRelease::with_fault("v5", "CRASH_AFTER_REQUESTS", "400");
    let mut object = shop.rollout_manifest(spec, &release);
    // Abort after the first restart, and without metrics, so that only the pod status matters.
    object["spec"]["strategy"]["canary"]["podRestartLimit"] = json!(1);
    remove_field(&mut object["spec"], "analysis");
    shop.apply(object).await?;
    let rollout = shop
        .wait_until("v5 is aborted", Duration::from_secs(120), is_aborted)
        .await?;
    let abort = rollout
        .status
        .and_then(|status| status.state.abort)
        .context("an abort in the status")?;
    note!("v5: {}: {}", abort.cause, abort.message);
    ensure!(
        abort.cause == AbortCause::PodCrash,
        "the cause must be the crash of pods: {}",
        abort.message
    );
    wait_until_canary_has_no_weight(shop).await
}

fn remove_field(object: &mut serde_json::Value, field: &str) {
    if let Some(object) = object.as_object_mut() {
        object.remove(field);
    }
}

async fn wait_until_canary_has_no_weight(shop: &Shop) -> Result<()> {
    shop.eventually(
        "the canary has no weight in the route",
        Duration::from_secs(5),
        async || Ok(shop.route_share().await? == Weight::ZERO),
    )
    .await
}

/// A Rollout without steps: the evidence raises the weight and leads to promotion.
///
/// # Errors
/// If an expectation is not met.
pub async fn a_release_without_steps_is_paced_by_evidence(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-evidence").await?;
    let mut analysis = analysis();
    // With an objective of 95 %, few requests are enough for a verdict.
    analysis["objectives"][0]["objective"] = json!(95);
    let spec = RolloutOptions {
        steps: None,
        analysis: Some(analysis),
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    shop.wait_until("v2 is promoted", Duration::from_secs(400), is_stable)
        .await?;
    let raised = shop.events("WeightRaised").await?;
    ensure!(!raised.is_empty(), "the evidence must raise the weight");
    shop.apply_release(&spec, &SampleRelease::failing("v3", "40"))
        .await?;
    let rollout = shop
        .wait_until("v3 is rolled back", Duration::from_secs(120), is_aborted)
        .await?;
    note!(
        "{}",
        rollout
            .status
            .map(|status| status.state.message)
            .unwrap_or_default()
    );
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// Without a router, weights are approximated by replica counts.
///
/// # Errors
/// If an expectation is not met.
pub async fn a_release_without_a_router(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-unrouted").await?;
    let steps = json!([{"setWeight": 30}, {"pause": {}}]);
    let spec = RolloutOptions {
        replicas: 4,
        steps: Some(steps),
        analysis: None,
        ..RolloutOptions::default()
    };
    let mut object = crate::manifests::rollout(&shop.name, &spec, &SampleRelease::good("v1"));
    for routed in [
        "trafficRouting",
        "scaleDownDelaySeconds",
        "abortScaleDownDelaySeconds",
    ] {
        remove_field(&mut object["spec"]["strategy"]["canary"], routed);
    }
    shop.apply(object.clone()).await?;
    shop.wait_until("v1 is stable", Duration::from_secs(60), is_stable)
        .await?;
    object["spec"]["template"] = crate::manifests::template(&shop.name, &SampleRelease::good("v2"));
    shop.apply(object).await?;
    let paused = |rollout: &serin_crds::Rollout| {
        rollout
            .status
            .as_ref()
            .is_some_and(|status| status.state.pause.is_some())
    };
    shop.wait_until("paused", Duration::from_secs(60), paused)
        .await?;
    let mut counts: Vec<i32> = shop.desired_replicas().await?.into_values().collect();
    counts.sort_unstable();
    ensure!(counts == [1, 3], "30 % of 4 pods: {counts:?}");
    let (done, message) = shop.run_command("promote", json!({})).await?;
    ensure!(done, "{message}");
    shop.wait_until("v2 is promoted", Duration::from_secs(90), is_stable)
        .await?;
    shop.delete().await
}
