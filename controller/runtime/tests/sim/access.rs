//! A Prometheus behind TLS and a token: the whole way from its Secret to the status. In real time,
//! since real sockets are asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::events::v1::Event;
use serde_json::json;
use serin_fake_cluster::World;
use serin_fake_cluster::tls::Authority;
use serin_metrics_analysis::prometheus::{HttpClient, Limits, Poller};
use serin_runtime::clock::Clock;
use serin_runtime::controller::{Controller, Parts};
use serin_runtime::election::Leadership;
use serin_runtime::judging::{Bench, Judges, Rereading, Servers};
use serin_runtime::telemetry::Metrics;
use serin_runtime::world::Key;

use crate::stage::*;

const TOKEN: &str = "Bearer s3cret";
const NOTHING: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;

/// Counts who knows the token; its address.
async fn prometheus(authority: &Authority, let_in: Arc<AtomicUsize>) -> String {
    let listener = authority.listen(false).await.unwrap();
    let url = listener.url().unwrap();
    let answer = async move |headers: HeaderMap| {
        if headers
            .get("authorization")
            .is_none_or(|given| given != TOKEN)
        {
            return (StatusCode::UNAUTHORIZED, "");
        }
        let_in.fetch_add(1, Ordering::Relaxed);
        (StatusCode::OK, NOTHING)
    };
    let router = Router::new().route("/api/v1/query", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// A controller that judges by what it reads itself.
fn judging(world: &World) {
    let metrics = Arc::new(Metrics::new());
    let clock = Clock::tokio_from(world.now());
    let rereading = Rereading {
        release: SECOND / 10,
        idle: SECOND / 10,
    };
    let bench = Bench {
        poller: Poller::new(
            HttpClient::new().unwrap(),
            Limits::default(),
            Arc::new(|_, _| {}),
        ),
        servers: Servers::new(world.client(), None, rereading),
        metrics: Arc::clone(&metrics),
        clock: clock.clone(),
    };
    let (judges, triggers) = Judges::new(bench, Leadership::always());
    let controller = Controller::new(Parts {
        client: world.client(),
        namespace: None,
        concurrency: 8,
        clock,
        leadership: Leadership::always(),
        metrics,
        judge: Arc::new(judges),
        judged: triggers
            .map(|rollout| Key::new(rollout.namespace, rollout.name))
            .boxed(),
        instance: "serin".to_owned(),
    });
    tokio::spawn(controller.run(std::future::pending(), SECOND));
}

/// Waits until the metrics are said to be in this trouble, or in none; the message.
async fn metrics_are(world: &World, reason: Option<&str>) -> String {
    let last = Mutex::new(None);
    let is_so = |world: &World| {
        let told = condition(world, "checkout", "MetricsReady");
        let is_so = told.as_ref().is_some_and(|(holds, said, _)| match reason {
            Some(reason) => holds == "False" && said == reason,
            None => !said.starts_with("Secret"),
        });
        *last.lock().unwrap() = told;
        is_so
    };
    let ended = world.until(is_so, MINUTE).await;
    assert!(ended.is_ok(), "not {reason:?} but {last:?}");
    last.into_inner()
        .unwrap()
        .map(|(.., message)| message)
        .unwrap_or_default()
}

#[tokio::test]
async fn a_rollout_waits_for_the_secret_of_its_prometheus_while_others_go_on() {
    // The other tests ask nobody by TLS.
    rustls::crypto::ring::default_provider()
        .install_default()
        .unwrap();
    let authority = Authority::new().unwrap();
    let let_in = Arc::new(AtomicUsize::new(0));
    let address = prometheus(&authority, Arc::clone(&let_in)).await;
    let world = World::new(51);
    world.tune(|tuning| (tuning.pods_ready, tuning.pods_stop) = (SECOND / 20, SECOND / 20));
    with_route(&world, "checkout");
    judging(&world);
    let put = |kind: &str, name: &str, data: serde_json::Value| {
        let metadata = json!({"name": name, "namespace": SHOP});
        apply(
            &world,
            json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": data}),
        );
    };
    put(
        "ConfigMap",
        "monitoring-ca",
        json!({"ca.crt": authority.pem()}),
    );
    for version in ["v1", "v2"] {
        let mut rollout = judged(
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
        apply(&world, rollout);
        apply(&world, plain("other", version, 2, json!([])));
        healthy(&world, "other", version).await;
        if version == "v1" {
            healthy(&world, "checkout", version).await;
        }
    }
    let message = metrics_are(&world, Some("SecretNotFound")).await;
    assert!(
        message.contains("Secret shop/prometheus-headers (spec.analysis.prometheus.headersFrom)"),
        "{message}"
    );
    assert_eq!(let_in.load(Ordering::Relaxed), 0);

    put(
        "Secret",
        "prometheus-headers",
        json!({"Authorization": ByteString(TOKEN.into())}),
    );
    metrics_are(&world, None).await;
    assert!(let_in.load(Ordering::Relaxed) > 0, "what opens it is sent");
    let told = format!(
        "{:?} {:?}",
        world.get_json("rollouts", SHOP, "checkout"),
        world.objects::<Event>()
    );
    assert!(
        told.contains("checkout") && !told.contains("s3cret"),
        "{told}"
    );
}
