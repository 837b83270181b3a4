//! A smoke test by a request and by a real Job before the first traffic, and a gate.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_core::state::AbortCause;
use serin_crds::Rollout;
use serin_crds::names::ROLLOUT_LABEL;

use crate::env::Env;
use crate::manifests::{self, RolloutOptions, SampleRelease};
use crate::note;
use crate::shop::{Shop, gateway, is_aborted, is_stable, stop_and_ensure_no_loss};

const PATIENCE: Duration = Duration::from_secs(120);

/// The Rollout, whose new revisions are tested by a request through `url` and by a Job.
fn rollout(shop: &Shop, url: &str, release: &SampleRelease) -> Value {
    let test = SampleRelease::with_fault("test", "SMOKE_TEST", "$(SHOP_CANARY_SERVICE_HOST):8080");
    let mut pod = manifests::template("smoke-test", &test)["spec"].take();
    for field in ["ports", "readinessProbe"] {
        if let Some(container) = pod["containers"][0].as_object_mut() {
            container.remove(field);
        }
    }
    let spec = RolloutOptions {
        steps: Some(json!([
            {"setCanaryScale": {"replicas": 1}},
            {"analysis": {"checks": ["answers", "smoke-test"]}},
            {"setCanaryScale": {"matchTrafficWeight": true}},
            {"setWeight": 50},
            {"gate": {"approval": {}, "expireAfter": "1h"}},
        ])),
        analysis: Some(json!({"checks": [
            {
                "name": "answers", "phase": "step", "interval": "1s",
                // The route may not have reached the gateway yet.
                "failureLimit": 10,
                "condition": "status == 200",
                "http": {"url": url},
            },
            {
                "name": "smoke-test", "phase": "step",
                "job": {"serviceAccountName": "default", "timeout": "2m", "template": {"spec": pod}},
            },
        ]})),
        ..RolloutOptions::default()
    };
    manifests::rollout(&shop.name, &spec, release)
}

/// A route of the gateway to the canary alone, by the first segment of the path.
fn canary_route(shop: &Shop) -> Value {
    let (gateway_namespace, gateway_name) = gateway();
    let mut route = manifests::http_route("probe", "", (&gateway_namespace, &gateway_name));
    if let Some(spec) = route["spec"].as_object_mut() {
        spec.remove("hostnames");
    }
    let rule = &mut route["spec"]["rules"][0];
    rule["matches"][0]["path"]["value"] = json!(format!("/{}", shop.namespace));
    rule["backendRefs"][0]["name"] = json!("shop-canary");
    route
}

async fn jobs(shop: &Shop) -> Result<Vec<Job>> {
    let of_rollout = ListParams::default().labels(&format!("{ROLLOUT_LABEL}={}", shop.name));
    Ok(shop.api::<Job>().list(&of_rollout).await?.items)
}

fn awaits_approval(rollout: &Rollout) -> bool {
    let status = rollout.status.as_ref();
    let mut holds = status.iter().flat_map(|status| &status.state.holds);
    holds.any(|hold| hold.code == HoldCode::ApprovalPending)
}

/// # Errors
/// If an expectation is not met.
pub async fn a_release_passes_its_smoke_tests_before_its_first_request(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-smoke-tests").await?;
    shop.apply(canary_route(&shop)).await?;
    let url = format!("{}/{}", env.gateway_url, shop.namespace);
    shop.apply(rollout(&shop, &url, &SampleRelease::failing("v1", "0")))
        .await?;
    shop.wait_until("v1 is stable", PATIENCE, is_stable).await?;
    shop.wait_until_answering().await?;
    let load = shop.start_load(100)?;

    shop.apply(rollout(&shop, &url, &SampleRelease::failing("v2", "0")))
        .await?;
    shop.wait_until_unless_aborted("v2 waits for an approval", PATIENCE, awaits_approval)
        .await?;
    let ran = jobs(&shop).await?;
    ensure!(ran.len() == 1, "{} Jobs instead of one", ran.len());
    let status = shop.status().await?;
    let mut checks = status.checks.iter();
    let test = checks.find(|check| check.name == "smoke-test");
    let message = test.and_then(|test| test.message.clone());
    let message = message.context("a message of the check")?;
    let name = ran[0].name_any();
    ensure!(
        message.contains(&format!("logs job/{name}")),
        "the log is not linked: {message}"
    );
    let (is_done, message) = shop.run_command("promote", json!({})).await?;
    ensure!(is_done && message.contains("approved"), "{message}");
    shop.wait_until_unless_aborted("v2 is stable", PATIENCE, is_stable)
        .await?;
    note!("v2 passed a request and the Job {name}, and was approved");

    shop.apply(rollout(&shop, &url, &SampleRelease::failing("v3", "100")))
        .await?;
    let aborted = shop
        .wait_until("v3 is aborted", PATIENCE, is_aborted)
        .await?;
    let abort = aborted.status.and_then(|status| status.state.abort);
    let abort = abort.context("an abort")?;
    ensure!(abort.cause == AbortCause::Check, "{abort:?}");
    let report = stop_and_ensure_no_loss(load).await?;
    let answered = report.all().counts_by_version();
    ensure!(
        !answered.contains_key(&Some("v3")),
        "users met v3: {answered:?}"
    );
    note!("v3 was aborted before its first request: {}", abort.message);
    shop.delete().await
}
