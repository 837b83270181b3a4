//! Prometheus configurations in practice: renamed labels, and another scrape interval than the
//! Rollout has.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use serin_crds::Rollout;

use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease, analysis};
use crate::note;
use crate::prometheus::Prometheus;
use crate::shop::{Shop, is_aborted, is_stable, stop_and_ensure_no_loss};

const LOAD_PER_SECOND: u32 = 100;

fn analysis_with(prometheus: &Prometheus) -> Value {
    let mut analysis = analysis();
    analysis["prometheus"]["address"] = json!(prometheus.url);
    analysis
}

/// All messages of the status: of the conditions, of the evidence and of the status itself.
fn messages(rollout: &Rollout) -> Vec<String> {
    let Some(status) = &rollout.status else {
        return Vec::new();
    };
    let conditions = status
        .conditions
        .iter()
        .map(|condition| condition.message.clone());
    let evidence = status
        .evidence
        .iter()
        .flat_map(|evidence| [&evidence.note, &evidence.message]);
    let message = std::iter::once(&status.state.message);
    conditions
        .chain(evidence.flatten().chain(message).map(ToString::to_string))
        .collect()
}

/// Whether a message names the renamed label and a fix.
fn names_label_and_remedy(message: &str) -> bool {
    let names_remedy = ["honorLabels", "honor_labels", "counters"]
        .iter()
        .any(|remedy| message.contains(remedy));
    message.contains("exported_service") && names_remedy
}

// flagger PR #974, traefik-helm-chart #702, traefik PR #11216: a ServiceMonitor without
// `honorLabels` renames Traefik's label `service` to `exported_service`.
/// # Errors
/// If an expectation is not met.
pub async fn a_renamed_service_label_is_supported_or_reported_with_a_fix(env: &Env) -> Result<()> {
    // As with service discovery, the target already has a label `service`.
    let relabeling = json!([{"target_label": "service", "replacement": "traefik-metrics"}]);
    let prometheus = Prometheus::scraping_traefik(env, "exported", "1s", relabeling).await?;
    let shop = Shop::create(env, "serin-e2e-exported").await?;
    let spec = RolloutOptions {
        analysis: Some(analysis_with(&prometheus)),
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    let stable = shop.status().await?.state.stable_revision;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    let is_named = |rollout: &Rollout| {
        messages(rollout)
            .iter()
            .any(|message| names_label_and_remedy(message))
    };
    let decided = |rollout: &Rollout| is_stable(rollout) || is_named(rollout);
    let rollout = shop
        .wait_until_unless_aborted(
            "the renamed label is supported or reported",
            Duration::from_secs(120),
            decided,
        )
        .await?;
    if is_stable(&rollout) {
        note!("the renamed label is supported");
        shop.apply_release(&spec, &SampleRelease::failing("v3", "30"))
            .await?;
        shop.wait_until("the bad v3 is aborted", Duration::from_secs(90), is_aborted)
            .await?;
    } else {
        note!("the renamed label is reported: {:?}", messages(&rollout));
        ensure!(
            shop.status().await?.state.stable_revision == stable,
            "promoted without metrics"
        );
        // The fix without access to Prometheus: counters with the renamed label.
        let counters = json!({
            "total": "traefik_service_requests_total",
            "errors": "traefik_service_requests_total{code=~\"5..\"}",
            "variants": {
                "label": "exported_service",
                "canary": format!(".*{}-{}-canary-.*", shop.namespace, shop.name),
                "stable": format!(".*{}-{}-[0-9]+.*", shop.namespace, shop.name),
            },
        });
        let mut analysis = analysis_with(&prometheus);
        analysis["objectives"] =
            json!([{"name": "availability", "objective": 99.9, "counters": counters}]);
        let spec = RolloutOptions {
            analysis: Some(analysis),
            ..RolloutOptions::default()
        };
        shop.apply_release(&spec, &SampleRelease::good("v2"))
            .await?;
        shop.wait_until_unless_aborted("v2 is promoted", Duration::from_secs(120), is_stable)
            .await?;
    }
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

// flagger #1123, prometheus #8001: Prometheus has a longer scrape interval than the examples of the
// controller.
/// # Errors
/// If an expectation is not met.
pub async fn a_release_completes_with_a_longer_scrape_interval_than_configured(
    env: &Env,
) -> Result<()> {
    let prometheus = Prometheus::scraping_traefik(env, "rare", "10s", json!([])).await?;
    let shop = Shop::create(env, "serin-e2e-rare").await?;
    let steps = json!([{"setWeight": 50}, {"analysis": {"duration": "10s"}}]);
    let mut analysis = analysis_with(&prometheus);
    analysis["prometheus"]["scrapeInterval"] = json!("1s");
    analysis["warmUp"] = json!("10s");
    let spec = RolloutOptions {
        analysis: Some(analysis),
        steps: Some(steps),
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    let names_difference =
        |message: &String| message.contains("scrapeInterval") && message.contains("10");
    let is_reported = |rollout: &Rollout| messages(rollout).iter().any(names_difference);
    let reported = shop
        .wait_until_unless_aborted(
            "the difference is reported",
            Duration::from_secs(120),
            is_reported,
        )
        .await?;
    note!(
        "{:?}",
        messages(&reported)
            .into_iter()
            .filter(names_difference)
            .collect::<Vec<_>>()
    );
    shop.wait_until_unless_aborted("v2 is promoted", Duration::from_secs(180), is_stable)
        .await?;
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}
