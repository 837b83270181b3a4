//! Analysis beyond objectives: checks, the latency guard, the bake time and the error budget of the
//! service.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use serin_core::state::AbortCause;
use serin_crds::Rollout;
use serin_crds::status::CheckOutcome;

use super::commands::run_plugin;
use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease, analysis};
use crate::note;
use crate::shop::{Shop, is_aborted, is_stable, stop_and_ensure_no_loss};

const LOAD_PER_SECOND: u32 = 150;

/// The average request duration of the canary pods from their own metrics.
const MEAN_SECONDS: &str = concat!(
    "sum(rate(http_request_duration_seconds_sum{namespace=\"{{args.namespace}}\",pod=~\"{{args.canaryReplicaSet}}-.*\"}[5s]))",
    " / ",
    "sum(rate(http_request_duration_seconds_count{namespace=\"{{args.namespace}}\",pod=~\"{{args.canaryReplicaSet}}-.*\"}[5s]))",
);

/// The cause and the message of the abort in the status.
async fn abort_cause(shop: &Shop) -> Result<(AbortCause, String)> {
    let abort = shop
        .status()
        .await?
        .state
        .abort
        .context("an abort in the status")?;
    Ok((abort.cause, abort.message.into()))
}

/// # Errors
/// If an expectation is not met.
pub async fn a_failing_check_rolls_back_a_release_that_meets_its_objective(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-checks").await?;
    let mut analysis = analysis();
    analysis["checks"] = json!([
        {"name": "mean-latency", "query": MEAN_SECONDS, "condition": "result[0] < 0.05", "interval": "2s", "failureLimit": 1},
        {"name": "never-so", "query": "vector(1)", "condition": "result[0] > 1.0", "interval": "2s", "dryRun": true},
    ]);
    let spec = RolloutOptions {
        analysis: Some(analysis),
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;

    shop.apply_release(&spec, &SampleRelease::with_fault("v2", "LATENCY_MS", "100"))
        .await?;
    shop.wait_until(
        "the slow v2 is rolled back",
        Duration::from_secs(120),
        is_aborted,
    )
    .await?;
    let (cause, message) = abort_cause(&shop).await?;
    ensure!(
        message.contains("mean-latency"),
        "the message must name the check: {cause}: {message}"
    );
    note!("{cause}: {message}");

    shop.apply_release(&spec, &SampleRelease::good("v3"))
        .await?;
    let stable = shop
        .wait_until("v3 is stable", Duration::from_secs(120), is_stable)
        .await?;
    let status = stable.status.context("a status")?;
    let check = |name: &str| status.checks.iter().find(|check| check.name == name);
    note!("{:#?}", status.checks);
    ensure!(
        check("never-so").is_some_and(|check| check.failures > 0),
        "the status must have the dry run: {:?}",
        status.checks
    );

    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

// argo-rollouts PR #4864 (#3258), Kayenta's `beginAfterMins`: a threshold that a warm process meets
// fails in its first seconds. The value of the query grows with time, like the hit rate of a cache.
/// # Errors
/// If an expectation is not met.
pub async fn a_check_starts_after_its_delay_and_the_warm_up(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-delay").await?;
    let steps = json!([{"setWeight": 50}, {"pause": {"duration": "40s"}}]);
    let spec = |warm_up: &str, delay: Option<&str>| {
        let mut analysis = analysis();
        analysis["warmUp"] = json!(warm_up);
        analysis["checks"] = json!([{
            "name": "cache", "interval": "2s", "condition": "result[0] > 200.0",
            "query": "sum(http_requests_total{namespace=\"{{args.namespace}}\",pod=~\"{{args.canaryReplicaSet}}-.*\"})",
        }]);
        if let Some(delay) = delay {
            analysis["checks"][0]["initialDelay"] = json!(delay);
        }
        RolloutOptions {
            steps: Some(steps.clone()),
            analysis: Some(analysis),
            ..RolloutOptions::default()
        }
    };
    shop.deploy_first(&spec("5s", None), &SampleRelease::good("v1"))
        .await?;
    // The canary gets 30 requests per second, so 200 after 7 s. The delays are more than three
    // times as long.
    let load = shop.start_load(60)?;
    for (version, warm_up, delay) in [("v2", "5s", Some("25s")), ("v3", "25s", None)] {
        shop.apply_release(&spec(warm_up, delay), &SampleRelease::good(version))
            .await?;
        let has_succeeded = |rollout: &Rollout| {
            let mut checks = rollout.status.iter().flat_map(|status| &status.checks);
            checks.any(|check| check.result == CheckOutcome::Succeeded)
        };
        let what = format!("the check of {version} succeeds");
        let rollout = shop
            .wait_until_unless_aborted(&what, Duration::from_secs(120), has_succeeded)
            .await?;
        let checks = rollout
            .status
            .map(|status| status.checks)
            .unwrap_or_default();
        ensure!(
            checks.iter().all(|check| check.failures == 0),
            "the check ran before the end of the delay: {checks:?}"
        );
        shop.wait_until_unless_aborted(
            &format!("{version} is stable"),
            Duration::from_secs(120),
            is_stable,
        )
        .await?;
    }

    // A check that fails after its delay still rolls back.
    let mut failing = spec("5s", Some("5s"));
    if let Some(analysis) = &mut failing.analysis {
        analysis["checks"][0]["condition"] = json!("result[0] < 1.0");
    }
    shop.apply_release(&failing, &SampleRelease::good("v4"))
        .await?;
    shop.wait_until(
        "v4 is aborted by its check",
        Duration::from_secs(120),
        is_aborted,
    )
    .await?;
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// # Errors
/// If an expectation is not met.
pub async fn the_latency_guard_holds_a_slower_canary_below_the_threshold(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-guard").await?;
    let mut analysis = analysis();
    let counters = json!({"total": format!("http_request_duration_seconds_count{{namespace=\"{}\"}}", shop.namespace)});
    analysis["objectives"] = json!([{
        "name": "latency", "objective": 99.0, "counters": counters,
        "latency": {"threshold": "1s", "guard": "Hold"},
    }]);
    let spec = RolloutOptions {
        analysis: Some(analysis),
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    let stable = shop.status().await?.state.stable_revision;

    shop.apply_release(&spec, &SampleRelease::with_fault("v2", "LATENCY_MS", "30"))
        .await?;
    let acts = |rollout: &Rollout| {
        let evidence = rollout
            .status
            .iter()
            .flat_map(|status| status.evidence.clone());
        let mut guards = evidence.filter_map(|evidence| evidence.latency_guard);
        guards.any(|guard| guard.threshold.is_some() && guard.e_value >= guard.threshold)
    };
    shop.wait_until(
        "the latency guard exceeds its threshold",
        Duration::from_secs(120),
        acts,
    )
    .await?;
    let (code, text) = run_plugin(env, &shop, "kubectl-serin", &["explain", "shop"]).await?;
    ensure!(code == 0 && text.contains("Held (LatencyGuard)"), "{text}");
    ensure!(
        shop.status().await?.state.stable_revision == stable,
        "a slower release was promoted"
    );

    shop.apply_release(&spec, &SampleRelease::good("v3"))
        .await?;
    shop.wait_until("v3 is stable", Duration::from_secs(120), is_stable)
        .await?;
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// # Errors
/// If an expectation is not met.
pub async fn a_breach_during_bake_time_rolls_back(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-bake").await?;
    let mut analysis = analysis();
    analysis["bakeTime"] = json!("120s");
    let baked = RolloutOptions {
        analysis: Some(analysis),
        ..RolloutOptions::default()
    };
    shop.deploy_first(&baked, &SampleRelease::good("v1"))
        .await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    let stable = shop.status().await?.state.stable_revision;

    // It starts to fail long after its steps, during the bake time.
    let late = SampleRelease {
        version: "v2".into(),
        faults: vec![
            ("ERROR_RATE", "5".into()),
            ("ERROR_AFTER_MS", "90000".into()),
        ],
    };
    shop.apply_release(&baked, &late).await?;
    let begun = |rollout: &Rollout| {
        let status = rollout.status.as_ref();
        is_aborted(rollout) || status.is_some_and(|status| status.state.bake.is_some())
    };
    let baking = shop
        .wait_until("the bake time starts", Duration::from_secs(120), begun)
        .await?;
    ensure!(
        !is_aborted(&baking),
        "rolled back before the fault: {:?}",
        baking.status
    );
    ensure!(
        shop.status().await?.state.stable_revision == stable,
        "v2 must not be stable during its bake time"
    );
    shop.wait_until("v2 is rolled back", Duration::from_secs(120), is_aborted)
        .await?;
    let (cause, message) = abort_cause(&shop).await?;
    note!("{cause}: {message}");
    // The status is written before the route.
    let no_weight = async || Ok(shop.route_share().await?.is_zero());
    shop.eventually(
        "the traffic is back on v1",
        Duration::from_secs(10),
        no_weight,
    )
    .await?;
    ensure!(
        shop.status().await?.state.stable_revision == stable,
        "v1 must still be stable"
    );

    // A good release completes its bake time.
    let mut analysis = baked.analysis.clone().context("an analysis")?;
    analysis["bakeTime"] = json!("10s");
    let baked = RolloutOptions {
        analysis: Some(analysis),
        ..RolloutOptions::default()
    };
    shop.apply_release(&baked, &SampleRelease::good("v3"))
        .await?;
    shop.wait_until("v3 is stable", Duration::from_secs(120), is_stable)
        .await?;
    let notes = shop.events("Baking").await?;
    ensure!(
        notes.iter().any(|note| note.contains("10 s")),
        "an Event must report the bake time: {notes:?}"
    );

    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// # Errors
/// If an expectation is not met.
pub async fn an_exhausted_error_budget_freezes_releases_until_an_override(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-budget").await?;
    let mut analysis = analysis();
    // The shortest window: 540 errors at 150 requests per second, exhausted within 30 s.
    analysis["objectives"][0]["window"] = json!("1h");
    let spec = RolloutOptions {
        analysis: Some(analysis),
        progress_deadline_seconds: 600,
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::failing("v1", "20"))
        .await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    let history = Duration::from_secs(30);
    shop.eventually("the service has failed for 30 s", history * 2, async || {
        Ok(load.elapsed() > history)
    })
    .await?;

    // As bad as stable: there is no evidence for or against it.
    shop.apply_release(&spec, &SampleRelease::failing("v2", "20"))
        .await?;
    let frozen = |rollout: &Rollout| {
        let mut conditions = rollout
            .status
            .iter()
            .flat_map(|status| status.conditions.clone());
        conditions.find(|condition| condition.type_ == "Frozen" && condition.status == "True")
    };
    let held = shop
        .wait_until("v2 is frozen", Duration::from_secs(120), |rollout| {
            frozen(rollout).is_some()
        })
        .await?;
    note!(
        "{}",
        frozen(&held)
            .map(|condition| condition.message)
            .unwrap_or_default()
    );
    let (code, text) = run_plugin(env, &shop, "kubectl-serin", &["override", "shop"]).await?;
    ensure!(
        code != 0,
        "an override without a reason must be refused: {text}"
    );
    let (code, text) = run_plugin(
        env,
        &shop,
        "kubectl-serin",
        &["override", "shop", "--reason", "the shop opens at noon"],
    )
    .await?;
    ensure!(code == 0, "{text}");
    shop.wait_until("v2 is stable", Duration::from_secs(180), is_stable)
        .await?;
    let notes = shop.events("FreezeLifted").await?;
    ensure!(
        notes
            .iter()
            .any(|note| note.contains("the shop opens at noon")),
        "the Event must have the reason: {notes:?}"
    );

    // A release that fixes the service does not need an override.
    shop.apply_release(&spec, &SampleRelease::good("v3"))
        .await?;
    shop.wait_until(
        "v3, which fixes the service, is stable",
        Duration::from_secs(180),
        is_stable,
    )
    .await?;
    ensure!(
        shop.events("FreezeLifted").await?.len() == 1,
        "the fix must not need an override"
    );

    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}
