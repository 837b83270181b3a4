//! The addresses that Rollouts may use, and the series that they may read.

use serin_metrics_analysis::prometheus::Labels;

use super::*;

fn with_address(url: &str) -> AnalysisRequest {
    let mut request = request();
    request.analysis.prometheus.as_mut().unwrap().address = Some(url.to_owned());
    request
}

fn start_with_list(prometheus: &ScriptedPrometheus, allowed: &[&str]) -> RunningManager {
    let allowed = allowed.iter().map(|address| address.parse().unwrap());
    let servers = ServerResolver::new(unreachable_api_server(), None, RefreshIntervals::default())
        .with_allowed_addresses(allowed.collect());
    start_with_servers(prometheus, start(), Limits::default(), servers)
}

#[tokio::test]
async fn an_address_that_is_not_allowed_is_never_queried() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    let running = start_with_list(&prometheus, &["https://127.0.0.1", "http://mimir.example"]);
    running
        .manager
        .start_or_update(with_address(&prometheus.url));
    let message = running.wait_for_hold(HoldCode::InvalidSpec).await;
    assert!(
        message.contains("--prometheus-allowed-address") && message.contains(&prometheus.url),
        "{message}"
    );
    assert!(prometheus.queried_at_ms().is_empty());
}

#[tokio::test]
async fn a_loopback_address_is_refused_unless_the_installer_lists_it() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    let running = start_with_list(&prometheus, &[]);
    running
        .manager
        .start_or_update(with_address(&prometheus.url));
    let message = running.wait_for_hold(HoldCode::Unreachable).await;
    assert!(message.contains("a loopback address"), "{message}");
    assert!(prometheus.queried_at_ms().is_empty());
    let running = start_with_list(&prometheus, &[&prometheus.url]);
    running
        .manager
        .start_or_update(with_address(&prometheus.url));
    running.wait_for_evidence_until(1).await;
}

/// The series of the scenario, scraped in this namespace.
async fn prometheus_of(namespace: &str) -> ScriptedPrometheus {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    let mut series = TrafficScenario::default().series();
    let label = |labels: &mut Labels| labels.insert("namespace".into(), namespace.into());
    for series in &mut series {
        label(&mut series.labels);
    }
    prometheus.set_series(series);
    prometheus
}

#[tokio::test]
async fn a_rollout_reads_only_series_of_its_namespace_from_the_default_server() {
    let start_limited = |prometheus: &ScriptedPrometheus| {
        let servers = servers(&prometheus.url)
            .with_allowed_addresses(loopback())
            .with_namespace_label(Some("namespace".to_owned()));
        start_with_servers(prometheus, start(), Limits::default(), servers)
    };
    let (own, other) = (prometheus_of("shop").await, prometheus_of("payroll").await);
    let running = start_limited(&own);
    running.manager.start_or_update(request());
    running.wait_for_evidence_until(1).await;

    let running = start_limited(&other);
    running.manager.start_or_update(request());
    running.wait_for_hold(HoldCode::NoData).await;
    // The owner of another server decides itself what its clients may read.
    let running = start_limited(&other);
    running.manager.start_or_update(with_address(&other.url));
    running.wait_for_evidence_until(1).await;
}
