//! Faults of Prometheus: each has its own reason, holds the release, and the release resumes
//! automatically.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use serde_json::{Value, json};
use serin_crds::Rollout;
use serin_fake_cluster::certificates::CertificateAuthority;

use super::commands::run_plugin;
use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease, analysis};
use crate::note;
use crate::shop::{Shop, is_stable, stop_and_ensure_no_loss};

const LOAD_PER_SECOND: u32 = 150;

/// A fault of Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum PrometheusFault {
    None,
    Refusing,
    Slow,
    Empty,
    NotANumber,
    Partial,
    Garbage,
}

impl PrometheusFault {
    const ALL: [Self; 7] = [
        Self::None,
        Self::Refusing,
        Self::Slow,
        Self::Empty,
        Self::NotANumber,
        Self::Partial,
        Self::Garbage,
    ];

    fn from_number(number: u8) -> Self {
        Self::ALL
            .into_iter()
            .find(|fault| *fault as u8 == number)
            .unwrap_or(Self::None)
    }
}

/// A proxy in front of Prometheus that injects a fault.
struct FaultyProxy {
    upstream: String,
    fault: AtomicU8,
    /// If set, requests need this value in the header `Authorization`.
    required_authorization: Option<&'static str>,
    http: reqwest::Client,
}

impl FaultyProxy {
    /// Serves on a free loopback port. Returns the proxy, its URL and its task.
    async fn serve(upstream: &str) -> Result<(Arc<Self>, String, tokio::task::JoinHandle<()>)> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let (proxy, task) = Self::serve_on(upstream, listener, None)?;
        Ok((proxy, address, task))
    }

    fn serve_on(
        upstream: &str,
        listener: impl Listener<Addr: Debug>,
        required_authorization: Option<&'static str>,
    ) -> Result<(Arc<Self>, tokio::task::JoinHandle<()>)> {
        let http = reqwest::Client::builder().no_gzip().build()?;
        let proxy = Arc::new(Self {
            upstream: upstream.to_owned(),
            fault: AtomicU8::new(0),
            required_authorization,
            http,
        });
        let router = Router::new()
            .fallback(Self::handle)
            .with_state(proxy.clone());
        let task = tokio::spawn(async move {
            let _ended = axum::serve(listener, router).await;
        });
        Ok((proxy, task))
    }

    fn set(&self, fault: PrometheusFault) {
        self.fault.store(fault as u8, Ordering::SeqCst);
    }

    async fn handle(State(proxy): State<Arc<Self>>, request: Request) -> Response {
        let fault = PrometheusFault::from_number(proxy.fault.load(Ordering::SeqCst));
        let sent = request
            .headers()
            .get("authorization")
            .map(HeaderValue::as_bytes);
        if proxy
            .required_authorization
            .is_some_and(|required_authorization| sent != Some(required_authorization.as_bytes()))
        {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        match fault {
            PrometheusFault::Refusing => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
            PrometheusFault::Slow => tokio::time::sleep(Duration::from_secs(30)).await,
            _ => {}
        }
        match proxy.forward(request).await {
            Ok(answer) => apply_fault(answer, fault),
            Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        }
    }

    async fn forward(&self, request: Request) -> Result<String> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let body = axum::body::to_bytes(body, 1 << 20).await?;
        let mut outgoing = self
            .http
            .request(parts.method, format!("{}{path}", self.upstream))
            .body(body);
        if let Some(kind) = parts.headers.get("content-type") {
            outgoing = outgoing.header("content-type", kind);
        }
        Ok(outgoing.send().await?.text().await?)
    }
}

fn apply_fault(answer: String, fault: PrometheusFault) -> Response {
    let json_body =
        |value: &Value| ([("content-type", "application/json")], value.to_string()).into_response();
    let Ok(mut value) = serde_json::from_str::<Value>(&answer) else {
        return answer.into_response();
    };
    match fault {
        PrometheusFault::Empty => value["data"]["result"] = json!([]),
        PrometheusFault::Partial => {
            value["warnings"] = json!(["one store did not respond: the result is partial"]);
        }
        PrometheusFault::NotANumber => {
            for series in value["data"]["result"].as_array_mut().into_iter().flatten() {
                for sample in series["values"].as_array_mut().into_iter().flatten() {
                    sample[1] = json!("NaN");
                }
                if series["value"].is_array() {
                    series["value"][1] = json!("NaN");
                }
            }
        }
        PrometheusFault::Garbage => return Body::from("{\"status\":\"succ").into_response(),
        PrometheusFault::None | PrometheusFault::Refusing | PrometheusFault::Slow => {}
    }
    json_body(&value)
}

/// The reason of the condition MetricsReady if it is False. `None` otherwise.
fn metrics_failure_reason(rollout: &Rollout) -> Option<String> {
    let conditions = &rollout.status.as_ref()?.conditions;
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == "MetricsReady")?;
    (condition.status == "False").then(|| condition.reason.clone())
}

/// # Errors
/// If an expectation is not met.
pub async fn prometheus_faults_hold_the_release_until_they_are_fixed(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-metrics").await?;
    let (proxy, address, task) = FaultyProxy::serve(&env.prometheus_url).await?;
    let mut analysis = analysis();
    analysis["prometheus"]["address"] = json!(address);
    let steps = json!([{"setWeight": 20}, {"pause": {"duration": "1s"}}, {"setWeight": 50}, {"pause": {"duration": "1s"}}]);
    let spec = RolloutOptions {
        analysis: Some(analysis),
        steps: Some(steps),
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v0")).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    let faults = [
        (PrometheusFault::Refusing, vec!["Unreachable"]),
        (PrometheusFault::Slow, vec!["Unreachable", "Timeout"]),
        (PrometheusFault::Empty, vec!["NoData", "Stale"]),
        (PrometheusFault::NotANumber, vec!["NotANumber"]),
        (PrometheusFault::Partial, vec!["Partial", "PartialData"]),
        (PrometheusFault::Garbage, vec!["Malformed", "Unreachable"]),
    ];
    for (number, (fault, names)) in faults.iter().enumerate() {
        proxy.set(*fault);
        let stable = shop.status().await?.state.stable_revision;
        shop.apply_release(&spec, &SampleRelease::good(&format!("v{}", number + 1)))
            .await?;
        let is_reported = |rollout: &Rollout| {
            metrics_failure_reason(rollout).is_some_and(|reason| names.contains(&reason.as_str()))
        };
        let held = shop
            .wait_until(
                &format!("{fault:?} is reported as one of {names:?}"),
                Duration::from_secs(120),
                is_reported,
            )
            .await?;
        // Long enough for both steps and their pauses if the release were not held.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let rollout = shop.rollout().await?;
        let status = rollout.status.clone().context("a status")?;
        ensure!(
            status.state.stable_revision == stable,
            "{fault:?}: promoted without metrics"
        );
        ensure!(
            is_reported(&rollout),
            "{fault:?} must still be reported: {:?} at stage {:?}: {}; {:?}",
            metrics_failure_reason(&rollout),
            status.state.stage,
            status.state.message,
            status.conditions
        );
        note!(
            "{fault:?}: {}: {}",
            metrics_failure_reason(&held).unwrap_or_default(),
            status.state.message
        );
        proxy.set(PrometheusFault::None);
        shop.wait_until(
            &format!("the release completes after {fault:?}"),
            Duration::from_secs(120),
            is_stable,
        )
        .await?;
    }
    task.abort();
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// # Errors
/// If an expectation is not met.
pub async fn prometheus_credentials_and_ca_are_read_from_a_secret_and_a_config_map(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-access").await?;
    let authority = CertificateAuthority::new()?;
    let listener = authority.listen(false).await?;
    let address = listener.url()?;
    let (_proxy, task) = FaultyProxy::serve_on(&env.prometheus_url, listener, Some("Bearer good"))?;
    let mut analysis = analysis();
    analysis["prometheus"] = json!({
        "scrapeInterval": "1s", "address": address,
        "headersFrom": {"secretRef": {"name": "prometheus-headers"}},
        "tls": {"caFrom": {"configMapKeyRef": {"name": "monitoring-ca", "key": "ca.crt"}}},
    });
    let spec = RolloutOptions {
        analysis: Some(analysis),
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    let wait_for_reason = async |reason: &str| {
        let has_reason =
            |rollout: &Rollout| metrics_failure_reason(rollout).as_deref() == Some(reason);
        shop.wait_until(
            &format!("{reason} is reported"),
            Duration::from_secs(120),
            has_reason,
        )
        .await
    };
    let secret = |token: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "prometheus-headers"},
            "stringData": {"Authorization": format!("Bearer {token}")},
        })
    };
    wait_for_reason("SecretNotFound").await?;
    shop.apply(secret("expired")).await?;
    wait_for_reason("ConfigMapNotFound").await?;
    let ca = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "monitoring-ca"},
        "data": {"ca.crt": authority.pem()},
    });
    shop.apply(ca).await?;
    let refused = wait_for_reason("Unauthorized").await?;
    ensure!(
        !format!("{refused:?}").contains("expired"),
        "the status must not contain the token"
    );
    shop.apply(secret("good")).await?;
    shop.wait_until("v2 is stable", Duration::from_secs(120), is_stable)
        .await?;
    task.abort();
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// # Errors
/// If an expectation is not met.
pub async fn a_mistyped_error_selector_holds_the_release(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-selector").await?;
    let counters = |code: &str| {
        let namespace = &shop.namespace;
        json!({
            "total": format!("http_requests_total{{namespace=\"{namespace}\"}}"),
            "errors": format!("http_requests_total{{namespace=\"{namespace}\",{code}}}"),
        })
    };
    let spec = |code: &str| {
        let mut analysis = analysis();
        let objective = &mut analysis["objectives"][0];
        objective
            .as_object_mut()
            .map(|objective| objective.remove("indicator"));
        objective["counters"] = counters(code);
        RolloutOptions {
            analysis: Some(analysis),
            ..RolloutOptions::default()
        }
    };
    let mistyped = spec("coed=~\"5..\"");
    shop.deploy_first(&mistyped, &SampleRelease::good("v1"))
        .await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    let stable = shop.status().await?.state.stable_revision;
    shop.apply_release(&mistyped, &SampleRelease::failing("v2", "30"))
        .await?;
    let is_reported = |rollout: &Rollout| {
        metrics_failure_reason(rollout).as_deref() == Some("UnverifiedSelector")
    };
    shop.wait_until(
        "UnverifiedSelector is reported",
        Duration::from_secs(120),
        is_reported,
    )
    .await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    ensure!(
        shop.status().await?.state.stable_revision == stable,
        "a release with a mistyped selector was promoted"
    );
    // With the correct selector, the analysis detects that v2 is bad. The edit alone counts from the
    // next release.
    shop.apply_release(&spec("code=~\"5..\""), &SampleRelease::failing("v2", "30"))
        .await?;
    let is_edited = |rollout: &Rollout| {
        let status = rollout.status.as_ref();
        let fixed = status.and_then(|status| status.state.release_analysis.as_ref());
        fixed.is_some_and(|fixed| fixed.edited)
    };
    shop.wait_until("the edit is reported", Duration::from_secs(30), is_edited)
        .await?;
    let adopt = ["override", "shop", "--adopt-analysis", "--reason", "typo"];
    let (code, text) = run_plugin(env, &shop, "kubectl-serin", &adopt).await?;
    ensure!(code == 0, "{text}");
    shop.wait_until(
        "v2 is rolled back",
        Duration::from_secs(120),
        crate::shop::is_aborted,
    )
    .await?;
    drop(load.stop().await);
    shop.delete().await
}
