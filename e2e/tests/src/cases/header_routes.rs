//! Rules for chosen requests under load: who gets the canary, and that a mirror changes no answer.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};
use serin_crds::Rollout;
use serin_crds::names::REVISION_LABEL;
use serin_load::{LoadHandle, LoadReport};

use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::note;
use crate::shop::{Shop, is_aborted, is_paused, is_stable, stop_and_ensure_no_loss};
use crate::traffic::ensure_share_between;

/// The requests with the header and those without it, per second each.
const LOAD_PER_SECOND: u32 = 150;
const PATIENCE: Duration = Duration::from_secs(120);
/// Requests of a load that are looked at while a step is in effect.
const REQUESTS: u64 = 1_200;
/// Requests that the gateway had accepted before a change may get an answer of the other side.
const IN_FLIGHT: Duration = Duration::from_secs(1);
const HEADER: (&str, &str) = ("x-user-group", "staff");

fn header_route() -> Value {
    let value = json!({"exact": HEADER.1});
    json!({"setHeaderRoute": {
        "name": "staff", "match": [{"headerName": HEADER.0, "headerValue": value}],
    }})
}

/// The Rollout of the shop with these steps, if its routes can hold rules for chosen requests.
fn rollout(shop: &Shop, steps: Value, version: &str) -> Value {
    let options = RolloutOptions {
        analysis: None,
        ..RolloutOptions::default()
    };
    // Errors of the service itself would not be failures of routing.
    let release = SampleRelease::failing(version, "0");
    let mut rollout = shop.rollout_manifest(&options, &release);
    let canary = &mut rollout["spec"]["strategy"]["canary"];
    canary["trafficRouting"]["managedRoutes"] = json!([{"name": "staff"}, {"name": "copies"}]);
    canary["steps"] = steps;
    rollout
}

/// The shop with v1. `None` if the routes of the data plane cannot hold rules for chosen requests.
async fn start(env: &Env, namespace: &str) -> Result<Option<Shop>> {
    let shop = Shop::create(env, namespace).await?;
    if !shop.data_plane().route_kind().has_managed_routes() {
        note!(
            "{:?} holds no rules for requests",
            shop.data_plane().route_kind()
        );
        shop.delete().await?;
        return Ok(None);
    }
    shop.apply(rollout(&shop, json!([]), "v1")).await?;
    shop.wait_until("v1 is stable", PATIENCE, is_stable).await?;
    shop.wait_until_answering().await?;
    Ok(Some(shop))
}

/// Waits for the pause at this step.
async fn wait_for_pause(shop: &Shop, step: usize) -> Result<()> {
    let is_there = |rollout: &Rollout| {
        let status = rollout.status.as_ref();
        let at = status.and_then(|status| status.state.step);
        is_paused(rollout) && at.is_some_and(|at| at.index == step)
    };
    shop.wait_until_unless_aborted(&format!("paused at step {step}"), PATIENCE, is_there)
        .await?;
    Ok(())
}

async fn promote(shop: &Shop) -> Result<()> {
    let (is_done, message) = shop.run_command("promote", json!({})).await?;
    ensure!(is_done, "promote: {message}");
    Ok(())
}

/// The load with the header, and the load without it.
struct Loads {
    chosen: LoadHandle,
    others: LoadHandle,
}

/// The same time in both loads.
#[derive(Clone)]
struct Span {
    chosen: Range<Duration>,
    others: Range<Duration>,
}

impl Loads {
    fn start(shop: &Shop) -> Result<Self> {
        Ok(Self {
            chosen: shop.start_load_with("/", LOAD_PER_SECOND, &[HEADER])?,
            others: shop.start_load(LOAD_PER_SECOND)?,
        })
    }

    /// The time in which enough requests are sent from now on.
    async fn span(&self, shop: &Shop) -> Result<Span> {
        shop.eventually("earlier requests are answered", PATIENCE, async || {
            tokio::time::sleep(IN_FLIGHT).await;
            Ok(true)
        })
        .await?;
        let count = |load: &LoadHandle| load.snapshot().counts.total();
        let start = (self.chosen.elapsed(), self.others.elapsed());
        let before = (count(&self.chosen), count(&self.others));
        shop.eventually("enough requests", PATIENCE, async || {
            let is_enough = |load, before| count(load) >= before + REQUESTS;
            Ok(is_enough(&self.chosen, before.0) && is_enough(&self.others, before.1))
        })
        .await?;
        Ok(Span {
            chosen: start.0..self.chosen.elapsed(),
            others: start.1..self.others.elapsed(),
        })
    }

    /// Ends both loads, which must not have lost a request.
    async fn stop(self) -> Result<(LoadReport, LoadReport)> {
        let chosen = stop_and_ensure_no_loss(self.chosen).await?;
        Ok((chosen, stop_and_ensure_no_loss(self.others).await?))
    }
}

/// Checks that every single request of a time span was answered by this version.
fn ensure_all(report: &LoadReport, span: &Range<Duration>, version: &str) -> Result<()> {
    let of_span = report.between(span.clone());
    let by_version = of_span.counts_by_version();
    let versions: Vec<Option<&str>> = by_version.keys().copied().collect();
    ensure!(
        versions == [Some(version)],
        "{versions:?} answered, and not {version} alone"
    );
    Ok(())
}

/// With the rule, every request with the header is answered by the canary, and every other one as the
/// weight says, at 0 and at 30 %. Without the rule the header changes nothing.
///
/// # Errors
/// If an expectation is not met.
pub async fn requests_with_the_header_reach_the_canary_alone(env: &Env) -> Result<()> {
    let Some(shop) = start(env, "serin-e2e-header-route").await? else {
        return Ok(());
    };
    let loads = Loads::start(&shop)?;
    let steps = json!([
        header_route(), {"pause": {}}, {"setWeight": 30}, {"pause": {}},
        {"setHeaderRoute": {"name": "staff"}}, {"pause": {}},
    ]);
    shop.apply(rollout(&shop, steps, "v2")).await?;
    let mut spans = Vec::new();
    for step in [1, 3, 5] {
        wait_for_pause(&shop, step).await?;
        spans.push(loads.span(&shop).await?);
        promote(&shop).await?;
    }
    shop.wait_until_unless_aborted("v2 is stable", PATIENCE, is_stable)
        .await?;
    let (chosen, others) = loads.stop().await?;
    let [before_split, beside_split, removed] = spans.as_slice() else {
        anyhow::bail!("three steps");
    };
    ensure_all(&chosen, &before_split.chosen, "v2").context("with the header at 0 %")?;
    ensure_all(&others, &before_split.others, "v1").context("without the header at 0 %")?;
    ensure_all(&chosen, &beside_split.chosen, "v2").context("with the header at 30 %")?;
    for (report, span) in [
        (&others, &beside_split.others),
        (&others, &removed.others),
        (&chosen, &removed.chosen),
    ] {
        let (count, all) = ensure_share_between(report, span.clone(), "v2", 0.3)?;
        note!("30 %: v2 answered {count} of {all} requests");
    }
    shop.delete().await
}

/// An abort gives the chosen requests back to stable, and loses none of them.
///
/// # Errors
/// If an expectation is not met.
pub async fn an_abort_gives_requests_with_the_header_back_without_loss(env: &Env) -> Result<()> {
    let Some(shop) = start(env, "serin-e2e-header-abort").await? else {
        return Ok(());
    };
    let loads = Loads::start(&shop)?;
    for round in 2..=4 {
        let steps = json!([header_route(), {"setWeight": 20}, {"pause": {}}]);
        shop.apply(rollout(&shop, steps, &format!("v{round}")))
            .await?;
        wait_for_pause(&shop, 2).await?;
        let (is_done, message) = shop.run_command("abort", json!({})).await?;
        ensure!(is_done, "abort: {message}");
        shop.wait_until("aborted", PATIENCE, is_aborted).await?;
        shop.wait_until_answered_by("/", |answered| answered == "v1")
            .await?;
    }
    let after = loads.span(&shop).await?;
    let (chosen, others) = loads.stop().await?;
    ensure_all(&chosen, &after.chosen, "v1").context("with the header after the aborts")?;
    ensure_all(&others, &after.others, "v1").context("without the header after the aborts")?;
    shop.delete().await
}

/// While requests are copied to the canary, which fails half of them, every client gets the answer of
/// stable, and the canary gets the copies.
///
/// # Errors
/// If an expectation is not met.
pub async fn mirrored_requests_never_change_what_clients_get(env: &Env) -> Result<()> {
    let Some(shop) = start(env, "serin-e2e-mirror").await? else {
        return Ok(());
    };
    if !shop.data_plane().mirrors_requests() {
        note!("{} copies no requests", shop.data_plane().versions());
        return shop.delete().await;
    }
    let loads = Loads::start(&shop)?;
    let steps = json!([
        {"setMirrorRoute": {"name": "copies", "match": [
            {"path": {"prefix": "/"}, "headers": {(HEADER.0): {"exact": HEADER.1}}},
        ]}},
        {"pause": {}},
    ]);
    let mut v2 = rollout(&shop, steps, "v2");
    let failing = shop.rollout_manifest(
        &RolloutOptions::default(),
        &SampleRelease::failing("v2", "0.5"),
    );
    v2["spec"]["template"] = failing["spec"]["template"].clone();
    shop.apply(v2).await?;
    wait_for_pause(&shop, 1).await?;
    let span = loads.span(&shop).await?;
    let copies = requests_of_canary(&shop).await?;
    abort(&shop).await?;
    let (chosen, others) = loads.stop().await?;
    for (report, span) in [(&chosen, &span.chosen), (&others, &span.others)] {
        ensure_all(report, span, "v1")?;
        let counts = report.between(span.clone()).counts_by_version();
        let errors: u64 = counts.values().map(|counts| counts.service_errors).sum();
        ensure!(errors == 0, "{errors} clients got an error of the canary");
    }
    ensure!(copies > REQUESTS / 2, "the canary got {copies} copies only");
    note!("the canary got {copies} copies, and no client saw one");
    shop.delete().await
}

/// Aborts the release of the failing canary.
async fn abort(shop: &Shop) -> Result<()> {
    let (is_done, message) = shop.run_command("abort", json!({})).await?;
    ensure!(is_done, "abort: {message}");
    shop.wait_until("aborted", PATIENCE, is_aborted).await?;
    Ok(())
}

/// The requests that the pods of the canary have counted.
async fn requests_of_canary(shop: &Shop) -> Result<u64> {
    let revision = shop.status().await?.state.current_revision;
    let revision = revision.context("a revision")?;
    let pods = shop.api::<Pod>();
    let label = ListParams::default().labels(&format!("{REVISION_LABEL}={revision}"));
    let mut requests = 0.0;
    for pod in pods.list(&label).await? {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}:8080/proxy/metrics",
            shop.namespace,
            pod.name_any()
        );
        let request = Request::get(path).body(Vec::new())?;
        let text = shop.client.request_text(request).await?;
        let counts = text
            .lines()
            .filter(|line| line.starts_with("http_requests_total{"));
        let values = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        requests += values.sum::<f64>();
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of requests"
    )]
    Ok(requests as u64)
}
