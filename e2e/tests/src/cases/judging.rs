//! What is judged beside the objectives, and when: checks, the watch after promotion, the service's
//! error budget.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use serin_crds::Rollout;

use super::commands::kubectl;
use crate::env::Env;
use crate::manifests::{Release, Spec, analysis};
use crate::note;
use crate::shop::{Shop, is_aborted, is_stable, stop_without_loss};

const LOAD_PER_SECOND: u32 = 150;

/// How long the canary's pods take for a request on average, as they count it themselves.
const MEAN_SECONDS: &str = concat!(
    "sum(rate(http_request_duration_seconds_sum{namespace=\"{{args.namespace}}\",pod=~\"{{args.canaryReplicaSet}}-.*\"}[5s]))",
    " / ",
    "sum(rate(http_request_duration_seconds_count{namespace=\"{{args.namespace}}\",pod=~\"{{args.canaryReplicaSet}}-.*\"}[5s]))",
);

/// The cause of the abort on record.
async fn cause(shop: &Shop) -> Result<(String, String)> {
    let abort = shop.status().await?.abort.context("an abort on record")?;
    Ok((abort.cause, abort.message))
}

/// # Errors
/// When something is not as promised.
pub async fn a_failing_check_rolls_back_what_the_objective_lets_pass(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-checks").await?;
    let mut analysis = analysis();
    analysis["checks"] = json!([
        {"name": "mean-latency", "query": MEAN_SECONDS, "condition": "result[0] < 0.05", "interval": "2s", "failureLimit": 1},
        {"name": "never-so", "query": "vector(1)", "condition": "result[0] > 1.0", "interval": "2s", "dryRun": true},
    ]);
    let spec = Spec {
        analysis: Some(analysis),
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;

    shop.declare(&spec, &Release::with("v2", "LATENCY_MS", "100"))
        .await?;
    shop.until(
        "the slow v2 is rolled back",
        Duration::from_secs(120),
        is_aborted,
    )
    .await?;
    let (cause, message) = cause(&shop).await?;
    ensure!(
        message.contains("mean-latency"),
        "the check is named: {cause}: {message}"
    );
    note!("{cause}: {message}");

    shop.declare(&spec, &Release::good("v3")).await?;
    let stable = shop
        .until("v3 is stable", Duration::from_secs(120), is_stable)
        .await?;
    let status = stable.status.context("a status")?;
    let told = |name: &str| status.checks.iter().find(|check| check.name == name);
    note!("{:#?}", status.checks);
    ensure!(
        told("never-so").is_some_and(|check| check.failures > 0),
        "a dry run is told: {:?}",
        status.checks
    );

    stop_without_loss(load).await?;
    shop.close().await
}

// argo-rollouts PR #4864 (#3258), Kayenta's `beginAfterMins`: a threshold that holds for a warm
// process fails in its first seconds. The query grows with age, as a cache fills.
/// # Errors
/// If a promise is not kept.
pub async fn a_check_begins_after_its_delay_and_after_the_warm_up(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-delay").await?;
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
        Spec {
            steps: Some(steps.clone()),
            analysis: Some(analysis),
            ..Spec::default()
        }
    };
    shop.first(&spec("5s", None), &Release::good("v1")).await?;
    // The canary gets 30 requests a second: 200 after 7 s, and the delays leave three times that.
    let load = shop.load(60)?;
    for (version, warm_up, delay) in [("v2", "5s", Some("25s")), ("v3", "25s", None)] {
        shop.declare(&spec(warm_up, delay), &Release::good(version))
            .await?;
        let asked = |rollout: &Rollout| {
            let mut checks = rollout.status.iter().flat_map(|status| &status.checks);
            checks.any(|check| check.result == "Succeeded")
        };
        let what = format!("the check of {version} succeeds");
        let rollout = shop
            .until_unless_aborted(&what, Duration::from_secs(120), asked)
            .await?;
        let checks = rollout
            .status
            .map(|status| status.checks)
            .unwrap_or_default();
        ensure!(
            checks.iter().all(|check| check.failures == 0),
            "it counted against a young canary: {checks:?}"
        );
        shop.until_unless_aborted(
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
    shop.declare(&failing, &Release::good("v4")).await?;
    shop.until(
        "v4 is aborted by its check",
        Duration::from_secs(120),
        is_aborted,
    )
    .await?;
    stop_without_loss(load).await?;
    shop.close().await
}

/// # Errors
/// When something is not as promised.
pub async fn a_canary_that_keeps_its_threshold_and_is_slower_is_held_by_the_latency_guard(
    env: &Env,
) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-guard").await?;
    let mut analysis = analysis();
    let counters = json!({"total": format!("http_request_duration_seconds_count{{namespace=\"{}\"}}", shop.namespace)});
    analysis["objectives"] = json!([{
        "name": "latency", "objective": 99.0, "counters": counters,
        "latency": {"threshold": "1s", "guard": "Hold"},
    }]);
    let spec = Spec {
        analysis: Some(analysis),
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    let stable = shop.status().await?.stable_revision;

    shop.declare(&spec, &Release::with("v2", "LATENCY_MS", "30"))
        .await?;
    let acts = |rollout: &Rollout| {
        let evidence = rollout
            .status
            .iter()
            .flat_map(|status| status.evidence.clone());
        let mut guards = evidence.filter_map(|evidence| evidence.latency_guard);
        guards.any(|guard| guard.threshold.is_some() && guard.e_value >= guard.threshold)
    };
    shop.until("the guard acts", Duration::from_secs(120), acts)
        .await?;
    let (code, text) = kubectl(env, &shop, "kubectl-serin", &["explain", "shop"]).await?;
    ensure!(code == 0 && text.contains("Held (LatencyGuard)"), "{text}");
    ensure!(
        shop.status().await?.stable_revision == stable,
        "a slower release was promoted"
    );

    shop.declare(&spec, &Release::good("v3")).await?;
    shop.until("v3 is stable", Duration::from_secs(120), is_stable)
        .await?;
    stop_without_loss(load).await?;
    shop.close().await
}

/// # Errors
/// When something is not as promised.
pub async fn a_breach_in_the_watch_gives_the_traffic_back(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-watch").await?;
    let mut analysis = analysis();
    analysis["bakeTime"] = json!("120s");
    let watched = Spec {
        analysis: Some(analysis),
        ..Spec::default()
    };
    shop.first(&watched, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    let stable = shop.status().await?.stable_revision;

    // It begins to fail long after its steps, in the watch.
    let late = Release {
        version: "v2".into(),
        faults: vec![
            ("ERROR_RATE", "5".into()),
            ("ERROR_AFTER_MS", "90000".into()),
        ],
    };
    shop.declare(&watched, &late).await?;
    let begun = |rollout: &Rollout| {
        let status = rollout.status.as_ref();
        is_aborted(rollout) || status.is_some_and(|status| status.bake.is_some())
    };
    let watching = shop
        .until("it is watched", Duration::from_secs(120), begun)
        .await?;
    ensure!(
        !is_aborted(&watching),
        "rolled back before its fault: {:?}",
        watching.status
    );
    ensure!(
        shop.status().await?.stable_revision == stable,
        "what is watched is not stable yet"
    );
    shop.until("v2 is rolled back", Duration::from_secs(120), is_aborted)
        .await?;
    let (cause, message) = cause(&shop).await?;
    note!("{cause}: {message}");
    // The status is written first.
    let given_back = async || Ok(shop.route_share().await?.is_zero());
    shop.eventually(
        "the traffic is given back",
        Duration::from_secs(10),
        given_back,
    )
    .await?;
    ensure!(
        shop.status().await?.stable_revision == stable,
        "v1 is stable still"
    );

    // A good release is watched to the end.
    let mut analysis = watched.analysis.clone().context("an analysis")?;
    analysis["bakeTime"] = json!("10s");
    let watched = Spec {
        analysis: Some(analysis),
        ..Spec::default()
    };
    shop.declare(&watched, &Release::good("v3")).await?;
    shop.until("v3 is stable", Duration::from_secs(120), is_stable)
        .await?;
    let told = shop.events("Watching").await?;
    ensure!(
        told.iter().any(|note| note.contains("10 s")),
        "the watch is told: {told:?}"
    );

    stop_without_loss(load).await?;
    shop.close().await
}

/// # Errors
/// When something is not as promised.
pub async fn a_spent_budget_freezes_releases_until_someone_overrides(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-budget").await?;
    let mut analysis = analysis();
    // The shortest there is: 540 errors at 150 requests a second, spent within half a minute.
    analysis["objectives"][0]["window"] = json!("1h");
    let spec = Spec {
        analysis: Some(analysis),
        progress_deadline_seconds: 600,
        ..Spec::default()
    };
    shop.first(&spec, &Release::failing("v1", "20")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    let history = Duration::from_secs(30);
    shop.eventually("it has failed for a while", history * 2, async || {
        Ok(load.elapsed() > history)
    })
    .await?;

    // As bad as stable, and no worse: nothing speaks for it, nothing against it.
    shop.declare(&spec, &Release::failing("v2", "20")).await?;
    let frozen = |rollout: &Rollout| {
        let mut conditions = rollout
            .status
            .iter()
            .flat_map(|status| status.conditions.clone());
        conditions.find(|condition| condition.type_ == "Frozen" && condition.status == "True")
    };
    let held = shop
        .until("v2 is frozen", Duration::from_secs(120), |rollout| {
            frozen(rollout).is_some()
        })
        .await?;
    note!(
        "{}",
        frozen(&held)
            .map(|condition| condition.message)
            .unwrap_or_default()
    );
    let (code, text) = kubectl(env, &shop, "kubectl-serin", &["override", "shop"]).await?;
    ensure!(code != 0, "an override without a reason is refused: {text}");
    let (code, text) = kubectl(
        env,
        &shop,
        "kubectl-serin",
        &["override", "shop", "--reason", "the shop opens at noon"],
    )
    .await?;
    ensure!(code == 0, "{text}");
    shop.until("v2 is stable", Duration::from_secs(180), is_stable)
        .await?;
    let told = shop.events("FreezeLifted").await?;
    ensure!(
        told.iter()
            .any(|note| note.contains("the shop opens at noon")),
        "who and why are told: {told:?}"
    );

    // The cure needs nobody's word.
    shop.declare(&spec, &Release::good("v3")).await?;
    shop.until(
        "v3, the cure, is stable",
        Duration::from_secs(180),
        is_stable,
    )
    .await?;
    ensure!(
        shop.events("FreezeLifted").await?.len() == 1,
        "nobody had to lift the freeze for the cure"
    );

    stop_without_loss(load).await?;
    shop.close().await
}
