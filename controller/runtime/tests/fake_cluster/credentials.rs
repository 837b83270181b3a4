//! Prometheus with TLS and a bearer token, from its Secret to the status. Runs in real time,
//! because it uses real sockets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use k8s_openapi::ByteString;
use k8s_openapi::api::events::v1::Event;
use serde_json::json;
use serin_fake_cluster::FakeCluster;
use serin_fake_cluster::certificates::CertificateAuthority;
use serin_metrics_analysis::http_probe::{HttpProber, ProbeLimits};
use serin_metrics_analysis::prometheus::{AllowedAddress, HttpClient, Limits, Poller};
use serin_runtime::analysis::{AnalysisDeps, AnalysisManager, RefreshIntervals, ServerResolver};
use serin_runtime::clock::Clock;
use serin_runtime::controller::{Controller, ControllerDeps};
use serin_runtime::dispatcher::Dispatcher;
use serin_runtime::election::Leadership;
use serin_runtime::image_registry::NoImageRegistry;
use serin_runtime::probes::Probes;
use serin_runtime::reconcile::Safeguards;
use serin_runtime::telemetry::Metrics;
use tokio::task::AbortHandle;

use crate::fixtures::*;
use crate::harness::*;

const TOKEN: &str = "Bearer s3cret";
const EMPTY_RESULT: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;

/// Starts a Prometheus that counts the requests with the right token. Returns its address.
async fn prometheus(
    authority: &CertificateAuthority,
    authorized_requests: Arc<AtomicUsize>,
) -> String {
    let listener = authority.listen(false).await.unwrap();
    let url = listener.url().unwrap();
    let answer = async move |headers: HeaderMap| {
        if headers
            .get("authorization")
            .is_none_or(|given| given != TOKEN)
        {
            return (StatusCode::UNAUTHORIZED, "");
        }
        authorized_requests.fetch_add(1, Ordering::Relaxed);
        (StatusCode::OK, EMPTY_RESULT)
    };
    let router = Router::new().route("/api/v1/query", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Installs the TLS provider of this process, unless another test has done so.
pub fn install_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Starts a controller with the real analysis, which may query Prometheus on the loopback interface.
pub fn start_analyzing_controller(cluster: &FakeCluster, limits: Limits) -> AbortHandle {
    let metrics = Arc::new(Metrics::new());
    let clock = Clock::tokio_from(cluster.now());
    let refresh_intervals = RefreshIntervals {
        release: SECOND / 10,
        idle: SECOND / 10,
    };
    let loopback: Vec<AllowedAddress> = ["http://127.0.0.1", "https://127.0.0.1"]
        .map(|address| address.parse().unwrap())
        .into();
    let servers = ServerResolver::new(cluster.client(), None, refresh_intervals)
        .with_allowed_addresses(loopback.clone());
    let http = HttpClient::new().unwrap();
    let prober = HttpProber::new(http.clone(), loopback, ProbeLimits::default());
    let deps = AnalysisDeps {
        poller: Poller::new(http, limits, Arc::new(|_, _| {})),
        probes: Probes::new(cluster.client(), prober, servers.clone(), clock.clone()),
        servers,
        metrics: Arc::clone(&metrics),
        clock: clock.clone(),
    };
    let dispatcher = Arc::new(Dispatcher::default());
    let manager = AnalysisManager::new(
        deps,
        Arc::new(Leadership::without_election()),
        Arc::clone(&dispatcher),
    );
    let controller = Controller::new(ControllerDeps {
        client: cluster.client(),
        namespaces: Vec::new(),
        concurrency: 8,
        clock,
        ownership: Arc::new(Leadership::without_election()),
        metrics,
        analyzer: Arc::new(manager),
        registry: Arc::new(NoImageRegistry),
        dispatcher,
        admission_policy: None,
        safeguards: Safeguards::default(),
        instance: "serin".to_owned(),
    });
    tokio::spawn(controller.run(std::future::pending(), SECOND)).abort_handle()
}

/// Waits until the condition `MetricsReady` has this reason, or no `Secret` reason if `None`.
/// Returns the message.
async fn wait_for_metrics_reason(cluster: &FakeCluster, reason: Option<&str>) -> String {
    let last = Mutex::new(None);
    let matches_reason = |cluster: &FakeCluster| {
        let current = condition(cluster, "checkout", "MetricsReady");
        let matches_reason =
            current
                .as_ref()
                .is_some_and(|(status, current_reason, _)| match reason {
                    Some(reason) => status == "False" && current_reason == reason,
                    None => !current_reason.starts_with("Secret"),
                });
        *last.lock().unwrap() = current;
        matches_reason
    };
    let result = cluster.wait_until(matches_reason, MINUTE).await;
    assert!(result.is_ok(), "not {reason:?} but {last:?}");
    last.into_inner()
        .unwrap()
        .map(|(.., message)| message)
        .unwrap_or_default()
}

#[tokio::test]
async fn a_rollout_waits_for_its_prometheus_secret_while_others_proceed() {
    install_tls();
    let authority = CertificateAuthority::new().unwrap();
    let authorized_requests = Arc::new(AtomicUsize::new(0));
    let address = prometheus(&authority, Arc::clone(&authorized_requests)).await;
    let cluster = FakeCluster::new(51);
    cluster.tune(|tuning| (tuning.pods_ready, tuning.pods_stop) = (SECOND / 20, SECOND / 20));
    create_route(&cluster, "checkout");
    start_analyzing_controller(&cluster, Limits::default());
    let apply_data_object = |kind: &str, name: &str, data: serde_json::Value| {
        let metadata = json!({"name": name, "namespace": SHOP});
        apply(
            &cluster,
            json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": data}),
        );
    };
    apply_data_object(
        "ConfigMap",
        "monitoring-ca",
        json!({"ca.crt": authority.pem()}),
    );
    for version in ["v1", "v2"] {
        let mut rollout = analyzed_rollout(
            "checkout",
            version,
            2,
            json!([{"setWeight": 20}, {"pause": {}}]),
        );
        rollout["spec"]["analysis"]["prometheus"] = json!({
            "address": address, "scrapeInterval": "1s",
            "headersFrom": {"secretRef": {"name": "prometheus-headers"}},
            "tls": {"caFrom": {"configMapKeyRef": {"name": "monitoring-ca", "key": "ca.crt"}}},
        });
        apply(&cluster, rollout);
        apply(&cluster, unrouted_rollout("other", version, 2, json!([])));
        wait_until_healthy(&cluster, "other", version).await;
        if version == "v1" {
            wait_until_healthy(&cluster, "checkout", version).await;
        }
    }
    let message = wait_for_metrics_reason(&cluster, Some("SecretNotFound")).await;
    assert!(
        message.contains("Secret shop/prometheus-headers (spec.analysis.prometheus.headersFrom)"),
        "{message}"
    );
    assert_eq!(authorized_requests.load(Ordering::Relaxed), 0);

    apply_data_object(
        "Secret",
        "prometheus-headers",
        json!({"Authorization": ByteString(TOKEN.into())}),
    );
    wait_for_metrics_reason(&cluster, None).await;
    assert!(
        authorized_requests.load(Ordering::Relaxed) > 0,
        "the token is sent"
    );
    let visible = format!(
        "{:?} {:?}",
        cluster.get_json("rollouts", SHOP, "checkout"),
        cluster.objects::<Event>()
    );
    assert!(
        visible.contains("checkout") && !visible.contains("s3cret"),
        "{visible}"
    );
}
