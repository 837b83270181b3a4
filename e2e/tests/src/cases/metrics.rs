//! Trouble with the metrics: each held under its own name, never promoted, and resumed by itself.

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
use serin_fake_cluster::tls::Authority;

use crate::env::Env;
use crate::manifests::{Release, Spec, analysis};
use crate::note;
use crate::shop::{Shop, is_stable, stop_without_loss};

const LOAD_PER_SECOND: u32 = 150;

/// How a Prometheus fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Trouble {
    None,
    Refusing,
    Slow,
    Empty,
    NotANumber,
    Partial,
    Garbage,
}

impl Trouble {
    const ALL: [Self; 7] = [
        Self::None,
        Self::Refusing,
        Self::Slow,
        Self::Empty,
        Self::NotANumber,
        Self::Partial,
        Self::Garbage,
    ];

    fn of(number: u8) -> Self {
        Self::ALL
            .into_iter()
            .find(|trouble| *trouble as u8 == number)
            .unwrap_or(Self::None)
    }
}

/// A stand-in before the real Prometheus: passes its answers on, but for the fault that is set.
struct Proxy {
    upstream: String,
    trouble: AtomicU8,
    /// Who does not send this in `Authorization` is not let in.
    wanted: Option<&'static str>,
    http: reqwest::Client,
}

impl Proxy {
    /// Serves on a free port of the loopback until the returned task is dropped.
    async fn serve(upstream: &str) -> Result<(Arc<Self>, String, tokio::task::JoinHandle<()>)> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let (proxy, task) = Self::serve_by(upstream, listener, None)?;
        Ok((proxy, address, task))
    }

    fn serve_by(
        upstream: &str,
        listener: impl Listener<Addr: Debug>,
        wanted: Option<&'static str>,
    ) -> Result<(Arc<Self>, tokio::task::JoinHandle<()>)> {
        let http = reqwest::Client::builder().no_gzip().build()?;
        let proxy = Arc::new(Self {
            upstream: upstream.to_owned(),
            trouble: AtomicU8::new(0),
            wanted,
            http,
        });
        let router = Router::new().fallback(Self::pass).with_state(proxy.clone());
        let task = tokio::spawn(async move {
            let _ended = axum::serve(listener, router).await;
        });
        Ok((proxy, task))
    }

    fn set(&self, trouble: Trouble) {
        self.trouble.store(trouble as u8, Ordering::SeqCst);
    }

    async fn pass(State(proxy): State<Arc<Self>>, request: Request) -> Response {
        let trouble = Trouble::of(proxy.trouble.load(Ordering::SeqCst));
        let sent = request
            .headers()
            .get("authorization")
            .map(HeaderValue::as_bytes);
        if proxy
            .wanted
            .is_some_and(|wanted| sent != Some(wanted.as_bytes()))
        {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        match trouble {
            Trouble::Refusing => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
            Trouble::Slow => tokio::time::sleep(Duration::from_secs(30)).await,
            _ => {}
        }
        match proxy.ask(request).await {
            Ok(answer) => spoil(answer, trouble),
            Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        }
    }

    async fn ask(&self, request: Request) -> Result<String> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let body = axum::body::to_bytes(body, 1 << 20).await?;
        let mut asked = self
            .http
            .request(parts.method, format!("{}{path}", self.upstream))
            .body(body);
        if let Some(kind) = parts.headers.get("content-type") {
            asked = asked.header("content-type", kind);
        }
        Ok(asked.send().await?.text().await?)
    }
}

fn spoil(answer: String, trouble: Trouble) -> Response {
    let json_body =
        |value: &Value| ([("content-type", "application/json")], value.to_string()).into_response();
    let Ok(mut value) = serde_json::from_str::<Value>(&answer) else {
        return answer.into_response();
    };
    match trouble {
        Trouble::Empty => value["data"]["result"] = json!([]),
        Trouble::Partial => {
            value["warnings"] = json!(["one store did not answer: the result is partial"])
        }
        Trouble::NotANumber => {
            for series in value["data"]["result"].as_array_mut().into_iter().flatten() {
                for sample in series["values"].as_array_mut().into_iter().flatten() {
                    sample[1] = json!("NaN");
                }
                if series["value"].is_array() {
                    series["value"][1] = json!("NaN");
                }
            }
        }
        Trouble::Garbage => return Body::from("{\"status\":\"succ").into_response(),
        Trouble::None | Trouble::Refusing | Trouble::Slow => {}
    }
    json_body(&value)
}

/// The reason of the condition that tells why the metrics cannot be used; none where they can.
fn trouble_told(rollout: &Rollout) -> Option<String> {
    let conditions = &rollout.status.as_ref()?.conditions;
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == "MetricsReady")?;
    (condition.status == "False").then(|| condition.reason.clone())
}

/// # Errors
/// When something is not as promised.
pub async fn trouble_with_prometheus_holds_and_resumes(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-metrics").await?;
    let (proxy, address, task) = Proxy::serve(&env.prometheus_url).await?;
    let mut analysis = analysis();
    analysis["prometheus"]["address"] = json!(address);
    let steps = json!([{"setWeight": 20}, {"pause": {"duration": "1s"}}, {"setWeight": 50}, {"pause": {"duration": "1s"}}]);
    let spec = Spec {
        analysis: Some(analysis),
        steps: Some(steps),
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v0")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    let troubles = [
        (Trouble::Refusing, vec!["Unreachable"]),
        (Trouble::Slow, vec!["Unreachable", "Timeout"]),
        (Trouble::Empty, vec!["NoData", "Stale"]),
        (Trouble::NotANumber, vec!["NotANumber"]),
        (Trouble::Partial, vec!["Partial", "PartialData"]),
        (Trouble::Garbage, vec!["Malformed", "Unreachable"]),
    ];
    for (number, (trouble, names)) in troubles.iter().enumerate() {
        proxy.set(*trouble);
        let stable = shop.status().await?.stable_revision;
        shop.declare(&spec, &Release::good(&format!("v{}", number + 1)))
            .await?;
        let told = |rollout: &Rollout| {
            trouble_told(rollout).is_some_and(|reason| names.contains(&reason.as_str()))
        };
        let held = shop
            .until(
                &format!("{trouble:?} is told as one of {names:?}"),
                Duration::from_secs(120),
                told,
            )
            .await?;
        // Long enough for both steps and their pauses, were they not held.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let rollout = shop.rollout().await?;
        let status = rollout.status.clone().context("a status")?;
        ensure!(
            status.stable_revision == stable,
            "{trouble:?}: promoted without metrics"
        );
        ensure!(
            told(&rollout),
            "{trouble:?}: still told: {:?}",
            trouble_told(&rollout)
        );
        note!(
            "{trouble:?}: {}: {}",
            trouble_told(&held).unwrap_or_default(),
            status.message.unwrap_or_default()
        );
        proxy.set(Trouble::None);
        shop.until(
            &format!("it goes on after {trouble:?}"),
            Duration::from_secs(120),
            is_stable,
        )
        .await?;
    }
    task.abort();
    stop_without_loss(load).await?;
    shop.close().await
}

/// # Errors
/// When something is not as promised.
pub async fn a_prometheus_behind_tls_and_a_token_is_asked_with_what_a_secret_holds(
    env: &Env,
) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-access").await?;
    let authority = Authority::new()?;
    let listener = authority.listen(false).await?;
    let address = listener.url()?;
    let (_proxy, task) = Proxy::serve_by(&env.prometheus_url, listener, Some("Bearer good"))?;
    let mut analysis = analysis();
    analysis["prometheus"] = json!({
        "scrapeInterval": "1s", "address": address,
        "headersFrom": {"secretRef": {"name": "prometheus-headers"}},
        "tls": {"caFrom": {"configMapKeyRef": {"name": "monitoring-ca", "key": "ca.crt"}}},
    });
    let spec = Spec {
        analysis: Some(analysis),
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    shop.declare(&spec, &Release::good("v2")).await?;
    let told = async |reason: &str| {
        let is_told = |rollout: &Rollout| trouble_told(rollout).as_deref() == Some(reason);
        shop.until(
            &format!("{reason} is told"),
            Duration::from_secs(120),
            is_told,
        )
        .await
    };
    let secret = |token: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "prometheus-headers"},
            "stringData": {"Authorization": format!("Bearer {token}")},
        })
    };
    told("SecretNotFound").await?;
    shop.apply(secret("expired")).await?;
    told("ConfigMapNotFound").await?;
    let ca = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "monitoring-ca"},
        "data": {"ca.crt": authority.pem()},
    });
    shop.apply(ca).await?;
    let refused = told("Unauthorized").await?;
    ensure!(
        !format!("{refused:?}").contains("expired"),
        "a token is nobody's to read"
    );
    shop.apply(secret("good")).await?;
    shop.until("v2 is stable", Duration::from_secs(120), is_stable)
        .await?;
    task.abort();
    stop_without_loss(load).await?;
    shop.close().await
}

/// # Errors
/// When something is not as promised.
pub async fn a_mistyped_error_selector_holds(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-selector").await?;
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
        Spec {
            analysis: Some(analysis),
            ..Spec::default()
        }
    };
    let mistyped = spec("coed=~\"5..\"");
    shop.first(&mistyped, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    let stable = shop.status().await?.stable_revision;
    shop.declare(&mistyped, &Release::failing("v2", "30"))
        .await?;
    let told = |rollout: &Rollout| trouble_told(rollout).as_deref() == Some("UnverifiedSelector");
    shop.until("it is told", Duration::from_secs(120), told)
        .await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    ensure!(
        shop.status().await?.stable_revision == stable,
        "a mistyped selector read as a perfect release"
    );
    // Put right, it judges: v2 is bad.
    shop.declare(&spec("code=~\"5..\""), &Release::failing("v2", "30"))
        .await?;
    shop.until(
        "v2 is rolled back",
        Duration::from_secs(120),
        crate::shop::is_aborted,
    )
    .await?;
    drop(load.stop().await);
    shop.close().await
}
