//! Prometheus as people configure it: with renamed labels, and with another scrape interval than
//! the Rollout says.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use serin_crds::Rollout;

use crate::env::Env;
use crate::manifests::{Release, Spec, analysis};
use crate::note;
use crate::prometheus::Prometheus;
use crate::shop::{Shop, is_aborted, is_stable, stop_without_loss};

const LOAD_PER_SECOND: u32 = 100;

fn analysis_by(prometheus: &Prometheus) -> Value {
    let mut analysis = analysis();
    analysis["prometheus"]["address"] = json!(prometheus.url);
    analysis
}

/// What the status says about the metrics: the messages of the conditions, of the evidence, and its
/// own.
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
        .flat_map(|evidence| [evidence.note.clone(), evidence.message.clone()]);
    conditions
        .chain(evidence.flatten())
        .chain(status.message.clone())
        .collect()
}

/// Whether a message names the renamed label and what to do about it.
fn names_label_and_remedy(message: &str) -> bool {
    let names_remedy = ["honorLabels", "honor_labels", "counters"]
        .iter()
        .any(|remedy| message.contains(remedy));
    message.contains("exported_service") && names_remedy
}

// flagger PR #974, traefik-helm-chart #702, traefik PR #11216: a ServiceMonitor without
// `honorLabels` renames Traefik's label `service` to `exported_service`.
/// # Errors
/// If a promise is not kept.
pub async fn a_renamed_service_label_is_read_or_named_with_its_remedy(env: &Env) -> Result<()> {
    // What service discovery does: the target has a label `service` already.
    let relabeling = json!([{"target_label": "service", "replacement": "traefik-metrics"}]);
    let prometheus = Prometheus::of_traefik(env, "exported", "1s", relabeling).await?;
    let shop = Shop::open(env, "serin-e2e-exported").await?;
    let spec = Spec {
        analysis: Some(analysis_by(&prometheus)),
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    let stable = shop.status().await?.stable_revision;
    shop.declare(&spec, &Release::good("v2")).await?;
    let is_named = |rollout: &Rollout| {
        messages(rollout)
            .iter()
            .any(|message| names_label_and_remedy(message))
    };
    let decided = |rollout: &Rollout| is_stable(rollout) || is_named(rollout);
    let rollout = shop
        .until_unless_aborted("it is read or named", Duration::from_secs(120), decided)
        .await?;
    if is_stable(&rollout) {
        note!("the renamed label is read");
        shop.declare(&spec, &Release::failing("v3", "30")).await?;
        shop.until("the bad v3 is aborted", Duration::from_secs(90), is_aborted)
            .await?;
    } else {
        note!("the hold names it: {:?}", messages(&rollout));
        ensure!(
            shop.status().await?.stable_revision == stable,
            "promoted without metrics"
        );
        // The remedy without access to Prometheus: counters with the renamed label.
        let counters = json!({
            "total": "traefik_service_requests_total",
            "errors": "traefik_service_requests_total{code=~\"5..\"}",
            "variants": {
                "label": "exported_service",
                "canary": format!(".*{}-{}-canary-.*", shop.namespace, shop.name),
                "stable": format!(".*{}-{}-[0-9]+.*", shop.namespace, shop.name),
            },
        });
        let mut analysis = analysis_by(&prometheus);
        analysis["objectives"] =
            json!([{"name": "availability", "objective": 99.9, "counters": counters}]);
        let spec = Spec {
            analysis: Some(analysis),
            ..Spec::default()
        };
        shop.declare(&spec, &Release::good("v2")).await?;
        shop.until_unless_aborted("v2 is promoted", Duration::from_secs(120), is_stable)
            .await?;
    }
    stop_without_loss(load).await?;
    shop.close().await
}

// flagger #1123, prometheus #8001: Prometheus scrapes more rarely than the controller's examples
// assume.
/// # Errors
/// If a promise is not kept.
pub async fn a_release_ends_when_samples_come_more_rarely_than_the_rollout_says(
    env: &Env,
) -> Result<()> {
    let prometheus = Prometheus::of_traefik(env, "rare", "10s", json!([])).await?;
    let shop = Shop::open(env, "serin-e2e-rare").await?;
    let steps = json!([{"setWeight": 50}, {"analysis": {"duration": "10s"}}]);
    let mut analysis = analysis_by(&prometheus);
    analysis["prometheus"]["scrapeInterval"] = json!("1s");
    analysis["warmUp"] = json!("10s");
    let spec = Spec {
        analysis: Some(analysis),
        steps: Some(steps),
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    shop.declare(&spec, &Release::good("v2")).await?;
    let names_difference =
        |message: &String| message.contains("scrapeInterval") && message.contains("10");
    let is_reported = |rollout: &Rollout| messages(rollout).iter().any(names_difference);
    let reported = shop
        .until_unless_aborted(
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
    shop.until_unless_aborted("v2 is promoted", Duration::from_secs(180), is_stable)
        .await?;
    stop_without_loss(load).await?;
    shop.close().await
}
