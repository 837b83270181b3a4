//! Good releases where the assumptions of the analysis do not hold by themselves: sessions that
//! stick to one side, a pod on a slow node, and pods that fail while they are young.
//!
//! `SERIN_GOOD_RELEASES` sets the number of releases of each case. None may be rolled back, and the
//! status must report what stands.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_crds::{Rollout, RolloutStatus};

use crate::env::{Env, count_from_env};
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::note;
use crate::shop::{Shop, is_aborted, is_stable};
use crate::sticky::{StickyLoad, StickyOptions};

/// Number of releases, unless `SERIN_GOOD_RELEASES` sets another one.
const RELEASES: u32 = 1;
const PATIENCE: Duration = Duration::from_secs(180);
/// Time for which stable serves before the first release, so that its history is known.
const HISTORY: Duration = Duration::from_secs(20);

fn releases() -> u32 {
    count_from_env("SERIN_GOOD_RELEASES", RELEASES)
}

/// An analysis by pod. The budget of a few minutes of traffic is small, so a release may spend all of
/// it: only evidence decides.
fn analysis(objectives: Value) -> Value {
    json!({
        "prometheus": {"scrapeInterval": "1s"},
        "warmUp": "2s",
        "budget": {"maxShareOfBudget": "100%", "maxShareOfRemaining": "100%"},
        "objectives": objectives,
    })
}

/// Four pods, of which two are the canary's.
fn options(analysis: Value, pause: &str) -> RolloutOptions {
    RolloutOptions {
        replicas: 4,
        steps: Some(json!([{"setWeight": 50}, {"pause": {"duration": pause}}])),
        analysis: Some(analysis),
        scale_down_delay_seconds: 2,
        ..RolloutOptions::default()
    }
}

/// Waits until stable has a history of requests.
async fn wait_for_history(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Fails if the release was rolled back.
fn ensure_promoted(rollout: &Rollout, version: &str) -> Result<()> {
    let state = rollout.status.as_ref().map(|status| &status.state);
    ensure!(
        is_stable(rollout),
        "{version} was rolled back: {:?}",
        state.map(|state| &state.message)
    );
    Ok(())
}

/// The condition of the bound on false rollbacks of an objective.
fn assumption(status: &RolloutStatus, objective: &str) -> Option<String> {
    let mut evidence = status.evidence.iter();
    let evidence = evidence.find(|evidence| evidence.objective == objective)?;
    evidence.assumption.as_ref().map(ToString::to_string)
}

fn condition(status: &RolloutStatus, type_: &str) -> Option<(String, String)> {
    let mut conditions = status.conditions.iter();
    let condition = conditions.find(|condition| condition.type_ == type_)?;
    Some((condition.reason.clone(), condition.message.clone()))
}

/// The Services of both sides assign clients.
async fn make_sticky(shop: &Shop) -> Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": shop.name},
        "spec": {
            "selector": {"app": shop.name},
            "sessionAffinity": "ClientIP",
            "ports": [{"name": "http", "port": 8080, "targetPort": "http"}],
        },
    });
    shop.apply(service).await?;
    Ok(())
}

/// # Errors
/// If a good release is rolled back, or if the status does not report what is assigned and what is
/// claimed.
pub async fn good_releases_of_a_service_with_sticky_sessions_are_promoted(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-sticky").await?;
    let series = |name: &str, matcher: &str| {
        let namespace = &shop.namespace;
        format!("{name}{{namespace=\"{namespace}\"{matcher}}}")
    };
    let requests = json!({
        "total": series("http_requests_total", ""),
        "errors": series("http_requests_total", ",code=~\"5..\""),
    });
    let sessions = json!({
        "total": series("sessions_total", ""),
        "errors": series("sessions_with_error_total", ""),
        "unit": "Client",
    });
    let objectives = json!([
        {"name": "requests", "objective": 90.0, "counters": requests},
        {"name": "sessions", "objective": 75.0, "counters": sessions},
    ]);
    let spec = options(analysis(objectives), "20s");
    make_sticky(&shop).await?;
    shop.deploy_first(&spec, &SampleRelease::failing("v0", "0"))
        .await?;
    let load = StickyLoad::start(
        &shop,
        StickyOptions {
            sessions: 40,
            broken_fraction: 0.08,
            failing_fraction: 0.5,
        },
    )
    .await?;
    wait_for_history(HISTORY).await;
    for number in 1..=releases() {
        let version = format!("v{number}");
        shop.apply_release(&spec, &SampleRelease::failing(&version, "0"))
            .await?;
        let has_evidence = |rollout: &Rollout| {
            let status = rollout.status.as_ref();
            let has_requests = |status: &RolloutStatus| {
                let evidence = status.evidence.iter();
                evidence
                    .filter(|evidence| evidence.canary.requests > 0.0)
                    .count()
                    == 2
            };
            is_stable(rollout) || status.is_some_and(has_requests)
        };
        let rollout = shop
            .wait_until_unless_aborted("both objectives have evidence", PATIENCE, has_evidence)
            .await?;
        check_sticky_status(rollout.status.as_ref().context("a status")?)?;
        let rollout = shop
            .wait_until(&format!("{version} is decided"), PATIENCE, |rollout| {
                is_stable(rollout) || is_aborted(rollout)
            })
            .await?;
        ensure_promoted(&rollout, &version)?;
        note!("promoted {number} of {}", releases());
    }
    let report = load.stop().await;
    note!("{report:?}");
    ensure!(
        report.failed > 0 && report.sessions > 40,
        "no session was broken: {report:?}"
    );
    shop.delete().await
}

/// The unit that is assigned, and for which counters a bound is claimed.
fn check_sticky_status(status: &RolloutStatus) -> Result<()> {
    let (reason, message) = condition(status, "RoutedPerRequest").context("RoutedPerRequest")?;
    ensure!(
        reason == "ByClient"
            && message.contains("spec.sessionAffinity is ClientIP")
            && message.contains("count sessions"),
        "{reason}: {message}"
    );
    let requests = assumption(status, "requests").context("an assumption of requests")?;
    ensure!(
        requests.contains("no bound") || requests.contains("No bound"),
        "a bound is claimed for counted requests: {requests}"
    );
    let sessions = assumption(status, "sessions").context("an assumption of sessions")?;
    ensure!(
        !sessions.contains("For counted requests no bound"),
        "the counted unit is ignored: {sessions}"
    );
    note!("requests: {requests}");
    note!("sessions: {sessions}");
    Ok(())
}

/// A pod of the canary.
async fn canary_pod(shop: &Shop) -> Result<Pod> {
    let revision = shop.status().await?.state.current_revision;
    let revision = revision.context("a current revision")?;
    let is_of_canary = |pod: &Pod| {
        let label = pod.labels().get("serin.dev/revision");
        label.map(String::as_str) == Some(revision.as_str())
            && pod.metadata.deletion_timestamp.is_none()
    };
    let pods = shop.pods().await?;
    pods.into_iter().find(is_of_canary).context("a canary pod")
}

/// Slows a fifth of the requests of a pod down, as a slow node does.
async fn slow_down(pod: &Pod) -> Result<()> {
    let status = pod.status.as_ref().context("the status of the pod")?;
    let address = status.pod_ip.as_ref().context("the address of the pod")?;
    let url = format!("http://{address}:8080/fault?slow_percent=20&latency_ms=300");
    let answer = reqwest::Client::new().post(url).send().await?;
    ensure!(answer.status().is_success(), "{}", answer.status());
    Ok(())
}

/// # Errors
/// If a good release is rolled back because of one pod, or if the status does not name the pod and
/// its node.
pub async fn a_slow_node_holds_good_releases_and_is_named(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-slow-node").await?;
    let objectives = json!([{
        "name": "latency", "objective": 90.0, "latency": {"threshold": "250ms"},
        "counters": {"total": format!(
            "http_request_duration_seconds_count{{namespace=\"{}\"}}", shop.namespace
        )},
    }]);
    let spec = options(analysis(objectives), "25s");
    shop.deploy_first(&spec, &SampleRelease::good("v0")).await?;
    let load = shop.start_load(150)?;
    wait_for_history(HISTORY).await;
    for number in 1..=releases() {
        let version = format!("v{number}");
        shop.apply_release(&spec, &SampleRelease::good(&version))
            .await?;
        let has_traffic = |rollout: &Rollout| {
            let state = rollout.status.as_ref().map(|status| &status.state);
            state.is_some_and(|state| state.step.is_some_and(|step| step.index == 1))
        };
        shop.wait_until_unless_aborted("the canary has its weight", PATIENCE, has_traffic)
            .await?;
        let pod = canary_pod(&shop).await?;
        slow_down(&pod).await?;
        let outlier = |rollout: &Rollout| {
            let mut holds = rollout.status.iter().flat_map(|status| &status.state.holds);
            let hold = holds.find(|hold| hold.code == HoldCode::PodOutlier);
            hold.map(|hold| hold.message.to_string())
        };
        let held = shop
            .wait_until_unless_aborted("the slow pod holds the release", PATIENCE, |rollout| {
                outlier(rollout).is_some() || is_stable(rollout)
            })
            .await?;
        match outlier(&held) {
            Some(message) => {
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
                let node = node.context("the node of the pod")?;
                let expected = format!("{} on node {node}", pod.name_any());
                ensure!(message.contains(&expected), "{message}");
                note!("{message}");
            }
            // The slow pods of earlier rounds are part of the history: then the temper allows for
            // them, and the status reports it.
            None => {
                let status = held.status.as_ref().context("a status")?;
                let allowed = assumption(status, "latency").unwrap_or_default();
                ensure!(number > 1 && allowed.contains("cluster"), "{allowed}");
                note!("not held: {allowed}");
            }
        }
        shop.api::<Pod>()
            .delete(&pod.name_any(), &DeleteParams::default())
            .await?;
        let rollout = shop
            .wait_until(&format!("{version} is decided"), PATIENCE, |rollout| {
                is_stable(rollout) || is_aborted(rollout)
            })
            .await?;
        ensure_promoted(&rollout, &version)?;
        note!("promoted {number} of {}", releases());
    }
    load.stop().await;
    shop.delete().await
}

/// # Errors
/// If a release whose pods fail only while they are young is rolled back although it has a baseline,
/// or if the baseline pods are not removed.
pub async fn a_cold_start_is_compared_with_that_of_baseline_pods(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-baseline").await?;
    let series = |matcher: &str| {
        let namespace = &shop.namespace;
        format!("http_requests_total{{namespace=\"{namespace}\"{matcher}}}")
    };
    let objectives = json!([{
        "name": "availability", "objective": 95.0,
        "counters": {"total": series(""), "errors": series(",code=~\"5..\"")},
    }]);
    let mut analysis = analysis(objectives);
    analysis["baseline"] = json!({"replicas": 2});
    // Otherwise its tolerance would suffice.
    analysis["warmUp"] = json!("0s");
    let spec = options(analysis, "30s");
    // Each pod fails a tenth of its requests in its first 15 seconds.
    let cold = |version: &str| SampleRelease {
        version: version.to_owned(),
        faults: vec![
            ("ERROR_RATE", "10".to_owned()),
            ("ERROR_UNTIL_MS", "15000".to_owned()),
        ],
    };
    shop.deploy_first(&spec, &cold("v0")).await?;
    let load = shop.start_load(150)?;
    wait_for_history(HISTORY).await;
    for number in 1..=releases() {
        let version = format!("v{number}");
        let stable = shop.status().await?.state.stable_revision;
        let stable = stable.context("a stable revision")?;
        shop.apply_release(&spec, &cold(&version)).await?;
        let compares = |rollout: &Rollout| {
            let evidence = rollout.status.iter().flat_map(|status| &status.evidence);
            let mut notes = evidence.filter_map(|evidence| evidence.note.as_ref());
            notes.any(|note| note.contains("stable pods that started with it"))
        };
        shop.wait_until_unless_aborted("the baseline is reported", PATIENCE, compares)
            .await?;
        let pods = shop.desired_replicas().await?;
        ensure!(
            pods.get(stable.as_str()) == Some(&6),
            "four stable pods and two baseline pods: {pods:?}"
        );
        let rollout = shop
            .wait_until(&format!("{version} is decided"), PATIENCE, |rollout| {
                is_stable(rollout) || is_aborted(rollout)
            })
            .await?;
        ensure_promoted(&rollout, &version)?;
        let is_removed = async || {
            let pods = shop.desired_replicas().await?;
            Ok(pods.get(stable.as_str()).is_none_or(|pods| *pods == 0))
        };
        shop.eventually("the old pods are removed", PATIENCE, is_removed)
            .await?;
        note!("promoted {number} of {}", releases());
    }
    load.stop().await;
    shop.delete().await
}
