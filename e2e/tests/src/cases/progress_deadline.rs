//! The progress deadline: progress that was made does not expire later.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use serin_core::units::Weight;
use serin_crds::Rollout;

use super::scaling::with_long_drain;
use crate::env::Env;
use crate::manifests::{self, RolloutOptions, SampleRelease};
use crate::shop::{Shop, is_stable, stop_and_ensure_no_loss, verified_weight};

/// Progress deadline. Long enough for pods to start on a busy machine.
const DEADLINE_SECONDS: u32 = 30;

/// Longer than the progress deadline.
const QUIET: Duration = Duration::from_secs(DEADLINE_SECONDS as u64 + 5);

/// Low enough that an objective of 99.9 % stays undecided.
const LOAD_PER_SECOND: u32 = 20;

/// A Rollout that is paced by evidence, with a weight of 50 % from start to end.
fn paced_at_half(name: &str, release: &SampleRelease) -> Value {
    let spec = RolloutOptions {
        replicas: 4,
        steps: None,
        progress_deadline_seconds: DEADLINE_SECONDS,
        ..RolloutOptions::default()
    };
    let mut rollout = manifests::rollout(name, &spec, release);
    rollout["spec"]["strategy"]["canary"]["pace"] = json!({"firstWeight": 50, "maxWeight": 50});
    with_long_drain(rollout)
}

fn is_at_half(rollout: &Rollout) -> bool {
    verified_weight(rollout) == Some(50.0)
}

/// Applies v2 and waits until it has half of the traffic. Returns its revision.
async fn release_to_half(shop: &Shop, rollout: Value) -> Result<String> {
    shop.apply(rollout).await?;
    let rollout = shop
        .wait_until_unless_aborted("v2 has 50 %", Duration::from_secs(60), is_at_half)
        .await?;
    let revision = rollout
        .status
        .and_then(|status| status.state.current_revision);
    Ok(revision.context("a current revision")?.to_string())
}

/// # Errors
/// If an expectation is not met.
pub async fn replaced_pods_and_added_replicas_do_not_exceed_the_progress_deadline(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-deadline").await?;
    shop.apply(paced_at_half(&shop.name, &SampleRelease::good("v1")))
        .await?;
    shop.wait_until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.wait_until_answering().await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    let canary =
        release_to_half(&shop, paced_at_half(&shop.name, &SampleRelease::good("v2"))).await?;
    shop.ensure_no_abort_for(QUIET).await?;

    // argo-rollouts #1624: replacing a pod long after the last progress must not exceed the
    // deadline.
    let pods = shop.api::<Pod>();
    let of_canary = ListParams::default().labels(&format!("serin.dev/revision={canary}"));
    let deleted = pods
        .list(&of_canary)
        .await?
        .items
        .first()
        .context("a canary pod")?
        .name_any();
    pods.delete(&deleted, &DeleteParams::default()).await?;
    shop.eventually(
        "the canary pod is gone",
        Duration::from_secs(60),
        async || Ok(pods.get_opt(&deleted).await?.is_none()),
    )
    .await?;
    shop.wait_until_available(&canary, 2, Duration::from_secs(60))
        .await?;
    shop.wait_until_unless_aborted("v2 has 50 % again", Duration::from_secs(60), is_at_half)
        .await?;
    shop.ensure_no_abort_for(QUIET).await?;

    // flagger #944: an autoscaler raises `replicas` during a release.
    shop.scale(8).await?;
    shop.wait_until_available(&canary, 4, Duration::from_secs(60))
        .await?;
    shop.wait_until_unless_aborted("v2 still has 50 %", Duration::from_secs(60), is_at_half)
        .await?;
    shop.ensure_no_abort_for(Duration::from_secs(5)).await?;
    let (done, message) = shop.run_command("promoteFull", json!({})).await?;
    ensure!(done, "{message}");
    shop.wait_until_unless_aborted("v2 is stable", Duration::from_secs(90), is_stable)
        .await?;
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// A route with one rule for each of two Rollouts.
fn route_of_two(shop: &Shop, tracking: &Shop) -> Value {
    let mut route = shop.route();
    let rule = json!({
        "matches": [{"path": {"type": "PathPrefix", "value": "/tracking"}}],
        "backendRefs": [{"name": tracking.name, "port": 8080}],
    });
    if let Some(rules) = route["spec"]["rules"].as_array_mut() {
        rules.push(rule);
    }
    route
}

async fn edit_route(shop: &Shop, edit: Value) -> Result<()> {
    let patch = Patch::Json::<()>(serde_json::from_value(edit)?);
    shop.routes()
        .patch(&shop.name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

// rollouts-plugin-trafficrouter-gatewayapi PR #164: each write of one Rollout changes the
// generation of the route for the other one, and GitOps tools reset the weights.
/// # Errors
/// If an expectation is not met.
pub async fn two_rollouts_can_share_a_route(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-one-route").await?;
    let tracking = shop.sibling("tracking");
    shop.apply(route_of_two(&shop, &tracking)).await?;
    let tracking_rollout = |version: &str| {
        let mut rollout = paced_at_half(&tracking.name, &SampleRelease::good(version));
        rollout["spec"]["strategy"]["canary"]["trafficRouting"]["gatewayAPI"] =
            json!({"httpRoute": shop.name});
        rollout
    };
    shop.apply(paced_at_half(&shop.name, &SampleRelease::good("v1")))
        .await?;
    shop.apply(tracking_rollout("v1")).await?;
    shop.wait_until("v1 of shop is stable", Duration::from_secs(90), is_stable)
        .await?;
    tracking
        .wait_until(
            "v1 of tracking is stable",
            Duration::from_secs(90),
            is_stable,
        )
        .await?;
    shop.wait_until_answering().await?;
    shop.wait_until_answered_by("/tracking", |_| true).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    let tracking_load = shop.start_load_on("/tracking", LOAD_PER_SECOND)?;

    release_to_half(&shop, paced_at_half(&shop.name, &SampleRelease::good("v2"))).await?;
    shop.ensure_no_abort_for(QUIET).await?;
    release_to_half(&tracking, tracking_rollout("v2")).await?;
    shop.ensure_no_abort_for(Duration::from_secs(5)).await?;

    let header = json!({"set": [{"name": "x-edited", "value": "yes"}]});
    let filter = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": header}]);
    edit_route(
        &shop,
        json!([{"op": "add", "path": "/spec/rules/1/filters", "value": filter}]),
    )
    .await?;
    shop.ensure_no_abort_for(Duration::from_secs(5)).await?;
    shop.wait_until_unless_aborted(
        "shop's v2 still has 50 %",
        Duration::from_secs(30),
        is_at_half,
    )
    .await?;

    let reset = json!([
        {"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 100},
        {"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 0},
    ]);
    edit_route(&shop, reset).await?;
    shop.eventually(
        "the weights are restored",
        Duration::from_secs(30),
        async || {
            Ok(shop.route_share().await? == Weight::percent(50)
                && !shop.events("RouteDrift").await?.is_empty())
        },
    )
    .await?;
    shop.wait_until_unless_aborted(
        "shop's v2 has 50 % again",
        Duration::from_secs(30),
        is_at_half,
    )
    .await?;
    tracking
        .wait_until_unless_aborted(
            "tracking's v2 has 50 %",
            Duration::from_secs(30),
            is_at_half,
        )
        .await?;

    for rollout in [&shop, &tracking] {
        let (done, message) = rollout.run_command("promoteFull", json!({})).await?;
        ensure!(done, "{message}");
        rollout
            .wait_until_unless_aborted("v2 is stable", Duration::from_secs(90), is_stable)
            .await?;
    }
    let route = shop.routes().get(&shop.name).await?;
    ensure!(
        route.data["spec"]["rules"][1]["filters"].is_array(),
        "the filter of the other rule must be kept"
    );
    stop_and_ensure_no_loss(load).await?;
    stop_and_ensure_no_loss(tracking_load).await?;
    shop.delete().await
}
