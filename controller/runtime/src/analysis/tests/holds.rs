//! The causes that hold a release.

use super::*;
use serin_core::hold::HoldCode;
use serin_core::observed::ReportKind;
use serin_core::state::AbortCause;

#[tokio::test]
async fn every_query_error_holds_with_its_cause_until_it_is_resolved() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    let running = resume_at(&prometheus, &request(), 60).await;
    let undecided = |snapshot: &AnalysisSnapshot| {
        snapshot.report.kind() == ReportKind::Undecided && snapshot.checkpoint.is_some()
    };
    running.wait_until("evidence", undecided).await;
    for (mode, code, words) in [
        (Mode::Warns, HoldCode::Partial, "a store is away"),
        (Mode::Refuses, HoldCode::InvalidQuery, "parse error"),
        (Mode::Truncated, HoldCode::Malformed, "cannot be read"),
        (Mode::Hangs, HoldCode::Timeout, "no answer within"),
        (Mode::NotANumber, HoldCode::NotANumber, "not a count"),
    ] {
        prometheus.set_mode(mode);
        let message = running.wait_for_hold(code).await;
        assert!(message.contains(words), "{code}: {message}");
        prometheus.set_mode(Mode::Normal);
        running.wait_until("undecided again", undecided).await;
    }
}

#[tokio::test]
async fn no_data_stale_data_and_no_traffic_are_distinguished() {
    let empty = start_prometheus(&TrafficScenario::default()).await;
    empty.set_series(Vec::new());
    resume_at(&empty, &request(), 60)
        .await
        .wait_for_hold(HoldCode::NoData)
        .await;

    let stale = start_prometheus(&TrafficScenario {
        until_seconds: 30,
        ..TrafficScenario::default()
    })
    .await;
    resume_at(&stale, &request(), 90)
        .await
        .wait_for_hold(HoldCode::Stale)
        .await;

    let idle = start_prometheus(&TrafficScenario {
        canary: (0.0, 0.0),
        ..TrafficScenario::default()
    })
    .await;
    let message = resume_at(&idle, &request(), 90)
        .await
        .wait_for_hold(HoldCode::NoTraffic)
        .await;
    assert!(
        message.contains("No requests reached the canary"),
        "{message}"
    );
}

#[tokio::test]
async fn ambiguous_series_hold_and_name_the_other_route() {
    // traefik #10139: service names are joined with dashes, so they can be ambiguous.
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    let mut ambiguous = request();
    let mut other = ambiguous.rules.split[0].clone();
    other.route = "checkout-gw-infra-public-ep-x".to_owned();
    ambiguous.rules.others.push(other);
    let running = resume_at(&prometheus, &ambiguous, 60).await;
    let message = running.wait_for_hold(HoldCode::AmbiguousSeries).await;
    assert!(
        message.contains("HTTPRoute shop/checkout-gw-infra-public-ep-x"),
        "{message}"
    );
    assert!(
        running.snapshot().evidence[0].stable.requests < 1.0,
        "nothing of it is counted"
    );
    running.manager.start_or_update(request());
    running
        .wait_until("evidence", |snapshot| {
            snapshot.report.kind() == ReportKind::Undecided
        })
        .await;
}

#[tokio::test]
async fn a_gateway_scraped_by_two_jobs_is_counted_once() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    let single = resume_at(&prometheus, &request(), 60).await;
    single.wait_for_evidence_until(60).await;
    let twins = TrafficScenario::default()
        .series()
        .into_iter()
        .map(|mut series| {
            series
                .labels
                .insert("job".to_owned(), "kubernetes-pods".to_owned());
            series
        });
    prometheus.set_series(
        TrafficScenario::default()
            .series()
            .into_iter()
            .chain(twins)
            .collect(),
    );
    let twice = resume_at(&prometheus, &request(), 60).await;
    let counts = |snapshot: &AnalysisSnapshot| snapshot.evidence[0].stable.requests;
    twice.wait_for_evidence_until(60).await;
    let (single, twice) = (counts(&single.snapshot()), counts(&twice.snapshot()));
    assert!(
        single > 0.0 && (single - twice).abs() < 0.1 * single,
        "{single} and {twice}"
    );
}

/// The same counters, as an explicit objective with a label for the side.
fn explicit_objective(errors: &str) -> AnalysisRequest {
    let analysis = json!({
        "prometheus": {"scrapeInterval": "1s"},
        "objectives": [{"name": "availability", "objective": 99.9, "counters": {
            "total": "traefik_service_requests_total", "errors": errors,
            "variants": {"label": "service", "canary": ".*canary-.*", "stable": ".*checkout-[0-9]+@.*"}}}],
    });
    AnalysisRequest {
        analysis: serde_json::from_value(analysis).unwrap(),
        ..request()
    }
}

#[tokio::test]
async fn a_mistyped_error_selector_does_not_pass_as_error_free() {
    let scenario = TrafficScenario {
        canary: (60.0, 6.0),
        ..TrafficScenario::default()
    };
    let prometheus = start_prometheus(&scenario).await;
    let mistyped = explicit_objective("traefik_service_requests_total{code=~\"5xx\"}");
    let running = resume_at(&prometheus, &mistyped, 90).await;
    running.wait_for_hold(HoldCode::UnverifiedSelector).await;
    // The user fixes the selector, and evidence is accumulated again with the new query.
    running.manager.start_or_update(explicit_objective(
        "traefik_service_requests_total{code=~\"5..\"}",
    ));
    running
        .wait_until("a verdict", |snapshot| {
            snapshot.report.breach_cause() == Some(AbortCause::Evidence)
        })
        .await;
}

#[tokio::test]
async fn an_error_selector_that_matched_before_need_not_match_now() {
    let prometheus = start_prometheus(&TrafficScenario {
        canary: (60.0, 0.0),
        stable: (240.0, 0.0),
        ..TrafficScenario::default()
    })
    .await;
    prometheus.set_service(&[("total", 1e6), ("seen", 2.0), ("age0", 2.6e6)]);
    let running = resume_at(
        &prometheus,
        &explicit_objective("traefik_service_requests_total{code=~\"5..\"}"),
        90,
    )
    .await;
    running
        .wait_until("evidence", |snapshot| {
            snapshot.report.kind() == ReportKind::Undecided && snapshot.checkpoint.is_some()
        })
        .await;
}

#[tokio::test]
async fn an_invalid_query_and_a_missing_address_hold_immediately() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    let running = start_manager(&prometheus, start());
    running
        .manager
        .start_or_update(explicit_objective("rate(errors_total[5m])"));
    let message = running.wait_for_hold(HoldCode::InvalidQuery).await;
    assert!(
        message.contains("objectives[availability].counters.errors"),
        "{message}"
    );

    let mut deps = running.manager.inner.deps.clone();
    deps.servers = ServerResolver::new(unreachable_api_server(), None, RefreshIntervals::default());
    let dispatcher = Arc::new(Dispatcher::default());
    let manager = AnalysisManager::new(deps, Arc::new(Leadership::without_election()), dispatcher);
    let running = RunningManager { manager, ..running };
    running.manager.start_or_update(request());
    running.wait_for_hold(HoldCode::NotConfigured).await;
}
