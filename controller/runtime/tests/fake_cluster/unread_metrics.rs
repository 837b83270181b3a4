//! A Prometheus that does not answer. Runs in real time, because it uses real sockets.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::routing::post;
use serde_json::json;
use serin_fake_cluster::FakeCluster;
use serin_metrics_analysis::prometheus::Limits;

use crate::credentials::{install_tls, start_analyzing_controller};
use crate::fixtures::*;
use crate::harness::*;

/// Starts a Prometheus that accepts queries, counts them and never answers. Returns its address.
async fn start_hanging_prometheus(queries: Arc<AtomicUsize>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let hang = async move || {
        queries.fetch_add(1, Ordering::SeqCst);
        pending::<()>().await;
    };
    let router = Router::new().route("/api/v1/query", post(hang));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Whether the condition `MetricsReady` reports the timeout.
fn is_timeout_reported(cluster: &FakeCluster) -> bool {
    condition(cluster, "checkout", "MetricsReady")
        .is_some_and(|(status, reason, _)| status == "False" && reason == "Timeout")
}

#[tokio::test]
async fn no_step_completes_before_the_metrics_are_read_also_not_by_a_restart() {
    install_tls();
    let queries = Arc::new(AtomicUsize::new(0));
    let address = start_hanging_prometheus(Arc::clone(&queries)).await;
    let cluster = FakeCluster::new(52);
    cluster.tune(|tuning| (tuning.pods_ready, tuning.pods_stop) = (SECOND / 20, SECOND / 20));
    create_route(&cluster, "checkout");
    let limits = Limits {
        poll_timeout: SECOND * 3,
        ..Limits::default()
    };
    let controller = start_analyzing_controller(&cluster, limits);
    let steps = json!([{"setWeight": 20}, {"pause": {"duration": "1s"}}, {"setWeight": 50}, {"pause": {"duration": "1s"}}]);
    for version in ["v1", "v2"] {
        let mut rollout = analyzed_rollout("checkout", version, 2, steps.clone());
        rollout["spec"]["analysis"]["warmUp"] = json!("0s");
        rollout["spec"]["analysis"]["prometheus"] =
            json!({"address": address, "scrapeInterval": "1s"});
        apply(&cluster, rollout);
        if version == "v1" {
            wait_until_healthy(&cluster, "checkout", version).await;
        }
    }
    cluster
        .wait_until(is_timeout_reported, MINUTE)
        .await
        .unwrap();
    let is_held = |cluster: &FakeCluster| {
        let state = status(cluster, "checkout").state;
        is_timeout_reported(cluster) && state.step.is_some_and(|step| step.index == 0)
    };
    assert!(is_held(&cluster), "{}", position(&cluster, "checkout"));

    controller.abort();
    let before = queries.load(Ordering::SeqCst);
    start_analyzing_controller(&cluster, limits);
    let is_asked_again = |_: &FakeCluster| queries.load(Ordering::SeqCst) > before;
    cluster.wait_until(is_asked_again, MINUTE).await.unwrap();
    // The answer of the first query of the new process is still awaited for most of this time.
    let kept = cluster.holds_for(is_held, SECOND * 4).await;
    assert!(kept.is_ok(), "{kept:?}: {}", position(&cluster, "checkout"));
}
